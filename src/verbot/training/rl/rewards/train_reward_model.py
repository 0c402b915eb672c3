"""Training of a language reward model from demonstrations and their instructions alone."""

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
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from verbot.configuration import to_plain
from verbot.contracts import Described, Goal, expert_of
from verbot.envs import make_env
from verbot.errors import ConfigError, CorruptFileError, TrainingError
from verbot.files import write_atomic
from verbot.models.reward_models.matcher import Matcher
from verbot.parallel import signals
from verbot.parallel.progress import Progress
from verbot.ranges import COUNT, FRACTION, NOT_NEGATIVE, SEED, check_ranges
from verbot.rollout.collect import CollectConfig, request_for
from verbot.rollout.episode import EpisodeRunner
from verbot.training.optimizer_state import PREFIX, flat, nested

EVERY = 250  # steps between two checkpoints
CANDIDATES = 5  # instructions drawn as negatives of an end; training uses the two with the highest score


@dataclass(frozen=True)
class RewardModelConfig:
    """The training of a language reward model.

    Args:
        env: name of a registered env that reports ``info["state_text"]``, built with `options`.
        tasks: alternate between demonstrations; None uses all tasks of the env.
        episodes: number of demonstrations of the expert.
        noise: noise of the expert's actions.
        discount: the target of a state n control steps before the end of a demonstration is discount^n.
        steps, learning_rate: the number of steps and the learning rate of training.
        batch_size: demonstrations per step, each with its end, three earlier states, and its end with other instructions.
        width: width of the model.
        seed: the seed of the whole run.
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

    def __post_init__(self) -> None:
        check_ranges(
            self, episodes=COUNT, noise=NOT_NEGATIVE, discount=FRACTION, steps=COUNT, batch_size=COUNT,
            learning_rate=NOT_NEGATIVE, width=COUNT, seed=SEED,
        )  # fmt: skip


@dataclass(frozen=True)
class DescribedEpisode:
    """One demonstration in words.

    Args:
        states: descriptions, oldest first.
        goal: a record; None in a field means unspecified.
        offered: all goals of its scene with their wordings, this goal first.
    """

    states: tuple[str, ...]
    goal: Goal
    offered: tuple[tuple[Goal, tuple[str, ...]], ...]

    @property
    def instructions(self) -> tuple[str, ...]:
        return self.offered[0][1]


def describe_episodes(config: RewardModelConfig, split: str = "train", progress: bool = True) -> list[DescribedEpisode]:
    """The expert's episodes. Raises `ConfigError` for an env that does not describe its state in words."""
    found: list[DescribedEpisode] = []
    collect_config = CollectConfig(env=config.env, tasks=config.tasks, seed=config.seed)
    with (
        closing(make_env(config.env, **config.options)) as env,
        Progress("demonstrate", config.episodes, "episodes", enabled=progress) as bar,
    ):
        if not isinstance(env, Described):
            raise ConfigError(f"env {config.env!r} does not describe its state in words (see verbot.contracts.Described)")
        for number in range(config.episodes):
            request = {**request_for(collect_config, config.tasks or env.tasks, number), "split": split}
            episode = EpisodeRunner(env, request, config.seed)
            info = episode.info
            wordings = [tuple(goal["instructions"]) for goal in info["grounding"]]
            offered = tuple(zip(info["feasible"], wordings, strict=True))
            expert = expert_of(env, noise=config.noise, seed=number)
            expert.reset(episode.instruction)
            steps = list(episode.run(expert))
            if steps[-1].terminated:
                states = (info["state_text"], *(step.info["state_text"] for step in steps))
                found.append(DescribedEpisode(states, steps[-1].info["goal"], offered))
            bar.update(number + 1)
    return found


def train_reward_model(config: RewardModelConfig, progress: bool = True, checkpoint: Path | None = None) -> Matcher:
    """A reward model trained from demonstrations and their instructions alone, without reward, success or progress of the env.

    Its first output is the nearness of a state to the end of a demonstration: discount^n, n control steps before it. Its second
    is the probability of success: 1 at the end of a demonstration with its own instruction, 0 before the end and with an
    instruction of a contradicting goal.

    Args:
        checkpoint: a file, written every `EVERY` steps, from which an interrupted training resumes to the bit.

    Raises `TrainingError` if no demonstration terminates.
    """
    episodes = describe_episodes(config, progress=progress)
    if not episodes:
        raise TrainingError(f"none of {config.episodes} episodes of the expert of {config.env!r} terminated")
    sentences = Sentences(episodes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        matcher = Matcher(config.width)
    matcher.prepare(sentences.all())
    optimizer = torch.optim.AdamW(matcher.parameters(), lr=config.learning_rate)
    first = _resume(checkpoint, config, matcher, optimizer)
    with Progress("train", config.steps, "steps", enabled=progress) as bar, signals.deferred() as request:
        for step in range(first, config.steps):
            states, goals, progress_targets, success_targets = _batch(
                episodes, sentences, config, np.random.default_rng([config.seed, 2, step]), matcher
            )
            logits = matcher(states, goals)
            has_target = ~progress_targets.isnan()
            loss = F.binary_cross_entropy_with_logits(logits[:, 1], success_targets)
            loss = loss + F.binary_cross_entropy_with_logits(logits[has_target, 0], progress_targets[has_target])
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * (0.5 + 0.5 * math.cos(math.pi * step / config.steps))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(matcher.parameters(), 1.0)
            optimizer.step()
            bar.update(step + 1, f"loss {float(loss.detach()):.4f}")
            if checkpoint is not None and ((step + 1) % EVERY == 0 or request.number):
                optimizer_state = flat(optimizer.state_dict()["state"])
                about = {"config": json.dumps(to_plain(config)), "step": str(step + 1)}
                write_atomic(checkpoint, save({**matcher.state_dict(), **optimizer_state}, about))
            if request.number:
                raise signals.Stopped(request.number, f" after step {step + 1}{', with a checkpoint' if checkpoint else ''}")
    return matcher.eval()


def _resume(path: Path | None, config: RewardModelConfig, matcher: Matcher, optimizer: Any) -> int:
    """The number of completed steps. Raises `ConfigError` if the checkpoint has another configuration."""
    if path is None or not path.is_file():
        return 0
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
        if json.loads(about.get("config", "{}")) != to_plain(config):
            raise ConfigError(f"{path} is a checkpoint of a reward model with another configuration; take another path")
        tensors = load_file(path)
        matcher.load_state_dict({name: value for name, value in tensors.items() if not name.startswith(PREFIX)})
        optimizer.load_state_dict({"state": nested(tensors), "param_groups": optimizer.state_dict()["param_groups"]})
        return int(about["step"])
    except ConfigError:
        raise
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:  # the last: weights of other shapes
        reason = f"is no checkpoint of a reward model ({' '.join(str(error).split()):.200}); take another path"
        raise CorruptFileError(path, reason) from error


class Sentences:
    """Every goal of the demonstrations, with all its wordings, and which goals contradict which."""

    def __init__(self, episodes: Sequence[DescribedEpisode]):
        wordings_of: dict[tuple[Any, ...], dict[str, None]] = {}
        self._goals: dict[tuple[Any, ...], Goal] = {}
        for episode in episodes:
            for goal, wordings in episode.offered:
                self._goals.setdefault(_key(goal), goal)
                wordings_of.setdefault(_key(goal), {}).update(dict.fromkeys(wordings))
        self._wordings = {key: list(wordings) for key, wordings in wordings_of.items()}
        self._near: dict[tuple[Any, ...], list[list[tuple[Any, ...]]]] = {}

    def all(self) -> list[str]:
        return [sentence for wordings in self._wordings.values() for sentence in wordings]

    def of(self, goal: Goal, rng: np.random.Generator) -> str:
        return _one(self._wordings[_key(goal)], rng)

    def against(self, episode: DescribedEpisode, rng: np.random.Generator) -> str | None:
        """An instruction that contradicts the end of `episode`: of another goal of its scene, or of one that differs in a single
        field. None if there is none."""
        here = [goal for goal, _ in episode.offered if contradict(goal, episode.goal)]
        groups = self._groups(episode.goal)
        if here and (not groups or rng.random() < 0.35):
            return self.of(_one(here, rng), rng)
        return _one(self._wordings[_one(_one(groups, rng), rng)], rng) if groups else None

    def _groups(self, goal: Goal) -> list[list[tuple[Any, ...]]]:
        """Goals that differ from `goal` in a single field, one list for each such field."""
        key = _key(goal)
        if key not in self._near:
            groups: dict[str, list[tuple[Any, ...]]] = {}
            for other, record in self._goals.items():
                differing = [name for name in goal if record.get(name) != goal[name]]
                if len(differing) == 1 and contradict(record, goal):
                    groups.setdefault(differing[0], []).append(other)
            self._near[key] = list(groups.values())
        return self._near[key]


def contradict(one: Goal, other: Goal) -> bool:
    """Whether two goals differ in a field that both specify.

    Example:
        >>> red = {"verb": "go", "object": "red circle", "arm": "raised"}
        >>> contradict(red, {**red, "arm": "lowered"}), contradict(red, {**red, "arm": None})
        (True, False)
    """
    return any(one[name] != other[name] and None not in (one[name], other[name]) for name in one if name in other)


def _batch(
    episodes: Sequence[DescribedEpisode],
    sentences: Sentences,
    config: RewardModelConfig,
    rng: np.random.Generator,
    matcher: Matcher,
) -> tuple[list[str], list[str], torch.Tensor, torch.Tensor]:
    """Descriptions, instructions, nearness (NaN where it is unknown) and success."""
    rows: list[tuple[str, str, float, float]] = []
    others: list[list[tuple[str, str]]] = []
    for _ in range(config.batch_size):
        episode = _one(episodes, rng)
        instruction, end = sentences.of(episode.goal, rng), episode.states[-1]
        rows.append((end, instruction, 1.0, 1.0))
        for left in (1, *rng.integers(1, len(episode.states), 2)) if len(episode.states) > 1 else ():
            rows.append((episode.states[-1 - int(left)], instruction, config.discount ** int(left), 0.0))
        negatives = (sentences.against(episode, rng) for _ in range(CANDIDATES))
        others.append([(end, other) for other in negatives if other is not None])
    pairs_to_score = [pair for pairs in others for pair in pairs]
    scores = iter(matcher.forward_no_grad(*zip(*pairs_to_score, strict=True))[:, 1].tolist() if pairs_to_score else ())
    for pairs in others:
        hardest = sorted(((next(scores), pair) for pair in pairs), reverse=True)[:2]
        rows.extend((*pair, np.nan, 0.0) for _, pair in hardest)
    states, goals, progress_targets, success_targets = zip(*rows, strict=True)
    return list(states), list(goals), torch.tensor(progress_targets), torch.tensor(success_targets)


def _key(goal: Goal) -> tuple[Any, ...]:
    return tuple(sorted((name, str(value)) for name, value in goal.items()))


def _one(of: Sequence[Any], rng: np.random.Generator) -> Any:
    return of[int(rng.integers(len(of)))]
