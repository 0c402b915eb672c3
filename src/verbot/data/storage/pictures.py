"""Pictures of any rows of any episodes, with the videos that were read last kept open."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from verbot.data.storage.video import Decoder, EpisodeVideo
from verbot.errors import CorruptFileError
from verbot.transforms import FitImage

OPEN_VIDEOS = 32  # each holds its index and a few decoded frames


class HasPictures(Protocol):
    """What a `verbot.data.storage.reader.Episode` says of its pictures."""

    @property
    def index(self) -> int: ...

    def __len__(self) -> int: ...

    def video(self, camera: str) -> EpisodeVideo | None: ...

    def stored_images(self, camera: str, rows: Sequence[int] | None = None) -> Any: ...


class PictureReader:
    """Reads pictures of episodes. Use as a context manager, in one thread.

    Args:
        fits: how the pictures of a camera are cropped and resized; a camera that is not named keeps its size.
        open_videos: number of videos that stay open.
    """

    def __init__(self, fits: Mapping[str, FitImage] | None = None, open_videos: int = OPEN_VIDEOS):
        self._fits, self._limit = fits or {}, open_videos
        self._open: OrderedDict[object, Decoder] = OrderedDict()

    def __enter__(self) -> PictureReader:
        return self

    def __exit__(self, *exception: object) -> None:
        for decoder in self._open.values():
            decoder.close()
        self._open.clear()

    def read(self, episode: HasPictures, camera: str, rows: Sequence[int] | npt.NDArray[np.int64] | None = None) -> Any:
        """The pictures of these rows of `episode`, of all if None; see `Episode.images`."""
        video, fit = episode.video(camera), self._fits.get(camera)
        if video is None:
            return fitted(_stored(episode, camera, rows), fit, f"camera {camera!r} of episode {episode.index}")
        times, numbers = video.times_s, None if rows is None else np.asarray(rows, np.int64).tolist()
        if numbers is not None:
            times = times[numbers]
        return self._decoder(video, camera).frames_at(times, fit, video.depth, video.episode, numbers)

    def _decoder(self, video: EpisodeVideo, camera: str) -> Decoder:
        key = video.name, camera  # in the journal, the videos of an episode have one name
        if key not in self._open:
            while len(self._open) >= self._limit:
                self._open.popitem(last=False)[1].close()
            self._open[key] = video.open()
        self._open.move_to_end(key)
        return self._open[key]


def _stored(episode: HasPictures, camera: str, rows: Sequence[int] | npt.NDArray[np.int64] | None) -> Any:
    """Pictures that are stored one by one; each is decoded once, and no other."""
    if rows is None:
        return episode.stored_images(camera)
    wanted = np.arange(len(episode))[np.asarray(rows, np.int64)]
    distinct, places = np.unique(wanted, return_inverse=True)
    return episode.stored_images(camera, distinct.tolist() or [0])[places]  # without rows, one picture says their size


def fitted(images: Any, fit: FitImage | None, name: str) -> Any:
    """Stored pictures (t, h, w, 3), cropped and resized. Raises `CorruptFileError` if `fit` expects another size."""
    if fit is None:
        return images
    if images.shape[1:3] != fit.source:
        found, expected = ("×".join(map(str, size)) for size in (images.shape[1:3], fit.source))
        raise CorruptFileError(name, f"has pictures of {found}; expected {expected}, as the dataset says")
    return fit.forward(images)
