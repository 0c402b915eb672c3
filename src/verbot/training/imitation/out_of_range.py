"""Data outside the declared ranges of a robot: refused, clipped, or given wider ranges."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from verbot.data import Dataset
from verbot.data.storage.ranges import TOLERANCE, OutOfRange, out_of_range
from verbot.data.storage.reader import Episode
from verbot.errors import ConfigError
from verbot.spec import Component, RobotSpec
from verbot.statistics import Statistics

SHOWN = 3  # dimensions that an error lists


@dataclass(frozen=True)
class CheckedRanges:
    """The robot of a dataset, with ranges as the run uses them, and sentences that say what was done."""

    spec: RobotSpec
    notes: tuple[str, ...] = ()


def checked_ranges(
    dataset: Dataset, numbers: Sequence[int], statistics: Statistics | None, how: Literal["refuse", "clip", "widen"]
) -> CheckedRanges:
    """Compare the episodes `numbers` of a dataset with the ranges of its spec.

    Args:
        statistics: those of the episodes, if they are known: without a number outside nothing is read.

    Raises `ConfigError` with how many numbers are outside, in which dimensions and by how much, if `how` is ``"refuse"``.
    """
    if statistics is not None and _all_inside(statistics, dataset.spec):
        return CheckedRanges(dataset.spec)
    found = out_of_range((dataset[number] for number in numbers), dataset.spec)
    if not found:
        return CheckedRanges(dataset.spec)
    text = "; ".join(map(str, found[:SHOWN]))
    text += f"; and {len(found) - SHOWN} more dimensions" if len(found) > SHOWN else ""
    if "verbot" not in dataset.info:  # nobody declared these ranges: they are those of the recorder's statistics
        return CheckedRanges(
            _widened(dataset.spec, found, [dataset[number] for number in numbers]),
            (f"{dataset.root}: ranges are those of the data, which its recorded statistics do not hold: {text}",),
        )
    if how == "refuse":
        raise ConfigError(
            f"{dataset.root} has numbers outside the robot's ranges: {text}. Correct the ranges (`verbot data import --spec`), "
            f"train with ranges that hold the data (--set data.out_of_range=widen), or with clipped actions "
            f"(--set data.out_of_range=clip)"
        )
    if how == "widen":
        widened = _widened(dataset.spec, found, [dataset[number] for number in numbers])
        return CheckedRanges(widened, (f"{dataset.root}: the robot's ranges are widened: {text}",))
    return CheckedRanges(dataset.spec, (f"{dataset.root}: actions are clipped, states are not: {text}",))


def first_not_finite(dataset: Dataset, numbers: Sequence[int]) -> str | None:
    """Where the first number of the episodes that is not finite is, as a sentence; None without any."""
    for number in numbers:
        episode, spec = dataset[number], dataset.spec
        for vector, values, components in (
            ("state", episode.states, spec.state), ("action", episode.actions, spec.action),
        ):  # fmt: skip
            places = np.argwhere(~np.isfinite(values))
            if len(places):
                frame, column = places[0].tolist()
                name = [f"{c.name}.{axis}" for c in components for axis in c.axes][column]
                more = f" and {len(places) - 1} more numbers are not finite there" if len(places) > 1 else ""
                return (
                    f"{dataset.root}: the {vector} {name} is {values[frame, column]} in episode {number}, frame {frame}{more}: "
                    f"mend the data, or leave the episode out with data.selections"
                )
    return None


def _all_inside(statistics: Statistics, spec: RobotSpec) -> bool:
    for vector, components in (("state", spec.state), ("action", spec.action)):
        if not components:
            continue
        low, high = (np.array([x for c in components for x in getattr(c, bound)]) for bound in ("low", "high"))
        allowed, found = TOLERANCE * (high - low), statistics[vector]
        if (found.min < low - allowed).any() or (found.max > high + allowed).any():
            return False
    return True


def _widened(spec: RobotSpec, found: Sequence[OutOfRange], episodes: Sequence[Episode]) -> RobotSpec:
    """The robot with ranges that hold the data in the dimensions that were `found`."""

    def wider(vector: str, component: Component, place: slice) -> Component:
        outside = {each.axis for each in found if (each.vector, each.component) == (vector, component.name)}
        if not outside:
            return component
        low, high = list(component.low), list(component.high)
        for episode in episodes:
            values = (episode.states if vector == "state" else episode.actions)[:, place].astype(float)
            for axis, (name, column) in enumerate(zip(component.axes, values.T, strict=True)):
                if name in outside:
                    low[axis], high[axis] = min(low[axis], float(column.min())), max(high[axis], float(column.max()))
        return dataclasses.replace(component, low=tuple(low), high=tuple(high))

    state = tuple(wider("state", c, spec.state_slices()[c.name]) for c in spec.state)
    action = tuple(wider("action", c, spec.action_slices()[c.name]) for c in spec.action)
    return dataclasses.replace(spec, state=state, action=action)
