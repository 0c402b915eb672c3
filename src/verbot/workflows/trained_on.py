"""On which envs a policy was trained, as far as its folder records it."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from verbot.errors import PolicyError
from verbot.policy.policy import CARD
from verbot.workflows.load_policy import policy_folder

EXPERT_SUITES = ("tabletop-starter", "tabletop-full", "tabletop-relations", "tabletop-memory", "navigation")
_SETTINGS = re.compile(r"```yaml\n(.*?)```", re.DOTALL)


def trained_on(name: str) -> tuple[str, ...]:
    """The envs that the policy called `name` was trained on, from the configuration in its card; empty where none is recorded.

    The expert knows every env that ships. A server reports no card.

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
        records = [yaml.safe_load(block) for block in _SETTINGS.findall(card)]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, PolicyError):
        return ()
    found = [_env(record, part) for record in records for part in ("collection", "reinforcement")]
    return tuple(dict.fromkeys(env for env in found if env))


def _env(record: object, part: str) -> str | None:
    settings = record.get(part) if isinstance(record, dict) else None
    env = settings.get("env") if isinstance(settings, dict) else None
    return env if isinstance(env, str) else None
