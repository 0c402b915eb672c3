"""Latent actions: the head predicts the latent of an action-chunk autoencoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from verbot.models.action_space import ActionReadout, targets
from verbot.models.encoders.state.previous_action import ActionEncoder
from verbot.models.layers.transformer import masked_mean, reader
from verbot.models.registries import heads
from verbot.models.tokens import Batch, HeadInput, TokenGroup


@heads.register("latent")
class Latent(nn.Module):
    """Predicts a latent z from the fused tokens, which a decoder maps to a chunk.

    An autoencoder of action chunks is trained with it: the encoder maps the actions of a chunk (see
    `verbot.models.encoders.state.previous_action.ActionEncoder`) to z, the decoder reconstructs the chunk. The prediction is
    trained on the encoder's z and on the decoded chunk. With ``pretrain`` only the autoencoder is trained, without observations.
    A policy can start from it (``init.parts=[head.encode, head.mix, head.decode]``).
    Latent actions as targets: Lee et al. 2024 ("VQ-BeT"), Ye et al. 2024 ("LAPA"); z is continuous, as in Zhao et al. 2023.

    Args:
        latent: dimension of z.
        hidden: width of encoder and decoder.
        pretrain: train the autoencoder only.
        weight: weight of the L1 distance to the encoder's z, relative to the error of the decoded chunk. It has no gradient for
            the encoder.
        noise: standard deviation of noise that is added to z in training, so that near latents decode to near chunks.
        gripper, rotation: as in ``regression``.
    """

    def __init__(
        self,
        inputs: HeadInput,
        latent: int = 32,
        hidden: int = 128,
        pretrain: bool = False,
        weight: float = 0.1,
        noise: float = 0.1,
        gripper: float = 1.0,
        rotation: str = "quaternion",
    ):
        super().__init__()
        sizes = inputs.sizes
        self.chunk, self.pretrain, self.weight, self.noise = sizes.chunk, pretrain, weight, noise
        self.readout = ActionReadout(sizes.action, rotation, gripper)
        self.encode = ActionEncoder(sizes.action, hidden, hidden, partial=False)
        self.mix = nn.Sequential(
            nn.Linear(sizes.chunk * (hidden + 1), hidden), nn.GELU(), nn.Linear(hidden, latent), nn.LayerNorm(latent)
        )  # fmt: skip
        self.decode = nn.Sequential(
            nn.Linear(latent, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(),
            nn.Linear(hidden, sizes.chunk * self.readout.size),
        )  # fmt: skip
        self.pool = reader(inputs.width, inputs.count)
        self.tell = nn.Sequential(nn.Linear(inputs.width, hidden), nn.GELU(), nn.Linear(hidden, latent))

    def losses(self, fused: TokenGroup, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """``{"action": scalar, "rebuilt", "latent"}``; all zero if there is no valid step."""
        actions, mask = targets(batch)
        z = self.latents(actions, mask)
        noise = torch.randn(z.shape, generator=generator).to(z.device) * self.noise if self.training else 0
        rebuilt = masked_mean(self.readout.errors(self._raw(z + noise), actions), mask)
        if self.pretrain:
            return {"action": rebuilt, "rebuilt": rebuilt.detach()}
        predicted = self.tell(self.pool(fused))
        done = masked_mean(self.readout.errors(self._raw(predicted), actions), mask)
        apart = masked_mean((predicted - z.detach()).abs(), mask.any(-1))
        return {"action": done + rebuilt + self.weight * apart, "rebuilt": rebuilt.detach(), "latent": apart.detach()}

    def predict(self, fused: TokenGroup, generator: torch.Generator | None = None) -> Tensor:
        return self.readout.decode(self._raw(self.tell(self.pool(fused))))

    def latents(self, actions: Tensor, mask: Tensor) -> Tensor:
        """z (b, latent) of chunks (b, k, a); masked actions have no effect."""
        read = self.encode(actions).masked_fill(~mask.unsqueeze(-1), 0)
        known = torch.cat([read, mask.unsqueeze(-1).to(read.dtype)], -1)
        return self.mix(known.flatten(1))

    def _raw(self, z: Tensor) -> Tensor:
        return self.decode(z).unflatten(-1, (self.chunk, -1))  # (b, k, raw numbers)
