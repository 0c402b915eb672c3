"""Discretized actions: each dimension is one of 256 bins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.action_space import check, constrained, known_range, targets
from verbot.models.layers.transformer import masked_mean, reader
from verbot.models.registries import heads
from verbot.models.stochastic import categorical
from verbot.models.tokens import Batch, HeadInput, TokenGroup
from verbot.spec import Component, FloatArray

CONVENTIONS, DECODINGS = ("openvla", "rt1"), ("median", "argmax", "expectation")
Bounds = float | Sequence[float]


class Binning(nn.Module):
    """Maps numbers (…, a) to bins 0..`bins` − 1 and back, with one range per dimension, by one of two conventions.

    Both clip to [low, high]. The bin is the number of `bins` equidistant edges, from low to high, that are at or below the value,
    minus one. So there are `bins` − 1 intervals, and the last bin contains only the value high. The conventions differ in

    - the value of a bin: ``"rt1"`` uses its lower edge, low + i·(high − low)/(bins − 1), so values are rounded down;
      ``"openvla"`` uses the center of its interval, and for the last bin the same as for the one before;
    - the range: RT-1 uses the limits of the robot's specification, OpenVLA the 1st and 99th percentiles (see `Bins.fit`);
    - the token in a language model: RT-1 has none, OpenVLA counts from the end of the vocabulary (see `openvla_token`).

    Each class of a discrete component is a bin, as in both sources. Sources: google-research/robotics_transformer,
    ``tokenizers/action_tokenizer.py`` (Brohan et al. 2022); openvla/openvla, ``prismatic/vla/action_tokenizer.py`` (Kim et al. 2024).
    """  # noqa: E501

    edges: Tensor
    limits: Tensor
    values: Tensor

    def __init__(self, action: tuple[Component, ...], low: Bounds, high: Bounds, bins: int = 256, convention: str = "openvla"):
        super().__init__()
        if convention not in CONVENTIONS:
            raise ConfigError(f"there is no convention {convention!r} of bins; there are {', '.join(CONVENTIONS)}")
        if bins < 3:
            raise ConfigError(f"at least 3 bins are needed; got {bins}")
        check(action)
        lows, highs = _bounds(action, low, high)
        edges = np.linspace(lows, highs, bins, axis=-1)  # (a, bins)
        middles = (edges[:, :-1] + edges[:, 1:]) / 2
        values = edges.copy() if convention == "rt1" else np.concatenate([middles, middles[:, -1:]], -1)
        for row, component in enumerate(c for c in action for _ in c.axes):
            if component.kind == "discrete":
                if highs[row] - lows[row] >= bins:
                    raise ConfigError(f"{component.name!r} has classes {lows[row]:g} to {highs[row]:g}: more than {bins} bins")
                edges[row], values[row] = lows[row] + np.arange(bins) - 0.5, np.minimum(lows[row] + np.arange(bins), highs[row])
        limits = np.stack([lows, highs])  # float64, as the edges: a value on an edge belongs to its bin
        for name, array in (("edges", edges), ("limits", limits), ("values", values.astype(np.float32))):
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(array)), persistent=False)

    def encode(self, actions: Tensor) -> Tensor:
        """(…, a) → int64 (…, a)."""
        low, high = self.limits
        clipped = torch.minimum(torch.maximum(actions.to(self.edges), low), high)
        columns = clipped.reshape(-1, clipped.shape[-1]).T.contiguous()  # (a, n)
        return (torch.searchsorted(self.edges, columns, right=True) - 1).T.reshape(actions.shape)

    def decode(self, index: Tensor) -> Tensor:
        """Inverse of `encode` up to an error below (high − low)/(bins − 1), or half of it for ``"openvla"``."""
        return _at(self.values, index)

    def median(self, shares: Tensor) -> Tensor:
        """The medians (…, a) of distributions (…, a, bins) that are uniform within each bin."""
        until = shares.cumsum(-1)
        index = (until < 0.5).sum(-1).clamp(max=shares.shape[-1] - 1)
        own = shares.gather(-1, index.unsqueeze(-1)).squeeze(-1)
        before = until.gather(-1, index.unsqueeze(-1)).squeeze(-1) - own
        edges = self.edges.to(shares)
        low, high = _at(edges, index), _at(edges, (index + 1).clamp(max=shares.shape[-1] - 1))
        return low + ((0.5 - before) / own).clamp(0, 1) * (high - low)


@heads.register("bins")
class Bins(nn.Module):
    """A categorical distribution over `bins` for each of the k·a numbers of a chunk, trained by cross-entropy.

    Each number has `hidden` features, computed from the fused tokens; the layer from features to bins is shared.

    Args:
        convention: see `Binning`.
        low, high: the range of normalized actions, one number or one per dimension. The default ∓3 suits z-scores; grippers keep
            0..1, quaternions −1..1 and classes their own range.
        pooled: read the fused tokens with an attention pool, instead of concatenating them.
        decode: ``"median"`` of the distribution, ``"argmax"`` as in both sources, or ``"expectation"``. Early in training
            distributions are broad, and their mode is random. Classes always use the mode.
    """

    chosen: Tensor

    def __init__(
        self,
        inputs: HeadInput,
        bins: int = 256,
        convention: str = "openvla",
        low: Bounds = -3.0,
        high: Bounds = 3.0,
        decode: str = "median",
        hidden: int = 64,
        pooled: bool = False,
    ):
        super().__init__()
        if decode not in DECODINGS:
            raise ConfigError(f"bins cannot be decoded by {decode!r}; there are {', '.join(DECODINGS)}")
        sizes = inputs.sizes
        self.action, self.shape = sizes.action, (sizes.chunk, sizes.action_size)
        self.binning = Binning(sizes.action, low, high, bins, convention)
        discrete = [c.kind == "discrete" for c in sizes.action for _ in c.axes]
        self.decoding = decode
        self.register_buffer("chosen", torch.tensor(discrete), persistent=False)  # (a,) dimensions that always use the mode
        self.pool = reader(inputs.width, 0 if pooled else inputs.count)
        self.rise = nn.Linear(inputs.width, sizes.chunk * sizes.action_size * hidden)
        self.out = nn.Linear(hidden, bins)

    @staticmethod
    def fit(options: Mapping[str, Any], chunks: FloatArray) -> dict[str, Any]:
        """The same options, with the range of `chunks` (n, k, a) unless one is given.

        For ``"openvla"`` the exact 1st and 99th percentiles (the extremes if those are equal), for ``"rt1"`` the extremes.
        """
        rows = np.asarray(chunks, np.float64).reshape(-1, chunks.shape[-1])
        low, high = rows.min(0), rows.max(0)
        if options.get("convention", "openvla") == "openvla":
            q01, q99 = np.quantile(rows, (0.01, 0.99), axis=0)
            narrow = q99 - q01 <= 1e-6 * (high - low)
            low, high = np.where(narrow, low, q01), np.where(narrow, high, q99)
        return {"low": low.tolist(), "high": high.tolist(), **options}

    def forward(self, fused: TokenGroup) -> Tensor:
        features = self.rise(self.pool(fused)).unflatten(-1, (*self.shape, -1))  # (b, k, a, hidden)
        return self.out(F.gelu(features))  # (b, k, a, bins)

    def losses(self, fused: TokenGroup, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """``{"action": scalar}``, the mean cross-entropy (nats) over valid steps and dimensions; zero if there are none."""
        actions, mask = targets(batch)
        index = self.binning.encode(constrained(self.action, actions))
        entropy = F.cross_entropy(self.forward(fused).flatten(0, -2), index.flatten(), reduction="none")
        return {"action": masked_mean(entropy.view(index.shape), mask)}

    def sample(self, fused: TokenGroup, generator: torch.Generator) -> Tensor:
        index = categorical(self.forward(fused).softmax(-1), generator)
        return constrained(self.action, self.binning.decode(index))

    def predict(self, fused: TokenGroup, generator: torch.Generator | None = None) -> Tensor:
        logits = self.forward(fused)
        actions = self.binning.decode(logits.argmax(-1))
        if self.decoding != "argmax":
            shares = logits.double().softmax(-1)  # in float32 the rounding of sums would move the median
            mean = (shares * self.binning.values).sum(-1)
            other = self.binning.median(shares) if self.decoding == "median" else mean
            actions = torch.where(self.chosen, actions, other.to(actions))
        return constrained(self.action, actions)


def _at(table: Tensor, index: Tensor) -> Tensor:
    """The numbers of `table` (a, bins) at `index` (…, a)."""
    return table.expand(*index.shape, -1).gather(-1, index.unsqueeze(-1)).squeeze(-1)


def openvla_token(index: Tensor, vocabulary: int) -> Tensor:
    """OpenVLA's token of a bin: bin 0 is the last token of the vocabulary, `vocabulary` − 1, and tokens count down.

    Its decoder uses bin = `vocabulary` − token − 1.
    """
    return vocabulary - 1 - index


def _bounds(action: tuple[Component, ...], low: Bounds, high: Bounds) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    size = sum(c.size for c in action)
    try:
        lows, highs = (np.broadcast_to(np.asarray(bound, np.float64), (size,)).copy() for bound in (low, high))
    except ValueError as error:
        raise ConfigError(
            f"bins need one low and one high, or {size} of each; got {np.shape(low)} and {np.shape(high)}"
        ) from error
    row = 0
    for component in action:
        if own := known_range(component):
            lows[row : row + component.size], highs[row : row + component.size] = zip(*own, strict=True)
        row += component.size
    if (lows > highs).any():
        raise ConfigError(f"bins have a low above its high: {lows.tolist()} and {highs.tolist()}")
    constant = highs - lows < 1e-6  # a constant number still needs bins of positive width
    return np.where(constant, lows - 1e-3, lows), np.where(constant, highs + 1e-3, highs)
