"""A policy's directory: files that are there all together or not at all, and a manifest that tells when one has changed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from verbot.errors import CorruptFileError, PolicyError

MANIFEST = "manifest.json"
STARTER = Path(__file__).resolve().parents[1] / "assets" / "starter"  # the policy that ships with verbot


def policy_folder(name: str | os.PathLike[str]) -> Path:
    """Where the policy called `name` lies: a folder, or ``"starter"``.

    Raises `PolicyError` if the starter policy did not come along.
    """
    if os.fspath(name) != "starter":
        return Path(name)
    if not (STARTER / MANIFEST).is_file():
        raise PolicyError(
            "this copy of verbot came without its starter policy: `verbot demo` trains one, and the expert needs none"
        )
    return STARTER


def to_json(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write(path: Path, files: Mapping[str, bytes]) -> None:
    """All files or none: written aside, flushed to the disk, then renamed into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside, old = (path.with_name(f".{path.name}.{kind}-{os.getpid()}") for kind in ("new", "old"))
    for leftover in (aside, old):
        shutil.rmtree(leftover, ignore_errors=True)
    aside.mkdir()
    for name, data in files.items():
        with open(aside / name, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    if path.exists():
        path.rename(old)
    aside.rename(path)
    shutil.rmtree(old, ignore_errors=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def notes_of(path: Path, own: Collection[str]) -> dict[str, bytes]:
    """A person's files in the policy directory that is to be replaced, by name, so that they stay in it.

    Args:
        own: the files that a policy has.

    Raises `PolicyError` for a folder that holds anything else: one without a policy, or with folders and links.
    """
    found = [entry for entry in sorted(path.iterdir()) if not entry.name.startswith(".")] if path.is_dir() else []
    if found and not (path / MANIFEST).is_file() and any(entry.name not in own for entry in found):
        raise PolicyError(f"{path} holds {found[0].name} and no policy; choose another folder, which is replaced by the policy")
    others = [entry for entry in found if entry.name not in {*own, *_listed(path)}]
    if odd := [entry.name for entry in others if entry.is_symlink() or not entry.is_file()]:
        raise PolicyError(f"{path} is to be replaced by a policy, and holds {odd[0]}, which is no part of one; move it away")
    return {entry.name: entry.read_bytes() for entry in others}


def _listed(path: Path) -> Collection[str]:
    """The files that the manifest of an earlier policy lists; none if it cannot be read."""
    try:
        listed = json.loads((path / MANIFEST).read_bytes())["sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ()
    return [str(name) for name in listed] if isinstance(listed, dict) else ()


def read(path: Path, needed: Collection[str]) -> dict[str, bytes]:
    """Every file of the manifest, each verified, `needed` among them. Raises `PolicyError` or `CorruptFileError`."""
    if not (path / MANIFEST).is_file():
        raise PolicyError(f"{path} is not a policy directory: it has no {MANIFEST}; a policy is written by VLAPolicy.save")
    try:
        expected = json.loads((path / MANIFEST).read_bytes())["sha256"]
        files = {name: (path / name).read_bytes() if (path / name).is_file() else None for name in expected}
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptFileError(path / MANIFEST, f"not a policy's manifest: {error}") from error
    if missing := set(needed) - set(expected):
        raise PolicyError(f"{path} lacks {', '.join(sorted(missing))}: a policy without it cannot act")
    for name, data in files.items():
        if data is None:
            raise CorruptFileError(path / name, "missing, though the manifest lists it")
        if sha256(data) != expected[name]:
            raise CorruptFileError(path / name, "changed since it was saved: its sha256 is not the manifest's")
    return {name: data for name, data in files.items() if data is not None}
