"""Commands with which someone teaches: demonstrations of experts or of a person, and sentences for what was done."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from verbot.cli.terminal import given

_OF_A_PERSON = {
    "--cluster": "a person drives one robot",
    "--randomize": "a person's episodes take --axes",
    "--first": "a person's attempts are recorded whole",
}


def collect(
    out: Positional[Path],
    suite: str = "tabletop-starter",
    by: Literal["expert", "keyboard", "gamepad"] = "expert",
    episodes: int | None = None,
    seed: int = 0,
    noise: float = 0.15,
    tasks: tuple[str, ...] = (),
    axes: dict[str, int] | None = None,
    randomize: dict[str, int] | None = None,
    image_size: int = 64,
    cameras: tuple[str, ...] = (),
    again: str | None = None,
    captions: int = 0,
    first: int | None = None,
    workers: int = 0,
    cluster: str | None = None,
    policy: str | None = None,
    execute: int = 1,
    seconds: float = 60.0,
    host: str = "127.0.0.1",
    port: int = 0,
) -> int:
    """Gather demonstrations of the scripted experts, or of a person in a browser. An interrupted collection continues.

    Example: verbot collect outputs/demos --suite tabletop-full --episodes 400 --axes lighting 2 camera 1

    Args:
        out: the dataset's folder.
        suite: the env; see `verbot list envs`.
        by: the scripted experts, or a person with a keyboard or a gamepad, in a page that opens at the printed address.
        episodes: successful demonstrations to save; otherwise 1600 of the experts, and a person's until they quit.
        seed: of the scenes and of the noise.
        noise: of an expert's executed actions; the recorded label is always the clean action.
        tasks: only these; otherwise all, in turn.
        axes: randomization axes, each followed by its strength, 1 to 3.
        randomize: randomization axes, each followed by its greatest strength: every episode of an expert draws its own, from 0 to
            that; "all" is every axis that a recording can hold.
        image_size: pixels, square.
        cameras: only these of the suite's; otherwise all.
        again: an env in which the expert visits each scene once more, right after, e.g. tabletop-revisit.
        captions: so many captions of each scene are recorded, a foil with each, to pretrain from.
        first: record only so many frames of each attempt, whatever would have come of it: pictures, not demonstrations.
        workers: processes of the experts; 0 takes one for each core.
        cluster: ray, or ray:ADDRESS: its cores serve the experts in place of processes here.
        policy: acts until the person takes over (a folder, "starter" or a server's ws:// address): only corrections are saved.
        execute: actions of each of the policy's chunks that are carried out.
        seconds: a person has for an attempt; 0 leaves it at the env's own limit.
        host: where the person's page is served; another than the loopback is neither encrypted nor private.
        port: of the page; 0 takes a free one.
    """
    options = {"image_size": image_size, **given(cameras=cameras or None, captions=captions or None)}
    common: dict[str, Any] = {"env": suite, "seed": seed, "tasks": tasks or None, "axes": axes or {}}
    if by == "expert":
        settings = {**common, "randomize": randomize or {}, "options": options, "noise": noise, "again": again, "first": first}
        settings |= {"episodes": 1600 if episodes is None else episodes, "workers": workers}
        return _from_experts(out, settings, cluster, policy)
    _refuse({"--cluster": cluster, "--randomize": randomize, "--first": first})
    person = {"by": by, "episodes": episodes, "host": host, "port": port, "options": options | given(max_seconds=seconds or None)}
    return _from_a_person(out, {**common, **person}, again, policy, execute)


def data_annotate(
    path: Positional[Path],
    instructions: Path | None = None,
    out: Path | None = None,
    episode: int = 0,
    host: str = "127.0.0.1",
    port: int = 0,
) -> int:
    """Tell recorded episodes in other words: in a browser, where they play, or from a file.

    Example: verbot data annotate outputs/demo/dataset --instructions words.json

    Args:
        path: the dataset's folder.
        instructions: a JSON file of sentences by episode, {"0": ["pick up the cube", "take the cube"]}; without it a page opens.
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


def _refuse(for_experts: dict[str, object]) -> None:
    from verbot.errors import ConfigError

    for option, value in for_experts.items():
        if value not in (None, {}):
            raise ConfigError(f"{option} is for the experts: {_OF_A_PERSON[option]}")


def _from_experts(out: Path, settings: dict[str, Any], cluster: str | None, policy: str | None) -> int:
    from verbot.errors import ConfigError
    from verbot.parallel import workers as processes
    from verbot.rollout import collect

    if policy is not None:
        raise ConfigError("--policy is what a person corrects: give --by keyboard or --by gamepad; experts correct in training")
    config = collect.CollectConfig(**{**settings, "workers": settings["workers"] or processes.cores()})
    result = collect.run(config, out, cluster=cluster)
    print(f"{result.episodes} episodes, {result.frames} frames in {result.seconds:.0f} s: {result.path}")
    return 0


def _from_a_person(out: Path, settings: dict[str, Any], again: str | None, policy: str | None, execute: int) -> int:
    from verbot.errors import ConfigError
    from verbot.teleop import TeleopConfig, teleoperate
    from verbot.workflows.load_policy import agent_maker

    if again is not None:
        raise ConfigError("--again is for the experts: a person visits each scene once")
    result = teleoperate(TeleopConfig(**settings), out, agent_maker(policy, execute) if policy else None)
    print(f"{result.attempts} attempts in {result.episodes} episodes, {result.errors} simulator errors: {result.path}")
    return 0
