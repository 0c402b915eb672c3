"""Sharded data parallelism (FSDP2): weights, gradients, optimizer state and weight average are split by rows over processes.

PyTorch's ``fully_shard`` gathers the weights of a transformer block for its computation and reduce-scatters its gradients. Other
modules (encoders without blocks, heads) are gathered once per step. Frozen weights are not sharded. (Zhao et al. 2023, "PyTorch
FSDP"; Rajbhandari et al. 2020, "ZeRO", stage 3.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.layers.transformer import Block, CrossBlock
from verbot.training.distributed.flat_weights import in_order, rate_scale
from verbot.training.distributed.process_group import SHARDING, ProcessGroup

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule


class Sharded:
    """This process's shard of the trainable weights of `network`, as one vector; the sharded counterpart of `Whole`.

    Args:
        network: equal in all processes; its method ``losses`` gathers the weights of all.
        process_group: needs an open process group of torch.distributed.

    Raises `ConfigError` for a weight without rows.
    """

    def __init__(self, network: nn.Module, process_group: ProcessGroup):
        named = in_order(network)
        self.layout = {name: list(p.shape) for name, p in named}
        if single := [name for name, shape in self.layout.items() if not shape]:
            raise ConfigError(f"parallel=fsdp shards rows, and {', '.join(single)} has none: use parallel=data")
        scales = {name: rate_scale(p) for name, p in named}
        self._sharing = _shard(network, process_group.size, named[0][1].device)
        by_name = dict(network.named_parameters())
        self._parameters = [by_name[name] for name in self.layout]
        self._shapes = [_local(p).shape for p in self._parameters]
        sizes = [math.prod(shape) for shape in self._shapes]
        self._sizes, self._process_group = sizes, process_group
        self.weights = torch.cat([_local(p).detach().float().flatten() for p in self._parameters])  # (w,) of this process
        self.gradient = torch.zeros_like(self.weights)
        self.matrices = sum(size for size, p in zip(sizes, self._parameters, strict=True) if p.ndim >= 2)
        self.scale = None
        if set(scales.values()) != {1.0}:
            rates = zip(sizes, scales.values(), strict=True)
            self.scale = torch.cat([torch.full((size,), scale, device=self.weights.device) for size, scale in rates])

    def zero_grad(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    def all_reduce(self, process_group: ProcessGroup, *numbers: Tensor) -> None:
        """Collect the gradients, which the backward pass has averaged, and release them."""
        for part, parameter in zip(self.gradient.split(self._sizes), self._parameters, strict=True):
            if parameter.grad is None:
                part.zero_()
            else:
                part.copy_(_local(parameter.grad).flatten())
        self.zero_grad()
        process_group.average(*numbers)

    def norm(self) -> float:
        squares = self.gradient.double().square().sum().float()
        if self._process_group.size > 1:
            torch.distributed.all_reduce(squares)
        return math.sqrt(squares) if torch.isfinite(squares) else math.nan

    @torch.no_grad()
    def show(self, vector: Tensor) -> None:
        for module in self._sharing:  # after a forward pass without gradients, gathered weights are still allocated
            module.reshard()
        for part, parameter, shape in zip(vector.split(self._sizes), self._parameters, self._shapes, strict=True):
            _local(parameter).copy_(part.view(shape))

    def updated(self) -> None:
        self.show(self.weights)

    @torch.no_grad()
    def gathered(self, network: nn.Module) -> dict[str, Tensor]:
        """The state of the whole network, on the CPU, in rank 0; empty in other ranks. All processes must call this."""
        state: dict[str, Tensor] = {}
        for name, value in network.state_dict().items():
            whole = value.full_tensor() if hasattr(value, "full_tensor") else value
            if self._process_group.is_main:
                state[name] = whole.detach().cpu().clone()
        return state


def check_sharding(device: torch.device) -> None:
    """Raise `ConfigError` if sharding is not supported on such devices."""
    if device.type not in SHARDING:
        raise ConfigError(
            f"parallel=fsdp needs gloo or nccl, which support {' and '.join(SHARDING)}; this is "
            f"{device.type!r}: use parallel=data"
        )


def _shard(network: nn.Module, size: int, device: torch.device) -> list[FSDPModule]:
    """The modules of `network` that are now sharded, the network itself last."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(device.type, (size,))
    frozen = {p for p in network.parameters() if not p.requires_grad}
    sharing = [fully_shard(module, mesh=mesh, ignored_params=frozen) for module in (*_blocks(network), network)]
    register_fsdp_forward_method(network, "losses")
    return sharing


def _blocks(network: nn.Module) -> Iterator[nn.Module]:
    """Trainable transformer blocks; of nested ones the outermost."""
    names = {name for module in network.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    waiting = list(network.children())
    while waiting:
        module = waiting.pop()
        if not isinstance(module, Block | CrossBlock) and type(module).__name__ not in names:
            waiting += module.children()
        elif any(p.requires_grad for p in module.parameters()):
            yield module


def _local(tensor: Tensor) -> Tensor:
    """The rows of this process."""
    part: Tensor = tensor.to_local()  # type: ignore[attr-defined]
    return part
