"""Weights shared out over processes teach the same network, and a checkpoint of any share-out is read by any other."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from test_distributed import together
from test_loop import losses
from toys import PLAIN, changed, toy_config

from verbot.errors import CheckpointWarning, ConfigError, CorruptFileError
from verbot.models.network import Part
from verbot.policy.policy import VLAPolicy
from verbot.training import checkpoint, train_policy
from verbot.training.checkpoint import TrainingProgress
from verbot.training.distributed.fsdp import check_sharding
from verbot.training.distributed.shards import Shard

LAYOUT = {"blocks.weight": [5, 3], "tall": [7, 2], "one": [1, 4], "bias": [5], "single": [1]}
NUMBERS = sum(torch.Size(shape).numel() for shape in LAYOUT.values())


def test_shares_are_those_of_chunks_of_rows_and_leave_nothing_out():
    whole = torch.arange(float(NUMBERS))
    for size in (1, 2, 3, 8):
        parts = []
        for rank in range(size):
            start = 0
            for (first, last), shape in zip(Shard(rank, size).spans(LAYOUT), LAYOUT.values(), strict=True):
                count = torch.Size(shape).numel()
                chunks = whole[start : start + count].view(shape).chunk(size)
                expected = chunks[rank].flatten() if rank < len(chunks) else torch.empty(0)
                assert torch.equal(whole[first:last], expected)
                parts.append((first, last))
                start += count
        filled = sorted(part for part in parts if part[0] < part[1])
        assert filled[0][0] == 0 and filled[-1][1] == NUMBERS
        assert all(before[1] == after[0] for before, after in itertools.pairwise(filled))


def written(folder, size: int, step: int = 4) -> dict[str, torch.Tensor]:
    """A checkpoint by `size` members; what it holds in whole."""
    vectors = {"weights": torch.arange(float(NUMBERS)), "average": -torch.arange(float(NUMBERS))}
    everybody = {"updates": torch.tensor(step), "buffer.mean": torch.tensor([1.5])}

    def write(process_group):
        spans = Shard(process_group.rank, process_group.size).spans(LAYOUT)
        mine = {name: torch.cat([vector[a:b] for a, b in spans]) for name, vector in vectors.items()}
        checkpoint.save_shares(folder, TrainingProgress(step=step, layout=LAYOUT), mine | everybody, process_group)

    together(size, write)
    return vectors | everybody


@pytest.mark.parametrize("writers", [1, 2, 3, 8])
def test_what_some_wrote_any_others_read(tmp_path, writers):
    whole = written(tmp_path, writers)
    progress, tensors = checkpoint.load_latest(tmp_path)
    assert progress == TrainingProgress(step=4, layout=LAYOUT)
    assert tensors.keys() == whole.keys() and all(torch.equal(tensors[name], whole[name]) for name in whole)
    for readers in (1, 2, 5):
        for rank in range(readers):
            share = Shard(rank, readers)
            _, tensors = checkpoint.load_latest(tmp_path, share)
            for name in ("weights", "average"):
                assert torch.equal(tensors[name], torch.cat([whole[name][a:b] for a, b in share.spans(LAYOUT)]))
            assert torch.equal(tensors["updates"], whole["updates"])


def test_what_one_wrote_in_whole_is_shared_out(tmp_path):
    weights = torch.arange(float(NUMBERS))
    checkpoint.save(tmp_path, TrainingProgress(step=4, layout=LAYOUT), {"weights": weights, "updates": torch.tensor(4)})
    _, tensors = checkpoint.load_latest(tmp_path, Shard(1, 2))
    assert torch.equal(tensors["weights"], torch.cat([weights[a:b] for a, b in Shard(1, 2).spans(LAYOUT)]))


def test_a_damaged_share_is_named_and_the_checkpoint_before_it_taken(tmp_path):
    written(tmp_path, 2, step=2)
    written(tmp_path, 2, step=4)
    broken = tmp_path / "step-00000004" / Shard(1, 2).file
    content = bytearray(broken.read_bytes())
    content[-1] ^= 255
    broken.write_bytes(content)
    with pytest.raises(CorruptFileError, match="shard-00002-of-00002.*sha256"):
        checkpoint.load(broken.parent)
    with pytest.warns(CheckpointWarning, match="goes on from step 2: 2 steps are repeated"):
        assert checkpoint.load_latest(tmp_path)[0].step == 2
    assert checkpoint.load_latest(tmp_path, Shard(0, 2))[0].step == 4, "what is not read is not verified"

    with pytest.warns(CheckpointWarning):
        steps = together(
            2, lambda process_group: checkpoint.load_latest(tmp_path, Shard(process_group.rank, 2), process_group)[0].step
        )
    assert steps == [2, 2], "who could read on does as the one who cannot"


@pytest.fixture(scope="module")
def blocks(toy):
    """A run whose fusion is of transformer blocks; chunks of one action, so that halves of a batch weigh alike."""
    fusion = Part("concat", {"layers": 2, "hidden": 0})
    base = toy_config(toy, steps=6, batch_size=8, augment=PLAIN, keep="best", checkpoint_every=3, clip_norm=1e9)
    return changed(base, network=changed(base.network, chunk=1, fusion=fusion))


@pytest.fixture(scope="module")
def alone(blocks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    train_policy(blocks, folder, progress=False)
    return folder


def weights(folder) -> dict[str, torch.Tensor]:
    return VLAPolicy.load(folder / "policy").network.state_dict()


def close(one, other) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.allclose(a[name], b[name], rtol=2e-3, atol=2e-4) for name in a)


def test_a_share_of_all_is_the_whole_to_the_bit(blocks, alone, tmp_path):
    train_policy(changed(blocks, parallel="fsdp"), tmp_path, progress=False)
    assert losses(tmp_path) == losses(alone)
    ours, theirs = weights(tmp_path), weights(alone)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_two_shares_learn_as_one_process_does_and_go_on_as_one_and_back(blocks, alone, tmp_path):
    shared = changed(blocks, parallel="fsdp", processes=2)
    train_policy(shared, tmp_path, progress=False, stop_at=3)
    saved = checkpoint.found(tmp_path / "checkpoints")[-1]
    assert sorted(json.loads((saved / "progress.json").read_text())["files"]) == [Shard(0, 2).file, Shard(1, 2).file]
    assert not list(saved.glob("tensors*"))
    train_policy(blocks, tmp_path, progress=False, stop_at=5)
    assert (checkpoint.found(tmp_path / "checkpoints")[-1] / "tensors.safetensors").is_file()
    result = train_policy(shared, tmp_path, progress=False)
    assert (result.steps, result.finished) == (6, True)
    assert losses(tmp_path) == pytest.approx(losses(alone), rel=1e-4)
    assert close(tmp_path, alone)


def test_where_weights_cannot_be_shared_out_is_said():
    with pytest.raises(ConfigError, match="needs gloo or nccl.*'mps': use parallel=data"):
        check_sharding(torch.device("mps"))
