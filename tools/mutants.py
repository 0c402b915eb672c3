"""Mutation testing: break the source in known ways and check that the tests notice.

Run it as ``python tools/mutants.py``. Each file of ``tests/mutants`` lists mutations as records::

    - name: airl-negated-reward
      file: src/verbot/training/rl/rewards/airl.py
      find: an exact text that occurs once in the file
      replace: the text to put in its place
      tests: [tests/training/test_airl.py]

Every mutation is applied to a fresh copy of the tree, where its tests run until the first failure. It is *killed* if a test
fails and *survives* if all pass. The tests first run on an unchanged copy, because a test that always fails kills nothing. The
exit code is 0 only if every mutation is killed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from verbot.configuration import build
from verbot.errors import ConfigError, VerbotError
from verbot.parallel.progress import Progress

ROOT = Path(__file__).resolve().parent.parent
RECORDS = Path("tests/mutants")
TREE = ("src", "tests", "tools", "examples", "pyproject.toml")  # what a test may read
OMITTED = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info", "outputs", ".*_cache")
KILLED, SURVIVED, INAPPLICABLE, FAULTY = "killed", "survived", "does not apply", "error"
PASSED, FAILED = 0, 1  # exit codes of pytest; any other means that no test has judged the mutation
TAIL = 20  # lines of pytest's output in a report
LIMIT_S = 900.0


@dataclass(frozen=True)
class Mutant:
    """One change of the source.

    Args:
        name: unique among all records.
        file: relative to the root of the tree.
        find: a text that occurs once in the file; `replace` takes its place.
        tests: pytest node ids or files, relative to the root.
    """

    name: str
    file: str
    find: str
    replace: str
    tests: tuple[str, ...]

    def fault(self, root: Path) -> str | None:
        """Why the mutation does not apply to the tree below `root`; None if it does."""
        path = root / self.file
        if not path.is_file():
            return f"there is no {self.file}"
        count = path.read_text().count(self.find) if self.find else 0
        if count != 1:
            return f"the text to find occurs {count} times in {self.file}; expected once"
        if self.find == self.replace:
            return "the replacement is the text itself"
        if not self.tests:
            return "no test is named"
        for test in self.tests:
            name, *inner = test.split("::")
            if not (root / name).is_file():
                return f"there is no test file {name}"
            if inner and f"def {inner[-1].split('[')[0]}(" not in (root / name).read_text():
                return f"{name} has no test {inner[-1]}"
        return None

    def apply(self, root: Path) -> None:
        """Change the file below `root`."""
        path = root / self.file
        path.write_text(path.read_text().replace(self.find, self.replace))


def load(root: Path, only: str = "") -> list[Mutant]:
    """The mutations whose names contain `only`, in the order of the files. Raises `ConfigError` for a malformed record."""
    found: dict[str, Mutant] = {}
    for path in sorted((root / RECORDS).glob("*.yaml")):
        where = path.relative_to(root).as_posix()
        try:
            records = yaml.safe_load(path.read_text())
        except yaml.YAMLError as error:
            raise ConfigError(f"{where} is not YAML: {' '.join(str(error).split())}") from error
        if not isinstance(records, list):
            raise ConfigError(f"{where} holds a {type(records).__name__}; expected a list of records")
        for number, record in enumerate(records, 1):
            mutant = build(Mutant, record, f"{where}, record {number}")
            if mutant.name in found:
                raise ConfigError(f"{where}, record {number}: the name {mutant.name!r} is taken; names are unique")
            found[mutant.name] = mutant
    chosen = [mutant for name, mutant in found.items() if only in name]
    if not chosen:
        raise ConfigError(
            f"no mutation in {RECORDS} has {only!r} in its name; see --list" if found else f"{RECORDS} has no records"
        )
    return chosen


def copy(root: Path, into: Path) -> Path:
    """Copy the part of the tree that tests need, without compiled files."""
    for name in TREE:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, into / name, ignore=OMITTED)
        elif source.is_file():
            shutil.copy2(source, into / name)
    return into


def run(tree: Path, tests: Sequence[str]) -> tuple[int | None, str]:
    """Pytest's exit code, None after `LIMIT_S` seconds, and the end of its output."""
    path = os.pathsep.join([str(tree / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    # No compiled files: two versions of a file that are equally long and equally old share one.
    settings = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(
            command, cwd=tree, env={**os.environ, **settings}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=LIMIT_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return None, f"the tests took more than {LIMIT_S:g} s"
    return done.returncode, "\n".join(done.stdout.splitlines()[-TAIL:])


def judge(root: Path, mutant: Mutant) -> tuple[str, str]:
    """The outcome for one mutation, and what to know about it."""
    if (fault := mutant.fault(root)) is not None:
        return INAPPLICABLE, fault
    with tempfile.TemporaryDirectory(prefix="verbot-mutant-") as folder:
        tree = copy(root, Path(folder))
        mutant.apply(tree)
        code, output = run(tree, mutant.tests)
    if code == FAILED or code is None:
        return KILLED, output
    return (SURVIVED, output) if code == PASSED else (FAULTY, f"pytest ended with exit code {code}\n{output}")


def killer(output: str) -> str:
    """The first test that failed, by pytest's summary: its name without the file."""
    failed = [line.split(" - ")[0] for line in output.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return failed[0].partition("::")[2] if failed else "the time limit"


def unchanged(root: Path, mutants: Sequence[Mutant]) -> str | None:
    """The output of the tests on an unchanged copy; None if they pass."""
    tests = list(dict.fromkeys(test for mutant in mutants if mutant.fault(root) is None for test in mutant.tests))
    if not tests:
        return None
    with tempfile.TemporaryDirectory(prefix="verbot-mutant-") as folder:
        code, output = run(copy(root, Path(folder)), tests)
    return None if code == PASSED else output


def verify(root: Path, mutants: Sequence[Mutant]) -> int:
    """Only whether every mutation applies."""
    faults = [(mutant.name, fault) for mutant in mutants if (fault := mutant.fault(root)) is not None]
    for name, fault in faults:
        print(f"{name}: {INAPPLICABLE}: {fault}")
    print(f"mutants: {len(mutants) - len(faults)} of {len(mutants)} apply")
    return 1 if faults else 0


def judge_all(root: Path, mutants: Sequence[Mutant]) -> int:
    """Run every mutation and print the table of outcomes."""
    if (output := unchanged(root, mutants)) is not None:
        print(f"{output}\nmutants: the tests fail on the unchanged source; nothing was mutated")
        return 1
    outcomes: list[str] = []
    killers: list[str] = []
    with Progress("mutants", len(mutants), "mutants") as bar:
        for mutant in mutants:
            outcome, about = judge(root, mutant)
            outcomes.append(outcome)
            killers.append(killer(about) if outcome == KILLED else "")
            if outcome != KILLED:
                print(f"{mutant.name}: {outcome}\n{about}", flush=True)
            bar.update(len(outcomes), f"{outcomes.count(KILLED)} killed")
    width, files = (max(len(text) for text in texts) for texts in zip(*((m.name, m.file) for m in mutants), strict=True))
    for mutant, outcome, by in zip(mutants, outcomes, killers, strict=True):
        print(f"{mutant.name:{width}}  {outcome:{len(INAPPLICABLE)}}  {mutant.file:{files}}  {by}".rstrip())
    print("mutants: " + ", ".join(f"{outcomes.count(each)} {each}" for each in dict.fromkeys(outcomes)))
    return 0 if set(outcomes) == {KILLED} else 1


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="run only the mutations whose names contain this")
    parser.add_argument("--list", action="store_true", help="print the mutations and run nothing")
    parser.add_argument("--check", action="store_true", help="only verify that every mutation applies exactly once")
    chosen = parser.parse_args(arguments)
    try:
        mutants = load(root, chosen.only)
    except VerbotError as error:
        print(error, file=sys.stderr)
        return 1
    if chosen.list:
        for mutant in mutants:
            print(f"{mutant.name}: {mutant.file}: {', '.join(mutant.tests)}")
        return 0
    return verify(root, mutants) if chosen.check else judge_all(root, mutants)


if __name__ == "__main__":
    sys.exit(main())
