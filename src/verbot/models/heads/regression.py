"""Direct regression of action chunks, by kind of component."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.action_space import ActionReadout, targets
from verbot.models.layers.transformer import masked_mean, reader
from verbot.models.registries import heads
from verbot.models.stochastic import ActionDistributionHead
from verbot.models.tokens import Batch, HeadInput, TokenGroup


class PerAction(nn.Module):
    """A residual MLP from the tokens of each action to its numbers (Kim et al. 2025, OpenVLA-OFT): (b, k·m, e) → (b, k, m)."""

    def __init__(self, width: int, chunk: int, numbers: int, layers: int = 2):
        super().__init__()
        self.chunk = chunk
        self.first = nn.Sequential(nn.LayerNorm(numbers * width), nn.Linear(numbers * width, width), nn.ReLU())
        self.layers = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU()) for _ in range(layers))
        self.last = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, numbers))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.first(tokens.unflatten(1, (self.chunk, -1)).flatten(2))  # (b, k, e)
        for layer in self.layers:
            x = x + layer(x)
        found: Tensor = self.last(x)
        return found


@heads.register("regression")
class Regression(nn.Module):
    """Linear from the fused tokens to k actions.

    With `per_number`, parallel decoding as in OpenVLA-OFT (Kim et al. 2025): each number of the chunk has a placeholder token in
    the sequence of a language trunk (backbone ``vlm`` with ``readouts``), and an MLP maps the tokens of an action to the action.

    `verbot.models.action_space.ActionReadout` defines decoding and error of each kind of component. The loss is the mean
    over valid steps and dimensions.

    Args:
        gripper: weight of a gripper dimension relative to the others.
        rotation: ``"quaternion"`` outputs the four numbers of a quaternion, ``"six"`` the six of Zhou et al. 2019.
        per_number: reads as many fused tokens as a chunk has numbers.

    Raises `ConfigError` for another number of tokens with `per_number`.
    """

    def __init__(self, inputs: HeadInput, gripper: float = 1.0, rotation: str = "quaternion", per_number: bool = False):
        super().__init__()
        sizes = inputs.sizes
        self.chunk, self.readout = sizes.chunk, ActionReadout(sizes.action, rotation, gripper)
        self.per_number = per_number
        if per_number:
            if inputs.count != (count := sizes.chunk * self.readout.size):
                raise ConfigError(
                    f"a chunk of {sizes.chunk} actions has {count} numbers, and the head gets {inputs.count or 'any number of'} "
                    f"tokens; use the backbone 'vlm' with readouts={count}"
                )
            self.out: nn.Module = PerAction(inputs.width, sizes.chunk, self.readout.size)
            return
        self.pool = reader(inputs.width, inputs.count)
        self.out = nn.Linear(inputs.width, sizes.chunk * self.readout.size)

    def forward(self, fused: TokenGroup) -> Tensor:
        if self.per_number:
            return self.out(fused.tokens)
        return self.out(self.pool(fused)).unflatten(-1, (self.chunk, -1))  # (b, k, raw numbers)

    def losses(self, fused: TokenGroup, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """``{"action": scalar}``; zero if the batch has no valid step."""
        actions, mask = targets(batch)
        return {"action": masked_mean(self.readout.errors(self.forward(fused), actions), mask)}

    def predict(self, fused: TokenGroup, generator: torch.Generator | None = None) -> Tensor:
        return self.readout.decode(self.forward(fused))

    def sample(self, fused: TokenGroup, generator: torch.Generator) -> Tensor:
        """Actions (b, k, a) drawn around the prediction by `ActionDistributionHead` with its initial standard deviation."""
        raw = self.forward(fused)
        draws = ActionDistributionHead(self.readout).to(raw.device)(raw.flatten(0, 1)).sample(generator)
        return draws.unflatten(0, raw.shape[:2])
