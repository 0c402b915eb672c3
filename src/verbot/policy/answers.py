"""Questions to a network with a language trunk: what it sees, in its own words."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from verbot.errors import DataError, PolicyError
from verbot.models.network import VLANetwork
from verbot.models.speaking import SpeakingBackbone
from verbot.models.tokens import Batch, TextBatch

MOST = 48  # tokens of an answer


def check_answers(network: VLANetwork, observations: int, asked: int) -> None:
    """Raise `PolicyError` for a network that cannot say words, `DataError` unless each observation has a question."""
    if not isinstance(network.backbone, SpeakingBackbone):
        raise PolicyError(
            f"this policy has no words to answer with: its backbone is {network.config.backbone.name!r}; expected one with a "
            f"language trunk, such as 'vlm'. Train one with `verbot train rt2`"
        )
    if not network.config.is_trained("text"):
        raise PolicyError(
            "this policy was never trained to answer: it has no objective 'text'. Train one with `verbot train rt2`, or with "
            "objectives.text=1 and data.text.question"
        )
    if observations != asked:
        raise DataError(f"{asked} questions for {observations} observations; expected one for each")


def answer(network: VLANetwork, batch: Batch, asked: Sequence[str], knows_state: bool, most: int) -> list[str]:
    """The answer to each question about its row of the batch; see `VLAPolicy.answer`."""
    backbone = network.backbone
    assert isinstance(backbone, SpeakingBackbone)
    text, device = backbone.prepare_questions(asked, [True] * len(asked)), batch.state.device
    batch = dataclasses.replace(batch, text=TextBatch(text.values.to(device), text.mask.to(device)))
    if not knows_state:
        unknown = torch.zeros_like(batch.state), torch.zeros_like(batch.state_mask)
        batch = dataclasses.replace(batch, state=unknown[0], state_mask=unknown[1])
    end = backbone.tokenizer.end
    with torch.inference_mode():
        features, _ = network.backbone.prediction_features(batch, {})
        said = backbone.say(features, _likeliest, lambda ids: bool((ids == end).any(1).all()), most)
    return texts_of(network, said.tolist())


def texts_of(network: VLANetwork, said: Sequence[Sequence[int]]) -> list[str]:
    """The text of each row of ids before its first end, on one line."""
    backbone = network.backbone
    assert isinstance(backbone, SpeakingBackbone)
    end = backbone.tokenizer.end
    rows = [row[: row.index(end)] if end in row else row for row in said]
    return [" ".join(backbone.tokenizer.decode(row).split()) for row in rows]


def _likeliest(logits: Tensor, said: Tensor) -> Tensor:
    return logits.argmax(-1)
