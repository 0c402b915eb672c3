"""Questions to a policy with a language trunk: what it sees, in its own words."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from verbot.errors import DataError, PolicyError
from verbot.models.speaking import SpeakingBackbone
from verbot.models.tokens import TextBatch
from verbot.policy.memory import ProcessedObservation
from verbot.spec import Observation

if TYPE_CHECKING:
    from verbot.policy.policy import VLAPolicy

MOST = 48  # tokens of an answer


def speaking(policy: VLAPolicy) -> SpeakingBackbone:
    """The backbone of a policy that can say words. Raises `PolicyError` for another one."""
    backbone = policy.network.backbone
    if not isinstance(backbone, SpeakingBackbone):
        raise PolicyError(
            f"this policy has no words to answer with: its backbone is {policy.config.backbone.name!r}; expected one with a "
            f"language trunk, such as 'vlm'. Train one with `verbot train rt2`"
        )
    if not policy.config.is_trained("text"):
        raise PolicyError(
            "this policy was never trained to answer: it has no objective 'text'. Train one with `verbot train rt2`, or with "
            "objectives.text=1 and data.text.question"
        )
    return backbone


def answer(
    policy: VLAPolicy, observations: Sequence[Observation], questions: Sequence[str], knows_state: bool = True, most: int = MOST
) -> list[str]:
    """See `VLAPolicy.answer`."""
    backbone = speaking(policy)
    if len(observations) != len(questions):
        raise DataError(f"{len(questions)} questions for {len(observations)} observations; expected one for each")
    if not questions:
        return []
    processed = [policy.preprocess(observation, may_lack_cameras=True) for observation in observations]
    if not knows_state:
        processed = [_without_state(each) for each in processed]
    batch = policy.collate_observations(observations, processed)
    if not knows_state:
        batch = dataclasses.replace(batch, state_mask=torch.zeros_like(batch.state_mask))
    asked = [""] * len(questions) if policy.blind else list(questions)
    text = backbone.prepare_questions(asked, [True] * len(asked))
    with torch.inference_mode():
        features, _ = policy.network.backbone.prediction_features(
            dataclasses.replace(batch, text=TextBatch(text.values.to(policy.device), text.mask.to(policy.device))), {}
        )
        said = backbone.say(features, _likeliest, lambda ids: bool((ids == backbone.tokenizer.end).any(1).all()), most)
    return [_words(backbone, row) for row in said.tolist()]


def _without_state(each: ProcessedObservation) -> ProcessedObservation:
    return dataclasses.replace(each, state=np.zeros_like(each.state))


def _likeliest(logits: Tensor, said: Tensor) -> Tensor:
    return logits.argmax(-1)


def _words(backbone: SpeakingBackbone, ids: Sequence[int]) -> str:
    """The text before the first end, on one line."""
    end = backbone.tokenizer.end
    return " ".join(backbone.tokenizer.decode(ids[: ids.index(end)] if end in ids else ids).split())
