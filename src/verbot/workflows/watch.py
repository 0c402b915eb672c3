"""A robot that follows a typed instruction, recorded and judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal

from verbot.contracts import Agent, Env, Expert, Grammar, Pictured, Understanding
from verbot.envs import make_env
from verbot.envs.parsing import matches, present, unrelated_goal
from verbot.errors import ConfigError
from verbot.rollout import video
from verbot.rollout.episode import EpisodeRunner
from verbot.spec import UInt8Array

SCENES = 250  # searched before giving up
HOLD_LAST_FRAME_S = 1.0  # the video ends with the last frame for this time
_EXAMPLES = 3
Judgement = Literal["success", "failure", "not judged"]
BORDERS: dict[Judgement, tuple[int, int, int]] = {"success": video.GREEN, "failure": video.RED, "not judged": video.GRAY}


@dataclass(frozen=True)
class FoundScene:
    """The scene in which an instruction is given, and the goal that it means there.

    Args:
        options: options of `Env.reset`.
        goal_text: the plain instruction of the goal that is judged; empty if none is.
        reason: why no goal is judged; empty if one is.
        unchecked: sentences of the instruction that the goal leaves out.
        hints: lines for the person who wrote an instruction that cannot be judged.
    """

    options: dict[str, Any]
    goal_text: str = ""
    reason: str = ""
    unchecked: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()


@dataclass(frozen=True)
class Watched:
    """The video of an instruction, and the judgement whether it was carried out.

    Args:
        goal: the goal that was judged; empty if none was.
        goal_text: its plain instruction.
        reason: the reason for the judgement.
        hints: if nothing was judged: the objects of the scene, and goals that could be judged there.
    """

    frames: list[UInt8Array]
    rate_hz: float
    instruction: str
    goal: dict[str, Any]
    goal_text: str
    scene: int
    judgement: Judgement
    reason: str
    hints: tuple[str, ...]
    seconds: float

    @property
    def success(self) -> bool:
        return self.judgement == "success"


def watch(
    text: str,
    make_agent: Callable[[Env], Agent],
    suite: str = "tabletop-starter",
    scene: int | None = None,
    height: int = 256,
    trained_on: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> Watched:
    """Let an agent follow `text`, and judge it if the whole of `text` is understood as a goal of the scene.

    Args:
        make_agent: makes the agent, e.g. ``lambda env: ChunkAgent(policy, 2)`` or `verbot.contracts.expert_of`.
        suite: the env.
        scene: the index of a test scene; None searches for one that has the goal, or else the objects in `text`.
        height: height of each view in the video, pixels.
        trained_on: envs that the agent was trained on; a hint names the one that understands `text` if `suite` does not.
        options: options of the env, such as the policy's ``image_size`` (`verbot.workflows.load_policy.fitting`).

    Raises:
        ConfigError: `text` gives no goal and the agent is an expert, which acts on a goal alone.
        SimulationError: the simulator reported a fault.

    Example:
        >>> from verbot.contracts import expert_of
        >>> watch("pick up the red cube", expert_of).judgement
        'success'
    """
    found = find_scene(text, suite, scene, trained_on)
    with closing(make_env(suite, **(options or {}))) as env:
        episode, agent = EpisodeRunner(env, {**found.options, "text": text}), make_agent(env)
        if found.reason and isinstance(agent, Expert):
            raise ConfigError(f"the expert needs a goal, and {text!r} gives none: {'; '.join((found.reason, *found.hints))}")
        agent.reset(episode.instruction)
        rate, frames_by_camera = env.robot_spec.rate_hz, [_views(episode, height)]
        for _ in episode.run(agent):
            frames_by_camera.append(_views(episode, height))
    info, seconds = episode.info, episode.time_s
    judgement, reason = _judged(found, info, seconds)
    frames = [video.compose(views, text, height) for views in frames_by_camera]
    frames += [video.compose(frames_by_camera[-1], text, height, BORDERS[judgement])] * round(HOLD_LAST_FRAME_S * rate)
    goal = {} if found.reason else dict(info["goal"])
    return Watched(
        frames, rate, text, goal, found.goal_text, found.options["index"], judgement, reason, found.hints, seconds
    )  # fmt: skip


def find_scene(text: str, suite: str, scene: int | None = None, trained_on: Sequence[str] = ()) -> FoundScene:
    """The first test scene with the goal that `text` means; if there is none, the first with the objects in `text`.

    Example:
        >>> find_scene("shove the red block left", "tabletop-starter").goal_text
        'push the red cube to the left'
    """
    with closing(make_env(suite, render_cameras=False)) as env:
        if not isinstance(env, Grammar):
            options = {"index": scene or 0, "composition": "seen"}
            return FoundScene(options, reason=f"{suite} has no grammar that could read an instruction")
        understood = env.parse(text)
        most, best = -1, dict[str, Any]()
        for options in _scenes(scene):
            _, info = env.reset(seed=0, options=options)
            names = env.object_names()
            shown = sum(present(name, names) for name in understood.objects)
            if shown == len(understood.objects):
                for number, goal in enumerate(info["feasible"]):
                    if any(matches(meaning, goal, names) for meaning in understood.goals):
                        return FoundScene({**options, "goal": number}, env.describe(goal), unchecked=understood.unchecked)
            if shown > most:
                most, best = shown, options
            if shown == len(understood.objects) and not understood.goals:
                break  # nothing is left to search for
        _, info = env.reset(seed=0, options=best)
        best = {**best, "goal": unrelated_goal(understood, [env.describe(goal) for goal in info["feasible"]])}
        reason = understood.problem or _not_there(understood, env.object_names(), best["index"], scene is not None)
        hints = [
            f"scene {best['index']} has: {', '.join(sorted(env.object_names()))}",
            f"can be judged there: {'; '.join(dict.fromkeys(map(env.describe, info['feasible'][:_EXAMPLES])))}",
        ]
    if understood.problem and (other := _other_suite(text, suite, trained_on)):
        hints.append(f"the instruction can be judged with --suite {other}")
    return FoundScene(best, "", reason, understood.unchecked, tuple(hints))


def _scenes(scene: int | None) -> Iterator[dict[str, Any]]:
    """The options of the scenes to search."""
    for index in range(SCENES) if scene is None else (scene,):
        # Demonstrated combinations and the others are in different scenes.
        for composition in ("seen", "unseen"):
            yield {"index": index, "composition": composition}


def _not_there(understood: Understanding, names: Sequence[str], index: int, is_chosen: bool) -> str:
    """Why a scene lacks a goal that was understood."""
    where = f"scene {index}" if is_chosen else f"none of {SCENES} test scenes"
    missing = [name for name in understood.objects if not present(name, names)]
    if missing and is_chosen:
        return f"{where} has no {' and no '.join(missing)}"
    if missing:
        return f"{where} has {' and '.join(map(repr, understood.objects))}"
    several = [name for name in understood.objects if sum(present(name, [each]) for each in names) > 1]
    if several and is_chosen:
        return f"{where} has more than one {several[0]}"
    return f"{where} does not have this goal" if is_chosen else f"{where} has this goal, though some have the objects"


def _other_suite(text: str, suite: str, trained_on: Sequence[str]) -> str | None:
    """The first of `trained_on` in which `text` is a goal."""
    for name in trained_on:
        if name != suite:
            with closing(make_env(name, render_cameras=False)) as env:
                if isinstance(env, Grammar) and env.parse(text).goals:
                    return name
    return None


def _judged(found: FoundScene, info: Mapping[str, Any], seconds: float) -> tuple[Judgement, str]:
    if found.reason:
        return "not judged", found.reason
    unchecked = f"; not checked: {'. '.join(found.unchecked)}" if found.unchecked else ""
    if info["success"]:
        return "success", f"the goal was reached after {seconds:.1f} s{unchecked}"
    return "failure", f"the goal was not reached in {seconds:.1f} s; {info['final_error_m']:.2f} m were left{unchecked}"


def _views(episode: EpisodeRunner, size: int) -> dict[str, UInt8Array]:
    """Color images, larger than the policy's if the env can render them."""
    env, images = episode.env, {name: image for name, image in episode.observation.images.items() if image.ndim == 3}
    return {name: env.picture(name, size) if isinstance(env, Pictured) else image for name, image in images.items()}
