"""Seeded batches: what is in a batch is a function of (seed, step) alone, however many threads or processes share the work."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from verbot.data.samples.decks import Deck
from verbot.data.samples.mixture import Mixture
from verbot.data.samples.windows import WindowBatch, Windows
from verbot.errors import ConfigError
from verbot.spec import Int64Array


class Loader:
    """An endless sequence of seeded batches that can start at any step.

    Args:
        source: windows, or a mixture of them.
        batch_size: windows per step, over all ranks.
        seed: seed of the order.
        rank, world: this process gets the `rank`-th of `world` equal parts of every batch; the batch does not depend on `world`.
        threads: number of threads that prepare batches ahead; 0 prepares each when needed. The batches are the same.

    Example:
        >>> import tempfile
        >>> from verbot.data import WindowConfig
        >>> from verbot.data.storage.reader import open_dataset
        >>> from verbot.data.storage.writer import example_dataset
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     loader = Loader(Windows(open_dataset(example_dataset(folder)), WindowConfig(chunk=4)), batch_size=8, seed=1)
        ...     loader.batch(step=3).actions.shape, next(loader.iterate(3)).index.tolist() == loader.batch(3).index.tolist()
        ((8, 4, 4), True)
    """

    def __init__(
        self, source: Windows | Mixture, batch_size: int, seed: int = 0, rank: int = 0, world: int = 1, threads: int = 0
    ):
        if batch_size < 1 or batch_size % world or not 0 <= rank < world:
            raise ConfigError(f"a batch of {batch_size} cannot be shared by {world} processes (this one is rank {rank})")
        self.source = Mixture((source,)) if isinstance(source, Windows) else source
        self.batch_size, self.seed, self.rank, self.world, self.threads = batch_size, seed, rank, world, threads
        self._decks: dict[int, Deck] = {}
        self._lock = threading.Lock()

    def batch(self, step: int) -> WindowBatch:
        """The batch of `step` (this rank's part of it)."""
        mine = self._mine()
        chosen = self.indices(step)[mine]
        draws = np.random.default_rng((self.seed, 1, step)).random((self.batch_size, self.source.draws))
        return self.source.gather(chosen, draws[mine])

    def indices(self, step: int) -> Int64Array:
        """Which windows are in the whole batch of `step`: the next ones of a deck that is shuffled anew in every epoch."""
        places = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs = places // len(self.source)
        with self._lock:
            decks = [self._deck(int(epoch))[places[epochs == epoch] % len(self.source)] for epoch in np.unique(epochs)]
        return np.concatenate(decks)

    def _mine(self) -> slice:
        share = self.batch_size // self.world
        return slice(self.rank * share, (self.rank + 1) * share)

    def iterate(self, start: int = 0) -> Iterator[WindowBatch]:
        """Batches from step `start` on, prepared ahead by `threads`."""
        if not self.threads:
            for step in itertools.count(start):
                self._prefetch(step, start)
                yield self.batch(step)
        pool, ahead = ThreadPoolExecutor(self.threads), deque[Future[WindowBatch]]()
        try:
            for step in range(start, start + 2 * self.threads):
                ahead.append(pool.submit(self.batch, step))
            for step in itertools.count(start + 2 * self.threads):
                self._prefetch(step, start + 2 * self.threads)
                ahead.append(pool.submit(self.batch, step))
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _prefetch(self, step: int, start: int) -> None:
        """Ask for the frames of the batch that comes a block after `step`; at the start, of all up to that one."""
        if steps := -(-self.source.lookahead // self.batch_size):
            for each in range(step if step == start else step + steps, step + steps + 1):
                self.source.prefetch(self.indices(each)[self._mine()])

    def _deck(self, epoch: int) -> Deck:
        if epoch not in self._decks:
            deck = self.source.deck(np.random.default_rng((self.seed, 0, epoch)))
            # A batch may reach into the next epoch, and threads may be a little apart; older decks are not needed again.
            self._decks = {e: d for e, d in self._decks.items() if abs(e - epoch) <= 1} | {epoch: deck}
            return deck
        return self._decks[epoch]
