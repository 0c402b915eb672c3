"""Gradient checkpointing (Chen et al. 2016): layers compute their activations again in the backward pass, not to keep them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

from torch import nn
from torch.utils.checkpoint import checkpoint

from verbot.models.protocols import HoldsLayers


def repeated_layers(network: nn.Module) -> list[nn.Module]:
    """The layers of which a network has lists, such as transformer blocks and the trunks of cameras; none inside another.

    The layers of frozen models that are not among the network's modules come last: what is before them keeps its activations
    for its gradient too.
    """
    found: list[nn.Module] = []
    inside = set[int]()
    for module in network.modules():
        if id(module) in inside or not isinstance(module, nn.ModuleList):
            continue
        for layer in module:
            found.append(layer)
            inside |= {id(part) for part in layer.modules()}
    held = [layer for module in network.modules() if isinstance(module, HoldsLayers) for layer in module.held_layers()]
    return [*found, *held]


@contextlib.contextmanager
def recomputed(network: nn.Module, enabled: bool = True) -> Iterator[None]:
    """While it is open, losses of `network` keep only the inputs of its repeated layers. Gradients are the same, to the bit.

    Each backward pass then computes these layers once more: less memory for more time.
    """
    layers = repeated_layers(network) if enabled else []
    for layer in layers:
        layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # that of its class again
