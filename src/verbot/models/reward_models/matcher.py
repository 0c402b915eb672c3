"""A small network that matches the clauses of a description with the words of a sentence, on MiniLM's token states."""

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
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from verbot.errors import ConfigError, PolicyError
from verbot.models.encoders.language.minilm import WIDTH, FrozenEncoder, frozen_encoder
from verbot.models.encoders.language.tokenizer import split_words
from verbot.models.reward_models import scorers
from verbot.spec import FloatArray

FORMAT = "verbot-scorer/1"
SHRUNK = 64  # numbers that a frozen vector is brought to
NUMBERS = 3  # of a clause, that are read
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_PLACE = "number"  # what a number is while the words around it are encoded
_REMEMBERED = 20_000  # pairs of a sentence and a clause


class Matcher(nn.Module):
    """What a description says of a sentence, `outputs` numbers for each pair.

    A description is made of clauses with ``;`` between them. The numbers of a clause are taken out and read as numbers, so that
    few clauses are left, which a frozen MiniLM encodes once each, as it does the sentences. Every word of a clause looks for its
    like in the sentence and every word of the sentence for its like in the clause (the largest similarity, as by Khattab and
    Zaharia 2020): once as MiniLM's word embeddings are, and once for each head as projections that are trained find them. So a
    clause knows whether it is about what the sentence names; what its numbers say of that is added. An attention decides between
    the clauses: at first it goes to those in which most words of the sentence are found. Beside it every clause votes, so that
    one alone can forbid.

    Args:
        width, heads: of the trained part.
        outputs: numbers put out.

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
        self.matter = nn.Linear(width, 2)  # how much each word of a sentence, and each of a clause, counts where it is not found
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
        told = self.tell(torch.cat([context, shift, context * scale], -1))
        counts = [len(clauses) for clauses in parts]
        rows = torch.nn.utils.rnn.pad_sequence(told.split(counts), batch_first=True)  # (n, c, e)
        missing = torch.arange(rows.shape[1]) >= torch.tensor(counts)[:, None]
        weights = torch.nn.utils.rnn.pad_sequence((self.weigh(context) + self.most(found)).split(counts), batch_first=True)
        weights = weights.masked_fill(missing.unsqueeze(-1), -math.inf).softmax(1)  # (n, c, 4)
        read = torch.einsum("nch,nce->nhe", weights, rows).flatten(1)
        most = rows.masked_fill(missing.unsqueeze(-1), -math.inf).amax(1)
        votes = self.vote(rows).masked_fill(missing.unsqueeze(-1), 0.0).sum(1)
        opinion: Tensor = self.out(torch.cat([read, most], -1)) + votes
        return opinion

    def prepare(self, texts: Sequence[str]) -> None:
        """Encode many texts at once, which is kept on disk and sooner done than one after another."""
        _frozen(self._frozen, texts)

    @torch.no_grad()
    def opinions(self, states: Sequence[str], goals: Sequence[str]) -> Tensor:
        """As `forward`, without a gradient."""
        return self(states, goals)

    def train(self, mode: bool = True) -> Matcher:
        self._known.clear()
        super().train(mode)
        return self

    def save(self, path: str | Path, about: Mapping[str, Any] | None = None) -> None:
        """One file, which knows the frozen weights that it belongs to."""
        metadata = {"format": FORMAT, "options": json.dumps(self.options), "minilm": self._frozen.sha256}
        save_file(self.state_dict(), path, {**metadata, "about": json.dumps(about or {})})

    @staticmethod
    def load(path: str | Path) -> Matcher:
        """Inverse of `save`. Raises `PolicyError` for a file that is none, or of other frozen weights."""
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
        except (OSError, SafetensorError) as error:
            raise PolicyError(f"{path} is not a scorer: {error}") from error
        if metadata.get("format") != FORMAT:
            raise PolicyError(f"{path} is not a scorer: its format is {metadata.get('format')!r}, expected {FORMAT!r}")
        matcher = Matcher(**json.loads(metadata["options"]))
        if metadata["minilm"] != matcher._frozen.sha256:
            raise PolicyError(f"{path} was trained on other MiniLM weights, sha256 {metadata['minilm']}")
        matcher.load_state_dict(load_file(path))
        return matcher.eval()

    def _contexts(self, pairs: Sequence[tuple[str, str]]) -> Tensor:
        """What each clause is to its sentence (n, e + 2); remembered where nothing is being learned."""
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
        """Of each text's tokens: what they are (n, l, e), what they look for (n, l, h, d), their embeddings (n, l, w), mask."""
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


@scorers.register("matcher", needs=("torch",))
class TrainedScorer:
    """A `Matcher` that was taught what leads where by demonstrations.

    Args:
        path: of what `verbot.training.rl.rewards.train_reward_model.train_scorer` made and `Matcher.save` wrote.
        sha256: of that file; another one is refused.

    Raises `PolicyError` for a file that is no scorer, or another than it was.
    """

    def __init__(self, path: str, sha256: str | None = None):
        self.matcher = Matcher.load(path)
        if sha256 not in (None, found := _digest(path)):
            raise PolicyError(f"the scorer {path} is another one than it was: sha256 {found}, not {sha256}")
        if self.matcher.options["outputs"] != 2:
            raise ConfigError(f"{path} has {self.matcher.options['outputs']} outputs; a scorer has 2")

    @staticmethod
    def fit(options: Mapping[str, Any]) -> dict[str, Any]:
        """`options` with the sha256 of the file."""
        return {"sha256": _digest(options["path"]), **options} if "path" in options else dict(options)

    def score(self, states: Sequence[str], goals: Sequence[str]) -> FloatArray:
        scores: FloatArray = self.matcher.opinions(states, goals).sigmoid().numpy()
        return scores


def _digest(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise PolicyError(f"there is no scorer at {path}: {error}") from error


def split(clause: str) -> tuple[str, tuple[float, ...]]:
    """A clause without its numbers, and these."""
    return " ".join(_NUMBER.sub(f" {_PLACE} ", clause).split()), tuple(float(n) for n in _NUMBER.findall(clause))


@functools.lru_cache(maxsize=200_000)
def _clause(text: str) -> tuple[str, tuple[float, ...]]:
    words, numbers = split(text)
    return words, (*numbers, *[math.nan] * NUMBERS)[:NUMBERS]


def _clauses(state: str) -> list[tuple[str, tuple[float, ...]]]:
    return [_clause(part.strip()) for part in state.split(";") if part.strip()] or [_clause("")]


def _centers() -> Tensor:
    """Middles and widths of the bumps that a number's logarithm is read with: fine up to 3, coarser up to 400."""
    fine, coarse = torch.linspace(0.0, 1.4, 15), torch.linspace(1.6, 6.0, 12)
    return torch.cat(
        [torch.stack([fine, torch.full_like(fine, 0.1)], -1), torch.stack([coarse, torch.full_like(coarse, 0.4)], -1)]
    )


@functools.lru_cache(maxsize=1)
def _shrink() -> Tensor:
    """A fixed random projection (384, w), in which equal vectors stay equal and others about as unlike as they are."""
    drawn = torch.randn(WIDTH, SHRUNK, generator=torch.Generator().manual_seed(0))
    basis: Tensor = torch.linalg.qr(drawn)[0]
    return basis * (WIDTH / SHRUNK) ** 0.5


_known: dict[tuple[str, str], Tensor] = {}  # weights and text to what `_frozen` makes of it


def _frozen(frozen: FrozenEncoder, texts: Sequence[str]) -> list[Tensor]:
    """Embedding, centered, and state of each token of each text, (l, 2w), l its own."""
    missing = list(dict.fromkeys(text for text in texts if (frozen.sha256, text) not in _known))
    if missing:
        told = [" ".join(split_words(text)) for text in missing]
        table = frozen.embeddings()
        middle, shrink = table.mean(0), _shrink()
        for text, ids, states in zip(missing, frozen.tokenize(told), frozen.cache.encode(told), strict=True):
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
    """How much of a text is found elsewhere (n,): the mean of what was found of each word (n, l), each weighed."""
    weights = F.softplus(matter) * mask
    return (found * weights).sum(-1) / weights.sum(-1)


def _pool(x: Tensor, mask: Tensor) -> Tensor:
    """Mean and largest of the tokens (n, l, e) that are there: (n, 2e)."""
    there = mask.unsqueeze(-1)
    return torch.cat([(x * there).sum(1) / there.sum(1), x.masked_fill(~there, -math.inf).amax(1)], -1)
