"""Commands that train a policy or print its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tyro.conf import Positional

from verbot.cli.options import BUDGET, DEMONSTRATIONS, BudgetOptions, DemonstrationOptions
from verbot.cli.terminal import given, show, typed


def demo_command(out: Path = Path("outputs/demo"), recipe: str = "starter", seed: int | None = None) -> int:
    """Run a whole recipe: collect demonstrations, train, evaluate, report.

    Example: verbot demo --out outputs/demo

    Args:
        out: gets dataset, policy, evaluation, report.html and timing.json. An interrupted demo continues.
        recipe: a name, see `verbot list recipes`; or a recipe.yaml.
        seed: the seed of the whole run; otherwise that of the recipe.
    """
    from verbot.workflows import demo as whole

    summary = whole.demo(out, recipe, seed, command=typed())
    show(summary)
    seconds = whole.timing(out)
    print(", ".join(f"{stage} {seconds[stage]:.0f} s" for stage in whole.STAGES))
    print(out / "report.html")
    return summary.exit_code


def train_command(
    recipe: Positional[str] = "starter",
    demonstrations: DemonstrationOptions = DEMONSTRATIONS,
    out: Path = Path("outputs/run"),
    init_from: Path | None = None,
    cache: Path | None = None,
    budget: BudgetOptions = BUDGET,
    set: tuple[str, ...] = (),
    seed: int | None = None,
) -> int:
    """Train a policy by a recipe, from demonstrations or from rewards. An interrupted run continues.

    Example: verbot train starter --data outputs/demo/dataset --out outputs/run --minutes 6 --set batch_size=128

    Args:
        recipe: a name, see `verbot list recipes`; a name with settings (RECIPE+field=value); or a recipe.yaml.
        out: gets policy, config.yaml, log.jsonl and result.json.
        init_from: a policy's folder, or starter, to fine-tune instead of training a new network.
        cache: folder of decoded frames, instead of the dataset's own or VERBOT_CACHE.
        set: settings, each as name=value, e.g. learning_rate=1e-3 vision=vit vision.depth=3 augment.relabel=0.5; see
            `verbot config RECIPE --fields`.
        seed: the seed of the whole run; otherwise that of the recipe.
    """
    from verbot.training.distributed.launch import launched
    from verbot.workflows.train_evaluate import exit_code, result_text
    from verbot.workflows.train_evaluate import train as run

    folders = {"init_from": init_from, "data.cache": cache}
    settings = budget.settings() | demonstrations.settings()
    settings |= given(**{name: None if path is None else str(path) for name, path in folders.items()}) | _assigned(set)
    result = run(recipe, out=out, data=demonstrations.data or None, seed=seed, **settings)
    if (launch := launched()) is None or launch.rank == 0:
        print(result_text(result))
    return exit_code(result)


def _assigned(words: tuple[str, ...]) -> dict[str, Any]:
    """The settings of `verbot train`. Raises `ConfigError` for one that has an option of its own."""
    from verbot.configuration import assignments
    from verbot.errors import ConfigError

    found = assignments(words)
    for name, option in {"seed": "--seed", "out": "--out", "data": "--data, or its fields, as in data.batch_size=64"}.items():
        if name in found:
            raise ConfigError(f"--set {name}=… does not apply: give {option}")
    if unknown := [name for name in found if name in ("recipe", "embodiments", "resume", "progress")]:
        raise ConfigError(f"there is no setting {unknown[0]!r}; `verbot config RECIPE --fields` lists them")
    return found


def config_command(
    recipe: Positional[str] = "starter", set: tuple[str, ...] = (), seed: int | None = None, fields: bool = False
) -> int:
    """Print a recipe's complete configuration as YAML, which `verbot train` reads.

    Example: verbot config starter --set vision=vit vision.depth=3 learning_rate=1e-3

    Args:
        recipe: a name, see `verbot list recipes`; a name with settings (RECIPE+field=value); or a recipe.yaml.
        set: settings, each as name=value, as in `verbot train`.
        seed: the seed of the whole run; otherwise that of the recipe.
        fields: print what each field means instead.
    """
    from verbot.configuration import assignments
    from verbot.recipes.config import resolve
    from verbot.workflows.show_config import config_text, field_table

    print(field_table(resolve(recipe, assignments(set), seed)) if fields else config_text(recipe, assignments(set), seed))
    return 0


def reinforce_command(
    recipe: Positional[str] = "starter-ppo",
    out: Path = Path("outputs/reinforced"),
    policy: Path | None = None,
    steps: int | None = None,
    set: tuple[str, ...] = (),
    seed: int | None = None,
) -> int:
    """The former name of `verbot train`, for recipes that learn from rewards.

    Example: verbot reinforce starter-ppo --policy outputs/demo/policy --out outputs/reinforced

    Args:
        recipe: a name, see `verbot list recipes`; or a YAML file of one.
        out: gets policy, config.yaml, log.jsonl and result.json.
        policy: to start from, instead of the recipe's.
        steps: control steps in all, instead of the recipe's.
        set: other settings, each as name=value (learning_rate=1e-4).
        seed: the seed of the whole run; otherwise that of the recipe.
    """
    return train_command(recipe, DEMONSTRATIONS, out, policy, None, BudgetOptions(steps=steps), set, seed)
