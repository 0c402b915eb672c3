"""Hostile command lines: every option of every command with values that are wrong, and files that are none.

Run it as ``python experiments/reliability/command_lines.py --out command_lines.json``. The lines follow from the commands'
signatures, the fields of the recipes and `--seed`. Each runs in a child forked from a process that has imported everything, with
limits of time and memory. One JSON record says how many ended as they should (`good`), with a traceback, by a signal, in a hang,
with raw control characters on stderr, with an exit code 2 that says nothing, or by accepting a value that means nothing; `cases`
holds every line that did not.
"""

from __future__ import annotations

import os

os.environ.setdefault("LP_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import dataclasses
import json
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import typing
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hostile_values as hostile
from hostile_values import Case

SERVING = ("teleop", "data annotate")  # they show a page until a person quits
MEMORY = 3 << 30


def cases(root: Path, seed: int) -> list[Case]:
    """Every command line, in an order that `seed` shuffles."""
    found = [*_options(root), *hostile.settings(root), *hostile.files(root), *hostile.by_hand(root)]
    random.Random(seed).shuffle(found)
    return found


def _options(root: Path) -> Iterator[Case]:
    """Each option of each command with values for its type."""
    from verbot.cli import COMMANDS
    from verbot.registry import options_of

    for name, command in COMMANDS.items():
        base = hostile.base_line(name, root)
        hints = _hints(command)
        for option in options_of(command):
            if option not in hints or option in hostile.NOT_TRIED.get(name, ()):
                continue
            flag = f"--{option.replace('_', '-')}"
            for value, wrong in hostile.values(hints[option], option, root):
                yield Case(name, hostile.with_option(base, flag, value), wrong, f"{name} {flag}")
        if "POSITIONAL" in base:
            for value, _ in hostile.values(Path, "source", root):
                yield Case(name, [value[0] if word == "POSITIONAL" else word for word in base], False, f"{name} positional")


def _hints(command: Any) -> dict[str, Any]:
    """Option name to type; the fields of records stand for the records."""
    found: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(command).items():
        if dataclasses.is_dataclass(hint):
            found |= typing.get_type_hints(hint)
        elif name != "return" and "Positional" not in str(typing.get_type_hints(command, include_extras=True)[name]):
            found[name] = hint
    return found


def run(case: Case, root: Path, limit_s: float) -> dict[str, Any]:
    """What one line does in a forked child."""
    work = Path(tempfile.mkdtemp(dir=root / "work"))
    words = [case.command.split(), [word.replace("{out}", str(work / "out")) for word in case.arguments]]
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        run_child([*words[0], *words[1]], work)
    ended, status = wait(child, limit_s)
    seconds = time.monotonic() - started
    orphans = end_group(child)
    output = b"".join((work / name).read_bytes() for name in ("stdout", "stderr") if (work / name).exists())
    shutil.rmtree(work, ignore_errors=True)
    kind = _judge(case, ended, status, output)
    return {"kind": kind, "case": case.about, "line": [*words[0], *case.arguments], "seconds": round(seconds, 1),
            "orphans": orphans, "output": output[-1500:].decode("utf-8", "backslashreplace")}  # fmt: skip


def run_child(arguments: list[str], work: Path) -> typing.NoReturn:
    """In a forked child: run the command in a session of its own; its output goes into files of `work`."""
    code = 70
    try:
        os.setsid()
        os.chdir(work)
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT, 0o644), number)
        sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115
        soft = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (soft + MEMORY, soft + MEMORY))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        from verbot.cli import main

        os.environ["VERBOT_CACHE"] = str(work / "cache")
        sys.argv = ["verbot", *arguments]
        main(arguments)
        code = 0
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else 0 if stopped.code is None else 1
    except BaseException:
        traceback.print_exc()
        code = 71
    finally:
        with_stream = (sys.stdout, sys.stderr)
        for stream in with_stream:
            try:
                stream.flush()
            except Exception:
                code = 71
        os._exit(code)


def wait(child: int, limit_s: float) -> tuple[bool, int]:
    """Whether the child ended in time, and its status; otherwise its group is killed."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return True, status
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    return False, os.waitpid(child, 0)[1]


def end_group(group: int) -> int:
    """The number of processes that the command left; they are ended."""
    left = 0
    for _ in range(100):  # workers notice within a second that their pipe has closed
        left = sum(_in_session(path, group) for path in Path("/proc").iterdir() if path.name.isdecimal())
        if not left:
            return 0
        time.sleep(0.05)
    os.killpg(group, signal.SIGKILL)
    return left


def _in_session(path: Path, session: int) -> bool:
    try:
        fields = (path / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] != "Z" and int(fields[3]) == session


def _judge(case: Case, ended: bool, status: int, output: bytes) -> str:
    if b"Traceback (most recent call last)" in output:
        return "traceback"
    if any(sign in output for sign in (b"\x1b", b"\x07", b"\xc2\x9b", "\u202e".encode())):
        return "raw control characters"
    if not ended:
        serves = case.command in SERVING and b"open http" in output
        return ("nonsense accepted" if case.wrong else "good") if serves else "hang"
    if os.WIFSIGNALED(status):
        return f"signal {os.WTERMSIG(status)}"
    code = os.WEXITSTATUS(status)
    if code in (70, 71):
        return "traceback"
    if code == 0 and case.wrong:
        return "nonsense accepted"
    if code == 2:
        lines = [line for line in output.decode("utf-8", "replace").splitlines() if line.strip()]
        said = any(line.startswith("verbot: ") or "For full helptext" in line for line in lines)
        return "good" if said else "says nothing"
    return "good" if code in (0, 1) else f"exit {code}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="Example: python experiments/reliability/command_lines.py --out lines.json"
    )
    parser.add_argument("--out", type=Path, help="a file for the record, beside stdout")
    parser.add_argument("--seed", type=int, default=0, help="of the order")
    parser.add_argument("--limit-s", type=float, default=40.0, help="seconds for one line; teleop and annotate: a tenth")
    parser.add_argument("--count", type=int, help="only the first so many lines")
    parser.add_argument("--only", default="", help="only lines whose option contains this")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = hostile.prepared(Path(folder))
        lines = [case for case in cases(root, options.seed) if options.only in case.about][: options.count]
        found = []
        for number, case in enumerate(lines):
            found.append(run(case, root, options.limit_s / (10 if case.command in SERVING else 1)))
            if sys.stderr.isatty() or number % 100 == 99:
                print(f"{number + 1}/{len(lines)} {Counter(each['kind'] for each in found)}", file=sys.stderr, flush=True)
    bad = [each for each in found if each["kind"] != "good" or each["orphans"]]
    record = {"test": "command lines", "count": len(found), "seed": options.seed, **Counter(each["kind"] for each in found),
              "orphans": sum(each["orphans"] for each in found), "cases": bad}  # fmt: skip
    text = json.dumps(record, indent=1)
    if options.out:
        options.out.write_text(text + "\n")
    print(json.dumps({name: value for name, value in record.items() if name != "cases"}))


if __name__ == "__main__":
    main()
