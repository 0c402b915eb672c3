"""Cutting a stream of sound into utterances: speech begins, goes on over short pauses, and ends with a long one."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from verbot.errors import ConfigError
from verbot.ranges import FRACTION, POSITIVE, check_ranges
from verbot.spec import FloatArray

RATE_HZ = 16_000
WINDOW = 512  # samples that are judged together, 32 ms
WINDOW_S = WINDOW / RATE_HZ


class SpeechDetector(Protocol):
    """Says where somebody speaks. It has a memory: windows come in their order."""

    def probability(self, window: FloatArray) -> float:
        """That there is speech in the next float32 (`WINDOW`,) samples at 16 kHz, from 0 to 1."""
        ...

    def reset(self) -> None:
        """What comes next does not follow on what came before."""
        ...


@dataclass(frozen=True)
class CuttingConfig:
    """What is an utterance.

    Args:
        begins: probability of speech from which on an utterance begins.
        ends: probability below which there is a pause; less than `begins`, so that a doubtful window changes nothing.
        pause_s: of an utterance's end.
        before_s: kept of what came before it began, because the first consonant is quiet.
        least_s: of speech in it; less is a click.
        most_s: of an utterance. Who talks on longer does not instruct: all of it is dropped up to the next pause.
    """

    begins: float = 0.5
    ends: float = 0.35
    pause_s: float = 0.5
    before_s: float = 0.3
    least_s: float = 0.16
    most_s: float = 12.0

    def __post_init__(self) -> None:
        check_ranges(self, begins=FRACTION, ends=FRACTION, pause_s=POSITIVE, before_s=POSITIVE, least_s=POSITIVE, most_s=POSITIVE)
        if self.ends > self.begins:
            raise ConfigError(f"ends is {self.ends}, above begins, which is {self.begins}")


class UtteranceCutter:
    """Keeps at most ``most_s`` seconds of sound.

    Args:
        detector: judges each window; used by this cutter alone.

    Example:
        >>> class Loud:
        ...     def probability(self, window): return float(abs(window).max() > 0.1)
        ...     def reset(self): pass
        >>> sound = np.zeros(32_000, np.float32)
        >>> sound[8_000:16_000] = 0.5
        >>> [len(each) for each in UtteranceCutter(Loud()).cut(sound)]  # 0.3 s before, speech, 0.5 s of pause
        [21504]
    """

    def __init__(self, detector: SpeechDetector, config: CuttingConfig | None = None):
        self._detector, self._config = detector, config or CuttingConfig()
        self._before: deque[FloatArray] = deque(maxlen=round(self._config.before_s / WINDOW_S))
        self.reset()

    @property
    def hears(self) -> bool:
        """Whether an utterance goes on."""
        return bool(self._windows)

    def reset(self) -> None:
        """Drop what there is."""
        self._detector.reset()
        self._before.clear()
        self._windows: list[FloatArray] = []
        self._rest = np.zeros(0, np.float32)
        self._spoken = self._paused = 0  # windows: with speech, and of the present pause
        self._is_too_long = False

    def cut(self, samples: FloatArray) -> list[FloatArray]:
        """Take the next float32 (n,) samples at 16 kHz; the utterances (m,) that end with them.

        Raises `ConfigError` for samples of another shape, or that are not finite.
        """
        if samples.ndim != 1 or not np.isfinite(samples).all():
            raise ConfigError(f"sound is finite samples (n,) at {RATE_HZ} Hz; got shape {samples.shape}")
        sound = np.concatenate([self._rest, samples.astype(np.float32)])
        whole = len(sound) // WINDOW * WINDOW
        self._rest = sound[whole:].copy()
        ended = [self._take(window) for window in sound[:whole].reshape(-1, WINDOW)]
        return [utterance for utterance in ended if utterance is not None]

    def _take(self, window: FloatArray) -> FloatArray | None:
        """The utterance that ends with this window."""
        config, probability = self._config, self._detector.probability(window)
        if not self._windows and not self._is_too_long and probability < config.begins:
            self._before.append(window.copy())
            return None
        if not self._windows and not self._is_too_long:
            self._windows = list(self._before)
            self._before.clear()
            self._spoken = 0
        self._spoken += probability >= config.begins
        self._paused = self._paused + 1 if probability < config.ends else 0
        if not self._is_too_long:
            self._windows.append(window.copy())
        if len(self._windows) * WINDOW_S >= config.most_s:
            self._windows, self._is_too_long = [], True
        if self._paused * WINDOW_S < config.pause_s:
            return None
        windows, is_too_long = self._windows, self._is_too_long
        self._windows, self._paused, self._is_too_long = [], 0, False
        self._before.extend(windows)  # what ends an utterance comes before the next
        is_click = self._spoken * WINDOW_S < config.least_s
        return None if is_too_long or is_click else np.concatenate(windows)
