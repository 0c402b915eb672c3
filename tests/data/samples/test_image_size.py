"""Windows of cameras of several sizes: images are resized, and keypoints of every kind move with them."""

from __future__ import annotations

import numpy as np
import pytest

from verbot.data import WindowConfig, Windows, open_dataset
from verbot.errors import DataError
from verbot.transforms import FITS, FitImage

WHOLE = {"labels": ("keypoints",), "keypoints": "grounding", "grounding_queries": 2, "goals": True}


@pytest.mark.parametrize("how", FITS)
@pytest.mark.parametrize("size", [(16, 16), (8, 32), (24, 40)])
def test_images_and_points_are_those_of_the_fitted_image(written, size, how):
    dataset, fit = open_dataset(written), FitImage((24, 32), size, how)
    plain = Windows(dataset, WindowConfig(**WHOLE))
    fitted = Windows(dataset, WindowConfig(**WHOLE, image_size=size, image_fit=how))
    every = np.arange(len(plain))
    one, two = (windows.batch(every, np.random.default_rng(0)) for windows in (plain, fitted))
    np.testing.assert_array_equal(two.images, fit.forward(one.images))
    np.testing.assert_array_equal(two.goal, fit.forward(one.goal))
    pairs = ((one.targets["keypoints"], two.targets["keypoints"]), (one.query_keypoints, two.query_keypoints))
    for before, after in pairs:
        moved = fit.points(before.values)
        inside = before.mask & (np.abs(moved) <= 1).all(-1)
        np.testing.assert_array_equal(after.mask, inside)
        assert inside.any()
        np.testing.assert_allclose(after.values[inside], moved[inside], atol=2e-5)


def test_relabeled_windows_have_their_points_moved(written):
    dataset, fit = open_dataset(written), FitImage((24, 32), (16, 16), "letterbox")
    relabeled = {**WHOLE, "relabel": 1.0}
    plain = Windows(dataset, WindowConfig(**relabeled))
    fitted = Windows(dataset, WindowConfig(**relabeled, image_size=(16, 16), image_fit="letterbox"))
    one, two = (windows.batch(np.arange(len(plain)), np.random.default_rng(0)) for windows in (plain, fitted))
    assert one.instructions == two.instructions
    before, after = one.targets["keypoints"], two.targets["keypoints"]
    np.testing.assert_array_equal(after.mask, before.mask)  # a letterbox cuts nothing off
    np.testing.assert_allclose(after.values[after.mask], fit.points(before.values)[after.mask], atol=2e-5)


def test_a_missing_first_camera_has_no_goal_image(written):
    windows = Windows(open_dataset(written), WindowConfig(**{**WHOLE, "cameras": ("top", "front"), "image_size": (16, 16)}))
    batch = windows.batch(np.arange(3), np.random.default_rng(0))
    assert not batch.goal_mask.any() and not batch.goal.any() and batch.images_mask[:, 0].tolist() == [[False, True]] * 3


def test_without_a_size_cameras_must_have_one(case):
    with pytest.raises(DataError, match="the cameras of one batch need one image size"):
        Windows(open_dataset(case("l15_camera_sizes")))
