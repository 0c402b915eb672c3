"""What a policy server answers to HTTP: whether it lives, its configuration, and its counts."""

from __future__ import annotations

import http
import json
import math
from collections.abc import Callable, Mapping
from urllib.parse import parse_qs, urlsplit

from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from verbot.deploy.metrics import CONTENT_TYPE, Metrics
from verbot.deploy.turns import Turns

PUBLIC = ("/healthz", "/health")  # they say only that the server lives, so they need no token
PATHS = (*PUBLIC, "/config", "/metrics")
MOST_BATCH, MOST_WAIT_S, MOST_FIELDS = 1024, 0.1, 16
BROWSER = ("Origin", "Referer", "Sec-Fetch-Site")  # headers of web pages, which may not configure a server


class Pages:
    """Answers requests for `PATHS`.

    ``/healthz`` is that of openpi's server, ``/health`` and ``/config`` those of vla-eval's: ``/config?max_batch_size=8`` and
    ``?max_wait_time=0.002`` change how requests are batched, until the server ends.

    Args:
        about: labels of the policy.
        busy: number of clients for whom there was no room.
    """

    def __init__(self, turns: Turns, metrics: Metrics, about: Mapping[str, str], busy: Callable[[], int]):
        self._turns, self._metrics, self._about, self._busy = turns, metrics, about, busy

    def answer(self, request: Request) -> Response:
        """The page of an admitted request."""
        parts = urlsplit(request.path)
        if parts.path == "/healthz":
            return page("OK\n")
        if parts.path == "/health":
            return page('{"status": "ok"}\n', "application/json")
        if parts.path == "/metrics":
            return page(self._metrics.text(self._busy(), self._about), CONTENT_TYPE)
        is_browser = any(request.headers.get_all(name) for name in BROWSER)
        try:
            wanted = parse_qs(parts.query, keep_blank_values=True, max_num_fields=MOST_FIELDS)
        except ValueError:
            return _refused([f"more than {MOST_FIELDS} keys"])
        return self._config(wanted, is_browser)

    def _config(self, wanted: Mapping[str, list[str]], is_browser: bool) -> Response:
        applied: dict[str, float] = {}
        errors = ["web pages may not configure this server"] if wanted and is_browser else []
        for name, values in () if is_browser else wanted.items():
            error = self._set(name, values[-1], applied)
            errors += [error] if error else []
        now = {"max_batch_size": self._turns.batch, "max_wait_time": self._turns.wait_s}
        if errors and not applied:
            return _refused(errors)
        return page(
            json.dumps({"applied": applied, "config": now, **({"errors": errors} if errors else {})}) + "\n", "application/json"
        )

    def _set(self, name: str, text: str, applied: dict[str, float]) -> str:
        """Why the value cannot be set; empty if it was."""
        try:
            if name == "max_batch_size":
                if not 1 <= (size := int(text)) <= MOST_BATCH:
                    raise ValueError
                self._turns.batch = applied[name] = size
            elif name == "max_wait_time":
                if not (math.isfinite(seconds := float(text)) and 0 <= seconds <= MOST_WAIT_S):
                    raise ValueError
                self._turns.wait_s = applied[name] = seconds
            else:
                return f"unknown key: {name[:40]}"
        except ValueError:
            return f"bad value for {name}: {text[:40]!r}; expected 1 to {MOST_BATCH}, or 0 to {MOST_WAIT_S} seconds"
        return ""


def _refused(errors: list[str]) -> Response:
    return page(json.dumps({"errors": errors}) + "\n", "application/json", http.HTTPStatus.UNPROCESSABLE_ENTITY)


def page(body: str, kind: str = "text/plain; charset=utf-8", status: http.HTTPStatus = http.HTTPStatus.OK) -> Response:
    content = body.encode()
    headers = {
        "Content-Type": kind, "Content-Length": str(len(content)), "Connection": "close", "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }  # fmt: skip
    return Response(status.value, status.phrase, Headers(headers), content)
