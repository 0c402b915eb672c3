"""Action chunks as words of a language model, by FAST: what is said, what may be said next, and what it means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.action_space import check, constrained, known_range, targets
from verbot.models.fast import FastTokenizer
from verbot.models.fast_grammar import BETWEEN, NEVER, FastGrammar
from verbot.models.registries import heads
from verbot.models.stochastic import categorical
from verbot.models.tokens import Batch, HeadInput, Suffix
from verbot.spec import Component, FloatArray

DECODINGS = ("well_formed", "free")
_Range = Sequence[float] | None


@heads.register("fast", needs=("tokenizers",))
class Fast(nn.Module):
    """A chunk is the tokens of `verbot.models.fast.FastTokenizer` and an end token, as words of a language model.

    Normalized actions are mapped so that their range becomes −1 to 1, and are not clipped, as published. `fit` takes the 1st and
    99th percentiles, and trains the tokenizer on the mapped chunks. At the end of an episode unknown actions repeat the last
    known one, because only whole chunks have tokens.

    Args:
        ranges: [low, high] of each dimension, filled in by `known` for grippers, quaternions and classes, and by `fit`
            where it is None.
        tokenizer: of `FastTokenizer.to_json`, filled in by `fit`.
        scale, vocab_size: of the tokenizer that `fit` trains.
        decode: ``"well_formed"``: only tokens are said after which a chunk of the right length is possible. ``"free"``: any token
            of FAST, as published; what then means no chunk is reported by `read`.

    Raises `ConfigError` without ranges and a tokenizer, and if they do not fit the actions.
    """

    after: Tensor
    characters: Tensor
    words: Tensor
    token_of: Tensor
    limits: Tensor

    def __init__(
        self,
        inputs: HeadInput,
        ranges: Sequence[_Range] | None = None,
        tokenizer: Mapping[str, Any] | None = None,
        scale: float = 10,
        vocab_size: int = 1024,
        decode: str = "well_formed",
    ):
        super().__init__()
        if decode not in DECODINGS:
            raise ConfigError(f"fast cannot decode by {decode!r}; there are {', '.join(DECODINGS)}")
        if tokenizer is None or ranges is None:
            raise ConfigError("fast has no tokenizer; build it with Fast.fit(options, chunks)")
        self.action, self.shape = inputs.sizes.action, (inputs.sizes.chunk, inputs.sizes.action_size)
        check(self.action)
        self.tokenizer, self.decoding = FastTokenizer.from_json(tokenizer), decode
        if (self.tokenizer.time_horizon, self.tokenizer.action_dim) not in (self.shape, (None, None)):
            raise ConfigError(
                f"the tokenizer of fast is for chunks of {self.tokenizer.time_horizon}·{self.tokenizer.action_dim} numbers; the "
                f"policy has {self.shape[0]}·{self.shape[1]}"
            )
        low, high = _limits(ranges, self.shape[1])
        grammar = FastGrammar.of(self.tokenizer.words)
        self.end = self.tokenizer.size
        self.count = self.end + 1  # words that the language model must have
        self.longest = self.shape[0] * self.shape[1] * grammar.longest + 1
        self.register_buffer("limits", torch.from_numpy(np.stack([low, high])), persistent=False)  # float64 (2, a)
        self.register_buffer("after", torch.from_numpy(grammar.after), persistent=False)
        self.register_buffer("characters", torch.from_numpy(grammar.characters), persistent=False)
        own = inputs.tokenizer  # without one, the words are the tokens themselves
        self.speak(range(self.count) if own is None else own.reserved(self.count), self.count if own is None else own.size)

    @staticmethod
    def known_ranges(action: tuple[Component, ...]) -> list[list[float] | None]:
        """`ranges` before fitting: those that the kind of a component fixes, None for the others."""
        found: list[list[float] | None] = []
        for component in action:
            own = known_range(component)
            found += [list(pair) for pair in own] if own else [None] * component.size
        return found

    @staticmethod
    def known(options: Mapping[str, Any], action: tuple[Component, ...]) -> dict[str, Any]:
        """The same options with `known_ranges`, unless ranges are given."""
        return {**options, "ranges": options.get("ranges") or Fast.known_ranges(action)}

    @staticmethod
    def fit(options: Mapping[str, Any], chunks: FloatArray) -> dict[str, Any]:
        """The same options with ranges and a tokenizer for normalized `chunks` (n, k, a), except those that are given."""
        rows = np.asarray(chunks, np.float64)
        size = rows.shape[-1]
        given = options.get("ranges") or [None] * size
        if len(given) != size:
            raise ConfigError(f"fast has {len(given)} ranges; expected {size}, one for each dimension")
        q01, q99 = np.quantile(rows.reshape(-1, size), (0.01, 0.99), axis=0)
        low, high = rows.min((0, 1)), rows.max((0, 1))
        narrow = q99 - q01 <= 1e-6 * (high - low)
        found = zip(np.where(narrow, low, q01).tolist(), np.where(narrow, high, q99).tolist(), strict=True)
        ranges = [list(own) if own is not None else list(pair) for own, pair in zip(given, found, strict=True)]
        tokenizer = options.get("tokenizer")
        if tokenizer is None:
            units = _units(rows, *_limits(ranges, size))
            tokenizer = FastTokenizer.fit(
                units,
                options.get("scale", 10),
                options.get("vocab_size", 1024),
                time_horizon=rows.shape[1],
                action_dim=size,
                complete=True,
            ).to_json()
        return {**options, "ranges": ranges, "tokenizer": tokenizer}

    def speak(self, words: Sequence[int], vocabulary: int) -> None:
        """Say each token, and last the end, as these ids of a language model with `vocabulary` ids.

        Raises `ConfigError` if they are not `count` different ids.
        """
        chosen = list(words)
        if len(chosen) != self.count or len(set(chosen)) != self.count or not all(0 <= w < vocabulary for w in chosen):
            raise ConfigError(f"fast needs {self.count} different ids below {vocabulary}; got {len(set(chosen))}")
        token_of = torch.full((vocabulary,), NEVER)
        token_of[torch.tensor(chosen)] = torch.arange(self.count)
        device = self.limits.device
        self.register_buffer("words", torch.tensor(chosen, device=device), persistent=False)
        self.register_buffer("token_of", token_of.to(device), persistent=False)

    def suffix(self, batch: Batch) -> Suffix:
        """The ids of a training batch: each chunk and its end.

        A row is masked if none of its actions is known, or if its tokens do not mean a chunk.
        """
        actions, mask = targets(batch)
        whole, known = _repeated(constrained(self.action, actions), mask), mask.any(1)
        units = _units(whole.double().cpu().numpy(), *self.limits.cpu().numpy())
        rows = [[*ids, self.end] if self._means(ids) else [] for ids in self.tokenizer.encode(units)]
        rows = [row if is_known else [] for row, is_known in zip(rows, known.tolist(), strict=True)]
        length = max(map(len, rows), default=0)
        ids = torch.tensor([[*row, *[self.end] * (length - len(row))] for row in rows], dtype=torch.int64)
        lengths = torch.tensor([len(row) for row in rows])
        ids = ids.reshape(len(rows), length).to(actions.device)
        known_ids = (torch.arange(length) < lengths.unsqueeze(1)).to(actions.device)
        return Suffix(self.words[ids], known_ids, torch.ones_like(known_ids))

    def _means(self, ids: Sequence[int]) -> bool:
        return self.tokenizer.decode(ids, *self.shape)[1] is None

    def allowed(self, said: Tensor) -> Tensor:
        """(b, count) bool, the tokens that may follow the ids `said` (b, i); the last is the end. One always may."""
        tokens = self.token_of[said]
        if self.decoding == "free":
            return torch.ones(len(said), self.count, dtype=torch.bool, device=said.device)
        state = torch.full((len(said),), BETWEEN, device=said.device)
        total = torch.zeros_like(state)
        for token in tokens.unbind(1):
            is_word = (token >= 0) & (token < self.end) & (state >= 0)
            own = torch.where(is_word, token, 0)
            total = total + torch.where(is_word, self.characters[state.clamp(min=0), own], 0)
            state = torch.where(is_word, self.after[state.clamp(min=0), own], NEVER)
        then, count = self.after[state.clamp(min=0)], self.shape[0] * self.shape[1]
        length = total.unsqueeze(1) + self.characters[state.clamp(min=0)]
        follows = (then >= 0) & torch.where(then == BETWEEN, length <= count, length < count) & (state >= 0).unsqueeze(1)
        is_stuck = ~follows.any(1)  # also a whole chunk: after it only the end stands
        return torch.cat([follows, is_stuck.unsqueeze(1)], 1)

    def choose(self, logits: Tensor, said: Tensor, generators: Sequence[torch.Generator | None] | None = None) -> Tensor:
        """The next id (b,) after `said` (b, i) by logits (b, v) over the vocabulary: the most likely one that may be said.

        Rows that have a generator draw one instead.
        """
        own = logits[:, self.words].float().masked_fill(~self.allowed(said), -torch.inf)
        chosen = own.argmax(-1)
        for row, generator in enumerate(generators or ()):
            if generator is not None:
                chosen[row] = categorical(own[row : row + 1].softmax(-1), generator)[0]
        return self.words[chosen]

    def is_over(self, said: Tensor) -> bool:
        """Whether the end was said in every row, or as many ids as a chunk has at most."""
        return said.shape[1] >= self.longest or bool((self.token_of[said] == self.end).any(1).all())

    def read(self, said: Tensor) -> tuple[Tensor, Tensor]:
        """Normalized actions (b, k, a) of ids (b, i), and (b,) bool, whether they mean a chunk. Others are NaN: hold then.

        What follows an end is not read.
        """
        low, high = self.limits.cpu().numpy()
        chunks, valid = np.full((len(said), *self.shape), np.nan), np.zeros(len(said), bool)
        for row, tokens in enumerate(self.token_of[said].tolist()):
            ids = tokens[: tokens.index(self.end)] if self.end in tokens else tokens
            units, error = self.tokenizer.decode(ids, *self.shape)
            if error is None and units is not None:
                chunks[row], valid[row] = low + (units + 1) / 2 * (high - low), True
        is_valid = torch.from_numpy(valid).to(said.device)
        actions = constrained(self.action, torch.from_numpy(chunks).float().to(said.device))
        return actions.masked_fill(~is_valid[:, None, None], torch.nan), is_valid


def _units(actions: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Actions (…, a) so that low is −1 and high is 1."""
    return 2 * (actions - low) / (high - low) - 1


def _limits(ranges: Sequence[_Range], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Low and high (a,) of given ranges; a dimension that never changes gets a width."""
    if len(ranges) != size or any(r is None or len(r) != 2 or not np.isfinite(r).all() or r[0] > r[1] for r in ranges):
        raise ConfigError(f"fast needs [low, high] for each of {size} dimensions; got {list(ranges)!r:.200}")
    low, high = np.array([list(r) for r in ranges if r is not None], np.float64).T
    constant = high - low < 1e-6
    return np.where(constant, low - 1, low), np.where(constant, high + 1, high)


def _repeated(actions: Tensor, mask: Tensor) -> Tensor:
    """Actions (b, k, a) where an unknown one is the last known one before it, or the first known one."""
    steps = torch.arange(mask.shape[1], device=mask.device)
    latest = torch.where(mask, steps, -1).cummax(1).values
    first = mask.to(torch.uint8).argmax(1, keepdim=True)
    index = torch.where(latest >= 0, latest, first)
    return actions.gather(1, index.unsqueeze(-1).expand_as(actions))
