"""Kill -9 at the system calls that write, of recording, importing, training, evaluating, saving and the demo.

A first run of each command, traced by strace, lists the system calls that change its folder. Then a fresh run is killed as it
enters one of them, for each of them or for a part, drawn evenly over (system call, kind of file). Afterwards the folder must
open, must hold no less than after an earlier kill, and the same command must go on to the same result as the run that nobody
killed.

Prints one JSON record, and a line for each loss on stderr. Needs Linux and strace. Each kill costs a fork of this process, which
has imported everything, and the run itself.

Example:
    python experiments/reliability/kills.py --commands record import save --kills 40 --out kills.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

CALLS = (
    "write", "pwrite64", "writev", "rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir",
    "ftruncate", "truncate", "fsync", "fdatasync", "fallocate", "openat", "link", "linkat", "symlink",
)  # fmt: skip
CALL = re.compile(r"^(\w+)\((.*)$")
WRITES = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC")
LIMIT_S = 300.0  # of one run


@dataclass(frozen=True)
class Command:
    """What is killed.

    Args:
        run: does the work in a folder; called again, it goes on.
        kept: how much of the work a folder holds; raises if it does not open.
        result: what the finished work is, to be compared.
        prepare: makes what is there before.
    """

    run: Callable[[Path], None]
    kept: Callable[[Path], float]
    result: Callable[[Path], Any]
    prepare: Callable[[Path], None] = lambda folder: None


@dataclass(frozen=True)
class Point:
    """The number `number` of a system call, and the file that it changes."""

    call: str
    number: int
    file: str

    @property
    def kind(self) -> tuple[str, str]:
        return self.call, re.sub(r"[0-9a-f]{8,}|\d+", "#", self.file)


def _recording() -> Command:
    import verbot

    def run(folder: Path) -> None:
        verbot.collect("tabletop-starter", folder / "data", 3, workers=1, progress=False, options={"image_size": 32})

    return Command(run, lambda folder: _episodes(folder / "data"), lambda folder: _identities(folder / "data"))


def _importing(source: Path) -> Command:
    from verbot.data.importers.convert import import_dataset

    def run(folder: Path) -> None:
        import_dataset(source, folder / "data")

    return Command(run, lambda folder: _episodes(folder / "data"), lambda folder: _identities(folder / "data"))


def _training(dataset: Path) -> Command:
    import verbot

    def run(folder: Path) -> None:
        settings: dict[str, Any] = {"steps": 4, "logging.checkpoint_every": 2, "loader_threads": 1}
        verbot.train("tiny", out=folder / "run", data=dataset, progress=False, **settings)

    return Command(run, lambda folder: _steps(folder / "run"), lambda folder: _weights(folder / "run/policy"))


def _evaluating() -> Command:
    import verbot

    def run(folder: Path) -> None:
        lean: dict[str, Any] = {"baselines": False, "conditions": (), "videos": 0, "workers": 1, "progress": False}
        verbot.evaluate("expert", out=folder / "evaluation", episodes=3, options={"image_size": 32}, **lean)

    def result(folder: Path) -> Any:
        summary = json.loads((folder / "evaluation/summary.json").read_text())
        return [sorted(_lines(folder / "evaluation/results.jsonl")), summary["metrics"]["success_rate"]]

    return Command(run, lambda folder: len(_lines(folder / "evaluation/results.jsonl")), result)


def _saving(policies: Sequence[Path]) -> Command:
    import verbot

    def prepare(folder: Path) -> None:
        verbot.load_policy(policies[0]).save(folder / "policy")

    def run(folder: Path) -> None:
        verbot.load_policy(policies[1]).save(folder / "policy")

    names = [_weights(policy) for policy in policies]
    return Command(
        run, lambda folder: names.index(_weights(folder / "policy")), lambda folder: _weights(folder / "policy"), prepare
    )


def _demonstrating() -> Command:
    from verbot.recipes.config import resolve
    from verbot.workflows.demo import demo

    settings = {
        "collection.episodes": 2, "steps": 2, "validation.share": 0.0, "logging.checkpoint_every": 1, "evaluation.episodes": 1,
        "evaluation.videos": 0, "evaluation.latency_calls": 1, "evaluation.baselines": False,
    }  # fmt: skip

    def run(folder: Path) -> None:
        demo(folder / "demo", resolve("tiny", settings), progress=False)

    def kept(folder: Path) -> float:
        return (
            _episodes(folder / "demo/dataset") + _steps(folder / "demo") + len(_lines(folder / "demo/evaluation/results.jsonl"))
        )

    return Command(run, kept, lambda folder: _weights(folder / "demo/policy"))


def _episodes(path: Path) -> int:
    from verbot.data import check_dataset, open_dataset

    if not (path / "meta/info.json").exists():
        return 0
    dataset = open_dataset(path)
    for episode in dataset:
        _ = episode.actions
    if damaged := [str(finding) for finding in check_dataset(path) if finding.kind != "range"]:
        raise RuntimeError(damaged[0])
    return len(dataset)


def _identities(path: Path) -> list[str]:
    from verbot.data import open_dataset

    return [episode.identity for episode in open_dataset(path)]


def _steps(run: Path) -> int:
    """The newest checkpoint; finished runs count one more."""
    from verbot.training import checkpoint

    latest = checkpoint.load_latest(run / "checkpoints")
    if (run / "policy").exists():
        _weights(run / "policy")
    return (latest[0].step if latest else 0) + (run / "result.json").exists()


def _weights(policy: Path) -> str:
    import verbot
    from verbot.policy.identity import policy_identity

    verbot.load_policy(policy)
    return policy_identity(policy)


def _lines(path: Path) -> list[str]:
    """Key and outcome of every complete line."""
    if not path.exists():
        return []
    content = path.read_bytes()
    records = [json.loads(line) for line in content[: content.rfind(b"\n") + 1].splitlines()]
    return [f"{record['key']} {record['outcome']} {record['steps']}" for record in records]


def prepared(folder: Path, names: Sequence[str]) -> dict[str, Command]:
    """The commands by name, with the data that they need in `folder`."""
    import verbot
    from verbot.data.importers.export_hdf5 import export_hdf5

    dataset, trained = folder / "dataset", [folder / "one", folder / "two"]
    if {"import", "train", "save"} & {*names}:
        small = {"image_size": 32}
        _in_child(lambda: verbot.collect("tabletop-starter", dataset, 3, workers=1, progress=False, options=small))
    if "save" in names:
        for seed, out in enumerate(trained):
            _in_child(partial(verbot.train, "tiny", out=out, data=dataset, seed=seed, progress=False, steps=2))
    makers: dict[str, Callable[[], Command]] = {
        "record": _recording,
        "import": lambda: _importing(Path(export_hdf5(dataset, folder / "source.hdf5").path)),
        "train": lambda: _training(dataset),
        "evaluate": _evaluating,
        "save": lambda: _saving([out / "policy" for out in trained]),
        "demo": _demonstrating,
    }
    return {name: makers[name]() for name in names}


@contextmanager
def _forked(work: Callable[[], object]) -> Iterator[tuple[int, int]]:
    """A child that waits for a byte in a pipe before it does its work: its process id and the pipe."""
    waiting, go = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setpgid(0, 0)
            os.close(go)
            os.read(waiting, 1)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(waiting)
    try:
        yield child, go
    finally:
        os.close(go)
        try:
            os.killpg(child, signal.SIGKILL)  # with workers that it left behind
        except ProcessLookupError:
            pass


def _in_child(work: Callable[[], object]) -> int:
    """The exit status of the work in a child; raises if it fails."""
    with _forked(work) as (child, go):
        os.write(go, b"x")
        status = _waited(child)
    if status:
        raise RuntimeError(f"a run that nobody killed ended with status {status}")
    return status


def _waited(child: int) -> int:
    stop = time.monotonic() + LIMIT_S
    while time.monotonic() < stop:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise RuntimeError(f"a run took more than {LIMIT_S:.0f} s")


def traced(work: Callable[[], object], log: Path, *options: str) -> int:
    """The exit status of the work in a child whose main thread strace watches."""
    with _forked(work) as (child, go):
        command = ["strace", "-p", str(child), "-y", "-s", "0", "-o", str(log), "-e", f"trace={','.join(CALLS)}", *options]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
            assert strace.stderr is not None
            line = strace.stderr.readline()
            if "attached" not in line:
                raise RuntimeError(f"strace cannot watch a process: {line.strip()}")
            os.write(go, b"x")
            status = _waited(child)
            strace.wait(timeout=30)
    return status


def points(log: Path, folder: Path) -> list[Point]:
    """The system calls of a trace that change something below `folder`, in order."""
    counts: dict[str, int] = {}
    found = []
    for line in log.read_text(errors="replace").splitlines():
        match = CALL.match(line)
        if match is None:
            continue
        call, rest = match.groups()
        counts[call] = counts.get(call, 0) + 1
        path = re.search(re.escape(str(folder)) + r"([^\">]*)", rest)
        if path is not None and (call != "openat" or WRITES.search(rest)):
            found.append(Point(call, counts[call], path[1].strip("/")))
    return found


def chosen(all_points: Sequence[Point], kills: int, seed: int) -> list[tuple[int, Point]]:
    """`kills` of the points with their places, evenly over their kinds; all of them if `kills` is 0 or as many."""
    rng, by_kind = random.Random(seed), dict[tuple[str, str], list[tuple[int, Point]]]()
    for place, point in enumerate(all_points):
        by_kind.setdefault(point.kind, []).append((place, point))
    for group in by_kind.values():
        rng.shuffle(group)
    rounds = [group[turn] for turn in range(len(all_points)) for group in by_kind.values() if turn < len(group)]
    return sorted(rounds[:kills] if kills else rounds)


def measure(name: str, command: Command, scratch: Path, kills: int, seed: int, part: tuple[int, int] = (1, 1)) -> dict[str, Any]:
    """Kill a command at its points and count what came of it."""
    log, folder, answers = scratch / "trace", scratch / "work" / name, scratch / "answer.json"

    def fresh() -> None:
        shutil.rmtree(folder.parent, ignore_errors=True)
        folder.mkdir(parents=True)
        _in_child(lambda: command.prepare(folder))

    def asked(question: Callable[[Path], Any]) -> Any:
        """The answer of a child, so that nothing is kept in this process."""
        _in_child(lambda: answers.write_text(json.dumps(question(folder))))
        return json.loads(answers.read_text())

    fresh()
    if traced(lambda: command.run(folder), log):
        raise RuntimeError(f"{name} fails without a kill")
    found, expected = points(log, folder), asked(command.result)
    wanted = chosen(found, kills, seed)
    wanted = wanted[len(wanted) * (part[0] - 1) // part[1] : len(wanted) * part[0] // part[1]]
    record: dict[str, Any] = {
        "points": len(found),
        "kinds": len({point.kind for point in found}),
        "kills": 0,
        "recovered": 0,
        "lost": 0,
    }
    reached: list[tuple[int, float]] = []  # by every killed run: how many points, and what is kept of it
    hit = set[tuple[str, str]]()
    for done, (_, point) in enumerate(wanted):
        print(f"kills: {name}: {done} of {len(wanted)}", file=sys.stderr, flush=True)
        fresh()
        status = traced(lambda: command.run(folder), log, "-e", f"inject={point.call}:signal=KILL:when={point.number}")
        if not os.WIFSIGNALED(status):
            continue  # this run made fewer such calls
        record["kills"] += 1
        passed = points(log, folder)  # the numbers of calls may differ a little between runs
        hit |= {passed[-1].kind} if passed else set()
        try:
            reached.append((len(passed), asked(command.kept)))
            if most := max((kept for place, kept in reached if place < len(passed) and kept > reached[-1][1]), default=None):
                raise RuntimeError(f"{reached[-1][1]} of {most} are left")
            _in_child(lambda: command.run(folder))
            if asked(command.result) != expected:
                raise RuntimeError("it went on to another result")
            record["recovered"] += 1
        except (RuntimeError, ValueError) as error:
            record["lost"] += 1
            print(f"kills: {name} killed at {point.call} of {point.file or 'its folder'}: {error}", file=sys.stderr, flush=True)
    return {**record, "points_hit": len({place for place, _ in reached}), "kinds_hit": len(hit)}


def main() -> None:
    every = ("record", "import", "train", "evaluate", "save", "demo")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", nargs="+", choices=every, default=every)
    parser.add_argument("--kills", type=int, default=0, help="for each command; 0 kills at every system call")
    parser.add_argument("--seed", type=int, default=0, help="draws the system calls")
    parser.add_argument("--part", default="1/1", help="of the kills of each command, such as 2/4: for several runs at once")
    parser.add_argument("--scratch", type=Path, help="a folder on the disk that is to be written; a temporary one by default")
    parser.add_argument("--out", type=Path, help="also write the record there")
    arguments = parser.parse_args()
    first, parts = map(int, arguments.part.split("/"))
    if shutil.which("strace") is None:
        sys.exit("kills: there is no strace here; install it (apt-get install strace)")
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        scratch = Path(folder).resolve()
        commands = {}
        for name, command in prepared(scratch, arguments.commands).items():
            commands[name] = measure(name, command, scratch, arguments.kills, arguments.seed, (first, parts))
            print(f"kills: {name}: {commands[name]}", file=sys.stderr, flush=True)
    count, lost = (sum(record[key] for record in commands.values()) for key in ("kills", "lost"))
    test = "kill -9 at system calls that write"
    whole = {"test": test, "count": count, "lost": lost, "seed": arguments.seed, "commands": commands}
    text = json.dumps(whole)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
