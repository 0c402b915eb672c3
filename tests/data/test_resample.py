"""An episode at another rate: rows nearest in time, and actions that keep their meaning."""

import numpy as np
import pytest

from verbot.data.samples.keypoints import rotation_matrices
from verbot.data.storage.resample import assumed_absolute, resample, resampled_spec
from verbot.errors import ConfigError, DataError
from verbot.spec import Component, RobotSpec

XYZ = ("x", "y", "z")
POSITION = Component("ee", "position", XYZ, "m", "base", (-9.0,) * 3, (9.0,) * 3)
MOVE = Component("move", "position_delta", XYZ, "m", "base", (-0.1,) * 3, (0.1,) * 3)
TURN = Component("turn", "rotation_delta", XYZ, "rad", "base", (-0.3,) * 3, (0.3,) * 3)
SPEED = Component("speed", "joint_velocity", ("a",), "rad/s", "base", (-9.0,), (9.0,))
GRIPPER = Component("gripper", "gripper", ("open",), "1", "tool", (0.0,), (1.0,))
OTHER = Component("what", "other", ("a",), "", "", (-9.0,), (9.0,))


def robot(rate_hz, *action):
    return RobotSpec("arm", rate_hz, (), (POSITION,), action)


def turned(vectors, fixed=True):
    """The matrix of rotation vectors one after another, by the series of the exponential."""
    total = np.eye(3)
    for x, y, z in np.atleast_2d(vectors):
        skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        power, step = np.eye(3), np.eye(3)
        for order in range(1, 25):
            power = power @ skew / order
            step = step + power
        total = step @ total if fixed else total @ step
    return total


def episode(rate_hz, count, *action, seed=0, times=None):
    rng = np.random.default_rng(seed)
    spec = robot(rate_hz, *action)
    states = rng.normal(0, 1, (count, 3)).astype(np.float32)
    low, high = spec.action_low(), spec.action_high()
    actions = (low + rng.random((count, spec.action_size)) * (high - low)).astype(np.float32)
    return spec, np.arange(count) / rate_hz if times is None else np.asarray(times), states, actions


def test_rows_are_nearest_and_absolute_actions_those_of_the_last_row_of_each_interval():
    spec, times, states, actions = episode(30, 20, POSITION, GRIPPER, OTHER)
    found = resample(times, states, actions, spec, 10.0)
    assert found.rows.tolist() == [0, 3, 6, 9, 12, 15, 18]
    np.testing.assert_array_equal(found.states, states[found.rows])
    np.testing.assert_array_equal(found.actions, actions[[2, 5, 8, 11, 14, 17, 19]])
    assert assumed_absolute(spec) == ("what",)


def test_timestamps_in_float32_do_not_move_rows():
    spec, times, states, actions = episode(30, 3000, POSITION)
    plain = resample(times, states, actions, spec, 10.0)
    rounded = resample(times.astype(np.float32), states, actions, spec, 10.0)
    np.testing.assert_array_equal(rounded.rows, plain.rows)
    np.testing.assert_array_equal(rounded.actions, plain.actions)


def test_the_same_rate_changes_nothing():
    spec, times, states, actions = episode(10, 12, MOVE, SPEED, GRIPPER)
    found = resample(times, states, actions, spec, 10.0)
    assert found.rows.tolist() == list(range(12))
    np.testing.assert_allclose(found.actions, actions, rtol=1e-6)


@pytest.mark.parametrize("rate_hz", [5.0, 10.0, 12.5, 30.0, 45.0, 60.0])
def test_deltas_add_up_to_the_same_motion(rate_hz):
    spec, times, states, actions = episode(30, 30, MOVE)
    found = resample(times, states, actions, spec, rate_hz)
    np.testing.assert_allclose(found.actions.sum(0), actions.sum(0), atol=1e-5)
    new = resampled_spec(spec, rate_hz)
    assert new.rate_hz == rate_hz and (np.abs(found.actions) <= new.action_high() + 1e-6).all()


@pytest.mark.parametrize("frame", ["base", "tool"])
@pytest.mark.parametrize("unit", ["rad", "0.5 rad"])
def test_rotations_are_composed_about_the_axes_of_their_frame(frame, unit):
    turn = Component("turn", "rotation_delta", XYZ, unit, frame, (-1.0,) * 3, (1.0,) * 3)
    spec, times, states, actions = episode(30, 6, turn, GRIPPER)
    scale, fixed = 0.5 if unit != "rad" else 1.0, frame == "base"
    found = resample(times, states, actions, spec, 10.0).actions[:, :3] * scale
    for row in range(2):
        parts = actions[3 * row : 3 * row + 3, :3].astype(np.float64) * scale
        np.testing.assert_allclose(turned(found[row]), turned(parts, fixed), atol=1e-5)
        assert np.abs(turned(parts, fixed) - turned(parts, not fixed)).max() > 1e-2  # the order matters
    angles = np.linalg.norm(found, axis=1)
    assert (angles <= np.pi + 1e-6).all()
    high = resampled_spec(spec, 10.0).action_high()[:3]
    assert (np.abs(found / scale) <= high + 1e-6).all()


def test_a_rotation_is_split_into_equal_turns():
    spec, times, states, actions = episode(10, 5, TURN)
    found = resample(times, states, actions, spec, 20.0)
    np.testing.assert_allclose(turned(found.actions[2:4]), turned(actions[1]), atol=1e-5)
    np.testing.assert_allclose(found.actions[2], found.actions[3], atol=1e-6)


def test_velocities_are_averaged_over_time():
    spec, times, states, actions = episode(30, 6, SPEED, times=[0.0, 0.02, 0.1, 0.13, 0.15, 0.19])
    found = resample(times, states, actions, spec, 10.0)
    expected = (0.02 * actions[0] + 0.08 * actions[1]) / 0.1
    np.testing.assert_allclose(found.actions[0], expected, atol=1e-5)


def test_a_higher_rate_holds_absolute_actions():
    spec, times, states, actions = episode(10, 3, POSITION)
    found = resample(times, states, actions, spec, 30.0)
    assert found.rows.tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 2]
    np.testing.assert_array_equal(found.actions, actions[[0, 0, 0, 1, 1, 1, 2, 2, 2]])


def test_what_cannot_be_resampled_is_named():
    spec, times, states, actions = episode(10, 5, POSITION)
    with pytest.raises(ConfigError, match="the new rate is 0 Hz; expected more than 0"):
        resample(times, states, actions, spec, 0)
    with pytest.raises(DataError, match="row 3 has 0.2 s after 0.2 s"):
        resample(np.array([0, 0.1, 0.2, 0.2, 0.3]), states, actions, spec, 5.0)
    with pytest.raises(DataError, match="no row within 0.2 s of 0.4 s, the nearest is row 1 at 0.1 s: split the episode"):
        resample(np.array([0, 0.1, 0.9, 1.0, 1.1]), states, actions, spec, 5.0)
    with pytest.raises(DataError, match="got 4, 5 and 5"):
        resample(times[:4], states, actions, spec, 5.0)


def test_matrices_of_this_test_are_rotations():
    """The reference of these tests against that of the library."""
    vector = np.array([0.3, -0.2, 0.5])
    angle = np.linalg.norm(vector)
    quaternion = np.append(np.cos(angle / 2), np.sin(angle / 2) * vector / angle)
    np.testing.assert_allclose(turned(vector), rotation_matrices(quaternion[None])[0], atol=1e-12)


def test_a_long_episode_needs_memory_of_its_length_only():
    spec, times, states, actions = episode(1000, 100_000, MOVE, SPEED, GRIPPER)
    found = resample(times, states, actions, spec, 200.0)  # a table of intervals by actions would have 16 GB
    np.testing.assert_allclose(found.actions[:, :3], actions[:, :3].reshape(20_000, 5, 3).sum(1), atol=1e-5)
    np.testing.assert_allclose(found.actions[:, 3], actions[:, 3].reshape(20_000, 5).mean(1), atol=1e-5)
