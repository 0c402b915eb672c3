"""The denoising network of the heads `flow` and `diffusion`."""

from __future__ import annotations

from torch import Tensor, nn

from verbot.models.layers.transformer import reader, sinusoid
from verbot.models.tokens import HeadInput, TokenGroup

TIMES = 64  # features of the time embedding


class Denoiser(nn.Module):
    """A residual MLP on the sum of the embedded noisy chunk, time in [0, 1] and fused tokens.

    FiLM conditioning of every layer on time and observation was not better.

    Args:
        hidden, layers: width and number of layers.
        takes_clean: the chunk may hold clean actions, whose positions are an input of their own.
    """

    def __init__(self, inputs: HeadInput, hidden: int, layers: int, takes_clean: bool = False):
        super().__init__()
        self.shape = chunk, action = inputs.sizes.chunk, inputs.sizes.action_size
        self.pool, self.see = reader(inputs.width, inputs.count), nn.Linear(inputs.width, hidden)
        self.time = nn.Sequential(nn.Linear(TIMES, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.noisy, self.out = nn.Linear(chunk * action, hidden), nn.Linear(hidden, chunk * action)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
            for _ in range(layers)
        )
        self.clean = nn.Linear(chunk, hidden, bias=False) if takes_clean else None

    def condition(self, fused: TokenGroup) -> Tensor:
        """The embedding of the fused tokens (b, hidden), computed once for all noise levels."""
        return self.see(self.pool(fused))

    def forward(self, x: Tensor, time: Tensor, condition: Tensor, clean: Tensor | None = None) -> Tensor:
        """`x` (b, k, a), `time` (b,), `condition` (b, hidden), `clean` (b, k) bool → (b, k, a)."""
        h = self.noisy(x.flatten(1)) + self.time(sinusoid(time * 100, TIMES)) + condition
        if clean is not None and self.clean is not None:
            h = h + self.clean(clean.to(h.dtype))
        for layer in self.layers:
            h = h + layer(h)
        return self.out(h).unflatten(-1, self.shape)
