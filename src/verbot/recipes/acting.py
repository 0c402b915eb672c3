"""Which fields of an evaluation say how a policy acts, and may differ within a comparison."""

from __future__ import annotations

import dataclasses

from verbot.evaluation import EvaluationConfig

# The fields of an evaluation that say what is evaluated; the others say how the policy acts in it.
SCENES = frozenset(
    [
        *("suite", "tasks", "episodes", "seed", "mode", "axes", "templates", "conditions", "side_episodes", "goals", "baselines"),
        *("videos", "latency_calls", "workers", "slots", "options"),
    ]
)
ACTING = tuple(field.name for field in dataclasses.fields(EvaluationConfig) if field.name not in SCENES)
