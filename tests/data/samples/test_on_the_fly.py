"""Frames that are decoded while training runs are those of the cache, in an order that uses every decoded frame."""

from __future__ import annotations

import dataclasses
import itertools
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from verbot.data import DatasetWriter, Loader, Mixture, WindowBatch, WindowConfig, Windows, open_dataset
from verbot.data.samples import clips, episode_table, frame_source
from verbot.data.samples.clip_memory import ClipMemory
from verbot.data.samples.clips import DecodedClips
from verbot.data.samples.decks import ClipDeck, MixedDeck, ShuffledDeck
from verbot.data.samples.frame_source import FrameOptions, open_frames
from verbot.data.samples.windows import fits_of
from verbot.data.storage.frame_cache import FrameCache, FrameSelection
from verbot.data.storage.pictures import PictureReader
from verbot.errors import ConfigError, CorruptFileError, DataError
from verbot.parallel.workers import WorkerError
from verbot.transforms import FitImage

CASES = Path(__file__).parents[2] / "cases"
FRONT, WRIST = "observation.images.front", "observation.images.wrist"
LENGTHS = (23, 31, 17, 40, 9)


@pytest.fixture(scope="module")
def v3():
    sys.path.insert(0, str(CASES))
    try:
        import _v3

        return _v3
    finally:
        sys.path.remove(str(CASES))


@pytest.fixture(scope="module")
def numbered(v3, tmp_path_factory):
    """Five episodes of two cameras; every picture carries its number."""
    root = tmp_path_factory.mktemp("numbered") / "d"
    options = {"codec": "libx264", "options": {"g": "5", "bf": "0"}}
    return v3.write(root, [v3.episode(n) for n in LENGTHS], cams=(FRONT, WRIST), **options)


def assert_same(one: WindowBatch, two: WindowBatch) -> None:
    for field in dataclasses.fields(WindowBatch):
        ours, theirs = getattr(one, field.name), getattr(two, field.name)
        if field.name == "targets":
            assert all(np.array_equal(ours[name].values, theirs[name].values) for name in ours)
        elif field.name != "query_keypoints":
            assert ours == theirs if isinstance(ours, list) else np.array_equal(ours, theirs), field.name


def small(dataset, **options):
    """Frames decoded into the least memory."""
    return DecodedClips(dataset, memory_bytes=1, **options)


@pytest.mark.parametrize(
    "config",
    [
        WindowConfig(chunk=4),
        WindowConfig(history=3, stride=2, chunk=4),
        WindowConfig(sequence=3, stride=9, goals=True),
        WindowConfig(cameras=("wrist", "overhead")),
    ],
)
def test_windows_are_those_of_the_cache(numbered, config):
    dataset = open_dataset(numbered)
    reach = (config.history - 1 + config.sequence - 1) * config.stride
    cached, decoded = Windows(dataset, config), Windows(dataset, config, cache=small(dataset, reach=reach))
    order = np.random.default_rng(0).permutation(len(cached))
    for rows in (order[:32], order[32:39], np.arange(len(cached))):  # more clips than fit at once, too
        draws = np.random.default_rng(1).random((len(rows), 3))
        assert_same(decoded.gather(rows, draws), cached.gather(rows, draws))


def test_processes_decode_the_same(numbered):
    dataset = open_dataset(numbered)
    config = WindowConfig(history=2, chunk=3)
    fits = fits_of(dataset.spec.cameras, (32, 48))
    plain = Windows(dataset, config, cache=small(dataset, reach=1, selection=FrameSelection(None, None, fits)))
    source = small(dataset, reach=1, selection=FrameSelection(None, None, fits), processes=2)
    several = Windows(dataset, config, cache=source)
    for threads in (0, 2):
        ahead = Loader(several, 16, seed=5, threads=threads).iterate(3)
        for step, batch in zip(range(3, 20), ahead, strict=False):
            assert_same(batch, Loader(plain, 16, seed=5).batch(step))
        ahead.close()
    for _ in range(2):  # what was closed starts again
        processes = [worker.process for worker in source._workers]
        assert len(processes) == 2 and all(process.poll() is None for process in processes)
        several.close()
        assert all(process.wait(timeout=5) is not None for process in processes)
        assert_same(Loader(several, 16, seed=5).batch(30), Loader(plain, 16, seed=5).batch(30))
    several.close()


def test_a_batch_is_a_function_of_the_seed_and_the_step(numbered, v3):
    dataset = open_dataset(numbered)
    windows = Windows(dataset, WindowConfig(chunk=3), cache=small(dataset))
    whole = list(itertools.islice(Loader(windows, 12, seed=2).iterate(), 25))
    again = Loader(Windows(dataset, WindowConfig(chunk=3), cache=small(dataset)), 12, seed=2)
    for step in (20, 3, 21, 0):  # resumed anywhere
        assert_same(again.batch(step), whole[step])
    parts = [Loader(windows, 12, seed=2, rank=rank, world=3).batch(7) for rank in range(3)]
    assert_same(WindowBatch.concatenate(parts), whole[7])
    starts = np.cumsum([0, *LENGTHS])
    for batch in whole[:10]:
        episodes, rows = windows.locate(batch.index)
        assert [v3.number(image) for image in batch.images[:, 0, 1]] == (starts[episodes] + rows).tolist()
    other = Loader(windows, 12, seed=3).batch(0)
    assert other.index.tolist() != whole[0].index.tolist()


def test_an_epoch_decodes_every_frame_once(numbered, monkeypatch):
    """A window that looks back decodes the few frames before its clip again."""
    dataset, rows = open_dataset(numbered), []
    genuine = PictureReader.read
    monkeypatch.setattr(
        PictureReader, "read", lambda self, e, camera, r: rows.append((e.index, camera, tuple(r))) or genuine(self, e, camera, r)
    )
    source = small(dataset, reach=2)
    rows.clear()
    loader = Loader(Windows(dataset, WindowConfig(history=3), cache=source), 12, seed=0)
    for step in range(10):
        loader.batch(step)
    assert len(rows) == len(set(rows)) == 2 * sum(-(-length // clips.CLIP) for length in LENGTHS)
    decoded = [(e, row) for e, camera, part in rows if camera == "front" for row in part]
    again = len(decoded) - len(set(decoded))
    assert len(set(decoded)) == sum(LENGTHS) and again == 2 * sum((length - 1) // clips.CLIP for length in LENGTHS)


def test_the_next_block_is_asked_for_while_one_is_used(numbered, monkeypatch):
    dataset = open_dataset(numbered)
    asked, source = [], small(dataset)
    monkeypatch.setattr(source, "prefetch", lambda episodes, rows: asked.append(len(rows)))
    windows = Windows(dataset, WindowConfig(), cache=source)
    assert windows.lookahead == source.block * source.clip == 8 * 16
    next(Loader(windows, 16).iterate())
    assert asked == [16] * 9  # up to the batch that comes a block later
    assert Windows(dataset, WindowConfig()).lookahead == 0


def test_what_a_process_cannot_decode_is_named(numbered, tmp_path):
    import shutil

    shutil.copytree(numbered, tmp_path / "d")
    (path,) = (tmp_path / "d/videos" / WRIST).rglob("*.mp4")
    dataset = open_dataset(tmp_path / "d")
    source = small(dataset, processes=1)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(WorkerError, match=r"frame decoder 1: CorruptFileError: .*wrist/chunk-000/file-000.mp4: is not a video"):
        Windows(dataset, WindowConfig(), cache=source).batch([0], np.random.default_rng(0))
    source.close()


def test_cameras_of_the_journal_have_their_own_pictures(tmp_path, spec, make):
    with DatasetWriter(tmp_path / "d", spec, merge_every=9) as writer:
        for number in range(2):
            writer.save_episode(make(number))
        dataset = open_dataset(tmp_path / "d")
        config = WindowConfig(cameras=("front", "wrist"))
        batch = Windows(dataset, config, cache=small(dataset)).batch([0, 1, 2], np.random.default_rng(0))
        for view, camera in enumerate(config.cameras):
            assert np.array_equal(batch.images[:, 0, view], dataset[0].images(camera)[:3])


@pytest.mark.parametrize("merged", [True, False])
def test_only_the_pictures_that_are_used_are_decoded(tmp_path, spec, make, merged, monkeypatch):
    with DatasetWriter(tmp_path / "d", spec, merge_every=1 if merged else 9, images="image") as writer:
        writer.save_episode(make(4))
        episode, decoded, genuine = open_dataset(tmp_path / "d")[0], [], Image.open
        whole = episode.images("front")
        monkeypatch.setattr(Image, "open", lambda file, **options: decoded.append(file) or genuine(file, **options))
        for rows in ([6, 2, 6], [-1], [], range(3, 5)):
            decoded.clear()
            assert np.array_equal(episode.images("front", rows), whole[np.asarray(rows, np.int64)])
            assert len(decoded) == max(1, len(set(rows)))
        with pytest.raises(IndexError):
            episode.images("front", [len(episode)])


def test_a_clip_that_could_not_be_decoded_is_decoded_again(numbered, monkeypatch):
    dataset = open_dataset(numbered)
    source, every = small(dataset), np.zeros(3, np.int64)
    take = lambda: source.take("front", every, np.arange(3), np.arange(3))  # noqa: E731
    with monkeypatch.context() as patched:
        patched.setattr(ClipMemory, "fill", lambda *_: (_ for _ in ()).throw(CorruptFileError("file", "cannot be read")))
        for _ in range(30):  # more often than there are slots
            with pytest.raises(CorruptFileError):
                take()
    assert np.array_equal(take(), dataset[0].images("front")[:3])


def test_memory_for_large_frames_is_said(numbered, monkeypatch, capsys):
    dataset = open_dataset(numbered)
    source = open_frames(dataset, FrameSelection(), FrameOptions("decode", show=True))
    assert capsys.readouterr().err == "" and source.bytes <= clips.MEMORY
    monkeypatch.setattr(frame_source, "MEMORY", 1e6)
    source = open_frames(dataset, FrameSelection(), FrameOptions("decode", show=True))
    assert source.bytes == 3 * 8 * 16 * 2 * 64 * 96 * 3 == sum(each.nbytes for each in source._opened().arrays.values())
    assert "take 14.2 MB of memory while they are decoded, more than 1.0 MB: a smaller network" in capsys.readouterr().err


def test_memory_that_the_system_has_not_is_an_error(monkeypatch):
    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match="4.0 MB of memory for decoded frames are not available: No space left on device"):
        ClipMemory.create(4, {"front": (np.dtype(np.uint8), (1000, 1000))}, shared=True)


def test_arrays_in_shared_memory_do_not_overlap():
    layout = {"a": (np.dtype(np.uint8), (3, 5)), "depth": (np.dtype(np.float32), (2, 2)), "b": (np.dtype(np.uint8), (7,))}
    memory = ClipMemory.create(4, layout, shared=True)
    other = ClipMemory.attach(memory.address)
    memory.close()
    for value, array in enumerate(memory.arrays.values()):
        array[...] = value
    for value, name in enumerate(memory.arrays):
        assert (other.arrays[name] == value).all() and other.arrays[name].shape == (4, *layout[name][1])


def test_a_deck_of_clips_deals_every_window_once_and_blocks_one_after_another():
    lengths = np.array([33, 5, 16, 40, 1])
    deck = ClipDeck(lengths, clip=8, block=3, seed=1)
    places = np.arange(3 * len(deck))
    dealt = deck[places].reshape(3, -1)
    assert [sorted(epoch) for epoch in dealt.tolist()] == [list(range(95))] * 3
    assert len({tuple(epoch) for epoch in dealt.tolist()}) == 3
    shuffled = np.random.default_rng(0).permutation(places)
    assert np.array_equal(deck[shuffled], dealt.ravel()[shuffled])
    starts = np.cumsum([0, *lengths])
    episode = np.searchsorted(starts, dealt[0], side="right") - 1
    clip = [(e, (window - starts[e]) // 8) for e, window in zip(episode, dealt[0], strict=True)]
    first, last = {}, {}
    for place, each in enumerate(clip):
        first.setdefault(each, place)
        last[each] = place
    order = sorted(first, key=first.get)
    opening = [frozenset((e, (w - starts[e]) // 8) for e, w in zip(np.searchsorted(starts, part, "right") - 1, part, strict=True))
               for part in dealt[:, :12]]  # fmt: skip
    assert len({*opening[0], *opening[1], *opening[2]}) > 3  # other clips come first in another epoch
    for place in range(len(clip)):  # at most three clips are in use
        assert sum(first[each] <= place <= last[each] for each in order) <= 3
    assert any(clip[i] != clip[i + 1] for i in range(6))  # and the windows of a block are mixed


def test_a_mixed_deck_keeps_the_shares_and_the_order_of_its_decks():
    few, many = ShuffledDeck(10, 1), ClipDeck(np.array([900, 1100]), 16, 4, 2)
    deck = MixedDeck([few, many], np.array([0.25, 0.75]), 5000, seed=3)
    dealt = deck[np.arange(5000)]
    assert (dealt < 10).sum() == 1250
    assert np.ptp(np.bincount(dealt[dealt < 10])) <= 1
    assert np.array_equal(dealt[dealt >= 10] - 10, many[np.arange(3750)])
    shares = [(dealt[start : start + 1000] < 10).mean() for start in range(0, 5000, 1000)]
    assert np.abs(np.array(shares) - 0.25).max() < 0.05
    order = np.random.default_rng(0).permutation(5000)
    assert np.array_equal(deck[order], dealt[order])


def test_a_mixture_of_decoded_and_cached_frames(numbered):
    dataset = open_dataset(numbered)
    cached, decoded = Windows(dataset, WindowConfig(chunk=4)), Windows(dataset, WindowConfig(chunk=4), cache=small(dataset))
    loader = Loader(Mixture((cached, decoded), (1.0, 1.0)), 30, seed=1)
    dealt = np.concatenate([loader.batch(step).index for step in range(8)])
    assert sorted(dealt.tolist()) == list(range(240))
    assert_same(loader.batch(3), Loader(Mixture((cached, decoded), (1.0, 1.0)), 30, seed=1).batch(3))


def test_what_decides_where_frames_come_from(numbered, tmp_path, capsys):
    dataset, selection = open_dataset(numbered), FrameSelection(("front",))
    folder = str(tmp_path / "cache")
    size = 120 * 64 * 96 * 3
    assert selection.bytes(dataset) == size
    assert isinstance(open_frames(dataset, selection, FrameOptions(cache=folder)), FrameCache)
    assert len(list(tmp_path.glob("cache/datasets/d-*/frames/front-*.rgb"))) == 1
    options = FrameOptions(cache=folder, limit_gb=size / 1e9 - 1e-6, show=True)
    source = open_frames(dataset, selection, options)
    assert isinstance(source, DecodedClips)
    assert "decoded on the fly: a cache would take 2.2 MB, more than data.cache_limit_gb" in capsys.readouterr().err
    assert isinstance(open_frames(dataset, selection, dataclasses.replace(options, frames="cache")), FrameCache)
    assert isinstance(open_frames(dataset, selection, FrameOptions("decode")), DecodedClips)
    with pytest.raises(ConfigError, match="frames is 'disk'; expected one of 'auto', 'cache', 'decode'"):
        FrameOptions("disk")


def test_a_small_table_for_each_batch_gives_the_same_windows(written, spec, make, tmp_path, monkeypatch):
    """As for a dataset whose episodes do not fit into memory."""
    with DatasetWriter(tmp_path / "d", spec) as writer:
        for number, visit in ((0, 0), (3, 1), (5, 0)):
            record = make(number)
            writer.save_episode(
                dataclasses.replace(record, extras={**record.extras, "visit": visit, "request": {"scene": visit * 0}})
            )
    options = {"history": 2, "chunk": 3, "relabel": 0.5, "grounding_queries": 2, "previous_action": True}
    for root, more in ((written, {}), (tmp_path / "d", {"sequence": 4})):
        config = WindowConfig(labels=("keypoints", "steps_left"), **options, **more)
        whole = Windows(open_dataset(root), config)
        with monkeypatch.context() as patched:
            patched.setattr(episode_table, "IN_MEMORY_FRAMES", 0)
            patched.setattr(episode_table, "RECENT_FRAMES", 12)
            bounded = Windows(open_dataset(root), config)
            assert not bounded._tables.in_memory and bounded.dealt_in_blocks and not whole.dealt_in_blocks
            for seed in range(4):
                rng = np.random.default_rng(seed)
                rows, draws = rng.integers(len(whole), size=9), rng.random((9, 3))
                one, two = bounded.gather(rows, draws), whole.gather(rows, draws)
                assert_same(one, two)
                assert np.array_equal(one.query_keypoints.values, two.query_keypoints.values)
            assert sum(len(each.arrays.states) for each in bounded._tables._recent.values()) <= 12


def test_cameras_of_different_sizes_are_fitted_to_one(case, v3):
    dataset = open_dataset(case("l15_camera_sizes"))
    with pytest.raises(DataError, match="the cameras of one batch need one image size; they have .*: set network.image_size"):
        Windows(dataset, WindowConfig())
    fits = fits_of(dataset.spec.cameras, (48, 72))
    assert {name: fit.source for name, fit in fits.items()} == {"front": (72, 128), "wrist": (64, 96)}
    for frames in ("cache", "decode"):
        source = open_frames(dataset, FrameSelection(fits=fits), FrameOptions(frames))
        batch = Windows(dataset, WindowConfig(), cache=source).batch(np.arange(20), np.random.default_rng(0))
        assert batch.images.shape == (20, 1, 2, 48, 72, 3)
        assert [v3.number(image) for image in batch.images[:, 0, 1]] == list(range(20))


def test_ordinary_cameras_take_no_more_room_than_the_network_needs(case, v3, tmp_path, capsys):
    dataset = open_dataset(case("l36_vga"))
    assert FrameSelection().bytes(dataset) == 2 * 60 * 480 * 640 * 3
    selection = FrameSelection(("wrist",), None, {"wrist": fits_of(dataset.spec.cameras, (96, 128))["wrist"]})
    source = open_frames(dataset, selection, FrameOptions("cache", str(tmp_path), show=True))
    assert "60 frames of wrist 96×128×3: 2.2 MB to write in" in capsys.readouterr().err
    assert [path.stat().st_size for path in tmp_path.rglob("*.rgb")] == [60 * 96 * 128 * 3]
    batch = Windows(dataset, WindowConfig(cameras=("wrist",)), cache=source).batch(np.arange(60), np.random.default_rng(0))
    assert [v3.number(image) for image in batch.images[:, 0, 0]] == list(range(60))


def test_points_move_with_the_pictures(written):
    """What a policy makes of fitted frames is what it makes of whole ones."""
    dataset, config = open_dataset(written), WindowConfig(chunk=2, labels=("keypoints",), grounding_queries=2)
    fit = FitImage((24, 32), (12, 12))
    source = open_frames(dataset, FrameSelection(fits={"front": fit, "wrist": fit}), FrameOptions("decode"))
    draws = np.random.default_rng(0).random((10, 3))
    whole, fitted = (Windows(dataset, config, cache=cache).gather(np.arange(10), draws) for cache in (None, source))
    for one, two in ((whole.targets["keypoints"], fitted.targets["keypoints"]), (whole.query_keypoints, fitted.query_keypoints)):
        assert np.array_equal(two.values, fit.points(one.values)) and np.array_equal(one.mask, two.mask)
        assert np.abs(two.values - one.values).max() > 0.01
    assert np.abs(fitted.images.astype(float) - fit.forward(whole.images)).mean() < 1.5


def test_pictures_that_are_small_enough_keep_their_size(spec):
    assert fits_of(spec.cameras, (24, 32)) == fits_of(spec.cameras, (96, 128)) == fits_of(spec.cameras, None) == {}
    assert fits_of(spec.cameras, (96, 128), always=True)["front"] == FitImage((24, 32), (96, 128))


def test_depth_cameras_have_their_own_arrays(written, monkeypatch):
    """As of a dataset whose wrist camera measures distances."""
    dataset = open_dataset(written)
    cameras = tuple(dataclasses.replace(c, kind="depth" if c.name == "wrist" else "color") for c in dataset.spec.cameras)
    dataset.spec = dataclasses.replace(dataset.spec, cameras=cameras)
    genuine = PictureReader.read

    def read(self, episode, camera, rows=None):
        found = genuine(self, episode, camera, rows)
        return found[..., 2].astype(np.float32) / 1000 if camera == "wrist" else found

    monkeypatch.setattr(PictureReader, "read", read)
    config = WindowConfig(history=2, cameras=("front", "wrist"))
    batch = Windows(dataset, config).batch([0, 3], np.random.default_rng(0))
    assert batch.images.shape == (2, 2, 1, 24, 32, 3)
    assert batch.depth.shape == (2, 2, 1, 24, 32) and batch.depth.dtype == np.float32
    assert batch.depth_mask[:, :, 0].tolist() == [[False, True], [True, True]]
    assert np.array_equal(batch.depth[1, :, 0], dataset[0].images("wrist")[2:4])
    assert_same(Windows(dataset, config, cache=small(dataset, reach=1)).batch([0, 3], np.random.default_rng(0)), batch)
    monkeypatch.setattr(PictureReader, "read", genuine)
    plain = Windows(open_dataset(written), WindowConfig()).batch([0], np.random.default_rng(0))
    assert plain.depth.size == 0 and plain.depth_mask.shape == (1, 1, 0)
