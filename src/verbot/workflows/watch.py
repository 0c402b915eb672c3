"""A robot that obeys a typed sentence, filmed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from verbot.contracts import Agent, Env
from verbot.envs import make_env
from verbot.envs.tabletop.language.grammar import canonical, wordings
from verbot.envs.tabletop.language.vocabulary import COLORS, RECEPTACLES, SHAPES, SYNONYMS
from verbot.errors import ConfigError
from verbot.rollout import video
from verbot.rollout.episode import Episode
from verbot.spec import UInt8Array

SCENES = 250  # looked at before giving up
ENOUGH = 6  # scenes that hold the named things; their best goal is taken
AFTERGLOW_S = 1.0  # filmed after the end
NOUNS = {other: noun for noun, others in SYNONYMS.items() for other in (noun, *others)}
NAME = re.compile(rf"\b({'|'.join(COLORS)})\s+({'|'.join(NOUNS)})\b")


@dataclass(frozen=True)
class Watched:
    """What was filmed: `goal` is what the env took the sentence for, `success` whether it was reached."""

    frames: list[UInt8Array]
    rate_hz: float
    instruction: str
    goal: dict[str, Any]
    scene: int
    success: bool
    seconds: float


def watch(
    text: str,
    make_agent: Callable[[Env], Agent],
    suite: str = "tabletop-starter",
    scene: int | None = None,
    height: int = 256,
) -> Watched:
    """Let an agent obey `text` in a scene where that is feasible.

    Args:
        make_agent: the one who acts, e.g. ``lambda env: ChunkAgent(policy, 2)`` or ``lambda env: env.expert()``.
        suite: the env.
        scene: the index of a test scene; None looks for one that holds the things named in `text`.
        height: of each view in the film, pixels.

    Raises:
        ConfigError: nothing of what can be done in `suite` (or in this scene) is like `text`.
        SimulationError: the simulator reported a fault.

    Example:
        >>> watch("pick up the red cube", lambda env: env.expert()).success
        True
    """
    options = find_scene(text, suite, scene)
    with closing(make_env(suite)) as env:
        episode, agent = Episode(env, {**options, "text": text}), make_agent(env)
        agent.reset(episode.instruction)
        rate, seen = env.robot_spec.rate_hz, [_views(episode, height)]
        for _ in episode.run(agent):
            seen.append(_views(episode, height))
        info = episode.info
    border = video.GREEN if info["success"] else video.RED
    frames = [video.compose(views, text, height) for views in seen]
    frames += [video.compose(seen[-1], text, height, border)] * round(AFTERGLOW_S * rate)
    return Watched(frames, rate, text, dict(info["goal"]), options["index"], bool(info["success"]), (len(seen) - 1) / rate)


def find_scene(text: str, suite: str, scene: int | None = None) -> dict[str, Any]:
    """The options of `Env.reset` for a test scene, and for the feasible goal in it that `text` is most like.

    Example:
        >>> find_scene("push the red cube to the left", "tabletop-starter", scene=None)["index"] >= 0
        True
    """
    best, likest, found, feasible = {}, 0.0, 0, []
    with closing(make_env(suite, render_cameras=False)) as env:
        like = getattr(env, "likeness", _likeness)  # an env with a grammar of its own compares by it
        for index in range(SCENES) if scene is None else (scene,):
            # Demonstrated combinations and the others live in different scenes.
            for composition in ("seen", "unseen"):
                _, info = env.reset(seed=0, options={"index": index, "composition": composition})
                feasible += info["feasible"]
                likeness = [like(text, goal) for goal in info["feasible"]]
                goal = int(np.argmax(likeness))
                found += likeness[goal] > 0
                if likeness[goal] > likest:
                    best, likest = {"index": index, "composition": composition, "goal": goal}, likeness[goal]
            if likest == 1 or found >= ENOUGH:
                break
        if not best:
            raise ConfigError(_nothing_like(text, scene, feasible, env))
    return best


def _nothing_like(text: str, scene: int | None, feasible: list[Mapping[str, Any]], env: Any) -> str:
    own = getattr(env, "wordings", None)
    if scene is not None:
        known = "; ".join(sorted({own(goal)[0] if own else canonical(goal) for goal in feasible}))
        return f"scene {scene} has nothing like {text!r}; what can be done there: {known}"
    if own:
        examples = "; ".join(own(goal)[0] for goal in feasible[:3])
        return f"no scene fits {text!r}; what can be done there is, for example: {examples}"
    named = ", ".join(sorted(_named(text))) or "nothing by color and shape"
    return (
        f"no scene fits {text!r}: it names {named}. Name things by a color ({', '.join(COLORS)}) and a shape "
        f"({', '.join((*SHAPES, *RECEPTACLES))}), or try --suite tabletop-full, which has more to do"
    )


def _views(episode: Episode, size: int) -> dict[str, UInt8Array]:
    """Larger images than the policy's, where the env can draw them."""
    picture = getattr(episode.env, "picture", None)
    return {name: picture(name, size) if picture else image for name, image in episode.observation.images.items()}


def _likeness(text: str, goal: Mapping[str, Any]) -> float:
    """0 where `text` names other things than `goal`; else how near it comes to one of the goal's wordings, up to 1."""
    parts = ("noun", "anchor", "other", "receptacle") if "relation" in goal else ("object", "receptacle")
    mine = {name for key in parts if (name := goal.get(key)) and NAME.fullmatch(name)}
    if mine != _named(text):
        return 0.0
    said = text.lower().rstrip(".!").split()
    known = [*wordings(goal, "seen"), *wordings(goal, "unseen")]
    return max(difflib.SequenceMatcher(None, said, wording.split()).ratio() for wording in known)


def _named(text: str) -> set[str]:
    """The things that `text` names, synonyms resolved: ``{"red cube"}`` in "grab the red block"."""
    return {f"{color} {NOUNS[noun]}" for color, noun in NAME.findall(text.lower())}
