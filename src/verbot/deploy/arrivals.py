"""When clients will ask next, so that a prediction waits a moment for those who are about to."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

RECENT_S = 1.0  # a client counts among those that ask for so long after its last request
MOST_WAIT_S = 0.004
SHARE = 0.5  # of what a further prediction would cost, that is waited at most
SMOOTHING = 0.5  # of the latest value, in the mean of a client's pauses and of the times of predictions


@dataclass
class _Client:
    """A client's latest request and answer, in seconds of the server's clock, and its mean pause from an answer to a request."""

    asked_s: float
    answered_s: float | None = None
    pause_s: float | None = None


class Arrivals:
    """Expects each client to ask again after the pause that it made before.

    A prediction waits only for a client that is expected within `most_wait_s`, and no longer than `SHARE` of what it saves: a
    prediction takes ``fixed + n * more`` seconds for n observations, and one for two clients saves ``fixed``. So a client alone
    never waits, neither do clients that ask rarely and at different times, and nobody waits for long where a batch saves little.

    Args:
        most_wait_s: the longest wait of one prediction; 0 never waits.
    """

    def __init__(self, most_wait_s: float = MOST_WAIT_S):
        self.most_wait_s = most_wait_s
        self._clients: dict[int, _Client] = {}
        self._took_s: dict[int, float] = {}  # by the number of observations

    def asked(self, client: int, now_s: float) -> None:
        """A request of `client` was read."""
        known = self._clients.setdefault(client, _Client(now_s))
        if known.answered_s is not None:
            pause = max(0.0, now_s - known.answered_s)
            known.pause_s = pause if known.pause_s is None else SMOOTHING * pause + (1 - SMOOTHING) * known.pause_s
        known.asked_s, known.answered_s = now_s, None

    def answered(self, client: int, now_s: float) -> None:
        """`client` has its answer, and may ask again."""
        if client in self._clients:
            self._clients[client].answered_s = now_s

    def predicted(self, count: int, took_s: float) -> None:
        """A prediction for `count` observations took so many seconds."""
        before = self._took_s.get(count, took_s)
        self._took_s[count] = SMOOTHING * took_s + (1 - SMOOTHING) * before

    def fixed_s(self) -> float:
        """What a prediction takes beside its observations; 0 until predictions for different numbers of them were seen."""
        few, many = min(self._took_s, default=0), max(self._took_s, default=0)
        if few == many:
            return 0.0
        more = max(0.0, self._took_s[many] - self._took_s[few]) / (many - few)
        return max(0.0, self._took_s[few] - few * more)

    def recent(self, now_s: float) -> set[int]:
        """The clients that asked within `RECENT_S`; the others are forgotten."""
        self._clients = {number: each for number, each in self._clients.items() if each.asked_s > now_s - RECENT_S}
        return set(self._clients)

    def wait_s(self, since_s: float, now_s: float, ready: Collection[int]) -> float:
        """How much longer to wait for further requests, of a wait that began at `since_s` with those of the clients `ready`."""
        until = since_s + min(self.most_wait_s, SHARE * self.fixed_s())
        if now_s >= until:
            return 0.0
        for number, each in self._clients.items():
            if number in ready or each.answered_s is None or each.pause_s is None:
                continue
            if since_s - self.most_wait_s <= each.answered_s + each.pause_s <= until:
                return until - now_s
        return 0.0
