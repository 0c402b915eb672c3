"""A batch of training samples as plain arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from verbot.contracts import TextTask
from verbot.data.samples.episode_arrays import Caption
from verbot.data.samples.labels import MaskedArray
from verbot.data.storage.frame_cache import FeatureArray
from verbot.spec import BoolArray, FloatArray, Int64Array, UInt8Array


@dataclass(frozen=True)
class WindowBatch:
    """`b` windows, in the robot's own units.

    Args:
        images: uint8 (b, t, v, h, w, 3) RGB, the latest frame last. Frames before the start of an episode are its first frame,
            masked. Of shape (b, t, v, h, w, 0) if `features` replace them.
        images_mask: bool (b, t, v); False for padding and for a camera that the dataset lacks.
        state: float32 (b, t, s), with `state_mask` bool (b, t).
        actions: float32 (b, k, a), from the latest frame on. After the end of an episode its last action, masked.
        actions_mask: bool (b, k); all False if the instruction is not that of the executed goal.
        instructions: one per window.
        targets: the labels of the latest frames by name (see `verbot.data.samples.labels`), one row per window.
        grounding_queries: instructions of other goals that the scene admits, at most `m` per window.
        query_keypoints: image points float32 (b, m, v, 3, 2) of the target, receptacle and reference of each query.
        captions: pairs of a true and a false sentence about the image, at most `WindowConfig.captions` per window.
        index: int64 (b,), numbers of the windows.
        goal: uint8 (b, h, w, 3), the last image of the episode from the first camera; of size 0 without goals.
        goal_mask: bool (b,); False without a goal image.
        previous_action: float32 (b, a), the recorded action before the latest frame, without noise of the expert, as `actions`.
            a is 0 if `WindowConfig.previous_action` is False.
        previous_action_mask: bool (b,); False at the start of an episode.
        features: float16 (b, t, v, p, d), features of the images from a frozen encoder; p and d are 0 without them.
        depth: float32 (b, t, d, h, w), meters, of the depth cameras; of size 0 without any. 0 where unknown.
        depth_mask: bool (b, t, d); False for padding and for a depth camera that the dataset lacks.
        text_tasks: what a language model reads and writes in each row; None in rows of actions alone.
        ahead: float32 (b, m, s), states some steps later, as far as they can be known at the frame that is shown: a gripper is
            where it was commanded to be, and what no action moves stays as it is. m is `WindowConfig.offsets`.
        ahead_actions: float32 (b, m, k, a), the actions from each of these states on, with `ahead_mask` bool (b, m, k).
    """

    images: UInt8Array
    images_mask: BoolArray
    state: FloatArray
    state_mask: BoolArray
    actions: FloatArray
    actions_mask: BoolArray
    instructions: list[str]
    targets: dict[str, MaskedArray]
    grounding_queries: list[tuple[str, ...]]
    query_keypoints: MaskedArray
    index: Int64Array
    goal: UInt8Array
    goal_mask: BoolArray
    previous_action: FloatArray
    previous_action_mask: BoolArray
    features: FeatureArray
    captions: list[tuple[Caption, ...]]
    depth: FloatArray
    depth_mask: BoolArray
    text_tasks: list[TextTask | None]
    ahead: FloatArray
    ahead_actions: FloatArray
    ahead_mask: BoolArray

    def __len__(self) -> int:
        return len(self.index)

    def take(self, order: Int64Array) -> WindowBatch:
        """The windows at these places, in this order."""
        return WindowBatch(**{field.name: _taken(getattr(self, field.name), order) for field in dataclasses.fields(self)})

    @staticmethod
    def concatenate(parts: Sequence[WindowBatch]) -> WindowBatch:
        """All windows of `parts`, one after another."""
        names = [field.name for field in dataclasses.fields(WindowBatch)]
        return WindowBatch(**{name: _joined([getattr(part, name) for part in parts]) for name in names})


def _taken(value: Any, order: Int64Array) -> Any:
    if isinstance(value, list):
        return [value[i] for i in order]
    if isinstance(value, dict):
        return {name: target.take(order) for name, target in value.items()}
    return value.take(order) if isinstance(value, MaskedArray) else value[order]


def _joined(values: Sequence[Any]) -> Any:
    if isinstance(values[0], list):
        return [item for value in values for item in value]
    if isinstance(values[0], dict):
        return {name: MaskedArray.concatenate([value[name] for value in values]) for name in values[0]}
    return MaskedArray.concatenate(values) if isinstance(values[0], MaskedArray) else np.concatenate(values)


def without(batch: WindowBatch, absent: BoolArray) -> WindowBatch:
    """The same, with nothing to see and nothing to learn in the rows that are `absent`."""
    masks = [
        batch.images_mask, batch.depth_mask, batch.state_mask, batch.actions_mask, batch.previous_action_mask,
        batch.query_keypoints.mask, batch.ahead_mask,
    ]  # fmt: skip
    for mask in (*masks, *(target.mask for target in batch.targets.values())):
        mask[absent] = False
    queries = [() if gone else asked for gone, asked in zip(absent.tolist(), batch.grounding_queries, strict=True)]
    captions = [() if gone else said for gone, said in zip(absent.tolist(), batch.captions, strict=True)]
    tasks = [None if gone else task for gone, task in zip(absent.tolist(), batch.text_tasks, strict=True)]
    goal_mask = batch.goal_mask & ~absent
    batch = dataclasses.replace(batch, grounding_queries=queries, captions=captions, goal_mask=goal_mask)
    return dataclasses.replace(batch, text_tasks=tasks)
