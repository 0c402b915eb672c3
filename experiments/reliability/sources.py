"""Import hostile recordings in every format, and count what ends otherwise than by a good import or one line that says why not.

Three sets, each a function of `--seed`: sources whose bytes are changed, pipes and links and folders in place of files, and
content that is wrong by construction; then bombs, small files that promise much. Each import runs in a process of its own with
a limit of memory and of time. Of a bomb the peak of resident memory over the memory before is divided by what its metadata
promise (at least 64 MB, which is what libraries take for anything).

    python experiments/reliability/sources.py --out outputs/sources.json --mutations 40

Another checkout is measured with ``PYTHONPATH=OTHER/src``. It needs the extras rlds, hdf5, zarr, mcap and rosbag.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "cases"))
TEMPLATES, CASES, BOMBS = (importlib.import_module(f"_source_{name}") for name in ("templates", "cases", "bombs"))

MEMORY_BYTES, FILE_BYTES = 4 << 30, 1 << 30
PROMISED_BYTES = 64 << 20  # a bomb is held to at least this
TIME_S = 30.0


@dataclass
class Outcome:
    """How one import ended: ``good`` (exit code 0), ``partial`` (1), ``refused`` (2), or a fault."""

    name: str
    result: str
    seconds: float
    episodes: int = 0
    peak_bytes: int = 0
    last_line: str = ""


FAULTS = ("traceback", "untyped", "hang", "abort", "memory")


def warm() -> None:
    """Import what the children need, so that a fork is all that an import costs."""
    import av  # noqa: F401
    import h5py  # noqa: F401
    import mcap.reader  # noqa: F401
    import mcap_ros2.decoder  # noqa: F401
    import rosbags.rosbag2  # noqa: F401
    import safetensors.numpy  # noqa: F401
    import torch
    import zarr  # noqa: F401

    import verbot.cli
    import verbot.data.importers.convert  # noqa: F401
    from verbot.data.importers import sources

    sources.names()
    torch.set_num_threads(1)


def in_child(work: Callable[[], int], limit_s: float) -> tuple[int | None, float]:
    """Run `work` in a forked process. Its wait status, None if it ran out of time, and the seconds it took."""
    started = time.monotonic()
    sys.stdout.flush()
    child = os.fork()
    if not child:
        code = 99
        try:
            os.setpgid(0, 0)
            code = work()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    status = None
    try:
        while status is None and time.monotonic() - started < limit_s:
            done, found = os.waitpid(child, os.WNOHANG)
            status = found if done else None
            time.sleep(0 if done else 0.005)
    finally:
        if status is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return status, time.monotonic() - started


def memory_bytes(label: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{label}:"))
    return int(line.split()[1]) * 1024


def imported(source: Path, options: tuple[str, ...], folder: Path) -> Callable[[], int]:
    """The work of a child: the command, its output in files of `folder`."""

    def work() -> int:
        from verbot import cli

        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        Path("/proc/self/clear_refs").write_text("5")
        before = memory_bytes("VmRSS")
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes("VmSize") + MEMORY_BYTES,) * 2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        code = 0
        try:
            cli.main(["data", "import", str(source), str(folder / "dataset"), "--json", "--images", "image", *options])
        except SystemExit as stopped:
            code = stopped.code if isinstance(stopped.code, int) else 3
        finally:
            (folder / "memory").write_text(str(memory_bytes("VmHWM") - before))
        return code

    return work


def report_of(path: Path) -> dict[str, Any]:
    """What the command printed as JSON; nothing if it printed none."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def run(name: str, source: Path, options: tuple[str, ...], folder: Path, limit_s: float) -> Outcome:
    """Import `source` and judge how that ended."""
    status, seconds = in_child(imported(source, options, folder), limit_s)
    peak = folder / "memory"
    errors = (folder / "err").read_text(errors="replace") if (folder / "err").exists() else ""
    lines = [
        line for line in errors.replace("\r", "\n").splitlines() if line.strip() and not line.startswith(("survey:", "import:"))
    ]
    found = Outcome(name, "", seconds, 0, int(peak.read_text()) if peak.exists() else 0, lines[-1][:300] if lines else "")
    if status is None:
        found.result = "hang"
    elif os.WIFSIGNALED(status):
        found.result = "abort"
        found.last_line = f"signal {os.WTERMSIG(status)}; {found.last_line}"
    else:
        code = os.WEXITSTATUS(status)
        report = report_of(folder / "out")
        lines += [f"skipped {one}" for one in report.get("skipped", ())] if not lines else []
        if "Traceback" in errors or code not in (0, 1, 2):
            found.result = "traceback"
        elif (code and not lines) or (code == 2 and not lines[-1].startswith("verbot: ")):
            found.result = "untyped"
        else:
            found.result = ("good", "partial", "refused")[code]
            found.episodes = int(report.get("episodes", 0))
    return found


def built(make: Callable[[Path], object], folder: Path) -> bool:
    """Write a source in a process of its own, so that no library's threads are left here."""
    folder.mkdir(parents=True)

    def work() -> int:
        make(folder)
        return 0

    status, _ = in_child(work, 120)
    if status != 0:
        print(f"could not be written: {folder.name} {make}", file=sys.stderr)
    return status == 0


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file() or path.is_symlink())


def copied(source: str, target: str) -> None:
    """Copy a file, and make a pipe where there is one."""
    if Path(source).is_fifo():
        os.mkfifo(target)
    else:
        shutil.copy2(source, target, follow_symlinks=False)


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes of `content` changed, cut, inserted, repeated or zeroed."""
    place = int(rng.integers(0, max(1, len(content))))
    if rng.integers(2):
        place = min(place, int(rng.integers(1, 400)))  # headers are at the beginning
    count, how = int(rng.integers(1, 64)), int(rng.integers(8))
    piece = content[place : place + count]
    if how == 0:
        return content[:place]
    if how == 1:
        return content[:place] + rng.bytes(count) + content[place:]
    if how == 2:
        return content[:place] + content[place + count :]
    if how == 3:
        return content[:place] + piece * int(rng.integers(2, 40)) + content[place + count :]
    if how == 4:
        return content[:place] + b"\0" * len(piece) + content[place + count :]
    if how == 5:
        return content[:place] + b"\xff" * min(8, len(piece)) + content[place + min(8, len(piece)) :]
    changed = bytearray(content)
    for _ in range(1 if how == 6 else 8):
        changed[int(rng.integers(place, len(changed)))] ^= int(rng.integers(1, 256))
    return bytes(changed)


class Bench:
    """Runs every case in a folder that is thrown away, and keeps what is not as it should be."""

    def __init__(self, scratch: Path, limit_s: float, match: str = ""):
        self._scratch, self._limit_s, self._match = scratch, limit_s, match
        self.outcomes: list[Outcome] = []
        self.lost: list[str] = []

    def case(
        self, name: str, options: tuple[str, ...], change: Callable[[Path], Path | None], whole: Path | None, good: int
    ) -> Outcome:
        """Copy the source `whole`, let `change` bend it, and import it; `good` episodes must come through."""
        folder = self._scratch / "case"
        shutil.rmtree(folder, ignore_errors=True)
        source = folder / "source"
        if whole is not None:
            shutil.copytree(whole, source, symlinks=True, copy_function=copied)
        else:
            source.mkdir(parents=True)
        source = change(source) or source
        found = run(name, source, options, folder, self._limit_s)
        self.outcomes.append(found)
        if found.result not in FAULTS and found.episodes < good:
            self.lost.append(f"{name}: {found.episodes} of {good} ({found.last_line})")
        if found.result in FAULTS:
            print(f"{name}: {found.result}: {found.last_line}", file=sys.stderr, flush=True)
        return found

    def of_template(self, template: Any, mutations: int, seed: int) -> None:
        whole = self._scratch / template.name
        if not built(template.make, whole):
            return
        self.case(f"{template.name}, whole", template.options, lambda source: None, whole, TEMPLATES.EPISODES)
        names = [path.relative_to(whole) for path in files(whole)]
        for number in range(mutations):
            rng = np.random.default_rng([seed, number, zlib.crc32(template.name.encode())])
            place = int(rng.integers(len(names)))
            path = names[place]

            def change(source: Path, path: Path = path, rng: np.random.Generator = rng) -> None:
                (source / path).write_bytes(mutated((source / path).read_bytes(), rng))

            own = template.separate and place > 1 and path.suffix not in (".json", ".yaml")  # the first defines the fields
            self.case(
                f"{template.name}, bytes {number} of {path}",
                template.options,
                change,
                whole,
                TEMPLATES.EPISODES - 1 if own else 0,
            )
        for kind in CASES.SPECIAL:
            for path in (names[len(names) // 2], names[-1]):

                def swap(source: Path, kind: str = kind, path: Path = path) -> None:
                    CASES.put_special(source / path, kind)

                good = TEMPLATES.EPISODES - 1 if template.separate and path.suffix not in (".json", ".yaml") else 0
                self.case(f"{template.name}, {kind} for {path}", template.options, swap, whole, good)

    def structured(self) -> None:
        for name, (make, options, good) in CASES.CASES.items():
            if re.search(self._match, name) and built(make, self._scratch / name):
                self.case(name, options, lambda source: None, self._scratch / name, good)
                shutil.rmtree(self._scratch / name)

    def special_sources(self) -> None:
        for kind in CASES.SPECIAL:
            for suffix in (".hdf5", ".mcap", ".npz", ".zarr.zip", ".db3", ".json", ""):

                def swap(source: Path, kind: str = kind, suffix: str = suffix) -> Path:
                    CASES.put_special(source / f"one{suffix}", kind)
                    return source / f"one{suffix}"

                self.case(f"{kind} one{suffix}", ("--rate-hz", "10"), swap, None, 0)

    def growing(self) -> None:
        """A file that another process goes on writing while it is imported."""
        for template in TEMPLATES.TEMPLATES:
            whole = self._scratch / template.name
            if not whole.exists():
                continue
            path = files(whole)[-1].relative_to(whole)
            writers: list[subprocess.Popen[bytes]] = []

            def grow(source: Path, path: Path = path, writers: list[subprocess.Popen[bytes]] = writers) -> None:
                script = "import sys, time\nfor _ in range(300):\n open(sys.argv[1], 'ab').write(b'x' * 4096); time.sleep(0.002)"
                writers.append(
                    subprocess.Popen([sys.executable, "-S", "-c", script, str(source / path)], stderr=subprocess.DEVNULL)
                )

            self.case(f"{template.name}, {path} grows", template.options, grow, whole, 0)
            for writer in writers:
                writer.kill()
                writer.wait()

    def bombs(self, table: list[dict[str, Any]]) -> None:
        """Import every bomb, and add its row to `table`."""
        for name, bomb in BOMBS.BOMBS.items():
            if not re.search(self._match, name) or not built(bomb.make, self._scratch / name):
                continue
            size = sum(path.stat().st_size for path in files(self._scratch / name))
            found = self.case(f"bomb: {name}", bomb.options, lambda source: None, self._scratch / name, 0)
            shutil.rmtree(self._scratch / name)
            ratio = found.peak_bytes / max(bomb.promised, PROMISED_BYTES)
            if found.result in ("hang", "abort"):
                ratio = float("inf")
            table.append({"bomb": name, "file_bytes": size, "holds_bytes": bomb.holds, "promised_bytes": bomb.promised,
                          "peak_bytes": found.peak_bytes, "peak_over_promised": round(ratio, 2), "result": found.result,
                          "seconds": round(found.seconds, 1), "line": found.last_line})  # fmt: skip
            if ratio > 4:
                print(f"bomb: {name}: {ratio:.1f} times what it promised", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the record here too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mutations", type=int, default=40, help="changed copies of each of the formats' sources")
    parser.add_argument("--only", nargs="*", default=[], help="templates, structured, special, growing, bombs; all by default")
    parser.add_argument(
        "--match", default="", help="a regular expression: only templates, cases and bombs with it in their names"
    )
    parser.add_argument("--scratch", type=Path, help="a folder for the sources; a temporary one by default")
    parser.add_argument("--limit-s", type=float, default=TIME_S)
    given = parser.parse_args()
    chosen = set(given.only or ("templates", "structured", "special", "growing", "bombs"))
    warm()
    memory = Path("/dev/shm")  # where a file need not reach a disk
    scratch = Path(tempfile.mkdtemp(prefix="sources-", dir=given.scratch or (memory if memory.is_dir() else None)))
    bench, table = Bench(scratch, given.limit_s, given.match), list[dict[str, Any]]()
    try:
        for template in [template for template in TEMPLATES.TEMPLATES if re.search(given.match, template.name)]:
            if "templates" in chosen:
                bench.of_template(template, given.mutations, given.seed)
            elif "growing" in chosen:
                built(template.make, scratch / template.name)
        steps = {"structured": bench.structured, "special": bench.special_sources, "growing": bench.growing}
        for name, step in steps.items():
            if name in chosen:
                step()
        if "bombs" in chosen:
            bench.bombs(table)
    except KeyboardInterrupt:
        print(f"interrupted: the record is of the first {len(bench.outcomes)} imports", file=sys.stderr)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    counts = Counter(outcome.result for outcome in bench.outcomes)
    record = {
        "test": "hostile sources", "seed": given.seed, "count": len(bench.outcomes),
        **{fault: counts[fault] for fault in FAULTS[:4]},
        "good": counts["good"], "partial": counts["partial"], "refused": counts["refused"],
        "sources_that_lost_good_episodes": len(bench.lost), "lost": bench.lost[:40], "bombs": table,
        "worst_peak_over_promised": max((row["peak_over_promised"] for row in table), default=None),
        "slowest_s": round(max((outcome.seconds for outcome in bench.outcomes), default=0), 1),
        "faults": [asdict(outcome) for outcome in bench.outcomes if outcome.result in FAULTS],
    }  # fmt: skip
    print(json.dumps({key: value for key, value in record.items() if key not in ("faults", "lost", "bombs")}))
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
