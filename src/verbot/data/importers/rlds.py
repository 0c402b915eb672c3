"""RLDS: TFRecord folders in the layout of TensorFlow Datasets, such as Open X-Embodiment, BridgeData V2 and DROID.

The folder holds ``dataset_info.json`` (splits and their shards), ``features.json`` (types and shapes) and shards
``name-split.tfrecord-00000-of-00004``. A folder that contains one version (``1.0.0``) is accepted too. A record is one episode.
Every field of its steps, flattened to ``steps/observation/image`` and the like, holds the values of all steps in sequence. Images
are JPEG or PNG, float64 is stored as float32, and booleans as integers (TensorFlow Datasets' example serializer). Without
``features.json`` the shapes follow from the number of steps.

All steps are kept unchanged. This includes BridgeData's first step, whose action is zero, and RLDS's last step, whose action was
not executed. The instructions are all sentences of the steps, in order. Integers are read as characters, as in language_table.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from verbot.data.importers import WIDEST, Item, RawEpisode, failing, known_robots, listed, natural, pick, reading, sources, unique
from verbot.data.importers.images import decode_all
from verbot.data.importers.known_robots import KnownRobot
from verbot.data.importers.tfrecord import Feature, parse_example, read_record, records
from verbot.errors import CorruptFileError, DataError
from verbot.spec import UInt8Array

SHARD = re.compile(r"^(?P<name>.+)-(?P<split>[^-]+)\.tfrecord-(?P<number>\d+)(-of-(?P<count>\d+))?$")
STEPS, OBSERVATION, METADATA = "steps/", "observation/", "episode_metadata/"
LANGUAGE = (
    "language_instruction",
    "language_instruction_2",
    "language_instruction_3",
    "language_text",
    "observation/natural_language_instruction",
    "observation/instruction",
)
FLAGS = {"is_first", "is_last", "is_terminal", "discount", "reward"}
PICTURE = (b"\xff\xd8\xff", b"\x89PNG")


@dataclass(frozen=True)
class Field:
    """A field as described in ``features.json``. `shape` is of one step, with None for a dimension that varies."""

    kind: str  # "image", "text" or a dtype
    shape: tuple[int | None, ...] = ()
    encoding: str = "none"

    @property
    def size(self) -> int | None:
        """Numbers per step; None if it varies."""
        fixed = [length for length in self.shape if length is not None]
        return int(np.prod(fixed, dtype=int)) if len(fixed) == len(self.shape) else None


@sources.register("rlds", needs=("google_crc32c",))
class Rlds:
    """A folder of TensorFlow Datasets.

    Args:
        split: the split to import; ``"all"`` imports every split.
        state, action, images: fields of the steps, separated by commas.
    """

    about = "a folder with dataset_info.json, features.json and .tfrecord shards"
    recognition = ""

    def __init__(
        self,
        path: Path,
        robot: str | None = None,
        split: str = "train",
        state: Any = (),
        action: Any = (),
        images: Any = (),
    ):
        self._root = _folder(path)
        info = _json(self._root / "dataset_info.json")
        with reading(self._root / "features.json", KeyError, TypeError, AttributeError, ValueError):
            self._fields = {key: _described(value) for key, value in _flattened(_json(self._root / "features.json"))}
        with reading(self._root / "dataset_info.json", KeyError, TypeError, AttributeError, ValueError):
            self._shards = list(_shards(self._root, info, split))
        self._wanted = {"state": listed(state), "action": listed(action), "images": listed(images)}
        self._first_fields = {key.removeprefix(STEPS) for key in self._fields}
        self.robot = known_robots.known(robot) if robot else _recognized(self._root, info, self._first_fields)
        self.rate_hz = self.robot.rate_hz
        self.total: int | None = sum(count for _, count in self._shards if count is not None) or None

    @staticmethod
    def recognizes(path: Path) -> bool:
        return path.is_dir() and bool(_candidates(path))

    def items(self) -> Iterator[Item]:
        for shard, expected in self._shards:
            count = 0
            try:
                for record in records(shard):
                    count += not record.problem
                    if record.problem and expected is not None:
                        record = replace(record, problem=f"{record.problem}; dataset_info.json counts {expected} records")
                    yield Item(f"{shard.name}, record {record.index}", partial(self._read, shard, record))
                    if record.problem:
                        break
                else:
                    if expected is not None and count != expected:
                        why = f"holds {count} records; dataset_info.json counts {expected}"
                        yield Item(f"{shard.name}, record {count}", failing(CorruptFileError(shard, why)))
            except CorruptFileError as error:
                yield Item(shard.name, failing(error))

    def _read(self, shard: Path, record: Any) -> RawEpisode:
        name = f"{shard}, record {record.index}"
        example = parse_example(read_record(shard, record), name)
        steps = {key.removeprefix(STEPS): value for key, value in example.items() if key.startswith(STEPS)}
        if not steps:
            raise DataError(f"{name} has no {STEPS}…, so it is not RLDS; it has {', '.join(example) or 'nothing'}")
        length = self._length(steps, name)
        numbers = {key: array for key in sorted(steps) if (array := self._array(key, steps[key], length, name)) is not None}
        pictures = [key for key in sorted(steps) if self._is_picture(key, steps[key])]
        state, action = self._vectors("state", numbers, name), self._vectors("action", numbers, name)
        known = [key for key in self.robot.camera_fields if key in pictures]
        wanted = _full(self._wanted["images"], pictures) or known or [key for key in pictures if "depth" not in key]
        cameras: dict[str, Callable[[], UInt8Array]] = {}
        for key in pick(tuple(wanted), dict.fromkeys(pictures), "pictures", name):
            camera = self.robot.cameras.get(key, key.removeprefix(OBSERVATION).replace("/", "_"))
            cameras[camera] = partial(decode_all, steps[key], f"{name}, {key}")
        metadata = {key.removeprefix(METADATA): _plain(value) for key, value in example.items() if key.startswith(METADATA)}
        extras = {"episode_metadata": metadata} if metadata else {}
        return RawEpisode(state, action, cameras, self._sentences(steps, length), extras)

    def _length(self, steps: Mapping[str, Feature], name: str) -> int:
        """The number of steps of the episode, from its flags, or else from its images."""
        for key in ("is_first", "is_last", "is_terminal"):
            if len(steps.get(key, ())):
                return len(steps[key])
        for key, value in steps.items():
            if self._is_picture(key, value):
                return len(value)
        raise DataError(f"{name}: the number of steps is unknown: it has no is_first, is_last, is_terminal and no image")

    def _array(self, key: str, value: Feature, length: int, name: str) -> np.ndarray | None:
        """The numbers of one field, (t, …); None for text and images."""
        field = self._fields.get(STEPS + key)
        if isinstance(value, list):
            if field is None or field.encoding == "none" or field.kind in ("image", "text", "string"):
                return None
            value = _unpacked(value, field, f"{name}, {key}")
        if not length or value.size % length or not value.size:
            raise DataError(f"{name}: {key} has {value.size} numbers for {length} steps")
        rows = value.reshape(length, -1)
        if field is not None and field.size not in (None, rows.shape[1]):
            raise DataError(f"{name}: {key} has {value.size} numbers for {length} steps of shape {field.shape}")
        return rows

    def _is_picture(self, key: str, value: Feature) -> bool:
        field = self._fields.get(STEPS + key)
        if field is not None:
            return field.kind == "image"
        return isinstance(value, list) and bool(value) and value[0].startswith(PICTURE)

    def _vectors(self, label: str, numbers: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
        meaning, usual = (
            (self.robot.state, self.robot.state_fields) if label == "state" else (self.robot.action, self.robot.action_fields)
        )
        wanted = self._wanted[label]
        if wanted:
            chosen = pick(tuple(_full(wanted, numbers)), numbers, f"{label} field", name)
        elif usual:
            chosen = pick(usual, numbers, f"{label} field", name)
        else:
            chosen = _generic_state(numbers) if label == "state" else _generic_action(numbers, meaning, name)
        return {key: numbers[key] for key in chosen}

    def _sentences(self, steps: Mapping[str, Feature], length: int) -> tuple[str, ...] | None:
        present = [key for key in LANGUAGE if key in steps]
        if not present:
            return None
        sentences: list[str] = []
        for key in present:
            value = steps[key]
            if isinstance(value, list):
                sentences += [sentence.decode(errors="replace") for sentence in dict.fromkeys(value)]
            else:
                rows = dict.fromkeys(map(tuple, value.reshape(length, -1).tolist())) if length else ()
                sentences += ["".join(map(chr, row)).partition("\0")[0] for row in rows]
        return unique(sentences)


def _candidates(path: Path) -> list[Path]:
    """The dataset folders among `path` and its subfolders."""
    folders = [path, *(entry for entry in path.iterdir() if entry.is_dir())]
    return [folder for folder in folders if (folder / "features.json").is_file() or next(folder.glob("*.tfrecord-*"), None)]


def _folder(path: Path) -> Path:
    found = _candidates(path) if path.is_dir() else []
    if not found:
        raise DataError(f"{path} has neither features.json nor a .tfrecord shard")
    if path not in found and len(found) > 1:
        raise DataError(f"{path} has several versions: {', '.join(sorted(folder.name for folder in found))}; name one of them")
    return path if path in found else found[0]


def _json(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    with reading(path, OSError, ValueError):
        content = json.loads(path.read_text())
    return content if isinstance(content, dict) else {}


def _shards(root: Path, info: Mapping[str, Any], split: str) -> Iterator[tuple[Path, int | None]]:
    """(path, expected number of records or None) of each shard of a split, including missing ones."""
    found: dict[str, list[re.Match[str]]] = {}
    for match in filter(None, (SHARD.match(path.name) for path in sorted(root.iterdir(), key=lambda p: natural(p.name)))):
        found.setdefault(match["split"], []).append(match)
    lengths = {entry["name"]: [int(n) for n in entry.get("shardLengths", ())] for entry in info.get("splits", ())}
    names = sorted({*found, *lengths})
    chosen = names if split == "all" else [split]
    if not set(chosen) & set(names):
        raise DataError(f"{root} has no split {split!r}; it has {', '.join(names) or 'none'}")
    for name in chosen:
        matches, counts = found.get(name, []), lengths.get(name, [])
        stem = matches[0]["name"] if matches else info.get("name", root.parent.name)
        total = max([len(counts), *(int(match["count"] or 0) for match in matches)])
        present = {int(match["number"]): match.string for match in matches}
        for number in range(max(total, len(matches))):
            absent = f"{stem}-{name}.tfrecord-{number:05d}-of-{total:05d}"
            yield root / present.get(number, absent), counts[number] if number < len(counts) else None


def _flattened(node: Mapping[str, Any], stem: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(flat name, description) of every field in ``features.json``."""
    if "featuresDict" in node:
        for key, inner in node["featuresDict"]["features"].items():
            yield from _flattened(inner, f"{stem}/{key}" if stem else key)
    elif "sequence" in node:
        yield from _flattened(node["sequence"]["feature"], stem)
    elif node:
        yield stem, node


def _described(node: Mapping[str, Any]) -> Field:
    if "image" in node:
        return Field("image")
    if "text" in node:
        return Field("text")
    tensor = node.get("tensor", {})
    sizes = tensor.get("shape", {}).get("dimensions", ())
    return Field(tensor.get("dtype", ""), tuple(None if int(n) < 0 else int(n) for n in sizes), tensor.get("encoding", "none"))


def _unpacked(contents: list[bytes], field: Field, name: str) -> np.ndarray:
    """Numbers stored as bytes, one tensor each (TensorFlow Datasets' encodings ``bytes`` and ``zlib``)."""
    with reading(name, zlib.error, ValueError, TypeError):
        raw = [zlib.decompress(content) if field.encoding == "zlib" else content for content in contents]
        return np.frombuffer(b"".join(raw), np.dtype(field.kind).newbyteorder("<"))


def _recognized(root: Path, info: Mapping[str, Any], fields: set[str]) -> KnownRobot:
    name = str(info.get("name") or root.parent.name)
    if "action_dict/joint_position" in fields or name.startswith(("droid", "r2d2")):
        return known_robots.known("droid")
    return known_robots.known("bridge" if name.startswith("bridge") and {"observation/image_0", "action"} <= fields else "open_x")


def _full(wanted: tuple[str, ...], known: Any) -> list[str]:
    """Complete short names: ``image`` becomes ``observation/image`` if only that exists."""
    stems = ("", OBSERVATION, "action/", "action_dict/")
    return [next((stem + name for stem in stems if stem + name in known), name) for name in wanted]


def _generic_state(numbers: Mapping[str, np.ndarray]) -> list[str]:
    """``observation/state`` or ``observation/proprio``; otherwise every vector of floats that is not an embedding."""
    for key in (f"{OBSERVATION}state", f"{OBSERVATION}proprio"):
        if key in numbers:
            return [key]
    vectors = [key for key, rows in numbers.items() if key.startswith(OBSERVATION) and rows.dtype.kind == "f"]
    return [key for key in vectors if "embedding" not in key and numbers[key].shape[1] <= WIDEST]


def _generic_action(numbers: Mapping[str, np.ndarray], meaning: known_robots.Meaning, name: str) -> list[str]:
    """``action``; otherwise the parts of an action dictionary, known ones first, without ``terminate_episode``."""
    if "action" in numbers:
        return ["action"]
    parts = [key for key in numbers if key.startswith("action/") and not key.endswith("terminate_episode")]
    if not parts:
        raise DataError(f"{name} has no action; its numbers are {', '.join(set(numbers) - FLAGS) or 'none'}")
    return sorted(parts, key=lambda key: (list(meaning).index(key) if key in meaning else len(meaning), key))


def _plain(value: Feature) -> Any:
    values = [item.decode(errors="replace") for item in value] if isinstance(value, list) else value.tolist()
    return values[0] if len(values) == 1 else values
