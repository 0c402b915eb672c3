"""Folders of rosbag2: recordings of several files, metadata, SQLite, compression, and files that are cut short."""

import shutil

import numpy as np
import pytest

from verbot.data import ImportConfig, import_dataset, open_dataset
from verbot.data.importers import open_source, recognize
from verbot.data.importers.bag_folders import read_metadata, recordings
from verbot.errors import ConfigError, CorruptFileError, DataError, MissingDependencyError


def imported(root, out, **options):
    return import_dataset(root, out, ImportConfig(rate_hz=10, options=options))


def numbers(path, picture_number, episode=0, camera="front"):
    return [picture_number(image) for image in open_dataset(path)[episode].images(camera)]


def notes(root, **options):
    """The notes of the first episode, each ``field | taken as | conversion | reason``."""
    item = next(iter(open_source(recognize(root), root, None, options, 10.0).items()))
    return [" | ".join((note.field, note.taken_as, note.conversion, note.reason)) for note in item.read().notes]


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("b01_bag_folders", ["rosbag2_2026_01_01", "rosbag2_2026_01_02"]),
        ("b01b_split", ["rec"]),
        ("b01c_unfinished", ["rec"]),
        ("b05_bayer_rggb8", ["ep_0.mcap"]),
        ("b05_mono16", ["ep_0.mcap"]),
        ("b05_nv12", ["ep_0.mcap"]),
        ("b05_yuv422_yuy2", ["ep_0.mcap"]),
        ("b05_yuyv", ["ep_0.mcap"]),
        ("b06_lz4", ["ep_0.mcap"]),
        ("b10_file_compressed", ["b10_file_compressed"]),
        ("b09b_sqlite", ["rec"]),
        ("b09c_sqlite_file", ["rec"]),
        ("b09d_sqlite_message", ["rec"]),
        ("b09e_mcap_message", ["rec"]),
        ("b09f_mcap_storage", ["rec"]),
        ("b09g_sqlite_humble", ["rec"]),
        ("b11_two_storages", ["rec_a", "rec_b"]),
        ("b13_jitter", ["ep_0.mcap"]),
    ],
)
def test_recordings_have_every_picture_and_their_sentence(name, keys, case, tmp_path, picture_number):
    result = imported(case(name), tmp_path / "out")
    assert (result.skipped, result.problems) == ((), ())
    for number, episode in enumerate(open_dataset(tmp_path / "out")):
        assert episode.extras["source"]["episode"] == keys[number] and episode.instruction == "pick up the cube"
        assert numbers(tmp_path / "out", picture_number, number) == list(range(21))
        np.testing.assert_allclose(episode.states[:11, 0], np.arange(11) / 10, atol=1e-6)
    assert result.episodes == len(keys)


def test_images_without_an_order_of_colors_need_the_users_word(case, tmp_path, picture_number):
    root = case("b05_8UC3")
    with pytest.raises(DataError, match=r"'8UC3', which does not state the order of their colors; give --set color=bgr"):
        imported(root, tmp_path / "no")
    imported(root, tmp_path / "out", color="bgr")
    assert numbers(tmp_path / "out", picture_number) == list(range(21))
    assert any("8UC3: colors in the order bgr, as given" in line for line in notes(root, color="bgr"))


def test_the_folder_of_a_recording_and_its_files_can_be_given(case, tmp_path, picture_number):
    root = case("b01b_split")
    assert imported(root / "rec", tmp_path / "folder").episodes == 1
    assert numbers(tmp_path / "folder", picture_number) == list(range(21))
    imported(root / "rec" / "rec_0.mcap", tmp_path / "file")
    assert numbers(tmp_path / "file", picture_number) == list(range(11))
    keys = [files.key for files in recordings(root, join=False)]
    assert keys == ["rec/rec_0.mcap", "rec/rec_1.mcap"]


def test_files_with_names_of_their_own_are_joined_only_on_request(case):
    root = case("b03_truncated")
    assert [files.key for files in recordings(root)] == ["ep_0.mcap", "ep_1.mcap"]
    assert [len(files.files) for files in recordings(root, join=True)] == [2]


def test_parts_are_joined_in_the_order_of_the_metadata_and_others_are_named(case, tmp_path, picture_number):
    root = case("b01b_split")
    metadata = root / "rec" / "metadata.yaml"
    metadata.write_text(
        metadata.read_text().replace("rec_0.mcap", "x").replace("rec_1.mcap", "rec_0.mcap").replace("x", "rec_1.mcap")
    )
    shutil.copy(root / "rec" / "rec_0.mcap", root / "rec" / "copy.mcap")
    imported(root, tmp_path / "out")
    assert numbers(tmp_path / "out", picture_number) == list(range(21))  # by time, whatever the order
    assert "copy.mcap | left out |  | metadata.yaml does not name it as a part of this recording" in notes(root)


def test_a_recording_that_lacks_a_part_is_named_and_the_others_imported(case, tmp_path, picture_number):
    result = imported(case("b01d_part_missing"), tmp_path / "out")
    (skipped,) = result.skipped
    assert skipped.episode == "rec" and "names rec_0.mcap, which rec lacks; remove it to import each file" in skipped.problem
    assert numbers(tmp_path / "out", picture_number) == list(range(21))


INFO = "rosbag2_bagfile_information: "
BROKEN_METADATA = {
    "[": "cannot be read",
    "other: 1": "has no rosbag2_bagfile_information; expected the metadata of rosbag2; remove it",
    INFO + "{storage_identifier: tar}": "names the storage 'tar'; known are mcap, sqlite3",
    INFO + "{compression_mode: file, compression_format: xz}": "names compression 'xz' by 'file'; expected 'zstd' by 'file'",
    INFO + "{relative_file_paths: [1]}": "has relative_file_paths '[1]'; expected a list of different file names",
    "a: 2026-99-99": "cannot be read",
}


@pytest.mark.parametrize("text", BROKEN_METADATA)
def test_metadata_that_is_not_that_of_rosbag2_is_named(text, tmp_path):
    path = tmp_path / "metadata.yaml"
    path.write_text(text)
    with pytest.raises(CorruptFileError) as error:
        read_metadata(path)
    assert BROKEN_METADATA[text] in str(error.value) and str(path) in str(error.value)


def test_metadata_without_files_takes_those_beside_it(case, tmp_path):
    root = case("b01b_split")
    (root / "rec" / "metadata.yaml").write_text("rosbag2_bagfile_information: {version: 5}")
    assert imported(root, tmp_path / "out").frames == 21
    assert any("metadata.yaml names no files: those beside it are taken" in note for note in notes(root))


def test_fewer_messages_than_the_metadata_states_are_noted(case):
    root = case("b09b_sqlite")
    path = root / "rec" / "metadata.yaml"
    path.write_text(path.read_text().replace("message_count: 21", "message_count: 25"))
    assert "/command | incomplete |  | metadata.yaml states 25 messages, the files have 21" in notes(root)


def test_the_definitions_of_files_before_iron_are_noted(case):
    assert any(
        "does not define sensor_msgs/msg/JointState: that of ROS 2 Humble is taken" in n
        for n in notes(case("b09g_sqlite_humble"))
    )


def test_a_type_without_a_definition_is_named(case, tmp_path):
    import sqlite3

    root = case("b09g_sqlite_humble")
    with sqlite3.connect(root / "rec" / "rec.db3") as connection:
        connection.execute("UPDATE topics SET type = 'my_msgs/msg/Grip' WHERE name = '/command'")
    with pytest.raises(
        DataError, match=r"rec.db3 does not define the type my_msgs/msg/Grip of /command, which is none of ROS 2's own"
    ):
        imported(root, tmp_path / "out", action="/command")


def test_a_damaged_database_is_named_with_the_way_out(case, tmp_path):
    with pytest.raises(CorruptFileError, match=r"rec_0.db3: cannot be read .*'ros2 bag convert' writes a recording as MCAP"):
        imported(case("b09_db3"), tmp_path / "out")
    root = case("b09b_sqlite")
    (root / "rec" / "rec.db3-wal").write_bytes(b"x")
    with pytest.raises(CorruptFileError, match=r"is unfinished: rec.db3-wal holds messages that are not in it yet"):
        imported(root, tmp_path / "out")


def test_without_rosbags_the_message_names_the_extra(case, tmp_path, monkeypatch):
    import sys

    from verbot.errors import missing

    root = case("b09b_sqlite")
    monkeypatch.setitem(sys.modules, "rosbags.rosbag2", None)
    with pytest.raises(ModuleNotFoundError) as error:
        imported(root, tmp_path / "out")
    assert isinstance(missing(error.value), MissingDependencyError) and "verbot[rosbag]" in str(missing(error.value))
    assert imported(case("b01_bag_folders"), tmp_path / "mcap").episodes == 2


def test_a_truncated_file_is_named_with_the_way_out_and_the_whole_one_imported(case, tmp_path, picture_number):
    root = case("b03_truncated")
    (skipped,) = imported(root, tmp_path / "out").skipped
    assert skipped.episode == "ep_1.mcap" and "cut short" in skipped.problem
    assert (
        "'mcap recover ep_1.mcap -o ep_1_recovered.mcap', or import what is before the cut with --set truncated=use"
        in skipped.problem
    )
    assert numbers(tmp_path / "out", picture_number) == list(range(21))
    result = imported(root, tmp_path / "used", truncated="use")
    assert (result.episodes, result.skipped) == (2, ())
    rest = numbers(tmp_path / "used", picture_number, 1)
    assert 3 < len(rest) < 21 and rest == list(range(len(rest)))


def test_a_truncated_file_alone_is_named(case, tmp_path):
    with pytest.raises(DataError, match=r"ep_1.mcap: cannot be read to its end: it is cut short or damaged .* Recover it with"):
        imported(case("b03b_truncated_only"), tmp_path / "out")


def test_a_truncated_compressed_file_is_named(case, tmp_path):
    root = case("b10_file_compressed")
    path = root / "rec_0.mcap.zstd"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataError, match=r"rec_0.mcap.zstd: cannot be read: it is empty or cut short at its beginning"):
        imported(root, tmp_path / "out")
    path.write_bytes(b"no zstd")
    with pytest.raises(DataError, match=r"rec_0.mcap.zstd: cannot be read: it does not begin as an MCAP file does"):
        imported(root, tmp_path / "out")


def test_an_encoding_that_cannot_be_read_is_named(case, tmp_path):
    root = case("b12_protobuf")
    with pytest.raises(ConfigError, match=r"/cam \(foxglove.CompressedVideo, which cannot be read: 'protobuf' with schema"):
        imported(root, tmp_path / "out")
    options = {"action": "/command", "images": {"front": "/cam"}, "instruction": False}
    with pytest.raises(DataError, match=r"/cam is encoded as 'protobuf' with schema 'foxglove.CompressedVideo' in 'protobuf'"):
        import_dataset(root, tmp_path / "out", ImportConfig(rate_hz=10, options=options, instruction=""))
    assert any(
        note.startswith("/cam | left out |  | about 20 messages of foxglove.CompressedVideo, which cannot be read")
        and "convert it to CDR" in note
        for note in notes(root, action="/command")
    )
