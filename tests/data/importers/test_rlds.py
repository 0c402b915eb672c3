import struct
import sys

import google_crc32c
import numpy as np
import pytest

from verbot.data import ImportConfig, import_dataset, open_dataset
from verbot.data.importers.tfrecord import masked, parse_example
from verbot.errors import ConfigError, CorruptFileError, DataError, MissingDependencyError, missing

from .conftest import decoded, encoded
from .tf_examples import MESSAGES, described, example, fill, picture, save, tensor

GENERIC = {
    "observation/image": picture(),
    "observation/state": tensor((4,)),
    "observation/natural_language_embedding": tensor((512,)),
    "action": tensor((3,)),
    "language_instruction": {"text": {}},
    "is_first": tensor((), "bool"),
    "is_last": tensor((), "bool"),
}


def generic(one, **more):
    length = len(one)
    values = {
        "observation/image": [encoded(frame) for frame in one.images["image"]],
        "observation/state": one.states,
        "observation/natural_language_embedding": np.zeros((length, 512)),
        "action": one.actions,
        "language_instruction": [one.instruction.encode()] * length,
        "is_first": np.arange(length) == 0,
        "is_last": np.arange(length) == length - 1,
    }
    return example(**{f"steps/{key}": value for key, value in (values | more).items() if value is not None})


@pytest.fixture
def truths(truth):
    return [truth(number, cameras=("image",)) for number in range(5)]


def through_jpeg(one, camera="image"):
    """What the source itself holds of the pictures: JPEG loses before the native codec does."""
    one.images[camera] = np.stack([decoded(encoded(frame)) for frame in one.images[camera]])
    return one


@pytest.mark.parametrize("with_features", [True, False])
def test_shards_of_a_version_in_their_folder(tmp_path, truths, same, with_features):
    shards = [[generic(one) for one in truths[:2]], [generic(one) for one in truths[2:]]]
    save(tmp_path / "toy" / "1.0.0", "toy", shards, described(GENERIC) if with_features else None)
    result = import_dataset(tmp_path / "toy", tmp_path / "out", ImportConfig(rate_hz=3))
    assert (result.format, result.robot, result.exit_code) == ("rlds", "generic", 0)
    keys = [f"toy-train.tfrecord-0000{s}-of-00002, record {r}" for s, r in ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2))]
    same(tmp_path / "out", [through_jpeg(one) for one in truths], keys)


def test_other_splits(tmp_path, truths, same):
    root = save(tmp_path / "toy", "toy", [[generic(truths[0])]], described(GENERIC))
    save(root, "toy", [[generic(truths[1])]], described(GENERIC), split="val")
    import_dataset(root, tmp_path / "val", ImportConfig(rate_hz=3, options={"split": "val"}))
    same(tmp_path / "val", [through_jpeg(truths[1])])
    import_dataset(root, tmp_path / "all", ImportConfig(rate_hz=3, options={"split": "all"}))
    assert len(open_dataset(tmp_path / "all")) == 2
    with pytest.raises(DataError, match="has no split 'test'; it has train, val"):
        import_dataset(root, tmp_path / "test", ImportConfig(rate_hz=3, options={"split": "test"}))


def test_bridge(tmp_path, truth):
    one = truth(0, states=7, actions=7, cameras=("image_0", "image_1"))
    one.actions[:, :3] *= 0.03
    one.actions[:, 3:6] *= 0.2
    for vectors in (one.states, one.actions):
        vectors[:, 6] = np.abs(vectors[:, 6])
    features = {f"observation/image_{i}": picture() for i in range(2)}
    features |= {"observation/state": tensor((7,)), "action": tensor((7,)), "language_instruction": {"text": {}}}
    steps = {f"steps/observation/{name}": [encoded(frame, "PNG") for frame in one.images[name]] for name in one.images}
    record = example(
        **steps,
        **{
            "steps/observation/state": one.states,
            "steps/action": one.actions,
            "steps/language_instruction": [b"put it in the sink"] * len(one),
            "steps/is_first": np.arange(len(one)) == 0,
            "episode_metadata/file_path": [b"a/b.npy"],
            "episode_metadata/has_image_0": np.array([1]),
        },
    )
    save(tmp_path / "bridge", "bridge_dataset", [[record]], described(features))
    import_dataset(tmp_path / "bridge", tmp_path / "out")
    dataset = open_dataset(tmp_path / "out")
    assert (dataset.spec.name, dataset.spec.rate_hz, dataset.camera_names) == ("widowx", 5.0, ("image_0",))
    assert [(c.name, c.kind, c.unit) for c in dataset.spec.action] == [
        ("position_delta", "position_delta", "m"),
        ("rotation_delta", "rotation_delta", "rad"),
        ("gripper", "gripper", "1"),
    ]
    assert [c.name for c in dataset.spec.state] == ["ee_position", "ee_euler", "gripper"]
    assert dataset[0].actions.tobytes() == one.actions.tobytes() and dataset[0].states.tobytes() == one.states.tobytes()
    assert dataset[0].extras["episode_metadata"] == {"file_path": "a/b.npy", "has_image_0": 1}
    import_dataset(tmp_path / "bridge", tmp_path / "two", ImportConfig(options={"images": "image_0,image_1"}))
    assert open_dataset(tmp_path / "two").camera_names == ("image_0", "image_1")


def droid(one, rng):
    length = len(one)
    numbers = {
        "observation/cartesian_position": rng.uniform(-1, 1, (length, 6)),
        "observation/gripper_position": rng.uniform(0, 1, (length, 1)),
        "observation/joint_position": rng.uniform(-1, 1, (length, 7)),
        "action_dict/joint_position": rng.uniform(-1, 1, (length, 7)),
        "action_dict/gripper_position": rng.uniform(0, 1, (length, 1)),
        "action_dict/cartesian_velocity": rng.uniform(-1, 1, (length, 6)),
        "action": rng.uniform(-1, 1, (length, 7)),
    }
    numbers = {key: value.astype(np.float32) for key, value in numbers.items()}
    fields = {key: tensor(value.shape[1:], "float64") for key, value in numbers.items()}
    sentences = [b"wipe the table", b"clean the table with the cloth", b""]
    names = ("language_instruction", "language_instruction_2", "language_instruction_3")
    cameras = ("exterior_image_1_left", "exterior_image_2_left", "wrist_image_left")
    values = {f"steps/{key}": value for key, value in numbers.items()}
    values |= {f"steps/{name}": [sentence] * length for name, sentence in zip(names, sentences, strict=True)}
    values |= {
        f"steps/observation/{name}": [encoded(frame) for frame in one.images[view]]
        for name, view in zip(cameras, one.images, strict=True)
    }
    values["steps/is_first"] = np.arange(length) == 0
    fields |= {name: {"text": {}} for name in names} | {f"observation/{name}": picture() for name in cameras}
    return numbers, example(**values), described(fields)


def test_droid(tmp_path, truth):
    one = truth(0, cameras=("exterior_1", "exterior_2", "wrist"))
    numbers, record, features = droid(one, np.random.default_rng(0))
    save(tmp_path / "droid_100" / "1.0.0", "r2d2_faceblur", [[record]], features)
    import_dataset(tmp_path / "droid_100", tmp_path / "out")
    dataset = open_dataset(tmp_path / "out")
    spec, episode = dataset.spec, dataset[0]
    assert (spec.name, spec.rate_hz, spec.camera_names) == ("droid", 15.0, ("exterior_1", "exterior_2", "wrist"))
    assert [camera.frame for camera in spec.cameras] == ["base", "base", "tool"]
    expected = np.concatenate(
        [
            numbers["observation/cartesian_position"],
            1 - numbers["observation/gripper_position"],  # DROID's 1 is closed
            numbers["observation/joint_position"],
        ],
        axis=1,
    )
    assert episode.states.tobytes() == expected.tobytes()
    closed = numbers["action_dict/gripper_position"]
    assert episode.actions.tobytes() == np.concatenate([numbers["action_dict/joint_position"], 1 - closed], 1).tobytes()
    assert [(c.name, c.kind) for c in spec.action] == [("joint_position", "joint_position"), ("gripper", "gripper")]
    assert spec.action[0].high[3] == -0.0698  # documented, not seen
    assert episode.instruction == "wipe the table"
    assert episode.instructions == ("wipe the table", "clean the table with the cloth")
    import_dataset(
        tmp_path / "droid_100",
        tmp_path / "two",
        ImportConfig(options={"action": "cartesian_velocity", "images": "wrist_image_left"}),
    )
    other = open_dataset(tmp_path / "two")
    assert other.camera_names == ("wrist",) and other.spec.action[0].kind == "velocity"
    assert other[0].actions.tobytes() == numbers["action_dict/cartesian_velocity"].tobytes()
    with pytest.raises(
        DataError, match=r"has no action field 'torque'; it has action \(7\), action_dict/cartesian_velocity \(6\)"
    ):
        import_dataset(tmp_path / "droid_100", tmp_path / "none", ImportConfig(options={"action": "torque"}))


def test_a_dictionary_of_actions_and_instructions_as_characters(tmp_path, truths):
    one = truths[0]
    length = len(one)
    letters = np.array([[ord(c) for c in "push it".ljust(12, "\0")]] * length)
    more = {
        "action": None,
        "language_instruction": None,
        "action/rotation_delta": np.ones((length, 3)),
        "action/world_vector": one.actions,
        "action/open_gripper": np.arange(length) > 2,
        "action/terminate_episode": np.zeros(length),
        "observation/instruction": letters,
        "observation/state": None,
        "observation/joints": one.states,
    }
    save(tmp_path / "toy", "toy", [[generic(one, **more)]])
    import_dataset(tmp_path / "toy", tmp_path / "out", ImportConfig(rate_hz=3))
    dataset = open_dataset(tmp_path / "out")
    assert [c.name for c in dataset.spec.action] == ["position_delta", "rotation_delta", "gripper"]
    assert [c.name for c in dataset.spec.state] == ["joints"]  # the embedding is no state
    np.testing.assert_array_equal(dataset[0].actions[:, :3], one.actions)
    np.testing.assert_array_equal(dataset[0].actions[:, 6], np.arange(length) > 2)
    assert dataset[0].instruction == "push it"


def test_every_wire_type_is_parsed():
    values = {"f": np.array([1.5, -2.0], np.float32), "i": np.array([0, 1, -1, 300, 2**40, -(2**62)]), "b": [b"", b"xy"]}
    found = parse_example(example(**values, empty=[]), "x")
    np.testing.assert_array_equal(found["f"], values["f"])
    np.testing.assert_array_equal(found["i"], values["i"])
    assert found["b"] == values["b"] and len(found["empty"]) == 0
    sequence = MESSAGES["SequenceExample"]()
    fill(sequence.context.feature["id"], np.array([5]))
    for step in (1.0, 2.0):
        fill(sequence.feature_lists.feature_list["x"].feature.add(), np.array([step, step]))
        fill(sequence.feature_lists.feature_list["t"].feature.add(), [b"a"])
    found = parse_example(sequence.SerializeToString(), "x")
    assert (found["id"].tolist(), found["x"].tolist(), found["t"]) == ([5], [1, 1, 2, 2], [b"a", b"a"])
    unpacked = b"\x0a\x11\x0a\x0f\x0a\x01k\x12\x0a\x12\x08" + b"".join(b"\x0d" + struct.pack("<f", v) for v in (3.0,)) * 1
    with pytest.raises(CorruptFileError, match=r"x: is not a tf.train.Example"):
        parse_example(unpacked, "x")
    one = b"\x0d" + struct.pack("<f", 3.0) + b"\x0d" + struct.pack("<f", 4.0)
    for number in (2, 2, 1, 1):  # FloatList in Feature, Feature as the value of an entry, entry in Features, in Example
        one = bytes([number << 3 | 2, len(one)]) + one
        if number == 2 and one[2] == 18:
            one = b"\x0a\x01k" + one
    assert parse_example(one, "x")["k"].tolist() == [3.0, 4.0]


def test_the_checksum_is_crc32c_masked():
    assert google_crc32c.value(b"123456789") == 0xE3069283
    assert masked(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17 & 0xFFFFFFFF) + 0xA282EAD8) % 2**32


def link_out(path):
    outside = path.parent.parent / f"outside-{path.name}"
    path.rename(outside)
    path.symlink_to(outside)


def flip_data(path):
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)


def flip_length(path):
    content = bytearray(path.read_bytes())
    content[1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "record", "kept", "message"),
    [
        (
            lambda path: path.write_bytes(path.read_bytes()[:-30]),
            2,
            (0, 1, 3, 4),
            "ends within record 2: 30 bytes are missing; dataset_info.json counts 3 records",
        ),
        (flip_data, 0, (1, 2, 3, 4), "record 0 differs from what was written: its checksum differs"),
        (flip_length, 0, (3, 4), "record 0 at byte 0 has a length that differs from its checksum; dataset_info.json counts 3"),
        (lambda path: path.write_bytes(path.read_bytes() + b"abc"), 3, range(5), "ends within the head of record 3"),
        (lambda path: path.unlink(), None, (3, 4), "cannot be read (No such file or directory)"),
        (link_out, None, (3, 4), "-00000-of-00002', which a link leads out of this folder; copy the file into it"),
    ],
)
def test_a_damaged_shard_is_named_and_the_rest_imported(tmp_path, truths, same, damage, record, kept, message):
    shards = [[generic(one) for one in truths[:3]], [generic(one) for one in truths[3:]]]
    root = save(tmp_path / "toy", "toy", shards, described(GENERIC))
    shard = "toy-train.tfrecord-00000-of-00002"
    damage(root / shard)
    result = import_dataset(root, tmp_path / "out", ImportConfig(rate_hz=3))
    (skipped,) = result.skipped
    assert skipped.episode == (shard if record is None else f"{shard}, record {record}")
    assert message in skipped.problem and result.exit_code == 1
    same(tmp_path / "out", [through_jpeg(truths[number]) for number in kept])


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_metadata_that_a_link_leads_out_are_refused(tmp_path, truths, name):
    root = save(tmp_path / "toy", "toy", [[generic(truths[0])]], described(GENERIC))
    link_out(root / name)
    with pytest.raises(DataError, match=f"there is the file '{name}', which a link leads out of this folder"):
        import_dataset(root, tmp_path / "out", ImportConfig(rate_hz=3))


def test_a_shard_with_fewer_records_than_counted_is_named(tmp_path, truths):
    root = save(tmp_path / "toy", "toy", [[generic(truths[0])]], described(GENERIC), counts=["2"])
    (skipped,) = import_dataset(root, tmp_path / "out", ImportConfig(rate_hz=3)).skipped
    assert "holds 1 records; dataset_info.json counts 2" in skipped.problem


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"action": np.zeros((4, 3))}, "action has 12 numbers for 6 steps"),
        ({"action": np.zeros((6, 2))}, "action has 12 numbers for 6 steps of shape (3,)"),
        ({"action": None}, "has no action field 'action'; it has observation/natural_language_embedding (512)"),
        ({"observation/image": [b"\xff\xd8\xff"] * 6}, "observation/image, frame 0: is not a whole picture"),
        ({"observation/image": [encoded(np.zeros((24, 32, 3), np.uint8))] * 4}, "camera 'image' has 4 frames for 6 actions"),
    ],
)
def test_an_episode_that_does_not_fit_is_named(tmp_path, truths, more, message):
    root = save(tmp_path / "toy", "toy", [[generic(truths[0]), generic(truths[1], **more)]], described(GENERIC))
    (skipped,) = import_dataset(root, tmp_path / "out", ImportConfig(rate_hz=3)).skipped
    assert skipped.episode.endswith("record 1") and message in skipped.problem


def test_other_folders_and_missing_parts_are_reported(tmp_path, truths, monkeypatch):
    root = save(tmp_path / "toy", "toy", [[generic(truths[0], language_instruction=None)]], None)
    with pytest.raises(ConfigError, match="does not record the rate of toy; give --rate-hz"):
        import_dataset(root, tmp_path / "out")
    with pytest.raises(ConfigError, match="toy holds no instructions; give one with --instruction"):
        import_dataset(root, tmp_path / "out", ImportConfig(rate_hz=3))
    save(tmp_path / "other", "other", [[example(x=np.ones(3))]])
    with pytest.raises(DataError, match=r"has no steps/…, so it is not RLDS; it has x"):
        import_dataset(tmp_path / "other", tmp_path / "out", ImportConfig(rate_hz=3))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match=r"has neither features.json nor a .tfrecord shard"):
        import_dataset(empty, tmp_path / "out", ImportConfig("rlds", rate_hz=3))
    for version in ("1.0.0", "2.0.0"):
        save(tmp_path / "many" / version, "many", [[]])
    with pytest.raises(DataError, match=r"has several versions: 1\.0\.0, 2\.0\.0; name one of them"):
        import_dataset(tmp_path / "many", tmp_path / "out", ImportConfig(rate_hz=3))
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    with pytest.raises(ModuleNotFoundError) as raised:
        import_dataset(root, tmp_path / "out", ImportConfig(rate_hz=3, instruction=""))
    reported = missing(raised.value)
    assert isinstance(reported, MissingDependencyError) and "pip install 'verbot[rlds]'" in str(reported)
