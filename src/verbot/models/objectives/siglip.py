"""A sigmoid contrastive loss on the image features at the keypoints of the sentence."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbot.contracts import POINTS
from verbot.models.layers.transformer import SideBySide, masked_mean
from verbot.models.registries import contrastive_losses
from verbot.models.tokens import Captions, Sizes, TokenGroup

WATCHED = ("matching", "mismatching", "separated")
SPAN = 10.0  # scale of logits
FITS = 0.3  # cosine similarity at which a match has a probability of one half


@contrastive_losses.register("siglip")
class Siglip(nn.Module):
    """A sigmoid loss on pairs (Zhai et al. 2023, "SigLIP") with a fixed bias of 0.3.

    The image embedding depends on the sentence. It is computed from the sentence's supervised keypoint tokens, and from the peak
    of their heatmap logits over the mean (the maximum similarity over positions, as in "FILIP", Yao et al. 2022). So the loss
    also trains the grounding of words.
    A pair matches with probability σ(t · (cos − 0.3)) with learned t. Half of the pairs are hard negatives; at a cosine of 0.3
    match and mismatch are equally likely.

    Args:
        space: dimension of the embeddings.
    """

    attends = True

    def __init__(self, sizes: Sizes, space: int = 32):
        super().__init__()
        self.views = sizes.views
        self.say = nn.Sequential(nn.LayerNorm(sizes.width), nn.Linear(sizes.width, space))
        looks = sizes.views * len(POINTS)
        self.found, self.peaks = SideBySide(sizes.width, looks), nn.Linear(2 * looks, sizes.width)
        self.view = nn.Sequential(nn.GELU(), nn.Linear(2 * sizes.width, space))
        self.steep = nn.Parameter(torch.tensor(10.0).log())  # log t

    def alignment(self, sentences: Tensor, seen: TokenGroup) -> Tensor:
        """The cosine similarities (q,) of sentences (q, e) with their supervised keypoint tokens, among all (q, v·p, e)."""
        assert seen.heatmaps is not None
        tokens, mask, heat = (
            x.unflatten(1, (self.views, -1))[:, :, : len(POINTS)].flatten(1, 2) for x in (seen.tokens, seen.mask, seen.heatmaps)
        )
        heat = heat.flatten(2).float()  # (q, v·3, h·w)
        highest, mean = heat.amax(-1), heat.mean(-1)
        peaks = (torch.cat([highest, highest - mean], -1) / SPAN).tanh().masked_fill(~mask.repeat(1, 2), 0)
        found = torch.cat([self.found(TokenGroup(tokens, mask, seen.kind)), self.peaks(peaks.to(tokens.dtype))], -1)
        return F.cosine_similarity(self.say(sentences), self.view(found), dim=-1)

    def losses(self, sentences: Tensor, seen: TokenGroup, captions: Captions) -> tuple[Tensor, dict[str, Tensor]]:
        """The binary cross-entropy, and the values to log (see `watched`)."""
        cosines = self.alignment(sentences, seen)
        logits = self.steep.exp() * (cosines - FITS)
        loss = F.binary_cross_entropy_with_logits(logits.float(), captions.true.float())
        return loss, watched(cosines, captions.true)


def watched(cosines: Tensor, true: Tensor) -> dict[str, Tensor]:
    """Mean cosines of true and false pairs (``"matching"``, ``"mismatching"``); how often a caption exceeds its hard negative."""
    cosines = cosines.detach()
    right, wrong = cosines[true], cosines[~true]
    above = (right > wrong).float() if len(right) == len(wrong) else right.new_zeros(0)
    apart = above.mean() if len(above) else cosines.new_zeros(())
    means = (masked_mean(cosines.unsqueeze(-1), mask) for mask in (true, ~true))
    return dict(zip(WATCHED, (*means, apart), strict=True))
