"""Files and folders are whole at every instant, locks die with their process, and paths never leave their root."""

from __future__ import annotations

import builtins
import contextlib
import errno
import itertools
import os
import re
import resource
import signal
from pathlib import Path

import pytest

from verbot import drafts, files, folders
from verbot.data.storage.own_files import DRAFT
from verbot.errors import CorruptFileError, DataError, UnwritableError
from verbot.files import LineLog, below, hold, lock, read_lines, read_record, replacing, write_atomic
from verbot.folders import is_blank, recover, remove_folder, write_folder

SOURCE = Path(files.__file__).parent
OLD, NEW = {"a": b"old" * 9, "b": b"old"}, {"a": b"new" * 9, "c": b"new"}


@pytest.mark.parametrize("name", ["../other/a.png", "/etc/passwd", "a/../../b", "nul\0byte", "out/a.png"])
def test_a_name_that_leads_out_of_the_root_is_refused(tmp_path: Path, name: str) -> None:
    (root := tmp_path / "root").mkdir()
    (root / "out").symlink_to(tmp_path)
    with pytest.raises(DataError, match="expected a path below this folder|a link leads out of this folder"):
        below(root, name)


def test_links_within_the_root_are_paths_below_it(tmp_path: Path) -> None:
    (tmp_path / "b").symlink_to(tmp_path)
    assert below(tmp_path, "b/c.png") == tmp_path / "b/c.png"


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1', b"[]", b"3", b"\xff{}", b"[" * 100_000, b'{"a":' * 100_000, None])
def test_a_record_that_is_no_table_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "run.json"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(CorruptFileError, match="run.json: is"):
        read_record(path)
    with pytest.raises(CorruptFileError, match="none.json: cannot be read"):
        read_record(tmp_path / "none.json")


@pytest.fixture
def unsynced(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # matters when the power fails, not when a process is killed


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def in_two_renames(monkeypatch):
    """As on a file system that cannot exchange two names."""
    monkeypatch.setattr(folders, "_exchange", lambda one, other: False)


def test_a_file_is_old_or_new_at_every_kill(tmp_path, unsynced, killed):
    path = tmp_path / "file"
    for number in itertools.count():
        write_atomic(path, b"old" * 9)
        if not killed(lambda: write_atomic(path, b"new" * 9), number, tmp_path):
            break
        assert path.read_bytes() in (b"old" * 9, b"new" * 9)
        write_atomic(path, b"next")
        assert content(tmp_path) == {"file": b"next"}  # and nothing else is left
    assert number >= 3


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_is_old_or_new_at_every_kill(tmp_path, unsynced, killed, monkeypatch, exchange):
    path, seen, between = tmp_path / "folder", [], 0
    if not exchange:
        in_two_renames(monkeypatch)
    for number in itertools.count():
        write_folder(path, OLD)
        if not killed(lambda: write_folder(path, NEW), number, tmp_path):
            break
        between += recover(path)
        seen.append(content(path))
        assert seen[-1] in (OLD, NEW), number
        write_folder(path, OLD)
        assert {found.name for found in tmp_path.iterdir()} - {".folder.swap"} == {"folder"}, number
    assert OLD in seen and NEW in seen and len(seen) > 8 and between == (not exchange)


def test_a_removed_folder_is_whole_or_gone_at_every_kill(tmp_path, unsynced, killed):
    path = tmp_path / "folder"
    for number in itertools.count():
        write_folder(path, OLD)
        if not killed(lambda: remove_folder(path), number, tmp_path):
            break
        assert not path.exists() or content(path) == OLD
        remove_folder(path)
        assert [*tmp_path.iterdir()] == []
    assert number > 3


def test_a_policy_that_an_older_version_was_replacing_is_found(tmp_path):
    dead = next(number for number in range(4_000_000, 5_000_000) if not drafts._alive(number))
    write_folder(tmp_path / f".folder.old-{dead}", OLD)
    write_folder(tmp_path / f".folder.new-{dead}", NEW)
    assert recover(tmp_path / "folder") and content(tmp_path / "folder") == OLD
    write_folder(tmp_path / "folder", NEW)
    assert [*tmp_path.iterdir()] == [tmp_path / "folder"]


def test_a_process_that_restarts_with_its_number_takes_no_draft_for_its_own(tmp_path, monkeypatch):
    """As process 1 of a container does, whose first life ended in the middle of a checkpoint."""
    monkeypatch.setattr(drafts, "_numbers", itertools.count())
    left = drafts.new_draft(tmp_path / "folder")
    left.mkdir()
    drafts._writer.cache_clear()
    monkeypatch.setattr(drafts, "_numbers", itertools.count())
    write_folder(tmp_path / "folder", NEW)
    assert [*tmp_path.iterdir()] == [tmp_path / "folder"] and content(tmp_path / "folder") == NEW


def test_a_draft_of_another_host_is_removed_when_it_is_a_day_old(tmp_path, monkeypatch):
    path, own = tmp_path / "file", drafts._writer
    monkeypatch.setattr(drafts, "_writer", lambda process: ("01234567", "89abcdef"))
    live, old = drafts.new_draft(path), drafts.new_draft(path)  # with the number of this process, as of another container
    monkeypatch.setattr(drafts, "_writer", own)
    older = tmp_path / f".file.{os.getpid()}-0.tmp"  # of an older version
    for draft in (live, old, older):
        draft.write_bytes(b"half")
    for draft in (old, older):
        os.utime(draft, (0, 0))
    with replacing(path) as mine:
        mine.write_bytes(b"whole")
        write_atomic(path, b"by another thread")
    assert content(tmp_path) == {"file": b"whole", live.name: b"half"}


def test_a_draft_is_one_of_a_dataset_and_of_any_long_name(tmp_path):
    names = ("file-000.parquet", "file-001.mp4", "episode-000001.episode", "info.json")
    assert all(DRAFT.fullmatch(drafts.new_draft(Path(name)).name) for name in names)
    write_atomic(tmp_path / ("n" * 255), b"new")
    assert content(tmp_path) == {"n" * 255: b"new"}


def test_a_link_of_a_person_stays_and_what_it_leads_to_is_written(tmp_path):
    (tmp_path / "disk").mkdir()
    for name in ("file", "lines", "folder"):
        (tmp_path / name).symlink_to(tmp_path / "disk" / name)
    (tmp_path / "disk/lines").write_bytes(b"one\nto")
    write_folder(tmp_path / "disk/folder", OLD)
    for writer in ("file", "library", "folder", "lines"):
        WRITERS[writer](tmp_path)
    assert all((tmp_path / name).is_symlink() for name in ("file", "lines", "folder"))
    assert (tmp_path / "disk/file").read_bytes() == b"new" and content(tmp_path / "disk/folder") == NEW
    assert read_lines(tmp_path / "disk/lines") == [b"one", b"two"]
    assert len([*(tmp_path / "disk").iterdir()]) == 3  # no draft is left
    write_atomic(tmp_path / "file", b"own", follow=False)  # as in a dataset
    assert not (tmp_path / "file").is_symlink() and (tmp_path / "disk/file").read_bytes() == b"new"


@pytest.mark.parametrize("writer", ["file", "library", "lines"])
def test_what_is_no_plain_file_is_never_replaced(tmp_path, writer):
    for path in (tmp_path / "file", tmp_path / "lines"):
        os.mkfifo(path)
    with pytest.raises(UnwritableError, match="it is a pipe.; name a plain file"):
        WRITERS[writer](tmp_path)
    assert all(path.is_fifo() for path in tmp_path.iterdir())
    for path in (tmp_path / "file", tmp_path / "lines"):
        path.unlink()
        path.symlink_to(path)
    with pytest.raises(UnwritableError, match="Too many levels of symbolic links"):
        WRITERS[writer](tmp_path)
    for path in (tmp_path / "file", tmp_path / "lines"):
        path.unlink()
        path.symlink_to(tmp_path / "unmounted/file")
    with pytest.raises(UnwritableError, match="unmounted/file, whose folder is not there"):
        WRITERS[writer](tmp_path)


@pytest.mark.parametrize("writer", ["file", "library"])
def test_a_file_keeps_its_permissions(tmp_path, writer):
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "file").chmod(0o600)
    WRITERS[writer](tmp_path)
    assert (tmp_path / "file").read_bytes() == b"new" and (tmp_path / "file").stat().st_mode & 0o777 == 0o600


def test_a_folder_with_a_lock_and_drafts_alone_is_blank(tmp_path):
    assert is_blank(tmp_path / "none")
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/.info.json.1-0.tmp").write_bytes(b"")
    with hold(tmp_path, "busy"):
        assert is_blank(tmp_path)
    (tmp_path / "meta/info.json").write_bytes(b"")
    assert not is_blank(tmp_path)


def test_a_folder_never_takes_the_place_of_a_file(tmp_path):
    (tmp_path / "file").write_text("a person's")
    with pytest.raises(UnwritableError, match="file cannot be written .Not a directory."):
        write_folder(tmp_path / "file", NEW)
    assert content(tmp_path) == {"file": b"a person's"}


def full_after(monkeypatch, count):
    """The disk is full from write number `count` on, also of the name of a file."""
    left = [count]

    def failing(function):
        def call(*arguments, **options):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(*arguments, **options)

        return call

    for name in ("fsync", "replace", "rename", "mkdir"):
        monkeypatch.setattr(os, name, failing(getattr(os, name)))
    opened, creating = builtins.open, failing(builtins.open)
    monkeypatch.setattr(
        builtins, "open", lambda path, mode="r", *a, **k: (opened if "r" in mode else creating)(path, mode, *a, **k)
    )
    return left


WRITERS = {
    "file": lambda path: write_atomic(path / "file", b"new"),
    "library": lambda path: replacing_by_library(path / "file"),
    "folder": lambda path: write_folder(path / "folder", NEW),
    "lines": lambda path: appended(path / "lines"),
}


def replacing_by_library(path):
    with replacing(path) as draft:
        draft.write_bytes(b"new")


def appended(path):
    with LineLog(path) as log:
        log.append("two", sync=True)


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_is_one_error_and_leaves_old_or_new(tmp_path, monkeypatch, writer):
    for number in itertools.count():
        folder = tmp_path / f"{number}"
        write_atomic(folder / "file", b"old")
        write_folder(folder / "folder", OLD)
        write_atomic(folder / "lines", b"one\n")
        with monkeypatch.context() as patch:
            full_after(patch, number)
            reported = None
            try:
                writer(folder)
            except UnwritableError as error:
                reported = str(error)
        if reported is None:
            break
        assert "No space left on device" in reported and "\n" not in reported
        assert (folder / "file").read_bytes() in (b"old", b"new")
        assert content(folder / "folder") in (OLD, NEW)
        assert read_lines(folder / "lines") in ([b"one"], [b"one", b"two"])
        assert len([*folder.iterdir()]) == 3  # no draft is left
    assert number >= 2


def test_a_torn_last_line_is_cut_off_whole_at_every_kill(tmp_path, unsynced, killed):
    path, torn = tmp_path / "lines", b"one\ntwo\nthr"
    for number in itertools.count():
        path.write_bytes(torn)
        assert read_lines(path) == [b"one", b"two"]
        if not killed(lambda: appended(path), number, tmp_path):
            break
        assert read_lines(path)[:2] == [b"one", b"two"], number
    assert path.read_bytes() == b"one\ntwo\ntwo\n" and number >= 4


def test_a_line_that_a_full_disk_cut_is_removed_before_the_next(tmp_path):
    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, content):
            if self.file.tell() > 3:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(content[:2])

        def close(self):
            self.file.close()

    with LineLog(tmp_path / "lines") as log:
        log.append("one")
        log._file = Full(log._file)
        with pytest.raises(UnwritableError, match="No space left"):
            log.append("second")
        log.append("three")
    assert read_lines(tmp_path / "lines") == [b"one", b"three"]


def test_a_lock_names_its_holder_and_dies_with_it_though_its_children_live(tmp_path):
    ready, announced = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException), hold(tmp_path, "another process trains here"):
            grandchild = os.fork()
            os.write(announced, f"{grandchild}\n".encode())
            signal.alarm(30)
            signal.pause()
        os._exit(0)
    os.close(announced)
    with open(ready) as pipe:
        lines = [pipe.readline(), pipe.readline()]
    try:
        with (
            pytest.raises(DataError, match=rf"{tmp_path.name}: another process trains here \(process {child}\)"),
            hold(tmp_path, "another process trains here"),
        ):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    try:
        with hold(tmp_path, "x"), hold(tmp_path, "held by the same thread"):
            pass
    finally:
        os.kill(int(next(line for line in lines if line != "0\n")), signal.SIGKILL)


def test_a_lock_whose_file_is_removed_is_not_held_twice(tmp_path):
    path = tmp_path / "lock"
    with lock(path, wait=False, holder="busy"):
        path.unlink()
        with lock(path, wait=False, holder="busy"), pytest.raises(DataError, match="busy"), lock(path, wait=False, holder="busy"):
            pass


def test_a_full_disk_does_not_spoil_a_lock(tmp_path):
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        try:
            with hold(tmp_path, "busy"):
                write_atomic(tmp_path / "file", b"new")
        except UnwritableError:
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


# Where a file is written otherwise, and why that is right.
REASONS = {
    "files.py": "writes whole files",
    "drafts.py": "removes drafts",
    "cli/checks.py": "tries whether a file can be written, and writes nothing",
    "folders.py": "replaces whole folders",
    "data/editing/edit.py": "fills the draft of a dataset, which takes its place when it is whole",
    "data/storage/own_files.py": "fills the draft of a dataset, which takes its place when it is whole",
    "data/storage/cached_rows.py": "a cache, whose record says which rows are whole",
    "data/samples/clip_memory.py": "shared memory, which ends with the process",
    "data/importers/export_hdf5.py": "fills the draft of a file through a driver of HDF5",
    "data/importers/rosbag_reader.py": "a temporary copy",
    "models/known/base.py": "fills the draft of a folder, which takes its place when it is whole",
    "models/known/fetching.py": "a temporary copy",
    "policy/published/policy.py": "fills the draft of a folder, which takes its place when it is whole",
    "policy/runtimes/aoti.py": "a temporary copy",
    "policy/runtimes/openvino.py": "a temporary copy",
    "data/storage/journal.py": "renames whole entries to close a gap",
    "training/checkpoint.py": "a shard in the draft of a checkpoint, which takes its place when it is whole",
    "training/distributed/process_group.py": "shared memory, which ends with the run",
    "training/imitation/dagger.py": "removes a copy of the policy that workers have read",
}
WRITES = re.compile(
    r"\.write_(text|bytes)\(|\b(os|path|draft|root|aside)\.(rename|replace)\(|\btruncate\(|\bsave_file\(|shutil\.(copy|move|rmtree)|"
    r"open\(.*[\"'][wax]b?\+?[\"']|open\(.*[\"']r\+b?[\"']"
)
WHOLE = re.compile(
    r"av\.open\((sink|io\.BytesIO|str\(path\), \"w\", format)|h5py\.File\(draft|open\(draft, \"wb|>>> |^\s+\.\.\. "
)  # into memory or a draft


def test_every_file_is_written_whole():
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if WRITES.search(line) and not WHOLE.search(line):
                found.setdefault(name, []).append(f"{name}:{number}: {line.strip()}")
    loose = [line for name, lines in found.items() if name not in REASONS for line in lines]
    assert loose == [], "written with neither verbot.files nor verbot.folders"
    assert REASONS.keys() <= found.keys(), "these no longer need their reason"
