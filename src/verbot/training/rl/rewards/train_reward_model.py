"""A scorer of states in words, taught by demonstrations and what they were told, and by nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save

from verbot.configuration import to_plain
from verbot.contracts import Described, expert_of
from verbot.envs import make_env
from verbot.errors import ConfigError, TrainingError
from verbot.models.reward_models.matcher import Matcher
from verbot.parallel.progress import Progress
from verbot.rollout.collect import CollectConfig, request_for
from verbot.rollout.episode import Episode
from verbot.training.checkpoint import replace_durably
from verbot.training.optimizer_state import MOMENTS, flat, nested

EVERY = 250  # steps between two checkpoints
CANDIDATES = 5  # other sentences drawn for an end, of which the two that seem to fit it best are learned from

Goal = Mapping[str, Any]


@dataclass(frozen=True)
class ScorerConfig:
    """How a scorer is trained.

    Args:
        env: a registered env's name that tells ``info["state_text"]``, made with `options`.
        tasks: demonstrated in turn; None shows all that the env has.
        episodes: of the expert, who is watched.
        noise: of the expert's actions.
        discount: a state that the expert brings to its end in n control steps is worth discount^n.
        steps, learning_rate: of training.
        batch_size: demonstrations in a step, each with its end, three states before it, and its end told other sentences.
        width: of the scorer.
        seed: of everything.
    """

    env: str = "navigation-compass"
    options: Mapping[str, Any] = field(default_factory=lambda: {"render_cameras": False})
    tasks: tuple[str, ...] | None = None
    episodes: int = 500
    noise: float = 0.15
    discount: float = 0.97
    steps: int = 1500
    batch_size: int = 8
    learning_rate: float = 2e-3
    width: int = 64
    seed: int = 0


@dataclass(frozen=True)
class Watched:
    """One demonstration in words.

    Args:
        states: descriptions, oldest first.
        goal: what was asked for, a record whose None says nothing.
        offered: every goal of its scene, and the wordings of each, this one's first.
    """

    states: tuple[str, ...]
    goal: Goal
    offered: tuple[tuple[Goal, tuple[str, ...]], ...]

    @property
    def told(self) -> tuple[str, ...]:
        return self.offered[0][1]


def watch(config: ScorerConfig, split: str = "train", progress: bool = True) -> list[Watched]:
    """The expert's episodes. Raises `ConfigError` for an env that does not tell its state in words."""
    found: list[Watched] = []
    plays = CollectConfig(env=config.env, tasks=config.tasks, seed=config.seed)
    with (
        closing(make_env(config.env, **config.options)) as env,
        Progress("watch", config.episodes, "episodes", enabled=progress) as bar,
    ):
        if not isinstance(env, Described):
            raise ConfigError(f"env {config.env!r} does not describe its state in words (see verbot.contracts.Described)")
        for number in range(config.episodes):
            request = {**request_for(plays, config.tasks or env.tasks, number), "split": split}
            episode = Episode(env, request, config.seed)
            info = episode.info
            wordings = [tuple(goal["instructions"]) for goal in info["grounding"]]
            offered = tuple(zip(info["feasible"], wordings, strict=True))
            expert = expert_of(env, noise=config.noise, seed=number)
            expert.reset(episode.instruction)
            steps = list(episode.run(expert))
            if steps[-1].terminated:
                states = (info["state_text"], *(step.info["state_text"] for step in steps))
                found.append(Watched(states, steps[-1].info["goal"], offered))
            bar.update(number + 1)
    return found


def train_scorer(config: ScorerConfig, progress: bool = True, checkpoint: Path | None = None) -> Matcher:
    """A scorer that was taught by demonstrations and their sentences alone; no world's reward, success or progress is asked for.

    Its first output is how near a state is to the end that a demonstration came to: discount^n, n control steps before it. Its
    second is whether this is the end: so it is of a demonstration that is told its own sentence, and neither before nor told a
    sentence that asks for something else.

    Args:
        checkpoint: a file, written now and then, from which an interrupted training goes on to the same end.

    Raises `TrainingError` where no demonstration came to its end.
    """
    episodes = watch(config, progress=progress)
    if not episodes:
        raise TrainingError(f"none of {config.episodes} episodes of the expert of {config.env!r} ended by itself")
    sentences = Sentences(episodes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        matcher = Matcher(config.width)
    matcher.prepare(sentences.all())
    optimizer = torch.optim.AdamW(matcher.parameters(), lr=config.learning_rate)
    first = _resume(checkpoint, config, matcher, optimizer)
    with Progress("train", config.steps, "steps", enabled=progress) as bar:
        for step in range(first, config.steps):
            states, goals, near, done = _batch(
                episodes, sentences, config, np.random.default_rng([config.seed, 2, step]), matcher
            )
            found = matcher(states, goals)
            asked = ~near.isnan()
            loss = F.binary_cross_entropy_with_logits(found[:, 1], done)
            loss = loss + F.binary_cross_entropy_with_logits(found[asked, 0], near[asked])
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * (0.5 + 0.5 * math.cos(math.pi * step / config.steps))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(matcher.parameters(), 1.0)
            optimizer.step()
            bar.update(step + 1, f"loss {float(loss.detach()):.4f}")
            if checkpoint is not None and (step + 1) % EVERY == 0:
                moments = flat(optimizer.state_dict()["state"])
                about = {"config": json.dumps(to_plain(config)), "step": str(step + 1)}
                replace_durably(checkpoint, save({**matcher.state_dict(), **moments}, about))
    return matcher.eval()


def _resume(path: Path | None, config: ScorerConfig, matcher: Matcher, optimizer: Any) -> int:
    """Steps that are behind it. Raises `ConfigError` where the checkpoint is of another training."""
    if path is None or not path.is_file():
        return 0
    with safe_open(path, "pt") as file:
        about = file.metadata() or {}
    if json.loads(about.get("config", "{}")) != to_plain(config):
        raise ConfigError(f"{path} is a checkpoint of a scorer that is trained otherwise; take another path")
    tensors = load_file(path)
    matcher.load_state_dict({name: value for name, value in tensors.items() if not name.startswith(MOMENTS)})
    optimizer.load_state_dict({"state": nested(tensors), "param_groups": optimizer.state_dict()["param_groups"]})
    return int(about["step"])


class Sentences:
    """Every goal that was met, with all its wordings, and which goals contradict which."""

    def __init__(self, episodes: Sequence[Watched]):
        told: dict[tuple[Any, ...], dict[str, None]] = {}
        self._goals: dict[tuple[Any, ...], Goal] = {}
        for episode in episodes:
            for goal, wordings in episode.offered:
                self._goals.setdefault(_key(goal), goal)
                told.setdefault(_key(goal), {}).update(dict.fromkeys(wordings))
        self._told = {key: list(wordings) for key, wordings in told.items()}
        self._near: dict[tuple[Any, ...], list[list[tuple[Any, ...]]]] = {}

    def all(self) -> list[str]:
        return [sentence for told in self._told.values() for sentence in told]

    def of(self, goal: Goal, rng: np.random.Generator) -> str:
        return _one(self._told[_key(goal)], rng)

    def against(self, episode: Watched, rng: np.random.Generator) -> str | None:
        """A sentence that the end of `episode` does not fit: of another goal of its scene, or of one that differs in one thing
        alone. None where there is none."""
        here = [goal for goal, _ in episode.offered if contradict(goal, episode.goal)]
        piles = self._piles(episode.goal)
        if here and (not piles or rng.random() < 0.35):
            return self.of(_one(here, rng), rng)
        return _one(self._told[_one(_one(piles, rng), rng)], rng) if piles else None

    def _piles(self, goal: Goal) -> list[list[tuple[Any, ...]]]:
        """Goals that differ from `goal` in one thing alone, one list for each such thing."""
        key = _key(goal)
        if key not in self._near:
            piles: dict[str, list[tuple[Any, ...]]] = {}
            for other, record in self._goals.items():
                differing = [name for name in goal if record.get(name) != goal[name]]
                if len(differing) == 1 and contradict(record, goal):
                    piles.setdefault(differing[0], []).append(other)
            self._near[key] = list(piles.values())
        return self._near[key]


def contradict(one: Goal, other: Goal) -> bool:
    """Whether two goals say different things of something that both speak of.

    Example:
        >>> red = {"verb": "go", "object": "red circle", "arm": "raised"}
        >>> contradict(red, {**red, "arm": "lowered"}), contradict(red, {**red, "arm": None})
        (True, False)
    """
    return any(one[name] != other[name] and None not in (one[name], other[name]) for name in one if name in other)


def _batch(
    episodes: Sequence[Watched], sentences: Sentences, config: ScorerConfig, rng: np.random.Generator, matcher: Matcher
) -> tuple[list[str], list[str], torch.Tensor, torch.Tensor]:
    """Descriptions, sentences, how near they are (NaN where nobody knows) and whether it is done."""
    rows: list[tuple[str, str, float, float]] = []
    others: list[list[tuple[str, str]]] = []
    for _ in range(config.batch_size):
        episode = _one(episodes, rng)
        said, end = sentences.of(episode.goal, rng), episode.states[-1]
        rows.append((end, said, 1.0, 1.0))
        for left in (1, *rng.integers(1, len(episode.states), 2)) if len(episode.states) > 1 else ():
            rows.append((episode.states[-1 - int(left)], said, config.discount ** int(left), 0.0))
        heard = (sentences.against(episode, rng) for _ in range(CANDIDATES))
        others.append([(end, other) for other in heard if other is not None])
    asked = [pair for pairs in others for pair in pairs]
    worth = iter(matcher.opinions(*zip(*asked, strict=True))[:, 1].tolist() if asked else ())
    for pairs in others:
        hardest = sorted(((next(worth), pair) for pair in pairs), reverse=True)[:2]
        rows.extend((*pair, np.nan, 0.0) for _, pair in hardest)
    states, goals, near, done = zip(*rows, strict=True)
    return list(states), list(goals), torch.tensor(near), torch.tensor(done)


def _key(goal: Goal) -> tuple[Any, ...]:
    return tuple(sorted((name, str(value)) for name, value in goal.items()))


def _one(of: Sequence[Any], rng: np.random.Generator) -> Any:
    return of[int(rng.integers(len(of)))]
