"""Every command that writes, on a disk that is full: one line, exit 2, and no traceback; with room it then goes on.

A full disk is a limit on the size of files (RLIMIT_FSIZE), which also reaches libraries that write in C: each command runs in a
forked process under each limit, then without one. Prints one JSON record, and a line for each wrong end on stderr.

Example:
    python experiments/reliability/full_disk.py --commands train export lint --out full_disk.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

LIMITS = (0, 100, 1_000, 4_000, 16_000, 64_000, 256_000)  # bytes
LIMIT_S = 240


def commands(scratch: Path, out: Path) -> dict[str, list[str]]:
    """The command lines by name. Those that change a dataset get a copy of it in `out`."""
    data, copy, starter = str(scratch / "dataset"), str(out / "copy"), ["--workers", "1"]
    words = scratch / "words.json"
    words.write_text(json.dumps({"0": ["put it there"]}))
    lean = ["--no-baselines", "--episodes", "1", "--videos", "1", *starter]
    return {
        "collect": ["collect", str(out / "new"), "--episodes", "1", "--image-size", "32", *starter],
        "train": ["train", "tiny", "--data", data, "--steps", "3", "--out", str(out / "run")],
        "evaluate": ["evaluate", "expert", "--out", str(out / "evaluation"), *lean],
        "watch": ["watch", "pick up the red cube", "--out", str(out / "watch.mp4")],
        "watch gif": ["watch", "pick up the red cube", "--out", str(out / "watch.gif")],
        "compare": [
            "compare",
            "expert",
            "random",
            "--episodes",
            "1",
            "--out",
            str(out / "compare"),
            "--conditions",
            "counterfactual",
        ],
        "export": ["data", "export", data, str(out / "data.hdf5")],
        "import": ["data", "import", str(scratch / "source.hdf5"), str(out / "imported")],
        "edit": ["data", "edit", copy, "--delete", "0"],
        "edit out": ["data", "edit", data, "--delete", "0", "--out", str(out / "edited")],
        "annotate": ["data", "annotate", copy, "--instructions", str(words)],
        "annotate out": ["data", "annotate", data, "--instructions", str(words), "--out", str(out / "annotated")],
        "lint": ["data", "lint", data, "--out", str(out / "lint")],
        "view": ["data", "view", data, "--out", str(out / "view.mp4")],
    }


def forked(work: Callable[[], Any]) -> tuple[int, str]:
    """The exit code of the work in a child, and what it printed on stderr."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.setpgid(0, 0)
            signal.alarm(LIMIT_S)
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(writing, 2)
            work()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 70
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(writing)
    with open(reading, encoding="utf-8", errors="replace") as pipe:
        text = pipe.read()
    status = os.waitpid(child, 0)[1]
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(status), text


def called(arguments: Sequence[str], limit: int | None) -> tuple[int, str]:
    from verbot.cli import main

    def work() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        main(arguments)

    return forked(work)


def verdict(code: int, text: str) -> str:
    """How a command ended: ``done``, ``refused`` with a line, or what is wrong."""
    found = re.findall(r"(.*)\n?Traceback \(most recent call last\)", text)
    if any("Exception ignored in" not in before for before in found):  # h5py prints those when it closes a file
        return "traceback"
    if code in (0, 1):
        return "done"
    return "refused" if code == 2 and "verbot: " in text else f"exit {code}"


def measure(scratch: Path, names: Sequence[str], limits: Sequence[int]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for name in names:
        ends: dict[str, int] = {}
        for limit in limits:
            out = scratch / "out"
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            shutil.copytree(scratch / "dataset", out / "copy")
            line = commands(scratch, out)[name]
            code, text = called(line, limit)
            end = verdict(code, text)
            if end == "refused" and (again := verdict(*called(line, None))) != "done":
                end = f"then {again}"
            ends[end] = ends.get(end, 0) + 1
            if end not in ("done", "refused"):
                print(f"full_disk: {name} with files of {limit} bytes: {end}\n{text[-1500:]}", file=sys.stderr, flush=True)
        found[name] = ends
        print(f"full_disk: {name}: {ends}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = tuple(commands(Path(tempfile.gettempdir()), Path("out")))
    parser.add_argument("--commands", nargs="+", choices=every, default=every)
    parser.add_argument("--limits", nargs="+", type=int, default=LIMITS, help="sizes of files in bytes")
    parser.add_argument("--seed", type=int, default=0, help="unused: nothing here is random")
    parser.add_argument("--out", type=Path, help="also write the record there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder).resolve()
        small = ["--episodes", "2", "--image-size", "32", "--workers", "1"]
        for line in (["collect", str(scratch / "dataset"), *small],
                     ["data", "export", str(scratch / "dataset"), str(scratch / "source.hdf5")]):  # fmt: skip
            code, text = called(line, None)
            if code:
                sys.exit(f"full_disk: {' '.join(line)} failed with room: {text}")
        found = measure(scratch, arguments.commands, arguments.limits)
    counts = {key: sum(ends.get(key, 0) for ends in found.values()) for key in ("done", "refused", "traceback")}
    count = sum(sum(ends.values()) for ends in found.values())
    record = {
        "test": "commands on a full disk",
        "count": count,
        **counts,
        "other": count - sum(counts.values()),
        "commands": found,
    }
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(record) + "\n")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
