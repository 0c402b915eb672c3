"""Images and sentences: which sentence is true of which image, learned from captions with hard negatives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.features import Features, Losses, NetworkParts, Predicted, Queries, TrainingObjective
from verbot.models.objectives.siglip import WATCHED
from verbot.models.protocols import ReadsSentences
from verbot.models.registries import contrasts, objectives
from verbot.models.tokens import Batch, TextBatch, TokenGroup


@objectives.register("contrastive")
class Contrastive(TrainingObjective):
    """A contrastive loss between images and sentences, from captions with hard negatives (``augment.captions``).

    Args:
        kind: ``"siglip"``, ``"clip"``, or another of `verbot.models.registries.contrasts`, made with `options`.
    """

    reads_fused = False

    def __init__(self, parts: NetworkParts, kind: str = "siglip", **options: Any):
        super().__init__()
        make, sizes = contrasts.get(kind), parts.sizes
        tokens = () if make.attends else (sum(parts.vision_counts.values()),)
        self.attends: bool = make.attends
        self.pair: nn.Module = make(sizes, *tokens, **options)
        self._read, self._look = parts.read, parts.look

    def queries(self, batch: Batch) -> Queries | None:
        captions = batch.captions
        return None if captions is None or not self.attends else Queries(captions.rows, captions.text)

    def prediction_queries(self, batch: Batch) -> Queries | None:
        """Each image is asked for its own instruction."""
        return Queries(torch.arange(len(batch.state), device=batch.state.device)) if self.attends else None

    def losses(self, features: Features, batch: Batch, generator: torch.Generator | None = None) -> Losses:
        """``"contrastive"``, and what to log (see `verbot.models.objectives.siglip.watched`); zeros without captions."""
        captions = batch.captions
        if captions is None:
            zero: Tensor = self.pair.steep * 0  # type: ignore[operator, assignment]
            return {"contrastive": zero, **dict.fromkeys(WATCHED, zero.detach())}
        if self.attends:
            asked = features.answers["contrastive"]
            sentences, seen = asked.sentences, asked.keypoints
        else:
            sentences, seen = self._read(captions.text), self.overview(batch)
        loss, watched = self.pair.losses(sentences, seen, captions)  # type: ignore[operator]
        return {"contrastive": loss, **watched}

    def predict(self, features: Features) -> Mapping[str, Predicted]:
        """``"alignment"`` (b,) in [-1, 1], how alike image and instruction are."""
        seen = features.answers["contrastive"].keypoints if self.attends else self.overview(features.batch)
        assert features.sentence is not None
        return {"alignment": Predicted(self.alignment(features.sentence.tokens[:, 0], seen))}

    def alignment(self, sentences: Tensor, seen: TokenGroup) -> Tensor:
        """The cosines (q,) of sentences (q, e) and what was seen for them, or in their images."""
        found: Tensor = self.pair.alignment(sentences, seen)  # type: ignore[operator]
        return found

    def overview(self, batch: Batch) -> TokenGroup:
        """What the latest images show whatever the sentence (b, n, e), of a kind that does not attend."""
        return self._look(batch, self.pair.prompt.expand(len(batch.state), -1))  # type: ignore[operator]


class ComparingNetwork(Protocol):
    """What `similarities` asks of a network (`verbot.models.network.VLANetwork`)."""

    objectives: Any
    backbone: Any


@torch.no_grad()
def similarities(network: ComparingNetwork, batch: Batch, text: TextBatch) -> Tensor:
    """The cosines (q, b) of sentences `text` and the latest images of `batch`, whatever its own instructions are.

    Raises `ConfigError` for a network without a contrastive objective.
    """
    if "contrastive" not in network.objectives:
        raise ConfigError("this network has no contrastive objective: train it with objectives.contrastive and augment.captions")
    contrastive: Contrastive = network.objectives["contrastive"]
    backbone: ReadsSentences = network.backbone
    sentences = backbone.sentences(text)
    count, images = len(sentences), len(batch.images)
    every = sentences.repeat_interleave(images, 0)  # (q·b, e)
    rows = torch.arange(images, device=sentences.device).repeat(count)
    if contrastive.attends:
        _, seen = backbone.see(batch, sentences[:1].expand(images, -1), (rows, every))  # the instruction does not matter here
        assert seen is not None
    else:
        seen = contrastive.overview(batch).take(rows)
    return contrastive.alignment(every, seen).view(count, images)
