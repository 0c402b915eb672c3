"""What to change in a dataset, and which frames of which episodes are left."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verbot.data.editing.conditions import Condition, check_known
from verbot.data.storage.reader import Dataset
from verbot.data.storage.sentences import check_sentences, load_sentences
from verbot.errors import ConfigError, DataError
from verbot.files import read_record
from verbot.ranges import COUNT, RATE_HZ, check_ranges


@dataclass(frozen=True)
class EditPlan:
    """The changes, which are made in the order of these arguments. All numbers are those before any change.

    Args:
        merge: folders of datasets whose episodes come after the others; episodes are numbered through all of them.
        delete: episodes that are left out: numbers, ranges as in a Python slice (``"10:20"``), and conditions
            (``"success=false"``, ``"task=pick and length<10"``); whatever is among any of them.
        keep: the only episodes that are kept, if given, in the same form.
        where: conditions that all have to hold for an episode to be kept.
        trim: of an episode only these frames, start and stop as in a Python slice.
        split: frames at which an episode is cut into several.
        instructions: new sentences of an episode; the first one is recorded for all its frames.
        replacements: new sentences for every recorded sentence that is a key.
        rename_cameras, rename_features: new names by old ones; features are further columns, such as ``next.reward``.
        rate_hz: rate to resample to, see `verbot.data.storage.resample.resample`.
        subsample: keep every so many frames; the rate falls accordingly.
    """

    merge: tuple[Path, ...] = ()
    delete: tuple[int | str, ...] = ()
    keep: tuple[int | str, ...] | None = None
    where: tuple[str, ...] = ()
    trim: Mapping[int, tuple[int | None, int | None]] = field(default_factory=dict)
    split: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    instructions: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    replacements: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rename_cameras: Mapping[str, str] = field(default_factory=dict)
    rename_features: Mapping[str, str] = field(default_factory=dict)
    rate_hz: float | None = None
    subsample: int = 1

    def __post_init__(self) -> None:
        check_ranges(self, subsample=COUNT, rate_hz=RATE_HZ)
        if self.subsample > 1 and self.rate_hz is not None:
            raise ConfigError("give either a rate to resample to or a number of frames to subsample by, not both")
        for number, texts in self.instructions.items():
            check_sentences(number, texts)
        for old, texts in self.replacements.items():
            if not isinstance(texts, list | tuple) or not texts or not all(isinstance(text, str) for text in texts):
                raise ConfigError(f"the sentence {old!r} is to become {texts!r}; expected a list of at least one sentence")
        for old, new in (*self.rename_cameras.items(), *self.rename_features.items()):
            if not new or "/" in new:
                raise ConfigError(f"{old!r} is to be called {new!r}; expected a name without a slash")

    def __bool__(self) -> bool:
        """Whether anything is to change."""
        return self != EditPlan()

    def to_json(self) -> dict[str, Any]:
        """Plain data: what differs from an empty plan."""
        record = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        empty = EditPlan()
        changed = {name: value for name, value in record.items() if value != getattr(empty, name)}
        plain: dict[str, Any] = json.loads(json.dumps(changed, default=str))
        return plain


@dataclass(frozen=True)
class Piece:
    """The frames `start` to `stop` (excluded) of an episode, which become an episode.

    Args:
        source: number of the dataset.
        episode: number in that dataset.
        number: number through all datasets.
        whole: whether these are all of its frames.
    """

    source: int
    episode: int
    number: int
    start: int
    stop: int
    whole: bool


def pieces_of(plan: EditPlan, datasets: Sequence[Dataset]) -> list[Piece]:
    """What is left of the datasets, in order.

    Raises `DataError` for an episode or frame that does not exist, `UnknownNameError` for a condition on a value that no episode
    has, `ConfigError` for one that is not one.
    """
    total = sum(len(dataset) for dataset in datasets)
    for what in ("trim", "split", "instructions"):
        for number in getattr(plan, what):
            _check_number(number, total)
    deleted, kept = (_Choice.of(items, total) for items in (plan.delete, plan.keep or ()))
    where = tuple(condition for text in plan.where for condition in Condition.parse_all(text))
    asked = [*where, *(condition for choice in (deleted, kept) for all_of in choice.conditions for condition in all_of)]
    check_known(asked, (episode for dataset in datasets for episode in dataset))
    found, number = [], 0
    for source, dataset in enumerate(datasets):
        for index in range(len(dataset)):
            chosen = plan.keep is None or kept.has(number, dataset, index)
            if chosen and not deleted.has(number, dataset, index) and all(c.holds(dataset[index]) for c in where):
                found += _pieces(plan, source, index, number, dataset[index].length)
            number += 1
    if not found:
        raise DataError(f"none of the {total} episodes would be left; nothing was changed")
    return found


@dataclass(frozen=True)
class _Choice:
    """Some of all episodes: these numbers, and those that satisfy all conditions of any of several groups."""

    numbers: frozenset[int]
    conditions: tuple[tuple[Condition, ...], ...]

    @staticmethod
    def of(items: Sequence[int | str], total: int) -> _Choice:
        numbers, conditions = set[int](), []
        for item in items:
            text = str(item)
            if isinstance(item, int) or re.fullmatch(r"\d+", text):
                _check_number(int(item), total)
                numbers.add(int(item))
            elif (bounds := parse_range(text)) is not None:
                chosen = range(total)[slice(*bounds)]
                if not chosen or (bounds[1] or 0) > total:
                    raise DataError(f"there are no episodes {text}; there are {total}, numbered from 0")
                numbers.update(chosen)
            else:
                conditions.append(Condition.parse_all(text))
        return _Choice(frozenset(numbers), tuple(conditions))

    def has(self, number: int, dataset: Dataset, index: int) -> bool:
        if number in self.numbers:
            return True
        return any(all(condition.holds(dataset[index]) for condition in all_of) for all_of in self.conditions)


def parse_range(text: str) -> tuple[int | None, int | None] | None:
    """Start and stop of ``"10:20"``, ``"10:"`` or ``":-5"``; None for another form."""
    found = re.fullmatch(r"(-?\d+)?:(-?\d+)?", text)
    return None if found is None else (int(found[1]) if found[1] else None, int(found[2]) if found[2] else None)


def _check_number(number: int, total: int) -> None:
    if not 0 <= number < total:
        raise DataError(f"there is no episode {number}; there are {total}, numbered from 0")


def _pieces(plan: EditPlan, source: int, episode: int, number: int, length: int) -> list[Piece]:
    trimmed = plan.trim.get(number, (None, None))
    start, stop, _ = slice(*trimmed).indices(length)
    for bound in trimmed:
        if bound is not None and not -length <= bound <= length:
            raise DataError(f"episode {number} cannot be trimmed at frame {bound}; it has {length} frames")
    if start >= stop:
        raise DataError(f"nothing of episode {number} is left of frames {start} to {stop}; it has {length}")
    cuts = plan.split.get(number, ())
    for cut in cuts:
        if not start < cut < stop:
            raise DataError(f"episode {number} cannot be split at frame {cut}; expected a frame between {start} and {stop}")
    bounds = [start, *sorted(set(cuts)), stop]
    return [
        Piece(source, episode, number, first, last, whole=(first, last) == (0, length))
        for first, last in itertools.pairwise(bounds)
    ]


def load_replacements(path: Path) -> tuple[dict[int, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """New sentences by episode, and by recorded sentence, from a JSON file of one kind or the other.

    Raises `DataError` for a file that is neither ``{"0": ["pick it up"]}`` nor ``{"recorded sentence": ["pick it up"]}``.
    """
    record = read_record(path)
    if not record or any(key.isdecimal() for key in record):
        return load_sentences(path), {}
    texts = {old: [new] if isinstance(new, str) else new for old, new in record.items()}
    for old, new in texts.items():
        if not isinstance(new, list) or not new or not all(isinstance(text, str) for text in new):
            raise DataError(f"{path}: {old!r} is to become {new!r}; expected a sentence or a list of them")
    return {}, {old: tuple(new) for old, new in texts.items()}
