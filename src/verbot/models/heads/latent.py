"""Chunks of actions through the narrow middle of an autoencoder, which can be learned from actions alone."""

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
    """What is fused tells a latent, and a decoder makes a chunk of it: both chunk and latent as an encoder of chunks has them.

    The encoder reads each action (see `verbot.models.encoders.state.previous_action.ActionEncoder`) and the chunk as a whole
    into z; the decoder rebuilds the chunk from z. With ``pretrain`` that is all that is learned, and pictures and words count
    for nothing; a policy that begins with the encoder and decoder (``init.parts=[head.encode, head.mix, head.decode]``) then
    learns which z to want.
    Latent actions as targets: Lee et al. 2024 ("VQ-BeT"), Ye et al. 2024 ("LAPA"); here z is continuous, as it is in Zhao et al.
    2023.

    Args:
        latent: dimensions of z.
        hidden: of encoder and decoder.
        pretrain: learn to rebuild chunks, and nothing else.
        weight: of the distance to the encoder's z (L1) beside the error of the decoded chunk; the encoder is not led by it.
        noise: standard deviation of what is added to z in pretraining, so that near latents mean near chunks.
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
        """``{"action": scalar, "rebuilt", "latent"}``; all zero where there is no valid step."""
        actions, mask = targets(batch)
        z = self.latents(actions, mask)
        noise = torch.randn(z.shape, generator=generator).to(z.device) * self.noise if self.training else 0
        rebuilt = masked_mean(self.readout.errors(self._raw(z + noise), actions), mask)
        if self.pretrain:  # nothing of the picture is in it
            return {"action": rebuilt, "rebuilt": rebuilt.detach()}
        predicted = self.tell(self.pool(fused))
        done = masked_mean(self.readout.errors(self._raw(predicted), actions), mask)
        apart = masked_mean((predicted - z.detach()).abs(), mask.any(-1))
        return {"action": done + rebuilt + self.weight * apart, "rebuilt": rebuilt.detach(), "latent": apart.detach()}

    def predict(self, fused: TokenGroup, generator: torch.Generator | None = None) -> Tensor:
        return self.readout.decode(self._raw(self.tell(self.pool(fused))))

    def latents(self, actions: Tensor, mask: Tensor) -> Tensor:
        """z (b, latent) of chunks (b, k, a); what is masked changes nothing."""
        read = self.encode(actions).masked_fill(~mask.unsqueeze(-1), 0)
        known = torch.cat([read, mask.unsqueeze(-1).to(read.dtype)], -1)
        return self.mix(known.flatten(1))

    def _raw(self, z: Tensor) -> Tensor:
        return self.decode(z).unflatten(-1, (self.chunk, -1))  # (b, k, raw numbers)
