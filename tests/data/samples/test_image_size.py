"""Windows of cameras of several sizes: images are resized, and keypoints of every kind move with them."""

from __future__ import annotations

import numpy as np
import pytest

from verbot.data import WindowConfig, Windows, open_dataset
from verbot.data.samples.windows import fits_of
from verbot.data.storage.frame_cache import FrameCache, FrameSelection
from verbot.errors import DataError
from verbot.transforms import FITS, FitImage

WHOLE = {"labels": ("keypoints",), "keypoints": "grounding", "grounding_queries": 2, "goals": True}


def fitted_windows(dataset, config, size, how):
    fits = fits_of(dataset.spec.cameras, size, how, always=True)
    return Windows(dataset, config, cache=FrameCache(dataset, selection=FrameSelection(fits=fits)))


@pytest.mark.parametrize("how", FITS)
@pytest.mark.parametrize("size", [(16, 16), (8, 32), (24, 40)])
def test_images_and_points_are_those_of_the_fitted_image(written, size, how):
    dataset, fit = open_dataset(written), FitImage((24, 32), size, how)
    plain = Windows(dataset, WindowConfig(**WHOLE))
    fitted = fitted_windows(dataset, WindowConfig(**WHOLE), size, how)
    every = np.arange(len(plain))
    one, two = (windows.batch(every, np.random.default_rng(0)) for windows in (plain, fitted))
    for fitted_images, images in ((two.images, one.images), (two.goal, one.goal)):
        difference = np.abs(fitted_images.astype(int) - fit.forward(images).astype(int))
        assert fitted_images.shape == fit.forward(images).shape and difference.max() <= 3 and difference.mean() < 1
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
    fitted = fitted_windows(dataset, WindowConfig(**relabeled), (16, 16), "letterbox")
    one, two = (windows.batch(np.arange(len(plain)), np.random.default_rng(0)) for windows in (plain, fitted))
    assert one.instructions == two.instructions
    before, after = one.targets["keypoints"], two.targets["keypoints"]
    np.testing.assert_array_equal(after.mask, before.mask)  # a letterbox cuts nothing off
    np.testing.assert_allclose(after.values[after.mask], fit.points(before.values)[after.mask], atol=2e-5)


def test_a_missing_first_camera_has_no_goal_image(written):
    windows = Windows(open_dataset(written), WindowConfig(**{**WHOLE, "cameras": ("top", "front")}))
    batch = windows.batch(np.arange(3), np.random.default_rng(0))
    assert not batch.goal_mask.any() and not batch.goal.any() and batch.images_mask[:, 0].tolist() == [[False, True]] * 3


def test_without_a_size_cameras_must_have_one(case):
    with pytest.raises(DataError, match="the cameras of one batch need one image size"):
        Windows(open_dataset(case("l15_camera_sizes")))
