"""Recorded episodes."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from verbot.spec import FloatArray, RobotSpec, UInt8Array


@runtime_checkable
class EpisodeView(Protocol):
    """One recorded episode of `t` frames, read lazily."""

    instruction: str
    states: FloatArray  # (t, s)
    actions: FloatArray  # (t, a)

    def images(self, camera: str) -> UInt8Array:
        """(t, h, w, 3) RGB."""
        ...


@runtime_checkable
class EpisodeSource(Protocol):
    """Anything that holds episodes: a dataset on disk, a mixture of datasets, an importer."""

    @property
    def spec(self) -> RobotSpec: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> EpisodeView: ...
