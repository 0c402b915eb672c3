"""SIGTERM, SIGHUP and SIGINT in the middle of each long command, sent to its process or, as a terminal does, to its group.

Run it as ``python experiments/reliability/stopping.py --out stopping.json``. A command runs in a child forked from a process that
has imported everything, in a session of its own. Right is: exit code 128 + n within `--limit-s`, no traceback, one line that
begins with ``verbot:``, no process left, what was saved is kept, and the same command goes on.
"""

from __future__ import annotations

import os

os.environ.setdefault("LP_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import command_lines
import hostile_values as hostile

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


@dataclass(frozen=True)
class Long:
    """A command that runs for long, and whether it has started its work in the folder `out`."""

    name: str
    arguments: list[str]
    started: Callable[[Path], bool]
    saved: Callable[[Path], bool]


def commands(root: Path) -> list[Long]:
    data, policy = str(root / "dataset"), str(root / "run" / "policy")

    def steps(out: Path) -> bool:
        return (out / "log.jsonl").is_file() and "train" in (out / "log.jsonl").read_text()

    def updates(out: Path) -> bool:
        return (out / "log.jsonl").is_file() and "reinforce" in (out / "log.jsonl").read_text()

    def checkpoint(out: Path) -> bool:
        return any(out.glob("checkpoints/step-*/progress.json")) or (out / "checkpoint.safetensors").is_file()

    def episodes(out: Path) -> bool:
        return len(list(out.rglob("*.parquet"))) + len(list(out.rglob("*journal*/*"))) > 1

    def results(out: Path) -> bool:
        return (out / "results.jsonl").is_file() and (out / "results.jsonl").stat().st_size > 0

    line = ["train", "tiny", "--data", data, "--steps", "1000000", "--out", "{out}", "--set", "log_every=5"]
    reinforce = [
        "train",
        "navigation-ppo",
        "--out",
        "{out}",
        "--steps",
        "10000000",
        "--set",
        "num_envs=2",
        "num_steps=16",
        "batch_size=32",
    ]
    return [
        Long("train", [*line, "checkpoint_every=1000000"], steps, checkpoint),
        Long("train, two processes", [*line, "checkpoint_every=1000000", "processes=2"], steps, checkpoint),
        Long("train by rewards", reinforce, updates, checkpoint),
        Long("collect", ["collect", "{out}", "--episodes", "10000", "--workers", "2"], episodes, episodes),
        Long("evaluate", ["evaluate", policy, "--episodes", "10000", "--out", "{out}", "--workers", "1"], results, results),
        Long("robustness", ["robustness", "random", "--episodes", "10000", "--out", "{out}"],
             lambda out: results(out / "random"), lambda out: results(out / "random")),
        Long("demo", ["demo", "--recipe", "starter", "--out", "{out}"],
             lambda out: episodes(out / "dataset"), lambda out: episodes(out / "dataset")),
    ]  # fmt: skip


def stop(long: Long, number: int, group: bool, root: Path, limit_s: float) -> dict[str, Any]:
    """Start the command, send the signal once it has started, and see how it ends."""
    work = Path(tempfile.mkdtemp(dir=root / "work"))
    out = work / "out"
    child = os.fork()
    if child == 0:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL if each != signal.SIGINT else signal.default_int_handler)
        command_lines.run_child([word.replace("{out}", str(out)) for word in long.arguments], work)
    until = time.monotonic() + 120
    while not long.started(out) and time.monotonic() < until and not os.waitpid(child, os.WNOHANG)[0]:
        time.sleep(0.1)
    sent = time.monotonic()
    (os.killpg if group else os.kill)(child, number)
    ended, status = command_lines.wait(child, limit_s)
    seconds = time.monotonic() - sent
    orphans = command_lines.end_group(child)
    output = (work / "stderr").read_text(errors="replace")
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
    lines = [text for text in output.splitlines() if text.startswith("verbot: ")]
    wrong = {"no end": not ended, "exit code": code != 128 + number, "traceback": "Traceback" in output, "lines": len(lines) != 1,
             "orphans": orphans > 0, "nothing saved": not long.saved(out)}  # fmt: skip
    shutil.rmtree(work, ignore_errors=True)
    about = {"command": long.name, "signal": signal.Signals(number).name, "to": "group" if group else "process"}
    found = [name for name, holds in wrong.items() if holds]
    return {**about, "code": code, "seconds": round(seconds, 1), "line": lines[:1], "wrong": found}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="Example: python experiments/reliability/stopping.py --out stopping.json"
    )
    parser.add_argument("--out", type=Path, help="a file for the record, beside stdout")
    parser.add_argument("--seed", type=int, default=0, help="not used: every combination is tried")
    parser.add_argument("--limit-s", type=float, default=15.0, help="seconds within which a command ends")
    parser.add_argument("--only", default="", help="only commands whose name contains this")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = hostile.prepared(Path(folder))
        found = []
        for long in commands(root):
            for number in SIGNALS if options.only in long.name else ():
                for group in (False, True):
                    found.append(stop(long, number, group, root, options.limit_s))
                    print(found[-1], file=sys.stderr, flush=True)
    wrong = [each for each in found if each["wrong"]]
    record = {"test": "signals", "count": len(found), "wrong": len(wrong), "slowest_s": max(each["seconds"] for each in found)}
    if options.out:
        options.out.write_text(json.dumps(record | {"runs": found}, indent=1) + "\n")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
