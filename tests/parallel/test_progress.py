"""The rate of the progress line counts only this call's work."""

from __future__ import annotations

from verbot.parallel import progress
from verbot.parallel.progress import Progress


def test_the_text_has_count_rate_time_left_and_note(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("collect", 400, "episodes", done=100, enabled=False) as bar:
        now[0] += 10
        bar.update(200, "2 failed")
        assert bar.text() == "200/400 episodes, 10/s, 0:20 left, 2 failed"
        bar.update(200, total=40_200)
        assert bar.text() == "200/40200 episodes, 10/s, 1:06:40 left"


def test_without_a_terminal_lines_are_printed_at_intervals(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("train", None, "steps") as bar:
        for step in range(1, 41):
            now[0] += 1
            bar.update(step)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["train: 16 steps, 1/s", "train: 32 steps, 1/s", "train: 40 steps, 1/s"]


def test_a_total_that_was_estimated_too_low_never_counts_backward(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("train", 1000, "steps", enabled=False) as bar:
        now[0] += 10
        bar.update(1100)
        assert bar.text() == "1100/1100 steps, 110/s, 0:00 left"
