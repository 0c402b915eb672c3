"""A bad episode costs no other one, and no source holds up or fills the machine: each ends with its reason within bounds."""

import contextlib
import gzip
import json
import os
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from verbot import cli
from verbot.data import ImportConfig, import_dataset, open_dataset
from verbot.data.importers import limits
from verbot.data.importers.bag_folders import read_metadata
from verbot.data.importers.images import decode_image
from verbot.data.importers.tensor_files import open_tensors
from verbot.data.importers.tfrecord import RecordFile, _varints, masked
from verbot.errors import CorruptFileError, DataError
from verbot.files import regular_file

LENGTH = 3


def episode(**changed):
    arrays = {"actions": np.ones((LENGTH, 2), np.float32), "observations.state": np.ones((LENGTH, 3), np.float32)}
    return arrays | changed


@pytest.fixture
def folder(tmp_path):
    """Three episodes; the second says that it is of another width."""
    source = tmp_path / "raw"
    source.mkdir()
    for number in range(3):
        arrays = episode(actions=np.ones((LENGTH, 5), np.float32)) if number == 1 else episode()
        save_file(arrays, source / f"{number}.safetensors", {"language": '"go"'})
    return source


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["data", "import", *map(str, arguments), "--rate-hz", "10"])
    return stopped.value.code, capsys.readouterr().err


def test_strict_stops_at_the_first_bad_episode(capsys, tmp_path, folder):
    code, err = run(capsys, folder, tmp_path / "out", "--strict")
    assert code == 2 and "1.safetensors, episode 0: its action 'actions' has 5 numbers" in err and "--strict stops here" in err
    assert not (tmp_path / "out").exists()
    code, err = run(capsys, folder, tmp_path / "out")
    table = json.loads((tmp_path / "out/meta/import.json").read_text())
    assert code == 1 and len(open_dataset(tmp_path / "out")) == 2
    assert "skipped 1.safetensors, episode 0: its action" in err
    assert [skipped["episode"] for skipped in table["skipped"]] == ["1.safetensors, episode 0"]


def test_half_a_character_costs_its_episode_alone(capsys, tmp_path, folder):
    save_file(episode(), folder / "1.safetensors", {"language": '"go \\ud83d"'})
    code, err = run(capsys, folder, tmp_path / "out")
    assert code == 1 and "its instruction 'go \\ud83d' is no text: character 3 is half of one" in err
    assert len(open_dataset(tmp_path / "out")) == 2


def test_what_a_machine_cannot_hold_costs_its_episode_alone(monkeypatch, tmp_path, folder):
    from verbot.data.importers import tensors

    read = tensors.Tensors._read

    def failing(self, file, rows, place, count):
        if file.file.path.name == "0.safetensors":
            raise MemoryError("134 GiB")
        if file.file.path.name == "1.safetensors":
            raise RecursionError
        return read(self, file, rows, place, count)

    monkeypatch.setattr(tensors.Tensors, "_read", failing)
    result = import_dataset(folder, tmp_path / "out", ImportConfig(rate_hz=10))
    problems = [skipped.problem for skipped in result.skipped]
    assert problems == ["it does not fit into memory (134 GiB)", "its values are nested too deeply"] and result.episodes == 1


def test_an_import_of_nothing_leaves_nothing(tmp_path, folder):
    for number in range(3):
        (folder / f"{number}.safetensors").write_bytes(b"x" * 40)
    with pytest.raises(DataError, match=r"no episode of raw can be imported: 0.safetensors: .* \(and 2 more\)"):
        import_dataset(folder, tmp_path / "out", ImportConfig(rate_hz=10))
    assert not (tmp_path / "out").exists()


def test_an_episode_larger_than_allowed_is_named_with_the_option(capsys, tmp_path, folder):
    wide = episode(**{"observations.front": np.zeros((LENGTH, 64, 64, 3), np.uint8)})
    for number in range(3):
        save_file(wide, folder / f"{number}.safetensors", {"language": '"go"'})
    code, err = run(capsys, folder, tmp_path / "out", "--max-episode-gb", 1e-5)
    assert code == 2 and "at most 10.5 KiB of decoded values are read (--max-episode-gb allows more)" in err
    assert run(capsys, folder, tmp_path / "out", "--max-episode-gb", 1e-3)[0] == 0
    assert run(capsys, folder, tmp_path / "out", "--max-episode-gb", "nan")[0] == 2


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path / "pipe", "a pipe"), (tmp_path, "a folder")):
        with pytest.raises(DataError, match=f"is {kind}; expected a plain file"):
            regular_file(path)
    with pytest.raises(DataError, match="No such file"):
        regular_file(tmp_path / "none")
    with pytest.raises(DataError, match="is a pipe; expected a plain file"):
        import_dataset(tmp_path / "pipe", tmp_path / "out", ImportConfig("manifest", rate_hz=10))
    source = tmp_path / "raw"
    source.mkdir()
    os.mkfifo(source / "a.png")
    Image.new("RGB", (8, 8)).save(source / "b.png")
    entries = [{"image_path": name, "instruction": "go", "action": [1]} for name in ("b.png", "a.png")]
    (source / "manifest.json").write_text(json.dumps(entries))
    (skipped,) = import_dataset(source, tmp_path / "out", ImportConfig(rate_hz=10)).skipped
    assert skipped.episode == "entry 1" and "a.png: is a pipe; expected a plain file" in skipped.problem


def png(side):
    """The header of a large PNG, whose content is never asked for."""
    head = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    packed = zlib.compress(bytes(100))
    chunks = [struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))]
    chunks.append(struct.pack(">I", len(packed)) + b"IDAT" + packed + struct.pack(">I", zlib.crc32(b"IDAT" + packed)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_pictures_are_measured_by_their_headers():
    with pytest.raises(DataError, match="one is a picture of 9000×9000 pixels; at most 64 megapixels are read"):
        decode_image(png(9000), "one")
    with limits.episode_room(1 << 20), limits.pictures_of_size(8, 8):
        with pytest.raises(DataError, match="a picture of 4000×4000 pixels; those of its camera have 8×8"):
            decode_image(png(4000), "one")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda torch, t: torch.nn.Parameter(t), ""),
        (lambda torch, t: t.to(torch.float8_e4m3fn), ""),
        (lambda torch, t: t.to_sparse(), "actions are not tensors of plain numbers"),
        (lambda torch, t: t[:1, :1].expand(1000, 1000), r"actions repeat the numbers that are stored \(expand\)"),
    ],
)
def test_tensors_of_torch(tmp_path, change, problem):
    torch = pytest.importorskip("torch")
    path = tmp_path / "one.pt"
    torch.save({"actions": change(torch, torch.ones(3, 2))}, path)
    if not problem:
        assert np.array_equal(open_tensors(path, "language").rows("actions", np.arange(3)), np.ones((3, 2)))
        return
    with pytest.raises(DataError, match=problem):
        open_tensors(path, "language")


def test_dictionaries_that_share_their_parts(tmp_path):
    torch = pytest.importorskip("torch")
    shared = {"x": torch.ones(1)}
    for _ in range(14):
        shared = {"a": shared, "b": shared}
    torch.save(shared, tmp_path / "one.pt")
    with pytest.raises(DataError, match="has more than 10000 values in dictionaries of dictionaries"):
        open_tensors(tmp_path / "one.pt", "language")


def test_archives_are_held_against_their_sizes(tmp_path):
    path = tmp_path / "one.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("actions.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (3, 2)})
        file.write(bytes(1000))
    with pytest.raises(CorruptFileError, match=r"actions.npy holds 1000 bytes; its header says 24"):
        open_tensors(path, "language")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("actions.npy", b"x")
    with pytest.raises(CorruptFileError, match=r"compressed by method 12; expected files stored or deflated"):
        open_tensors(path, "language")


def test_records_do_not_say_their_own_limit(tmp_path):
    head = struct.pack("<Q", 1 << 60)
    path = tmp_path / "toy.tfrecord"
    path.write_bytes(gzip.compress(head + struct.pack("<I", masked(head)) + bytes(1 << 20)))
    (record,) = RecordFile(path).records()
    assert "record 0 at byte 0 says that it has 1152921504606846976 bytes; at most 1073741824 are read" in record.problem


def test_numbers_are_decoded_in_blocks(monkeypatch):
    from verbot.data.importers import tfrecord

    numbers = np.random.default_rng(0).integers(0, 2**62, 100) >> np.arange(100) % 60
    content = bytearray()
    for number in numbers.tolist():
        while number > 127:
            content.append(number & 127 | 128)
            number >>= 7
        content.append(number)
    monkeypatch.setattr(tfrecord, "VARINTS", 7)
    assert np.array_equal(_varints(bytes(content)), numbers)


def test_aliases_do_not_multiply(tmp_path):
    path = tmp_path / "metadata.yaml"
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    path.write_text("\n".join([*lines, "rosbag2_bagfile_information: {relative_file_paths: *i}"]))
    with pytest.raises(CorruptFileError, match=r"it has aliases \(\*name\), which rosbag2 does not write"):
        read_metadata(path)
    path.write_text("rosbag2_bagfile_information:\n" + "  - x\n" * 200_000)
    with pytest.raises(CorruptFileError, match="at most 524288 are read"):
        read_metadata(path)


def log(path, clock=lambda step: step * 10**8, payload='{"x": 1}', chunk=None):
    """A log of messages in JSON; `chunk` is what the first chunk states of its size."""
    from mcap.writer import CompressionType, Writer

    with open(path, "wb") as file:
        writer = Writer(file, compression=CompressionType.ZSTD)
        writer.start()
        channels = {topic: writer.register_channel(topic, "json", 0) for topic in ("/arm", "/command")}
        for step in range(LENGTH):
            for topic, content in (("/arm", '{"name": ["a"], "position": [1.0]}'), ("/command", payload)):
                time = 1_700_000_000_000_000_000 + clock(step)
                writer.add_message(channels[topic], time, content.encode(), time)
        writer.finish()
    if chunk is not None:
        content = bytearray(path.read_bytes())
        place = content.index(b"\x06", 8 + 9)  # the first chunk: opcode, length, two times, the size
        content[place + 25 : place + 33] = struct.pack("<Q", chunk)
        path.write_bytes(content)


TOPICS = {"state": "/arm", "action": "/command", "images": False}


def problem_of_log(tmp_path, **changed):
    source = tmp_path / "logs"
    source.mkdir()
    for number in range(3):
        log(source / f"log_{number}.mcap", **(changed if number == 1 else {}))
    result = import_dataset(source, tmp_path / "out", ImportConfig(rate_hz=10, instruction="go", options=TOPICS))
    (skipped,) = result.skipped
    assert skipped.episode == "log_1.mcap" and result.episodes == 2 and result.exit_code == 1
    return skipped.problem


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (
            {"clock": lambda step: step * 365 * 86_400 * 10**9},
            "it would have 630720001 rows .* and has 6 messages; expected at most 100",
        ),
        ({"chunk": 1 << 40}, "has a chunk of 1.02e\\+03 GiB; at most 256 MiB are read"),
        ({"chunk": 3}, "has a compressed part of .* bytes; at most 3 bytes are read"),
        ({"payload": "[" * 950 + "]" * 950}, "nested too deeply|cannot be decoded"),
        ({"payload": "[" + "1," * 70_000 + "1]"}, "a message has more than 65536 numbers; name a field of it"),
        ({"payload": '{"x": ' + "9" * 5000 + "}"}, "cannot be decoded"),
    ],
)
def test_logs(tmp_path, changed, problem):
    import re

    pytest.importorskip("mcap")
    assert re.search(problem, problem_of_log(tmp_path, **changed))


def test_databases_hold_their_messages_in_tables(tmp_path):
    import sqlite3

    pytest.importorskip("rosbags")
    from verbot.data.importers.rosbag_reader import _check_tables

    path = tmp_path / "one.db3"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE topics(id); CREATE VIEW messages AS SELECT 1 AS id")
    with pytest.raises(CorruptFileError, match="has a view 'messages' in place of the table"):
        _check_tables(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript("DROP VIEW messages; CREATE TABLE messages(id, data AS (zeroblob(1000000000)))")
    with pytest.raises(CorruptFileError, match="computes data of 'messages'; expected stored values"):
        _check_tables(path)


def test_datasets_of_hdf5_are_held_against_their_shapes(tmp_path):
    h5py = pytest.importorskip("h5py")
    from verbot.data.importers import hdf5_file

    with h5py.File(tmp_path / "one.hdf5", "w") as file:
        for number in range(12):  # a tree of 12^8 groups for a reader that follows them
            file[f"again{number}"] = h5py.SoftLink("/")
        file.create_dataset("wide", (10**9, 14), "f8", chunks=(1000, 14), compression="gzip")
        file.create_dataset("row", (3, 10**12), "u1", chunks=(1, 10**6), compression="gzip")
        bent = file.create_dataset("bent", (3, 2), "f8", chunks=(3, 2), compression="gzip")
        packer = zlib.compressobj()
        bent.id.write_direct_chunk((0, 0), b"".join([packer.compress(bytes(1 << 20)) for _ in range(300)]) + packer.flush())
        file.create_dataset("texts", (10**6,), h5py.string_dtype(), chunks=(1000,))[0] = "x" * 1000
        assert list(hdf5_file.entries(file)) == ["bent", "row", "texts", "wide"]
        for name, problem in (
            ("wide", "to 104 GiB; at most 8 GiB"),
            ("bent", "bent has a compressed chunk of .* MiB; at most 96 bytes"),
        ):
            with pytest.raises(DataError, match=problem):
                hdf5_file.stored(file[name], name)


@pytest.mark.parametrize("codec", ["gzip", "zlib", "bz2", "lzma", "zstd", "lz4", "blosc"])
def test_pieces_of_zarr_are_held_against_their_shapes(codec):
    numcodecs = pytest.importorskip("numcodecs")
    from verbot.data.importers.zarr_pieces import check_piece

    packed = bytes(numcodecs.get_codec({"id": codec}).encode(np.zeros(1 << 20, np.uint8)))
    check_piece(codec, packed, "one", 1 << 20)
    with pytest.raises(DataError, match="one has a compressed (piece|chunk) of"):
        check_piece(codec, packed, "one", 1 << 10)
