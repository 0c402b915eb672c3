"""Which policy a folder holds: one digest of all its files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from verbot.errors import PolicyError

MANIFEST, CARD = "manifest.json", "README.md"


def policy_identity(folder: Path) -> str:
    """The sha256 of the sha256 of every file; the card may change without making it another policy.

    Raises `PolicyError` where there is no policy.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise PolicyError(f"{folder} is not a policy directory: it has no {MANIFEST}; a policy is written by VLAPolicy.save")
    digests = json.loads(path.read_bytes())["sha256"]
    digests.pop(CARD, None)
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
