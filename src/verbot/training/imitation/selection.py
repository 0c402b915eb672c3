"""The episodes of a dataset that a run uses."""

from __future__ import annotations

from collections.abc import Sequence

from verbot.data import Dataset
from verbot.data.samples.episode_arrays import task_of
from verbot.data.storage.reader import Episode
from verbot.errors import ConfigError, UnknownNameError
from verbot.training.imitation.records import Selection


def selected(selection: Selection, dataset: Dataset) -> list[int]:
    """Numbers of the episodes of `dataset` that `selection` leaves, ascending.

    Raises `ConfigError` for a number that the dataset does not have, if nothing is left, or less than requested, and
    `UnknownNameError` for a task that none of the episodes has.
    """
    left = _numbered(selection.numbers, dataset)
    steps = [f"{len(left)} episodes"]
    if selection.tasks is not None:
        tasks = {number: _tasks(dataset[number]) for number in left}
        every = {task for found in tasks.values() for task in found}
        for task in selection.tasks:
            if task not in every:
                raise UnknownNameError(f"task in {dataset.root}", task, sorted(every))
        left = [number for number in left if not tasks[number].isdisjoint(selection.tasks)]
        steps.append(f"{len(left)} of them of the tasks {', '.join(selection.tasks)}")
    if selection.success is not None:
        outcomes = {number: dataset[number].extras.get("success") for number in left}
        if all(outcome is None for outcome in outcomes.values()):
            raise ConfigError(f"no selected episode of {dataset.root} records whether it succeeded: select by numbers instead")
        left = [number for number in left if outcomes[number] is selection.success]
        steps.append(f"{len(left)} of these {'succeeded' if selection.success else 'failed'}")
    if selection.min_length is not None or selection.max_length is not None:
        low, high = selection.min_length or 0, selection.max_length
        left = [number for number in left if low <= len(dataset[number]) and (high is None or len(dataset[number]) <= high)]
        steps.append(f"{len(left)} of these have {low} to {'any number of' if high is None else high} frames")
    if selection.episodes is not None and selection.episodes > len(left):
        raise ConfigError(f"{dataset.root} has {len(left)} of the selected episodes; {selection.episodes} were requested")
    if not left:
        raise ConfigError(f"the selection leaves no episode of {dataset.root}: {', '.join(steps)}")
    return left[: selection.episodes]


def _numbered(numbers: Sequence[int] | str | None, dataset: Dataset) -> list[int]:
    count = len(dataset)
    if numbers is None:
        return list(range(count))
    wanted = _parsed(numbers, count) if isinstance(numbers, str) else numbers
    if outside := sorted(number for number in wanted if not 0 <= number < count):
        raise ConfigError(f"{dataset.root} has no episode {outside[0]}; it has {count}, numbered from 0")
    return sorted(set(wanted))


def _parsed(text: str, count: int) -> list[int]:
    """The numbers that ``"0:50,60,70:"`` stands for; the end of a range is not part of it."""
    found: list[int] = []
    for part in text.split(","):
        start, colon, stop = part.strip().partition(":")
        try:
            if not part.strip():
                raise ValueError("an empty part")
            first, last = int(start or 0), int(stop) if stop else count
        except ValueError:
            raise ConfigError(f"the episodes {text!r} of a selection are no numbers; expected e.g. '0:50' or '0:50,60'") from None
        found += range(first, last) if colon else [first]
    return found


def _tasks(episode: Episode) -> set[str]:
    """The recorded task; without one, the sentences."""
    task = task_of(episode)
    return {task} if task is not None else {sentence for sentence in (*episode.tasks, episode.instruction) if sentence}
