"""Records attention weights without changing the network, to show where a policy attends for each word.

For a network, by word and image position::

    with watch_attention(network) as weights, watch_groups(network.backbone.fusion) as given:
        network.predict(batch)
    words, places = slices(text_groups(given[0])), slices(observation_groups(given[0]))
    attended = weights["fusion.look.0.attention"][0][:, :, words["words"], places["keypoints"]]  # (b, heads, words, keypoints)

Example:
    >>> attention = Attention(8, heads=2)
    >>> with watch_attention(attention) as weights:
    ...     read = attention(torch.zeros(1, 3, 8), torch.zeros(1, 5, 8), torch.ones(1, 5, dtype=torch.bool))
    >>> weights[""][0].shape
    torch.Size([1, 2, 3, 5])
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.layers.transformer import Attention
from verbot.models.tokens import TokenGroup


@contextmanager
def watch_attention(module: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Inside the block, record the weights (b, heads, m, n) of every attention in `module`, by its dotted name.

    Each list has one entry per call, without gradients. The weights are computed separately, so outputs do not change, and
    attention outside such a block has no overhead. The rows m and columns n are the queries and keys of the call. The docstring
    of each fusion states the order in which it concatenates its groups; `slices` gives the position of each group.
    """
    found: dict[str, list[Tensor]] = {}

    def watch(name: str, attention: Attention) -> Any:
        @torch.no_grad()
        def note(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor) -> None:
            found[name].append(attention.weights(*args, **kwargs))

        found[name] = []
        return attention.register_forward_hook(note, with_kwargs=True)

    with ExitStack() as stack:
        for name, part in module.named_modules():
            if isinstance(part, Attention):
                stack.callback(watch(name, part).remove)
        yield found


@contextmanager
def watch_groups(fusion: nn.Module) -> Iterator[list[list[TokenGroup]]]:
    """Inside the block, record the token groups that are passed to `fusion`, one list per call."""
    given: list[list[TokenGroup]] = []
    handle = fusion.register_forward_pre_hook(lambda _, args: given.append(list(args[0])))
    try:
        yield given
    finally:
        handle.remove()


def slices(groups: Sequence[TokenGroup], frames: int = 1) -> dict[str, slice]:
    """The position of each kind's tokens after concatenating `groups` in this order.

    Args:
        frames: 1 for a sequence with the tokens of all frames; the history for a sequence of a single frame.

    Raises `ConfigError` if two groups are of one kind.
    """
    found: dict[str, slice] = {}
    start = 0
    for group in groups:
        if group.kind in found:
            raise ConfigError(f"two groups are of the kind {group.kind!r}: {[g.kind for g in groups]}; join or rename them first")
        stop = start + group.tokens.shape[1] // frames
        found[group.kind], start = slice(start, stop), stop
    return found
