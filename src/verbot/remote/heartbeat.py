"""The dead-man's switch of the page: whether the person who drives is surely still there."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from verbot.errors import WireError

ALIVE_S = 0.3  # without a heartbeat all keys and sticks are released
BEAT_S, BEATEN_S = 0.5, 1.5  # between two beats of the server, and how old the latest may be that the page has got
DRIFT = 2e-4  # clocks of two computers may differ by that rate
REMEMBERED = 64  # latest beats whose time is known


class Heartbeat:
    """Dates the page's heartbeats by this computer's clock.

    A visible page in focus sends its own clock `at_s` and the number of the latest beat that it got from the server, every 0.1 s
    and before every key. When a heartbeat arrives says nothing, because it may have lain in a buffer for seconds. But it was sent
    after its beat. Each heartbeat so bounds the difference of the two clocks from below, and the highest bound dates all
    heartbeats, never later than they were sent. A late one therefore never counts as a new one, whatever delays it, and
    no assumption about the network is needed. A connection whose round trip exceeds `alive_s` cannot drive. Nor does a page whose
    latest beat is older than `BEATEN_S`: its pictures are as old, because they come by the same connection.

    Args:
        clock: seconds, monotonic.
        alive_s: how old the latest heartbeat may be.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, alive_s: float = ALIVE_S):
        self._clock, self._alive_s = clock, alive_s
        self.restart()

    def restart(self) -> None:
        """Another page, with another clock."""
        self._beats: dict[int, float] = {}
        self._number = -1
        self._ahead_s: float | None = None  # this clock minus the page's, at least
        self._bounded_s = 0.0
        self._heard_s = self._beaten_s = -math.inf  # when the latest heartbeat was sent, and the latest beat in one

    def beat(self) -> int:
        """The number of a beat, which must be sent to the page after this call."""
        self._number += 1
        self._beats[self._number] = self._clock()
        self._beats.pop(self._number - REMEMBERED, None)
        return self._number

    def hear(self, at_s: float, beat: int) -> None:
        """The page sent this when its clock showed `at_s`, after it had received `beat`. Raises `WireError` for no such beat."""
        if beat > self._number:
            raise WireError(f"beat {beat} was not sent yet; the latest is {self._number}")
        now_s = self._clock()
        bounds = [] if self._ahead_s is None else [self._ahead_s - DRIFT * (now_s - self._bounded_s)]
        if beat in self._beats:
            bounds.append(self._beats[beat] - at_s)
            self._beaten_s = self._beats[beat]
        if bounds:
            self._ahead_s, self._bounded_s = max(bounds), now_s
            self._heard_s = min(now_s, at_s + self._ahead_s)

    @property
    def alive(self) -> bool:
        """Whether a heartbeat was sent within the last `alive_s`, by a page that gets what is sent to it."""
        now_s = self._clock()
        return now_s - self._heard_s <= self._alive_s and now_s - self._beaten_s <= BEATEN_S
