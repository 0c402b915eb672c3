from __future__ import annotations

import dataclasses
import itertools
import shutil

import numpy as np
import pytest

from verbot.data import DatasetWriter, Loader, Mixture, WindowBatch, WindowConfig, Windows, open_dataset
from verbot.errors import ConfigError


@pytest.fixture(scope="module")
def windows(written) -> Windows:
    return Windows(open_dataset(written), WindowConfig(history=2, chunk=3, relabel=0.5, labels=("keypoints", "steps_left")))


def arrays(batch: WindowBatch) -> dict[str, object]:
    """Every field, those of targets too."""
    found = {field.name: getattr(batch, field.name) for field in dataclasses.fields(WindowBatch)}
    masked = {**found.pop("targets"), "query": found.pop("query_keypoints")}
    return found | {f"{name} {part}": getattr(x, part) for name, x in masked.items() for part in ("values", "mask")}


def assert_same(one: WindowBatch, two: WindowBatch) -> None:
    others = arrays(two)
    for name, value in arrays(one).items():
        assert np.array_equal(value, others[name]), name


def test_batches_do_not_depend_on_threads_and_resume_at_any_step(windows):
    plain = list(itertools.islice(Loader(windows, 7, seed=3).iterate(), 30))
    for threads in (1, 3):
        iterator = Loader(windows, 7, seed=3, threads=threads).iterate()
        for one, two in zip(plain, iterator, strict=False):
            assert_same(one, two)
        iterator.close()
    resumed = Loader(windows, 7, seed=3, threads=2).iterate(start=19)
    for one, two in zip(plain[19:], resumed, strict=False):
        assert_same(one, two)
    resumed.close()


def test_ranks_share_one_batch_however_many_they_are(windows):
    whole = Loader(windows, 12, seed=1).batch(5)
    for world in (2, 3, 4):
        parts = [Loader(windows, 12, seed=1, rank=rank, world=world).batch(5) for rank in range(world)]
        assert_same(whole, WindowBatch.concatenate(parts))


def test_an_epoch_shows_every_window_once_in_an_order_of_the_seed(windows):
    loader, size = Loader(windows, 8, seed=0), len(windows)
    order = np.concatenate([loader.indices(step) for step in range(2 * size // 8 + 1)])
    for epoch in (order[:size], order[size : 2 * size]):
        assert sorted(epoch.tolist()) == list(range(size))
    assert order[:size].tolist() != order[size : 2 * size].tolist()
    assert Loader(windows, 8, seed=1).indices(0).tolist() != loader.indices(0).tolist()
    assert Loader(windows, 8, seed=0).indices(9).tolist() == loader.indices(9).tolist()  # asked out of order


def test_a_batch_larger_than_the_dataset(windows):
    batch = Loader(windows, 3 * len(windows), seed=0).batch(0)
    assert np.bincount(batch.index).tolist() == [3] * len(windows)


def test_a_mixture_takes_its_shares_and_deals_each_source_evenly(written, spec, make, tmp_path, windows):
    with DatasetWriter(tmp_path / "d", spec) as writer:
        writer.save_episode(make(11))
    few = Windows(open_dataset(tmp_path / "d"), WindowConfig(history=2, chunk=3, relabel=0.5, labels=("keypoints", "steps_left")))
    mixture = Mixture((windows, few), (1.0, 3.0))
    deck = mixture.deck(np.random.default_rng(0))
    counts = np.bincount(deck, minlength=len(mixture))
    assert counts[len(windows) :].sum() == round(0.75 * len(mixture))
    assert np.ptp(counts[len(windows) :]) <= 1 and counts[: len(windows)].max() == 1
    draws = np.random.default_rng(1).random((len(mixture), 3))
    order = np.random.default_rng(2).permutation(len(mixture))
    both = mixture.gather(order, draws[order]).take(np.argsort(order))
    assert both.index.tolist() == list(range(len(mixture)))
    first, second = (
        windows.gather(np.arange(len(windows)), draws[: len(windows)]),
        few.gather(np.arange(6), draws[len(windows) :]),
    )
    assert_same(dataclasses.replace(both, index=np.r_[first.index, second.index]), WindowBatch.concatenate([first, second]))
    assert sorted(Mixture((windows, few)).deck(np.random.default_rng(0)).tolist()) == list(range(len(mixture)))


def test_sources_that_differ_cannot_be_mixed(windows, written):
    with pytest.raises(ConfigError, match=r"differ in \(history, chunk, stride, sequence, goals, previous_action, cameras"):
        Mixture((windows, Windows(open_dataset(written), WindowConfig(history=1, chunk=3))))
    with pytest.raises(ConfigError, match="needs as many weights"):
        Mixture((windows,), (1.0, 2.0))
    with pytest.raises(ConfigError, match="at least one source"):
        Mixture(())


def test_a_batch_that_cannot_be_shared_is_refused(windows):
    with pytest.raises(ConfigError, match="a batch of 8 cannot be shared by 3 processes"):
        Loader(windows, 8, world=3)


def test_the_dataset_may_lie_elsewhere(written, tmp_path, windows):
    shutil.copytree(written, tmp_path / "moved")
    moved = Windows(
        open_dataset(tmp_path / "moved"), WindowConfig(history=2, chunk=3, relabel=0.5, labels=("keypoints", "steps_left"))
    )
    assert_same(Loader(moved, 6).batch(2), Loader(windows, 6).batch(2))


def test_a_rank_reads_nothing_but_its_part(windows, monkeypatch):
    asked = []
    genuine = Windows.gather
    monkeypatch.setattr(Windows, "gather", lambda self, indices, draws: asked.append(indices) or genuine(self, indices, draws))
    ranks = [Loader(windows, 12, seed=2, rank=rank, world=3) for rank in range(3)]
    for loader in ranks:
        loader.batch(5)
    assert [len(part) for part in asked] == [4, 4, 4]
    assert np.concatenate(asked).tolist() == ranks[0].indices(5).tolist()


def test_other_episodes_of_the_same_recording_are_held_but_once(written):
    dataset = open_dataset(written)
    some = Windows(dataset, WindowConfig(chunk=3), episodes=[0, 1]).choosing([0], relabel=0.5, grounding_queries=2)
    others = some.choosing([1])
    assert_same(
        others.batch([0, 3], np.random.default_rng(0)),
        Windows(dataset, WindowConfig(chunk=3), episodes=[1]).batch([0, 3], np.random.default_rng(0)),
    )
    assert others._tables is some._tables and len(some) == len(dataset[0])
    with pytest.raises(ConfigError, match="these windows are not of episode 2: name it when they are created"):
        some.choosing([0, 2])
