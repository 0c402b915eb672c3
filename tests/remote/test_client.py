"""A remote policy against servers that misbehave: typed errors, finite chunks, no call beyond its time limit."""

from __future__ import annotations

import itertools
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from verbot.contracts import IdentifiedPolicy, continuation_of
from verbot.errors import ConfigError, ConnectionLostError, VerbotError, WireError
from verbot.remote import RemotePolicy, decode, encode
from verbot.remote.codec import MAX_BYTES, VERSION
from verbot.remote.greeting import Greeting
from verbot.remote.transport import Transport
from verbot.spec import ActionChunk, Component, Observation, RobotSpec

STEP = Component("x", "position_delta", ("x", "y", "z"), "m", "base", (-1.0,) * 3, (1.0,) * 3)
SPEC = RobotSpec("line", 10.0, (), (STEP,), (STEP,))
NOW = Observation({}, np.zeros(3, np.float32), "go", time_s=2.0)
Answer = Callable[[ServerConnection, int], Any]  # what the server sends for a request of this number


def chunk(values: Any, **fields: Any) -> dict[str, Any]:
    return {"values": np.asarray(values, np.float32), "time_s": 2.0, "extras": {}, "memory": None, "value": None} | fields


def good(connection: ServerConnection, number: int) -> dict[str, Any]:
    return {"id": number, "chunks": [chunk(np.ones((2, 3)))]}


@contextmanager
def serving(answer: Answer = good, port: int = 0, tls: ssl.SSLContext | None = None, **greeting: Any) -> Iterator[str]:
    """A server that greets and then answers as `answer` says; returns its address."""

    def converse(connection: ServerConnection) -> None:
        try:
            connection.send(encode({"verbot": VERSION, "spec": SPEC.to_json(), **greeting}))
            for data in connection:
                sent = answer(connection, decode(data)["id"])
                if sent is not None:
                    connection.send(encode(sent) if isinstance(sent, dict) else sent)
        except ConnectionClosed:
            pass

    with serve(converse, "127.0.0.1", port, ssl=tls, compression=None, max_size=MAX_BYTES, close_timeout=0.1) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join(5)


def connected(url: str, timeout_s: float) -> RemotePolicy:
    """Also on a machine that is too busy to connect within the time limit."""
    for _ in range(20):
        try:
            return RemotePolicy(url, timeout_s)
        except ConnectionLostError:
            continue
    raise AssertionError(f"{url} never answers")


@contextmanager
def stopped() -> Iterator[str]:
    """What a stopped process looks like: connections are accepted by the system, and nothing is read or said."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}"


WRONG = {
    "nan": (chunk([[np.nan, 0, 0]]), "row 0 of a chunk of actions is not finite"),
    "inf": (chunk([[0, 0, 0], [0, np.inf, 0]]), "row 1 of a chunk of actions is not finite"),
    "columns": (chunk(np.zeros((10, 4))), r"shape \(10, 4\)"),
    "no rows": (chunk(np.zeros((0, 3))), r"shape \(0, 3\)"),
    "many rows": (chunk(np.zeros((100_000, 3))), r"shape \(100000, 3\)"),
    "time": (chunk(np.ones((2, 3)), time_s=float("nan")), "has the time nan"),
    "value": (chunk(np.ones((2, 3)), value=float("inf")), "has the value inf"),
    "memory": (chunk(np.ones((2, 3)), memory={"m": np.full(2, np.nan)}), "memory 'm' is not finite"),
    "extras": (chunk(np.ones((2, 3)), extras={"all": [0] * 1000}), "more than 256 entries"),
    "text": (3, "expected a map with 'values'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_robot_cannot_execute_is_refused(name: str) -> None:
    record, message = WRONG[name]
    with serving(lambda _, number: {"id": number, "chunks": [record]}) as url, RemotePolicy(url) as policy:
        with pytest.raises(WireError, match=message):
            policy.predict([NOW])


@pytest.mark.parametrize(
    "sent", [b"\xc1", "text", {"id": 99, "chunks": []}, {"chunks": []}, {"id": 99, "error": {}}], ids=lambda sent: str(sent)[:20]
)
def test_an_answer_to_something_else_ends_the_connection(sent: Any) -> None:
    """The next answer would be taken for that to another request."""
    seen: list[int] = []

    def answer(connection: ServerConnection, number: int) -> Any:
        seen.append(id(connection))
        return sent if len(seen) == 1 else good(connection, number)

    with serving(answer) as url, RemotePolicy(url) as policy:
        with pytest.raises(WireError):
            policy.predict([NOW])
        assert policy.predict([NOW])[0].values.shape == (2, 3)
        assert seen[0] != seen[1]


def test_an_error_is_answered_on_one_line_and_keeps_the_connection() -> None:
    seen: list[int] = []

    def answer(connection: ServerConnection, number: int) -> Any:
        seen.append(id(connection))
        return {"id": None if len(seen) > 1 else number, "error": {"kind": "PolicyError", "message": "\x1b[31mred\nline"}}

    with serving(answer) as url, RemotePolicy(url) as policy:
        for _ in range(2):
            with pytest.raises(WireError, match=r"answered PolicyError:  \[31mred line$") as caught:
                policy.predict([NOW])
            assert not isinstance(caught.value, ConnectionLostError)
    assert seen[0] == seen[1]


def test_a_broken_connection_is_opened_anew_and_the_request_repeated_once() -> None:
    requests: list[int] = []

    def answer(connection: ServerConnection, number: int) -> Any:
        requests.append(number)
        if len(requests) in (2, 4, 5):
            connection.socket.shutdown(socket.SHUT_RDWR)
            return None
        return good(connection, number)

    with serving(answer) as url, RemotePolicy(url, timeout_s=5) as policy:
        policy.predict([NOW])
        assert policy.predict([NOW])[0].time_s == 2.0
        assert requests == [1, 2, 2]
        with pytest.raises(ConnectionLostError, match="broke twice"):
            policy.predict([NOW])
        policy.predict([NOW])


def test_a_restarted_server_is_found_again_unless_it_serves_another_policy() -> None:
    with serving(identity="a" * 64) as url:
        policy = RemotePolicy(url, timeout_s=1.0)
        assert isinstance(policy, IdentifiedPolicy)
        assert policy.identity == "a" * 64
    start = time.monotonic()
    with pytest.raises(ConnectionLostError, match="no policy server answers"):
        policy.predict([NOW])
    assert 0.5 < time.monotonic() - start < 1.5
    start = time.monotonic()
    with pytest.raises(ConnectionLostError):
        policy.predict([NOW])
    assert time.monotonic() - start < 0.4, "once lost, one attempt each"
    port = int(url.rpartition(":")[2])
    with serving(identity="a" * 64, port=port):
        policy.predict([NOW])
    with serving(identity="b" * 64, port=port), pytest.raises(WireError, match=f"policy '{'b' * 16}', before '{'a' * 16}'"):
        policy.predict([NOW])
    other = RobotSpec("other", 10.0, (), (STEP,), (STEP,))
    with (
        serving(identity="a" * 64, spec=other.to_json(), port=port),
        pytest.raises(WireError, match="robot 'other', before for 'line'"),
    ):
        policy.predict([NOW])
    policy.close()
    with pytest.raises(WireError, match="was closed"):
        policy.predict([NOW])


def test_a_server_that_stops_blocks_for_the_time_limit_at_most() -> None:
    """Also while a request is sent that the other side does not read, and while the connection is closed."""
    wait = threading.Event()
    with serving(lambda *_: wait.wait(5) and None) as url:
        policy = connected(url, timeout_s=0.3)
        big = Observation({}, np.zeros(3, np.float32), "go", memory={"m": np.zeros(2**21)})  # more than the buffers hold
        for observation in (NOW, big, big):
            start = time.monotonic()
            with pytest.raises(ConnectionLostError, match=r"within 0\.3 s"):
                policy.predict([observation])
            assert time.monotonic() - start < 1.5
        start = time.monotonic()
        policy.close()
        assert time.monotonic() - start < 2.5
        wait.set()
    start = time.monotonic()
    with stopped() as url, pytest.raises(ConnectionLostError, match=r"none within 0\.3 s"):
        RemotePolicy(url, timeout_s=0.3)
    assert time.monotonic() - start < 1.5


@pytest.mark.parametrize(
    "greeting",
    [
        {"verbot": 2},
        {"spec": 3},
        {"spec": {"cameras": [1]}},
        {"spec": {**SPEC.to_json(), "rate_hz": "fast"}},
        {"identity": 3},
        {"identity": "x" * 1000},
        {"limits": {"bytes": -1}},
        {"limits": 3},
        {"continuation": ["guided"]},
    ],
    ids=lambda greeting: str(greeting)[:24],
)
def test_a_wrong_greeting_is_a_typed_error(greeting: dict[str, Any]) -> None:
    with serving(**greeting) as url, pytest.raises(WireError) as caught:
        RemotePolicy(url)
    assert not isinstance(caught.value, ConnectionLostError)


@pytest.mark.parametrize(("said", "found"), [({}, ""), ({"continuation": "guided"}, "guided"), ({"continuation": "later"}, "")])
def test_a_server_says_whether_it_continues_planned_actions(said: dict[str, str], found: str) -> None:
    with serving(**said) as url, RemotePolicy(url) as policy:
        assert continuation_of(policy) == found


def test_limits_of_the_server_are_kept() -> None:
    with serving(limits={"observations": 1, "message_bytes": 1000}) as url, RemotePolicy(url) as policy:
        assert len(policy.predict([NOW] * 3)) == 3, "sent one at a time"
        with pytest.raises(WireError, match=r"bytes; .* reads at most 1000"):
            policy.predict([Observation({}, np.zeros(3, np.float32), "x" * 1000)])
        policy.predict([NOW])


def test_too_large_requests_are_sent_in_parts() -> None:
    seen: list[int] = []

    def count(connection: ServerConnection, number: int) -> dict[str, Any]:
        return {"id": number, "chunks": [chunk(np.full((2, 3), number))] * seen[-1]}

    def decoded(data: Any, read: Any = decode) -> Any:
        message = read(data)
        seen.append(len(message["observations"]))
        return message

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "decode", decoded)
        with serving(count, limits={"observations": 64, "message_bytes": 6000}) as url, RemotePolicy(url) as policy:
            chunks = policy.predict([Observation({}, np.zeros(3, np.float32), "x" * 900)] * 5)
    assert len(chunks) == sum(seen) == 5 and len(seen) > 1


def test_a_busy_server_is_asked_again_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verbot.remote.client.BUSY_S", 0.05)
    asked: list[float] = []

    def busy(connection: ServerConnection, number: int) -> Any:
        asked.append(time.monotonic())
        if len(asked) > 3:
            return good(connection, number)
        connection.close(1013, "others wait")

    with serving(busy) as url, RemotePolicy(url) as policy:
        assert len(policy.predict([NOW])) == 1
    assert len(asked) == 4 and all(later - earlier >= 0.05 for earlier, later in itertools.pairwise(asked))


def test_a_policy_that_is_closed_while_it_connects_leaves_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as url:
        policy = RemotePolicy(url)
        policy._drop()
        read, given_up = Greeting.read, []
        monkeypatch.setattr(Greeting, "read", lambda data, url: (policy.close(), read(data, url))[1])
        monkeypatch.setattr(Transport, "give_up", lambda self, end=Transport.give_up: (given_up.append(self), end(self))[1])
        with pytest.raises(WireError, match="was closed"):
            policy.predict([NOW])
        assert given_up and policy._transport is None


def test_a_token_is_sent_and_its_refusal_named() -> None:
    seen: list[str | None] = []
    refused: tuple[int, str] = (401, "")

    def admit(connection: ServerConnection, request: Any) -> Any:
        seen.append(request.headers.get("Authorization"))
        return None if seen[-1] == "Bearer open-sesame" else connection.respond(*refused)

    def greet(connection: ServerConnection) -> None:
        connection.send(encode({"verbot": VERSION, "spec": SPEC.to_json()}))

    with serve(greet, "127.0.0.1", 0, process_request=admit, compression=None) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        with RemotePolicy(url, token="open-sesame") as policy:
            assert policy.spec == SPEC and policy.identity == ""
        with pytest.raises(WireError, match=r"refuses this client \(HTTP 401\); give RemotePolicy the server's token"):
            RemotePolicy(url)
        refused = 403, "wrong host: use the address of the loopback\n"
        with pytest.raises(WireError, match=r"\(HTTP 403\): wrong host: use the address of the loopback$"):
            RemotePolicy(url)
        server.shutdown()
    assert seen == ["Bearer open-sesame", None, None]


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("ws://example.org:80", {"token": "secret"}, "plain text; use wss://"),
        ("ws://127.0.0.1:80", {"token": "a\r\nHost: b"}, "the token is empty or has other characters"),
        ("ws://127.0.0.1:80", {"cafile": "x.pem"}, "does not use TLS"),
        ("ws://127.0.0.1:80", {"ssl_context": ssl.create_default_context()}, "does not use TLS"),
        ("wss://127.0.0.1:80", {"cafile": "missing.pem"}, "missing.pem has no certificates"),
        ("ws://127.0.0.1:80", {"timeout_s": 0}, "timeout_s is 0"),
        ("ws://127.0.0.1:80", {"timeout_s": float("nan")}, "timeout_s is nan"),
    ],
)
def test_wrong_arguments_teach(url: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        RemotePolicy(url, **options)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["not a url", "http://127.0.0.1:1", "ws://[::1", "ws://127.0.0.1:99999", "ws://" + "a" * 70 + ".x"]
)
def test_addresses_that_are_none_are_typed_errors(url: str) -> None:
    with pytest.raises(VerbotError, match="no policy server answers"):
        RemotePolicy(url, timeout_s=1)


def test_threads_may_share_a_policy() -> None:
    def answer(connection: ServerConnection, number: int) -> Any:
        time.sleep(0.002)
        return good(connection, number)

    chunks: list[ActionChunk] = []
    with serving(answer) as url, RemotePolicy(url) as policy:
        threads = [threading.Thread(target=lambda: chunks.extend(policy.predict([NOW]))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)
    assert len(chunks) == 8


def test_a_server_with_tls_is_used_with_its_certificate_only(tmp_path: Any) -> None:
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificate")
    certificate, key = str(tmp_path / "certificate.pem"), str(tmp_path / "key.pem")
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-out", certificate, "-keyout", key)
    kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    subprocess.run(["openssl", "req", "-x509", *kind, *names], check=True, capture_output=True, timeout=20)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving(tls=context) as plain:
        url = plain.replace("ws://", "wss://")
        with RemotePolicy(url, cafile=certificate) as policy:
            assert policy.predict([NOW])[0].values.shape == (2, 3)
        with pytest.raises(WireError, match="is not trusted: self-signed certificate; give RemotePolicy its cafile"):
            RemotePolicy(url)
