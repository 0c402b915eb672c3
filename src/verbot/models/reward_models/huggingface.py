"""Pretrained models of the transformers library as reward models: entailment classifiers, cross-encoders and causal models."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from verbot.errors import ConfigError, CorruptFileError
from verbot.models import pretrained
from verbot.models.reward_models import reward_models
from verbot.spec import FloatArray

CLASSIFIER, CAUSAL = "AutoModelForSequenceClassification", "AutoModelForCausalLM"
ENTAILS = "entailment"
_QUESTION = "State: {state}\nCommand: {goal}\nHas the command been carried out? Answer yes or no.\nAnswer:"
_CLAIM = "the command was carried out: {goal}"


@dataclass(frozen=True)
class Prompts:
    """What a model is asked. The fields are options of the reward model.

    Args:
        question: to a causal model, with {state} and {goal}.
        claim: to a judge of entailment, with {goal}.
        yes, no: what a causal model may answer; the first token of each is read.
    """

    question: str = _QUESTION
    claim: str = _CLAIM
    yes: str = " yes"
    no: str = " no"


PROMPTS = Prompts()


@reward_models.register("huggingface", needs=("torch", "transformers"))
class PretrainedRewardModel:
    """The probability that the description entails that the command was carried out. It serves as progress and as success.

    The ``config.json`` of the checkpoint decides how the probability is computed. A classifier with a label ``entailment``
    (trained on MNLI, for example) gives the probability of that label, with the description as premise. A classifier with one
    output (a cross-encoder) gives its sigmoid. A causal language model gives the probability of " yes" against " no" after a
    question. Nothing is trained. Each distinct pair is computed once.

    Args:
        checkpoint: a folder, or a name on the hub. It needs a ``tokenizer.json`` and weights in safetensors.
        revision: revision of the hub's repository.
        prompts: the question to a causal model, the claim hypothesis of an entailment.
        longest: maximum number of tokens of a pair. The end of a longer description is cut off; for a causal model the
            beginning of the prompt.
        batch: pairs in one forward pass.
        kept: size of the cache, in pairs.
        sha256: sha256 of the checkpoint; filled in by `fit`.

    Raises:
        ConfigError: there is no such checkpoint, or its model is none of the three.
        CorruptFileError: the checkpoint has changed, or lacks weights.
        MissingDependencyError: transformers is not installed.
    """

    def __init__(
        self,
        checkpoint: str,
        revision: str | None = None,
        prompts: Prompts = PROMPTS,
        longest: int = 512,
        batch: int = 32,
        kept: int = 100_000,
        sha256: str | None = None,
    ):
        folder = pretrained.find(checkpoint, revision)
        if sha256 not in (None, found := pretrained.identity(folder)):
            raise CorruptFileError(folder, f"is another checkpoint than it was: sha256 {found}, not {sha256}")
        if not (folder / pretrained.TOKENIZER).is_file():
            raise ConfigError(f"{folder} has no {pretrained.TOKENIZER}")
        config = pretrained.library().AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        names = config.architectures or []
        self._causal = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names)
        if not self._causal and not any(name.endswith("ForSequenceClassification") for name in names):
            raise ConfigError(
                f"{folder} is a {', '.join(names) or 'model of no named architecture'}; a reward model is a sequence classifier "
                f"or a causal language model"
            )
        self._entails = None if self._causal else _label(config, str(folder))
        self._tokenizer = pretrained.library("tokenizers").Tokenizer.from_file(str(folder / pretrained.TOKENIZER))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(longest, strategy="longest_first", direction="left" if self._causal else "right")
        self._model = pretrained.load(CAUSAL if self._causal else CLASSIFIER, config, folder)
        self._typed = getattr(config, "type_vocab_size", 0) > 1
        self._pad = config.pad_token_id or 0
        self._prompts, self._batch, self._kept = prompts, batch, kept
        if self._causal:
            self._answers = [self._tokenizer.encode(word, add_special_tokens=False).ids[:1] for word in (prompts.yes, prompts.no)]
            if not all(self._answers) or self._answers[0] == self._answers[1]:
                raise ConfigError(f"{prompts.yes!r} and {prompts.no!r} begin with the same token, or with none")
        self._known: OrderedDict[tuple[str, str], float] = OrderedDict()

    @staticmethod
    def fit(options: Mapping[str, Any]) -> dict[str, Any]:
        """`options` with the identity of the checkpoint."""
        folder = pretrained.find(options["checkpoint"], options.get("revision"))
        return {"sha256": pretrained.identity(folder), **options}

    def score(self, states: Sequence[str], goals: Sequence[str]) -> FloatArray:
        pairs = list(zip(states, goals, strict=True))
        missing = list(dict.fromkeys(pair for pair in pairs if pair not in self._known))
        for start in range(0, len(missing), self._batch):
            part = missing[start : start + self._batch]
            self._known |= dict(zip(part, self._judge(part).tolist(), strict=True))
        scores = np.array([self._known[pair] for pair in pairs], np.float32)
        while len(self._known) > self._kept:
            self._known.popitem(last=False)
        return np.stack([scores, scores], -1)

    @torch.inference_mode()
    def _judge(self, pairs: Sequence[tuple[str, str]]) -> Tensor:
        """Probabilities (n,)."""
        if self._causal:
            encoded = [self._tokenizer.encode(self._prompts.question.format(state=state, goal=goal)) for state, goal in pairs]
        else:
            encoded = [self._tokenizer.encode(state, self._prompts.claim.format(goal=goal) if self._entails else goal)
                       for state, goal in pairs]  # fmt: skip
        lengths = torch.tensor([len(e.ids) for e in encoded])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        inputs = {"input_ids": self._padded([e.ids for e in encoded], self._pad), "attention_mask": mask.long()}
        if not self._causal and self._typed:
            inputs["token_type_ids"] = self._padded([e.type_ids for e in encoded], 0)
        logits: Tensor = self._model(**inputs).logits
        if self._causal:
            last = logits[torch.arange(len(pairs)), lengths - 1]
            return last[:, [self._answers[0][0], self._answers[1][0]]].softmax(-1)[:, 0]
        return logits[:, 0].sigmoid() if self._entails is None else logits.softmax(-1)[:, self._entails[0]]

    @staticmethod
    def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


def _label(config: Any, where: str) -> tuple[int] | None:
    """The index of the output ``entailment``, in a tuple; None for a model with one output."""
    named = [number for number, name in config.id2label.items() if str(name).lower() == ENTAILS]
    if named:
        return (int(named[0]),)
    if config.num_labels == 1:
        return None
    known = ", ".join(map(str, config.id2label.values()))
    raise ConfigError(f"{where} has the labels {known}; a reward model needs a label {ENTAILS!r}, or one output")
