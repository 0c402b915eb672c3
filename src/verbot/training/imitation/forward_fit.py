"""Fits how a robot follows its actions to recorded episodes (see `verbot.spec.ForwardModel`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from verbot.errors import ConfigError
from verbot.spec import BoolArray, FloatArray, ForwardModel, Move, Response, RobotSpec, moves

SHARES = tuple(np.round(np.arange(0.2, 1.001, 0.02), 2).tolist())  # that are tried
LEADS = (0.5, 0.7, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.4, 2.8, 4.0)  # that are tried, in largest actions
ROUNDS = 2
STEPS, COMPARED = 8, (1, 2, 4, 8)  # after so many steps
MOST_SAMPLES = 6000
ENDS, MOSTLY = 0.05, 0.95  # a gripper is a switch if so many of its commands lie so near to the ends of its range

Samples = tuple[FloatArray, FloatArray, FloatArray, FloatArray, BoolArray]


def fit_forward(spec: RobotSpec, episodes: Iterable[tuple[FloatArray, FloatArray]]) -> ForwardModel:
    """The forward model whose states are nearest to the recorded ones after 1, 2, 4 and 8 steps, in the mean.

    Noise that a demonstrator added to the recorded actions only adds to all errors alike.

    Args:
        episodes: states (t, s) and actions (t, a).

    Raises `ConfigError` for a robot whose actions move no part of its state.
    """
    moved = moves(spec)
    if not moved:
        raise ConfigError(
            f"no action of robot {spec.name!r} moves a part of its state, so where it will be is not known: leave out ahead"
        )
    rows = _rows(list(episodes))
    return ForwardModel(spec, {move.action.name: _fitted(spec, move, rows) for move in moved})


def errors(model: ForwardModel, episodes: Iterable[tuple[FloatArray, FloatArray]]) -> dict[int, FloatArray]:
    """Standard deviations (s,) of the state that `model` finds from the recorded one, after so many steps."""
    states, before, actions, later, known = _rows(list(episodes))
    path = model.path(states, before, actions)
    return {k: (path[:, k - 1] - later[:, k - 1])[known[:, k - 1]].std(0) for k in COMPARED}


def _rows(episodes: list[tuple[FloatArray, FloatArray]]) -> Samples:
    """States, those before, actions (n, k, a), the states (n, k, s) after each, and which of these were recorded (n, k)."""
    parts = [each for states, actions in episodes for each in _of_episode(states, actions)]
    if not parts:
        raise ConfigError("every episode is shorter than three frames: nothing says how the robot follows its actions")
    arrays = [np.concatenate(column) for column in zip(*parts, strict=True)]
    every = -(-len(arrays[0]) // MOST_SAMPLES)
    first, before, actions, later, known = (array[::every] for array in arrays)
    return first, before, actions, later, known


def _of_episode(states: FloatArray, actions: FloatArray) -> Iterator[Samples]:
    count = len(states)
    if count < 3:
        return
    now = np.arange(1, count - 1)
    steps = now[:, None] + np.arange(STEPS)
    within = np.minimum(steps, count - 2)
    yield states[now], states[now - 1], actions[within], states[within + 1], steps <= count - 2


def _fitted(spec: RobotSpec, move: Move, rows: Samples) -> Response:
    action, reach = move.action, float(np.abs([*move.action.low, *move.action.high]).max())
    if action.kind == "gripper":
        low, high = np.array(action.low), np.array(action.high)
        place = (rows[2][:, 0, move.of_action] - low) / (high - low)
        return Response(is_switch=bool((np.abs(place - 0.5) > 0.5 - ENDS).mean() >= MOSTLY))
    best = Response()
    for _ in range(ROUNDS):
        best = min((Response(share, best.lead) for share in SHARES), key=lambda each: _error(spec, move, each, rows))
        tried = (None, *(reach * lead for lead in LEADS))
        best = min((Response(best.share, lead) for lead in tried), key=lambda each: _error(spec, move, each, rows))
    return best


def _error(spec: RobotSpec, move: Move, response: Response, rows: Samples) -> float:
    first, before, actions, later, known = rows
    path = ForwardModel(spec, {move.action.name: response}).path(first, before, actions, only=move)
    found = np.linalg.norm((path - later)[..., move.of_state], axis=-1)
    return float(np.mean([found[known[:, k - 1], k - 1].mean() for k in COMPARED if known[:, k - 1].any()]))
