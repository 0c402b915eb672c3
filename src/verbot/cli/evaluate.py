"""Commands that run policies: evaluation, comparison, robustness, video, explanation."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from verbot.cli.terminal import given, show, typed

Mode = Literal["canonical", "paraphrase", "longer", "blank", "counterfactual", "composition", "image"]
Axis = Literal[
    "positions", "lighting", "appearance", "camera", "camera_dropout", "distractors", "robot_start", "sensor_noise", "dynamics"
]
Strength = Literal[1, 2, 3]


def evaluate(
    policy: Positional[str],
    suite: str = "tabletop-starter",
    episodes: int = 200,
    seed: int = 0,
    out: Path = Path("outputs/evaluation"),
    paraphrases: Path | None = None,
    instruction_mode: Mode = "canonical",
    axis: Axis | Literal["all"] | None = None,
    strength: Strength = 2,
    align: Path | None = None,
    execute: int = 1,
    sample: bool = False,
    cameras: tuple[str, ...] = (),
    baselines: bool = True,
    videos: int = 24,
    workers: int = 0,
    cluster: str | None = None,
    device: str = "cpu",
) -> int:
    """Evaluate a policy: results.jsonl, summary.json and report.html. An interrupted evaluation continues.

    Example: verbot evaluate outputs/demo/policy --suite tabletop-starter --episodes 200 --seed 1 --out outputs/evaluation

    Args:
        policy: a policy's folder, "starter" (the one that came with verbot), a server's ws:// address, "expert" or "random".
        suite: the env; see `verbot list envs`.
        episodes: number of scenes.
        seed: another seed is another set of scenes.
        out: the folder for the results.
        paraphrases: a YAML file of your own wording, {pick: [...], push: [...], put: [...]}, templates with {object},
            {receptacle}, {preposition} and {direction}.
        instruction_mode: the condition.
        axis: a randomization axis, or all at once, without camera_dropout where the policy cannot do without a camera.
        strength: of the axis.
        align: a dataset; images are shifted to the channel medians of its images while the policy acts.
        execute: number of actions of each chunk to execute.
        sample: draw the actions from the distribution of the policy's head, instead of taking the most likely ones.
        cameras: only these cameras of the suite; otherwise all.
        baselines: also evaluate random actions, the expert and a language-blind copy of the policy.
        videos: number of episodes that the report shows as videos.
        workers: number of processes; 0 takes one for each core.
        cluster: ray, or ray:ADDRESS: its cores run the episodes in place of processes here.
        device: where the policy computes: cpu, cuda, cuda:N, mps or auto.
    """
    from verbot.workflows.train_evaluate import evaluate as run

    shifted = dict.fromkeys(_axes(policy) if axis == "all" else [axis] if axis else [], int(strength))
    summary = run(
        policy, suite, out=out, command=typed(), device=device, episodes=episodes, seed=seed, mode=instruction_mode,
        templates=_templates(paraphrases), axes=shifted, align=_channel_medians(align), execute=execute, sample=sample,
        baselines=baselines, videos=videos, workers=workers, cluster=cluster, options={"cameras": cameras} if cameras else {},
    )  # fmt: skip
    show(summary)
    print(out / "report.html")
    return summary.exit_code


def _axes(policy: str) -> tuple[str, ...]:
    from verbot.workflows.robustness import DROPOUT, all_axes

    axes = all_axes([policy])
    if DROPOUT not in axes:
        print(f"--axis all leaves out {DROPOUT}: {policy} cannot do without a camera", file=sys.stderr)
    return axes


def _templates(paraphrases: Path | None) -> dict[str, list[str]] | None:
    if paraphrases is None:
        return None
    from verbot.envs.tabletop.language.grammar import load_templates

    return load_templates(paraphrases)


def _channel_medians(align: Path | None) -> dict[str, tuple[float, float, float]] | None:
    if align is None:
        return None
    from verbot.data import open_dataset
    from verbot.data.samples.image_statistics import channel_medians

    return channel_medians(open_dataset(align))


def compare(
    entries: Positional[tuple[str, ...]] = (),
    list: str | None = None,
    only: tuple[str, ...] = (),
    samples: int | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    data: tuple[Path, ...] = (),
    suite: str | None = None,
    episodes: int = 200,
    seed: int = 0,
    base: str | None = None,
    conditions: tuple[str, ...] = ("counterfactual", "paraphrase"),
    baselines: bool = True,
    workers: int = 0,
    out: Path = Path("outputs/compare"),
) -> int:
    """Train recipes on the same data, evaluate them and policies on the same episodes: a table and a report.

    Example: verbot compare starter starter+vision=film_conv starter+execute=3 --samples 100000 --out outputs/compare

    Args:
        entries: recipes and recipes with settings (RECIPE+field=value), which are trained; policies as in `verbot evaluate`;
            and folders that `verbot evaluate` wrote, which are read.
        list: a list of further entries: one that ships with verbot (see `verbot list comparisons`), or a YAML file.
        only: only the entries with these names.
        samples: training samples for each entry. Without a budget nothing is trained.
        minutes: of training for each entry, instead of samples.
        steps: optimizer steps for each entry, instead of samples.
        data: folders of episodes to train on; otherwise the demonstrations of the first recipe are collected.
        suite: the env; otherwise the first recipe's own.
        episodes: number of scenes.
        seed: of everything.
        base: the entry to compare the others with; otherwise the first.
        conditions: further conditions for all entries.
        baselines: also evaluate the expert and random actions.
        workers: number of evaluation processes; 0 takes one for each core.
        out: gets table.json, table.md, report.html, and all runs and evaluations. An interrupted comparison continues.
    """
    from verbot.workflows import compare

    config = compare.ComparisonConfig(
        entries, list, only, given(samples=samples, minutes=minutes, steps=steps), data, suite, episodes, seed, base, conditions,
        baselines, workers,
    )  # fmt: skip
    table = compare.compare(config, out, command=typed())
    two = compare.pair(table)
    print(table.text(), *([two.table()] if two else []), out / "report.html", sep="\n")
    return table.exit_code


def robustness(
    policies: Positional[tuple[str, ...]],
    suite: str = "tabletop-starter",
    axes: tuple[Axis, ...] = (),
    strengths: tuple[Strength, ...] = (2,),
    alone: bool = True,
    align: Path | None = None,
    episodes: int = 120,
    seed: int = 0,
    workers: int = 0,
    out: Path = Path("outputs/robustness"),
) -> int:
    """Measure how much success each domain shift costs: a table, robustness.json and a radar chart, robustness.png.

    Example: verbot robustness outputs/plain/policy outputs/random/policy --strengths 2 --episodes 120 --out outputs/robustness

    Args:
        policies: as in `verbot evaluate`, or folders that it wrote, which are read and not played.
        suite: the env; see `verbot list envs`.
        axes: randomization axes; otherwise all, without camera_dropout where a policy cannot do without a camera.
        strengths: of the shifts.
        alone: shift each axis alone too; otherwise only all of them at once.
        align: a dataset: every policy is played once more, with images aligned to its median colors.
        episodes: number of scenes, the same in every domain.
        seed: another seed is another set of scenes.
        workers: processes; 0 takes one for each core.
        out: gets robustness.json, robustness.png and a folder for each policy. An interrupted call continues; other strengths are
            added.
    """
    from verbot.evaluation.comparison.robustness import table
    from verbot.workflows.robustness import robustness as run

    reports = run(
        policies, out=out, suite=suite, axes=axes, strengths=strengths, alone=alone, align=_channel_medians(align),
        episodes=episodes, seed=seed, workers=workers, command=typed(),
    )  # fmt: skip
    print(table(reports), out / "robustness.json", sep="\n")
    return 1 if any(report.errors for report in reports) else 0


def watch(
    text: Positional[str],
    policy: str = "starter",
    suite: str = "tabletop-starter",
    scene: int | None = None,
    out: Path = Path("outputs/watch.mp4"),
    window: bool = False,
    execute: int = 1,
) -> int:
    """Record a policy or the expert on one instruction, and judge it: success, failure, or not judged.

    Example: verbot watch "put the red cube in the blue box"

    Args:
        text: the instruction. It is judged if all of its words are understood; otherwise it is only executed.
        policy: a policy's folder, "starter" (the one that came with verbot), "expert", or a server's ws:// address.
        suite: the env; see `verbot list envs`.
        scene: number of a test scene; otherwise one that has the objects in the instruction is searched for.
        out: an .mp4 or .gif.
        window: show the video in a window instead.
        execute: number of actions of each chunk to execute.
    """
    from verbot.rollout import video
    from verbot.workflows.load_policy import agent_maker, fitting
    from verbot.workflows.trained_on import trained_on
    from verbot.workflows.watch import watch as run

    if window:
        video.check_window()
    seen = run(text, agent_maker(policy, execute), suite, scene, trained_on=trained_on(policy), options=fitting(policy, suite))
    print(f"{seen.judgement}: {seen.reason}", f"instruction: {text}", sep="\n")
    print(f"judged goal: {seen.goal_text or 'none'} (scene {seen.scene}, {seen.seconds:.1f} s)", *seen.hints, sep="\n")
    if window:
        video.show(seen.frames, seen.rate_hz, text)
    else:
        print(video.write(out, seen.frames, seen.rate_hz))
    return 0


def explain(
    policy: Positional[str] = "starter",
    suite: str = "tabletop-starter",
    task: str | None = None,
    index: int = 0,
    seed: int = 0,
    text: str | None = None,
    scenes: int = 0,
    out: Path = Path("outputs/explain"),
) -> int:
    """Show where a policy attends, and for which word: explain.html and explain.mp4; with --scenes also metrics.

    Example: verbot explain starter --task put --index 0 --scenes 150 --out outputs/explain

    Args:
        policy: a policy's folder, "starter" (the one that came with verbot), or a server's ws:// address.
        suite: the env; see `verbot list envs`.
        task: of the recorded scene; otherwise one is drawn.
        index: number of the recorded test scene.
        seed: another seed is another set of scenes.
        text: instruction in place of the scene's own.
        scenes: number of test scenes for the metrics in grounding.json; 0 measures none.
        out: the folder; in the folder of an evaluation, the metrics appear in its report the next time that it is written.
    """
    from verbot.workflows.explain import explain as run

    found = run(
        policy, suite, out=out, task=task, index=index, seed=seed, text=text, scenes=scenes, command=typed(),
    )  # fmt: skip
    if found.metrics is not None:
        print(found.metrics.table())
    print(f"{'success' if found.success else 'failure'}: {found.instruction}", found.page, sep="\n")
    return 0
