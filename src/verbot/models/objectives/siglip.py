"""Whether a sentence is true of a picture, judged by what is found where the sentence points."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbot.contracts import POINTS
from verbot.models.layers.transformer import SideBySide, masked_mean
from verbot.models.registries import contrasts
from verbot.models.tokens import Captions, Sizes, TokenGroup

WATCHED = ("matching", "mismatching", "told_apart")
SPAN = 10.0  # of logits
FITS = 0.3  # a cosine above this says that sentence and picture fit


@contrasts.register("siglip")
class Siglip(nn.Module):
    """A sigmoid loss on pairs (Zhai et al. 2023, "SigLIP") whose middle is a cosine of 0.3.

    The picture's side is made of the tokens that the sentence itself asks for, as a question does: what is found at the places
    where its taught heatmaps look, and how high their logits rise there, over the mean (the largest similarity of a place, as
    Yao et al. 2022, "FILIP"). So the way from words to places learns too.
    A pair fits with the probability σ(t · (cos − 0.3)), t learned, and half of the pairs are foils that are known not to fit:
    0.3 is where a fitting pair is as likely as one that does not.

    Args:
        space: dimensions in which the cosine is taken.
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

    def alignment(self, told: Tensor, seen: TokenGroup) -> Tensor:
        """The cosines (q,) of sentences (q, e) and what they find (q, v·p, e), of whose p a view the three taught ones count."""
        assert seen.heatmaps is not None
        tokens, mask, heat = (
            x.unflatten(1, (self.views, -1))[:, :, : len(POINTS)].flatten(1, 2) for x in (seen.tokens, seen.mask, seen.heatmaps)
        )
        heat = heat.flatten(2).float()  # (q, v·3, h·w)
        highest, mean = heat.amax(-1), heat.mean(-1)
        peaks = (torch.cat([highest, highest - mean], -1) / SPAN).tanh().masked_fill(~mask.repeat(1, 2), 0)
        found = torch.cat([self.found(TokenGroup(tokens, mask, seen.kind)), self.peaks(peaks.to(tokens.dtype))], -1)
        return F.cosine_similarity(self.say(told), self.view(found), dim=-1)

    def losses(self, told: Tensor, seen: TokenGroup, captions: Captions) -> tuple[Tensor, dict[str, Tensor]]:
        """The cross-entropy of matching and not; and what to watch (see `watched`)."""
        cosines = self.alignment(told, seen)
        logits = self.steep.exp() * (cosines - FITS)
        loss = F.binary_cross_entropy_with_logits(logits.float(), captions.true.float())
        return loss, watched(cosines, captions.true)


def watched(cosines: Tensor, true: Tensor) -> dict[str, Tensor]:
    """The mean cosine of what is true, ``"matching"``, and of what is not, and how often a caption's is above its foil's."""
    cosines = cosines.detach()
    right, wrong = cosines[true], cosines[~true]
    above = (right > wrong).float() if len(right) == len(wrong) else right.new_zeros(0)
    apart = above.mean() if len(above) else cosines.new_zeros(())
    means = (masked_mean(cosines.unsqueeze(-1), mask) for mask in (true, ~true))
    return dict(zip(WATCHED, (*means, apart), strict=True))
