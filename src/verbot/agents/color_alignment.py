"""Color alignment: shift the colors of camera images to those of the training data, estimated in every episode."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np

from verbot.agents.interrupting import interrupt, lost
from verbot.contracts import ChunkedAgent
from verbot.errors import ConfigError
from verbot.spec import ActionChunk, FloatArray, Observation, UInt8Array

FRAMES = 20  # two seconds at 10 Hz


class ColorAlignmentAgent:
    """Wraps an agent and shifts the colors of its images so that the channel median equals that of the demonstrations.

    The channel median of a camera is the median of each channel over an image. Table and floor fill most of an image, so light
    and surfaces change the median, and objects hardly do. It is averaged over the last `frames` images of the episode. No
    success, label or weight is used. The idea of re-estimating a network's statistics in the test domain (Li et al. 2016,
    "Revisiting Batch Normalization for Practical Domain Adaptation"; Schneider et al. 2020) is applied here to the images.

    Args:
        agent: acts on the shifted images.
        colors: the channel median (red, green, blue) of the demonstrations of each camera, 0 to 255; see
            `verbot.data.samples.image_statistics.channel_medians`. Images of other cameras are not changed.
        frames: number of images over which the median is averaged.

    Raises `ConfigError` for an invalid color or number of frames.
    """

    def __init__(self, agent: ChunkedAgent, colors: Mapping[str, Sequence[float]], frames: int = FRAMES):
        for camera, color in colors.items():
            if len(color) != 3 or not all(0 <= channel <= 255 for channel in color):
                raise ConfigError(f"the channel median of camera {camera!r} is {color!r}; expected red, green and blue, 0 to 255")
        if frames < 1:
            raise ConfigError(f"frames is {frames}; expected at least 1 image to estimate the colors")
        self._agent, self.policy = agent, agent.policy
        self._targets = {camera: np.array(color, np.float32) for camera, color in colors.items()}
        self._medians: dict[str, deque[FloatArray]] = {camera: deque(maxlen=frames) for camera in colors}
        self._latest: tuple[Observation, Observation] | None = None

    def reset(self, instruction: str) -> None:
        for medians in self._medians.values():
            medians.clear()
        self._latest = None
        self._agent.reset(instruction)

    def interrupt(self) -> None:
        """Raises `ConfigError` if the wrapped agent cannot."""
        interrupt(self._agent)

    def lost(self) -> None:
        """Raises `ConfigError` if the wrapped agent cannot wait."""
        lost(self._agent)

    def next_query(self, observation: Observation) -> Observation | None:
        return self._agent.next_query(self._aligned(observation))

    def receive(self, chunk: ActionChunk) -> None:
        self._agent.receive(chunk)

    def act(self, observation: Observation) -> FloatArray:
        return self._agent.act(self._aligned(observation))

    def _aligned(self, observation: Observation) -> Observation:
        """The observation with shifted images. A repeated observation counts once."""
        if self._latest is None or self._latest[0] is not observation:
            images = {camera: self._shifted(camera, image) for camera, image in observation.images.items()}
            self._latest = observation, dataclasses.replace(observation, images=images)
        return self._latest[1]

    def _shifted(self, camera: str, image: UInt8Array) -> UInt8Array:
        if camera not in self._targets:
            return image
        self._medians[camera].append(channel_median(image))
        offset = self._targets[camera] - np.mean(self._medians[camera], axis=0)
        return np.clip(np.rint(image + offset), 0, 255).astype(np.uint8)


def channel_median(images: UInt8Array) -> FloatArray:
    """The median of each channel over images (…, 3): float32 (3,).

    Example:
        >>> channel_median(np.array([[[0, 10, 20], [2, 10, 20], [90, 10, 250]]], np.uint8)).tolist()
        [2.0, 10.0, 20.0]
    """
    return np.median(images.reshape(-1, 3), axis=0).astype(np.float32)
