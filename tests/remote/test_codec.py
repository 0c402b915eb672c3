import dataclasses

import msgpack
import numpy as np
import pytest

from verbot.errors import WireError
from verbot.remote import codec
from verbot.remote.codec import chunk_from_wire, chunk_to_wire, decode, encode, observation_from_wire, observation_to_wire
from verbot.spec import ActionChunk, Observation

OBSERVATION = Observation(
    {"front": np.arange(48, dtype=np.uint8).reshape(4, 4, 3)}, np.array([0.1, -2.0], np.float32), "push the réd cube", None, 1.5
)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 0, 3), np.float32),
        np.array(True),
        np.array(3.5),
        np.arange(6, dtype=">i4").reshape(2, 3),
        np.arange(24, dtype=np.uint8).reshape(2, 3, 4).transpose(2, 0, 1),
        np.array([np.nan, np.inf], np.float16),
    ],
)
def test_arrays_survive_the_wire(array):
    back = decode(encode({"a": array}))["a"]
    assert back.shape == array.shape and back.dtype == array.dtype.newbyteorder("<")
    np.testing.assert_array_equal(back, array)
    assert back.flags.writeable or back.size == 0


def test_observations_and_chunks_survive_the_wire():
    back = observation_from_wire(decode(encode({"o": observation_to_wire(OBSERVATION)}))["o"])
    np.testing.assert_array_equal(back.images["front"], OBSERVATION.images["front"])
    np.testing.assert_array_equal(back.state, OBSERVATION.state)
    assert (back.instruction, back.goal_image, back.time_s) == (OBSERVATION.instruction, None, 1.5)
    chunk = ActionChunk(np.ones((3, 7), np.float32), 0.5, {"keypoints": np.zeros((2, 2, 2), np.float32), "n": np.int64(3)})
    again = chunk_from_wire(decode(encode(chunk_to_wire(chunk))))
    np.testing.assert_array_equal(again.values, chunk.values)
    assert again.extras["n"] == 3 and again.extras["keypoints"].shape == (2, 2, 2)
    assert again.value is None


def test_planned_actions_survive_the_wire_and_old_clients_send_none():
    planned = np.arange(14, dtype=np.float32).reshape(2, 7)
    wire = decode(encode(observation_to_wire(dataclasses.replace(OBSERVATION, planned=planned, committed=2, sample_seed=5))))
    back = observation_from_wire(wire)
    np.testing.assert_array_equal(back.planned, planned)
    assert (back.committed, back.sample_seed) == (2, 5)
    before = dataclasses.replace(OBSERVATION, previous_state=OBSERVATION.state + 1)
    np.testing.assert_array_equal(observation_from_wire(observation_to_wire(before)).previous_state, OBSERVATION.state + 1)
    plain = observation_to_wire(OBSERVATION)
    assert not {"planned", "committed", "previous_state"} & plain.keys()
    assert observation_from_wire(plain).previous_state is None
    assert (observation_from_wire(plain).planned, observation_from_wire(plain).committed) == (None, 0)
    long = dataclasses.replace(OBSERVATION, planned=np.zeros((300, 7), np.float32), committed=300)
    cut = observation_from_wire(observation_to_wire(long))
    assert cut.planned.shape == (256, 7) and cut.committed == 256


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"planned": [1.0]}, "field 'planned' must be ndarray; got list"),
        ({"planned": np.zeros(7, np.float32)}, r"field 'planned' is float32 \(7,\); expected float32 with 2"),
        ({"planned": np.zeros((257, 7), np.float32)}, "field 'planned' has 257 rows; at most 256 are read"),
        ({"committed": 3}, "field 'committed' is 3; expected 0 to 2, the planned rows"),
        ({"committed": True}, "field 'committed' is True"),
        ({"committed": -1}, "field 'committed' is -1"),
        ({"previous_state": 1}, "field 'previous_state' must be ndarray; got int"),
        ({"previous_state": np.zeros((1, 7), np.float32)}, r"field 'previous_state' is float32 \(1, 7\)"),
    ],
)
def test_wrong_planned_actions_are_refused(changes, message):
    wire = observation_to_wire(dataclasses.replace(OBSERVATION, planned=np.zeros((2, 7), np.float32)))
    with pytest.raises(WireError, match=message):
        observation_from_wire({**wire, **changes})


def test_a_chunks_value_survives_the_wire_and_old_servers_send_none():
    chunk = ActionChunk(np.ones((3, 7), np.float32), value=0.25)
    wire = decode(encode(chunk_to_wire(chunk)))
    assert chunk_from_wire(wire).value == 0.25
    assert chunk_from_wire({name: x for name, x in wire.items() if name != "value"}).value is None
    with pytest.raises(WireError, match="field 'value' must be float; got str"):
        chunk_from_wire({**wire, "value": "high"})


def array_map(**changes):
    record = {b"__ndarray__": True, b"data": b"\0" * 8, b"dtype": "<f4", b"shape": [2]}
    record.update({key.encode(): value for key, value in changes.items()})
    return {key: value for key, value in record.items() if value is not ...}


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "|O"},
        {"dtype": "|O8"},
        {"dtype": ">f4"},
        {"dtype": "<U2"},
        {"dtype": "<M8[s]"},
        {"dtype": "f4,f4"},
        {"dtype": None},
        {"dtype": [["a", "<f4"]]},
        {"dtype": ...},
        {"shape": [3]},
        {"shape": [-1]},
        {"shape": [2**62, 4]},
        {"shape": [True, 2]},
        {"shape": [2.0]},
        {"shape": 2},
        {"shape": [1] * 9},
        {"shape": ...},
        {"data": "text"},
        {"data": None},
        {"data": [0] * 8},
        {"data": ...},
        {"extra": 1},
    ],
)
def test_an_invalid_array_is_refused(changes):
    with pytest.raises(WireError):
        decode(msgpack.packb({"a": array_map(**changes)}))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x93\x01",
        msgpack.packb([1]),
        msgpack.packb(None),
        msgpack.packb({1: 2}),
        msgpack.packb({b"k": 2}),
        b"\x81\xa1a\xc7\x00\x05",  # an extension of no bytes
        msgpack.packb({"a": 1}) + b"x",
        b"\x81\xa1a\xd9\x02\xff\xfe",
        b"\x91" * 5000 + b"\xc0",
        b"\xdd\xff\xff\xff\xff",
        "text",
    ],
)
def test_invalid_messages_are_refused(data):
    with pytest.raises(WireError):
        decode(data)


def test_random_bytes_never_raise_anything_else():
    rng = np.random.default_rng(0)
    whole = encode({"o": observation_to_wire(OBSERVATION), "n": [1, 2.5, None, True]})
    for number in range(3000):
        data = bytearray(whole if number % 2 else rng.bytes(int(rng.integers(1, 200))))
        for _ in range(int(rng.integers(1, 6))):
            data[int(rng.integers(len(data)))] = int(rng.integers(256))
        try:
            observation_from_wire(decode(bytes(data)).get("o"))
        except WireError:
            pass


@pytest.mark.parametrize("value", [object(), {1, 2}, np.array([object()]), np.array(["x"]), 2**70])
def test_values_that_cannot_be_sent_are_refused(value):
    with pytest.raises(WireError, match="cannot be sent"):
        encode({"a": value})


def test_the_size_limit_holds_both_ways(monkeypatch):
    data = encode({"a": np.zeros(100, np.uint8)})
    monkeypatch.setattr(codec, "MAX_BYTES", 50)
    with pytest.raises(WireError, match="at most 50"):
        decode(data)
    with pytest.raises(WireError, match="at most 50"):
        encode({"a": np.zeros(100, np.uint8)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": []}, "'images' must be dict"),
        ({"images": {"front": np.zeros((4, 4, 3), np.float32)}}, "expected uint8"),
        ({"images": {"front": "cat"}}, "image 'front' is str"),
        ({"goal_image": np.zeros((4, 4), np.uint8)}, "goal image"),
        ({"state": np.zeros((2, 2), np.float32)}, "expected float32 with 1"),
        ({"state": np.zeros(2)}, "float64"),
        ({"instruction": None}, "'instruction' must be str"),
        ({"time_s": "now"}, "'time_s' must be float"),
    ],
)
def test_an_invalid_observation_is_refused(change, message):
    with pytest.raises(WireError, match=message):
        observation_from_wire({**observation_to_wire(OBSERVATION), **change})
