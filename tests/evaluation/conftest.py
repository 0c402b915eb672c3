"""Makes the toy world importable, here and in worker processes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from verbot.evaluation.results import EpisodeResult

HERE = str(Path(__file__).parent)


@pytest.fixture(autouse=True)
def toy_world_on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PYTHONPATH", HERE)
    monkeypatch.syspath_prepend(HERE)
    yield
    sys.modules.pop("toy_world", None)


@pytest.fixture
def made() -> Callable[..., EpisodeResult]:
    """A hand-made result; what is not said is a ten-step success with the named object."""

    def make(index: int = 0, outcome: str = "success", **fields: object) -> EpisodeResult:
        defaults: dict[str, object] = {
            "key": f"policy/go/test/{index}/goal0/canonical/seen/seed0",
            "player": "policy",
            "task": "go",
            "index": index,
            "goal_index": 0,
            "instruction": "go to red",
            "goal": {"verb": "go", "object": "red"},
            "named": "red",
            "engaged": "red",
            "outcome": outcome,
            "steps": 10,
            "final_error_m": 0.0,
        }
        return EpisodeResult(**(defaults | fields))  # type: ignore[arg-type]

    return make
