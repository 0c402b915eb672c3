from __future__ import annotations

import dataclasses

import pytest

from verbot.data.storage.joining import join_recordings, join_specs
from verbot.errors import ConfigError
from verbot.spec import Camera, EndEffector

MATRIX = (60.0, 0.0, 16.0, 0.0, 60.0, 12.0, 0.0, 0.0, 1.0)


def changed(spec, **fields):
    """`spec` whose first state component is changed."""
    return dataclasses.replace(spec, state=(dataclasses.replace(spec.state[0], **fields), *spec.state[1:]))


@pytest.mark.parametrize("join", [join_specs, join_recordings])
def test_ranges_are_joined_and_the_rest_is_of_the_first(spec, join):
    other = changed(spec, low=(-2.0, -0.5, -1.0), high=(0.5, 0.5, 3.0))
    joined = join([spec, other, spec], ["a", "b", "c"])
    assert (joined.state[0].low, joined.state[0].high) == ((-2.0, -1.0, -1.0), (1.0, 1.0, 3.0))
    assert dataclasses.replace(joined, state=spec.state) == spec
    assert join([spec], ["a"]) == spec


def test_ranges_follow_the_names_of_components_and_axes(spec):
    other = changed(spec, axes=("z", "x", "y"), low=(-9.0, -2.0, -1.0))
    other = dataclasses.replace(other, state=other.state[::-1])
    assert join_specs([spec, other], ["a", "b"]).state[0].low == (-2.0, -1.0, -9.0)
    with pytest.raises(ConfigError, match="the numbers of the state are gripper, ee_quaternion, ee_position in b"):
        join_recordings([spec, other], ["a", "b"])


def test_cameras_of_all_are_included_once(spec):
    front, side = Camera("front", 48, 64, intrinsics=MATRIX), Camera("side", 24, 32, intrinsics=MATRIX)
    joined = join_specs([spec, dataclasses.replace(spec, cameras=(front, side))], ["a", "b"])
    assert joined.cameras == (*spec.cameras, side)
    calibrated = dataclasses.replace(spec, cameras=(side,))
    moved = dataclasses.replace(spec, cameras=(dataclasses.replace(side, intrinsics=(61.0, *MATRIX[1:])),))
    assert join_specs([calibrated, calibrated], ["a", "b"]).cameras == (side,)
    assert join_specs([calibrated, moved], ["a", "b"]).cameras[0].intrinsics is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: dataclasses.replace(s, rate_hz=30.0), "b and a have different rates: 30 Hz in b and 10 Hz in a"),
        (
            lambda s: dataclasses.replace(s, state=s.state[1:]),
            "the state consists of ee_position, .* in a and of ee_quaternion, gripper in b",
        ),
        (lambda s: changed(s, kind="other"), "the kind of the state component 'ee_position' is 'position' in a and 'other' in b"),
        (lambda s: changed(s, unit="mm"), "the unit of the state component 'ee_position' is 'm' in a and 'mm' in b"),
        (lambda s: changed(s, frame="tool"), "the frame of the state component 'ee_position' is 'base' in a and 'tool' in b"),
        (lambda s: changed(s, axes=("x", "y", "w")), "the axes of the state component 'ee_position' is"),
        (
            lambda s: dataclasses.replace(s, cameras=(dataclasses.replace(s.cameras[0], kind="depth"),)),
            "the kind of the camera 'front' is 'color' in a and 'depth' in b",
        ),
        (lambda s: dataclasses.replace(s, cameras=(), groups=(EndEffector("left", ("gripper",)),)), "the end effectors are"),
    ],
)
def test_what_does_not_fit_is_named(spec, change, message):
    with pytest.raises(ConfigError, match=message):
        join_specs([spec, spec, change(spec)], ["a", "c", "b"])


@pytest.mark.parametrize(
    ("cameras", "message"),
    [
        (
            lambda c: (Camera("front", 48, 64), c[1]),
            "the cameras are front 48×64, wrist 24×32 in b and front 24×32",
        ),
        (lambda c: c[:1], "the cameras are front 24×32 in b"),
        (lambda c: (c[0], dataclasses.replace(c[1], frame="base")), "wrist in frame base in b and .*wrist in frame tool in a"),
    ],
)
def test_one_recording_has_the_same_cameras(spec, cameras, message):
    with pytest.raises(ConfigError, match=message):
        join_recordings([spec, dataclasses.replace(spec, cameras=cameras(spec.cameras))], ["a", "b"])
