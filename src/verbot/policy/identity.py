"""The identity of a policy: one content hash of all its files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from verbot.policy.storage import manifest

CARD = "README.md"


def policy_identity(folder: Path) -> str:
    """The content hash of a policy's folder, a sha256; README.md is excluded.

    Raises `PolicyError` if there is no policy, `CorruptFileError` for a damaged manifest.
    """
    digests = {name: digest for name, digest in manifest(folder).items() if name != CARD}
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
