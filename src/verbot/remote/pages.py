"""Pages that a server shows in a browser: who may open them, what they may do, and the messages that they send.

Access requires the token in the address. A page's websocket must come from the server's own page: another page in the same
browser can therefore neither read nor control.
"""

from __future__ import annotations

import hmac
import http
import json
import math
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from verbot.errors import WireError
from verbot.remote.addresses import host_name, is_loopback

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; media-src blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
TEXT = "text/plain; charset=utf-8"
SOCKET = "socket"  # the path of the websocket, below the token
_SHOWN = 80  # characters of a value in a message

# For each type of message its fields; of each a predicate for valid values, and their description.
MessageField = tuple[Callable[[Any], bool], str]
MessageFields = Mapping[str, Mapping[str, MessageField]]


class PageAccess:
    """Checks the requests of a browser.

    Args:
        host: the interface that is served.
        token: the first part of every path.
        scheme: ``"https"`` if the server shows a certificate.
    """

    def __init__(self, host: str, token: str, scheme: str = "http"):
        self.token, self._host, self._scheme = token, host, scheme

    def url(self, port: int) -> str:
        """The address of the page, whose token gives control."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{self._scheme}://{host}:{port}/{self.token}/"

    def check(self, request: Request) -> tuple[str, Response | None]:
        """The path below the token, without its query, and None, or the response to who may not ask for it."""
        folder, _, name = request.path.partition("?")[0].lstrip("/").partition("/")
        if not hmac.compare_digest(folder.encode(), self.token.encode()):
            return name, answer(http.HTTPStatus.FORBIDDEN, "wrong token: open the complete address that verbot printed")
        host = request.headers.get_all("Host")
        if len(host) != 1 or not self._is_own_name(host[0]):
            return name, answer(http.HTTPStatus.FORBIDDEN, "wrong host: open this page on the machine that serves it")
        if name == SOCKET and request.headers.get_all("Origin") != [f"{self._scheme}://{host[0]}"]:
            return name, answer(http.HTTPStatus.FORBIDDEN, f"wrong origin: expected {self._scheme}://{host[0]}")
        return name, None

    def _is_own_name(self, host: str) -> bool:
        """Accept only the loopback's names on the loopback: another name that resolves to it belongs to another page."""
        return not is_loopback(self._host) or is_loopback(host_name(host))


def answer(status: http.HTTPStatus, body: str | bytes, kind: str = TEXT, policy: str = POLICY) -> Response:
    """A response that a browser keeps nowhere, and whose page may do what `policy` says."""
    content = body.encode() if isinstance(body, str) else body
    headers = {
        "Content-Type": kind, "Content-Length": str(len(content)), "Connection": "close", "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
    }  # fmt: skip
    return Response(status.value, status.phrase, Headers(headers), content)


def page_file(package: str, name: str) -> Response:
    """The file `name` (``""`` is index.html) of the folder ``page`` of `package`; 404 if there is none."""
    folder, name = files(package).joinpath("page"), name or "index.html"
    kind = KINDS.get("." + name.rpartition(".")[2])
    if kind is None or "/" in name or not folder.joinpath(name).is_file():
        return answer(http.HTTPStatus.NOT_FOUND, "there is no such page")
    return answer(http.HTTPStatus.OK, folder.joinpath(name).read_text("utf-8"), f"{kind}; charset=utf-8")


def parse_message(data: str | bytes, known: MessageFields, max_bytes: int) -> dict[str, Any]:
    """Parse one message of a page, and validate every field. Raises `WireError`.

    Example:
        >>> parse_message('{"type": "seen", "frame": 3}', {"seen": {"frame": COUNT}}, 100)
        {'type': 'seen', 'frame': 3}
    """
    if not isinstance(data, str):
        raise WireError(f"a message is JSON text; got {len(data)} bytes of data")
    if len(data.encode(errors="replace")) > max_bytes:
        raise WireError(f"a message has at most {max_bytes} bytes; got {len(data)} characters")
    try:
        message = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise WireError(f"a message is JSON; this is not: {error}") from error
    kind = message.get("type") if isinstance(message, dict) else None
    if not isinstance(kind, str) or kind not in known:
        raise WireError(f"a message is a map whose type is one of {', '.join(known)}; got {_shown(kind or message)}")
    fields = known[kind]
    if set(message) != {"type", *fields}:
        raise WireError(f"a message of type {kind!r} has exactly the fields {', '.join(fields) or 'none'}; got {_shown(message)}")
    for name, (fits, expected) in fields.items():
        if not fits(message[name]):
            raise WireError(f"field {name!r} of a message of type {kind!r} must be {expected}; got {_shown(message[name])}")
    return dict(message)


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_line(most: int) -> Callable[[object], bool]:
    """Whether a value is one line of 1 to `most` printable characters."""
    return lambda value: isinstance(value, str) and len(value.strip()) > 0 and len(value) <= most and value.isprintable()


COUNT: MessageField = (lambda v: type(v) is int and 0 <= v < 2**53, "a whole number from 0 on")
FLAG: MessageField = (lambda v: isinstance(v, bool), "true or false")
# What every page says while it is open: that it is alive, and what it has seen.
ALIVE: Mapping[str, MessageField] = {
    "at": (lambda v: is_number(v) and 0 <= v < 2**53, "the page's clock in milliseconds"),
    "beat": (COUNT[0], "the number of a beat"),
}
SEEN: Mapping[str, MessageField] = {"frame": (COUNT[0], "a frame's number")}


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}…"
