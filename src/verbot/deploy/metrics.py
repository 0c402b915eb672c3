"""What a server counts: requests, errors, latencies, batches and clients, as Prometheus reads them and in one line."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LATENCY_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # upper bounds of the histogram
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
KEPT = 4096  # latest requests, for rates and percentiles
WINDOW_S = 10.0  # of the rate and the percentiles that people see


@dataclass
class Histogram:
    """Counts of values up to each bound, and above all."""

    bounds: Sequence[float]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        self.counts[int(np.searchsorted(self.bounds, value))] += 1
        self.total += value

    def lines(self, name: str, labels: str = "") -> Iterator[str]:
        """Its samples in Prometheus' text format, where counts are cumulative."""
        before = f"{labels}," if labels else ""
        *inner, count = accumulate(self.counts)
        for bound, below in zip(self.bounds, inner, strict=True):
            yield f'{name}_bucket{{{before}le="{bound:g}"}} {below}'
        yield f'{name}_bucket{{{before}le="+Inf"}} {count}'
        shown = f"{{{labels}}}" if labels else ""
        yield f"{name}_sum{shown} {self.total:.6f}"
        yield f"{name}_count{shown} {count}"


@dataclass(frozen=True)
class ServerLoad:
    """The last seconds of a server.

    Args:
        clients: connections now.
        rate_hz: requests a second.
        p50_ms, p99_ms: from the receipt of a request to its answer; 0 without requests.
        batch: mean number of observations of a prediction.
        requests, errors, refused: since the start.
    """

    clients: int
    rate_hz: float
    p50_ms: float
    p99_ms: float
    batch: float
    requests: int
    errors: int
    refused: int

    def line(self) -> str:
        """For people."""
        errors = f", {self.errors} errors" if self.errors else ""
        refused = f", {self.refused} refused" if self.refused else ""
        return (
            f"{self.clients} client{'' if self.clients == 1 else 's'}, {self.rate_hz:.1f} requests/s, "
            f"p50 {self.p50_ms:.1f} ms, p99 {self.p99_ms:.1f} ms, batches of {self.batch:.1f}; "
            f"{self.requests} requests{errors}{refused}"
        )


class Metrics:
    """Counts for one server. Any thread may call it.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock, self._lock, self._start_s = clock, threading.Lock(), clock()
        self._requests: Counter[str] = Counter()  # by protocol
        self._errors: Counter[tuple[str, str]] = Counter()  # by protocol and kind
        self._bytes: Counter[tuple[str, str]] = Counter()  # by protocol and direction
        self._clients: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()  # by reason
        self._latency: dict[str, Histogram] = {}
        self._batches, self._predicting = Histogram(BATCHES), Histogram(LATENCY_S)
        self._recent: deque[tuple[float, float]] = deque(maxlen=KEPT)  # (when it was answered, seconds)
        self._recent_batches: deque[tuple[float, int]] = deque(maxlen=KEPT)

    def request(self, protocol: str, seconds: float, error: str = "") -> None:
        """A request was answered; `error` is the kind of its error, of which there are few."""
        with self._lock:
            self._requests[protocol] += 1
            if error:
                self._errors[protocol, error] += 1
            self._latency.setdefault(protocol, Histogram(LATENCY_S)).add(seconds)
            self._recent.append((self._clock(), seconds))

    def batch(self, size: int, seconds: float) -> None:
        """A prediction for `size` observations ended."""
        with self._lock:
            self._batches.add(size)
            self._predicting.add(seconds)
            self._recent_batches.append((self._clock(), size))

    def moved(self, protocol: str, received: int = 0, sent: int = 0) -> None:
        """Bytes of messages."""
        with self._lock:
            self._bytes[protocol, "received"] += received
            self._bytes[protocol, "sent"] += sent

    def connected(self, protocol: str, change: int) -> None:
        """A client came (1) or left (-1)."""
        with self._lock:
            self._clients[protocol] += change

    def refused(self, reason: str) -> None:
        """A client was refused before its first message."""
        with self._lock:
            self._refused[reason] += 1

    def load(self, busy: int = 0) -> ServerLoad:
        """The last `WINDOW_S` seconds. `busy` counts the clients for whom there was no room."""
        with self._lock:
            now = self._clock()
            window = min(WINDOW_S, max(1e-3, now - self._start_s))
            recent = [seconds for when, seconds in self._recent if when > now - window]
            sizes = [size for when, size in self._recent_batches if when > now - window]
            p50, p99 = np.percentile(recent, [50, 99]) if recent else (0.0, 0.0)
            return ServerLoad(
                sum(self._clients.values()), len(recent) / window, 1000 * float(p50), 1000 * float(p99),
                float(np.mean(sizes)) if sizes else 0.0, sum(self._requests.values()), sum(self._errors.values()),
                sum(self._refused.values()) + busy,
            )  # fmt: skip

    def text(self, busy: int = 0, about: Mapping[str, str] | None = None) -> str:
        """All counts in Prometheus' text format 0.0.4.

        Args:
            busy: clients for whom there was no room.
            about: labels of the served policy.
        """
        with self._lock:
            lines = [*self._counts({**self._refused, "busy": busy})]
            lines += _head("verbot_request_seconds", "histogram", "From the receipt of a request to its answer.")
            for protocol, histogram in sorted(self._latency.items()):
                lines += histogram.lines("verbot_request_seconds", f'protocol="{protocol}"')
            lines += _head("verbot_batch_observations", "histogram", "Observations of one prediction.")
            lines += self._batches.lines("verbot_batch_observations")
            lines += _head("verbot_prediction_seconds", "histogram", "Duration of one prediction.")
            lines += self._predicting.lines("verbot_prediction_seconds")
            lines += _head("verbot_uptime_seconds", "gauge", "Since the server began.")
            lines.append(f"verbot_uptime_seconds {self._clock() - self._start_s:.3f}")
        lines += _head("verbot_policy_info", "gauge", "The policy that is served.")
        labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in (about or {}).items())
        lines.append(f"verbot_policy_info{{{labels}}} 1")
        return "\n".join(lines) + "\n"

    def _counts(self, refused: Mapping[str, int]) -> Iterator[str]:
        yield from _head("verbot_requests_total", "counter", "Requests that were answered.")
        yield from (f'verbot_requests_total{{protocol="{name}"}} {count}' for name, count in sorted(self._requests.items()))
        yield from _head("verbot_errors_total", "counter", "Requests that were answered with an error.")
        for (protocol, kind), count in sorted(self._errors.items()):
            yield f'verbot_errors_total{{protocol="{protocol}",kind="{kind}"}} {count}'
        yield from _head("verbot_message_bytes_total", "counter", "Bytes of messages.")
        for (protocol, direction), count in sorted(self._bytes.items()):
            yield f'verbot_message_bytes_total{{protocol="{protocol}",direction="{direction}"}} {count}'
        yield from _head("verbot_clients", "gauge", "Clients that are connected.")
        yield from (f'verbot_clients{{protocol="{name}"}} {count}' for name, count in sorted(self._clients.items()))
        yield from _head("verbot_refused_total", "counter", "Clients that were refused before their first message.")
        yield from (f'verbot_refused_total{{reason="{reason}"}} {count}' for reason, count in sorted(refused.items()))


def _head(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
