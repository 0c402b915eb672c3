"""A limit of what is allocated while a network is built."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from verbot.errors import ConfigError

SIZED = (torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn, torch.full)
POINTWISE = ("mul", "add", "sub", "rsub", "div", "truediv", "pow", "eq", "ne", "lt", "le", "gt", "ge")
_uncounted: ContextVar[bool] = ContextVar("uncounted", default=False)


@contextlib.contextmanager
def uncounted() -> Iterator[None]:
    """Weights that are allocated here have a file of their own."""
    token = _uncounted.set(True)
    try:
        yield
    finally:
        _uncounted.reset(token)


class AllocationBudget(TorchFunctionMode):
    """Raises `ConfigError` before more than `numbers` have been allocated, or torch called more than `calls` times."""

    def __init__(self, numbers: int, calls: int):
        super().__init__()
        self._numbers, self._calls = numbers, calls

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if _uncounted.get():
            return func(*args, **kwargs)
        self._take(_result_size(func, args, kwargs))
        return func(*args, **kwargs)

    def _take(self, numbers: int) -> None:
        self._numbers, self._calls = self._numbers - numbers, self._calls - 1
        if self._numbers < 0 or self._calls < 0:
            raise ConfigError("it is far larger than the weights in its file")


def _result_size(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """The numbers that a call allocates, where its arguments say so; 0 elsewhere."""
    if func in SIZED:
        sizes = kwargs.get("size", args[0] if args and isinstance(args[0], tuple | list) else args)
        sizes = sizes[:1] if func is torch.full and sizes is args else sizes
        return math.prod(int(side) for side in ((sizes,) if isinstance(sizes, int) else sizes))
    plain = [each for each in args if isinstance(each, int | float)]
    if func is torch.arange and len(plain) == len(args) and plain:
        start, stop, step = (0, plain[0], 1) if len(plain) == 1 else (*plain, 1)[:3]
        return max(0, int((stop - start) / step))
    if func is torch.linspace:
        return int(kwargs.get("steps", args[2] if len(args) > 2 else 0))
    if func is torch.eye and plain:
        return int(plain[0]) * int(plain[-1])
    tensors = [each for each in args if isinstance(each, Tensor)]
    if len(tensors) == 2 and func.__name__.strip("_") in POINTWISE:
        return math.prod(torch.broadcast_shapes(*(each.shape for each in tensors)))
    return 0
