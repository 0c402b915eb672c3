from __future__ import annotations

import dataclasses

import pytest

from verbot.data.storage.compatibility import join_specs
from verbot.errors import SpecError
from verbot.spec import Camera, EndEffector


def changed(spec, **fields):
    """`spec` whose first state component is changed."""
    return dataclasses.replace(spec, state=(dataclasses.replace(spec.state[0], **fields), *spec.state[1:]))


def test_ranges_are_joined_and_the_rest_is_of_the_first(spec):
    other = changed(spec, low=(-2.0, -0.5, -1.0), high=(0.5, 0.5, 3.0))
    joined = join_specs([spec, other, spec])
    assert (joined.state[0].low, joined.state[0].high) == ((-2.0, -1.0, -1.0), (1.0, 1.0, 3.0))
    assert dataclasses.replace(joined, state=spec.state) == spec
    assert join_specs([spec]) == spec


def test_cameras_of_all_are_included_once(spec):
    matrix = (60.0, 0.0, 16.0, 0.0, 60.0, 12.0, 0.0, 0.0, 1.0)
    front, side = Camera("front", 48, 64, intrinsics=matrix), Camera("side", 24, 32, intrinsics=matrix)
    joined = join_specs([spec, dataclasses.replace(spec, cameras=(front, side))])
    assert joined.cameras == (*spec.cameras, side)
    calibrated = dataclasses.replace(spec, cameras=(side,))
    moved = dataclasses.replace(spec, cameras=(dataclasses.replace(side, intrinsics=(61.0, *matrix[1:])),))
    assert join_specs([calibrated, calibrated]).cameras == (side,)
    assert join_specs([calibrated, moved]).cameras[0].intrinsics is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: dataclasses.replace(s, rate_hz=30.0), "b does not fit a: the rate is 30 Hz, not 10 Hz"),
        (lambda s: dataclasses.replace(s, state=s.state[1:]), "the state is ee_quaternion, gripper, not ee_position, ee_quat"),
        (lambda s: dataclasses.replace(s, action=s.action[::-1]), "the action is gripper, position_delta, not position_delta"),
        (lambda s: changed(s, kind="other"), "the kind of state component 'ee_position' is 'other', not 'position'"),
        (lambda s: changed(s, unit="mm"), "the unit of state component 'ee_position' is 'mm', not 'm'"),
        (lambda s: changed(s, frame="tool"), "the frame of state component 'ee_position' is 'tool', not 'base'"),
        (lambda s: changed(s, axes=("x", "z", "y")), "the axes of state component 'ee_position' are x, z, y, not x, y, z"),
        (lambda s: changed(s, unit="mm", frame="tool"), "is 'mm', not 'm'; the frame of"),
        (
            lambda s: dataclasses.replace(s, cameras=(dataclasses.replace(s.cameras[0], kind="depth"),)),
            "the kind of camera 'front' is 'depth', not 'color'",
        ),
        (
            lambda s: dataclasses.replace(s, cameras=(dataclasses.replace(s.cameras[1], frame="base"),)),
            "the frame of camera 'wrist' is 'base', not 'tool'",
        ),
        (
            lambda s: dataclasses.replace(s, cameras=(), groups=(EndEffector("left", ("gripper",)),)),
            "the end effectors are left, not none",
        ),
    ],
)
def test_what_does_not_fit_is_named(spec, change, message):
    with pytest.raises(SpecError, match=message):
        join_specs([spec, spec, change(spec)], ["a", "c", "b"])


def test_the_same_cameras_can_be_required(spec):
    larger = dataclasses.replace(spec, cameras=(Camera("front", 48, 64), spec.cameras[1]))
    fewer = dataclasses.replace(spec, cameras=spec.cameras[:1])
    with pytest.raises(SpecError, match="camera 'front' has 48×64 pixels, not 24×32"):
        join_specs([spec, larger], same_cameras=True)
    with pytest.raises(SpecError, match="the cameras are front, not front, wrist"):
        join_specs([spec, fewer], same_cameras=True)
    with pytest.raises(SpecError, match="no robot spec"):
        join_specs([])
    assert join_specs([spec, larger]) == spec == join_specs([spec, fewer])
