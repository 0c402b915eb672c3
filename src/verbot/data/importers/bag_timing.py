"""Which messages of a recording belong to which row of an episode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from verbot.data.importers.limits import take
from verbot.errors import ConfigError, DataError

NUMBER_AGE_S = 1.0
FEW_ROWS, ROWS_OF_MESSAGE = 1000, 100  # so many rows are made of any recording; and of each message of a longer one
JITTER = 1.5  # an interval between images of one and a half times the usual one is jitter; of twice, an image is missing


@dataclass(frozen=True)
class Timing:
    """How messages are taken.

    Args:
        time: ``"log"`` is when the recorder got a message; ``"header"`` is the stamp of its header, where it has one.
        align: the image of a row: ``"nearest"`` in time, or ``"before"``, the last at or before the row. Numbers are always
            those of the last message at or before the row.
        max_age_s: how far a message may be from its row in time. None allows 1 s for numbers; for images half a period of the
            rows, or three quarters of the camera's usual interval if that is more (twice as much with ``align=before``).
    """

    time: str = "log"
    align: str = "nearest"
    max_age_s: float | None = None

    def __post_init__(self) -> None:
        for label, known in (("time", ("log", "header")), ("align", ("nearest", "before"))):
            if getattr(self, label) not in known:
                raise ConfigError(f"{label} is {getattr(self, label)!r}; expected {' or '.join(known)}")
        age = self.max_age_s
        if age is not None and (isinstance(age, bool) or not isinstance(age, int | float) or not 0 < age < 1e9):
            raise ConfigError(f"max_age_s is {age!r}; expected seconds, more than 0")


@dataclass
class TopicStream:
    """The messages of one topic in one episode.

    Args:
        times: in ns, in order after `sort`.
        values: what is kept of each message.
        delays: log time minus stamp, in ns, of those with a stamp.
        stamps: ``"set"``, ``"zero"`` and ``"none"``: what kinds of stamps were found.
        encodings: those of images.
        filled: the fields of JointState messages that have values.
        latched: whether a message holds until the next, however old it is.
    """

    times: list[int] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    delays: list[int] = field(default_factory=list)
    stamps: set[str] = field(default_factory=set)
    encodings: set[str] = field(default_factory=set)
    filled: set[str] = field(default_factory=set)
    latched: bool = False

    def add(self, time: int, value: Any) -> None:
        self.times.append(time)
        self.values.append(value)

    def sort(self) -> None:
        """Put the messages in order of time; those of one time keep the order of the file."""
        order = np.argsort(np.array(self.times, np.int64), kind="stable")
        self.times = [self.times[place] for place in order]
        self.values = [self.values[place] for place in order]

    def begin(self, start: int, named: bool, transient: bool, usual_s: float) -> None:
        """Drop what is before `start`, except the last message of a latched topic.

        Args:
            named: the user says that it is latched.
            transient: its publishers are transient local. It is latched then, unless it comes oftener than every `usual_s`.
        """
        often = len(self.times) > 2 and float(np.median(np.diff(self.times))) < usual_s * 1e9
        self.latched = named or (transient and not often)
        before = sum(time < start for time in self.times)
        before = max(before - 1, 0) if self.latched else before
        self.times, self.values = self.times[before:], self.values[before:]


def rows_between(first: int, last: int, rate_hz: float, messages: int) -> np.ndarray:
    """The times of the rows in ns, int64 (t,), at `rate_hz` from `first` to at most `last`.

    Raises `DataError` where they would be many for so many `messages`: a clock that jumps makes no rows.
    """
    period_ns = 1e9 / rate_hz
    count = int((last - first) / period_ns + 1e-6) + 1
    if count > max(FEW_ROWS, ROWS_OF_MESSAGE * messages):
        raise DataError(
            f"it would have {count} rows from {first / 1e9:.0f} s to {last / 1e9:.0f} s, and has {messages} messages; "
            f"expected at most {ROWS_OF_MESSAGE} rows for each: the times of its messages are wrong, or --rate-hz is"
        )
    take(8 * count, "its times")
    return first + np.rint(np.arange(count) * period_ns).astype(np.int64)


def bounds(streams: Mapping[str, TopicStream], starts: Mapping[str, int], key: str) -> tuple[int, int]:
    """The first time at which every topic has had a message, and the last message of the first topic to end.

    Args:
        starts: times before which a topic is incomplete (joints of several publishers), by topic.

    Raises `DataError` if a topic ends before.
    """
    running = {name: stream for name, stream in streams.items() if not stream.latched}
    if not running:
        raise DataError(f"{key} has latched topics only ({', '.join(streams)}); their messages do not say when it ends")
    first = max(starts.get(name, stream.times[0]) for name, stream in running.items())
    ending = min(running, key=lambda name: (running[name].times[-1], name))
    if running[ending].times[-1] < first:
        raise DataError(f"{key}: {ending} ends before every topic has had a message")
    return first, running[ending].times[-1]


def last_before(times: np.ndarray, rows: np.ndarray, latched: bool, limit_s: float | None, name: str) -> np.ndarray:
    """The place of the last message at or before each row, (t,). Raises `DataError` if one is older than the limit.

    The first message of a latched topic holds before it too: it was published before the recording.
    """
    places = np.searchsorted(times, rows, "right") - 1
    if latched:
        return np.maximum(places, 0)
    ages = rows - times[places]
    limit = NUMBER_AGE_S if limit_s is None else limit_s
    if ages.max() > limit * 1e9:
        worst = int(ages.argmax())
        place = (rows[worst] - rows[0]) / 1e9
        raise DataError(f"{name} has no message for {ages[worst] / 1e9:.3g} s at {place:.3g} s; max_age_s is {limit:g}")
    return places


def pictures_of(times: np.ndarray, rows: np.ndarray, timing: Timing, rate_hz: float, latched: bool, name: str) -> np.ndarray:
    """The place of the image of each row, (t,). Raises `DataError` for a row without an image near enough."""
    places = np.clip(np.searchsorted(times, rows, "right") - 1, 0, len(times) - 1)
    if timing.align == "nearest" and not latched:
        after = np.minimum(places + 1, len(times) - 1)
        places = np.where(np.abs(times[after] - rows) < np.abs(rows - times[places]), after, places)
    if latched:
        return places
    period = 1e9 / rate_hz
    usual = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    limit = max(period / 2, JITTER * usual / 2) * (1 if timing.align == "nearest" else 2)
    limit = 1e9 * timing.max_age_s if timing.max_age_s is not None else limit
    away = np.abs(times[places] - rows)
    if away.max() > limit:
        worst = int(away.argmax())
        place, which = (rows[worst] - rows[0]) / 1e9, "nearest" if timing.align == "nearest" else "last"
        expected = f"max_age_s is {timing.max_age_s}"
        if timing.max_age_s is None:
            rates = f"rows are {period / 1e9:.3g} s and its images {usual / 1e9:.3g} s apart"
            expected = f"{rates}, which allows {limit / 1e9:.3g} s; --set max_age_s=… allows more"
        raise DataError(
            f"{name} has no image for row {worst} at {place:.3g} s: the {which} is {away[worst] / 1e9:.3g} s away; {expected}"
        )
    return places
