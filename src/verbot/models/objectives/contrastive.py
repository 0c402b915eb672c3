"""Contrastive learning of images and sentences, from captions with hard negatives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.features import AuxiliaryPrediction, Features, Losses, NetworkParts, Queries, TrainingObjective
from verbot.models.objectives.siglip import WATCHED
from verbot.models.protocols import EncodesPairs
from verbot.models.registries import contrastive_losses, objectives
from verbot.models.tokens import Batch, TextBatch, TokenGroup


@objectives.register("contrastive")
class Contrastive(TrainingObjective):
    """A contrastive loss between images and sentences, from captions with hard negatives (``augment.captions``).

    Args:
        kind: ``"siglip"``, ``"clip"``, or another of `verbot.models.registries.contrastive_losses`, made with `options`.
    """

    reads_fused = False

    def __init__(self, parts: NetworkParts, kind: str = "siglip", **options: Any):
        super().__init__()
        make, sizes = contrastive_losses.get(kind), parts.sizes
        tokens = () if make.attends else (sum(parts.vision_counts.values()),)
        self.attends: bool = make.attends
        self.pair: nn.Module = contrastive_losses.build(kind, sizes, *tokens, **options)
        self._sentence_embeddings, self._encode_latest = parts.sentence_embeddings, parts.encode_latest

    def queries(self, batch: Batch) -> Queries | None:
        captions = batch.captions
        return None if captions is None or not self.attends else Queries(captions.rows, captions.text)

    def prediction_queries(self, batch: Batch) -> Queries | None:
        """One query per row: the row's own instruction."""
        return Queries(torch.arange(batch.state.shape[0], device=batch.state.device)) if self.attends else None

    def losses(self, features: Features, batch: Batch, generator: torch.Generator | None = None) -> Losses:
        """``"contrastive"``, and what to log (see `verbot.models.objectives.siglip.watched`); zeros without captions."""
        captions = batch.captions
        if captions is None:
            zero: Tensor = self.pair.steep * 0  # type: ignore[operator, assignment]
            return {"contrastive": zero, **dict.fromkeys(WATCHED, zero.detach())}
        if self.attends:
            answers = features.answers["contrastive"]
            sentences, seen = answers.sentences, answers.keypoints
        else:
            sentences, seen = self._sentence_embeddings(captions.text), self.overview(batch)
        loss, watched = self.pair.losses(sentences, seen, captions)  # type: ignore[operator]
        return {"contrastive": loss, **watched}

    def predict(self, features: Features) -> Mapping[str, AuxiliaryPrediction]:
        """``"alignment"`` (b,) in [-1, 1], the similarity of image and instruction."""
        seen = features.answers["contrastive"].keypoints if self.attends else self.overview(features.batch)
        assert features.sentence is not None
        return {"alignment": AuxiliaryPrediction(self.alignment(features.sentence.tokens[:, 0], seen))}

    def alignment(self, sentences: Tensor, seen: TokenGroup) -> Tensor:
        """The cosine similarities (q,) of sentences (q, e) with the tokens of their images."""
        found: Tensor = self.pair.alignment(sentences, seen)  # type: ignore[operator]
        return found

    def overview(self, batch: Batch) -> TokenGroup:
        """Tokens (b, n, e) of the latest images, encoded with the learned prompt instead of a sentence."""
        return self._encode_latest(batch, self.pair.prompt.expand(len(batch.state), -1))  # type: ignore[operator]


class ComparingNetwork(Protocol):
    """The part of `verbot.models.network.VLANetwork` that `similarities` needs."""

    objectives: Any
    backbone: Any


@torch.no_grad()
def similarities(network: ComparingNetwork, batch: Batch, text: TextBatch) -> Tensor:
    """The cosine similarities (q, b) of sentences `text` with the latest images of `batch`, independent of its instructions.

    Raises `ConfigError` for a network without a contrastive objective.
    """
    if "contrastive" not in network.objectives:
        raise ConfigError("this network has no contrastive objective: train it with objectives.contrastive and augment.captions")
    contrastive: Contrastive = network.objectives["contrastive"]
    backbone: EncodesPairs = network.backbone
    sentences = backbone.sentence_embeddings(text)
    count, images = len(sentences), len(batch.images)
    every = sentences.repeat_interleave(images, 0)  # (q·b, e)
    rows = torch.arange(images, device=sentences.device).repeat(count)
    if contrastive.attends:
        _, seen = backbone.encode_images(
            batch, sentences[:1].expand(images, -1), (rows, every)
        )  # the instruction does not matter here
        assert seen is not None
    else:
        seen = contrastive.overview(batch).select(rows)
    return contrastive.alignment(every, seen).view(count, images)
