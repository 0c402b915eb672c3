"""Sentences and pictures: the captions of a batch, which a contrast learns from, or each against each."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from verbot.errors import ConfigError
from verbot.models.objectives.siglip import WATCHED
from verbot.models.tokens import Batch, TextBatch, TokenGroup


class ComparingNetwork(Protocol):
    """What a contrast asks of a network (`verbot.models.network.VLANetwork`)."""

    contrast: Any

    def read(self, text: TextBatch) -> tuple[TokenGroup, TokenGroup]: ...

    def see(
        self, images: Tensor, mask: Tensor, sentence: Tensor, asking: Any = None, features: Tensor | None = None
    ) -> tuple[list[TokenGroup], TokenGroup | None]: ...

    def glance(self, batch: Batch) -> TokenGroup: ...


def compared(network: ComparingNetwork, batch: Batch, answers: TokenGroup | None, told: Tensor | None) -> dict[str, Tensor]:
    """The losses of the network's contrast; zeros for a batch without captions.

    Args:
        answers, told: where the contrast attends, what questions and then captions find, and their sentences (q, e).
    """
    captions, contrast = batch.captions, network.contrast
    if captions is None:
        zero = contrast.steep * 0
        return {"contrast": zero, **dict.fromkeys(WATCHED, zero.detach())}
    if contrast.attends:
        assert answers is not None and told is not None
        last = len(answers.tokens) - len(captions.rows)
        found: dict[str, Tensor] = contrast.losses(told[last:], answers.take(slice(last, None)), captions)
        return found
    found = contrast.losses(network.read(captions.text)[1].tokens[:, 0], network.glance(batch), captions)
    return found


@torch.no_grad()
def similarities(network: ComparingNetwork, batch: Batch, text: TextBatch) -> Tensor:
    """The cosines (q, b) of sentences `text` and the latest pictures of `batch`, whatever its own instructions are.

    Raises `ConfigError` for a network without a contrast.
    """
    contrast = network.contrast
    if contrast is None:
        raise ConfigError("this network compares nothing: train it with network.contrast.name=match and augment.captions")
    told = network.read(text)[1].tokens[:, 0]
    count, pictures = len(told), len(batch.images)
    every = told.repeat_interleave(pictures, 0)  # (q·b, e)
    rows = torch.arange(pictures, device=told.device).repeat(count)
    if contrast.attends:
        sentence = told[:1].expand(pictures, -1)  # what is done in the pictures does not matter here
        _, seen = network.see(batch.images, batch.images_mask, sentence, (rows, every), batch.features)
    else:
        seen = network.glance(batch).take(rows)
    found: Tensor = contrast.alignment(every, seen)
    return found.view(count, pictures)
