"""The contrastive loss of CLIP, between image embeddings that do not depend on the sentence and sentence embeddings."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbot.models.layers.transformer import SideBySide
from verbot.models.objectives.siglip import watched
from verbot.models.registries import contrastive_losses
from verbot.models.tokens import Captions, Sizes, TokenGroup

STEEPEST = 100.0  # upper bound of the logit scale, as in CLIP


@contrastive_losses.register("clip")
class ClipContrast(nn.Module):
    """InfoNCE in both directions (Radford et al. 2021, "CLIP"), with hard negatives (Faghri et al. 2018, "VSE++").

    The vision encoder gets a learned prompt in place of a sentence. The loss classifies the image of each true caption among all
    images of the batch, and each true caption of an image against the captions of other images and the image's own hard
    negatives. A caption of another image counts as false even if it happens to be true, as in CLIP.

    Args:
        space: dimension of the embeddings.
    """

    attends = False

    def __init__(self, sizes: Sizes, tokens: int, space: int = 32):
        super().__init__()
        self.prompt = nn.Parameter(torch.randn(sizes.width))
        self.say = nn.Sequential(nn.LayerNorm(sizes.width), nn.Linear(sizes.width, space))
        self.view = nn.Sequential(SideBySide(sizes.width, tokens), nn.Linear(sizes.width, space))
        self.steep = nn.Parameter(torch.tensor(1 / 0.07).log())

    def alignment(self, sentences: Tensor, seen: TokenGroup) -> Tensor:
        """The cosine similarities (b,) of sentences (b, e) and images (b, n, e)."""
        return F.cosine_similarity(self.say(sentences), self.view(seen), dim=-1)

    def losses(self, sentences: Tensor, seen: TokenGroup, captions: Captions) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean cross-entropy of both directions, and the values to log."""
        said, viewed = F.normalize(self.say(sentences), dim=-1), F.normalize(self.view(seen), dim=-1)
        cosines = said @ viewed.T  # (q, b)
        logits = self.steep.exp().clamp(max=STEEPEST) * cosines.float()
        rows, true = captions.rows, captions.true
        to_image = F.cross_entropy(logits[true], rows[true])
        own = rows[:, None] == torch.arange(len(viewed), device=rows.device)  # (q, b)
        false = torch.where(own, ~true[:, None], true[:, None])  # others' captions and own hard negatives
        others = logits.masked_fill(~false, -math.inf).logsumexp(0)[rows[true]]
        fitting = logits[true].gather(1, rows[true, None]).squeeze(1)
        to_caption = (torch.logaddexp(fitting, others) - fitting).mean()
        return (to_image + to_caption) / 2, watched(cosines.gather(1, rows[:, None]).squeeze(1), true)
