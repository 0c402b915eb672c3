"""The head of ACT: action chunks by a conditional variational autoencoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.action_space import ActionReadout, Continuous, normal, targets
from verbot.models.layers.transformer import Block, CrossBlock, masked_mean, reader
from verbot.models.registries import heads
from verbot.models.tokens import Batch, HeadInput, TokenGroup, join

PRIORS = ("standard", "learned")


@dataclass(frozen=True)
class Transformer:
    """How large the style encoder and the decoder are.

    Args:
        hidden, layers, heads, expansion: the width, the numbers of layers and heads, and the feed-forward expansion of each.
        decoder: number of layers of the decoder, if it differs from the style encoder.
    """

    hidden: int = 128
    layers: int = 2
    heads: int = 4
    expansion: int = 2
    decoder: int | None = None

    @property
    def decoder_layers(self) -> int:
        return self.decoder or self.layers


TRANSFORMER = Transformer()


@heads.register("cvae")
class CVAE(nn.Module):
    """A conditional variational autoencoder of chunks, as in ACT (Zhao et al. 2023).

    In training, a transformer encodes [style, observation, actions] to the normal posterior of a latent style z. A sample of z
    and the fused tokens are the keys of k learned queries, each of which gives one action. The loss is the reconstruction error
    (see `verbot.models.action_space.ActionReadout`: L1 for most kinds) plus `kl_weight` × the KL divergence of the
    posterior from and prior. In
    prediction z is the mean of the prior, or sampled from it if a generator is given.

    Args:
        prior: ``"standard"``, N(0, I) as in the paper, or ``"learned"``, a normal distribution that depends on the observation.
        latent: dimension of z.
        kl_weight: the paper's β; the divergence is summed over the dimensions of z.
        gripper, rotation: as in ``regression``.
        transformer: options of the transformers of style encoder and decoder.
    """

    def __init__(
        self,
        inputs: HeadInput,
        prior: str = "standard",
        latent: int = 32,
        kl_weight: float = 10.0,
        gripper: float = 1.0,
        rotation: str = "quaternion",
        transformer: Transformer = TRANSFORMER,
    ):
        super().__init__()
        if prior not in PRIORS:
            raise ConfigError(f"there is no prior {prior!r} of a cvae; there are {', '.join(PRIORS)}")
        sizes, width, hidden = inputs.sizes, inputs.width, transformer.hidden
        self.kl_weight, self.latent = kl_weight, latent
        self.readout, self.space = ActionReadout(sizes.action, rotation, gripper), Continuous(sizes.action)
        self.pool = reader(width, inputs.count)
        self.observed, self.action = nn.Linear(width, hidden), nn.Linear(sizes.action_size, hidden)
        self.places = nn.Parameter(torch.randn(sizes.chunk + 2, hidden) * 0.02)  # of style, observation and each action
        encoder = [Block(hidden, transformer.heads, transformer.expansion) for _ in range(transformer.layers)]
        self.encoder = nn.ModuleList(encoder)
        self.norm, self.posterior = nn.LayerNorm(hidden), _standard(nn.Linear(hidden, 2 * latent))
        self.prior = _standard(nn.Linear(width, 2 * latent)) if prior == "learned" else None
        self.style, self.memory = nn.Linear(latent, hidden), nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden))
        self.queries = nn.Parameter(torch.randn(sizes.chunk, hidden) * 0.02)
        decoder = [CrossBlock(hidden, transformer.heads, transformer.expansion) for _ in range(transformer.decoder_layers)]
        self.decoder = nn.ModuleList(decoder)
        self.out = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, self.readout.size))

    def losses(self, fused: TokenGroup, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """``{"action": reconstruction + kl_weight·kl, "reconstruction", "kl"}``, all zero if there is no valid step."""
        actions, mask = targets(batch)
        observed = self.pool(fused)
        posterior, prior = self._encode(observed, actions, mask), self._prior(observed)
        z = sample(*posterior, generator)
        rebuilt = masked_mean(self.readout.errors(self.decode(fused, z), actions), mask)
        apart = masked_mean(kl_divergence(*posterior, *prior).unsqueeze(-1), mask.any(-1))
        return {"action": rebuilt + self.kl_weight * apart, "reconstruction": rebuilt.detach(), "kl": apart.detach()}

    def sample(self, fused: TokenGroup, generator: torch.Generator) -> Tensor:
        return self.predict(fused, generator)

    def predict(self, fused: TokenGroup, generator: torch.Generator | None = None) -> Tensor:
        mean, log_variance = self._prior(self.pool(fused))
        z = mean if generator is None else sample(mean, log_variance, generator)
        return self.readout.decode(self.decode(fused, z))

    def decode(self, fused: TokenGroup, z: Tensor) -> Tensor:
        """Raw numbers (b, k, r) for styles z (b, latent)."""
        style = TokenGroup(self.style(z).unsqueeze(1), fused.mask.new_ones(z.shape[0], 1), "style")
        memory = join([TokenGroup(self.memory(fused.tokens), fused.mask, "fused"), style])
        x = self.queries.expand(z.shape[0], -1, -1)  # (b, k, hidden)
        all_queries = memory.mask.new_ones(x.shape[:2])
        for block in self.decoder:
            x = block(x, all_queries, memory.tokens, memory.mask)
        return self.out(x)

    def _encode(self, observed: Tensor, actions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior's mean and log variance, each (b, latent)."""
        embedded = self.action(self.space.forward(actions))
        style = torch.zeros_like(embedded[:, :1])
        x = torch.cat([style, self.observed(observed).unsqueeze(1), embedded], 1) + self.places  # (b, k + 2, hidden)
        known = torch.cat([mask.new_ones(len(mask), 2), mask], 1)
        for block in self.encoder:
            x = block(x, known)
        mean, log_variance = self.posterior(self.norm(x[:, 0])).chunk(2, -1)
        return mean, log_variance

    def _prior(self, observed: Tensor) -> tuple[Tensor, Tensor]:
        if self.prior is None:
            zeros = observed.new_zeros(observed.shape[0], self.latent)
            return zeros, zeros
        mean, log_variance = self.prior(observed).chunk(2, -1)
        return mean, log_variance


def _standard(layer: nn.Linear) -> nn.Linear:
    """Initialize `layer` so that its output is almost N(0, I); otherwise the divergence would dominate the loss."""
    nn.init.normal_(layer.weight, std=0.1 / layer.in_features**0.5)
    nn.init.zeros_(layer.bias)
    return layer


def kl_divergence(mean_q: Tensor, log_variance_q: Tensor, mean_p: Tensor, log_variance_p: Tensor) -> Tensor:
    """KL(q ‖ p) (b,) ≥ 0 of diagonal normal distributions, each number (b, d), in nats.

    ½·Σ(log σp² − log σq² + (σq² + (μq − μp)²)/σp² − 1).
    """
    spread = (log_variance_q - log_variance_p).exp() + (mean_q - mean_p).square() / log_variance_p.exp()
    return 0.5 * (log_variance_p - log_variance_q + spread - 1).sum(-1)


def sample(mean: Tensor, log_variance: Tensor, generator: torch.Generator | None) -> Tensor:
    """A sample of a diagonal normal distribution, differentiable in mean and variance."""
    return mean + (0.5 * log_variance).exp() * normal(mean.shape, generator, mean.device)
