"""What the network of a published policy is, and how it is filled: strictly, memory-mapped, one file at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from verbot.models.allocation import uncounted
from verbot.models.trunks.weights import Targets, TensorFiles, load_exactly

# What draws weights: functions of torch.nn.init, and the methods of tensors that they call.
DRAWS = frozenset(
    {
        *(nn.init.normal_, nn.init.uniform_, nn.init.trunc_normal_, nn.init.kaiming_uniform_, nn.init.kaiming_normal_),
        *(nn.init.xavier_uniform_, nn.init.xavier_normal_, Tensor.normal_, Tensor.uniform_),
    }
)
# Checkpoints below this are read into memory, because rounding depends on where in memory a weight lies; larger ones are mapped.
MAPPED_FROM = 2**30  # bytes
Network = TypeVar("Network", bound=nn.Module)
NetworkInputs = Mapping[str, Tensor]


class PublishedNetwork(nn.Module, ABC):
    """A network that acts. It is built on the meta device and filled by `filled`; it computes in the dtype of its weights."""

    @abstractmethod
    def act(self, inputs: NetworkInputs, generators: Sequence[torch.Generator]) -> Tensor:
        """Normalized actions (b, k, a) float32, or the token ids (b, n) of which the policy's processing makes them.

        Args:
            inputs: what the policy's processing makes of b observations.
            generators: one for each row, on the CPU; a network that draws noise draws that of a row from its generator.
        """


@runtime_checkable
class TrainableNetwork(Protocol):
    """A network that can be trained further."""

    def losses(
        self, inputs: NetworkInputs, actions: Tensor, mask: Tensor, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """Scalars to minimize the sum of, ``"action"`` among them, for normalized actions (b, k, a) with their mask (b, k)."""
        ...


@dataclass(frozen=True)
class WeightNames:
    """Which tensor of the files became which weights, so that they can be written back under their published names.

    Args:
        files: the file of each tensor, relative to its folder.
        weights: the weights that it fills, in equal parts along its first axis; none for one that is left out.
        shapes: of the tensors of the files, which may have a first axis of one that a weight does not have.
    """

    files: Mapping[str, str]
    weights: Mapping[str, Targets]
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def published(self, state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """The tensors of a network with these weights, by file and published name. Tensors that were left out stay out."""
        found: dict[str, dict[str, Tensor]] = {}
        for name, own in self.weights.items():
            if own:
                value = state[own[0]] if len(own) == 1 else torch.cat([state[each] for each in own])
                shaped = value.detach().cpu().reshape(self.shapes.get(name, value.shape))
                found.setdefault(self.files[name], {})[name] = shaped.contiguous()
        return found


def filled(
    build: Callable[[], Network], tensors: TensorFiles, targets: Callable[[str], Targets], dtype: torch.dtype | None = None
) -> tuple[Network, WeightNames]:
    """The network that `build` makes, with the weights of the files, in evaluation mode.

    Args:
        targets: the weights that a tensor of the files fills, by its name; an unknown name is its own target, which is refused.
        dtype: of the weights; None keeps that of the files, whose memory they then share if it is large.

    Buffers of the network that no file holds must not be persistent, and not be made on the meta device.

    Raises `CorruptFileError` for a tensor that is unknown, missing, misshapen or doubled, and names it.
    """
    with uncounted():
        with torch.device("meta"), Undrawn():
            network = build()
        load_exactly(network, tensors, targets, dtype)
        if sum(value.nbytes for value in network.state_dict().values()) < MAPPED_FROM:
            own = {name: value.clone() for name, value in network.state_dict().items()}
            network.load_state_dict(own, assign=True)
    if len({value.dtype for value in network.state_dict().values() if value.is_floating_point()}) > 1:
        accept_every_dtype(network)
    files = {name: path.relative_to(tensors.folder).as_posix() for name, path in tensors.files.items()}
    names = WeightNames(files, {name: targets(name) for name in files}, tensors.shapes)
    return network.eval(), names


class Undrawn(TorchFunctionMode):
    """Weights inside are not drawn. On the meta device drawing would import torch's compiler, which takes seconds."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in DRAWS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def accept_every_dtype(network: nn.Module) -> None:
    """Let each layer take inputs of another floating point than its weights, as in files that mix bfloat16 and float32."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv1d | nn.LayerNorm | nn.GroupNorm | nn.ConvTranspose1d):
            module.register_forward_pre_hook(_cast)


def _cast(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    dtype = next(module.parameters()).dtype
    return tuple(x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for x in given)
