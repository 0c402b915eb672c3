"""Where the frames of windows come from: memory-mapped files, or videos that are decoded while training runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from verbot.data.samples.clips import MEMORY, DecodedClips
from verbot.data.storage.cached_rows import cache_folders, gigabytes
from verbot.data.storage.frame_cache import FrameCache, FrameSelection
from verbot.data.storage.reader import Dataset
from verbot.errors import ConfigError
from verbot.spec import Int64Array
from verbot.transforms import FitImage

FRAMES = ("auto", "cache", "decode")


class FrameSource(Protocol):
    """Frames of a dataset, of all its cameras or of some."""

    @property
    def cameras(self) -> tuple[str, ...]: ...

    @property
    def fits(self) -> Mapping[str, FitImage]:
        """How the pictures of a camera were cropped and resized; points in them move along."""
        ...

    @property
    def random_access(self) -> bool:
        """Whether frames may be read in any order at no cost; otherwise windows are dealt by clips."""
        ...

    @property
    def clip(self) -> int:
        """Number of successive frames that are decoded together."""
        ...

    @property
    def block(self) -> int:
        """Number of clips that are held at once, so that the windows of so many are shuffled together."""
        ...

    def shape(self, camera: str) -> tuple[int, ...]:
        """The shape of a picture: (h, w, 3), or (h, w) for depth."""
        ...

    def take(self, camera: str, episodes: Int64Array, rows: Int64Array, clip_rows: Int64Array) -> Any:
        """The pictures of these rows of these episodes, arrays of one shape; `clip_rows` says in which clip each is sought."""
        ...

    def prefetch(self, episodes: Int64Array, rows: Int64Array) -> None:
        """Begin to decode what a later `take` of these rows needs; returns at once."""
        ...

    def close(self) -> None:
        """End worker processes; they start again if frames are taken afterwards."""
        ...


@dataclass(frozen=True)
class FrameOptions:
    """Where frames are kept between their decoding and their use.

    Args:
        frames: ``"cache"`` decodes every frame once into files; ``"decode"`` decodes while training runs and writes nothing;
            ``"auto"`` decodes where the files would be larger than `limit_gb`.
        cache: folder of the files; None takes `VERBOT_CACHE`, else the dataset's own.
        limit_gb: above this size ``"auto"`` decodes. The room on the disk does not decide: the order of training depends on
            the choice, and must be the same when a run is resumed.
        workers: processes that decode; 0 decodes in this one.
        sources: number of datasets that share these processes and the memory for decoded frames.
        show: print the choice and its size.

    Raises `ConfigError` for another kind of `frames`.
    """

    frames: Literal["auto", "cache", "decode"] = "auto"
    cache: str | None = None
    limit_gb: float = 20.0
    workers: int = 0
    sources: int = 1
    show: bool = False

    def __post_init__(self) -> None:
        if self.frames not in FRAMES:
            raise ConfigError(f"frames is {self.frames!r}; expected one of {', '.join(map(repr, FRAMES))}")


def open_frames(dataset: Dataset, selection: FrameSelection, options: FrameOptions, reach: int = 0) -> FrameSource:
    """The frames of `selection`, cached or decoded as `options` say; a missing cache is filled.

    Args:
        reach: number of frames before its own that a window needs.

    Raises `DataError` if a cache is asked for and the disk has not the room.
    """
    if options.frames == "decode" or (options.frames == "auto" and not _fits(dataset, selection, options)):
        processes = max(1, options.workers // options.sources) if options.workers else 0
        clips, memory = DecodedClips(dataset, selection, reach, processes, MEMORY / options.sources), MEMORY / options.sources
        if clips.bytes > memory and options.show:
            print(
                f"frames of {dataset.root} take {gigabytes(clips.bytes)} of memory while they are decoded, more than "
                f"{gigabytes(memory)}: a smaller network.image_size or fewer data.cameras take less",
                file=sys.stderr,
            )
        return clips
    folders = tuple(folder / "frames" for folder in cache_folders(dataset, options.cache))
    return FrameCache(dataset, folder=folders, selection=selection, show=options.show)


def _fits(dataset: Dataset, selection: FrameSelection, options: FrameOptions) -> bool:
    size, limit = selection.bytes(dataset), options.limit_gb * 1e9
    if size > limit and options.show:
        print(
            f"frames of {dataset.root} are decoded on the fly: a cache would take {gigabytes(size)}, more than "
            f"data.cache_limit_gb={options.limit_gb:g}",
            file=sys.stderr,
        )
    return size <= limit
