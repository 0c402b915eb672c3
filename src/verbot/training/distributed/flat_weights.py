"""All trainable weights of a network as one vector, with a full copy in every process."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from verbot.errors import TrainingError
from verbot.training.distributed.process_group import ProcessGroup


class Whole:
    """All trainable weights of a network as one vector; its parameters are views of it, their gradients views of another.

    Args:
        network: its matrices come first in the vector.
    """

    def __init__(self, network: nn.Module):
        named = in_order(network)
        self._parameters = [p for _, p in named]
        self.layout = {name: list(p.shape) for name, p in named}
        self.weights = torch.cat([p.detach().float().flatten() for p in self._parameters])  # (w,)
        self.gradient = torch.zeros_like(self.weights)
        self.matrices = sum(p.numel() for p in self._parameters if p.ndim >= 2)
        self.scale = None  # (w,), if the rates differ
        scales = [rate_scale(p) for p in self._parameters]
        if set(scales) != {1.0}:
            rates = zip(self._parameters, scales, strict=True)
            self.scale = torch.cat([torch.full((p.numel(),), scale, device=p.device) for p, scale in rates])
        self.show(self.weights)
        for parameter, slope in zip(self._parameters, self._views(self.gradient), strict=True):
            parameter.grad = slope

    def zero_grad(self) -> None:
        """Reset the gradient."""
        self.gradient.zero_()

    def all_reduce(self, process_group: ProcessGroup, *numbers: Tensor) -> None:
        """Average `gradient` and `numbers` over all processes, in place."""
        process_group.average(self.gradient, *numbers)

    def norm(self) -> float:
        """The norm of the gradient of all weights."""
        return float(torch.linalg.vector_norm(self.gradient))

    def show(self, vector: Tensor) -> None:
        """Let the network use these weights."""
        for parameter, value in zip(self._parameters, self._views(vector), strict=True):
            parameter.data = value

    def updated(self) -> None:
        """Called after a change of `weights`; views need no update."""

    def _views(self, vector: Tensor) -> list[Tensor]:
        sizes = [p.numel() for p in self._parameters]
        return [part.view(p.shape) for part, p in zip(vector.split(sizes), self._parameters, strict=True)]


def in_order(network: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The trainable parameters, matrices first, so that weight decay is one slice. Raises `TrainingError` for none at all."""
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    named.sort(key=lambda item: item[1].ndim < 2)  # stable
    if not named:
        raise TrainingError("the network has no trainable parameters")
    return named


def rate_scale(parameter: nn.Parameter) -> float:
    return float(getattr(parameter, "lr_scale", 1.0))
