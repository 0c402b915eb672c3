"""Writes an edited dataset: every piece of every episode, copied where nothing changes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from verbot.data.editing.plan import EditPlan, Piece, pieces_of
from verbot.data.editing.source import EditSource, recorded_first
from verbot.data.storage import folder_swap, layout
from verbot.data.storage.features import FeatureMap
from verbot.data.storage.joining import join_recordings
from verbot.data.storage.own_files import DRAFT, foreign
from verbot.data.storage.reader import open_dataset, read_info
from verbot.data.storage.schema import FeatureEntry
from verbot.data.storage.verify import check_dataset
from verbot.data.storage.writer import DatasetWriter
from verbot.errors import DataError, UnknownNameError
from verbot.files import lock, write_atomic
from verbot.folders import replace_folder
from verbot.parallel.progress import Progress
from verbot.spec import RobotSpec
from verbot.text import repaired_record

HISTORY = "meta/edits.json"


@dataclass(frozen=True)
class EditResult:
    """What `edit` did.

    Args:
        path: the edited dataset.
        episodes, frames: what it has now; `episodes_before` and `frames_before` what all given datasets had.
        copied, encoded: number of recordings of one camera that were copied as they were, or encoded again.
        left_out: features of the given datasets that the edited one lacks, with the reason.
        lines: each change, and what it was applied to.
    """

    path: Path
    episodes: int
    frames: int
    episodes_before: int
    frames_before: int
    copied: int
    encoded: int
    left_out: Mapping[str, str]
    lines: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "path": str(self.path), "lines": [list(line) for line in self.lines]}

    def table(self) -> str:
        """The changes, one a line."""
        width = max(len(what) for what, _ in self.lines)
        return "\n".join(f"{what:<{width}}  {detail}" for what, detail in self.lines)


def edit(
    path: str | Path,
    plan: EditPlan,
    out: str | Path | None = None,
    progress: bool = False,
    features: FeatureMap | None = None,
) -> EditResult:
    """Change the dataset at `path` in place, or write the changed one to the new folder `out`.

    A crash at any instant leaves the old dataset or the new one. The new one is verified before it takes the place of the old
    one; both are on disk until then. Images of a camera are encoded again only if an episode begins at another frame than a
    keyframe of its video, or frames are left out within it.

    Args:
        features: as in `verbot.open_dataset`, also for datasets to merge that verbot did not write.

    Raises `DataError` if `out` is not empty, if a dataset of other software would be changed in place, or if the disk has
    no room; `SpecError` if datasets to merge are of different robots; errors of the plan as `pieces_of`. Nothing is changed then.

    Example:
        >>> import tempfile
        >>> from verbot.data.storage.writer import example_dataset
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = edit(example_dataset(folder), EditPlan(delete=(0,), trim={1: (0, 10)}))
        ...     dataset = open_dataset(folder)
        ...     len(dataset), len(dataset[0]), dataset[0].instruction
        (1, 10, 'touch the blue cube')
    """
    if not plan and out is None:
        raise DataError(f"nothing is to change in {path}; give changes, or another folder for a copy")
    root = Path(path).resolve()
    target = root if out is None else Path(out).resolve()
    if out is not None and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"{out} exists already; choose another folder for the edited dataset")
    with contextlib.ExitStack() as stack:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(folder_swap.exclusively(target))
            folder_swap.clear(target)
            if out is None and root.is_dir():
                stack.enter_context(lock(root / ".lock", wait=False, holder="another process is writing to this dataset"))
            named = [features, *(None if "verbot" in read_info(Path(each)) else features for each in plan.merge)]
            opened = [open_dataset(p, features=names, depth=True) for p, names in zip((root, *plan.merge), named, strict=True)]
            sources = [EditSource(dataset, plan) for dataset in opened]
            return _edited(sources, target, plan, Path(path if out is None else out), progress)
        except OSError as error:
            raise DataError(
                f"{target} cannot be edited: {error.strerror or error} ({error.filename}); it was not changed"
            ) from error


def _edited(sources: Sequence[EditSource], target: Path, plan: EditPlan, shown: Path, progress: bool) -> EditResult:
    """Write the edited dataset beside `target` and let it take its place. Nothing else is left beside it."""
    root = sources[0].dataset.root
    if target == root and not sources[0].dataset.is_ours:
        raise DataError(f"{root} was written or changed by other software; give --out (or out=), a folder for the edited dataset")
    _check_names(plan, sources)
    pieces = pieces_of(plan, [source.dataset for source in sources])
    draft = folder_swap.draft_of(target)
    _check_room(draft, [source.dataset.root for source in sources])
    try:
        counts = _write(draft, plan, sources, pieces, progress)
        notes = _check(draft, len(pieces))
        result = _result(shown, plan, sources, pieces, counts, notes)
        replace_folder(draft, target)
    except BaseException:
        with contextlib.suppress(OSError):
            folder_swap.clear(target)
        raise
    return result


def _write(draft: Path, plan: EditPlan, sources: Sequence[EditSource], pieces: Sequence[Piece], progress: bool) -> Counter[str]:
    """The edited dataset at `draft`. Returns the numbers of frames, of cameras that were copied, and that were encoded."""
    spec = join_recordings([source.spec for source in sources], [str(source.dataset.root) for source in sources])
    counts: Counter[str] = Counter()
    with (
        DatasetWriter(draft, spec, images=_storage(spec, sources[0]), columns=_columns(sources)) as writer,
        Progress("edit", len(pieces), "episodes", enabled=progress) as bar,
    ):
        for number, piece in enumerate(pieces):
            record, copied, identity = sources[piece.source].record(piece, writer.stored_as)
            writer.save_episode(record, copied, identity)
            counts.update(frames=len(record.actions), copied=len(copied), encoded=len(record.images))
            bar.update(number + 1)
    _copy_notes(draft, plan, sources)
    return counts


def _storage(spec: RobotSpec, first: EditSource) -> dict[str, str]:
    """How color images are stored: as in the first dataset."""
    return {camera.name: first.stored_as(camera.name) for camera in spec.cameras if camera.kind == "color"}


def _columns(sources: Sequence[EditSource]) -> dict[str, FeatureEntry]:
    """The further columns, which all datasets must have alike."""
    first = sources[0]
    for source in sources[1:]:
        if {**source.columns} != {**first.columns}:
            ours, theirs = (", ".join(sorted(each.columns)) or "none" for each in (first, source))
            raise DataError(
                f"{source.dataset.root} has the further columns {theirs}; {first.dataset.root} has {ours}, or of other "
                f"types: they must be the same (see --rename-feature)"
            )
    return dict(first.columns)


def _check_names(plan: EditPlan, sources: Sequence[EditSource]) -> None:
    """Raise `UnknownNameError` for a name to change that no dataset has, `DataError` for a sentence that no episode has."""
    cameras = {name for source in sources for name in source.dataset.spec.camera_names}
    features = {name for source in sources for name in source.recorded_columns}
    for kind, renamed, known in (("camera", plan.rename_cameras, cameras), ("feature", plan.rename_features, features)):
        for name in renamed:
            if name not in known:
                raise UnknownNameError(f"{kind} to rename", name, known)
    if plan.replacements:
        episodes = (episode for source in sources for episode in source.dataset)
        sentences = {segment.wordings[0] for episode in episodes for segment in recorded_first(episode)}
        for sentence in plan.replacements:
            if sentence not in sentences:
                raise UnknownNameError("recorded sentence", sentence, sentences)


def _check_room(draft: Path, roots: Sequence[Path]) -> None:
    """Raise `DataError` unless the disk has room for a copy of all datasets."""
    needed = sum(file.stat().st_size for root in roots for file in _files(root))
    place = next(folder for folder in draft.parents if folder.is_dir())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise DataError(
            f"{place} has {free / 1e9:.2f} GB of free space; the edited dataset needs up to {needed / 1e9:.2f} GB there"
        )


def _files(root: Path) -> Iterator[Path]:
    """The files of a dataset, without caches."""
    for path in root.rglob("*"):
        if path.is_file() and ".cache" not in path.relative_to(root).parts:
            yield path


def _check(draft: Path, episodes: int) -> list[str]:
    """What is to be said of the edited dataset. Raises `DataError` if a file of it is damaged."""
    findings = [finding for finding in check_dataset(draft) if finding.kind != "note"]
    if damaged := [finding for finding in findings if finding.path != str(draft)]:
        raise DataError(f"the edited dataset is not whole, and was discarded: {damaged[0]} ({len(damaged)} findings)")
    if len(found := open_dataset(draft)) != episodes:
        raise DataError(f"the edited dataset has {len(found)} episodes, not {episodes}, and was discarded")
    return [finding.problem for finding in findings]


def _copy_notes(draft: Path, plan: EditPlan, sources: Sequence[EditSource]) -> None:
    """Copy files of the first dataset that are not of the format, and note what was changed, with notes of the other ones."""
    first = sources[0].dataset.root
    if sources[0].dataset.is_ours:
        extra = set(foreign(first, sources[0].dataset.info))
        for path in first.rglob("*"):
            name = path.relative_to(first)
            stored = path.is_symlink() or path.is_file()  # a link stays a link, also to a folder
            if stored and ".cache" not in name.parts and (name.as_posix() in extra or not _of_format(name)):
                target = draft / name
                if os.path.lexists(target):  # the edited dataset has a file of this name
                    target = target.with_name(f"{name.name}.other")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target, follow_symlinks=False)
    history = _json(first / HISTORY)
    origins: list[dict[str, Any]] = []
    for source in sources:
        notes = {name: _json(source.dataset.root / "meta" / name) for name in ("import.json", "edits.json")}
        kept = {name: note for name, note in notes.items() if note is not None and source is not sources[0]}
        ours = source.dataset.is_ours
        of: dict[str, Any] = {"path": str(source.dataset.root), "episodes": len(source.dataset), "written_by_verbot": ours}
        if source.dataset.opened_with["features"]:
            of["features"] = source.dataset.opened_with["features"]
        origins.append({**of, **kept, **({"left_out": dict(source.left_out)} if source.left_out else {})})
    whole = [*(history if isinstance(history, list) else []), {"plan": plan.to_json(), "sources": origins}]
    write_atomic(draft / HISTORY, json.dumps(whole, indent=1, ensure_ascii=False).encode(), follow=False)


def _of_format(name: Path) -> bool:
    known = (layout.INFO, layout.STATS, layout.TASKS, HISTORY)
    folders = ("data", "videos", "journal", ".cache")
    return name.parts[0] in folders or name.parts[:2] in (("meta", "episodes"), ("meta", "verbot")) or (
        name.as_posix() in known or name.name in (".lock", ".import.lock") or DRAFT.fullmatch(name.name) is not None
    )  # fmt: skip


def _json(path: Path) -> Any:
    with contextlib.suppress(OSError, ValueError):
        return repaired_record(json.loads(path.read_text(encoding="utf-8")))
    return None


def _result(
    path: Path,
    plan: EditPlan,
    sources: Sequence[EditSource],
    pieces: Sequence[Piece],
    counts: Mapping[str, int],
    notes: Sequence[str],
) -> EditResult:
    lengths = [source.dataset[i].length for source in sources for i in range(len(source.dataset))]
    kept = {piece.number for piece in pieces}
    deleted = [number for number in range(len(lengths)) if number not in kept]
    left_out = {name: why for source in sources for name, why in source.left_out.items()}
    trimmed = [f"episode {n} to frames {_range(*bounds, lengths[n])}" for n, bounds in plan.trim.items() if n in kept]
    split = [f"episode {n} at {', '.join(map(str, cuts))}" for n, cuts in plan.split.items() if n in kept]
    renamed = [f"{old} to {new}" for old, new in (*plan.rename_cameras.items(), *plan.rename_features.items())]
    worded = [f"episode {n}: {texts[0]}" for n, texts in plan.instructions.items() if n in kept]
    worded += [f"{old} is now {texts[0]}" for old, texts in plan.replacements.items()]
    lines = [
        ("merged", ", ".join(map(str, plan.merge))),
        ("deleted", f"{len(deleted)} of {len(lengths)} episodes: {_numbers(deleted)}" if deleted else ""),
        ("trimmed", ", ".join(trimmed)),
        ("split", ", ".join(split)),
        ("renamed", ", ".join(renamed)),
        ("rate", ", ".join(source.rate_change for source in sources if source.rate_change)),
        ("sentences", ", ".join(worded)),
        ("left out", ", ".join(f"{name} ({why})" for name, why in left_out.items())),
        ("images", f"{counts['copied']} copied, {counts['encoded']} encoded again (one camera of one episode each)"),
        *(("note", note) for note in notes),
        ("now", f"{len(pieces)} episodes, {counts['frames']} frames; before {len(lengths)} and {sum(lengths)}"),
    ]
    shown = tuple((what, detail) for what, detail in lines if detail)
    return EditResult(
        path, len(pieces), counts["frames"], len(lengths), sum(lengths), counts["copied"], counts["encoded"], left_out, shown
    )


def _range(start: int | None, stop: int | None, length: int) -> str:
    first, last, _ = slice(start, stop).indices(length)
    return f"{first} to {last}"


def _numbers(numbers: Sequence[int]) -> str:
    """Numbers with successive ones joined: 0 to 3, 7."""
    runs = np.split(np.asarray(numbers), np.flatnonzero(np.diff(numbers) != 1) + 1)
    return ", ".join(f"{run[0]}" if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)
