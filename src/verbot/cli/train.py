"""Commands that make a policy, from demonstrations or from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tyro.conf import Positional

from verbot.cli.terminal import given, show, typed


def demo(out: Path = Path("outputs/demo"), recipe: str = "starter", seed: int | None = None) -> int:
    """From nothing to a robot that obeys: gather demonstrations, train, evaluate, report.

    Example: verbot demo --out outputs/demo

    Args:
        out: gets dataset, policy, evaluation, report.html and timing.json. An interrupted demo continues.
        recipe: what to collect and train, see `verbot list recipes`; or a recipe.yaml.
        seed: of everything; otherwise the recipe's own.
    """
    from verbot.workflows import demo as whole

    summary = whole.demo(out, recipe, seed, command=typed())
    show(summary)
    seconds = whole.timing(out)
    print(", ".join(f"{stage} {seconds[stage]:.0f} s" for stage in whole.STAGES))
    print(out / "report.html")
    return summary.exit_code


def train(
    recipe: Positional[str] = "starter",
    data: tuple[Path, ...] = (),
    out: Path = Path("outputs/run"),
    start: Path | None = None,
    minutes: float | None = None,
    samples: int | None = None,
    steps: int | None = None,
    set: tuple[str, ...] = (),
    seed: int | None = None,
) -> int:
    """Train a policy by a recipe. An interrupted run continues, to the bit.

    Example: verbot train starter --data outputs/demo/dataset --out outputs/run --minutes 6 --set batch_size=128

    Args:
        recipe: a name, see `verbot list recipes`; a design (RECIPE+field=value); or a recipe.yaml.
        data: folders of episodes; without any the recipe's own demonstrations are collected first.
        out: gets policy, config.yaml, log.jsonl and result.json.
        start: a policy's folder, or starter: training begins with it, and with its network, in place of a new one.
        minutes: of training, instead of the recipe's budget.
        samples: to train on, instead of the recipe's budget.
        steps: of the optimizer, instead of the recipe's budget.
        set: other fields, each as name=value; a dot reaches into nested ones (augment.relabel=0.5).
        seed: of everything; otherwise the recipe's own.
    """
    from verbot.configuration import assignments, nested
    from verbot.training.distributed.launch import launched
    from verbot.workflows.train_evaluate import train as run

    budget = given(minutes=minutes, samples=samples, steps=steps, start=None if start is None else str(start))
    result = run(recipe, out=out, data=data or None, seed=seed, **budget, **nested(assignments(set)))
    speed = f"{result.samples} samples in {result.seconds:.0f} s ({result.samples_per_s:.0f}/s)"
    if (launch := launched()) is None or launch.rank == 0:
        print(f"{result.steps} steps, {speed}, {result.skipped} skipped: {result.policy}")
    return 0


def reinforce(
    recipe: Positional[str] = "starter-ppo",
    out: Path = Path("outputs/reinforced"),
    policy: Path | None = None,
    steps: int | None = None,
    set: tuple[str, ...] = (),
    seed: int | None = None,
) -> int:
    """Train a policy by trying: proximal policy optimization, from nothing or from a policy. Goes on where it was interrupted.

    Example: verbot reinforce starter-ppo --policy outputs/demo/policy --out outputs/reinforced

    Args:
        recipe: a name, see `verbot list reinforcement`; or a YAML file of one.
        out: gets policy, config.yaml, log.jsonl and result.json.
        policy: to begin with, instead of the recipe's.
        steps: control steps in all, instead of the recipe's.
        set: other fields, each as name=value (learning_rate=1e-4).
        seed: of everything; otherwise the recipe's own.
    """
    from verbot.configuration import assignments, nested
    from verbot.workflows.reinforce import reinforce as run

    begin: dict[str, Any] = {} if policy is None else {"policy": str(policy)}
    result = run(recipe, out=out, seed=seed, **begin, **given(steps=steps), **nested(assignments(set)))
    success = "none has ended" if result.success is None else f"{100 * result.success:.0f} % of the last succeeded"
    print(f"{result.steps} steps and {result.episodes} episodes in {result.seconds:.0f} s; {success}: {result.policy}")
    return 1 if result.errors else 0
