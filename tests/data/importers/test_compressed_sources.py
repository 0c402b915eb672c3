"""Compressed parts of sources: damage costs its episode alone, and nothing expands to more than its episode may hold."""

import bz2
import gzip
import io
import json
import lzma
import struct
import tracemalloc
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from verbot.data.importers import images, limits, mcap_reader, rlds, tfrecord
from verbot.data.importers.bag_episodes import PackedNumbers, _Numbers
from verbot.data.importers.bag_timing import TopicStream
from verbot.data.importers.images import FloatRanges
from verbot.data.importers.manifest import _Step
from verbot.data.importers.rlds_fields import Field, unpacked
from verbot.data.importers.ros_images import _decompressed_depth
from verbot.data.importers.tensor_files import open_tensors
from verbot.errors import CorruptFileError, DataError

NOISE = np.random.default_rng(0).bytes(1 << 19)


def test_damage_in_a_stream_is_of_its_file():
    with pytest.raises(CorruptFileError, match="one: cannot be decompressed"):
        limits.check_inflated(NOISE, "one", 1 << 20)
    packed = bytearray(zlib.compress(NOISE))
    limits.check_inflated(bytes(packed), "one", 1 << 20)
    packed[1000:1100] = bytes(100)
    with pytest.raises(CorruptFileError, match="one: cannot be decompressed"):
        limits.check_inflated(bytes(packed), "one", 1 << 20)


def test_a_damaged_chunk_of_hdf5_is_named_and_one_without_compression_is_read(tmp_path):
    h5py = pytest.importorskip("h5py")
    from verbot.data.importers import hdf5_file

    values = np.frombuffer(NOISE, np.uint8).reshape(1, -1)
    with h5py.File(tmp_path / "one.hdf5", "w") as file:
        for name in ("plain", "damaged"):
            file.create_dataset(name, (2, 1 << 19), "u1", chunks=(1, 1 << 19), compression="gzip")[:] = values
        file["plain"].id.write_direct_chunk((0, 0), NOISE, filter_mask=1)
        file["damaged"].id.write_direct_chunk((1, 0), NOISE)
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((4, 4))
        plan.set_deflate(1)
        plan.set_deflate(1)
        h5py.h5d.create(file.id, b"twice", h5py.h5t.NATIVE_UINT8, h5py.h5s.create_simple((4, 4)), plan)
        assert np.array_equal(hdf5_file.stored(file["plain"], "plain"), np.repeat(values, 2, 0))
        assert hdf5_file._begins(file["damaged"]) == NOISE[:64]  # only the chunk that is read is looked at
        with pytest.raises(CorruptFileError, match="damaged: cannot be decompressed"):
            hdf5_file.stored(file["damaged"], "damaged")
        with pytest.raises(CorruptFileError, match=r"twice: has the filters \[1, 1\]; expected one compressor"):
            hdf5_file.stored(file["twice"], "twice")


def test_large_chunks_are_read_where_the_episode_has_room_for_them():
    shape = (400, 480, 640, 3)
    assert limits.check_chunk(shape, shape, 1, "one") == 400 * 480 * 640 * 3
    with limits.episode_room(1 << 28), pytest.raises(DataError, match="chunks of 352 MiB; .*--max-episode-gb allows more"):
        limits.check_chunk(shape, shape, 1, "one")
    with pytest.raises(DataError, match="at most 256 MiB are read"):  # beyond the shape
        limits.check_chunk((3, 2), (10**9, 2), 1, "one")


@pytest.mark.parametrize(("codec", "pack"), [("gzip", gzip.compress), ("bz2", bz2.compress), ("lzma", lzma.compress)])
def test_one_stream_a_piece(codec, pack):
    from verbot.data.importers.zarr_pieces import check_piece

    with pytest.raises(DataError, match="one: has .* bytes after its compressed content; expected one stream alone"):
        check_piece(codec, pack(NOISE[:4000]) + pack(bytes(1 << 21)), "one", 1 << 20)


@pytest.mark.parametrize(
    ("codecs", "found"),
    [
        ((), ""),
        (("shuffle", "blosc"), "blosc"),
        (("bytes", "gzip", "crc32c"), "gzip+crc32c"),
        (("bytes", "numcodecs.zlib"), "zlib"),
        (("imagecodecs_jpegxl",), "imagecodecs_jpegxl"),
        (("gzip", "gzip"), "expected one compressor"),
        (("gzip", "shuffle"), "expected one compressor"),
        (("sharding_indexed",), "stored by the codec 'sharding_indexed'"),
        (("pickle",), "stored by the codec 'pickle'"),
    ],
)
def test_chains_of_codecs(codecs, found):
    from verbot.data.importers.zarr_pieces import check_piece, codec_of

    if not found.startswith(("expected", "stored")):
        assert codec_of(codecs, "one") == found
        return
    with pytest.raises(CorruptFileError, match=found):
        codec_of(codecs, "one")
    with pytest.raises(DataError, match="a compressed chunk of"):
        check_piece("gzip+crc32c", gzip.compress(bytes(1 << 21)) + b"abcd", "one", 1 << 10)


def test_messages_that_wait_are_bounded(tmp_path, monkeypatch):
    pytest.importorskip("mcap")
    from mcap.writer import Writer

    from verbot.data.importers import mcap_records

    with open(tmp_path / "one.mcap", "wb") as file:
        writer = Writer(file, chunk_size=1 << 16)
        writer.start()
        channel = writer.register_channel("/t", "json", writer.register_schema("a", "jsonschema", b"{}"))
        for _ in range(6):
            writer.add_message(channel, 0, b"1", 0)
            writer.add_message(channel, 10**9, bytes(1 << 18), 0)
        writer.finish()
    with open(tmp_path / "one.mcap", "rb") as file:
        summary = mcap_records.summary_of(tmp_path / "one.mcap", file)
        assert len(list(mcap_records.indexed_messages(file, "one", summary, ["/t"], 0, None))) == 12
        monkeypatch.setattr(mcap_records, "ITEM_BYTES", 1 << 20)
        with pytest.raises(DataError, match="one has chunks that overlap in time: .*at most 1 MiB do: sort it"):
            list(mcap_records.indexed_messages(file, "one", summary, ["/t"], 0, None))


def test_tensors_of_rlds_count_for_their_episode():
    packed = zlib.compress(bytes(1 << 22), 9)
    for size, problem in (((1 << 22,), "at most 1 MiB of decoded values"), ((None,), "at most 1 MiB are read")):
        tracemalloc.start()
        with limits.episode_room(1 << 20), pytest.raises(DataError, match=problem):
            unpacked([packed] * 8, Field("tensor", "uint8", size, "zlib"), "one")
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
        tracemalloc.stop()
    with limits.episode_room(1 << 26):
        assert unpacked([packed] * 2, Field("tensor", "uint8", (1 << 22,), "zlib"), "one").size == 1 << 23


def test_depth_of_a_recording_is_measured_by_its_header(monkeypatch):
    import io

    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(np.zeros((32, 32), np.uint16)).save(content, "PNG")
    assert _decompressed_depth("one", content.getvalue(), "16UC1; png", False, 0.001).shape == (32, 32)
    monkeypatch.setattr(limits, "PIXELS", 1000)
    with pytest.raises(DataError, match="one is a picture of 32×32 pixels"):
        _decompressed_depth("one", content.getvalue(), "16UC1; png", False, 0.001)


def test_many_axes_are_looked_up_once_a_message():
    axes = tuple(f"a{number}" for number in range(20_000))
    stream = TopicStream()
    for time in range(4):
        order = axes if time % 2 else axes[::-1]
        values = np.arange(20_000.0) if time % 2 else np.arange(20_000.0)[::-1]
        stream.add(time * 10**9, (time, {"/a": PackedNumbers(False, order, values + time)}))
    found = _Numbers("/a", stream, ()).rows(np.array([0, 10**9, 3 * 10**9]), None, "one")  # minutes, with a search for each
    assert np.array_equal(found, np.arange(20_000.0)[::-1] + np.array([[0], [1], [3]]))


def test_shards_by_name_alone(tmp_path):
    (tmp_path / "a-train.tfrecord-00000-of-9999999999").write_bytes(b"")
    with pytest.raises(CorruptFileError, match="split 'train' has 9999999999 shards; at most 100000 are read"):
        next(rlds._shards(tmp_path, {}, "train"))
    with pytest.raises(DataError, match="expected a path below this folder"):
        list(rlds._shards(tmp_path, {"name": "../a", "splits": [{"name": "x", "shardLengths": [1]}]}, "x"))


def test_other_episodes_do_not_count_for_the_present_one(tmp_path):
    def read():
        limits.take(600, "pictures")
        return np.zeros((1, 2, 2, 3), np.float32)

    with limits.episode_room(1000):
        assert FloatRanges("auto", lambda field: [read]).of("front")[0] == "unit"
        limits.take(1000, "the present one")
    np.savez(tmp_path / "one.npz", actions=np.asfortranarray(np.arange(64.0).reshape(8, 8)))
    with limits.episode_room(512):  # an array in Fortran order is read as a whole, and counted once
        assert open_tensors(tmp_path / "one.npz", "language").rows("actions", np.arange(3)).shape == (3, 8)


def test_files_of_a_manifest_have_a_limit(tmp_path, monkeypatch):
    from verbot.data.importers import manifest

    (tmp_path / "a.png").write_bytes(b"x")
    with open(tmp_path / "a.png", "r+b") as file:
        file.truncate(1 << 30)
    entry = {"image_path": "a.png", "instruction": "go", "action": [1]}
    (tmp_path / "manifest.json").write_text(json.dumps([entry]))
    step = object.__new__(_Step)
    object.__setattr__(step, "_folder", tmp_path)
    object.__setattr__(step, "number", 0)
    with pytest.raises(DataError, match="a.png has a picture of 1 GiB; at most 256 MiB are read"):
        manifest._Step._content(step, "a.png")


def test_records_without_content_end_a_file_after_some(tmp_path, monkeypatch):
    monkeypatch.setattr(tfrecord, "EMPTY", 3)
    head = struct.pack("<Q", 0)
    empty = head + struct.pack("<I", tfrecord.masked(head)) + struct.pack("<I", tfrecord.masked(b""))
    (tmp_path / "one").write_bytes(empty * 2)
    assert [record.problem for record in tfrecord.RecordFile(tmp_path / "one").records()] == ["", ""]
    (tmp_path / "one").write_bytes(gzip.compress(empty * 9))
    *first, last = tfrecord.RecordFile(tmp_path / "one").records()
    assert len(first) == 3 and last.problem == "has 3 empty records in a row before record 3"


def test_a_small_frame_of_zstd_expands_to_little(monkeypatch):
    zstandard = pytest.importorskip("zstandard")
    monkeypatch.setattr(limits, "EXPANDED_BYTES", 1 << 20)
    packed = zstandard.ZstdCompressor().compress(bytes(1 << 22))
    with pytest.raises(DataError, match="one has a compressed part of 4 MiB; at most 1 MiB are read"):
        limits.unzstd(packed, "one")
    noise = zstandard.ZstdCompressor().compress(NOISE * 8)
    assert len(limits.unzstd(noise, "one")) == 1 << 22


def test_one_picture_for_more_actions_than_fit_is_not_decoded(monkeypatch):
    sink = io.BytesIO()
    Image.new("RGB", (64, 64)).save(sink, "PNG")
    assert len(images.repeated_image(sink.getvalue(), "one", 3)) == 3
    monkeypatch.setattr(images, "decode_image", None)
    with limits.episode_room(1 << 20), pytest.raises(DataError, match="one would bring the episode to 11.7 MiB"):
        images.repeated_image(sink.getvalue(), "one", 1000)


def test_a_message_of_very_many_numbers_is_not_decoded(monkeypatch):
    monkeypatch.setattr(mcap_reader, "NUMBERS_BYTES", 16)
    channel = SimpleNamespace(topic="/numbers", message_encoding="cdr")
    schema = SimpleNamespace(name="a/Numbers", encoding="ros2msg", data=b"float64[] data")
    with pytest.raises(DataError, match="one has a message of /numbers of 17 bytes; at most 16 bytes are read"):
        mcap_reader._decoded("one", schema, channel, bytes(17), False)
    schema.data = b"uint8[] data"
    assert mcap_reader._decoded("one", schema, channel, b"\0\1\0\0" + struct.pack("<I", 12) + bytes(12), False).data == bytes(12)
