"""Several sources of windows as one, each with a weight."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from verbot.data.samples.decks import Deck, MixedDeck
from verbot.data.samples.window_config import WindowConfig
from verbot.data.samples.windows import WindowBatch, Windows
from verbot.errors import ConfigError
from verbot.spec import Int64Array


@dataclass(frozen=True)
class Mixture:
    """Windows of several sources, which must agree in everything but length.

    Args:
        sources: each with its cameras, history and chunk alike.
        weights: the share of each source in training, however long it is; by length if None.

    Example:
        >>> import tempfile
        >>> from verbot.data.storage.reader import open_dataset
        >>> from verbot.data.storage.writer import example_dataset
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     windows = Windows(open_dataset(example_dataset(folder)), WindowConfig(chunk=4))
        ...     mixture = Mixture((windows, windows), (3.0, 1.0))
        ...     deck = mixture.deck(np.random.default_rng(0))
        ...     len(deck), int((deck < len(windows)).sum())
        (48, 36)
    """

    sources: Sequence[Windows]
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if not self.sources:
            raise ConfigError("a mixture needs at least one source")
        if self.weights is not None and (
            len(self.weights) != len(self.sources) or min(self.weights) < 0 or sum(self.weights) <= 0
        ):
            raise ConfigError(f"a mixture of {len(self.sources)} sources needs as many weights, not negative: {self.weights}")
        shapes = {source.shape for source in self.sources}
        if len(shapes) > 1:
            raise ConfigError(
                f"the sources of a mixture differ in ({', '.join(f.name for f in dataclasses.fields(WindowConfig))}, "
                f"depth_cameras, height, width, depth height, depth width, state, action): {shapes}"
            )

    def __len__(self) -> int:
        return sum(len(source) for source in self.sources)

    def deck(self, rng: np.random.Generator) -> Deck:
        """One epoch of indices (n,), shuffled: each source in its share, repeating no window before all of its were dealt.

        Sources that are `Windows.dealt_in_blocks` keep the order of their blocks.
        """
        lengths = np.array([len(source) for source in self.sources])
        shares = lengths / lengths.sum() if self.weights is None else np.array(self.weights) / sum(self.weights)
        if any(source.dealt_in_blocks for source in self.sources):
            decks = [source.deck(int(rng.integers(2**62))) for source in self.sources]
            return decks[0] if len(decks) == 1 else MixedDeck(decks, shares, len(self), int(rng.integers(2**62)))
        bounds = np.round(np.cumsum([0.0, *shares]) * len(self)).astype(np.int64)
        starts = np.cumsum([0, *lengths])
        dealt = [
            start + _deal(rng, int(length), int(count))
            for start, length, count in zip(starts[:-1], lengths, np.diff(bounds), strict=True)
        ]
        return rng.permutation(np.concatenate(dealt))

    @property
    def draws(self) -> int:
        """How many random numbers a window needs."""
        return self.sources[0].draws

    @property
    def lookahead(self) -> int:
        """How many windows ahead of their use frames should be asked for; 0 where they are at hand."""
        return max(source.lookahead for source in self.sources)

    def prefetch(self, indices: Int64Array) -> None:
        """Begin to decode the frames of these windows; indices as in `gather`."""
        starts = np.cumsum([0, *(len(source) for source in self.sources)])
        owner = np.searchsorted(starts, indices, side="right") - 1
        for number in np.unique(owner).tolist():
            self.sources[number].prefetch(indices[owner == number] - starts[number])

    def gather(self, indices: Int64Array, draws: npt.NDArray[np.float64]) -> WindowBatch:
        """As `Windows.gather`; indices count through the sources in order."""
        if len(self.sources) == 1:
            return self.sources[0].gather(indices, draws)
        starts = np.cumsum([0, *(len(source) for source in self.sources)])
        owner = np.searchsorted(starts, indices, side="right") - 1
        parts = [self.sources[i].gather(indices[owner == i] - starts[i], draws[owner == i]) for i in np.unique(owner)]
        place = np.argsort(np.argsort(owner, kind="stable"), kind="stable")  # of each window in the parts joined
        frames = self.sources[0].config.sequence
        rows = (place[:, None] * frames + np.arange(frames)).ravel()
        whole = np.repeat(np.asarray(indices, np.int64), frames)
        return dataclasses.replace(WindowBatch.concatenate(parts).take(rows), index=whole)


def _deal(rng: np.random.Generator, length: int, count: int) -> Int64Array:
    rounds = [rng.permutation(length) for _ in range(-(-count // length))]
    return np.concatenate(rounds)[:count] if rounds else np.empty(0, np.int64)
