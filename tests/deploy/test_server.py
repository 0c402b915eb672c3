import threading
import time

import msgpack
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from verbot.contracts import Policy
from verbot.deploy import PolicyServer, ServingOptions
from verbot.errors import ConfigError, WireError
from verbot.remote import RemotePolicy, decode, encode
from verbot.remote.client import PATH
from verbot.remote.codec import observation_to_wire
from verbot.spec import ActionChunk, Camera, Component, Observation, RobotSpec

GRIPPER = Component("gripper", "gripper", ("open",), "1", "tool", (0.0,), (1.0,))
SPEC = RobotSpec("toy", 10.0, (Camera("front", 4, 6),), (GRIPPER,), (GRIPPER,))


class Echo:
    """Answers with the state, twice; fails on the instruction "fail"."""

    spec = SPEC
    memory_bytes = 0

    def predict(self, observations):
        if any(o.instruction == "fail" for o in observations):
            raise RuntimeError("out of order")
        return [ActionChunk(np.stack([o.state, o.state]), o.time_s, {"instruction": o.instruction}) for o in observations]


def observation(value, instruction="open"):
    return Observation({"front": np.zeros((4, 6, 3), np.uint8)}, np.array([value], np.float32), instruction, None, value)


@pytest.fixture
def server():
    with PolicyServer(Echo()) as running:
        yield running


def test_a_remote_policy_predicts_what_the_policy_predicts(server):
    with RemotePolicy(server.url) as remote:
        assert isinstance(remote, Policy) and remote.spec == SPEC
        for _ in range(3):
            chunks = remote.predict([observation(0.25), observation(0.75, "close")])
            assert [c.values.tolist() for c in chunks] == [[[0.25], [0.25]], [[0.75], [0.75]]]
            assert [c.extras["instruction"] for c in chunks] == ["open", "close"] and chunks[1].time_s == 0.75
        assert remote.predict([]) == []


def test_errors_are_answered_and_the_connection_lives(server):
    with RemotePolicy(server.url) as remote:
        with pytest.raises(WireError, match=r"PolicyError: RuntimeError: out of order"):
            remote.predict([observation(0.1, "fail")])
        with pytest.raises(WireError, match=r"SpecError: the state has shape \(2,\)"):
            remote.predict([Observation(observation(0).images, np.zeros(2, np.float32))])
        with pytest.raises(WireError, match=r"SpecError: the observation lacks camera 'front'"):
            remote.predict([Observation({}, np.zeros(1, np.float32))])
        assert remote.predict([observation(0.5)])[0].values.shape == (2, 1)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xc1",
        "hello",
        encode({"id": 1}),
        encode({"id": "x", "observations": []}),
        encode({"id": 1, "observations": [3]}),
        encode({"id": 1, "observations": [{**observation_to_wire(observation(0)), "images": {"front": 1}}]}),
        b"\x81\xa1a\x84"
        + b"\xc4\x0b__ndarray__\xc3"
        + b"\xc4\x04data\xc4\x08"
        + b"\0" * 8
        + b"\xc4\x05dtype\xa2|O\xc4\x05shape\x91\x01",
    ],
)
def test_malformed_messages_get_a_typed_error(server, message):
    with connect(server.url + PATH, compression=None) as socket:
        greeting = decode(socket.recv())
        assert greeting["verbot"] == 1 and greeting["identity"] == "" and greeting["limits"]["observations"] == 64
        socket.send(message)
        assert decode(socket.recv())["error"]["kind"] == "WireError"
        socket.send(encode({"id": 7, "observations": [observation_to_wire(observation(0.5))]}))
        assert decode(socket.recv())["id"] == 7


def test_a_missing_server_is_reported():
    with pytest.raises(WireError, match="no policy server answers at ws://127.0.0.1:9"):
        RemotePolicy("ws://127.0.0.1:9", timeout_s=2)
    with pytest.raises(WireError, match="no policy server"):
        RemotePolicy("not a url")


def test_a_closed_server_is_reported():
    server = PolicyServer(Echo())
    remote = RemotePolicy(server.url, timeout_s=1.0)
    server.close()
    with pytest.raises(WireError, match="no policy server answers"):
        remote.predict([observation(0.5)])
    remote.close()


def test_a_slow_server_times_out(server, monkeypatch):
    monkeypatch.setattr(Echo, "predict", lambda self, observations: time.sleep(0.5) or [])
    with RemotePolicy(server.url, timeout_s=0.1) as remote:
        for _ in range(2):  # the second time over a new connection
            with pytest.raises(WireError, match=r"did not answer within 0\.1 s"):
                remote.predict([observation(0.5)])


def test_a_request_holds_no_more_than_the_spec_asks_for(server):
    small, one = server._served.limits, observation_to_wire(observation(0.5))
    assert small.message_bytes < 2**22, "a robot with one small camera sends small messages"
    for request, message in (
        ([one] * 65, "array"),
        ([{**one, "images": {"front": np.zeros((900, 900, 3), np.uint8)}}], "has 2430000 bytes; at most"),
        ([{**one, "instruction": "x" * 5000}], "5000 characters"),
        ([{**one, "x": [[] for _ in range(40)]} for _ in range(64)] * 2, "array"),
        ([{**one, "x": [[[] for _ in range(60)] for _ in range(64)]}], "maps and lists"),
        ([{**one, "time_s": float("nan")}], "time_s"),
        ([{**one, "sample_seed": -1}], "sample_seed"),
        ([{**one, "memory": {"h": np.array([np.inf])}}], "memory 'h' is not finite"),
        ([{**one, "memory": {"h": 3}}], "memory 'h' is int"),
    ):
        fault = decode(server.answer(encode({"id": 3, "observations": request})))["error"]
        assert fault["kind"] in ("WireError", "SpecError") and message in fault["message"]
    with connect(server.url + PATH, compression=None) as socket:
        socket.recv()
        with pytest.raises(ConnectionClosed, match="1009"):
            socket.send(bytes(small.message_bytes + 1))
            socket.recv(timeout=5)


def test_a_memory_as_large_as_the_policy_says_is_read(server, monkeypatch):
    request = encode({"id": 3, "observations": [{**observation_to_wire(observation(0.5)), "memory": {"m": np.zeros(10**6)}}]})
    assert "are read" in decode(server.answer(request))["error"]["message"]
    for memory_bytes in (8 * 10**6, None):  # what a policy says, and what is assumed of one that says nothing
        monkeypatch.setattr(Echo, "memory_bytes", memory_bytes)
        if memory_bytes is None:
            monkeypatch.delattr(Echo, "memory_bytes")
        with PolicyServer(Echo()) as large:
            assert "chunks" in decode(large.answer(request))


def test_a_policy_that_leaves_or_cannot_say_why_is_an_error_of_its_request(server, monkeypatch):
    class Silent(Exception):
        def __str__(self):
            raise RuntimeError("no words")

    request = encode({"id": 4, "observations": [observation_to_wire(observation(0.5))]})
    for error, message in ((SystemExit("bye"), "SystemExit: bye"), (Silent(), "Silent: its message cannot be shown")):
        with monkeypatch.context() as patch:
            patch.setattr(Echo, "predict", lambda self, observations, error=error: (_ for _ in ()).throw(error))
            assert message in decode(ask(server, request))["error"]["message"]
        assert "chunks" in decode(ask(server, request))


@pytest.mark.parametrize("options", [{"observations": n} for n in (0, -1, 2.5, True)] + [{"clients": 0}, {"wait_s": 2.0}])
def test_wrong_arguments_are_named(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        ServingOptions(**options)
    with pytest.raises(ConfigError, match="tls"):
        PolicyServer(Echo(), tls=("cert.pem",))


def test_half_a_character_is_no_instruction(server):
    record = {**observation_to_wire(observation(0.5)), "instruction": "push \ud83d"}
    with pytest.raises(WireError, match="cannot be sent"):
        encode({"id": 1, "observations": [record]})
    data = msgpack.packb({"id": 1, "observations": [{"instruction": record["instruction"]}]}, unicode_errors="surrogatepass")
    assert decode(server.answer(data))["error"]["kind"] == "WireError"


@pytest.mark.parametrize(
    "values",
    [np.full((2, 1), np.nan), np.zeros((0, 1)), np.zeros((2, 3)), np.zeros((5000, 1)), np.full((1, 1), 1e300)],
)
def test_no_chunk_leaves_that_a_robot_cannot_execute(server, monkeypatch, values):
    monkeypatch.setattr(Echo, "predict", lambda self, observations: [ActionChunk(values) for _ in observations])
    for answer in (server.answer, lambda data: ask(server, data)):
        error = decode(answer(encode({"id": 4, "observations": [observation_to_wire(observation(0.5))]})))["error"]
        assert error["kind"] == "SpecError" and "chunk of actions" in error["message"]


def ask(server, data):
    with connect(server.url + PATH, compression=None) as socket:
        socket.recv()
        socket.send(data)
        return socket.recv(timeout=5)


@pytest.mark.parametrize("extras", [{"text": "\ud83d"}, {"object": object()}, None, 3])
def test_what_a_policy_returns_never_ends_a_connection(server, monkeypatch, extras):
    monkeypatch.setattr(Echo, "predict", lambda self, observations: [ActionChunk(np.zeros((1, 1), np.float32), extras=extras)])
    request = encode({"id": 4, "observations": [observation_to_wire(observation(0.5))]})
    assert decode(ask(server, request))["error"]["kind"] in ("WireError", "PolicyError")
    monkeypatch.setattr(Echo, "predict", lambda self, observations: 1 / 0 if observations else [])
    assert "ZeroDivisionError" in decode(ask(server, request))["error"]["message"]


def test_it_closes_while_a_prediction_lasts(monkeypatch):
    started, go = threading.Event(), threading.Event()
    monkeypatch.setattr(Echo, "predict", lambda self, observations: (started.set(), go.wait(5), [])[2])
    server = PolicyServer(Echo())
    with connect(server.url + PATH, compression=None) as socket:
        socket.recv()
        socket.send(encode({"id": 1, "observations": [observation_to_wire(observation(0.5))]}))
        assert started.wait(5)
        start = time.monotonic()
        server.close()
        assert time.monotonic() - start < 2
    go.set()
