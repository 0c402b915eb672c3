"""One action head per task, and a task classifier that selects the head."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.layers.transformer import reader
from verbot.models.protocols import ClassifiesTasks, FitsActions, ReadsLayers
from verbot.models.registries import heads
from verbot.models.stochastic import StochasticHead
from verbot.models.tokens import Batch, HeadInput, TokenGroup


@heads.register("multi_task")
class MultiTask(nn.Module):
    """One head and one learned embedding per task on shared features, and a task classifier.

    A shared MLP maps each fused token and the task embedding to an update of the token, which the task's head then reads. In
    training, each demonstration uses the head of its recorded task, and the objective ``task_classification`` trains the
    classifier. In prediction, the head of the most likely task acts.

    Args:
        tasks: their names; training fills them in from the demonstrations.
        head: the registered name of each task's head, with `options`.

    Raises `ConfigError` for a head that is itself multi-task or reads the layers of the fusion.
    """

    def __init__(
        self,
        inputs: HeadInput,
        tasks: Sequence[str] = (),
        head: str = "regression",
        options: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        if not tasks:
            raise ConfigError("a multi_task head needs tasks: training takes them from its data, or set its option tasks")
        if twice := sorted({name for name in tasks if list(tasks).count(name) > 1}):
            raise ConfigError(f"tasks of a multi_task head are named twice: {', '.join(twice)}")
        if isinstance(heads.get(head), ClassifiesTasks):
            raise ConfigError(f"a multi_task head cannot use the head {head!r} for each task: it is itself multi-task")
        self.tasks, width = tuple(tasks), inputs.width
        self.embeddings = nn.Embedding(len(tasks), width)
        self.join = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, width))
        self.choose = nn.Sequential(reader(width, inputs.count), nn.Linear(width, len(tasks)))
        self.heads = nn.ModuleList(heads.build(head, inputs, **(options or {})) for _ in tasks)
        first = self.heads[0]
        if isinstance(first, ReadsLayers) and first.reads_layers:
            raise ConfigError(f"the head {head!r} reads the layers of the fusion, which have no task embedding; choose another")

    @staticmethod
    def fit(options: Mapping[str, Any], chunks: Any) -> Mapping[str, Any]:
        """The options with those of the tasks' head, fitted to the training actions."""
        factory = heads.get(options.get("head", "regression"))
        if not isinstance(factory, FitsActions):
            return options
        return {**options, "options": factory.fit(options.get("options") or {}, chunks)}

    def classify(self, fused: TokenGroup) -> Tensor:
        """Logits of the tasks, (b, tasks)."""
        return self.choose(fused)

    def losses(self, fused: TokenGroup, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """The losses of the tasks' heads, averaged over all valid steps. A row without a task uses the most likely task."""
        assert batch.actions_mask is not None
        logits, target = self.classify(fused), batch.targets.get("task")
        chosen = logits.argmax(-1)
        if target is not None:
            chosen = torch.where(target.mask, target.values, chosen)
        found: dict[str, Tensor] = {}
        steps = batch.actions_mask.sum().clamp(min=1)
        for number, head in enumerate(self.heads):
            rows = (chosen == number).nonzero().squeeze(1)
            mine = _rows(batch, rows)
            assert mine.actions_mask is not None
            for name, value in head.losses(self._with_task(fused, rows, number), mine, generator).items():  # type: ignore[operator]
                found[name] = found.get(name, 0) + value * mine.actions_mask.sum() / steps
        return found

    def predict(self, fused: TokenGroup, generator: torch.Generator | None = None) -> Tensor:
        return self._by_task(fused, lambda head, rows: head.predict(rows, generator))  # type: ignore[operator]

    def sample(self, fused: TokenGroup, generator: torch.Generator) -> Tensor:
        """Sampled by the head of the most likely task. Raises `ConfigError` if it has no distribution."""

        def drawn(head: nn.Module, rows: TokenGroup) -> Tensor:
            if not isinstance(head, StochasticHead):
                raise ConfigError("the heads of these tasks have no distribution to sample actions from")
            return head.sample(rows, generator)

        return self._by_task(fused, drawn)

    def _by_task(self, fused: TokenGroup, act: Callable[[nn.Module, TokenGroup], Tensor]) -> Tensor:
        """Each row's actions, by the head of its most likely task."""
        chosen = self.classify(fused).argmax(-1)
        rows = [(chosen == number).nonzero().squeeze(1) for number in range(len(self.tasks))]
        parts = [
            act(head, self._with_task(fused, mine, number))
            for number, (head, mine) in enumerate(zip(self.heads, rows, strict=True))
            if len(mine)
        ]
        return torch.cat(parts)[torch.cat(rows).argsort()]

    def _with_task(self, fused: TokenGroup, rows: Tensor, task: int) -> TokenGroup:
        """These rows with the embedding of their task."""
        tokens = fused.tokens[rows]
        embedding = self.embeddings.weight[task].expand_as(tokens)
        # Added to the token: with small initial weights, replacing it would lose the fused features.
        return TokenGroup(tokens + self.join(torch.cat([tokens, embedding], -1)), fused.mask[rows], fused.kind)


def _rows(batch: Batch, rows: Tensor) -> Batch:
    """These rows of the fields that heads use."""
    assert batch.actions is not None and batch.actions_mask is not None
    return dataclasses.replace(batch, actions=batch.actions[rows], actions_mask=batch.actions_mask[rows])
