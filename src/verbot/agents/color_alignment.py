"""A world of other colors: what is usual there is moved to what was usual in training, anew in every episode."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np

from verbot.contracts import ChunkedAgent
from verbot.errors import ConfigError
from verbot.spec import ActionChunk, FloatArray, Observation, UInt8Array

FRAMES = 20  # of the last two seconds at 10 Hz


class ColorAlignmentAgent:
    """Another agent whose pictures are moved so that their middle color is that of the demonstrations.

    The middle color of a camera is the median of each channel over a picture, most of which is table and floor: light and
    surfaces change it, things hardly do. It is estimated from what the robot sees while it acts, over the last `frames`
    pictures of the episode, and no success, label or weight is touched. After the idea of re-estimating a network's
    statistics in the world where it is tested (Li et al. 2016, "Revisiting Batch Normalization for Practical Domain
    Adaptation"; Schneider et al. 2020), here on the pictures themselves.

    Args:
        agent: acts on the moved pictures.
        colors: camera to the middle color (red, green, blue) of its demonstrations, 0 to 255; see
            `verbot.data.samples.image_statistics.middle_colors`. A camera that is not named is left as it is.
        frames: over which the middle color is averaged.

    Raises `ConfigError` for a color that is none.
    """

    def __init__(self, agent: ChunkedAgent, colors: Mapping[str, Sequence[float]], frames: int = FRAMES):
        for camera, color in colors.items():
            if len(color) != 3 or not all(0 <= channel <= 255 for channel in color):
                raise ConfigError(f"the middle color of camera {camera!r} is {color!r}; expected red, green and blue, 0 to 255")
        if frames < 1:
            raise ConfigError(f"frames is {frames}; expected at least 1 picture to know the colors from")
        self._agent, self.policy = agent, agent.policy
        self._wanted = {camera: np.array(color, np.float32) for camera, color in colors.items()}
        self._seen: dict[str, deque[FloatArray]] = {camera: deque(maxlen=frames) for camera in colors}
        self._latest: tuple[Observation, Observation] | None = None

    def reset(self, instruction: str) -> None:
        for seen in self._seen.values():
            seen.clear()
        self._latest = None
        self._agent.reset(instruction)

    def next_query(self, observation: Observation) -> Observation | None:
        return self._agent.next_query(self._aligned(observation))

    def receive(self, chunk: ActionChunk) -> None:
        self._agent.receive(chunk)

    def act(self, observation: Observation) -> FloatArray:
        return self._agent.act(self._aligned(observation))

    def _aligned(self, observation: Observation) -> Observation:
        """The observation with moved pictures; one that is asked about again is not counted twice."""
        if self._latest is None or self._latest[0] is not observation:
            images = {camera: self._moved(camera, image) for camera, image in observation.images.items()}
            self._latest = observation, dataclasses.replace(observation, images=images)
        return self._latest[1]

    def _moved(self, camera: str, image: UInt8Array) -> UInt8Array:
        if camera not in self._wanted:
            return image
        self._seen[camera].append(channel_median(image))
        offset = self._wanted[camera] - np.mean(self._seen[camera], axis=0)
        return np.clip(np.rint(image + offset), 0, 255).astype(np.uint8)


def channel_median(images: UInt8Array) -> FloatArray:
    """The median of each channel over pictures (…, 3).

    Example:
        >>> channel_median(np.array([[[0, 10, 20], [2, 10, 20], [90, 10, 250]]], np.uint8)).tolist()
        [2.0, 10.0, 20.0]
    """
    return np.median(images.reshape(-1, 3), axis=0).astype(np.float32)
