"""Where the simulated arm will be is found from its actions, within a centimeter."""

from __future__ import annotations

import numpy as np
import pytest

from verbot.envs.tabletop.robot import robot_spec
from verbot.envs.tabletop.simulation import arm, scene
from verbot.envs.tabletop.simulation.layout import Layout
from verbot.envs.tabletop.simulation.physics import LEASH_M, Physics
from verbot.spec import FloatArray, ForwardModel, Response


@pytest.fixture(scope="module")
def moved() -> tuple[FloatArray, FloatArray]:
    """The states (t, 8) of an arm that moves above the table, its gripper open, and the actions (t, 7) that moved it."""
    physics, rng = Physics(scene.SceneConfig()), np.random.default_rng(0)
    physics.reset(Layout((), ()), np.array(arm.HOME_TOOL_M), 0.0)
    states, actions = [], []
    for step in range(60):
        if step % 6 == 0:
            way = rng.uniform(-1, 1, 3) - (physics.tool_position - (0.5, 0.0, 0.22)) * (4, 3, 6)
            action = np.array([*np.clip(0.02 * way, -0.035, 0.035), 0, 0, rng.uniform(-0.08, 0.08), 1.0])
        yaw = physics.tool_yaw / 2
        states.append([*physics.tool_position, np.cos(yaw), 0, 0, np.sin(yaw), 1.0])
        actions.append(action)
        physics.step(action)
    return np.array(states, np.float32), np.array(actions, np.float32)


def test_the_rolled_state_is_the_state_of_the_arm(moved: tuple[FloatArray, FloatArray]) -> None:
    states, actions = moved
    spec = robot_spec()
    follows = {"position_delta": Response(0.58, LEASH_M), "rotation_delta": Response(0.5)}
    model, exact = ForwardModel(spec, follows), ForwardModel(spec)
    for steps, most_mm in ((1, 1), (4, 3), (8, 5)):
        now = np.arange(1, len(states) - steps)
        ahead = actions[now[:, None] + np.arange(steps)]
        found = model.path(states[now], states[now - 1], ahead)[:, -1]
        error = 1000 * np.linalg.norm((found - states[now + steps])[:, :3], axis=1)
        plain = exact.path(states[now], states[now - 1], ahead)[:, -1]
        without = 1000 * np.linalg.norm((plain - states[now + steps])[:, :3], axis=1)
        assert error.mean() < most_mm and error.mean() < 0.25 * without.mean()
        assert np.abs((found - states[now + steps])[:, 6]).mean() < 0.02
