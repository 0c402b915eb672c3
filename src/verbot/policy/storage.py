"""A policy's directory: files that are there all together or not at all, and a manifest that tells when one has changed."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from verbot.errors import CorruptFileError, DataError, PolicyError
from verbot.files import below, sha256
from verbot.folders import recover

MANIFEST = "manifest.json"
FORMAT, OLDER = "verbot-policy/2", "verbot-policy/1"
STARTER = Path(__file__).resolve().parents[1] / "assets" / "starter"  # the policy that ships with verbot


def policy_folder(name: str | os.PathLike[str]) -> Path:
    """Where the policy called `name` lies: a folder, or ``"starter"``.

    Raises `PolicyError` if the starter policy did not come along.
    """
    if os.fspath(name) != "starter":
        recover(Path(name))  # from a crash while it was replaced
        return Path(name)
    if not (STARTER / MANIFEST).is_file():
        raise PolicyError(
            "this copy of verbot came without its starter policy: `verbot demo` trains one, and the expert needs none"
        )
    return STARTER


def to_json(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def json_table(content: bytes, path: Path) -> dict[str, Any]:
    """A JSON object. Raises `PolicyError` for anything else."""
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise PolicyError(f"{path} is not JSON ({' '.join(str(error).split())})") from error
    if not isinstance(record, dict):
        raise PolicyError(f"{path} holds a {type(record).__name__}; expected a table")
    return record


def manifest(path: Path) -> dict[str, str]:
    """The sha256 of each file of a policy's folder, by its plain name.

    Raises `PolicyError` if this is no policy or one of an unknown format, `CorruptFileError` for a damaged manifest.
    """
    recover(path)
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
