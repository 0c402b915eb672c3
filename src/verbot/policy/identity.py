"""The identity of a policy: one content hash of all its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from verbot.errors import PolicyError

MANIFEST, CARD = "manifest.json", "README.md"


def policy_identity(folder: Path) -> str:
    """The content hash of a policy's folder, a sha256; README.md is excluded.

    Raises `PolicyError` if there is no policy.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise PolicyError(f"{folder} is not a policy directory: it has no {MANIFEST}; a policy is written by VLAPolicy.save")
    digests = json.loads(path.read_bytes())["sha256"]
    digests.pop(CARD, None)
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def identity_of(files: Mapping[str, bytes]) -> str:
    """`policy_identity` of a folder with these files."""
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name != CARD}
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
