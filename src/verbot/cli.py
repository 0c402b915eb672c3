"""The command ``verbot``. The only file that knows everything; each command imports what it needs when it runs."""

from __future__ import annotations

import difflib
import importlib
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from verbot.errors import ConfigError, VerbotError, missing

if TYPE_CHECKING:
    from verbot.evaluation import Summary

# `verbot list` KIND: where its registry lives.
REGISTRIES = {
    "envs": "verbot.envs:envs",
    "recipes": "verbot.recipes:recipes",
    "vision-encoders": "verbot.models.parts:vision_encoders",
    "language-encoders": "verbot.models.parts:language_encoders",
    "state-encoders": "verbot.models.parts:state_encoders",
    "fusions": "verbot.models.parts:fusions",
    "heads": "verbot.models.parts:heads",
}
Kind = Literal["envs", "recipes", "vision-encoders", "language-encoders", "state-encoders", "fusions", "heads"]
Mode = Literal["canonical", "paraphrase", "blank", "counterfactual", "composition"]
SUITE, COMPARED = "tabletop-starter", Path("outputs/compare")
Axis = Literal["positions", "lighting", "appearance", "camera", "distractors", "robot_start", "sensor_noise", "dynamics"]


def demo(out: Path = Path("outputs/demo"), recipe: str = "starter", seed: int | None = None) -> int:
    """From nothing to a robot that obeys: gather demonstrations, train, evaluate, report.

    Example: verbot demo --out outputs/demo

    Args:
        out: gets dataset, policy, evaluation, report.html and timing.json. An interrupted demo continues.
        recipe: what to collect and train, see `verbot list recipes`; or a recipe.yaml.
        seed: of everything; otherwise the recipe's own.
    """
    from verbot.recipes import demo as whole

    summary = whole.demo(out, recipe, seed, command=_typed())
    _show(summary)
    seconds = whole.timing(out)
    print(", ".join(f"{stage} {seconds[stage]:.0f} s" for stage in whole.STAGES))
    print(out / "report.html")
    return summary.exit_code


def collect(
    out: Positional[Path],
    suite: str = "tabletop-starter",
    episodes: int = 1600,
    seed: int = 0,
    noise: float = 0.15,
    tasks: tuple[str, ...] = (),
    axes: dict[str, int] | None = None,
    image_size: int = 64,
    workers: int = 0,
) -> int:
    """Gather demonstrations of the scripted experts. An interrupted collection continues.

    Example: verbot collect outputs/demos --suite tabletop-full --episodes 400 --axes lighting 2 camera 1

    Args:
        out: the dataset's folder.
        suite: the env; see `verbot list envs`.
        episodes: successful demonstrations to save.
        seed: of the scenes and of the noise.
        noise: of the executed actions; the recorded label is always the clean action.
        tasks: only these; otherwise all, in turn.
        axes: randomization axes, each followed by its strength, 1 to 3.
        image_size: pixels, square.
        workers: processes; 0 takes one for each core.
    """
    from verbot import collection, processes

    result = collection.collect(
        suite,
        out,
        episodes,
        seed,
        noise=noise,
        tasks=tasks or None,
        axes=axes or {},
        options={"image_size": image_size},
        workers=workers or processes.cores(),
    )
    print(f"{result.episodes} episodes, {result.frames} frames in {result.seconds:.0f} s: {result.path}")
    return 0


def train(
    recipe: Positional[str] = "starter",
    data: tuple[Path, ...] = (),
    out: Path = Path("outputs/run"),
    minutes: float | None = None,
    samples: int | None = None,
    steps: int | None = None,
    set: tuple[str, ...] = (),
    seed: int | None = None,
) -> int:
    """Train a policy by a recipe. An interrupted run continues, to the bit.

    Example: verbot train starter --data outputs/demo/dataset --out outputs/run --minutes 6 --set batch_size=128

    Args:
        recipe: a name, see `verbot list recipes`; or a recipe.yaml.
        data: folders of episodes; without any the recipe's own demonstrations are collected first.
        out: gets policy, config.yaml, log.jsonl and result.json.
        minutes: of training, instead of the recipe's budget.
        samples: to train on, instead of the recipe's budget.
        steps: of the optimizer, instead of the recipe's budget.
        set: other fields, each as name=value; a dot reaches into nested ones (augment.relabel=0.5).
        seed: of everything; otherwise the recipe's own.
    """
    from verbot.recipes.api import assignments
    from verbot.recipes.api import train as run

    budget: dict[str, Any] = {
        name: value for name, value in (("minutes", minutes), ("samples", samples), ("steps", steps)) if value is not None
    }
    result = run(recipe, out=out, data=data or None, seed=seed, **budget, **assignments(set))
    speed = f"{result.samples} samples in {result.seconds:.0f} s ({result.samples_per_s:.0f}/s)"
    print(f"{result.steps} steps, {speed}, {result.skipped} skipped: {result.policy}")
    return 0


def evaluate(
    policy: Positional[str],
    suite: str = "tabletop-starter",
    episodes: int = 200,
    seed: int = 0,
    out: Path = Path("outputs/evaluation"),
    paraphrases: Path | None = None,
    instruction_mode: Mode = "canonical",
    axis: Axis | None = None,
    strength: Literal[1, 2, 3] = 2,
    execute: int = 1,
    baselines: bool = True,
    videos: int = 24,
    workers: int = 0,
) -> int:
    """Measure whether a policy obeys: results.jsonl, summary.json and report.html. An interrupted evaluation continues.

    Example: verbot evaluate outputs/demo/policy --suite tabletop-starter --episodes 200 --seed 1 --out outputs/evaluation

    Args:
        policy: a policy's folder, "starter" (the one that came with verbot), a server's ws:// address, "expert" or "random".
        suite: the env; see `verbot list envs`.
        episodes: scenes.
        seed: another seed is another set of scenes.
        out: the folder for the results.
        paraphrases: a YAML file of your own wording, {pick: [...], push: [...], put: [...]}, templates with {object},
            {receptacle}, {preposition} and {direction}.
        instruction_mode: the condition.
        axis: a randomization axis.
        strength: of the axis.
        execute: actions of each predicted chunk that are carried out.
        baselines: random, expert and a language-blind copy beside the policy.
        videos: episodes filmed for the report.
        workers: processes; 0 takes one for each core.
    """
    from verbot.recipes.api import evaluate as run

    templates = None
    if paraphrases is not None:
        from verbot.envs.tabletop.language import load_templates

        templates = load_templates(paraphrases)
    summary = run(
        policy, suite, out=out, command=_typed(), episodes=episodes, seed=seed, mode=instruction_mode, templates=templates,
        axes={axis: strength} if axis else {}, execute=execute, baselines=baselines, videos=videos, workers=workers,
    )  # fmt: skip
    _show(summary)
    print(out / "report.html")
    return summary.exit_code


def compare(
    a: Positional[str], b: Positional[str], suite: str = SUITE, episodes: int = 200, seed: int = 0, out: Path = COMPARED
) -> int:
    """Two policies, or two evaluations' folders, on the same episodes: the difference, and McNemar's exact test.

    Example: verbot compare outputs/demo/policy starter --episodes 200

    Args:
        a: a policy (as of `verbot evaluate`), which is played, or a folder that `verbot evaluate` left.
        b: another one.
        suite: for policies that are played; likewise the number of episodes and the seed.
        out: gets what is played, and comparison.json.
    """
    from verbot.recipes.api import compare as run

    comparison = run(a, b, suite, out=out, episodes=episodes, seed=seed)
    print(comparison.table(), comparison.save(out / "comparison.json"), sep="\n")
    return 0


def data_check(path: Positional[Path]) -> int:
    """Verify a dataset's checksums and structure; names every broken file.

    Example: verbot data check outputs/demo/dataset

    Args:
        path: the dataset's folder.
    """
    from verbot.data import check_dataset

    problems = check_dataset(path)
    for problem in problems:
        print(problem)
    print(f"{path}: {len(problems)} problem(s)" if problems else f"{path}: all well")
    return 1 if problems else 0


def data_info(path: Positional[Path]) -> int:
    """What a dataset holds: robot, cameras, episodes, instructions, statistics.

    Example: verbot data info outputs/demo/dataset

    Args:
        path: the dataset's folder.
    """
    from verbot.recipes.inspection import describe

    print(describe(path))
    return 0


def data_view(path: Positional[Path], episode: int = 0, out: Path | None = None) -> int:
    """One recorded episode as a film.

    Example: verbot data view outputs/demo/dataset --episode 3 --out episode.mp4

    Args:
        path: the dataset's folder.
        episode: its number.
        out: an .mp4 or .gif; without it a window opens.
    """
    from verbot import film
    from verbot.recipes.inspection import episode_frames

    frames, rate_hz, instruction = episode_frames(path, episode)
    if out is None:
        film.show(frames, rate_hz, instruction)
    else:
        print(film.write(out, frames, rate_hz))
    return 0


def watch(
    text: Positional[str],
    policy: str = "starter",
    suite: str = "tabletop-starter",
    scene: int | None = None,
    out: Path = Path("outputs/watch.mp4"),
    window: bool = False,
    execute: int = 1,
) -> int:
    """A policy or the expert obeys a sentence, filmed.

    Example: verbot watch "put the red cube in the blue box"

    Args:
        text: what it is told.
        policy: a policy's folder, "starter" (the one that came with verbot), "expert", or a server's ws:// address.
        suite: the env; see `verbot list envs`.
        scene: number of a test scene; otherwise one that holds the things named is looked for.
        out: an .mp4 or .gif.
        window: show it in a window instead.
        execute: actions of each predicted chunk that are carried out.
    """
    from verbot import film
    from verbot.recipes.players import agent_maker
    from verbot.recipes.watch import watch as run

    seen = run(text, agent_maker(policy, execute), suite, scene)
    print(f"{'obeyed' if seen.success else 'failed'} after {seen.seconds:.1f} s (scene {seen.scene}): {text}")
    if window:
        film.show(seen.frames, seen.rate_hz, text)
    else:
        print(film.write(out, seen.frames, seen.rate_hz))
    return 0


def list_parts(kind: Positional[Kind | None] = None) -> int:
    """What there is to choose from: envs, recipes and the parts of networks.

    Example: verbot list recipes

    Args:
        kind: only these.
    """
    for name in [kind] if kind else REGISTRIES:
        module, attribute = REGISTRIES[name].split(":")
        registry = getattr(importlib.import_module(module), attribute)
        print(f"{name}: {', '.join(registry.names())}")
    return 0


def doctor() -> int:
    """Does this machine have what verbot needs? Says what to install otherwise.

    Example: verbot doctor
    """
    from verbot.recipes.doctor import examine

    findings = examine()
    for finding in findings:
        print(f"{'ok     ' if finding.good else 'missing'}  {finding.what}: {finding.detail}")
    return 0 if all(finding.good or finding.optional for finding in findings) else 1


COMMANDS: dict[str, Callable[..., int]] = {
    "demo": demo,
    "collect": collect,
    "train": train,
    "evaluate": evaluate,
    "compare": compare,
    "data check": data_check,
    "data info": data_info,
    "data view": data_view,
    "watch": watch,
    "list": list_parts,
    "doctor": doctor,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 when all is well, 1 when it found errors, 2 when it could not be done."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        name, rest = _command(arguments)
        if name is None:
            print(_overview())
            sys.exit(0)
        import tyro

        sys.exit(tyro.cli(COMMANDS[name], args=rest, prog=f"verbot {name}"))
    except (VerbotError, ModuleNotFoundError) as error:
        told = missing(error) if isinstance(error, ModuleNotFoundError) else error
        if not isinstance(told, VerbotError):
            raise
        print(f"verbot: {told}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("verbot: interrupted", file=sys.stderr)
        sys.exit(130)


def _command(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The command's name (None asks for the overview) and what is left for it. Raises `ConfigError` with the nearest name."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        return None, []
    for words in (2, 1):
        name = " ".join(arguments[:words])
        if name in COMMANDS:
            return name, arguments[words:]
    group = [name for name in COMMANDS if name.startswith(arguments[0] + " ")]
    asked = " ".join(arguments[: 2 if group else 1])
    near = difflib.get_close_matches(asked, group or COMMANDS, n=1) if asked not in {name.split()[0] for name in group} else []
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"there is no command {asked!r}.{hint} Known: {', '.join(group or COMMANDS)}")


def _show(summary: Summary) -> None:
    print(summary.table())
    for message in summary.error_messages:
        print(f"error: {message}", file=sys.stderr)


def _typed() -> str:
    return shlex.join(["verbot", *sys.argv[1:]])


def _overview() -> str:
    lines = ["usage: verbot COMMAND …", "", "A robot that sees, is told, and does.", ""]
    for name, function in COMMANDS.items():
        lines.append(f"  {name:<12} {(function.__doc__ or '').splitlines()[0]}")
    return "\n".join([*lines, "", "verbot COMMAND --help explains one and shows an example."])


if __name__ == "__main__":
    main()
