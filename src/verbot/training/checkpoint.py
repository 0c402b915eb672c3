"""Checkpoints: folders that are written atomically and verified when read."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from verbot.drafts import remove
from verbot.errors import CheckpointWarning, CorruptFileError, UnwritableError
from verbot.files import read_record, sha256, sync, write_atomic
from verbot.folders import remove_folder, replace_folder, write_folder
from verbot.training.distributed import shards
from verbot.training.distributed.shards import Shard

if TYPE_CHECKING:
    from verbot.training.distributed.process_group import ProcessGroup

TENSORS, PROGRESS = "tensors.safetensors", "progress.json"
NAME = re.compile(r"step-\d{8,}")


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
    """Write ``folder/step-00000123`` atomically, then delete all but the newest `keep`. Raises `UnwritableError`."""
    from safetensors.torch import save as serialize

    blob = serialize({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
    record = {**asdict(progress), "sha256": sha256(blob)}
    final = _final(folder, progress)
    write_folder(final, {TENSORS: blob, PROGRESS: json.dumps(record, indent=1).encode()})
    _prune(folder, keep)
    return final


def save_shares(
    folder: Path, progress: TrainingProgress, tensors: dict[str, Tensor], process_group: ProcessGroup, keep: int = 2
) -> None:
    """As `save`, by all processes together: each writes its shard, into a folder that all can access."""
    draft, file = folder / f".{_final(folder, progress).name}.tmp", Shard(process_group.rank, process_group.size).file
    if process_group.is_main:
        remove(draft)
        try:
            draft.mkdir(parents=True)
        except OSError as error:
            raise UnwritableError(_final(folder, progress), error) from error
    process_group.broadcast()
    _write_shard(draft / file, tensors)
    process_group.broadcast()
    if process_group.is_main:
        names = [Shard(rank, process_group.size).file for rank in range(process_group.size)]
        try:
            record = {**asdict(progress), "files": {name: (draft / f"{name}.sha256").read_text() for name in names}}
        except OSError as error:
            raise UnwritableError(_final(folder, progress), error) from error
        write_atomic(draft / PROGRESS, json.dumps(record, indent=1))
        replace_folder(draft, _final(folder, progress))
        _prune(folder, keep)
    process_group.broadcast()


def _write_shard(path: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, path)
        sync(path)
    except (OSError, SafetensorError) as error:
        raise UnwritableError(path, error if isinstance(error, OSError) else OSError(str(error))) from error
    write_atomic(path.with_name(f"{path.name}.sha256"), shards.sha256(path))


def _final(folder: Path, progress: TrainingProgress) -> Path:
    return folder / f"step-{progress.step:08d}"


def _prune(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep`, and what an interrupted run left of others."""
    for old in found(folder)[:-keep]:
        remove_folder(old)
    for draft in folder.glob(".step-*.tmp"):
        remove(draft)


def found(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return [path for path in _saved(folder) if (path / PROGRESS).is_file()]


def _saved(folder: Path) -> list[Path]:
    """Folders with the name of a checkpoint, oldest first."""
    return sorted((path for path in folder.glob("step-*") if NAME.fullmatch(path.name) and path.is_dir()), key=_step)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def load(path: Path, shard: Shard | None = None) -> tuple[TrainingProgress, dict[str, Tensor]]:
    """Inverse of `save` and `save_shares`. Raises `CorruptFileError` for changed files.

    Args:
        shard: the shard to read; None reads the whole vectors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as deserialize

    record = read_record(path / PROGRESS)
    try:
        if shard is not None or "files" in record:
            files = dict(record.pop("files", None) or {TENSORS: record.pop("sha256", "")})
            return TrainingProgress(**record), shards.read(path, record["layout"], files, shard or Shard())
        digest = record.pop("sha256", None)
        progress, blob = TrainingProgress(**record), (path / TENSORS).read_bytes()
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:  # a record of another form
        raise CorruptFileError(path, f"cannot be read: {error}") from error
    if sha256(blob) != digest:
        raise CorruptFileError(path / TENSORS, "its sha256 is not the one in progress.json")
    try:
        return progress, deserialize(blob)
    except (ValueError, KeyError, SafetensorError) as error:
        raise CorruptFileError(path / TENSORS, f"is not a whole safetensors file ({error})") from error


def load_latest(
    folder: Path,
    shard: Shard | None = None,
    process_group: ProcessGroup | None = None,
    passed_over: list[str] | None = None,
) -> tuple[TrainingProgress, dict[str, Tensor]] | None:
    """The newest valid checkpoint, or None if no folder ``step-NUMBER`` has anything in it.

    A damaged one is passed over with a `CheckpointWarning`.

    Args:
        shard: as in `load`.
        process_group: a checkpoint is valid only if all processes can read their shards.
        passed_over: gets the text of each warning.

    Raises `CorruptFileError`, for the newest one, if all checkpoints are damaged.
    """
    damages: list[CorruptFileError] = []
    lost: CorruptFileError | None = None  # the newest damage of what was a checkpoint
    for path in reversed(_saved(folder)):
        loaded, damage = None, CorruptFileError(path, "another process cannot read its shard")
        try:
            loaded = load(path, shard)
        except CorruptFileError as error:
            damage = error
        sound = loaded is not None if process_group is None else process_group.all(loaded is not None)
        if sound and loaded is not None:
            texts = _warned(damages, loaded[0].step, process_group is None or process_group.is_main)
            (passed_over if passed_over is not None else []).extend(texts)
            return loaded
        damages.append(damage)
        lost = lost or (damage if any(path.iterdir()) else None)  # an empty folder is none of a checkpoint
    if lost is not None:
        raise lost
    return None


def _warned(damages: list[CorruptFileError], step: int, aloud: bool) -> list[str]:
    """The text of a warning for each damaged checkpoint that is passed over for the one of `step`."""
    texts = []
    for damage in damages:
        newer = next(part for part in reversed(Path(damage.path).parts) if part.startswith("step-")).removeprefix("step-")
        lost = f": {int(newer) - step} steps are repeated" if newer.isdecimal() else ""
        texts.append(f"the newest checkpoint is damaged ({damage}); training goes on from step {step}{lost}")
        if aloud:
            warnings.warn(texts[-1], CheckpointWarning, stacklevel=3)
    return texts
