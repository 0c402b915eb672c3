"""Replaces the instructions of recorded episodes in place. Videos are not changed.

An instruction is stored in four places: the episode's row of ``meta/episodes``, the ``task_index`` of each frame, its row of
``meta/verbot`` (all wordings), and ``meta/tasks.parquet``, which numbers the sentences. A sentence that is no longer used keeps
its number. Files from before and after a change therefore agree with the same table, whichever of them a crash leaves.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from verbot.data.editing.edit import edit
from verbot.data.editing.plan import EditPlan
from verbot.data.storage import layout
from verbot.data.storage.files import parquet_bytes, read_parquet
from verbot.data.storage.info import placed
from verbot.data.storage.own_files import copy_dataset
from verbot.data.storage.reader import Dataset, open_dataset
from verbot.data.storage.sentences import NOTE, check_sentences, load_sentences, reworded
from verbot.data.storage.writer import DatasetWriter
from verbot.errors import DataError, UnwritableError
from verbot.files import remove
from verbot.folders import replace_folder
from verbot.statistics import FeatureStatistics

__all__ = ["NOTE", "Annotator", "annotate", "annotating", "check_sentences", "load_sentences"]


class Annotator:
    """Replaces instructions of a dataset, on which it holds the write lock. Made by `annotating`."""

    def __init__(self, writer: DatasetWriter):
        self._writer = writer

    def set(self, episode: int, sentences: Sequence[str]) -> None:
        """Replace the sentences of `episode`; the first becomes its instruction. On return the change survives a crash.

        Raises `DataError` if the episode does not exist, or a sentence is not one line of text.
        """
        self.set_all({episode: sentences})

    def set_all(self, sentences: Mapping[int, Sequence[str]]) -> None:
        """As `set`, for several episodes. Each file that holds some of them is written once."""
        checked = {number: check_sentences(number, texts) for number, texts in sentences.items()}
        dataset = open_dataset(self._writer.root)
        for number in checked:
            dataset[number]  # raises if it does not exist
        tasks = list(dict.fromkeys([*self._writer.tasks, *(texts[0] for texts in checked.values())]))
        by_file: dict[int, dict[int, tuple[str, ...]]] = {}
        for number, texts in checked.items():
            row = dataset._rows[number]
            file = row["data/chunk_index"] * layout.FILES_PER_CHUNK + row["data/file_index"]
            by_file.setdefault(file, {})[number] = texts
        for file, instructions in by_file.items():
            self._writer.replace(_rewritten(dataset, file, instructions, tasks), tasks)


@contextmanager
def annotating(path: str | Path, out: str | Path | None = None) -> Iterator[Annotator]:
    """Open an `Annotator` of the dataset at `path`, or of a copy of it at `out`. It holds the write lock until the end.

    A dataset that other software wrote can only be annotated as a copy, see `verbot.data.editing.edit`. Links to folders, and
    links that lead out of the dataset's folder, are left out of a copy.

    Raises `DataError` if `out` is not empty, or if verbot did not write the dataset at `path` and `out` is not given.

    Example:
        >>> import tempfile
        >>> from verbot.data.storage.writer import example_dataset
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with annotating(example_dataset(folder)) as annotator:
        ...         annotator.set(1, ["touch the blue cube", "go to the blue one"])
        ...     open_dataset(folder)[1].instructions
        ('touch the blue cube', 'go to the blue one')
    """
    dataset = open_dataset(path, depth=True)
    if out is not None:
        _copy(dataset, Path(out))
    elif not dataset.is_ours:
        raise DataError(f"{path} was written or changed by other software; give --out (or out=) to annotate a copy of it")
    root = Path(path if out is None else out)
    with DatasetWriter(root, dataset.spec) as writer:
        writer.merge()
        yield Annotator(writer)


def annotate(path: str | Path, sentences: Mapping[int, Sequence[str]], out: str | Path | None = None) -> None:
    """Replace instructions of the dataset at `path`, in place or in a copy at `out`; see `annotating`.

    Args:
        sentences: the new sentences by episode number; the first of each is the instruction.
    """
    with annotating(path, out) as annotator:
        annotator.set_all(sentences)


def _rewritten(dataset: Dataset, file: int, sentences: Mapping[int, tuple[str, ...]], tasks: Sequence[str]) -> dict[str, bytes]:
    """The new contents, by name, of data, extras and episodes file number `file`, with `sentences` by episode."""
    number = {text: i for i, text in enumerate(tasks)}

    def table(template: str) -> tuple[str, pa.Table]:
        name = layout.place(template, file)
        return name, read_parquet(placed(dataset.root, name), dataset._checksums.get(name))

    name, data = table(layout.DATA_PATH)
    episodes, task = (data.column(key).to_numpy() for key in ("episode_index", "task_index"))
    task = np.array(task)
    for episode, texts in sentences.items():
        task[episodes == episode] = number[texts[0]]
    place = data.schema.get_field_index("task_index")
    files = {name: parquet_bytes(data.set_column(place, data.schema.field(place), pa.array(task, pa.int64())))}

    name, listed = table(layout.EPISODES_PATH)
    rows, recorded = listed.to_pylist(), dict[int, list[str]]()
    for row in rows:
        recorded[row["episode_index"]] = row["tasks"]
        texts = sentences.get(row["episode_index"], ())
        if texts:
            row["tasks"] = [texts[0]]
            row |= _task_statistics(np.full(row["length"], number[texts[0]]))
    files[name] = parquet_bytes(pa.Table.from_pylist(rows, schema=listed.schema))

    name, extras = table(layout.EXTRAS_PATH)
    rows = extras.to_pylist()
    for row in rows:
        episode = row["episode_index"]
        if episode in sentences:
            row["extras"] = json.dumps(reworded(json.loads(row["extras"]), sentences[episode], recorded[episode]))
    files[name] = parquet_bytes(pa.Table.from_pylist(rows, schema=extras.schema))
    return files


def _task_statistics(tasks: np.ndarray) -> dict[str, Any]:
    record = FeatureStatistics.of(tasks.reshape(-1, 1), "task_index").to_json()
    record |= {bound: [int(value) for value in record[bound]] for bound in ("min", "max")}
    return {f"stats/task_index/{name}": value for name, value in record.items()}


def _copy(dataset: Dataset, out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists already; choose another folder for the copy")
    if dataset.is_ours:
        draft = out.with_name(f".{out.name}.copy")
        remove(draft)
        try:
            copy_dataset(dataset.root, dataset.info, draft)
            replace_folder(draft, out)
        except BaseException as error:
            remove(draft)
            if isinstance(error, OSError):
                raise UnwritableError(out, error) from error
            raise
        return
    edit(dataset.root, EditPlan(), out)
