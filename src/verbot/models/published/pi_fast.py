"""π0-FAST (Pertsch et al. 2025): a PaliGemma that says actions as FAST tokens, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from verbot.models.encoders.vision.published_towers import TowerConfig
from verbot.models.published.base import NetworkInputs, PublishedNetwork
from verbot.models.published.pi import PaliGemma, prefix_positions
from verbot.models.trunks.architecture import DecoderConfig

NOTHING = -1  # after the end of what is said


@dataclass(frozen=True)
class PiFastConfig:
    """The architecture of a π0-FAST.

    Args:
        vision, language: of its two transformers.
        end: the id that ends a chunk.
        most: ids of a chunk, at most.
        temperature: of sampling; 0 says the most likely id.
    """

    vision: TowerConfig
    language: DecoderConfig
    end: int
    most: int = 256
    temperature: float = 0.0


class PiFastNetwork(PublishedNetwork):
    """See `PiFastConfig`. Inputs are ``images`` (b, v, 3, s, s) in [−1, 1], ``images_mask`` (b, v), and ``tokens`` and
    ``tokens_mask`` (b, n), the last of which starts what is said."""

    def __init__(self, config: PiFastConfig):
        super().__init__()
        self.config = config
        self.paligemma = PaliGemma(config.vision, config.language)

    def act(self, inputs: NetworkInputs, generators: Sequence[torch.Generator]) -> Tensor:
        """Token ids (b, n), `NOTHING` after the end of a chunk."""
        language = self.paligemma.language
        x, mask = self.paligemma.embed(*(inputs[name] for name in ("images", "images_mask", "tokens", "tokens_mask")))
        out = language(x, mask.unsqueeze(1) & mask.unsqueeze(2), prefix_positions(mask))
        said, over = list[Tensor](), torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for _ in range(self.config.most):
            token = self._chosen(language.logits(out.hidden[:, -1:])[:, 0], generators)
            said.append(token.masked_fill(over, NOTHING))
            over = over | (token == self.config.end)
            if bool(over.all()):
                break
            position, mask = mask.sum(1, keepdim=True), torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
            out = language(language.embed(token.unsqueeze(1)), mask.unsqueeze(1), position, out.cache)
        return torch.stack(said, 1)

    def losses(
        self, inputs: NetworkInputs, actions: Tensor, mask: Tensor, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """The mean cross-entropy of the ids after the first.

        Args:
            actions: the ids (b, l) of each chunk with what starts and ends it, `NOTHING` after it.
            mask: not read, because a chunk is said as a whole.
        """
        seen = {"tokens": inputs["tokens"][:, :-1], "tokens_mask": inputs["tokens_mask"][:, :-1]}
        x, there = self.paligemma.embed(inputs["images"], inputs["images_mask"], seen["tokens"], seen["tokens_mask"])
        real, ids = actions != NOTHING, actions.clamp(min=0)
        whole, everything = torch.cat([x, self.paligemma.language.embed(ids).to(x)], 1), torch.cat([there, real], 1)
        block = torch.cat([torch.zeros(x.shape[1], dtype=torch.int64), torch.arange(1, ids.shape[1] + 1)]).to(x.device)
        allowed = (block[None] <= block[:, None]) & everything.unsqueeze(1) & everything.unsqueeze(2)
        hidden = self.paligemma.language(whole, allowed, prefix_positions(everything)).hidden[:, x.shape[1] : -1]
        loss = F.cross_entropy(self.paligemma.language.logits(hidden).transpose(1, 2), ids[:, 1:], reduction="none")
        return {"action": (loss * real[:, 1:]).sum() / real[:, 1:].sum().clamp(min=1)}

    def _chosen(self, logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """(b,) int64 of logits (b, v)."""
        if not self.config.temperature:
            return logits.argmax(-1)
        shares = (logits / self.config.temperature).softmax(-1).cpu()
        rows = [torch.multinomial(row, 1, generator=each) for row, each in zip(shares, generators, strict=True)]
        return torch.cat(rows).to(logits.device)
