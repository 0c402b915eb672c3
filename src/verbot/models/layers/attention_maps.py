"""What was attended to, watched from outside: for pictures of where a policy looked, and for which word.

Of a network, by word and place::

    with watch_attention(network) as weights, watch_groups(network.backbone.fusion) as given:
        network.predict(batch)
    words, places = slices(text_groups(given[0])), slices(seen(given[0]))
    looked = weights["fusion.look.0.attention"][0][:, :, words["words"], places["keypoints"]]  # (b, heads, words, keypoints)

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
    """For as long as the block lasts, the weights (b, heads, m, n) of every attention inside `module`, by its dotted name.

    A list holds one entry a call, without gradients. Nothing is computed differently: the weights are worked out a second time,
    beside the call. Unwatched attention costs nothing. The rows m and the columns n are the queries and keys that the attention
    was given; every fusion says in what order it joins its groups, and `slices` says where each group then lies.
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
    """For as long as the block lasts, the token groups that `fusion` is given, one list a call."""
    given: list[list[TokenGroup]] = []
    handle = fusion.register_forward_pre_hook(lambda _, args: given.append(list(args[0])))
    try:
        yield given
    finally:
        handle.remove()


def slices(groups: Sequence[TokenGroup], frames: int = 1) -> dict[str, slice]:
    """Where each kind's tokens lie once `groups` are joined in this order.

    Args:
        frames: 1 for a sequence of all frames' tokens; the history for one that holds a single frame's.

    Raises `ConfigError` where two groups are of one kind.
    """
    found: dict[str, slice] = {}
    start = 0
    for group in groups:
        if group.kind in found:
            raise ConfigError(f"two groups are of the kind {group.kind!r}: {[g.kind for g in groups]}; join or rename them first")
        stop = start + group.tokens.shape[1] // frames
        found[group.kind], start = slice(start, stop), stop
    return found
