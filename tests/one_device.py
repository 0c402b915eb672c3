"""A device that no machine lacks stands for a GPU: torch's meta device, which computes shapes and no values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

READ = {"__int__", "__float__", "__bool__", "__index__", "item", "tolist"}  # what brings a value out of a tensor
MOVES = {"to", "copy_", "_has_compatible_shallow_copy_type", "__set__", "__get__"}  # what may see two devices


def _masks(name: str, args: tuple[Any, ...]) -> list[torch.Tensor]:
    """The rows that an index chooses by truth, which say how many there are only where there are values."""
    chosen = args[1] if name == "__getitem__" else ()
    chosen = chosen if isinstance(chosen, tuple) else (chosen,)
    return [x for x in chosen if isinstance(x, torch.Tensor) and x.dtype is torch.bool and x.ndim == 1]


class Recorded(TorchFunctionMode):
    """Notes every value that is read out of a tensor, and how many rows are chosen by their values, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[Any] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        self.values.extend(int(mask.detach().cpu().numpy().sum()) for mask in _masks(name, args))
        found = function(*args, **(kwargs or {}))
        if name in READ:
            self.values.append(found)
        elif name == "nonzero":
            self.values.append(tuple(found.shape))
        return found


class OneDevice(TorchFunctionMode):
    """Raises where a GPU would: two devices meet in one operation, or a generator draws on a device that is not its own.

    A number (a tensor without dimensions) may come from the CPU, as with a GPU. Where a value is read out of a tensor that has
    none, the next of `values` is given, or else 0.5; where rows are chosen by values, as many as `values` says.
    """

    def __init__(self, values: list[Any] | None = None) -> None:
        super().__init__()
        self._values: Iterator[Any] | None = None if values is None else iter(values)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(function, "__name__", "")
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if name in READ:
            return self._read(function, name, tensors[0])
        if self._values is not None and name == "nonzero":
            return torch.empty(next(self._values), dtype=torch.long, device="meta")
        if self._values is not None and (masks := _masks(name, args)):
            rows = {id(mask): torch.empty(next(self._values), dtype=torch.long, device="meta") for mask in masks}
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            args = (args[0], tuple(rows.get(id(x), x) for x in index))
        devices = {tensor.device.type for tensor in tensors if tensor.ndim}
        if len(devices) > 1 and name not in MOVES:
            raise RuntimeError(f"{name} was given tensors on {sorted(devices)}")
        generator, device = kwargs.get("generator"), kwargs.get("device")
        if generator is not None and device is not None and torch.device(device).type != generator.device.type:
            raise RuntimeError(f"{name} draws on {device} from a generator on {generator.device}")
        found = function(*args, **kwargs)
        made = {leaf.device.type for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor) and leaf.ndim}
        if devices == {"meta"} and "cpu" in made and name not in MOVES:
            raise RuntimeError(f"{name} of tensors on meta made one on the CPU")
        return found

    def _read(self, function, name, tensor):
        if self._values is not None:
            return next(self._values)
        if tensor.device.type != "meta":
            return function(tensor)
        return [0.5] * tensor.numel() if name == "tolist" else 0.5
