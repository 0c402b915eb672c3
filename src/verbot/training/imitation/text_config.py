"""Which text a run is co-trained on, and how much of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from verbot.contracts import TextTask
from verbot.contracts.reasoning import PARTS, check_parts
from verbot.errors import ConfigError
from verbot.models.config import NetworkConfig
from verbot.ranges import FRACTION, check_ranges

SCENE_KINDS = ("question", "caption", "reasoning")  # that need the truth of scenes


@dataclass(frozen=True)
class TextConfig:
    """Text beside the actions of demonstrations, for a language model that acts. Fractions of all samples; the rest is actions.

    Args:
        question: questions about the scene of a frame, with its images and without actions.
        caption: captions of a frame.
        fact: questions without images, from `facts`.
        reasoning: frames whose actions are preceded by reasoning (see `verbot.contracts.Reasoning`).
        facts: files of one JSON object a line, ``{"prompt": "what color is a lemon?", "answer": "yellow"}``.
        parts: the parts of reasoning that are written.
    """

    question: float = 0.0
    caption: float = 0.0
    fact: float = 0.0
    reasoning: float = 0.0
    facts: tuple[str, ...] = ()
    parts: tuple[str, ...] = PARTS

    def __post_init__(self) -> None:
        check_ranges(self, question=FRACTION, caption=FRACTION, fact=FRACTION, reasoning=FRACTION)
        check_parts(self.parts)
        if sum(self.shares) > 1 + 1e-9:
            raise ConfigError(f"the fractions of text add up to {sum(self.shares):g}; expected at most 1, the rest being actions")
        if self.fact > 0 and not self.facts:
            raise ConfigError("text.fact needs facts: set text.facts to files of prompts and answers, one JSON object a line")
        if self.reasoning > 0 and not self.parts:
            raise ConfigError(f"text.reasoning writes no part: set text.parts to some of {', '.join(PARTS)}")

    @property
    def shares(self) -> tuple[float, ...]:
        """Of question, caption, fact and reasoning."""
        return self.question, self.caption, self.fact, self.reasoning

    @property
    def needs_scenes(self) -> bool:
        return any(share > 0 for kind, share in zip(("question", "caption", "fact", "reasoning"), self.shares, strict=True)
                   if kind in SCENE_KINDS)  # fmt: skip


def check_text(text: TextConfig, network: NetworkConfig) -> None:
    """Raise `ConfigError` for text that a network does not learn."""
    if any(text.shares) and not network.is_trained("text"):
        raise ConfigError(
            "the training has text (data.text.question and others), and the network does not learn it: use the backbone 'vlm', "
            "and add objectives.text, for example with a weight of 1"
        )


def load_facts(path: str | Path) -> tuple[TextTask, ...]:
    """The facts in a file. Raises `ConfigError` that names the file and the line that is wrong."""
    path, found = Path(path), []
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file of facts")
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        prompt, answer = (record.get(key) if isinstance(record, dict) else None for key in ("prompt", "answer"))
        if not (isinstance(prompt, str) and isinstance(answer, str) and prompt.strip() and answer.strip() and len(record) == 2):
            raise ConfigError(
                f'{path}, line {number}: expected {{"prompt": "…", "answer": "…"}} with two texts; got {line[:60]!r}'
            )
        found.append(TextTask(prompt, answer, "fact"))
    if not found:
        raise ConfigError(f"{path}: holds no facts; expected one JSON object with prompt and answer a line")
    return tuple(found)
