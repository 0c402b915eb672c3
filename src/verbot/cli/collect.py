"""Commands that record demonstrations and instructions: scripted experts, teleoperation, annotation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from verbot.cli.terminal import given


def collect(
    out: Positional[Path],
    suite: str = "tabletop-starter",
    episodes: int = 1600,
    seed: int = 0,
    noise: float = 0.15,
    tasks: tuple[str, ...] = (),
    axes: dict[str, int] | None = None,
    randomize: dict[str, int] | None = None,
    image_size: int = 64,
    cameras: tuple[str, ...] = (),
    revisit: str | None = None,
    captions: int = 0,
    max_frames: int | None = None,
    workers: int = 0,
    cluster: str | None = None,
) -> int:
    """Record demonstrations of the scripted expert. An interrupted collection continues.

    Example: verbot collect outputs/demos --suite tabletop-full --episodes 400 --axes lighting 2 camera 1

    Args:
        out: the dataset's folder.
        suite: the env; see `verbot list envs`.
        episodes: number of successful demonstrations to save.
        seed: of the scenes and of the noise.
        noise: standard deviation of the noise on executed actions; the recorded label is always the clean action.
        tasks: only these tasks, in turn; otherwise all.
        axes: randomization axes, each followed by its strength, 1 to 3.
        randomize: randomization axes, each followed by its maximal strength: every episode draws its own, from 0 to that; "all"
            is every axis that a recording can hold.
        image_size: width and height of the images, in pixels.
        cameras: only these cameras of the suite; otherwise all.
        revisit: env in which the expert visits each scene a second time, directly after the first, e.g. tabletop-revisit.
        captions: number of captions of each scene to record, each with a hard negative, for pretraining.
        max_frames: record only this many frames of each episode, whether or not it succeeds: images, not demonstrations.
        workers: number of processes; 0 takes one for each core.
        cluster: ray, or ray:ADDRESS: its cores run the expert in place of processes here.
    """
    from verbot.parallel.workers import cores
    from verbot.rollout.collect import CollectConfig, run

    config = CollectConfig(
        env=suite, episodes=episodes, seed=seed, noise=noise, workers=workers or cores(), tasks=tasks or None, axes=axes or {},
        options=_options(image_size, cameras, captions), randomize=randomize or {}, revisit_env=revisit,
        max_frames=max_frames,
    )  # fmt: skip
    result = run(config, out, cluster=cluster)
    print(f"{result.episodes} episodes, {result.frames} frames in {result.seconds:.0f} s: {result.path}")
    return 0


def teleop(
    out: Positional[Path],
    suite: str = "tabletop-starter",
    by: Literal["keyboard", "gamepad"] = "keyboard",
    policy: str | None = None,
    execute: int | None = None,
    episodes: int | None = None,
    seconds: float = 60.0,
    seed: int = 0,
    tasks: tuple[str, ...] = (),
    axes: dict[str, int] | None = None,
    image_size: int = 64,
    cameras: tuple[str, ...] = (),
    captions: int = 0,
    host: str = "127.0.0.1",
    port: int = 0,
) -> int:
    """Record demonstrations, or corrections of a policy, by teleoperation in a browser. A later call continues.

    Example: verbot teleop outputs/mine --by keyboard --episodes 20
    Example: verbot teleop outputs/corrections --policy starter --execute 2 --episodes 20

    Args:
        out: the dataset's folder.
        suite: the env; see `verbot list envs`.
        by: keyboard, or gamepad (keys work too), in the page that opens at the printed address.
        policy: acts until the person takes over (a folder, "starter" or a server's ws:// address); only corrections are saved.
        execute: number of actions of each of the policy's chunks to execute; otherwise 1.
        episodes: number of episodes to save; otherwise until the person quits.
        seconds: time limit of an episode; 0 keeps the env's own limit.
        seed: of the scenes.
        tasks: only these tasks, in turn; otherwise all.
        axes: randomization axes, each followed by its strength, 1 to 3.
        image_size: width and height of the recorded images, in pixels.
        cameras: only these cameras of the suite; otherwise all.
        captions: number of captions of each scene to record, each with a hard negative, for pretraining.
        host: address that serves the page; another than the loopback is neither encrypted nor private.
        port: of the page; 0 takes a free one.
    """
    from verbot.errors import ConfigError
    from verbot.teleop import TeleopConfig, teleoperate
    from verbot.workflows.load_policy import agent_maker

    if execute is not None and policy is None:
        raise ConfigError("--execute concerns the chunks of a policy: give a --policy too")
    options = _options(image_size, cameras, captions) | given(max_seconds=seconds or None)
    config = TeleopConfig(
        env=suite,
        by=by,
        episodes=episodes,
        seed=seed,
        tasks=tasks or None,
        axes=axes or {},
        options=options,
        host=host,
        port=port,
    )
    result = teleoperate(config, out, agent_maker(policy, execute or 1) if policy else None)
    print(f"{result.attempts} attempts in {result.episodes} episodes, {result.errors} simulator errors: {result.path}")
    return 0


def data_annotate(
    path: Positional[Path],
    instructions: Path | None = None,
    out: Path | None = None,
    episode: int = 0,
    host: str = "127.0.0.1",
    port: int = 0,
) -> int:
    """Give recorded episodes other instructions: in a browser, where they play, or from a file.

    Example: verbot data annotate outputs/demo/dataset --instructions words.json

    Args:
        path: the dataset's folder.
        instructions: a JSON file, {"0": ["pick up the cube", "take the cube"]} for episode 0; without it a page opens.
        out: annotate a copy there instead; needed where other software wrote the dataset.
        episode: the first that the page shows.
        host: where the page is served; another than the loopback is neither encrypted nor private.
        port: of the page; 0 takes a free one.
    """
    if instructions is None:
        from verbot.teleop.annotate import annotate_in_page

        result = annotate_in_page(path, out, episode, host, port)
        print(f"{result.annotated} of {result.episodes} episodes annotated: {result.path}")
        return 0
    from verbot.data.storage.annotate import annotate, load_sentences

    sentences = load_sentences(instructions)
    annotate(path, sentences, out)
    print(f"{len(sentences)} episodes annotated: {out or path}")
    return 0


def _options(image_size: int, cameras: tuple[str, ...], captions: int) -> dict[str, Any]:
    """Options of `make_env`."""
    return {"image_size": image_size, **given(cameras=cameras or None, captions=captions or None)}
