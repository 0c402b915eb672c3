"""The log survives a kill, and TensorBoard is written only where it is installed."""

from __future__ import annotations

import sys
import types

from verbot.training import log, read_log
from verbot.training.log import Log


def test_records_after_the_checkpoint_and_half_lines_are_dropped(tmp_path):
    with Log(tmp_path, 0, 10, show=False) as book:
        for step in (1, 2, 3):
            book.record("train", step, loss=0.5 / step)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    with Log(tmp_path, 2, 10, show=False) as book:
        book.record("train", 3, loss=9.0)
    assert [(line["step"], line["loss"]) for line in read_log(tmp_path)] == [(1, 0.5), (2, 0.25), (3, 9.0)]


def test_a_rank_worker_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Log(None, 0, 10, show=True) as book:
        book.record("train", 1, loss=1.0)
        book.advance(1, 10, "")
    assert list(tmp_path.iterdir()) == []


def test_numbers_go_to_tensorboard_where_it_is_installed(tmp_path, monkeypatch):
    written = []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            written.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def close(self):
            written.append("closed")

    board = types.ModuleType("torch.utils.tensorboard")
    board.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    monkeypatch.setattr(log.importlib.util, "find_spec", lambda name: object())
    with Log(tmp_path, 4, 10, show=False) as book:
        book.record("train", 5, loss=1.5, note="words")
    assert written == [(str(tmp_path / "tensorboard"), 5), ("train/loss", 1.5, 5), "closed"]
