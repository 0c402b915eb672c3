"""The log of a run: JSON lines, TensorBoard if it is installed, and a progress line."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from verbot.files import LineLog, read_lines, write_atomic
from verbot.parallel.progress import Progress

LOG = "log.jsonl"
BUSY = "another process trains here; wait for it, or choose another folder"


class Log:
    """``log.jsonl`` and, if TensorBoard is installed, ``tensorboard/`` in `out`.

    Args:
        out: the run's folder; None writes nothing (in ranks other than 0).
        step: current step; later records, of an interrupted session, are removed.
        show: show the progress line.
    """

    def __init__(self, out: Path | None, step: int, total: int | None, show: bool):
        self._file: LineLog | None = None
        self._board: Any = None
        self._progress = Progress("train", total, "steps", step, show and out is not None)
        if out is not None:
            path = out / LOG
            keep = [line for line in _lines(path) if line["step"] <= step]
            write_atomic(path, "".join(json.dumps(line) + "\n" for line in keep))
            self._file, self._board = LineLog(path), _board(out / "tensorboard", step)

    def __enter__(self) -> Log:
        self._progress.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.__exit__(*error)
        for writer in (self._file, self._board):
            if writer is not None:
                writer.close()

    def record(self, kind: str, step: int, **values: float | int | str | None) -> None:
        """One line ``{"kind":…, "step":…, **values}``; numbers go to TensorBoard as ``kind/name``."""
        if self._file is not None:
            self._file.append(json.dumps({"kind": kind, "step": step, **values}))
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self._board.add_scalar(f"{kind}/{name}", value, step)

    def advance(self, step: int, total: int | None, note: str) -> None:
        self._progress.update(step, note, total)


def read_log(out: str | Path) -> list[dict[str, Any]]:
    """All records of a run, oldest first."""
    return _lines(Path(out) / LOG)


def _lines(path: Path) -> list[dict[str, Any]]:
    """All complete records; only the last line can be incomplete."""
    found = []
    for line in read_lines(path):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            break
        found.append(record)
    return found


def _board(folder: Path, step: int) -> Any:
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1)
