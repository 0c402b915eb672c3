"""Evidence that a recording is of a known robot.

What is taken from a known robot changes numbers (a gripper's polarity) or adds some (units, ranges, a rate). A name, or the names
of fields, are not enough: the sizes and the values must fit too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from verbot.data.importers import known_robots
from verbot.data.importers.known_robots import KnownComponent, KnownRobot, Meaning

SHARE = 0.95  # of the values must fit: recordings have outliers
MARGIN = 0.01  # of a range: sensors overshoot


@dataclass(frozen=True)
class Recognition:
    """The robot that was decided on, and why; `evidence` is empty if nothing suggests a known robot."""

    robot: KnownRobot
    evidence: str = ""


def misfit(meaning: Meaning, fields: Mapping[str, np.ndarray]) -> str:
    """Why `fields`, numbers (t, …) of an episode, do not have this `meaning`; empty if those that it names have it.

    Each component's values are compared with the least and the greatest end of its range, and with what is typical of it.
    """
    for name, values in fields.items():
        if name not in meaning:
            continue
        rows = np.asarray(values, np.float64).reshape(len(values), -1)
        size = sum(len(part.axes) for part in meaning[name])
        if rows.shape[1] != size:
            return f"{name} has {rows.shape[1]} numbers a frame, not {size}"
        for part, columns in _parts(meaning[name], rows):
            low, high = _bounds(part)
            if not columns.size or np.mean((columns >= low) & (columns <= high)) < SHARE:
                found = f"{columns.min():.3g} to {columns.max():.3g}" if columns.size else "no values"
                return f"{name} ({part.name}) has {found}, not {low:.3g} to {high:.3g}"
    return ""


def recognized(name: str, suspects: Mapping[str, tuple[str, ...]], fields: Mapping[str, np.ndarray]) -> Recognition | None:
    """The robot that the dataset's name suggests, if `fields` fit it; otherwise None's robot with the reason.

    Args:
        suspects: what names of its datasets begin with, by the robot's name in `ROBOTS`.
        fields: the numbers (t, …) of one episode.

    Returns None if neither the name nor the fields suggest a robot.
    """
    for robot_name, stems in suspects.items():
        robot = known_robots.known(robot_name)
        named = name.lower().startswith(stems)
        needed = (*robot.state_fields, *robot.action_fields)
        absent = [field for field in needed if field not in fields]
        if absent and not named:
            continue
        problem = f"it has no {absent[0]}" if absent else misfit({**robot.state, **robot.action}, fields)
        if named and not problem:
            return Recognition(robot, f"the name {name!r}, and the sizes and values of {', '.join(needed)}")
        if named or (not problem and robot_name in DISTINCT):
            reason = problem or f"only the names and sizes of fields suggest {robot_name}"
            text = f"not taken for {robot_name}: {reason}; --robot {robot_name} reads it so"
            return Recognition(known_robots.known("generic"), text)
    return None


DISTINCT = ("droid",)  # robots whose fields have names of their own; `observation/state` and `action` are everybody's


def fitting(robot: KnownRobot, fields: Mapping[str, np.ndarray]) -> tuple[KnownRobot, str]:
    """`robot` without the fields whose values do not fit, and the reasons. The others keep their meaning."""
    problems = {name: problem for name in fields if (problem := misfit({**robot.state, **robot.action}, {name: fields[name]}))}
    state = {name: parts for name, parts in robot.state.items() if name not in problems}
    action = {name: parts for name, parts in robot.action.items() if name not in problems}
    return replace(robot, state=state, action=action), "; ".join(problems.values())


def _parts(parts: tuple[KnownComponent, ...], rows: np.ndarray) -> Iterator[tuple[KnownComponent, np.ndarray]]:
    start = 0
    for part in parts:
        stop = start + len(part.axes)
        yield part, rows[:, start:stop]
        start = stop


def _bounds(part: KnownComponent) -> tuple[float, float]:
    """The values that a recording of this component may have, before their conversion."""
    low = -np.inf if part.low is None else min(part.low)
    high = np.inf if part.high is None else max(part.high)
    if part.typical is not None:
        low, high = max(low, part.typical[0]), min(high, part.typical[1])
    if part.of == "closing":
        low, high = -1.0, 1.0
    margin = MARGIN * (high - low) if np.isfinite([low, high]).all() else 0.0
    return low - margin, high + margin
