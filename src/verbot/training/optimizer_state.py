"""The state of an optimizer as named tensors, for a safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

PREFIX = "optimizer."


def flat(state: Mapping[int, Mapping[str, Any]]) -> dict[str, Tensor]:
    """``state_dict()["state"]`` of an optimizer, by name."""
    return {f"{PREFIX}{number}.{name}": torch.as_tensor(value) for number, of in state.items() for name, value in of.items()}


def nested(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """Inverse of `flat`; other tensors are left out."""
    found: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(PREFIX):
            _, number, what = name.split(".", 2)
            found.setdefault(int(number), {})[what] = tensor
    return found
