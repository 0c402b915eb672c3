"""verbot: vision-language-action policies for robots, from demonstrations to deployment.

The public API, small and lazy: importing it costs numpy; torch and the simulator load when a function needs them.

Example:
    >>> import verbot
    >>> verbot.Camera("front", 64, 64).name
    'front'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from verbot import gymnasium_ids
from verbot.contracts import Agent, Env, EpisodeRequest, EpisodeSource, Policy, Robot, TaskEnv
from verbot.errors import VerbotError, missing
from verbot.spec import ActionChunk, Camera, Component, Observation, RobotSpec

if TYPE_CHECKING:
    from verbot.data import open_dataset
    from verbot.envs import make_env
    from verbot.policy.opening import load_policy
    from verbot.rollout.collect import collect
    from verbot.workflows.train_evaluate import evaluate, train

__version__ = "0.1.0"

gymnasium_ids.register_when_imported()

_LAZY = {
    "open_dataset": "verbot.data",
    "make_env": "verbot.envs",
    "load_policy": "verbot.policy.opening",
    "collect": "verbot.rollout.collect",
    "train": "verbot.workflows.train_evaluate",
    "evaluate": "verbot.workflows.train_evaluate",
}

__all__ = [
    "ActionChunk",
    "Agent",
    "Camera",
    "Component",
    "Env",
    "EpisodeRequest",
    "EpisodeSource",
    "Observation",
    "Policy",
    "Robot",
    "RobotSpec",
    "TaskEnv",
    "VerbotError",
    "__version__",
    "collect",
    "evaluate",
    "load_policy",
    "make_env",
    "open_dataset",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'verbot' has no attribute {name!r}; its public names are {', '.join(__all__)}")
    try:
        value = getattr(importlib.import_module(_LAZY[name]), name)
    except ModuleNotFoundError as error:
        raise missing(error) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
