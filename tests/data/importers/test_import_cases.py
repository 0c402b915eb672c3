"""RLDS folders and manifests of other people: what was meant comes in, and the table says what became of the rest."""

import gzip
import importlib
import json
import zlib

import numpy as np
import pytest

from verbot import cli
from verbot.data import ImportConfig, import_dataset, open_dataset
from verbot.data.importers import open_source, recognize
from verbot.data.importers.fields import mapped
from verbot.data.importers.plan import ImportPlan, PlanOptions
from verbot.data.importers.rlds import Rlds
from verbot.data.storage.verify import check_dataset
from verbot.data.storage.writer import DatasetWriter
from verbot.errors import ConfigError, DataError

TEN = ImportConfig(rate_hz=10)


def rows(result):
    """(taken as, conversion) by field."""
    return {row.field: (row.taken_as, row.conversion) for row in result.table.rows}


def reason(result, field):
    return next(row.reason for row in result.table.rows if row.field == field)


def episodes(path, name=None, robot=None, **options):
    """The raw episodes of a source."""
    return [item.read() for item in open_source(name or recognize(path), path, robot, options).items()]


@pytest.fixture
def formats(case):
    """The writers of `tests/cases`, and its own RLDS dataset's records."""
    case("r01_own")
    return importlib.import_module("_formats"), importlib.import_module("r01_own")


def rlds(tmp_path, formats, features, records, name="my_robot", **more):
    return formats[0].rlds(tmp_path / "source", name, records, {**formats[1].F, **features}, **more)


def test_frames_and_sentences_of_ones_own_dataset(tmp_path, case, picture_number):
    result = import_dataset(case("r01_own"), tmp_path / "out", TEN)
    assert (result.episodes, result.skipped, result.problems, result.robot) == (2, (), (), "generic")
    dataset = open_dataset(tmp_path / "out")
    assert [episode.instructions for episode in dataset] == [("pick up the cube",), ("put it down",)]
    for episode in dataset:
        for camera in ("image", "wrist_image"):
            assert [picture_number(frame) for frame in episode.images(camera)] == list(range(len(episode)))
    assert rows(result)["observation/state"] == ("state", "") and rows(result)["is_first"][0] == "left out"
    assert rows(result)["episode_metadata/file_path"][0] == "extras"


def test_a_sentence_per_step_holds_for_its_steps(tmp_path, formats, monkeypatch):
    sentences = [b"reach"] * 4 + [b"grasp"] * 5
    record = formats[1].rec(9, steps__language_instruction=sentences)
    root = rlds(tmp_path, formats, {}, [record, formats[1].rec(11)])
    one, other = episodes(root)
    assert [(s.start, s.stop, s.wordings) for s in one.segments] == [(0, 4, ("reach",)), (4, 9, ("grasp",))]
    assert one.instructions == ("reach",) and other.segments == () and other.instructions == ("pick up the cube",)
    saved, save = [], DatasetWriter.save_episode
    monkeypatch.setattr(DatasetWriter, "save_episode", lambda self, record: saved.append(record) or save(self, record))
    import_dataset(root, tmp_path / "out", TEN)
    assert saved[0].segments == one.segments and saved[0].instruction == "reach"
    assert "instructions" not in saved[0].extras  # sentences of other frames are no alternative wordings
    assert saved[0].columns["next.done"].tolist() == [False] * 8 + [True] and saved[0].columns["next.reward"].dtype == np.float32


def test_numbered_fields_alone_are_alternative_wordings(tmp_path, formats):
    text = formats[0].text()
    more = {"steps/language_instruction_2": text, "steps/observation/natural_language_instruction": text}
    record = formats[1].rec(9)
    record["steps/language_instruction_2"] = [b"lift the cube"] * 9
    record["steps/observation/natural_language_instruction"] = [b"something else"] * 9
    (one,) = episodes(rlds(tmp_path, formats, more, [record]))
    assert one.instructions == ("pick up the cube", "lift the cube")
    (note,) = (note for note in one.notes if note.field == "observation/natural_language_instruction")
    assert (note.taken_as, note.reason) == (
        "left out",
        "text; taken with --map instruction=observation/natural_language_instruction",
    )
    (named,) = episodes(tmp_path / "source", instruction="natural_language_instruction")
    assert named.instructions == ("something else",)


def test_sentences_of_the_episode_are_found(tmp_path, case, formats):
    result = import_dataset(case("r02_episode_language"), tmp_path / "out", TEN)
    assert [e.instruction for e in open_dataset(tmp_path / "out")] == ["pick up the cube", "put it down"]
    assert rows(result)["episode_metadata/language_instruction"][0] == "instruction"
    record = formats[1].rec(9, steps__language_instruction=None, language_instruction=[b"from the top"])
    (top,) = episodes(rlds(tmp_path, formats, {"language_instruction": formats[0].text()}, [record]))
    assert top.instructions == ("from the top",)


@pytest.mark.parametrize(
    ("sentences", "message"),
    [([b"one", b"two"], "has 2 sentences for 9 steps"), ([b"\xff\xfe"] * 9, "is not text in UTF-8")],
)
def test_sentences_that_do_not_fit_are_named(tmp_path, formats, sentences, message):
    root = rlds(tmp_path, formats, {}, [formats[1].rec(9, steps__language_instruction=sentences)])
    with pytest.raises(DataError, match=f"language_instruction {message}"):
        episodes(root)


def test_droid_is_recognized_by_name_sizes_and_values(tmp_path, case):
    root = case("r04_droid")
    result = import_dataset(root, tmp_path / "out")
    dataset = open_dataset(tmp_path / "out")
    assert (result.robot, dataset.spec.rate_hz, result.without_instruction) == ("droid", 15.0, 1)
    assert result.table.recognition.startswith("the name 'droid_100', and the sizes and values of observation/cartesian_position")
    assert result.table.rate_evidence == "the rate of droid, which was recognized"
    assert rows(result)["action_dict/gripper_position"] == ("action", "gripper: 1 - x: 0 is closed, 1 is open")
    raw = episodes(root)[0]
    np.testing.assert_array_equal(dataset[0].actions[:, 7], 1 - raw.action["action_dict/gripper_position"][:, 0])
    assert dataset[0].instructions == ("open the drawer", "pull the drawer") and dataset[1].instruction == ""
    assert reason(result, "language_instruction_2") == "alternative wordings"
    assert rows(result)["action_dict/joint_velocity"][0] == "left out"
    found = [f"{each.vector} {each.component}.{each.axis}" for each in result.table.out_of_range]
    assert found == ["state joint_position.joint4", "action joint_position.joint4"]  # this input has impossible elbows


def test_another_robot_with_droids_fields_is_not_inverted(tmp_path, case):
    root = case("r04_droid") / "droid_100" / "1.0.0"
    info = root / "dataset_info.json"
    info.write_text(info.read_text().replace("droid_100", "my_arm"))
    for shard in root.glob("*.tfrecord-*"):
        shard.rename(shard.with_name(shard.name.replace("droid_100", "my_arm")))
    hint = r"give --rate-hz \(not taken for droid: only the names and sizes of fields suggest droid; --robot droid reads it so\)"
    with pytest.raises(ConfigError, match=hint):
        import_dataset(root, tmp_path / "none")
    result = import_dataset(root, tmp_path / "out", ImportConfig(rate_hz=15, options={"action": "action"}))
    assert result.robot == "generic" and all(row.conversion == "" for row in result.table.rows)
    raw = episodes(root, robot="droid")[0]
    forced = import_dataset(root, tmp_path / "forced", ImportConfig(robot="droid"))
    assert forced.table.rate_evidence == "the rate of droid, --robot droid"
    closed = raw.state["observation/gripper_position"][:, 0]
    np.testing.assert_array_equal(open_dataset(tmp_path / "forced")[0].states[:, 6], 1 - closed)


def test_pictures_stored_as_tensors_are_pictures_and_depth_is_named(tmp_path, case, picture_number):
    root = case("r05_raw_pixels")
    result = import_dataset(root, tmp_path / "out", TEN)
    episode = open_dataset(tmp_path / "out")[1]
    assert [picture_number(frame) for frame in episode.images("image")] == list(range(11))
    assert rows(result)["observation/depth"][0] == "left out"
    assert reason(result, "observation/depth") == "depth 16×24; taken with --map depth.NAME=observation/depth"
    for depth in ("depth", {"top": "observation/depth"}):
        source = Rlds(root, None, fields=open_options(depth=depth, depth_unit="m"))
        spec = ImportPlan(source, PlanOptions("rlds", "x", 10.0)).survey()
        camera = spec.cameras[1]
        assert (camera.name, camera.kind, camera.height, camera.width) == (
            "top" if isinstance(depth, dict) else "depth",
            "depth",
            16,
            24,
        )
        frames = next(source.items()).read().cameras[camera.name]()
        assert frames.dtype == np.float32 and frames.shape == (9, 16, 24)


def open_options(**options):
    from verbot.data.importers.fields import FieldOptions

    return FieldOptions(**options)


def test_depth_of_16_bits_needs_a_unit(tmp_path, formats):
    deep = (np.arange(16 * 24, dtype=np.uint16) * 50).reshape(16, 24)
    image = formats[0].image((16, 24, 1))
    image["image"]["dtype"] = "uint16"
    record = {**formats[1].rec(9), "steps/observation/depth": [formats[0].png(deep)] * 9}
    root = rlds(tmp_path, formats, {"steps/observation/depth": image}, [record])
    assert "depth" not in episodes(root)[0].cameras
    with pytest.raises(ConfigError, match="depth needs its unit, which the format does not state: depth_unit=m"):
        episodes(root, depth="depth")
    (one,) = episodes(root, depth="depth", depth_unit="mm")
    np.testing.assert_allclose(one.cameras["depth"]()[3], deep / 1000, rtol=1e-6)
    (root / "features.json").unlink()  # then the file's own header says that it has 16 bits
    assert set(episodes(root)[0].cameras) == {"image", "wrist_image"}


@pytest.mark.parametrize(
    "compress", [gzip.compress, zlib.compress, lambda content: gzip.compress(content[:70]) + gzip.compress(content[70:])]
)
def test_compressed_shards(tmp_path, case, picture_number, compress):
    root = case("r06_gzip")
    (shard,) = root.glob("*/*/*.tfrecord-*")
    shard.write_bytes(compress(gzip.decompress(shard.read_bytes())))
    result = import_dataset(root, tmp_path / "out", TEN)
    assert (result.episodes, result.skipped) == (2, ())
    assert picture_number(open_dataset(tmp_path / "out")[1].images("image")[10]) == 10
    shard.write_bytes(shard.read_bytes()[:-40])
    (skipped,) = import_dataset(root, tmp_path / "cut", TEN).skipped
    assert skipped.episode.endswith("record 1") and "ends within record 1" in skipped.problem


def test_bare_shards(tmp_path, case, picture_number):
    root = case("r07_bare")
    result = import_dataset(root, tmp_path / "out", TEN)
    assert (result.format, result.episodes, result.frames) == ("rlds", 2, 20)
    assert picture_number(open_dataset(tmp_path / "out")[1].images("wrist_image")[7]) == 7
    (root / "episodes.tfrecord").rename(root / "val.tfrecord")
    with pytest.raises(DataError, match="has no split 'train'; it has val"):
        import_dataset(root, tmp_path / "none", TEN)


def test_a_name_alone_is_no_evidence(tmp_path, case):
    root = case("r08_bridge_like")
    with pytest.raises(ConfigError, match=r"give --rate-hz \(not taken for bridge: action \(position_delta\) has -2.8 to 2.8"):
        import_dataset(root, tmp_path / "none")
    result = import_dataset(root, tmp_path / "out", TEN)
    assert result.robot == "generic" and result.table.recognition.endswith("--robot bridge reads it so")
    assert [component.kind for component in open_dataset(tmp_path / "out").spec.action] == ["other"]
    forced = import_dataset(root, tmp_path / "forced", ImportConfig(robot="bridge"))
    assert forced.robot == "widowx" and forced.table.recognition == "--robot bridge"
    assert {found.component for found in forced.table.out_of_range} == {"gripper"}


def bridge(tmp_path, formats, action):
    own, length = formats[1], len(action)
    record = own.rec(length, steps__observation__wrist_image=None)
    record["steps/observation/image_0"] = record.pop("steps/observation/image")
    record["steps/observation/state"] = np.tile(np.float32([0.3, 0, 0.1, 0, 0.1, 0, 1]), (length, 1))
    record["steps/action"] = action.astype(np.float32)
    tensor, image = formats[0].tensor, formats[0].image
    features = {"steps/observation/state": tensor("float32", (7,)), "steps/observation/image_0": image()}
    kept = {key: value for key, value in own.F.items() if "image" not in key}
    return formats[0].rlds(tmp_path / "source", "bridge_orig", [record], {**kept, **features})


@pytest.mark.parametrize(
    ("change", "recognized"),
    [
        (lambda action: None, True),
        (lambda action: action.__setitem__((0, 5), -6.28), True),  # one wrapped angle
        (lambda action: action.__setitem__((slice(None), 6), -1.0), False),  # a gripper from -1 to 1
        (lambda action: action.__setitem__((slice(None), slice(3, 6)), 1.5), False),
    ],
)
def test_bridge_is_recognized_by_its_values(tmp_path, formats, change, recognized):
    action = np.random.default_rng(0).uniform(-0.02, 0.02, (24, 7))
    action[:, 6] = np.arange(24) < 12
    change(action)
    source = Rlds(bridge(tmp_path, formats, action))
    assert (source.robot.name, source.rate_hz) == (("widowx", 5.0) if recognized else ("generic", None))
    assert source.recognition.startswith("the name 'bridge_orig'" if recognized else "not taken for bridge")


def test_open_x_names_need_their_values(tmp_path, formats):
    action = {"steps/action/world_vector": np.full((9, 3), 0.01), "steps/action/open_gripper": np.linspace(0, 255, 9)[:, None]}
    record = {**formats[1].rec(9, steps__action=None), **action}
    features = {
        "steps/action/world_vector": formats[0].tensor("float32", (3,)),
        "steps/action/open_gripper": formats[0].tensor("float32", (1,)),
    }
    root = rlds(tmp_path, formats, features, [record])
    result = import_dataset(root, tmp_path / "out", TEN)
    kinds = {component.name: component.kind for component in open_dataset(tmp_path / "out").spec.action}
    assert kinds == {"position_delta": "position_delta", "open_gripper": "other"}
    assert "taken as kind other: action/open_gripper (gripper) has 0 to 255, not -0.01 to 1.01" in result.table.recognition


def test_pictures_and_actions_alone(tmp_path, case, picture_number):
    result = import_dataset(case("m01_no_state"), tmp_path / "out", TEN)
    episode = open_dataset(tmp_path / "out")[1]
    assert (result.episodes, result.problems, episode.states.shape) == (2, (), (9, 0))
    assert [picture_number(frame) for frame in episode.images("image")] == list(range(9))
    assert rows(result) == {"action": ("action", ""), "image_path": ("camera image", ""), "instruction": ("instruction", "")}


def test_entries_of_an_episode_keep_their_sentences_rewards_and_other_fields(tmp_path, case):
    root = case("m01_no_state")
    entries = json.loads((root / "manifest.json").read_text())
    for number, entry in enumerate(entries):
        entry |= {"reward": number, "done": number % 9 == 8, "note": "x", "joints": [0.5, number], "force": [1.0]}
        entry["instruction"] = "reach" if number % 9 < 3 else ["grasp", "grab"]
    (root / "manifest.json").write_text(json.dumps(entries))
    one, other = episodes(root)
    assert [(s.start, s.stop, s.wordings) for s in one.segments] == [(0, 3, ("reach",)), (3, 9, ("grasp", "grab"))]
    assert one.columns["next.reward"].tolist() == list(range(9)) and other.columns["next.done"].tolist() == [False] * 8 + [True]
    left = {note.field: note.reason for note in one.notes if note.taken_as == "left out"}
    assert left == {
        "note": "text; taken with --map instruction=note",
        "joints": "numbers; taken with --map observation.state=joints or action=joints",
        "force": "numbers; taken with --map observation.state=force or action=force",
    }
    options = mapped(["observation.state=joints,force", "action=action", "images.front=image_path", "instruction=note"])
    result = import_dataset(root, tmp_path / "out", ImportConfig(rate_hz=10, options=options))
    dataset = open_dataset(tmp_path / "out")
    assert [component.name for component in dataset.spec.state] == ["joints", "force"] and dataset.camera_names == ("front",)
    np.testing.assert_array_equal(dataset[0].states[:, :2], [[0.5, number] for number in range(9)])
    assert dataset[0].instruction == "x" and rows(result)["instruction"][0] == "left out"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("r01_own", {"action": "torque"}, r"has no action field 'torque'; it has action \(7\), .*observation/state \(8\)"),
        ("r01_own", {"images": {"front": "cam"}}, r"has no pictures 'cam'; it has .*observation/image \(64×96×3\)"),
        ("m01_no_state", {"state": "arm"}, r"has no state field 'arm'; it has action \(7\)"),
        ("m01_no_state", {"images": "front_path"}, "has no pictures 'front_path'; it has image_path"),
    ],
)
def test_unknown_names_list_what_exists(tmp_path, case, name, options, message):
    with pytest.raises(DataError, match=message):
        import_dataset(case(name), tmp_path / "out", ImportConfig(rate_hz=10, options=options))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["action"], "is not of the form NAME=FIELD"),
        (["velocity=x"], "a dataset has no 'velocity'; it has observation.state, action, images.CAMERA"),
        (["images.front=a,b"], "a dataset has no 'images.front'; .* each of one field"),
        (["action=a", "action=b"], "action is mapped twice"),
    ],
)
def test_a_map_of_another_form_is_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        mapped(words)


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["data", *map(str, arguments)])
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


def test_the_table_is_printed_kept_and_checked(tmp_path, case, capsys):
    names = ("observation.state=state", "action=action", "images.front=image", "instruction=language_instruction")
    code, out, _ = run(capsys, "import", case("r01_own"), tmp_path / "out", "--rate-hz", "10", "--map", *names)
    assert code == 0
    for line in ("robot generic", "rate 10 Hz: --rate-hz", "observation/wrist_image"):
        assert line in out
    record = json.loads((tmp_path / "out" / "meta" / "import.json").read_text())
    assert (record["version"], record["format"], record["episodes"], record["source"]) == (1, "rlds", 2, "r01_own")
    assert record["options"]["images"] == {"front": "image"}
    assert {"field": "observation/image", "taken_as": "camera front", "conversion": "", "reason": "", "episodes": 2} in record[
        "rows"
    ]
    assert {row["field"]: row["reason"] for row in record["rows"]}["observation/wrist_image"] == (
        "pictures 64×96×3; taken with --map images.NAME=observation/wrist_image"
    )
    code, info, _ = run(capsys, "info", tmp_path / "out")
    assert code == 0 and "imported from r01_own (rlds), 0 episodes skipped" in info and "observation/wrist_image" in info
    path = tmp_path / "out" / "meta" / "import.json"
    assert check_dataset(tmp_path / "out") == []
    path.write_text(path.read_text().replace("front", "other"))
    assert [finding.path for finding in check_dataset(tmp_path / "out")] == [str(path)]


def test_a_resumed_import_has_the_same_table(tmp_path, case):
    root = case("r02_episode_language")
    short = import_dataset(root, tmp_path / "out", ImportConfig(rate_hz=10, limit=1))
    log = tmp_path / "out" / ".import.rows"
    log.write_bytes(log.read_bytes() + b'{"episode": "cut sh')  # a process died here
    again = import_dataset(root, tmp_path / "out", TEN)
    whole = import_dataset(root, tmp_path / "whole", TEN)
    assert {row.episodes for row in short.table.rows} == {1} and {row.episodes for row in whole.table.rows} == {2}
    assert again.table.rows == whole.table.rows and again.already == 1
    repeated = import_dataset(root, tmp_path / "out", TEN)
    assert repeated.table == again.table and repeated.to_json()["table"]["rows"][0]["episodes"] == 2


def test_numbers_outside_a_given_range_are_counted(tmp_path, case):
    root = case("r01_own")
    import_dataset(root, tmp_path / "first", TEN)
    spec = json.loads((tmp_path / "first" / ".import.json").read_text())["found"]
    spec["state"][0] |= {"low": [-0.1] * 8, "high": [0.1] * 8}
    from verbot.spec import RobotSpec

    given = RobotSpec.from_json(spec)
    result = import_dataset(root, tmp_path / "out", ImportConfig(spec=given))
    states = np.concatenate([episode.states for episode in open_dataset(tmp_path / "out")])
    outside = [(each.axis, each.count) for each in result.table.out_of_range if each.vector == "state"]
    expected = [(str(i), int(n)) for i, n in enumerate((np.abs(states.astype(float)) > 0.1).sum(0)) if n]
    assert outside == expected and result.exit_code == 0
    assert result.table.rate_evidence == "the spec given" and reason(result, "action") == "the spec given"
    with pytest.raises(ConfigError, match="rate_hz is 20, and the spec given has 10 Hz; give one of them"):
        ImportConfig(spec=given, rate_hz=20)
