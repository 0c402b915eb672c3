"""Language encoders on instructions of several sentences, without a robot.

Run it as ``python experiments/multi_sentence_language.py word_embedding hierarchical``. Random goals are worded as by
`tabletop-sentences`. The encoder, a pool and two layers learn to classify verb, color, shape, direction and receptacle. An
instruction counts if all of them are right: with wordings of training, with held-out wordings, and with more sentences.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

from verbot.envs.tabletop.language import multi_sentence
from verbot.envs.tabletop.language.vocabulary import (
    DIRECTIONS,
    OBJECT_COLORS,
    RECEPTACLE_COLORS,
    RECEPTACLES,
    SHAPES,
    STARTER_VERBS,
)
from verbot.models.encoders.language.tokenizer import drop_words
from verbot.models.layers.transformer import AttentionPool
from verbot.models.registries import language_encoders
from verbot.models.tokens import Sizes, TextBatch

WIDTH, OBJECTS = 64, 4
SLOTS = (STARTER_VERBS, OBJECT_COLORS, SHAPES, tuple(DIRECTIONS), RECEPTACLE_COLORS, tuple(RECEPTACLES))
ABSENT = -1


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    encoders: tyro.conf.Positional[tuple[str, ...]]
    base: str = "word_embedding"  # of hierarchical
    depth: int = 3  # frozen layers of MiniLM
    steps: int = 800
    batch: int = 64
    learning_rate: float = 2e-3
    train: int = 6000  # instructions
    test: int = 600
    word_dropout: float = 0.05
    seed: int = 0
    wordings: tuple[str, ...] = field(default=("seen", "unseen", "longer"))


class Reader(nn.Module):
    """The encoder, one query that pools its tokens, and two layers to the scores of every slot."""

    def __init__(self, encoder: Any):
        super().__init__()
        self.prepare = encoder.prepare
        self.encoder, self.pool = encoder, AttentionPool(WIDTH)
        self.layers = nn.Sequential(nn.Linear(WIDTH, 256), nn.GELU(), nn.Linear(256, sum(map(len, SLOTS))))

    def forward(self, text: TextBatch) -> Sequence[Tensor]:
        return self.layers(self.pool(self.encoder(text))).split([len(slot) for slot in SLOTS], -1)


def main() -> None:
    args = tyro.cli(Arguments, description=__doc__)
    torch.set_num_threads(1)
    for name in args.encoders:
        print(json.dumps({"encoder": name, **({"base": args.base} if name == "hierarchical" else {}), **measure(name, args)}))


def measure(name: str, args: Arguments) -> dict[str, Any]:
    """The share of instructions with all slots right, by wording."""
    torch.manual_seed(args.seed)
    texts, truth = commands(args.train, "seen", 1)
    encoder = build(name, args, texts)
    reader = Reader(encoder)
    prepared = reader.prepare(texts)
    optimizer = torch.optim.AdamW(reader.parameters(), weight_decay=0.01)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.learning_rate, total_steps=args.steps, pct_start=0.1)
    draws, started = torch.Generator().manual_seed(args.seed), time.perf_counter()
    for _ in range(args.steps):
        rows = torch.randint(len(texts), (args.batch,), generator=draws)
        length = int(prepared.mask[rows].sum(1).max())
        text = drop_words(TextBatch(prepared.values[rows, :length], prepared.mask[rows, :length]), args.word_dropout, draws)
        scores = reader(text)
        loss = sum(F.cross_entropy(s, truth[rows, i], ignore_index=ABSENT) for i, s in enumerate(scores))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        optimizer.step()
        rates.step()
    seconds = time.perf_counter() - started
    reader.eval()
    return {
        "steps": args.steps,
        **{w: understood(reader, *commands(args.test, w, 7)) for w in args.wordings},
        "s": round(seconds),
    }


def build(name: str, args: Arguments, texts: Sequence[str]) -> Any:
    depth: dict[str, Any] = {"depth": args.depth}
    options: dict[str, Any] = depth if name == "minilm" else {}
    if name == "hierarchical":
        options = {"base": args.base, "base_options": depth if args.base == "minilm" else {}}
    fitted = language_encoders.get(name).fit(options, texts)
    return language_encoders.build(name, Sizes(WIDTH, 1, 64, 64, 4, 10, ()), **fitted)


@torch.no_grad()
def understood(reader: Reader, texts: Sequence[str], truth: Tensor) -> float:
    scores = reader(reader.prepare(texts))
    right = torch.stack([s.argmax(-1) for s in scores], 1) == truth
    return round((right | (truth == ABSENT)).all(1).float().mean().item(), 3)


def commands(count: int, wording: str, seed: int) -> tuple[list[str], Tensor]:
    """Texts, and the class of each slot (b, 6), `ABSENT` where the text does not mention it."""
    rng = np.random.default_rng(seed)
    texts, truth = [], []
    for _ in range(count):
        goal, others = draw(rng)
        texts.append(multi_sentence.say(goal, others, wording, rng))
        color, shape = goal["object"].split()
        receptacle = goal.get("receptacle", " ").split(" ")
        spoken = (goal["verb"], color, shape, goal.get("direction"), *receptacle)
        truth.append([slot.index(word) if word in slot else ABSENT for slot, word in zip(SLOTS, spoken, strict=True)])
    return texts, torch.tensor(truth)


def draw(rng: np.random.Generator) -> tuple[dict[str, str], list[str]]:
    """A goal, and the other objects of the scene."""

    def some(colors: Sequence[str], nouns: Sequence[str], count: int) -> list[str]:
        names = [f"{color} {noun}" for color in colors for noun in nouns]
        return [names[i] for i in rng.permutation(len(names))[:count]]

    target, *others = some(OBJECT_COLORS, SHAPES, OBJECTS)
    receptacle, other = some(RECEPTACLE_COLORS, tuple(RECEPTACLES), 2)
    goal = {"verb": str(rng.choice(STARTER_VERBS)), "object": target}
    if goal["verb"] == "put":
        return goal | {"receptacle": receptacle, "preposition": RECEPTACLES[receptacle.split()[1]]}, [*others, other]
    return goal | ({"direction": str(rng.choice(list(DIRECTIONS)))} if goal["verb"] == "push" else {}), [
        *others,
        receptacle,
        other,
    ]


if __name__ == "__main__":
    main()
