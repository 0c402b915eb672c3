"""Commands that record demonstrations and instructions: scripted experts, teleoperation, annotation."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from verbot.cli.options import (
    DEMONSTRATED,
    MACHINES,
    PAGE,
    RECORDED,
    DemonstratedOptions,
    MachineOptions,
    PageOptions,
    RecordOptions,
)
from verbot.cli.terminal import given, refuse


def collect_command(
    out: Positional[Path],
    recorded: RecordOptions = RECORDED,
    episodes: int = 1600,
    noise: float = 0.15,
    randomize: dict[str, int] | None = None,
    revisit: str | None = None,
    demonstrated: DemonstratedOptions = DEMONSTRATED,
    machines: MachineOptions = MACHINES,
) -> int:
    """Record demonstrations of the scripted expert. An interrupted collection continues.

    Example: verbot collect outputs/demos --suite tabletop-full --episodes 400 --axes lighting 2 camera 1

    Args:
        out: the dataset's folder.
        episodes: number of successful demonstrations to save.
        noise: standard deviation of the noise on executed actions; the recorded label is always the clean action.
        randomize: randomization axes, each followed by its maximal strength: every episode draws its own, from 0 to that; "all"
            is every axis that a recording can hold.
        revisit: env in which the expert visits each scene a second time, directly after the first, e.g. tabletop-revisit.
    """
    from verbot.parallel.workers import cores
    from verbot.rollout.collect import CollectConfig, run

    config = CollectConfig(
        env=recorded.suite, episodes=episodes, seed=recorded.seed, noise=noise, workers=machines.workers or cores(),
        tasks=recorded.tasks or None, axes=recorded.axes or {}, options=recorded.of_env(), randomize=randomize or {},
        revisit_env=revisit, max_frames=demonstrated.max_frames, images=recorded.images, truth=demonstrated.truth,
    )  # fmt: skip
    result = run(config, out, cluster=machines.cluster)
    print(f"{result.episodes} episodes, {result.frames} frames in {result.seconds:.0f} s: {result.path}")
    return 0


def teleop_command(
    out: Positional[Path],
    recorded: RecordOptions = RECORDED,
    by: Literal["keyboard", "gamepad"] = "keyboard",
    policy: str | None = None,
    execute: int | None = None,
    episodes: int | None = None,
    seconds: float = 60.0,
    page: PageOptions = PAGE,
) -> int:
    """Record demonstrations, or corrections of a policy, by teleoperation in a browser. A later call continues.

    Example: verbot teleop outputs/mine --by keyboard --episodes 20
    Example: verbot teleop outputs/corrections --policy starter --execute 2 --episodes 20

    Args:
        out: the dataset's folder.
        by: keyboard, or gamepad (keys work too), in the page that opens at the printed address.
        policy: acts until the person takes over (a folder, "starter" or a server's ws:// address); only corrections are saved.
        execute: number of actions of each of the policy's chunks to execute; otherwise 1.
        episodes: number of episodes to save; otherwise until the person quits.
        seconds: time limit of an episode; 0 keeps the env's own limit.
    """
    from verbot.errors import ConfigError
    from verbot.teleop import TeleopConfig, teleoperate
    from verbot.workflows.load_policy import agent_maker

    if execute is not None and policy is None:
        raise ConfigError("--execute concerns the chunks of a policy: give a --policy too")
    config = TeleopConfig(
        env=recorded.suite, by=by, episodes=episodes, seed=recorded.seed, tasks=recorded.tasks or None, axes=recorded.axes or {},
        options=recorded.of_env() | given(max_seconds=seconds or None), host=page.host, port=page.port,
        images=recorded.images,
    )  # fmt: skip
    result = teleoperate(config, out, agent_maker(policy, execute or 1) if policy else None)
    print(f"{result.attempts} attempts in {result.episodes} episodes, {result.errors} simulator errors: {result.path}")
    return 0


def data_annotate_command(
    path: Positional[Path],
    instructions: Path | None = None,
    out: Path | None = None,
    episode: int = 0,
    page: PageOptions = PAGE,
) -> int:
    """Give recorded episodes other instructions: in a browser that shows them, or from a file.

    Example: verbot data annotate outputs/demo/dataset --instructions words.json

    Args:
        path: the dataset's folder.
        instructions: a JSON file, {"0": ["pick up the cube", "take the cube"]} for episode 0; without it a page opens.
        out: annotate a copy there instead; needed if other software wrote the dataset.
        episode: the first that the page shows.
    """
    if instructions is None:
        from verbot.teleop.annotate import annotate_in_page

        result = annotate_in_page(path, out, episode, page.host, page.port)
        print(f"{result.annotated} of {result.episodes} episodes annotated: {result.path}")
        return 0
    from verbot.data.storage.annotate import annotate, load_sentences

    refuse("with --instructions no page opens", episode=episode, host=page.host != PAGE.host, port=page.port)
    sentences = load_sentences(instructions)
    annotate(path, sentences, out)
    print(f"{len(sentences)} episodes annotated: {out or path}")
    return 0
