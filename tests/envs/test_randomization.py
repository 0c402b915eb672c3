"""Each axis changes what it says, more so when stronger, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from verbot.envs import make_env
from verbot.envs.seeding import generator
from verbot.envs.tabletop.simulation.randomization import AXES, OF_A_PLACE, draw
from verbot.errors import ConfigError, UnknownNameError
from verbot.evaluation.protocol import conditions as evaluation_suites

VISIBLE = ("lighting", "appearance", "camera", "distractors", "sensor_noise")


@pytest.fixture(scope="module")
def env():
    return make_env("tabletop-starter")


def _reset(env, index=0, **axes):
    observation, info = env.reset(seed=0, options={"index": index, "task": "pick", "axes": axes})
    return observation, info, env.physics


def test_there_are_nine_axes():
    assert set(AXES) == {
        "positions", "lighting", "appearance", "camera", "distractors", "robot_start", "sensor_noise", "dynamics",
        "camera_dropout",
    }  # fmt: skip


def test_evaluation_knows_the_axes():
    assert set(evaluation_suites.AXES) == set(AXES)
    assert evaluation_suites.condition_axes("axis:camera_dropout:2") == {"camera_dropout": 2}


@pytest.mark.parametrize("axis", VISIBLE)
def test_visible_axes_change_the_picture_more_when_stronger_and_leave_the_scene(env, axis):
    changes = {1: [], 3: []}
    for index in range(4):
        nominal, info, physics = _reset(env, index)
        layout = physics.layout
        for strength, seen in changes.items():
            changed, other, physics = _reset(env, index, **{axis: strength})
            assert (physics.layout.movables, physics.layout.receptacles) == (layout.movables, layout.receptacles)
            assert other["feasible"] == info["feasible"]
            seen.append(np.abs(changed["images"]["front"].astype(float) - nominal["images"]["front"]).mean())
    assert 0.05 < np.mean(changes[1]) < np.mean(changes[3])


def test_strength_zero_is_nominal_and_leaves_no_trace_of_other_episodes(env):
    nominal, *_ = _reset(env, 2)
    everything = _reset(env, 2, **dict.fromkeys(AXES, 3))[0]
    assert len(everything["images"]) == 1
    again, *_ = _reset(env, 2, lighting=0)
    np.testing.assert_array_equal(nominal["images"]["front"], again["images"]["front"])
    np.testing.assert_array_equal(nominal["images"]["wrist"], again["images"]["wrist"])


def test_positions_widen_the_area(env):
    def spread(strength):
        objects = [t for i in range(40) for t in _reset(env, i, positions=strength)[2].layout.movables]
        return max(abs(t.y) for t in objects), max(abs(t.yaw_rad) for t in objects)

    nominal, wide = spread(0), spread(3)
    assert nominal[0] <= 0.22 < wide[0] <= 0.25
    assert nominal[1] <= 0.35 < wide[1] <= np.pi / 4


def test_robot_start_moves_the_tool(env):
    starts = {s: np.array([_reset(env, i, robot_start=s)[0]["state"][:3] for i in range(12)]) for s in (0, 3)}
    assert starts[3].std(0).min() > 2 * starts[0].std(0).min()


def test_camera_tells_its_true_calibration(env):
    nominal, moved = (_reset(env, 0, camera=s)[1]["calibration"]["front"]["extrinsics"] for s in (0, 3))
    assert 0.001 < np.abs(np.subtract(nominal, moved)).max() < 0.1


def test_sensor_noise_blurs_the_state_and_keeps_the_quaternion_unit(env):
    nominal, noisy = _reset(env, 0)[0]["state"], _reset(env, 0, sensor_noise=3)[0]["state"]
    assert 0 < np.abs(nominal[:3] - noisy[:3]).max() < 0.02
    assert np.linalg.norm(noisy[3:7]) == pytest.approx(1.0, abs=1e-5)
    assert 0.0 <= noisy[7] <= 1.0


def test_dynamics_change_mass_friction_and_gains_but_not_the_picture(env):
    nominal, _, physics = _reset(env, 0)
    mass, gain = physics.model.body_mass.copy(), physics.model.actuator_gainprm.copy()
    friction = physics.model.geom_friction.copy()
    changed, _, physics = _reset(env, 0, dynamics=3)
    assert (physics.model.body_mass != mass).any()
    assert (physics.model.geom_friction != friction).any()
    assert (physics.model.actuator_gainprm[:7] != gain[:7]).any()
    np.testing.assert_array_equal(nominal["images"]["front"], changed["images"]["front"])


def test_strengths_are_drawn_evenly_from_a_stream_of_each_axis():
    def drawn(i, **greatest):
        return draw(greatest, lambda axis: generator("strength", axis, i))

    seen = [drawn(i, all=2) for i in range(300)]
    assert set(seen[0]) == set(AXES) - {"camera_dropout"}
    for axis in seen[0]:
        counts = np.bincount([strengths[axis] for strengths in seen], minlength=3)
        assert len(counts) == 3
        assert counts.min() > 70  # of 100 each
    together = np.corrcoef([[strengths[axis] for strengths in seen] for axis in seen[0]])
    assert np.abs(together - np.eye(len(together))).max() < 0.25
    assert all(drawn(i, all=2, camera=3)["lighting"] == seen[i]["lighting"] for i in range(20))
    assert max(drawn(i, camera=3)["camera"] for i in range(40)) == 3
    assert "lighting" not in drawn(0, all=1, lighting=0)
    with pytest.raises(UnknownNameError, match="randomization axis named 'camer'"):
        drawn(0, camer=1)
    with pytest.raises(ConfigError, match="axis 'camera' has strength 4"):
        drawn(0, camera=4)


def test_a_place_stays_the_same_from_one_episode_to_the_next():
    def world(place, index):
        env = make_env("tabletop-starter", place=place, axes=dict.fromkeys(AXES, 3) | {"camera_dropout": 0})
        env.reset(seed=0, options={"index": index, "task": "pick"})
        model = env.physics.model
        parts = {
            "lighting": model.light_diffuse, "appearance": model.mat_rgba, "camera": model.cam_pos,
            "dynamics": model.actuator_gainprm,
        }  # fmt: skip
        return {name: part.copy() for name, part in parts.items()}, env.physics.layout.movables

    here, moved, elsewhere, scattered = world(3, 0), world(3, 1), world(4, 0), world(None, 0)
    assert set(here[0]) == set(OF_A_PLACE)
    assert here[1] == elsewhere[1] == scattered[1] != moved[1]  # what stands where is the scene's
    for axis in OF_A_PLACE:
        np.testing.assert_array_equal(here[0][axis], moved[0][axis])
        assert (here[0][axis] != elsewhere[0][axis]).any()
        assert (here[0][axis] != scattered[0][axis]).any()
