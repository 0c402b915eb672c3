"""Checkpoints: folders that are written atomically and verified when read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from verbot.errors import CorruptFileError
from verbot.training.distributed import shards
from verbot.training.distributed.shards import Shard

if TYPE_CHECKING:
    from verbot.training.distributed.process_group import ProcessGroup

TENSORS, PROGRESS = "tensors.safetensors", "progress.json"


@dataclass
class TrainingProgress:
    """The progress of a run; together with the tensors it determines the next step."""

    step: int = 0
    total: int | None = None  # steps; None until a budget in minutes is converted to steps
    done: float = 0.0  # the completed fraction of the run, for the schedule
    skipped: int = 0  # steps without a finite loss
    skipped_in_a_row: int = 0
    best: float | None = None  # the lowest validation loss
    since_best: int = 0  # validations since the best one
    rounds: int = 0  # completed rounds of corrections
    layout: dict[str, list[int]] = field(default_factory=dict)  # of the weight vector
    seconds: float = 0.0  # training time over all sessions

    def __post_init__(self) -> None:
        """Raise `TypeError` for what a file cannot mean."""
        numbers = (self.total, self.done, self.best, self.seconds)
        counts = (self.step, self.skipped, self.skipped_in_a_row, self.since_best, self.rounds)
        if not all(type(each) is int and each >= 0 for each in counts):
            raise TypeError(f"its counts are {counts}; expected whole numbers")
        if not all(each is None or isinstance(each, int | float) for each in numbers) or not isinstance(self.layout, dict):
            raise TypeError(f"its numbers are {numbers}, or its layout is no table")

    def advance(self) -> None:
        """Count one step; `done` reaches 1 at `total`, smoothly even if `total` changes."""
        if self.total is not None:
            self.done += (1.0 - self.done) / max(1, self.total - self.step)
        self.step += 1


def save(folder: Path, progress: TrainingProgress, tensors: dict[str, Tensor], keep: int = 2) -> Path:
    """Write ``folder/step-00000123`` atomically, then delete all but the newest `keep`."""
    from safetensors.torch import save as serialize

    folder.mkdir(parents=True, exist_ok=True)
    draft = _draft(folder, progress)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    blob = serialize({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
    write_durably(draft / TENSORS, blob)
    return _commit(draft, {**asdict(progress), "sha256": hashlib.sha256(blob).hexdigest()}, keep)


def save_shares(
    folder: Path, progress: TrainingProgress, tensors: dict[str, Tensor], process_group: ProcessGroup, keep: int = 2
) -> None:
    """As `save`, by all processes together: each writes its shard, into a folder that all can access."""
    from safetensors.torch import save_file

    draft, file = _draft(folder, progress), Shard(process_group.rank, process_group.size).file
    if process_group.is_main:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
    process_group.broadcast()
    save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, draft / file)
    write_durably(draft / f"{file}.sha256", shards.sha256(draft / file).encode())
    _sync(draft / file)
    process_group.broadcast()
    if process_group.is_main:
        names = [Shard(rank, process_group.size).file for rank in range(process_group.size)]
        record = {**asdict(progress), "files": {name: (draft / f"{name}.sha256").read_text() for name in names}}
        _commit(draft, record, keep)
    process_group.broadcast()


def _draft(folder: Path, progress: TrainingProgress) -> Path:
    return folder / f".step-{progress.step:08d}.tmp"


def _commit(draft: Path, record: dict[str, object], keep: int) -> Path:
    """Turn the `draft` into a checkpoint, and delete all but the newest `keep`."""
    folder = draft.parent
    write_durably(draft / PROGRESS, json.dumps(record, indent=1).encode())
    sync_folder(draft)
    final = folder / draft.stem[1:]
    if final.exists():  # saved again, e.g. with corrections; if interrupted here, the previous one is used
        shutil.rmtree(final)
    os.replace(draft, final)
    sync_folder(folder)
    for old in found(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def found(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / PROGRESS).is_file())


def load(path: Path, shard: Shard | None = None) -> tuple[TrainingProgress, dict[str, Tensor]]:
    """Inverse of `save` and `save_shares`. Raises `CorruptFileError` for changed files.

    Args:
        shard: the shard to read; None reads the whole vectors.
    """
    from safetensors.torch import load as deserialize

    try:
        record = json.loads((path / PROGRESS).read_bytes())
        if not isinstance(record, dict):
            raise TypeError("it is no table")
        if shard is not None or "files" in record:
            files = record.pop("files", None) or {TENSORS: record.pop("sha256", "")}
            return TrainingProgress(**record), shards.read(path, record["layout"], files, shard or Shard())
        sha256 = record.pop("sha256", None)
        progress, blob = TrainingProgress(**record), (path / TENSORS).read_bytes()
    except (OSError, ValueError, TypeError, KeyError) as error:  # the last two: JSON of another form
        raise CorruptFileError(path, f"cannot be read: {error}") from error
    if hashlib.sha256(blob).hexdigest() != sha256:
        raise CorruptFileError(path / TENSORS, "its sha256 is not the one in progress.json")
    return progress, deserialize(blob)


def load_latest(
    folder: Path, shard: Shard | None = None, process_group: ProcessGroup | None = None
) -> tuple[TrainingProgress, dict[str, Tensor]] | None:
    """The newest valid checkpoint, or None; damaged ones are skipped.

    Args:
        shard: as in `load`.
        process_group: a checkpoint is valid only if all processes can read their shards.
    """
    existing = found(folder)
    for path in reversed(existing):
        loaded, damage = None, None
        try:
            loaded = load(path, shard)
        except CorruptFileError as error:
            damage = error
        sound = loaded is not None if process_group is None else process_group.all(loaded is not None)
        if sound:
            return loaded
        if path == existing[0]:
            raise damage or CorruptFileError(path, "another process cannot read its shard")
    return None


def write_durably(path: Path, content: bytes) -> None:
    """Write and sync to disk before returning."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_durably(path: Path, content: bytes) -> None:
    """Replace a file atomically: at any time `path` has either the old or the new content."""
    draft = path.with_name(f".{path.name}.tmp")
    write_durably(draft, content)
    os.replace(draft, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    _sync(folder)


def _sync(path: Path) -> None:
    """Sync a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
