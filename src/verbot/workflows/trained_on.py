"""The envs on which a policy was trained, read from its card."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from verbot.errors import ConfigError, PolicyError
from verbot.policy.identity import CARD
from verbot.workflows.load_policy import policy_folder
from verbot.yaml_values import parse_value

EXPERT_SUITES = ("tabletop-starter", "tabletop-full", "tabletop-relations", "tabletop-memory", "navigation")
_SETTINGS = re.compile(r"```yaml\n(.*?)```", re.DOTALL)


def trained_on(name: str) -> tuple[str, ...]:
    """The envs on which the policy `name` was trained, from the configuration in its card; empty if none is recorded.

    For the expert these are all envs that ship with verbot. A policy server has no card.

    Example:
        >>> trained_on("starter")
        ('tabletop-starter',)
    """
    if name == "expert":
        return EXPERT_SUITES
    if name.startswith(("ws://", "wss://")):
        return ()
    try:
        card = (Path(policy_folder(name)) / CARD).read_text(encoding="utf-8")
        records = [parse_value(block) for block in _SETTINGS.findall(card)]
    except (OSError, UnicodeDecodeError, ConfigError, PolicyError):
        return ()
    return tuple(dict.fromkeys(env for record in records if isinstance(record, dict) for env in _envs(record)))


def _envs(recipe: Mapping[str, Any]) -> Iterator[str]:
    """The envs of a recipe's collections and reinforcement stages, also of a record with a single stage."""
    for stage in (recipe, *_records(recipe.get("stages"))):
        for settings in _records([stage.get("collection"), stage.get("reinforcement")]) + _records(stage.get("collections")):
            env = settings.get("env")
            name = env.get("name") if isinstance(env, dict) else env
            if isinstance(name, str):
                yield name


def _records(found: object) -> list[dict[str, Any]]:
    return [record for record in found if isinstance(record, dict)] if isinstance(found, list) else []
