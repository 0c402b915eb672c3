"""Task classification: the loss of a head that has one module per task."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from verbot.errors import ConfigError
from verbot.models.features import AuxiliaryPrediction, Features, Losses, NetworkParts, TrainingObjective
from verbot.models.protocols import TaskClassifier
from verbot.models.registries import objectives
from verbot.models.tokens import Batch


@objectives.register("task_classification")
class TaskClassification(TrainingObjective):
    """Cross-entropy of the head's task classifier, over rows with actions whose task is known.

    Uncertainty weighting does not change its weight: this loss soon is nearly 0 except for a few wrong labels, and would come to
    dominate all others.

    Raises `ConfigError` for a head without a classifier.
    """

    labels = ("task",)
    fixed_weight = True

    def __init__(self, parts: NetworkParts):
        super().__init__()
        if not isinstance(parts.head, TaskClassifier):
            raise ConfigError(
                "task_classification trains the classifier of a head such as 'multi_task', and this head has none: "
                "leave it out of objectives"
            )
        self._head = (parts.head,)  # in a tuple, so that torch does not register it twice

    def losses(self, features: Features, batch: Batch, generator: torch.Generator | None = None) -> Losses:
        """``"task_classification"``, and ``"task_accuracy"``, the accuracy of the classifier."""
        logits, target = self._head[0].classify(features.fused), batch.targets.get("task")
        assert batch.actions_mask is not None
        known = batch.actions_mask.any(1) & (batch.actions_mask.new_zeros(()) if target is None else target.mask)
        true = logits.new_zeros(len(logits), dtype=torch.long) if target is None else target.values.clamp(min=0)
        count = known.sum().clamp(min=1)
        entropy = F.cross_entropy(logits.float(), true, reduction="none")
        right = ((logits.argmax(-1) == true) & known).sum() / count
        return {"task_classification": entropy.masked_fill(~known, 0).sum() / count, "task_accuracy": right}

    def predict(self, features: Features) -> Mapping[str, AuxiliaryPrediction]:
        """``"tasks"`` {name: probability}."""
        head = self._head[0]
        return {"tasks": AuxiliaryPrediction(head.classify(features.fused).softmax(-1), names=head.tasks)}
