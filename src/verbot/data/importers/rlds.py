"""RLDS: TFRecord folders in the layout of TensorFlow Datasets, such as Open X-Embodiment, BridgeData V2 and DROID.

The folder holds ``dataset_info.json`` (splits and their shards), ``features.json`` (types and shapes) and shards
``name-split.tfrecord-00000-of-00004``, plain or compressed with GZIP or ZLIB. A folder that contains one version (``1.0.0``), or
one dataset with one version, is accepted too, and so are shards of other names without the two files. A record is one episode.
Every field of its steps, flattened to ``steps/observation/image`` and the like, holds the values of all steps in sequence. Images
are JPEG or PNG, or 8-bit tensors; float64 is stored as float32, and booleans as integers (TensorFlow Datasets' example
serializer). Without ``features.json`` the shapes follow from the number of steps.

All steps are kept unchanged. This includes BridgeData's first step, whose action is zero, and RLDS's last step, whose action was
not executed. A shard that is a link out of the folder is not read; the others are. The instruction of a step is its own sentence;
``language_instruction``, ``language_instruction_2``, … are alternative wordings. An episode's sentence may also be in
``episode_metadata`` or beside the steps. Integers are read as characters, as in language_table. The reward, the discount and the
flags of a step become columns (``next.reward``, …).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from verbot.data.importers import Item, RawEpisode, failing, known_robots, natural, reading, sources
from verbot.data.importers.fields import GUESSED_FIELDS, FieldOptions
from verbot.data.importers.images import FLOATS
from verbot.data.importers.recognition import Recognition, fitting, recognized
from verbot.data.importers.rlds_fields import MALFORMED, read_fields, read_object
from verbot.data.importers.rlds_record import RldsReading, RldsRecord
from verbot.data.importers.tfrecord import RecordFile, RecordLocation, parse_example
from verbot.errors import ConfigError, CorruptFileError, DataError
from verbot.files import below

SHARD = re.compile(r"^(?P<name>.+)-(?P<split>[^-]+)\.tfrecord-(?P<number>\d+)(-of-(?P<count>\d+))?(\.gz)?$")
OTHER = re.compile(r".*\.tfrecords?([.-].*)?$")  # shards that other writers named
SPLITS = ("train", "val", "validation", "test")
SUSPECTS = {"droid": ("droid", "r2d2"), "bridge": ("bridge",)}
MOST_SHARDS = 100_000  # of a split, by the names of its files
FIRST = 8  # so many records are tried for a readable one


@sources.register("rlds", needs=("google_crc32c",))
class Rlds:
    """A folder of TensorFlow Datasets.

    Args:
        split: the split to import; ``"all"`` imports every split.
        fields: fields of the steps; a name like ``image`` stands for ``observation/image``.
        floats: the range of pictures stored as floats; see `verbot.data.importers.images.frames_of`.
    """

    about = "a folder with dataset_info.json, features.json and .tfrecord shards"

    def __init__(
        self,
        path: Path,
        robot: str | None = None,
        split: str = "train",
        fields: FieldOptions = GUESSED_FIELDS,
        floats: str = "auto",
    ):
        if floats not in FLOATS:
            raise ConfigError(f"floats must be one of {', '.join(FLOATS)}; got {floats!r}")
        self._root = _folder(path)
        info = read_object(self._root / "dataset_info.json")
        self._fields = read_fields(self._root / "features.json")
        with reading(self._root / "dataset_info.json", *MALFORMED):
            self._shards = list(_shards(self._root, info, str(split)))
        first = self._first()
        found = (
            Recognition(known_robots.known(robot)) if robot else _recognized(str(info.get("name") or _name(self._root)), first)
        )
        self.robot, self.recognition = found.robot, found.evidence
        self.rate_hz = self.robot.rate_hz
        self.total: int | None = sum(count for _, count in self._shards if count is not None) or None
        self._reading = RldsReading(self.robot, self._fields, fields, {}, floats)
        if first is not None and floats == "auto":  # the first episode decides the range of float pictures for all
            try:
                first.episode(self._reading)
            except DataError:
                pass  # the episode is named when it is imported

    @staticmethod
    def recognizes(path: Path) -> bool:
        return path.is_dir() and bool(_candidates(path))

    def items(self) -> Iterator[Item]:
        for shard, expected in self._shards:
            count = 0
            try:
                file = self._file(shard)
                for record in file.records():
                    count += not record.problem
                    if record.problem and expected is not None:
                        record = replace(record, problem=f"{record.problem}; dataset_info.json counts {expected} records")
                    yield Item(f"{shard.name}, record {record.index}", partial(self._read, file, record))
                    if record.problem:
                        break
                else:
                    if expected is not None and count != expected:
                        why = f"holds {count} records; dataset_info.json counts {expected}"
                        yield Item(f"{shard.name}, record {count}", failing(CorruptFileError(shard, why)))
            except DataError as error:
                yield Item(shard.name, failing(error))

    def _file(self, shard: Path) -> RecordFile:
        """Raises `DataError` for a shard that is a link out of the folder, which is not followed."""
        return RecordFile(below(self._root, shard.relative_to(self._root).as_posix()))

    def _read(self, file: RecordFile, record: RecordLocation) -> RawEpisode:
        return self._record(file, record).episode(self._reading)

    def _record(self, file: RecordFile, record: RecordLocation) -> RldsRecord:
        name = f"{file.path}, record {record.index}"
        return RldsRecord(parse_example(file.read(record), name), self._fields, name)

    def _first(self) -> RldsRecord | None:
        """The first readable record; None if there is none among the first few."""
        tried = 0
        for shard, _ in self._shards:
            try:
                file = self._file(shard)
                for record in file.records():
                    tried += 1
                    try:
                        found = self._record(file, record)
                        if found.length:
                            return found
                    except DataError:
                        if tried >= FIRST:
                            return None
            except DataError:
                tried += 1
        return None


def _recognized(name: str, first: RldsRecord | None) -> Recognition:
    """The robot according to the dataset's name and its first record."""
    open_x = known_robots.known("open_x")
    if first is None:
        return Recognition(open_x)
    found = recognized(name, SUSPECTS, first.numbers)
    if found is not None and found.robot.name != open_x.name:
        return found
    robot, problems = fitting(open_x, first.numbers)
    named = [field for field in robot.action if field in first.numbers]
    texts = [found.evidence if found is not None else "", problems and f"taken as kind other: {problems}"]
    texts += [f"the names and values of Open X-Embodiment's {', '.join(named)}"] if named else []
    return Recognition(robot, "; ".join(filter(None, texts)))


def _name(root: Path) -> str:
    """The dataset's name by its folder, which may be that of a version."""
    return root.parent.name if re.fullmatch(r"\d+\.\d+\.\d+", root.name) else root.name


def _candidates(path: Path) -> list[Path]:
    """The dataset folders among `path`, its subfolders (versions), and theirs (versions of datasets)."""
    found: list[Path] = []
    level = [path]
    for _ in range(3):
        found += [folder for folder in level if _is_dataset(folder)]
        if found:
            break
        level = [entry for folder in level for entry in _entries(folder) if entry.is_dir()]
    return found


def _is_dataset(folder: Path) -> bool:
    return any(entry.name == "features.json" or _is_shard(entry.name) for entry in _entries(folder) if entry.is_file())


def _entries(folder: Path) -> list[Path]:
    """What is in a folder; nothing if it may not be read."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _is_shard(name: str) -> bool:
    return bool(SHARD.match(name) or OTHER.match(name))


def _folder(path: Path) -> Path:
    found = _candidates(path) if path.is_dir() else []
    if not found:
        raise DataError(f"{path} has neither features.json nor a .tfrecord shard")
    if len(found) > 1:
        if len({folder.parent for folder in found}) == 1:
            raise DataError(f"{path} has several versions: {', '.join(folder.name for folder in found)}; name one of them")
        raise DataError(f"{path} has several datasets: {', '.join(str(folder.relative_to(path)) for folder in found)}; name one")
    return found[0]


def _shards(root: Path, info: Mapping[str, Any], split: str) -> Iterator[tuple[Path, int | None]]:
    """(path, expected number of records or None) of each shard of a split, including missing ones."""
    entries = sorted((entry.name for entry in root.iterdir() if entry.is_file() and _is_shard(entry.name)), key=natural)
    found: dict[str, list[re.Match[str]]] = {}
    others: dict[str, list[str]] = {}
    for name in entries:
        match = SHARD.match(name)
        if match:
            found.setdefault(match["split"], []).append(match)
        else:
            word = next((word for word in re.split(r"[^a-z]+", name.lower()) if word in SPLITS), "train")
            others.setdefault(word, []).append(name)
    lengths = {str(entry["name"]): [_count(n) for n in entry.get("shardLengths", ())] for entry in info.get("splits", ())}
    names = sorted({*found, *lengths, *others})
    chosen = names if split == "all" else [split]
    if not set(chosen) & set(names):
        raise DataError(f"{root} has no split {split!r}; it has {', '.join(names) or 'none'}")
    for name in chosen:
        matches, counts = found.get(name, []), lengths.get(name, [])
        if not matches and name in others:
            exact = counts if len(counts) == len(others[name]) else [None] * len(others[name])
            yield from ((root / other, count) for other, count in zip(others[name], exact, strict=True))
            continue
        stem = matches[0]["name"] if matches else info.get("name", root.parent.name)
        total = max([len(counts), *(int(match["count"] or 0) for match in matches)])
        if total > MOST_SHARDS:
            raise CorruptFileError(root, f"says that split {name!r} has {total} shards; at most {MOST_SHARDS} are read")
        below(root, f"{stem}-{name}.tfrecord", "dataset_info.json")  # no name of an absent shard leads outside
        present = {int(match["number"]): match.string for match in matches}
        for number in range(max(total, len(matches))):
            absent = f"{stem}-{name}.tfrecord-{number:05d}-of-{total:05d}"
            yield root / present.get(number, absent), counts[number] if number < len(counts) else None


def _count(value: Any) -> int:
    count = int(value)
    if count < 0:
        raise ValueError(f"a shard of {count} records")
    return count
