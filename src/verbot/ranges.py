"""The ranges of numbers in configurations and on the command line: what is outside is refused before any work begins."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from verbot.errors import ConfigError

LARGEST = 2**31 - 1


@dataclass(frozen=True)
class NumberRange:
    """The numbers from `least` to `most`.

    Args:
        whole: whole numbers only.
        above, below: `least`, `most` are themselves outside.

    Example:
        >>> COUNT.check("steps", 3)
        >>> COUNT.check("steps", -1)
        Traceback (most recent call last):
        ...
        verbot.errors.ConfigError: steps is -1; expected at least 1
    """

    least: float
    most: float = math.inf
    whole: bool = False
    above: bool = False
    below: bool = False

    def check(self, name: str, value: Any) -> None:
        """Raise `ConfigError` for a number outside; None is none, and lists and mappings are checked number by number."""
        if isinstance(value, Mapping):
            for key, item in value.items():
                self.check(f"{name}.{key}", item)
        elif isinstance(value, (list, tuple)):
            for number, item in enumerate(value):
                self.check(f"{name}[{number}]", item)
        elif value is not None and not self._holds(value):
            raise ConfigError(f"{name} is {_shown(value)}; expected {self.words(value)}")

    def words(self, value: Any = None) -> str:
        """What is inside; a bound that only keeps numbers computable is named where `value` is beyond it."""
        whole = isinstance(value, Integral)
        kind = "a whole number, " if self.whole and not whole else ""
        least = f"{'more than' if self.above else 'at least'} {self.least:g}"
        if self.most < LARGEST:
            return f"{kind}{least} and {'below' if self.below else 'at most'} {self.most:.12g}"
        if math.isfinite(self.most) and whole and value > self.most:
            return f"at most {int(self.most)}"
        return f"{kind}{least}"

    def _holds(self, value: Any) -> bool:
        whole = isinstance(value, Integral)
        if isinstance(value, bool) or not (whole or (isinstance(value, Real) and not self.whole)):
            return False
        if not whole and not math.isfinite(value):
            return False
        over = value > self.least if self.above else value >= self.least
        return bool(over and (value < self.most if self.below else value <= self.most))


def check_ranges(record: object, **ranges: NumberRange) -> None:
    """Raise `ConfigError` for a field of the dataclass `record` that is outside its range.

    Example:
        >>> @dataclass(frozen=True)
        ... class Walk:
        ...     pace: float
        ...     def __post_init__(self): check_ranges(self, pace=POSITIVE)
        >>> Walk(-1.0)
        Traceback (most recent call last):
        ...
        verbot.errors.ConfigError: pace is -1.0; expected more than 0
    """
    for name, allowed in ranges.items():
        allowed.check(name, getattr(record, name))


def _shown(value: Any) -> str:
    large = isinstance(value, int) and abs(value) >= 10**30
    text = "a number of more than 30 digits" if large else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


COUNT = NumberRange(1, LARGEST, whole=True)
COUNT_OR_NONE = NumberRange(0, LARGEST, whole=True)  # 0 stands for none, or for a default
SEED = NumberRange(0, 2**32 - 1, whole=True)
PORT = NumberRange(0, 65535, whole=True)
STRENGTH = NumberRange(0, 3, whole=True)  # of a randomization axis
POSITIVE = NumberRange(0, above=True)
NOT_NEGATIVE = NumberRange(0)
FINITE = NumberRange(-math.inf)
DURATION_S = NumberRange(0, 86400)  # of an episode; 0 stands for a default
RATE_HZ = NumberRange(0, 1e6, above=True)
FRACTION = NumberRange(0, 1)
FRACTION_BELOW_ONE = NumberRange(0, 1, below=True)
IMAGE_SIZE = NumberRange(1, 4096, whole=True)  # pixels a side
