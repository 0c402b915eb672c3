"""A policy's directory: files that are there all together or not at all, and a manifest that tells when one has changed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from verbot.errors import CorruptFileError, DataError, PolicyError
from verbot.files import below

MANIFEST = "manifest.json"
FORMAT, OLDER = "verbot-policy/2", "verbot-policy/1"
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


def manifest(path: Path) -> dict[str, str]:
    """The sha256 of each file of a policy's folder, by its plain name.

    Raises `PolicyError` if this is no policy or one of an unknown format, `CorruptFileError` for a damaged manifest.
    """
    file = path / MANIFEST
    try:
        content = file.read_bytes() if file.is_file() else None
    except OSError as error:
        raise CorruptFileError(file, f"cannot be read ({error.strerror})") from error
    if content is None:
        raise PolicyError(f"{path} is not a policy directory: it has no {MANIFEST}; a policy is written by VLAPolicy.save")
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(file, f"not a policy's manifest: {' '.join(str(error).split())}") from error
    found = record.get("sha256") if isinstance(record, dict) else None
    if not isinstance(found, dict) or not all(isinstance(digest, str) for digest in found.values()):
        raise CorruptFileError(file, "not a policy's manifest: it has no table of files with their sha256")
    check_format(record.get("format"), file)
    for name in found:
        if not name or name != Path(name).name or "\\" in name or len(name) > 255:
            raise CorruptFileError(file, f"names the file {name[:100]!r}; expected plain names of files in this folder")
        try:
            below(path, name, MANIFEST)
        except (DataError, OSError, ValueError) as error:
            raise CorruptFileError(file, f"names a file that is not in this folder: {error}") from error
    return found


def check_format(found: object, path: Path) -> None:
    """Raise `PolicyError` unless this version of verbot reads the format of a policy."""
    if found not in (FORMAT, OLDER):
        raise PolicyError(
            f"{path}: its format is {found!r}; this version of verbot reads {FORMAT!r} and {OLDER!r}: load it "
            f"with the version that wrote it, such as a newer one (pip install --upgrade verbot)"
        )


def read(path: Path, needed: Collection[str]) -> dict[str, bytes]:
    """Every file of the manifest, each verified, `needed` among them. Raises `PolicyError` or `CorruptFileError`."""
    expected, files = manifest(path), dict[str, bytes]()
    if missing := set(needed) - set(expected):
        raise PolicyError(f"{path} lacks {', '.join(sorted(missing))}: a policy without it cannot act")
    for name, digest in expected.items():
        try:
            if not (path / name).is_file():
                raise CorruptFileError(path / name, "missing, though the manifest lists it")
            files[name] = (path / name).read_bytes()
        except OSError as error:
            raise CorruptFileError(path / name, f"cannot be read ({error.strerror})") from error
        if sha256(files[name]) != digest:
            raise CorruptFileError(path / name, "changed since it was saved: its sha256 is not the manifest's")
    return files
