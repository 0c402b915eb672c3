"""Which sentence each stored frame has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from verbot.data.storage.segments import SEGMENTS, InstructionSegment, check_segments, segments_from_json, segments_of
from verbot.data.storage.stored_frames import StoredFrames
from verbot.errors import CorruptFileError, DataError
from verbot.text import repaired_text

TASK = "task_index"


def segments_of_extras(extras: Mapping[str, Any], length: int, name: str) -> tuple[InstructionSegment, ...]:
    """The segments that verbot recorded, with their wordings. Raises `DataError` that names the episode by `name`."""
    try:
        found = segments_from_json(extras[SEGMENTS])
        check_segments(found, length)
    except (KeyError, TypeError, ValueError, DataError) as error:
        raise DataError(f"{name}: extras[{SEGMENTS!r}] are not segments of its {length} frames ({error})") from error
    return found


def recorded_tasks(stored: StoredFrames, row: Mapping[str, Any]) -> tuple[str, ...]:
    """The sentences that the metadata list for an episode; empty if they list none."""
    tasks = row.get("tasks")
    if tasks is None:
        return ()
    tasks = [tasks] if isinstance(tasks, str) else tasks
    if not isinstance(tasks, list) or not all(isinstance(task, str) for task in tasks):
        raise CorruptFileError(
            stored.metadata.path, f"episode {row['episode_index']} has the tasks {tasks!r}; expected a list of sentences"
        )
    return tuple(map(repaired_text, tasks))


def recorded_segments(stored: StoredFrames, row: Mapping[str, Any]) -> tuple[InstructionSegment, ...]:
    """The sentence of every frame by its ``task_index``, as LeRobot reads it; by the metadata where no frame has one.

    Raises `CorruptFileError` if a number has no sentence, or if nothing says which of several sentences a frame has.
    """
    numbers, sentences = task_numbers(stored, row), stored.metadata.sentences
    if numbers is None or not sentences:
        tasks = recorded_tasks(stored, row) or ("",)
        if len(tasks) > 1:
            raise CorruptFileError(
                stored.metadata.path,
                f"episode {row['episode_index']} has {len(tasks)} sentences, and no {TASK} says which frames have which",
            )
        return (InstructionSegment(0, row["length"], tasks),)
    unknown = [int(number) for number in np.unique(numbers) if int(number) not in sentences]
    if unknown:
        raise CorruptFileError(
            stored.metadata.tasks_path,
            f"has no sentence for the {TASK} {unknown[0]} of frames of episode {row['episode_index']}",
        )
    if (numbers == numbers[0]).all():
        return (InstructionSegment(0, row["length"], (sentences[int(numbers[0])],)),)
    return segments_of([sentences[int(number)] for number in numbers])


def task_numbers(stored: StoredFrames, row: Mapping[str, Any]) -> np.ndarray | None:
    """The ``task_index`` of every frame of an episode: int64 (t,). None if they have none."""
    numbers = stored.numbers(row, TASK)
    if numbers is None:
        return None
    whole = numbers.astype(np.int64) if np.isfinite(numbers).all() else None
    if whole is None or (whole != numbers).any():
        raise CorruptFileError(stored.data_path(row), f"episode {row['episode_index']} has a {TASK} that is no whole number")
    return whole
