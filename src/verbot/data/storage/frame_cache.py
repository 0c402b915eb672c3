"""Memory-mapped caches of decoded frames and of frozen encoder features, with one row for each frame of a dataset.

A cache is computed once, read at memory speed, and extended when the dataset grows. For each camera it has one file of rows
(n, …) and a small JSON file. The JSON file counts the rows and identifies their episodes by content, not by place. It is replaced
atomically and is the commit: rows beyond its count do not exist.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from verbot.data.storage.cached_rows import CachedRows, Fill, cache_folders, free_bytes, gigabytes, running_digests
from verbot.data.storage.reader import Dataset
from verbot.errors import DataError
from verbot.parallel.progress import Progress
from verbot.parallel.workers import cores
from verbot.spec import Camera, FloatArray, Int64Array, UInt8Array
from verbot.transforms import FitImage

BLOCK = 256  # episodes between commits; an interruption loses at most this many
FEATURE_BLOCK, FEATURE_BATCH = 16, 32  # episodes between commits of features, and frames in a batch of the encoder

FeatureArray = npt.NDArray[np.float16]


@dataclass(frozen=True)
class FrameSelection:
    """The frames that are used, and their size.

    Args:
        cameras: names of the cameras; all of the dataset if None.
        episodes: numbers of the episodes, ascending; all if None.
        fits: how the pictures of a camera are cropped and resized; a camera that is not named keeps its size.
    """

    cameras: tuple[str, ...] | None = None
    episodes: tuple[int, ...] | None = None
    fits: Mapping[str, FitImage] = field(default_factory=dict)

    def cameras_of(self, dataset: Dataset) -> tuple[str, ...]:
        return tuple(dataset.camera_names if self.cameras is None else self.cameras)

    def row(self, dataset: Dataset, camera: str) -> tuple[int, ...]:
        """The shape of a picture: (h, w, 3), or (h, w) for depth; a frame is decoded where nothing is fitted."""
        fit = self.fits.get(camera)
        if fit is None:
            return tuple(dataset[0].images(camera, [0]).shape[1:])
        return fit.target if is_depth(dataset, camera) else (*fit.target, 3)

    def bytes(self, dataset: Dataset) -> int:
        """The size of these frames, decoded."""
        lengths = dataset.lengths if self.episodes is None else dataset.lengths[list(self.episodes)]
        sizes = {camera: int(np.prod(self.row(dataset, camera))) for camera in self.cameras_of(dataset)}
        return sum(size * (4 if is_depth(dataset, camera) else 1) for camera, size in sizes.items()) * int(lengths.sum())


class RowsAtHand:
    """What the sources of frames have in common whose rows are all in files: there is nothing to prefetch or to release."""

    def prefetch(self, episodes: Int64Array, rows: Int64Array) -> None:
        """Nothing: every row is at hand."""

    @property
    def random_access(self) -> bool:
        return True

    @property
    def clip(self) -> int:
        return 1

    @property
    def block(self) -> int:
        return 1

    def close(self) -> None:
        """Nothing to release."""


class FrameCache(RowsAtHand):
    """Decoded frames of `dataset`, in episode order.

    Args:
        cameras: names of the cameras to cache; all of them if None.
        folder: folder of the cache files, or several, of which the first is written; if None, see
            `verbot.data.storage.cached_rows.cache_folders`.
        threads: number of threads that decode missing frames; one per core if None.
        selection: the cameras, the episodes and the size of the frames, instead of `cameras`.
        show: print the size of missing frames before they are decoded.

    Raises `DataError` if the disk has not the room, before anything is written.

    Example:
        >>> import tempfile
        >>> from verbot.data.storage.reader import open_dataset
        >>> from verbot.data.storage.writer import example_dataset
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     FrameCache(open_dataset(example_dataset(folder)), folder=Path(folder)).frames("front").shape
        (24, 32, 32, 3)
    """

    def __init__(
        self,
        dataset: Dataset,
        cameras: Sequence[str] | None = None,
        folder: Path | Sequence[Path] | None = None,
        threads: int | None = None,
        selection: FrameSelection | None = None,
        show: bool = False,
    ):
        self.dataset, self._threads = dataset, threads or cores()
        self.selection = selection or FrameSelection(None if cameras is None else tuple(cameras))
        folders = tuple(path / "frames" for path in cache_folders(dataset)) if folder is None else folder
        self.folders = (folders,) if isinstance(folders, Path) else tuple(folders)
        chosen, rows = _rows_of(dataset, self.selection, self.folders)
        self._check_room(show)
        self.starts = np.full(len(dataset.lengths), -1)  # row of the first frame of each episode; -1 where it is not cached
        self._frames: dict[str, Any] = {}
        for camera, (name, each) in rows.items():
            self.starts[list(chosen)] = each.ends[:-1]
            fill, shape = self._decoder(camera, chosen), partial(self.selection.row, dataset, camera)
            self._frames[camera] = each.open(name, shape, fill)

    @property
    def cameras(self) -> tuple[str, ...]:
        return tuple(self._frames)

    @property
    def fits(self) -> Mapping[str, FitImage]:
        return self.selection.fits

    def frames(self, camera: str) -> UInt8Array:
        """Every cached frame of one camera, (n, h, w, 3) or (n, h, w) for depth, read-only."""
        return self._frames[camera]

    def shape(self, camera: str) -> tuple[int, ...]:
        """The shape of a picture."""
        return self._frames[camera].shape[1:]

    def take(self, camera: str, episodes: Int64Array, rows: Int64Array, clip_rows: Int64Array) -> Any:
        """The pictures of these rows of these episodes, arrays of one shape; `clip_rows` is for other sources of frames."""
        starts = self.starts[episodes]
        if starts.size and starts.min() < 0:
            raise DataError(f"{self.dataset.root}: the frames of episode {episodes.flat[starts.argmin()]} are not cached")
        return self._frames[camera][starts + rows]

    def _check_room(self, show: bool) -> None:
        """Print the size of what is missing, and refuse it if the disk has not the room."""
        missing = missing_bytes(self.dataset, self.selection, self.folders)
        if not missing:
            return
        chosen, rows = _rows_of(self.dataset, self.selection, self.folders)
        shapes = {c: one.row(name, partial(self.selection.row, self.dataset, c)) for c, (name, one) in rows.items()}
        each = ", ".join(f"{camera} {'×'.join(map(str, shape))}" for camera, shape in shapes.items())
        frames, free = int(self.dataset.lengths[list(chosen)].sum()), free_bytes(self.folders[0])
        text = f"{frames} frames of {each}: {gigabytes(missing)} to write in {self.folders[0]}, which has {gigabytes(free)} free"
        if missing > free:
            raise DataError(
                f"the frame cache does not fit on the disk: {text}. Choose a smaller network.image_size, fewer data.cameras or "
                f"data.selections, another folder (--cache DIR or VERBOT_CACHE), or data.frames=decode"
            )
        if show:
            print(f"frame cache: {text}", file=sys.stderr)

    def _decoder(self, camera: str, numbers: Sequence[int]) -> Fill:
        fit = self.selection.fits.get(camera)

        def fill(places: range, ends: Int64Array, out: UInt8Array) -> None:
            def decode(place: int) -> None:
                episode = self.dataset[int(numbers[place])]
                images = episode.images(camera, None, fit)
                if images.shape[1:] != out.shape[1:]:
                    found, expected = ("×".join(map(str, shape[1:3])) for shape in (images.shape, out.shape))
                    raise DataError(
                        f"{self.dataset.root}: camera {camera!r} has pictures of {found} in episode {episode.index}; expected "
                        f"{expected}, as in the first: set network.image_size"
                    )
                out[ends[place] : ends[place + 1]] = images

            with ThreadPoolExecutor(self._threads) as pool:
                list(pool.map(decode, places))

        return fill


def missing_bytes(dataset: Dataset, selection: FrameSelection, folders: Sequence[Path]) -> int:
    """What a `FrameCache` of these frames still has to write."""
    _, rows = _rows_of(dataset, selection, folders)
    return sum(one.missing_bytes(name, partial(selection.row, dataset, camera)) for camera, (name, one) in rows.items())


def _rows_of(
    dataset: Dataset, selection: FrameSelection, folders: Sequence[Path], features: bool = False
) -> tuple[Sequence[int], dict[str, tuple[str, CachedRows]]]:
    """The episodes to cache, and the rows of each camera with their name; a complete cache of all episodes serves any choice."""
    whole = range(len(dataset))
    every = _named_rows(dataset, selection, folders, whole, features)
    if selection.episodes is None or list(selection.episodes) == list(whole):
        return whole, every
    if every and all(one.complete(name) for name, one in every.values()):
        return whole, every
    return selection.episodes, _named_rows(dataset, selection, folders, selection.episodes, features)


def _named_rows(
    dataset: Dataset, selection: FrameSelection, folders: Sequence[Path], numbers: Sequence[int], features: bool
) -> dict[str, tuple[str, CachedRows]]:
    """A size and a choice of episodes are part of the name."""
    found = {}
    for camera in selection.cameras_of(dataset):
        choice = ""
        if not isinstance(numbers, range):
            choice = "+" + running_digests([dataset[int(number)].pictures_identity(camera) for number in numbers])[-1][:8]
        if features:
            rows = CachedRows(dataset, numbers, folders, "features", ".f16", np.float16, FEATURE_BLOCK, camera)
        else:
            suffix, dtype = (".depth", "float32") if is_depth(dataset, camera) else (".rgb", "uint8")
            rows = CachedRows(dataset, numbers, folders, "decoded frames", suffix, dtype, BLOCK, camera)
        found[camera] = f"{camera}{_size_name(selection.fits.get(camera))}{choice}", rows
    return found


def _size_name(fit: FitImage | None) -> str:
    if fit is None or fit.source == fit.target:
        return ""
    usual = fit == FitImage(fit.source, fit.target)  # the centered crop
    return f"@{fit.target[0]}x{fit.target[1]}" + ("" if usual else f"+{hashlib.sha256(repr(fit).encode()).hexdigest()[:8]}")


def camera_of(dataset: Dataset, name: str) -> Camera | None:
    """The camera in the dataset's spec, if it is there."""
    return next((camera for camera in dataset.spec.cameras if camera.name == name), None)


def is_depth(dataset: Dataset, name: str) -> bool:
    known = camera_of(dataset, name)
    return known is not None and known.kind == "depth"


class FeatureCache(RowsAtHand):
    """Features of frames from a frozen encoder, in episode order, as float16; a source of frames without pictures.

    Rounding to float16 has a relative error of at most 0.05 % (half a unit of the eleventh binary place). Numbers below 6e-5
    have an absolute error of at most 3e-8. Frames are decoded for the encoder and not kept.

    Args:
        selection: the cameras, the episodes, and the size in which the encoder sees the frames.
        folders: folders of the caches of decoded frames, beside which the features are.
        key: identifies the encoder and must change whenever the features do. Features of different keys are kept separately.
        compute: maps frames uint8 (n, h, w, 3) to features (n, p, d).
        show: show rate and time left while features are computed.

    Raises `DataError` if features do not fit into float16.
    """

    def __init__(
        self,
        dataset: Dataset,
        selection: FrameSelection,
        folders: Sequence[Path],
        key: str,
        compute: Callable[[UInt8Array], FloatArray],
        show: bool = False,
    ):
        self.dataset, self.selection, self._compute, self._show = dataset, selection, compute, show
        name = hashlib.sha256(key.encode()).hexdigest()[:16]
        self.folders = tuple(folder.with_name("features") / name for folder in folders)
        self._features: dict[str, FeatureArray] = {}
        self.starts = np.full(len(dataset.lengths), -1)  # row of the first frame of each episode; -1 where there are no features
        chosen, rows = _rows_of(dataset, selection, self.folders, features=True)
        for camera, (called, each) in rows.items():
            self.starts[list(chosen)] = each.ends[:-1]
            with ExitStack() as shown:
                self._features[camera] = each.open(called, partial(self._shape, camera), self._encoder(camera, chosen, shown))

    def features(self, camera: str) -> FeatureArray:
        """The features of every frame of these episodes from one camera, (n, p, d), read-only."""
        return self._features[camera]

    @functools.cached_property
    def row(self) -> tuple[int, ...]:
        """The shape (p, d) of the features of one picture, also where there are no cameras."""
        found = next(iter(self._features.values()), None)
        return (self._compute(np.zeros((1, 32, 32, 3), np.uint8)) if found is None else found).shape[1:]

    @property
    def cameras(self) -> tuple[str, ...]:
        return tuple(self._features)

    @property
    def fits(self) -> Mapping[str, FitImage]:
        return self.selection.fits

    def shape(self, camera: str) -> tuple[int, ...]:
        """The shape of a picture as the encoder saw it."""
        return self.selection.row(self.dataset, camera)

    def take(self, camera: str, episodes: Int64Array, rows: Int64Array, clip_rows: Int64Array) -> Any:
        """Raises `DataError`: pictures are not kept."""
        raise DataError(f"{self.dataset.root}: the pictures of camera {camera!r} are not kept, only their features")

    def _shape(self, camera: str) -> tuple[int, ...]:
        first = 0 if self.selection.episodes is None else self.selection.episodes[0]
        return self._compute(self.dataset[first].images(camera, [0], self.fits.get(camera))).shape[1:]

    def _encoder(self, camera: str, numbers: Sequence[int], shown: ExitStack) -> Fill:
        bars = list[Progress]()

        def fill(places: range, ends: Int64Array, out: FeatureArray) -> None:
            if not bars:
                start = int(ends[places.start])
                bars.append(shown.enter_context(Progress(f"encode {camera}", int(ends[-1]), "frames", start, self._show)))
            for place in places:
                frames = self.dataset[int(numbers[place])].images(camera, None, self.fits.get(camera))
                own = out[ends[place] : ends[place + 1]]
                with np.errstate(over="ignore"):
                    for start in range(0, len(frames), FEATURE_BATCH):
                        own[start : start + FEATURE_BATCH] = self._compute(frames[start : start + FEATURE_BATCH])
                bars[0].update(int(ends[place + 1]))
                if not np.isfinite(own).all():
                    raise DataError(
                        f"the features of camera {camera!r} in {self.dataset.root} do not fit into float16 (beyond "
                        f"{np.finfo(np.float16).max:.0f}, or not a number): train with cache_features=False"
                    )

        return fill
