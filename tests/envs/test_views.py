"""What the cameras see: the screen hides what it says, the masks are where objects are, and a lost camera leaves a gap."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from verbot.contracts import observation_from_env
from verbot.data import open_dataset
from verbot.envs import make_env
from verbot.envs.tabletop.env import STILL
from verbot.envs.tabletop.simulation.randomization import AXES
from verbot.errors import ConfigError, SpecError, UnknownNameError
from verbot.rollout.collect import collect


@pytest.fixture(scope="module")
def occluded():
    return make_env("tabletop-occluded", image_size=64)


def test_the_screen_hides_whatever_may_be_named_from_the_front_camera_and_the_side_camera_sees_it(occluded):
    for index in range(20):
        _, info = occluded.reset(seed=0, options={"index": index})
        seen = occluded.segmentation(size=200)
        for name in {goal["object"] for goal in info["feasible"]}:
            assert not seen.mask("front", name).any()
            assert seen.mask("side", name).sum() > 20
        assert len({goal["object"] for goal in info["feasible"]}) >= 2  # where the screen stands does not tell which is meant


def test_what_the_screen_does_not_hide_can_be_seen(occluded):
    shown = []
    for index in range(20):
        occluded.reset(seed=1, options={"index": index})
        layout, seen = occluded.physics.layout, occluded.segmentation(size=300)
        shown += [seen.mask("front", obj.id).any() for obj in layout.movables if not layout.hidden(obj.id)]
    assert len(shown) >= 10 and np.mean(shown) > 0.9  # the geometry is cautious at the edges


def test_the_screen_is_where_the_layout_says_and_touches_nothing(occluded):
    places = []
    for index in range(8):
        occluded.reset(seed=0, options={"index": index})
        physics, screen = occluded.physics, occluded.physics.layout.screen
        columns = np.nonzero(occluded.segmentation().mask("front", "screen").any(axis=0))[0]
        places.append((screen.y, columns.mean()))
        assert physics.data.body("screen").xpos[1] == pytest.approx(screen.y)
        geom = physics.model.geom("screen")
        assert geom.contype == geom.conaffinity == 0
    places.sort()
    assert all(a[1] < b[1] for a, b in itertools.pairwise(places) if b[0] - a[0] > 0.02)  # +y is right in the picture


def test_the_expert_does_it_behind_the_screen():
    env = make_env("tabletop-occluded", render_cameras=False)
    expert, solved = env.expert(noise=0.15), 0
    for index in range(12):
        _, info = env.reset(seed=0, options={"index": index, "split": "train"})
        expert.reset(info["instruction"])
        over = False
        while not over:
            *_, terminated, over, info = env.step(expert.act())
            over |= terminated
        solved += info["success"]
    assert solved >= 11


def test_an_env_can_see_through_some_of_its_cameras(occluded):
    one = make_env("tabletop-occluded", cameras=("side",))
    assert one.robot_spec.camera_names == ("side",)
    few, info = one.reset(seed=0, options={"index": 4})
    all_, _ = occluded.reset(seed=0, options={"index": 4})
    assert list(few["images"]) == list(info["calibration"]) == ["side"]
    assert list(all_["images"]) == ["front", "side", "wrist"]
    np.testing.assert_array_equal(few["images"]["side"], all_["images"]["side"])
    assert one.observation_space.contains(few)
    with pytest.raises(UnknownNameError, match=r"camera of suite 'tabletop-starter' named 'side'.*front, wrist"):
        make_env("tabletop-starter", cameras=("side",))
    with pytest.raises(UnknownNameError, match="Did you mean 'front'"):
        make_env("tabletop-starter", cameras=("frond",))


def test_the_occluded_world_can_be_collected_with_the_cameras_one_chooses(tmp_path):
    options = {"image_size": 32, "cameras": ["front", "side"]}
    assert collect("tabletop-occluded", tmp_path / "demos", 4, workers=1, options=options, progress=False).episodes == 4
    assert open_dataset(tmp_path / "demos").spec.camera_names == ("front", "side")


@pytest.mark.parametrize("camera", ["front", "side"])
def test_masks_are_where_the_calibration_says_and_as_large_as_the_ball_is(camera):
    env, size, errors = make_env("tabletop-occluded", image_size=200), 200, []
    for index in range(40):
        _, info = env.reset(seed=2, options={"index": index})
        seen, layout = env.segmentation(), env.physics.layout
        for obj in layout.movables:
            if obj.shape != "ball" or (camera == "front" and layout.hidden(obj.id)):
                continue
            pixel, depth, focal = _project(info["calibration"][camera], env.physics.position(obj.id))
            mask = seen.mask(camera, obj.id)
            area = np.pi * (0.026 * focal / depth) ** 2
            if 0.93 * area < mask.sum() and (pixel > 20).all() and (pixel < size - 20).all():  # nothing is before it
                assert mask.sum() < 1.12 * area  # a round object off the axis looks a little longer
                errors.append(np.linalg.norm(np.argwhere(mask).mean(0)[::-1] + 0.5 - pixel))
        if len(errors) >= 8:
            break
    assert len(errors) >= 3
    assert np.max(errors) < 1.0


def test_masks_cover_the_colors_and_leave_pictures_as_they_are():
    env = make_env("tabletop-full", image_size=96)
    before, _ = env.reset(seed=0, options={"task": "pick", "index": 1})
    seen = env.segmentation()
    assert {"drawer", "button", "robot", "table"} <= set(seen.names)
    again, _ = env.reset(seed=0, options={"task": "pick", "index": 1})
    np.testing.assert_array_equal(before["images"]["front"], again["images"]["front"])
    image = before["images"]["front"].astype(int)
    for obj in env.physics.layout:
        mask = seen.mask("front", obj.id)
        assert mask.any()
        color = np.median(image[mask], axis=0)
        geom = next(iter(env.physics._geoms[obj.id]))
        wanted = env.physics.model.geom_rgba[geom, :3]
        assert np.dot(color, wanted) / np.linalg.norm(color) / np.linalg.norm(wanted) > 0.97
    ids = seen.ids["front"]
    assert ids.dtype == np.int32 and ids.shape == (96, 96) and ids.min() == -1 and ids.max() < len(seen.names)
    assert (seen.mask("front", "table").mean() > 0.3) and seen.mask("wrist", "robot").any()
    with pytest.raises(UnknownNameError, match="object of this scene"):
        seen.mask("front", "pink elephant")
    with pytest.raises(UnknownNameError, match="camera of this segmentation"):
        seen.mask("rear", "table")


def _record(env, steps=40, **axes):
    record, info = env.reset(seed=0, options={"index": 3, "task": "pick", "axes": axes})
    return [record, *(env.step(STILL)[0] for _ in range(steps))], info


def test_a_lost_camera_is_absent_and_nothing_else_changes():
    env, lost = make_env("tabletop-starter"), set()
    whole, expected = _record(env, sensor_noise=1)
    for strength in (1, 2, 3):
        records, info = _record(env, sensor_noise=1, camera_dropout=strength)
        assert info == expected
        for a, b in zip(whole, records, strict=True):
            np.testing.assert_array_equal(a["state"], b["state"])
            assert len(b["images"]) >= 1
            for camera, image in b["images"].items():
                np.testing.assert_array_equal(image, a["images"][camera])
        gone = [set(a["images"]) - set(b["images"]) for a, b in zip(whole, records, strict=True)]
        lost |= set().union(*gone)
        assert all(gone) if strength == 3 else len(set(map(frozenset, gone))) == 2
    assert len(lost) == 1  # one camera an episode, the same at each strength


def test_how_often_a_camera_is_lost_and_which():
    env = make_env("tabletop-starter", render_cameras=False)
    shares, cameras = {}, []
    for strength in (1, 2, 3):
        missing = []
        for index in range(60):
            env.reset(seed=0, options={"index": index, "axes": {"camera_dropout": strength}})
            missing += [camera is not None for camera in env._lost]
            cameras += {camera for camera in env._lost if camera}
        shares[strength] = np.mean(missing)
    assert shares[1] == pytest.approx(1 / 3, abs=0.07) and shares[2] == pytest.approx(2 / 3, abs=0.07) and shares[3] == 1.0
    assert 0.35 < cameras.count("front") / len(cameras) < 0.65


def test_without_a_camera_an_observation_is_not_what_the_robot_promises():
    env = make_env("tabletop-starter", axes={"camera_dropout": 3})
    record, _ = env.reset(seed=0)
    with pytest.raises(SpecError, match="lacks camera"):
        observation_from_env(record).check(env.robot_spec)
    with pytest.raises(ConfigError, match="camera_dropout needs a second camera; this env has front"):
        make_env("tabletop-starter", cameras=("front",)).reset(options={"axes": {"camera_dropout": 1}})
    assert "camera_dropout" in AXES


def _project(record, point):
    """The pixel, the depth and the focal length in pixels at which a camera that stands still sees a point (3,)."""
    matrix, pose = np.reshape(record["intrinsics"], (3, 3)), np.reshape(record["extrinsics"], (4, 4))
    seen = (np.linalg.inv(pose) @ np.append(point, 1.0))[:3]
    return (matrix @ (seen / seen[2]))[:2], seen[2], matrix[0, 0]
