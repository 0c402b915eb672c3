"""Episode results, and the file ``results.jsonl`` with one JSON line per episode, appended as episodes end."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, TracebackType
from typing import Any, Literal

import numpy as np

from verbot.contracts import EpisodeRequest
from verbot.errors import CorruptFileError
from verbot.files import LineLog, read_lines
from verbot.spec import FloatArray

RENAMED = {"named": "target_object", "engaged": "first_contact", "player": "agent"}  # field names of verbot 0.1
Outcome = Literal["success", "failure", "error"]


@dataclass(frozen=True)
class Job:
    """An episode to run.

    Args:
        agent: ``"policy"``, or a scripted one (`verbot.rollout.baselines.POLICY_FREE_AGENTS`).
        request, seed: specify the episode.
    """

    agent: str
    request: EpisodeRequest
    seed: int = 0

    @property
    def key(self) -> str:
        """A unique key of this episode."""
        r = self.request
        parts = [self.agent, r.task or "any", r.split, str(r.index), f"goal{r.goal}", r.wording, r.composition]
        parts += [f"{axis}{strength}" for axis, strength in sorted(r.axes.items()) if strength]
        if r.text is not None or r.templates is not None:
            words = json.dumps([r.text, {verb: list(t) for verb, t in sorted((r.templates or {}).items())}])
            parts.append("words-" + hashlib.sha256(words.encode()).hexdigest()[:8])
        return "/".join([*parts, f"seed{self.seed}"])

    def played_by(self, agent: str) -> Job:
        return dataclasses.replace(self, agent=agent)


@dataclass(frozen=True)
class EpisodeResult:
    """One line of ``results.jsonl``.

    Args:
        key: see `Job.key`.
        agent: ``"policy"``, ``"random"``, ``"expert"`` or ``"blind"``.
        target_object: id of the object that the instruction names; None if it names no single object.
        first_contact: id of the object that was touched first; None if none was touched.
        outcome: an error is a fault of the simulator or of the code, never a failure of the agent.
        steps: number of control steps.
        malformed: number of the policy's answers that meant no actions, in place of which the robot was held. In the file only
            where there were any.
        actions: base64 of the executed actions, float32 (steps, a). Replaying them reproduces the episode exactly.
    """

    key: str
    agent: str
    task: str
    index: int
    goal_index: int
    instruction: str
    goal: Mapping[str, Any]
    target_object: str | None
    first_contact: str | None
    outcome: Outcome
    steps: int
    final_error_m: float | None
    seconds: float = 0.0
    error: str | None = None
    axes: Mapping[str, int] = field(default_factory=dict)
    actions: str = ""
    malformed: int = 0

    @property
    def success(self) -> bool:
        return self.outcome == "success"


def encode_actions(actions: Iterable[FloatArray]) -> str:
    return base64.b64encode(b"".join(np.asarray(a, np.float32).tobytes() for a in actions)).decode()


def decode_actions(text: str, action_size: int) -> FloatArray:
    """Inverse of `encode_actions`: float32 (steps, a)."""
    return np.frombuffer(base64.b64decode(text), np.float32).reshape(-1, action_size).copy()


class ResultsJournal:
    """Appends results to ``results.jsonl``; `results` contains all results of the file by key.

    An incomplete last line of an interrupted run is removed. Raises `CorruptFileError` for any other broken line.
    """

    def __init__(self, path: Path):
        self.path = path
        self.results = {result.key: result for result in read_results(path)}
        self._file = LineLog(path)

    def add(self, result: EpisodeResult) -> None:
        self.results[result.key] = result
        record = dataclasses.asdict(result)
        if not result.malformed:
            del record["malformed"]
        self._file.append(json.dumps(record, ensure_ascii=False))

    def __enter__(self) -> ResultsJournal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()


def read_results(path: Path) -> list[EpisodeResult]:
    """All results in a ``results.jsonl``; a later line for the same episode replaces the earlier one.

    Nothing is read of a last line that a run which died left incomplete.
    """
    results: dict[str, EpisodeResult] = {}
    for number, line in enumerate(read_lines(path), 1):
        try:
            record = json.loads(line)
            result = EpisodeResult(**{RENAMED.get(key, key): value for key, value in record.items()})
            _check_types(result)
        except (AttributeError, TypeError, ValueError, RecursionError) as error:
            raise CorruptFileError(path, f"line {number} is not an episode result: {error}") from error
        results[result.key] = result
    return list(results.values())


_TYPES: dict[type | tuple[type, ...], tuple[str, ...]] = {
    str: ("key", "agent", "task", "instruction", "outcome", "actions"),
    int: ("index", "goal_index", "steps", "malformed"),
    (int, float): ("seconds",),
    (int, float, NoneType): ("final_error_m",),
    (str, NoneType): ("target_object", "first_contact", "error"),
    dict: ("goal", "axes"),
}


def _check_types(result: EpisodeResult) -> None:
    """Raise `TypeError` that names the first field with a value of another type."""
    for types, names in _TYPES.items():
        for name in names:
            if not isinstance(value := vars(result)[name], types):
                raise TypeError(f"its {name} is {value!r:.100}")
