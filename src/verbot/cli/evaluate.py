"""Commands that run policies: evaluation, comparison, robustness, video, explanation."""

from __future__ import annotations

import sys
from pathlib import Path

from tyro.conf import Positional

from verbot.cli.options import (
    ACTING,
    BUDGET,
    CONDITION,
    LISTED,
    MACHINES,
    PLAYED,
    SCENES,
    ActingOptions,
    Axis,
    BudgetOptions,
    ComparisonOptions,
    ConditionOptions,
    EntryOptions,
    MachineOptions,
    SceneOptions,
    Strength,
)
from verbot.cli.terminal import refuse, show, typed

SHIFTED_SCENES = SceneOptions(episodes=120)  # of every domain shift


def evaluate_command(
    policy: Positional[str],
    scenes: SceneOptions = SCENES,
    out: Path = Path("outputs/evaluation"),
    condition: ConditionOptions = CONDITION,
    acting: ActingOptions = ACTING,
    baselines: bool = True,
    videos: int = 24,
    machines: MachineOptions = MACHINES,
) -> int:
    """Evaluate a policy: results.jsonl, summary.json and report.html. An interrupted evaluation continues.

    Example: verbot evaluate outputs/demo/policy --suite tabletop-starter --episodes 200 --seed 1 --out outputs/evaluation

    Args:
        policy: a policy's folder, "starter" (the one that came with verbot), a server's ws:// address, "expert" or "random".
        out: the folder for the results.
        baselines: also evaluate random actions, the expert and a language-blind copy of the policy.
        videos: number of episodes that the report shows as videos.
    """
    from verbot.rollout.baselines import POLICY_FREE_AGENTS
    from verbot.workflows.train_evaluate import evaluate as run

    refuse("it concerns a randomization axis, give an --axis too", strength=condition.strength and not condition.axis)
    if policy in POLICY_FREE_AGENTS:
        given = {"execute": acting.execute != 1, "sample": acting.sample, "device": acting.device != "cpu", **acting.of_answers()}
        given |= {"think": acting.think, "think_from": acting.think_from is not None}
        refuse(f"{policy} is not a policy", **given, align=condition.align)
    axes = _axes(policy) if condition.axis == "all" else [condition.axis] if condition.axis else []
    summary = run(
        policy, scenes.suite, out=out, command=typed(), device=acting.device, episodes=scenes.episodes, seed=scenes.seed,
        mode=condition.instruction_mode, templates=_templates(condition.paraphrases),
        axes=dict.fromkeys(axes, int(condition.strength or 2)), align=_channel_medians(condition.align), execute=acting.execute,
        sample=acting.sample, baselines=baselines, videos=videos, workers=machines.workers, cluster=machines.cluster,
        options={"cameras": acting.cameras} if acting.cameras else {}, think=acting.think, think_from=acting.think_from,
        **acting.of_answers(),
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


def compare_command(
    entries: Positional[tuple[str, ...]] = (),
    listed: EntryOptions = LISTED,
    budget: BudgetOptions = BUDGET,
    data: tuple[Path, ...] = (),
    played: ComparisonOptions = PLAYED,
    out: Path = Path("outputs/compare"),
) -> int:
    """Train recipes on the same data, evaluate them and policies on the same episodes: a table and a report.

    Without --samples, --minutes or --steps nothing is trained. With one of them, each recipe is trained for that long.

    Example: verbot compare starter starter+vision=film_conv starter+execute=3 --samples 100000 --out outputs/compare

    Args:
        entries: recipes and recipes with settings (RECIPE+field=value), which are trained; policies as in `verbot evaluate`;
            and folders that `verbot evaluate` wrote, which are read.
        data: folders of episodes to train on; otherwise the demonstrations of the first recipe are collected.
        out: gets table.json, table.md, report.html, and all runs and evaluations. An interrupted comparison continues.
    """
    from verbot.workflows import compare

    refuse("without --samples, --minutes or --steps nothing is trained", data=data and not budget.settings())
    config = compare.ComparisonConfig(
        entries, listed.list, listed.only, budget.settings(), data, played.suite, played.episodes, played.seed, listed.base,
        played.conditions, played.baselines, played.workers,
    )  # fmt: skip
    table = compare.run_comparison(config, out, command=typed())
    two = compare.pair(table)
    print(table.text(), *([two.table()] if two else []), out / "report.html", sep="\n")
    return table.exit_code


def robustness_command(
    policies: Positional[tuple[str, ...]],
    scenes: SceneOptions = SHIFTED_SCENES,
    axes: tuple[Axis, ...] = (),
    strengths: tuple[Strength, ...] = (2,),
    alone: bool = True,
    align: Path | None = None,
    workers: int = 0,
    out: Path = Path("outputs/robustness"),
) -> int:
    """Measure how much success each domain shift costs: a table, robustness.json and a radar chart, robustness.png.

    Example: verbot robustness outputs/demo/policy outputs/run/policy --strengths 2 --episodes 120 --out outputs/robustness

    Args:
        policies: as in `verbot evaluate`, or folders that it wrote, which are read and not evaluated again.
        axes: randomization axes; otherwise all, without camera_dropout if a policy cannot do without a camera.
        strengths: strengths of the shifts.
        alone: shift each axis alone too; otherwise only all of them at once.
        align: a dataset: every policy is also evaluated with images aligned to its median colors.
        workers: number of processes; 0 takes one for each core.
        out: gets robustness.json, robustness.png and a folder for each policy. An interrupted call continues; other strengths are
            added.
    """
    from verbot.evaluation.comparison.robustness import table
    from verbot.workflows.robustness import RobustnessConfig
    from verbot.workflows.robustness import robustness as run

    config = RobustnessConfig(
        scenes.suite, axes, strengths, alone, _channel_medians(align), scenes.episodes, scenes.seed, workers
    )
    reports = run(policies, out, config, command=typed())
    print(table(reports), out / "robustness.json", sep="\n")
    return 1 if any(report.errors for report in reports) else 0


def watch_command(
    text: Positional[str],
    policy: str = "starter",
    suite: str = "tabletop-starter",
    scene: int | None = None,
    out: Path | None = None,
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
        out: an .mp4 or .gif; outputs/watch.mp4 if not given.
        window: show the video in a window instead.
        execute: number of actions of each chunk to execute.
    """
    from verbot.rollout import video
    from verbot.workflows.load_policy import agent_maker, fitting
    from verbot.workflows.trained_on import trained_on
    from verbot.workflows.watch import watch as run

    if window:
        refuse("--window writes no file", out=out)
        video.check_window()
    seen = run(text, agent_maker(policy, execute), suite, scene, trained_on=trained_on(policy), options=fitting(policy, suite))
    print(f"{seen.judgement}: {seen.reason}", f"instruction: {text}", sep="\n")
    print(f"judged goal: {seen.goal_text or 'none'} (scene {seen.scene}, {seen.seconds:.1f} s)", *seen.hints, sep="\n")
    if window:
        video.show(seen.frames, seen.rate_hz, text)
    else:
        print(video.write(out or Path("outputs/watch.mp4"), seen.frames, seen.rate_hz))
    return 0


def explain_command(
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
        task: task of the recorded scene; otherwise one is drawn.
        index: number of the recorded test scene.
        seed: another seed is another set of scenes.
        text: instruction in place of the scene's own.
        scenes: number of test scenes for the metrics in grounding.json; 0 measures none.
        out: the folder; in the folder of an evaluation, the metrics appear in its report the next time that it is written.
    """
    from verbot.contracts import EpisodeRequest
    from verbot.workflows.explain import explain as run

    request = EpisodeRequest(task, index=index, text=text)
    found = run(policy, suite, out=out, request=request, seed=seed, scenes=scenes, command=typed())
    if found.metrics is not None:
        print(found.metrics.table())
    print(f"{'success' if found.success else 'failure'}: {found.instruction}", found.page, sep="\n")
    return 0
