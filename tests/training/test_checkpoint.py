"""A checkpoint is whole or not there, and damage is named."""

from __future__ import annotations

import json
import warnings

import pytest
import torch

from verbot.errors import CheckpointWarning, CorruptFileError, UnwritableError
from verbot.files import sha256
from verbot.training import checkpoint
from verbot.training.checkpoint import TrainingProgress
from verbot.training.distributed.shards import Shard


def write(folder, step, value=1.0):
    progress = TrainingProgress(step=step, total=10, layout={"w": [3]})
    return checkpoint.save(folder, progress, {"weights": torch.full((3,), value), "updates": torch.tensor(2.0)})


def test_what_was_saved_is_loaded(tmp_path):
    progress, tensors = checkpoint.load(write(tmp_path, 4))
    assert progress == TrainingProgress(step=4, total=10, layout={"w": [3]})
    assert torch.equal(tensors["weights"], torch.ones(3))
    assert float(tensors["updates"]) == 2.0


def test_the_newest_two_are_kept_and_drafts_are_nothing(tmp_path):
    for step in (2, 4, 6):
        write(tmp_path, step)
    (tmp_path / ".step-00000008.tmp").mkdir()
    (tmp_path / "step-00000009").mkdir()  # without its progress.json it never happened
    assert [path.name for path in checkpoint.found(tmp_path)] == ["step-00000004", "step-00000006"]
    with pytest.warns(CheckpointWarning, match="step-00000009/progress.json: cannot be read"):
        assert checkpoint.load_latest(tmp_path)[0].step == 6
    assert checkpoint.load_latest(tmp_path / "nowhere") is None


def test_a_step_can_be_saved_again(tmp_path):
    write(tmp_path, 4)
    write(tmp_path, 4, value=7.0)
    assert float(checkpoint.load_latest(tmp_path)[1]["weights"][0]) == 7.0


@pytest.mark.parametrize("name", ["tensors.safetensors", "progress.json"])
def test_a_damaged_one_is_passed_over_for_the_one_before(tmp_path, name):
    write(tmp_path, 2)
    newest = write(tmp_path, 4)
    content = bytearray((newest / name).read_bytes())
    content[len(content) // 2] ^= 255
    (newest / name).write_bytes(content)
    with pytest.raises(CorruptFileError, match="step-00000004"):
        checkpoint.load(newest)
    passed_over = []
    with pytest.warns(CheckpointWarning, match=r"the newest checkpoint is damaged .*; training goes on from step 2: 2 steps are"):
        assert checkpoint.load_latest(tmp_path, passed_over=passed_over)[0].step == 2
    assert len(passed_over) == 1 and "step-00000004" in passed_over[0]


def test_no_sound_one_among_several_is_an_error(tmp_path):
    path = write(tmp_path, 2)
    (path / "tensors.safetensors").write_bytes(b"")
    with pytest.raises(CorruptFileError, match="sha256"):
        checkpoint.load_latest(tmp_path)


def test_of_damaged_ones_alone_the_newest_is_named_though_it_lacks_its_record(tmp_path):
    """Training must not begin anew, in silence, beside checkpoints that a person could mend."""
    for step in (2, 4):
        (write(tmp_path, step) / "progress.json").unlink()
    (tmp_path / "step-00000009").mkdir()
    (tmp_path / "step-foo").write_text("a person's")
    with pytest.raises(CorruptFileError, match="step-00000004/progress.json: cannot be read"):
        checkpoint.load_latest(tmp_path)


def test_an_empty_folder_and_files_of_a_person_are_no_checkpoints(tmp_path):
    (tmp_path / "step-00000009").mkdir()
    (tmp_path / "step-foo").write_text("a person's")
    assert checkpoint.load_latest(tmp_path) is None
    (tmp_path / "step-00000009").rmdir()
    write(tmp_path, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoint.load_latest(tmp_path)[0].step == 4


def test_tensors_that_are_none_though_their_checksum_holds_are_damage(tmp_path):
    path = write(tmp_path, 4)
    for content in (b"", b"\xff" * 64, b"\2\0\0\0\0\0\0\0{}x"):
        (path / "tensors.safetensors").write_bytes(content)
        record = json.loads((path / "progress.json").read_bytes()) | {"sha256": sha256(content)}
        (path / "progress.json").write_text(json.dumps(record))
        for shard in (None, Shard()):
            with pytest.raises(CorruptFileError, match="step-00000004"):
                checkpoint.load(path, shard)


def test_shares_that_cannot_be_written_are_one_error(tmp_path):
    (tmp_path / "run").write_text("a file where the folder should be")
    with pytest.raises(UnwritableError, match="run/step-00000004 cannot be written"):
        checkpoint.save_shares(tmp_path / "run", TrainingProgress(step=4, layout={"w": [3]}), {"weights": torch.ones(3)}, Alone())


class Alone:
    """A group of one process."""

    rank, size, is_main = 0, 1, True

    def broadcast(self):
        """There is nobody to wait for."""


def test_the_share_done_follows_a_changing_total_smoothly():
    now = TrainingProgress(total=10)
    shares = []
    for step in range(16):
        if step == 4:
            now.total = 16  # faster than thought
        now.advance()
        shares.append(now.done)
    assert shares[:4] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert shares[4:] == pytest.approx([0.4 + 0.05 * (i + 1) for i in range(12)])
    waiting = TrainingProgress()
    waiting.advance()
    assert (waiting.step, waiting.done) == (1, 0.0)


@pytest.mark.parametrize(
    "change", [{"step": "4"}, {"step": -1}, {"more": 1}, {"layout": [1]}, {"total": [1]}, {"done": None, "best": "x"}]
)
def test_a_field_that_is_not_as_it_should_be_is_damage(tmp_path, change):
    path = write(tmp_path, 4)
    record = json.loads((path / "progress.json").read_text())
    (path / "progress.json").write_text(json.dumps({**record, **change}))
    with pytest.raises(CorruptFileError, match="step-00000004"):
        checkpoint.load(path)
