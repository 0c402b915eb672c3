"""A policy's directory: files that are there all together or not at all, and a manifest that tells when one has changed."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from verbot.errors import CorruptFileError, PolicyError
from verbot.files import sha256
from verbot.folders import recover

MANIFEST = "manifest.json"
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


def read(path: Path, needed: Collection[str]) -> dict[str, bytes]:
    """Every file of the manifest, each verified, `needed` among them. Raises `PolicyError` or `CorruptFileError`."""
    recover(path)
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
