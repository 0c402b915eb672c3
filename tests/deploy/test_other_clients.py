"""openpi's and vla-eval's clients, whose messages `frames` makes, and the pages that they ask for."""

import base64
import http.client
import io
import json

import numpy as np
import pytest
from PIL import Image
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from verbot.deploy import PolicyServer, ServingOptions
from verbot.deploy.exchanges import RequestTiming
from verbot.deploy.observation_map import ObservationMap
from verbot.deploy.openpi import OpenpiExchange, usual_keys
from verbot.deploy.vla_eval import VlaEvalExchange
from verbot.errors import ConfigError, SpecError, UnknownNameError, VerbotError, WireError
from verbot.remote import RemotePolicy, decode, encode
from verbot.remote.codec import observation_to_wire
from verbot.spec import ActionChunk, Camera, Component, Observation, RobotSpec

from .frames import pack_openpi, pack_vla_eval, unpack_openpi, unpack_vla_eval

TOKEN = "a-token-of-some-length"
ARM = Component("arm", "position_delta", ("x", "y", "z"), "m", "base", (-1.0,) * 3, (1.0,) * 3)
GRIPPER = Component("gripper", "gripper", ("open",), "1", "tool", (0.0,), (1.0,))
CAMERAS = (Camera("front", 4, 6), Camera("wrist", 4, 6, frame="tool"))
SPEC = RobotSpec("toy", 10.0, CAMERAS, (ARM, GRIPPER), (ARM, GRIPPER))
FRONT, WRIST = np.arange(72, dtype=np.uint8).reshape(4, 6, 3), np.full((4, 6, 3), 7, np.uint8)
OPENPI = {"observation/front": FRONT, "observation/wrist": WRIST, "observation/state": np.arange(4.0), "prompt": "open"}
VLA_EVAL = {"images": {"front": FRONT, "wrist": WRIST}, "state": np.arange(4.0), "task_description": "open"}


class Echo:
    """Three rows: the state, what it saw of the images, and the time; counts in a memory if it has one."""

    spec, memory_bytes = SPEC, 0

    def predict(self, observations):
        chunks = []
        for o in observations:
            if o.instruction == "fail":
                raise RuntimeError('File "/secret/place.py", line 3\nout of order')
            seen = [o.images["front"].sum(), o.images["wrist"].sum(), o.time_s, 0 if o.memory is None else o.memory["n"]]
            rows = np.stack([o.state, np.array(seen, np.float32), np.full(4, 9, np.float32)])
            chunks.append(ActionChunk(rows, o.time_s, memory=None if not self.memory_bytes else {"n": np.array(seen[3] + 1)}))
        return chunks


class Counting(Echo):
    memory_bytes = 8


@pytest.fixture(scope="module")
def server():
    with PolicyServer(Echo(), token=TOKEN) as running:
        yield running


def joined(server, path="", scheme="Api-Key"):
    return connect(server.url + path, compression=None, additional_headers={"Authorization": f"{scheme} {TOKEN}"})


def get(server, path, **headers):
    host, port = server._server.address
    asked = http.client.HTTPConnection(host, port, timeout=5)
    asked.request("GET", path, headers=headers)
    answer = asked.getresponse()
    return answer.status, answer.read().decode(), answer.headers["Content-Type"]


def exchange_of(kind, policy=Echo, clock=lambda: 0.0, **options):
    """A conversation without a server: a function of a message that returns the reply."""
    with PolicyServer(policy(), options=ServingOptions(**options)) as running:
        served = running._served
    made, serving = kind(served, clock), policy()

    def say(data):
        try:
            observations = made.read(data)
            return made.reply(serving.predict(observations) if observations else [], RequestTiming(0.02, 0.01, None))
        except VerbotError as error:
            return made.reply(error, RequestTiming())

    return say


def test_openpi_is_greeted_answered_and_corrected(server):
    with joined(server) as client:
        greeting = unpack_openpi(client.recv(timeout=5))
        assert greeting["verbot"] == 1 and greeting["openpi"]["actions"] == 4 and not greeting["openpi"]["reset"]
        for number in range(2):
            client.send(pack_openpi(OPENPI))
            answer = unpack_openpi(client.recv(timeout=5))
            assert answer["actions"].shape == (3, 4) and answer["actions"].dtype == np.float32
            assert answer["actions"][0].tolist() == [0, 1, 2, 3] and answer["actions"][1, 0] == FRONT.sum()
            assert answer["policy_timing"]["infer_ms"] <= answer["server_timing"]["infer_ms"]
            assert ("prev_total_ms" in answer["server_timing"]) == (number == 1)
        client.send(pack_openpi({**OPENPI, "observation/state": np.zeros(3)}))
        text = client.recv(timeout=5)
        assert text == "SpecError: the state has shape (3,); robot 'toy' expects (4,)"
        with pytest.raises(ConnectionClosed, match="1011"):
            client.recv(timeout=5)


def test_a_fault_of_the_policy_is_one_line(server):
    with joined(server) as client:
        client.recv(timeout=5)
        client.send(pack_openpi({**OPENPI, "prompt": "fail"}))
        text = client.recv(timeout=5)
        assert text.startswith("PolicyError: RuntimeError: ") and "\n" not in text


def test_a_former_remote_policy_is_served_where_it_asks(server):
    seen = Observation({"front": FRONT, "wrist": WRIST}, np.arange(4, dtype=np.float32), "open")
    request = encode({"id": 5, "observations": [observation_to_wire(seen)]})
    with joined(server, scheme="Bearer") as client:
        assert decode(client.recv(timeout=5))["spec"]["name"] == SPEC.name
        client.send(request)
        assert decode(client.recv(timeout=5))["chunks"][0]["values"].shape == (3, 4)
    with RemotePolicy(server.url, token=TOKEN) as policy, RemotePolicy(server.url + "/verbot", token=TOKEN) as same:
        assert policy.predict([seen])[0].values.tolist() == same.predict([seen])[0].values.tolist()


def test_vla_eval_speaks_first_and_gets_one_action_an_observation(server):
    credentials = base64.b64encode(f"verbot:{TOKEN}".encode()).decode()
    with connect(
        server.url + "/vla-eval", compression=None, additional_headers={"Authorization": f"Basic {credentials}"}
    ) as client:

        def ask(kind, payload, seq, pictures="png"):
            client.send(pack_vla_eval(kind, payload, seq, pictures))
            return unpack_vla_eval(client.recv(timeout=5))

        kind, about, seq = ask("hello", {"harness_version": "0.8.0", "protocol_version": 1}, 1)
        assert (kind, seq, about["protocol_version"], about["capabilities"]) == ("hello", 1, 1, {})
        assert about["observation_params"] == {"send_wrist_image": True, "send_state": True}
        assert [(part["dims"], part["format"]) for part in about["action_spec"].values()] == [
            (3, "delta_xyz"),
            (1, "continuous_01"),
        ]
        assert list(about["observation_spec"]) == ["front", "wrist", "state", "language"]
        client.send(pack_vla_eval("episode_start", {"task": {"name": "t", "numbers": [1] * 100}}, 2))
        for seq, pictures in ((3, "png"), (4, "raw"), (5, "jpeg")):
            kind, payload, answered = ask("observation", VLA_EVAL, seq, pictures)
            assert (kind, answered, payload["actions"].tolist()) == ("action", seq, [0, 1, 2, 3])
        kind, payload, seq = ask("observation", {**VLA_EVAL, "images": {}}, 6)
        assert (kind, seq) == ("error", 6) and payload["error"].startswith(
            "observation_failed: SpecError: the observation has no"
        )
        kind, payload, seq = ask("episode_start", {"mode": "dream"}, 7)
        assert (kind, seq) == ("error", 7) and payload["error"].startswith("episode_start_failed: WireError: the mode is 'dream'")
        client.send(pack_vla_eval("episode_end", {"metrics": {}, "steps": 3}, 8))
        assert ask("observation", VLA_EVAL, 9)[0] == "action"


def test_a_chunk_is_executed_and_forgotten_with_the_episode():
    say = exchange_of(VlaEvalExchange, Counting, execute=2)

    def act(**changes):
        return unpack_vla_eval(say(pack_vla_eval("observation", {**VLA_EVAL, **changes})).data)[1]

    assert "has a memory: send episode_start" in act()["error"]
    assert say(pack_vla_eval("episode_start", {"task": {}})).data is None
    seen = [act()["actions"].tolist() for _ in range(4)]
    assert seen[0] == seen[2] == [0, 1, 2, 3]
    assert seen[1][2:] == [0, 0] and seen[3][2:] == [pytest.approx(0.2), 1], (
        "time of the steps, and the memory of the first chunk"
    )
    act()
    say(pack_vla_eval("episode_start", {"task": {}}))
    assert [act()["actions"].tolist(), act()["actions"].tolist()] == seen[:2]


def test_openpi_says_when_an_episode_begins_where_the_policy_remembers():
    now = [0.0]
    say = exchange_of(OpenpiExchange, Counting, lambda: now[0])

    def ask(**changes):
        data = say(pack_openpi({**OPENPI, **changes})).data
        return data if isinstance(data, str) else unpack_openpi(data)["actions"][1, 2:].tolist()

    assert "send 'reset': True" in ask() and "'reset' is 'yes'" in ask(reset="yes")
    assert ask(reset=True) == [0, 0]
    now[0] = 0.5
    assert ask(reset=False) == [0.5, 1] and ask(reset=False, time_s=np.float64(0.75)) == [0.75, 2]
    assert ask(reset=True) == [0, 0]
    assert "'time_s' is 'nan'" in ask(reset=True, time_s=float("nan"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"observation/front": None}, "camera 'front' has NoneType"),
        ({"observation/front": np.moveaxis(FRONT, -1, 0)}, "the colors come last"),
        ({"observation/front": FRONT.astype(np.float32)}, "float32 (4, 6, 3)"),
        ({"observation/front": FRONT[:2]}, "expected uint8 (4, 6, 3)"),
        ({"images/front": FRONT}, "'observation/front', 'images/front', which are all images.front"),
        ({"observation/state": [1, 2, "x", 3]}, "the state is list"),
        ({"observation/state": np.full(4, 1e300)}, "not finite"),
        ({"prompt": "x" * 5000}, "at most 4096 characters"),
        ({"observation": {"a": {"b": 1}}}, "'observation/a/b', which means nothing here"),
        ({"wrist": {"x": {}}, "time_s": "now"}, "'time_s' is 'now'"),
    ],
)
def test_what_openpi_sends_is_not_guessed(changes, says):
    reply = exchange_of(OpenpiExchange)(pack_openpi({**OPENPI, **changes}))
    assert reply.close == 1011 and reply.error == "SpecError" and says in reply.data


def bytes_of(name, **changes):
    """An array of openpi's that is wrong in one way."""
    record = {b"__ndarray__": True, b"data": bytes(8), b"dtype": "<f8", b"shape": [1]}
    return {**OPENPI, name: {**record, **{key.encode(): value for key, value in changes.items()}}}


@pytest.mark.parametrize(
    "message",
    [
        *(bytes_of("observation/state", dtype=dtype) for dtype in ("|O", "<U2", "V8", "<c8", "<M8[s]", ">f8", "f8,f4", 3, None)),
        bytes_of("observation/state", shape=[2**40, 2**40]),
        bytes_of("observation/state", shape=[-1]),
        bytes_of("observation/state", data=b"1234"),
        bytes_of("observation/state", more=1),
        {**OPENPI, "observation/state": {b"__npgeneric__": True, b"data": [1], b"dtype": "<f8"}},
        {**OPENPI, "observation/state": {b"__npgeneric__": True, b"data": 1, b"dtype": "|O"}},
        {**OPENPI, "observation/state": {b"__npgeneric__": True, b"data": 300, b"dtype": "|u1"}},
        {**OPENPI, "observation/state": {b"__npgeneric__": True, b"data": 300}},
        {1: 2},
        [OPENPI],
    ],
)
def test_no_message_reaches_a_decoder_that_trusts_it(message):
    reply = exchange_of(OpenpiExchange)(pack_openpi(message))
    assert reply.error == "WireError" and reply.data.startswith("WireError: ") and reply.close == 1011


def picture(size=(6, 4), mode="RGB", kind="PNG"):
    sink = io.BytesIO()
    Image.new(mode, size).save(sink, kind)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("encoded", "says"),
    [
        ({"format": "png", "data": picture((6000, 4000)), "shape": [4, 6, 3]}, "4000×6000"),
        ({"format": "png", "data": picture(), "shape": [40, 60, 3]}, "declares"),
        ({"format": "png", "data": picture(mode="RGBA"), "shape": [4, 6, 3]}, "declares"),
        ({"format": "png", "data": picture()[:40], "shape": [4, 6, 3]}, "damaged"),
        ({"format": "png", "data": picture(kind="GIF", mode="P"), "shape": [4, 6, 3]}, "damaged"),
        ({"format": "jpeg", "data": picture(), "shape": [4, 6, 3]}, "damaged"),
        ({"format": "png", "data": picture(), "shape": [2**14, 2**14, 3]}, "at most"),
        ({"format": "png", "data": picture(), "shape": [4, -6, 3]}, "expected [height, width, colors]"),
        ({"format": "eps", "data": picture(), "shape": [4, 6, 3]}, "expected png, jpeg or raw"),
        ({"format": "png", "data": "text", "shape": [4, 6, 3]}, "expected png, jpeg or raw"),
        ({"format": "raw", "data": bytes(72), "shape": [4, 6, 3], "dtype": "|O"}, "dtype"),
        ({"format": "raw", "data": bytes(72), "shape": [4, 6, 3]}, "expected png, jpeg or raw"),
    ],
)
def test_pictures_are_what_they_declare(encoded, says):
    say = exchange_of(VlaEvalExchange)
    reply = say(
        pack_vla_eval("observation", {**VLA_EVAL, "images": {"front": {"__image__": True, **encoded}, "wrist": WRIST}}, 4)
    )
    kind, payload, seq = unpack_vla_eval(reply.data)
    assert (
        (kind, seq) == ("error", 4)
        and payload["error"].startswith("observation_failed: WireError: ")
        and says in payload["error"]
    )


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\xc1", "observation_failed: WireError: not a msgpack message"),
        (pack_openpi(OPENPI), "a key that is not text"),
        (pack_openpi({"prompt": "open"}), "has the type 'None'"),
        (pack_vla_eval("dance", {}), "has the type 'dance'"),
        (
            pack_vla_eval("hello", {"protocol_version": 2}),
            "hello_failed: WireError: protocol_version is '2'; this server speaks 1",
        ),
        (pack_vla_eval("observation", []), "needs a map as its payload"),
        (pack_vla_eval("observation", VLA_EVAL, seq="x"), "a whole number as its seq"),
    ],
)
def test_wrong_messages_of_vla_eval_are_named(data, says):
    kind, payload, _ = unpack_vla_eval(exchange_of(VlaEvalExchange)(data).data)
    assert kind == "error" and says in payload["error"]


def test_keys_are_mapped_by_name_and_images_fitted():
    mapped = ObservationMap.of(
        SPEC,
        usual_keys(SPEC),
        ("images.front=cam/a", "state.arm=arm", "state.gripper=gripper", "instruction=task", "ignored=id"),
        fit=True,
    )
    record = {"cam": {"a": np.full((8, 8, 3), 200, np.uint8)}, "observation/wrist": WRIST, "arm": np.arange(3), "gripper": 0.5}
    seen = mapped.observation({**record, "task": "go", "id": 3}, 1.0)
    assert seen.state.tolist() == [0, 1, 2, 0.5] and seen.images["front"].shape == (4, 6, 3) and seen.instruction == "go"
    seen.check(SPEC)
    with pytest.raises(SpecError, match=r"component 'arm' has shape \(4,\)"):
        mapped.observation({**record, "arm": np.zeros(4), "task": "go"}, 1.0)
    with pytest.raises(ConfigError, match="expected TARGET=KEY"):
        ObservationMap.of(SPEC, usual_keys(SPEC), ("front",))
    with pytest.raises(UnknownNameError, match=r"images\.frnt.*Did you mean 'images.front'"):
        ObservationMap.of(SPEC, usual_keys(SPEC), ("images.frnt=x",))
    with pytest.raises(ConfigError, match="both state and"):
        ObservationMap.of(SPEC, usual_keys(SPEC), ("state=x", "state.arm=y"))
    with pytest.raises(ConfigError, match=r"'observation/wrist' is both images\.front and images\.wrist"):
        ObservationMap.of(SPEC, usual_keys(SPEC), ("images.front=observation/wrist",))
    with pytest.raises(SpecError, match="has 'cam/a' twice"):
        mapped.observation({**record, "cam/a": WRIST, "task": "go"}, 1.0)


def test_pages_tell_that_it_lives_and_what_it_did(server):
    assert get(server, "/healthz") == (200, "OK\n", "text/plain; charset=utf-8")
    assert json.loads(get(server, "/health")[1]) == {"status": "ok"}
    assert [get(server, path)[0] for path in ("/metrics", "/config", "/nothing")] == [401, 401, 401]
    assert get(server, "/healthz", Origin="https://elsewhere.example")[0] == 403
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert get(server, "/nothing", **bearer)[0] == 404
    status, text, kind = get(server, "/metrics", **bearer)
    assert status == 200 and kind == "text/plain; version=0.0.4; charset=utf-8"
    assert 'verbot_refused_total{reason="token"} 3' in text and 'verbot_policy_info{robot="toy",identity=""} 1' in text
    with pytest.raises(InvalidStatus, match="401"), connect(server.url + "/vla-eval"):
        pass
    with pytest.raises(InvalidStatus, match="404"), joined(server, "/elsewhere"):
        pass


def test_batches_are_configured_by_a_page_but_not_by_a_web_page():
    with PolicyServer(Echo()) as server:
        assert json.loads(get(server, "/config")[1])["config"] == {"max_batch_size": 16, "max_wait_time": 0.004}
        found = json.loads(get(server, "/config?max_batch_size=4&max_wait_time=0.001")[1])
        assert found["applied"] == found["config"] == {"max_batch_size": 4, "max_wait_time": 0.001} and server._turns.batch == 4
        for query in (
            "max_batch_size=0",
            "&".join(f"key{number}=1" for number in range(17)),
            "max_batch_size=x",
            "max_wait_time=nan",
            "max_wait_time=9",
            "depth=3",
            "max_batch_size=",
        ):
            status, text, _ = get(server, f"/config?{query}")
            assert status == 422 and len(json.loads(text)["errors"]) == 1
        assert get(server, "/config?max_batch_size=2", **{"Sec-Fetch-Site": "cross-site"})[0] == 422
        assert server._turns.batch == 4


def test_a_client_more_than_there_may_be_is_refused():
    with PolicyServer(Echo(), options=ServingOptions(clients=1)) as server, RemotePolicy(server.url) as policy:
        with pytest.raises(WireError, match=r"HTTP 503: ServerBusy: 1 clients are connected"):
            RemotePolicy(server.url, timeout_s=0.5)
        assert policy.spec == SPEC and server.load.refused == 1 and server.load.clients == 1
