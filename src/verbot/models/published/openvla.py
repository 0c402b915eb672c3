"""OpenVLA (Kim et al. 2024): patches of DINOv2 and SigLIP, projected into Llama 2, which writes an action as seven tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbot.models.encoders.vision.published_towers import PublishedTower, TowerConfig
from verbot.models.published.base import NetworkInputs, PublishedNetwork
from verbot.models.trunks.architecture import DecoderConfig
from verbot.models.trunks.decoder import LanguageDecoder

CHANNELS = 6  # of an image: three for each tower
STOP = 2  # the id of the end of a text


@dataclass(frozen=True)
class OpenVlaConfig:
    """The architecture of an OpenVLA.

    Args:
        dino, siglip: its two towers, which read images of the same side.
        language: the decoder.
        action: numbers of an action.
        words: tokens of the language model before those that fill its table up; the last ids of them mean actions.
        bins: edges of the bins in [−1, 1], of which there is one fewer.
    """

    dino: TowerConfig
    siglip: TowerConfig
    language: DecoderConfig
    action: int
    words: int
    bins: int = 256


class PrismaticNetwork(PublishedNetwork):
    """What OpenVLA and OpenVLA-OFT share.

    Inputs are ``pixels`` (b, 6 · v, s, s), and right-padded ``tokens`` with ``tokens_mask`` (b, n), which begin with the start
    of a text.
    """

    def __init__(self, config: OpenVlaConfig):
        super().__init__()
        self.config, width = config, config.language.width
        self.dino, self.siglip = PublishedTower(config.dino), PublishedTower(config.siglip)
        self.projector = PrismaticProjector(config.dino.width + config.siglip.width, width)
        self.language = LanguageDecoder(config.language)

    def patches(self, pixels: Tensor) -> Tensor:
        """The projected patches (b, v · p, d) of v images, image by image."""
        images = pixels.unflatten(1, (-1, CHANNELS)).flatten(0, 1)
        seen = torch.cat([self.dino(images[:, :3]), self.siglip(images[:, 3:])], -1)
        projected: Tensor = self.projector(seen)
        return projected.unflatten(0, (len(pixels), -1)).flatten(1, 2)

    @staticmethod
    def joined(words: Tensor, mask: Tensor, inserted: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings with `inserted` (b, m, d) after the first one, and which of them are real (b, m + n)."""
        there = mask.new_ones(len(mask), inserted.shape[1])
        x = torch.cat([words[:, :1], inserted.to(words.dtype), words[:, 1:]], 1)
        return x, torch.cat([mask[:, :1], there, mask[:, 1:]], 1)


class OpenVlaNetwork(PrismaticNetwork):
    """See `OpenVlaConfig`; it reads one image and answers one action."""

    def act(self, inputs: NetworkInputs, generators: Sequence[torch.Generator]) -> Tensor:
        """The most likely tokens, one after another; nothing is drawn."""
        return self.decoded(self.written(inputs)).unsqueeze(1)

    def written(self, inputs: NetworkInputs) -> Tensor:
        """The ids (b, a) of the most likely tokens. Decoding never stops early, and any token may be written, as published."""
        words = self.language.embed(inputs["tokens"])
        x, real = self.joined(words, inputs["tokens_mask"], self.patches(inputs["pixels"]))
        count = real.sum(1)
        output = self.language(x, causal(real), places(real))
        hidden = output.hidden[torch.arange(len(x), device=x.device), count - 1]
        ids, cache = [self.language.logits(hidden).argmax(-1)], output.cache
        for step in range(self.config.action - 1):
            real = torch.cat([real, real.new_ones(len(real), 1)], 1)
            word = self.language.embed(ids[-1].unsqueeze(1))
            output = self.language(word, real.unsqueeze(1), (count + step).unsqueeze(1), cache)
            cache = output.cache
            ids.append(self.language.logits(output.hidden[:, 0]).argmax(-1))
        return torch.stack(ids, 1)

    def decoded(self, ids: Tensor) -> Tensor:
        """Numbers in (−1, 1) of ids; one that means no bin is the nearest bin, as published."""
        edges = torch.linspace(-1, 1, self.config.bins, dtype=torch.float64)
        centers = ((edges[:-1] + edges[1:]) / 2).float().to(ids.device)
        return centers[(self.config.words - ids - 1).clamp(0, self.config.bins - 2)]

    def encoded(self, actions: Tensor) -> Tensor:
        """The ids that mean numbers of [−1, 1]."""
        edges = torch.linspace(-1, 1, self.config.bins, dtype=torch.float64, device=actions.device)
        return self.config.words - torch.bucketize(actions.double().clamp(-1, 1), edges, right=True)

    def losses(
        self, inputs: NetworkInputs, actions: Tensor, mask: Tensor, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """The cross-entropy of the tokens of an action (b, 1, a), and of the end of the text after them."""
        prompt, there = inputs["tokens"], inputs["tokens_mask"]
        answer = F.pad(self.encoded(actions[:, 0]), (0, 1), value=STOP)
        start = there.sum(1, keepdim=True)
        own = start + torch.arange(answer.shape[1], device=prompt.device)
        tokens = F.pad(prompt, (0, answer.shape[1])).scatter(1, own, answer)
        real = torch.arange(tokens.shape[1], device=prompt.device) < start + answer.shape[1]
        patches = self.patches(inputs["pixels"])
        x, real = self.joined(self.language.embed(tokens), real, patches)
        hidden = self.language(x, causal(real), places(real)).hidden
        before = own + patches.shape[1] - 1
        read = hidden.gather(1, before.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
        error = F.cross_entropy(self.language.logits(read).transpose(1, 2), answer, reduction="none").mean(1)
        kept = mask[:, 0].to(error)
        return {"action": (error * kept).sum() / kept.sum().clamp(min=1)}


class PrismaticProjector(nn.Module):
    def __init__(self, given: int, width: int):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(given, 4 * given), nn.Linear(4 * given, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(x)))))
        return out


def causal(real: Tensor) -> Tensor:
    """(b, n, n), where each token reads the real ones (b, n) up to itself."""
    return real.new_ones(real.shape[1], real.shape[1]).tril() & real.unsqueeze(1)


def places(real: Tensor) -> Tensor:
    """The positions (b, n) of real tokens, from 0 without gaps."""
    return (real.cumsum(1) - 1).clamp(min=0)
