"""Actions as words of a language model: one token for each number of each action."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.action_space import constrained, targets
from verbot.models.heads.bins import Binning, Bins, Bounds
from verbot.models.registries import heads
from verbot.models.stochastic import categorical
from verbot.models.tokens import Batch, HeadInput, Suffix

# The value of a bin, and where its word stands: words that text does not use, or the last ones of the vocabulary, from its end.
CONVENTIONS = {"rt2": ("rt1", "reserved"), "openvla": ("openvla", "last")}
DECODINGS = ("argmax", "median")


@heads.register("action_tokens")
class ActionTokens(nn.Module):
    """Each of the k·a numbers of a chunk is one of `bins` words, said one after another, the first action first.

    Only a word that is a bin can be said. Training is that of the language model: the cross-entropy over its whole vocabulary.

    Sources: ``"rt2"``: Brohan et al. 2023: 256 bins from the lowest to the highest, as RT-1, whose words text does not use;
    ``"openvla"``: Kim et al. 2024: 255 centers between the 1st and the 99th percentile, whose words are the last ones, bin 0 the
    very last.

    Args:
        convention: see above.
        bins: their number.
        low, high: the range of normalized actions, filled in by `fit` (see `verbot.models.heads.bins.Bins.fit`).
        decode: ``"argmax"``, as in both sources, says the most likely word; ``"median"`` that of the median of the distribution
            over bins, which early in training is less random.
    """

    words: Tensor
    bin_of: Tensor
    uses_mode: Tensor

    def __init__(
        self,
        inputs: HeadInput,
        convention: str = "rt2",
        bins: int = 256,
        low: Bounds = -3.0,
        high: Bounds = 3.0,
        decode: str = "argmax",
    ):
        super().__init__()
        if convention not in CONVENTIONS or decode not in DECODINGS:
            raise ConfigError(
                f"action_tokens got convention {convention!r} and decode {decode!r}; expected one of {', '.join(CONVENTIONS)}, "
                f"and of {', '.join(DECODINGS)}"
            )
        if inputs.tokenizer is None:
            raise ConfigError(
                "the head 'action_tokens' says actions as words of a language trunk, and this backbone has none; use the "
                "backbone 'vlm'"
            )
        values, place = CONVENTIONS[convention]
        size = inputs.tokenizer.size
        words = inputs.tokenizer.reserved(bins) if place == "reserved" else list(range(size - 1, size - 1 - bins, -1))
        self.action, self.shape = inputs.sizes.action, (inputs.sizes.chunk, inputs.sizes.action_size)
        self.longest, self.decoding = inputs.sizes.chunk * inputs.sizes.action_size, decode
        self.binning = Binning(inputs.sizes.action, low, high, bins, values)
        bin_of = torch.full((size,), -1, dtype=torch.int64)
        bin_of[torch.tensor(words)] = torch.arange(bins)
        self.register_buffer("words", torch.tensor(words, dtype=torch.int64), persistent=False)
        self.register_buffer("bin_of", bin_of, persistent=False)
        discrete = torch.tensor([c.kind == "discrete" for c in self.action for _ in c.axes])
        self.register_buffer("uses_mode", discrete.repeat(self.shape[0]) | (decode == "argmax"), persistent=False)

    @staticmethod
    def fit(options: Mapping[str, Any], chunks: Any) -> dict[str, Any]:
        """The same options with the range of `chunks` (n, k, a)."""
        values, _ = CONVENTIONS[options.get("convention", "rt2")]
        return {**Bins.fit({**options, "convention": values}, chunks), "convention": options.get("convention", "rt2")}

    def suffix(self, batch: Batch) -> Suffix:
        actions, mask = targets(batch)
        index = self.binning.encode(constrained(self.action, actions)).flatten(1)
        known = mask.to(torch.uint8).cumprod(1).bool()  # an unknown action ends the chunk
        known = known.unsqueeze(-1).expand_as(actions).flatten(1)
        return Suffix(self.words[index], known, torch.ones_like(known))

    def choose(self, logits: Tensor, said: Tensor, generators: Sequence[torch.Generator | None] | None = None) -> Tensor:
        step = said.shape[1] % self.longest
        shares = logits[:, self.words].double().softmax(-1)  # (b, bins)
        index = shares.argmax(-1)
        if not bool(self.uses_mode[step]):
            index = ((shares.cumsum(-1) < 0.5).sum(-1)).clamp(max=shares.shape[-1] - 1)
        for row, generator in enumerate(generators or ()):
            if generator is not None:
                index[row] = categorical(shares[row : row + 1].float(), generator)[0]
        return self.words[index]

    def is_over(self, said: Tensor) -> bool:
        return said.shape[1] >= self.longest

    def read(self, said: Tensor) -> tuple[Tensor, Tensor]:
        index = self.bin_of[said].unflatten(1, self.shape)
        actions = constrained(self.action, self.binning.decode(index.clamp(min=0)))
        return actions, (index >= 0).flatten(1).all(1)
