"""Mixes text into batches of windows: questions and captions of a frame, facts without images, reasoning before the actions."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence

import numpy as np

from verbot.contracts import Reasoning, SceneLanguage, SceneTruth, TextTask
from verbot.contracts.reasoning import GRID, GridPlace, grid_place
from verbot.data.samples.labels.scene import MOST_OBJECTS, SCENE_LABELS
from verbot.data.samples.motions import check_has_motion, motion_of
from verbot.data.samples.window_batch import WindowBatch, without
from verbot.envs.scene_languages import scene_languages
from verbot.spec import BoolArray, RobotSpec
from verbot.training.imitation.text_config import TextConfig, load_facts

KINDS = ("question", "caption", "fact", "reasoning")


class TextRows:
    """Turns samples of a batch into text, each kind in its share.

    Args:
        spec: the robot of the batches.

    Raises `ConfigError` for facts that cannot be read, and if motions are asked of a robot whose actions do not say them.
    """

    def __init__(self, config: TextConfig, spec: RobotSpec):
        self._config, self._spec = config, spec
        self.facts = tuple(fact for path in config.facts for fact in load_facts(path))
        if config.reasoning > 0 and "move" in config.parts:
            check_has_motion(spec)
        self._language = functools.cache(_language)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that the batches need; `fill` takes them out."""
        return SCENE_LABELS if self._config.needs_scenes else ()

    def corpus(self, scenes: Iterable[str], seed: int) -> list[str]:
        """What a run reads and writes in these scenes (JSON of `SceneTruth`), and all facts, for a vocabulary that is fitted.

        Prompt and answer of a question, a caption and a reasoning for each scene, as far as the run has them, without doubles.
        """
        found = [text for fact in self.facts for text in (fact.prompt, fact.answer)]
        for number, scene in enumerate(scenes):
            truth, rng = SceneTruth.from_json(scene), np.random.default_rng((seed, 9, number))
            language, config = self._language(truth.language), self._config
            asked = [language.question(truth, rng)] if config.question else []
            asked += [language.caption(truth, rng)] if config.caption else []
            found += [text for each in asked if each is not None for text in (each.text, each.answer)]
            if config.reasoning and truth.plan:
                amounts = rng.uniform(-0.1, 0.1, 3).tolist()
                motion = language.motion(amounts, 0.0, str(rng.choice(("", "open", "close"))))
                places = [(each.name, *rng.integers(GRID, size=2).tolist()) for each in truth.objects if each.name]
                found.append(_written(truth, motion, places[0][1:], places).text(config.parts))
        return list(dict.fromkeys(found))

    def fill(self, batch: WindowBatch, key: Sequence[int], rank: int = 0, size: int = 1, frames: int = 1) -> WindowBatch:
        """The batch with `WindowBatch.text_tasks`. A sample that admits no text of its kind stays as it is.

        Questions and captions have no actions and no other targets; facts have no images and no state either.

        Args:
            key: the seed of the batch. Which row becomes what is a function of it and of the row alone.
            rank, size: this is part `rank` of `size` of the batch.
            frames: rows of a sequence, which are of one kind.
        """
        count, shares = len(batch), np.cumsum(self._config.shares)
        draws = np.random.default_rng((*key, 0)).random(size * count // frames)
        rows = np.arange(rank * count, (rank + 1) * count)
        chosen = np.searchsorted(shares, draws[rows // frames], side="right")
        tasks: list[TextTask | None] = [None] * count
        for row in np.flatnonzero(chosen < len(KINDS)).tolist():
            rng = np.random.default_rng((*key, 1, int(rows[row])))
            tasks[row] = self._task(KINDS[chosen[row]], batch, row, rng)
        kept = {name: target for name, target in batch.targets.items() if name not in SCENE_LABELS}
        batch = dataclasses.replace(batch, text_tasks=tasks, targets=kept)
        return _masked(batch, tasks)

    def _task(self, kind: str, batch: WindowBatch, row: int, rng: np.random.Generator) -> TextTask | None:
        if kind == "fact":
            return self.facts[int(rng.integers(len(self.facts)))]
        scenes = batch.targets["scene"]
        if not scenes.mask[row] or not batch.images_mask[row, -1].any():
            return None
        truth = SceneTruth.from_json(scenes.values[row])
        language = self._language(truth.language)
        if kind == "reasoning":
            return self._reasoning(batch, row, truth, language)
        found = language.question(truth, rng) if kind == "question" else language.caption(truth, rng)
        return None if found is None else TextTask(found.text, found.answer, kind, int(batch.index[row]))

    def _reasoning(self, batch: WindowBatch, row: int, truth: SceneTruth, language: SceneLanguage) -> TextTask | None:
        """None without an instruction or without actions, and while it is unknown what the task is."""
        instruction = batch.instructions[row]
        if not instruction or not truth.plan or not batch.actions_mask[row].any():
            return None
        motion = ""
        if "move" in self._config.parts:
            found = motion_of(batch.actions[row], batch.actions_mask[row], batch.state[row, -1], self._spec)
            ways = np.array((truth.right, truth.near, (0.0, 0.0, 1.0))) @ found.moved_m
            motion = language.motion(ways.tolist(), found.turned_rad, found.gripper)
        places = _places(batch, row)
        named = [
            (each.name, *place)
            for each, place in zip(truth.objects, places[1:], strict=False)
            if place is not None and each.name and _is_named(each.name, truth)
        ]
        reasoning = _written(truth, motion, places[0], named)
        return TextTask(instruction, reasoning.text(self._config.parts), "reasoning", int(batch.index[row]))


def _language(name: str) -> SceneLanguage:
    language: SceneLanguage = scene_languages.build(name)
    return language


def _written(truth: SceneTruth, motion: str, gripper: GridPlace | None, named: Sequence[tuple[str, int, int]]) -> Reasoning:
    return Reasoning(truth.task, truth.plan, truth.plan[truth.subtask], motion, gripper, tuple(named))


def _is_named(name: str, truth: SceneTruth) -> bool:
    return any(name in text for text in (truth.task, *truth.plan))


def _places(batch: WindowBatch, row: int) -> list[GridPlace | None]:
    """Where the end effector and the objects are in the first camera; None where that is unknown, or out of its image."""
    points = batch.targets["scene_points"]
    if not batch.images_mask.shape[2] or not batch.images_mask[row, -1, 0]:
        return [None] * (1 + MOST_OBJECTS)
    values, mask = points.values[row, 0], points.mask[row, 0]
    inside = mask & (np.abs(values) <= 1).all(-1)
    return [grid_place(*place) if there else None for place, there in zip(values.tolist(), inside.tolist(), strict=True)]


def _masked(batch: WindowBatch, tasks: Sequence[TextTask | None]) -> WindowBatch:
    """Without what the rows of text must not be trained on."""

    def rows(*kinds: str) -> BoolArray:
        return np.array([task is not None and task.kind in kinds for task in tasks], bool)

    spoken, alone = rows("question", "caption", "fact"), rows("fact")
    words = [task.prompt if task is not None and is_text else text for task, is_text, text in
             zip(tasks, spoken.tolist(), batch.instructions, strict=True)]  # fmt: skip
    batch = dataclasses.replace(batch, instructions=words)
    if not spoken.any():
        return batch
    seen = batch.images_mask.copy(), batch.depth_mask.copy(), batch.state_mask.copy()
    batch = without(batch, spoken)
    for mask, before in zip((batch.images_mask, batch.depth_mask, batch.state_mask), seen, strict=True):
        mask[spoken & ~alone] = before[spoken & ~alone]
    return dataclasses.replace(batch, text_tasks=list(tasks))
