"""The identity of a policy: one content hash of all its files."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch

from verbot.policy.storage import manifest

CARD = "README.md"


def policy_identity(folder: Path) -> str:
    """The content hash of a policy's folder, a sha256; README.md is excluded.

    Raises `PolicyError` if there is no policy, `CorruptFileError` for a damaged manifest.
    """
    digests = {name: digest for name, digest in manifest(folder).items() if name != CARD}
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def identity_of(files: Mapping[str, bytes]) -> str:
    """`policy_identity` of a folder with these files."""
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name != CARD}
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def checksums(network: torch.nn.Module) -> tuple[int, ...]:
    """One for each weight and buffer. Unlike versions of tensors they notice every change, on every device."""
    weights = (*network.parameters(), *network.buffers())
    flat = (weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy() for weight in weights)
    return tuple(zlib.crc32(each.data) for each in flat)
