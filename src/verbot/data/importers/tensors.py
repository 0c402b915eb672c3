"""Tensor files, read without pickle: ``.safetensors``, ``.npz`` and ``.pt`` (``weights_only``); one or a folder of them.

A file holds these tensors:

- `actions` (t, a);
- `observations`: images (t, h, w, 3) or vectors (t, s), or several of them as ``observations.front``, ``observations.state``, …;
- `episode_indices` (t,); without it the file is one episode;
- `language`: one sentence per frame, per episode (in the order in which episodes begin), or one for all.

Sentences are text in ``.npz`` and ``.pt``. Safetensors has no text: there they are uint8 (n, bytes), UTF-8 padded with zeros, or
a JSON list under ``language`` in the metadata.

A safetensors file is read one episode at a time. The other formats require reading the whole file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from verbot.data.importers import Item, RawEpisode, failing, files_of, known_robots, reading, sources, unique
from verbot.data.importers.images import frames_of
from verbot.errors import CorruptFileError, DataError
from verbot.spec import UInt8Array

SUFFIXES = (".safetensors", ".npz", ".pt", ".pth")
OBSERVATIONS, ACTIONS, EPISODES, LANGUAGE = "observations", "actions", "episode_indices", "language"
STATES = ("states", "robot_states", "state", "robot_state")
Reader = Callable[[np.ndarray], np.ndarray]  # row numbers to rows


@sources.register("tensors")
class Tensors:
    """Tensor files.

    Args:
        floats: the range of images stored as floats; see `verbot.data.importers.images.frames_of`.
    """

    about = "a .safetensors, .npz or .pt file with actions, observations, language and episode_indices, or a folder of them"
    recognition = ""

    def __init__(self, path: Path, robot: str | None = None, floats: str = "auto"):
        self._paths, self._floats = files_of(path, *SUFFIXES), floats
        if not self._paths:
            raise DataError(f"{path} has no file that ends with {', '.join(SUFFIXES)}")
        self.robot = known_robots.known(robot or "generic")
        self.rate_hz = self.robot.rate_hz
        self.total: int | None = None

    @staticmethod
    def recognizes(path: Path) -> bool:
        return path.name.endswith(SUFFIXES) if path.is_file() else bool(files_of(path, *SUFFIXES))

    def items(self) -> Iterator[Item]:
        for path in self._paths:
            try:
                tensors = _opened(path)
                episodes = tensors.episodes()
            except DataError as error:
                yield Item(path.name, failing(error))
                continue
            for place, (number, rows) in enumerate(episodes):
                yield Item(f"{path.name}, episode {number}", partial(self._read, tensors, rows, place, len(episodes)))

    def _read(self, tensors: _File, rows: np.ndarray, place: int, count: int) -> RawEpisode:
        state: dict[str, np.ndarray] = {}
        cameras: dict[str, Callable[[], UInt8Array]] = {}
        for key in tensors.readers:
            stem, _, rest = key.replace("/", ".").partition(".")
            if stem not in (OBSERVATIONS, "images", *STATES):
                continue
            shape = tensors.shapes[key]
            if len(shape) <= 2 and stem != "images":
                state[rest or ("state" if stem == OBSERVATIONS else stem)] = tensors.rows(key, rows)
            else:
                cameras[rest or "image"] = partial(self._frames, tensors, key, rows)
        return RawEpisode(
            state=state,
            action={ACTIONS: tensors.rows(ACTIONS, rows)},
            cameras=cameras,
            instructions=tensors.sentences(rows, place, count),
        )

    def _frames(self, tensors: _File, key: str, rows: np.ndarray) -> UInt8Array:
        return frames_of(tensors.rows(key, rows), f"{tensors.path.name}, {key}", self._floats)


class _File:
    """The content of a tensor file: a reader and a shape by name, and the sentences if they are text."""

    def __init__(self, path: Path, readers: Mapping[str, Reader], shapes: Mapping[str, tuple[int, ...]], text: Any = None):
        self.path, self.readers, self.shapes, self._text = path, readers, shapes, text
        if ACTIONS not in readers:
            raise DataError(f"{path} has no tensor {ACTIONS!r}; it has {', '.join(readers) or 'none'}")
        if text is not None and not isinstance(text, list | tuple | np.ndarray):
            raise DataError(f"{path}: {LANGUAGE} is {type(text).__name__}; expected a list of sentences")
        self._length = shapes[ACTIONS][0] if shapes[ACTIONS] else 0
        for key in readers:
            stem = key.replace("/", ".").partition(".")[0]
            if stem in (OBSERVATIONS, "images", *STATES, EPISODES) and shapes[key][:1] != (self._length,):
                raise DataError(f"{path}: {key} has shape {shapes[key]} for {self._length} actions")

    def rows(self, key: str, rows: np.ndarray) -> np.ndarray:
        with reading(f"{self.path}, {key}", OSError, ValueError, RuntimeError):
            return self.readers[key](rows)

    def episodes(self) -> list[tuple[int, np.ndarray]]:
        """(episode number, its row numbers), in the order in which episodes begin."""
        everything = np.arange(self._length)
        if EPISODES not in self.readers:
            return [(0, everything)] if self._length else []
        indices = self.rows(EPISODES, everything).reshape(-1)
        if not np.issubdtype(indices.dtype, np.integer):
            raise DataError(f"{self.path}: {EPISODES} are {indices.dtype}; expected integers")
        numbers, first = np.unique(indices, return_index=True)
        return [(int(number), np.flatnonzero(indices == number)) for number in numbers[np.argsort(first)]]

    def sentences(self, rows: np.ndarray, place: int, count: int) -> tuple[str, ...] | None:
        if self._text is None and LANGUAGE not in self.readers:
            return None
        texts = self._text if self._text is not None else _utf8(self.readers[LANGUAGE], self.shapes[LANGUAGE], self.path)
        lengths = {self._length: rows, count: np.array([place]), 1: np.array([0])}
        if len(texts) not in lengths:
            raise DataError(
                f"{self.path}: {LANGUAGE} has {len(texts)} sentences; expected one a frame ({self._length}), "
                f"one an episode ({count}) or one"
            )
        return unique(str(texts[i]) for i in lengths[len(texts)])


def _opened(path: Path) -> _File:
    if path.suffix == ".safetensors":
        return _safetensors(path)
    return _arrays(path, *(_npz(path) if path.suffix == ".npz" else _torch(path)))


def _safetensors(path: Path) -> _File:
    from safetensors import SafetensorError, safe_open

    with reading(path, SafetensorError, OSError):
        handle = safe_open(str(path), framework="numpy")
        slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118
        shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
        metadata = handle.metadata() or {}

    def reader(name: str) -> Reader:
        def read(rows: np.ndarray) -> np.ndarray:
            with reading(f"{path}, {name}", SafetensorError):
                if not len(rows):
                    return np.zeros((0, *shapes[name][1:]))
                start, stop = int(rows[0]), int(rows[-1]) + 1
                return slices[name][start:stop][rows - start]

        return read

    text = metadata.get(LANGUAGE)
    with reading(f"{path}, metadata {LANGUAGE!r}", json.JSONDecodeError):
        sentences = None if text is None else json.loads(text)
    sentences = [sentences] if isinstance(sentences, str) else sentences
    return _File(path, {name: reader(name) for name in slices}, shapes, sentences)


def _npz(path: Path) -> tuple[dict[str, np.ndarray], Any]:
    import tokenize
    import zipfile
    import zlib

    broken = (OSError, ValueError, EOFError, SyntaxError, NotImplementedError, MemoryError, tokenize.TokenError)
    with reading(path, *broken, zipfile.BadZipFile, zlib.error):
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    text = arrays.pop(LANGUAGE).reshape(-1) if arrays.get(LANGUAGE, np.zeros(0)).dtype.kind == "U" else None
    return arrays, text


def _torch(path: Path) -> tuple[dict[str, np.ndarray], Any]:
    from pickle import UnpicklingError  # torch raises it for unsafe files; nothing here unpickles

    import torch

    with reading(path, OSError, RuntimeError, EOFError, UnpicklingError):
        content = torch.load(path, map_location="cpu", weights_only=True)  # accepts only tensors and plain values
    if not isinstance(content, dict):
        raise DataError(f"{path} holds {type(content).__name__}; expected a dictionary of tensors")
    flat = dict(_flat(content))
    language = flat.pop(LANGUAGE, None) if not isinstance(flat.get(LANGUAGE), torch.Tensor) else None
    text = [language] if isinstance(language, str) else language
    other = [name for name, value in flat.items() if not isinstance(value, torch.Tensor)]
    if other:
        raise DataError(f"{path}: {', '.join(other)} are not tensors")
    return {name: (value.float() if value.dtype is torch.bfloat16 else value).numpy() for name, value in flat.items()}, text


def _flat(content: Mapping[Any, Any], stem: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{stem}{name}.")
        else:
            yield f"{stem}{name}", value


def _arrays(path: Path, arrays: Mapping[str, np.ndarray], text: Any) -> _File:
    def reader(name: str) -> Reader:
        return lambda rows: arrays[name][rows]

    return _File(path, {name: reader(name) for name in arrays}, {name: array.shape for name, array in arrays.items()}, text)


def _utf8(read: Reader, shape: tuple[int, ...], path: Path) -> list[str]:
    rows = read(np.arange(shape[0] if shape else 0))
    if rows.dtype != np.uint8 or rows.ndim not in (1, 2):
        raise DataError(
            f"{path}: {LANGUAGE} is {rows.dtype} {shape}, such as embeddings; expected text, or UTF-8 as uint8 (n, bytes)"
        )
    try:
        return [row.tobytes().rstrip(b"\0").decode() for row in np.atleast_2d(rows)]
    except UnicodeDecodeError as error:
        raise CorruptFileError(path, f"{LANGUAGE} is not UTF-8 ({error})") from error
