"""A small network that matches the clauses of a description with the words of an instruction, on MiniLM's token states."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from verbot.errors import ConfigError, PolicyError
from verbot.files import write_atomic
from verbot.models.allocation import AllocationBudget
from verbot.models.encoders.language.minilm import WIDTH, FrozenEncoder, frozen_encoder
from verbot.models.encoders.language.tokenizer import split_words
from verbot.models.reward_models import reward_models
from verbot.spec import FloatArray

FORMAT, OLD_FORMAT = "verbot-reward-model/1", "verbot-scorer/1"
SHRUNK = 64  # dimensions of a frozen vector after the projection
NUMBERS = 3  # numbers that are read from a clause
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_PLACE = "number"  # the word that replaces a number while the clause is encoded
_REMEMBERED = 20_000  # cached pairs of an instruction and a clause


class Matcher(nn.Module):
    """`outputs` numbers for each pair of a description and an instruction.

    A description consists of clauses, separated by ``;``. The numbers of a clause are extracted and encoded separately, so that
    few distinct clauses remain. A frozen MiniLM encodes each clause and each instruction once.

    Each word of a clause is compared with the most similar word of the instruction, and the reverse (late interaction, Khattab
    and Zaharia 2020), both by MiniLM's word embeddings and by one trained projection per head. This tells whether a clause is
    about the objects of the instruction. The numbers of the clause are then added. Attention weights the clauses; initially it
    prefers those that contain most words of the instruction. In addition every clause has a vote, so that a single clause can
    rule out success.

    Args:
        width, heads: the width and the number of heads of the trained part.
        outputs: numbers for each pair.

    Example:
        >>> split("the robot is 0.52 m from the red circle")
        ('the robot is number m from the red circle', (0.52,))
    """

    centers: Tensor

    def __init__(self, width: int = 64, heads: int = 4, outputs: int = 2):
        super().__init__()
        self.options = {"width": width, "heads": heads, "outputs": outputs}
        self._frozen = frozen_encoder()
        self._known: dict[tuple[str, str], Tensor] = {}
        self.project = nn.Linear(2 * SHRUNK, width)
        self.like = nn.Linear(2 * SHRUNK, heads * 16, bias=False)
        self.sharp = nn.Parameter(torch.zeros(heads))
        found = width + 2 + heads
        self.heard = nn.Sequential(nn.Linear(found + width, width), nn.GELU(), nn.Linear(width, width))
        self.named = nn.Sequential(nn.Linear(found, width), nn.GELU(), nn.Linear(width, width))
        self.context = nn.Sequential(nn.Linear(6 * width + 2, width), nn.GELU(), nn.Linear(width, width), nn.LayerNorm(width))
        self.register_buffer("centers", _centers(), persistent=False)
        self.counted = nn.Linear(NUMBERS * (len(_centers()) + 4), 2 * width)
        self.tell = nn.Sequential(nn.Linear(3 * width, width), nn.GELU(), nn.Linear(width, width))
        self.matter = nn.Linear(width, 2)  # weight of each word of an instruction, and of a clause, that has no match
        self.weigh, self.most = nn.Linear(width, 4), nn.Linear(2, 4, bias=False)
        nn.init.zeros_(self.matter.weight)
        self.most.weight.data = torch.tensor([[20.0, 0.0], [20.0, 10.0], [0.0, 0.0], [0.0, 0.0]])
        self.vote = nn.Linear(width, outputs)
        self.out = nn.Sequential(nn.Linear(5 * width, width), nn.GELU(), nn.Linear(width, outputs))

    def forward(self, states: Sequence[str], goals: Sequence[str]) -> Tensor:
        """(n, outputs), any number."""
        parts = [_clauses(state) for state in states]
        pairs = [(goal, words) for goal, clauses in zip(goals, parts, strict=True) for words, _ in clauses]
        distinct = list(dict.fromkeys(pairs))
        contexts = self._contexts(distinct)
        places = {pair: place for place, pair in enumerate(distinct)}
        both = contexts[torch.tensor([places[pair] for pair in pairs])]
        context, found = both[:, :-2], both[:, -2:]  # (clauses, e), (clauses, 2)
        numbers = torch.tensor([numbers for clauses in parts for _, numbers in clauses])
        shift, scale = self.counted(self._read(numbers)).chunk(2, -1)
        features = self.tell(torch.cat([context, shift, context * scale], -1))
        counts = [len(clauses) for clauses in parts]
        rows = torch.nn.utils.rnn.pad_sequence(features.split(counts), batch_first=True)  # (n, c, e)
        missing = torch.arange(rows.shape[1]) >= torch.tensor(counts)[:, None]
        weights = torch.nn.utils.rnn.pad_sequence((self.weigh(context) + self.most(found)).split(counts), batch_first=True)
        weights = weights.masked_fill(missing.unsqueeze(-1), -math.inf).softmax(1)  # (n, c, 4)
        read = torch.einsum("nch,nce->nhe", weights, rows).flatten(1)
        most = rows.masked_fill(missing.unsqueeze(-1), -math.inf).amax(1)
        votes = self.vote(rows).masked_fill(missing.unsqueeze(-1), 0.0).sum(1)
        opinion: Tensor = self.out(torch.cat([read, most], -1)) + votes
        return opinion

    def prepare(self, texts: Sequence[str]) -> None:
        """Encode many texts in one batch; the result is cached on disk."""
        _frozen(self._frozen, texts)

    @torch.no_grad()
    def forward_no_grad(self, states: Sequence[str], goals: Sequence[str]) -> Tensor:
        """As `forward`, without a gradient."""
        return self(states, goals)

    def train(self, mode: bool = True) -> Matcher:
        self._known.clear()
        super().train(mode)
        return self

    def save(self, path: str | Path, about: Mapping[str, Any] | None = None) -> None:
        """Write one file; it records the digest of the frozen weights that it needs."""
        metadata = {"format": FORMAT, "options": json.dumps(self.options), "minilm": self._frozen.sha256}
        write_atomic(Path(path), save(self.state_dict(), {**metadata, "about": json.dumps(about or {})}))

    @staticmethod
    def load(path: str | Path) -> Matcher:
        """Inverse of `save`. Raises `PolicyError` for another kind of file, or for one of other frozen weights."""
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
        except (OSError, SafetensorError) as error:
            raise PolicyError(f"{path} is not a reward model: {error}") from error
        if metadata.get("format") not in (FORMAT, OLD_FORMAT):
            raise PolicyError(f"{path} is not a reward model: its format is {metadata.get('format')!r}, expected {FORMAT!r}")
        if metadata.get("minilm") != frozen_encoder().sha256:
            raise PolicyError(f"{path} was trained on other MiniLM weights, sha256 {metadata.get('minilm')}")
        try:
            weights = load_file(path)
            with AllocationBudget(2**22 + 3 * sum(weight.numel() for weight in weights.values()), 10_000):
                matcher = Matcher(**json.loads(metadata["options"]))
            matcher.load_state_dict(weights)
        except (ConfigError, SafetensorError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError) as error:
            raise PolicyError(f"{path} is not a reward model: {' '.join(str(error).split())[:400]}") from error
        if wrong := [name for name, weight in matcher.state_dict().items() if not weight.isfinite().all()]:
            raise PolicyError(f"{path}: the weight {wrong[0]} is not finite")
        return matcher.eval()

    def _contexts(self, pairs: Sequence[tuple[str, str]]) -> Tensor:
        """Features (n, e + 2) of each pair of instruction and clause; cached when no gradient is needed."""
        if self.training or torch.is_grad_enabled():
            return self._compare(pairs)
        if len(self._known) > _REMEMBERED:
            self._known.clear()
        missing = [pair for pair in pairs if pair not in self._known]
        if missing:
            self._known |= dict(zip(missing, self._compare(missing), strict=True))
        return torch.stack([self._known[pair] for pair in pairs])

    def _compare(self, pairs: Sequence[tuple[str, str]]) -> Tensor:
        goals, at_goal = _numbered([goal for goal, _ in pairs])
        clauses, at_clause = _numbered([clause for _, clause in pairs])
        (x, x_keys, x_words, x_mask), (y, y_keys, y_words, y_mask) = self._encode(clauses), self._encode(goals)
        both = x_mask[at_clause].unsqueeze(-1) & y_mask[at_goal].unsqueeze(-2)  # (n, i, j)
        same = torch.einsum("nid,njd->nij", x_words[at_clause], y_words[at_goal])
        alike = torch.einsum("nihd,njhd->nhij", x_keys[at_clause], y_keys[at_goal]) * self.sharp.exp()[:, None, None]
        similar = torch.cat([same.unsqueeze(1), same.clamp_min(0).pow(8).unsqueeze(1), alike], 1)
        similar = similar.masked_fill(~both.unsqueeze(1), -1.0)  # (n, 2 + h, i, j)
        close = similar[:, 1]
        known = torch.stack([_share(close.amax(1), self.matter(y)[..., 0][at_goal], y_mask[at_goal]),
                             _share(close.amax(2), self.matter(x)[..., 1][at_clause], x_mask[at_clause])], -1)  # fmt: skip
        attended = (8 * similar[:, 2:].mean(1)).masked_fill(~both, -math.inf).masked_fill(~both.any(-1, keepdim=True), 0.0)
        nearest = torch.einsum("nij,nje->nie", attended.softmax(-1), y[at_goal])
        heard = _pool(self.heard(torch.cat([x[at_clause], nearest, similar.amax(3).transpose(1, 2)], -1)), x_mask[at_clause])
        named = _pool(self.named(torch.cat([y[at_goal], similar.amax(2).transpose(1, 2)], -1)), y_mask[at_goal])
        return torch.cat([self.context(torch.cat([heard, named, heard * named, 4 * known], -1)), known], -1)

    def _encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of each text's tokens: features (n, l, e), keys (n, l, h, d), embeddings (n, l, w) and mask (n, l)."""
        rows = _frozen(self._frozen, texts)
        both = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.arange(both.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
        keys = F.normalize(self.like(both).unflatten(-1, (-1, 16)), dim=-1)
        return self.project(both), keys, F.normalize(both[..., :SHRUNK], dim=-1), mask

    def _read(self, numbers: Tensor) -> Tensor:
        """(n, `NUMBERS`), NaN where there is none, to features (n, f)."""
        known = ~numbers.isnan()
        value = numbers.nan_to_num()
        log = value.abs().log1p() * value.sign()
        bumps = torch.exp(-0.5 * ((log.unsqueeze(-1) - self.centers[:, 0]) / self.centers[:, 1]).square())
        plain = torch.stack([log, (value / 3).clamp(-1, 1), (value / 100).clamp(-4, 4), known.float()], -1)
        return (torch.cat([bumps, plain], -1) * known.unsqueeze(-1)).flatten(1)


@reward_models.register("matcher", needs=("torch",))
class TrainedRewardModel:
    """A `Matcher` that was trained from demonstrations (`verbot.training.rl.rewards.train_reward_model.train_reward_model`).

    Args:
        path: the file that `Matcher.save` wrote.
        sha256: sha256 of that file; another one is refused.

    Raises `PolicyError` for a file that is no reward model, or that has changed.
    """

    def __init__(self, path: str, sha256: str | None = None):
        self.matcher = Matcher.load(path)
        if sha256 not in (None, found := _digest(path)):
            raise PolicyError(f"the reward model {path} has changed: sha256 {found}, not {sha256}")
        if self.matcher.options["outputs"] != 2:
            raise ConfigError(f"{path} has {self.matcher.options['outputs']} outputs; a reward model has 2")

    @staticmethod
    def fit(options: Mapping[str, Any]) -> dict[str, Any]:
        """`options` with the sha256 of the file."""
        return {"sha256": _digest(options["path"]), **options} if "path" in options else dict(options)

    def score(self, states: Sequence[str], goals: Sequence[str]) -> FloatArray:
        scores: FloatArray = self.matcher.forward_no_grad(states, goals).sigmoid().numpy()
        return scores


def _digest(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise PolicyError(f"there is no reward model at {path}: {error}") from error


def split(clause: str) -> tuple[str, tuple[float, ...]]:
    """A clause without its numbers, and the numbers."""
    return " ".join(_NUMBER.sub(f" {_PLACE} ", clause).split()), tuple(float(n) for n in _NUMBER.findall(clause))


@functools.lru_cache(maxsize=200_000)
def _clause(text: str) -> tuple[str, tuple[float, ...]]:
    words, numbers = split(text)
    return words, (*numbers, *[math.nan] * NUMBERS)[:NUMBERS]


def _clauses(state: str) -> list[tuple[str, tuple[float, ...]]]:
    return [_clause(part.strip()) for part in state.split(";") if part.strip()] or [_clause("")]


def _centers() -> Tensor:
    """Centers and widths of the radial basis functions of a number's logarithm: fine up to 3, coarser up to 400."""
    fine, coarse = torch.linspace(0.0, 1.4, 15), torch.linspace(1.6, 6.0, 12)
    return torch.cat(
        [torch.stack([fine, torch.full_like(fine, 0.1)], -1), torch.stack([coarse, torch.full_like(coarse, 0.4)], -1)]
    )


@functools.lru_cache(maxsize=1)
def _shrink() -> Tensor:
    """A fixed random projection (384, w), which roughly preserves distances."""
    drawn = torch.randn(WIDTH, SHRUNK, generator=torch.Generator().manual_seed(0))
    basis: Tensor = torch.linalg.qr(drawn)[0]
    return basis * (WIDTH / SHRUNK) ** 0.5


_known: dict[tuple[str, str], Tensor] = {}  # weights and text to what `_frozen` makes of it


def _frozen(frozen: FrozenEncoder, texts: Sequence[str]) -> list[Tensor]:
    """Embedding, centered, and state of each token of each text, (l, 2w), l its own."""
    missing = list(dict.fromkeys(text for text in texts if (frozen.sha256, text) not in _known))
    if missing:
        normalized = [" ".join(split_words(text)) for text in missing]
        table = frozen.embeddings()
        middle, shrink = table.mean(0), _shrink()
        for text, ids, states in zip(missing, frozen.tokenize(normalized), frozen.cache.encode(normalized), strict=True):
            whole = states.float()
            whole = (whole - whole.mean(-1, keepdim=True)) / whole.std(-1, keepdim=True)
            embedded = table[ids] - middle
            embedded = embedded / embedded.norm(dim=-1, keepdim=True).clamp_min(1e-6) * SHRUNK**0.5
            _known[frozen.sha256, text] = torch.cat([embedded @ shrink, whole @ shrink], -1)
    return [_known[frozen.sha256, text] for text in texts]


def _numbered(texts: Sequence[str]) -> tuple[list[str], Tensor]:
    """Each text once, and which of them every row is."""
    numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    return list(numbers), torch.tensor([numbers[text] for text in texts])


def _share(found: Tensor, matter: Tensor, mask: Tensor) -> Tensor:
    """How much of a text occurs in the other (n,): the weighted mean over its words (n, l)."""
    weights = F.softplus(matter) * mask
    return (found * weights).sum(-1) / weights.sum(-1)


def _pool(x: Tensor, mask: Tensor) -> Tensor:
    """Mean and maximum over the valid tokens (n, l, e): (n, 2e)."""
    there = mask.unsqueeze(-1)
    return torch.cat([(x * there).sum(1) / there.sum(1), x.masked_fill(~there, -math.inf).amax(1)], -1)
