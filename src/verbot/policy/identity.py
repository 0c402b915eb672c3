"""The identity of a policy: one content hash of all its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from verbot.files import sha256
from verbot.policy.storage import manifest

CARD = "README.md"


def policy_identity(folder: Path) -> str:
    """The content hash of a policy's folder, a sha256; README.md is excluded.

    Raises `PolicyError` if there is no policy, `CorruptFileError` for a damaged manifest.
    """
    return _of(manifest(folder))


def identity_of(files: Mapping[str, bytes]) -> str:
    """`policy_identity` of a folder with these files."""
    return _of({name: sha256(data) for name, data in files.items()})


def _of(digests: Mapping[str, str]) -> str:
    content = {name: digest for name, digest in digests.items() if name != CARD}
    return sha256(json.dumps(content, sort_keys=True).encode())
