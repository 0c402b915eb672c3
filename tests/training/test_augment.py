"""What augmentation does to a picture it does to its keypoints, and any split of a batch draws the same."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from verbot.data import WindowBatch
from verbot.data.samples.labels import MaskedArray
from verbot.training import AugmentConfig
from verbot.training.imitation.augment import augment, jitter_colors, numbers, shift_images, torch_numbers

KEYPOINTS = ("keypoints", "known_keypoints")


def points(dot, shape, visible=False):
    return MaskedArray(np.broadcast_to(dot, (*shape, 2)).copy(), np.ones(shape, bool), "image_points", True, visible)


def window(b: int = 8) -> WindowBatch:
    """A white dot at column 6, row 3 of black 16×16 images, and the keypoint of its center."""
    images = np.zeros((b, 1, 2, 16, 16, 3), np.uint8)
    images[..., 3, 6, :] = 255
    dot = np.array([(6 + 0.5) / 8 - 1, (3 + 0.5) / 8 - 1], np.float32)
    return WindowBatch(
        images=images,
        images_mask=np.ones((b, 1, 2), bool),
        state=np.zeros((b, 1, 4), np.float32),
        state_mask=np.ones((b, 1), bool),
        actions=np.zeros((b, 3, 4), np.float32),
        actions_mask=np.ones((b, 3), bool),
        instructions=["touch it"] * b,
        targets={
            "keypoints": points(dot, (b, 2, 3), visible=True),
            "known_keypoints": points(dot, (b, 2, 3)),
            "steps_left": MaskedArray(np.arange(b), np.ones(b, bool)),
        },
        grounding_queries=[("touch it again",)] * b,
        query_keypoints=points(dot, (b, 1, 2, 3), visible=True),
        index=np.arange(b),
        goal=np.zeros((b, 16, 16, 3), np.uint8),
        goal_mask=np.ones(b, bool),
        previous_action=np.zeros((b, 0), np.float32),
        previous_action_mask=np.zeros(b, bool),
        features=np.zeros((b, 1, 2, 0, 0), np.float16),
        captions=[()] * b,
        ahead=np.zeros((b, 0, 4), np.float32),
        ahead_actions=np.zeros((b, 0, 3, 4), np.float32),
        ahead_mask=np.zeros((b, 0, 3), bool),
        depth=np.zeros((b, 1, 0, 0, 0), np.float32),
        depth_mask=np.zeros((b, 1, 0), bool),
        text_tasks=[None] * b,
    )


def test_keypoints_move_with_the_picture():
    shifted = augment(window(), AugmentConfig(shift_pixels=2), numbers(0))
    places = set()
    for i in range(8):
        for v in range(2):
            row, column = np.argwhere(shifted.images[i, 0, v, :, :, 0] == 255)[0]
            for points in (*(shifted.targets[name].values[i, v] for name in KEYPOINTS), shifted.query_keypoints.values[i, 0, v]):
                np.testing.assert_allclose(points[0], [(column + 0.5) / 8 - 1, (row + 0.5) / 8 - 1], atol=1e-6)
            places.add((int(row), int(column)))
    assert len(places) > 4
    assert all(abs(row - 3) <= 2 and abs(column - 6) <= 2 for row, column in places)


def test_what_comes_in_at_the_edge_repeats_it():
    images = np.arange(16, dtype=np.uint8)[None, None, None, None, :, None].repeat(16, 3).repeat(3, 5)
    moved = shift_images(images, np.array([[[2, 0]]]), 2)
    assert moved[0, 0, 0, 0, :, 0].tolist() == [0, 0, *range(14)]


def test_words_are_blanked_at_the_asked_rate():
    blanked = augment(window(1000), AugmentConfig(shift_pixels=0, blank_instruction=0.3), numbers(1)).instructions
    assert 250 < blanked.count("") < 350
    assert "" not in augment(window(100), AugmentConfig(shift_pixels=0, blank_instruction=0.0), numbers(1)).instructions


def arrays(batch: WindowBatch) -> dict[str, object]:
    """Every field, those of targets too."""
    found = {field.name: getattr(batch, field.name) for field in dataclasses.fields(WindowBatch)}
    masked = {**found.pop("targets"), "query": found.pop("query_keypoints")}
    return found | {f"{name} {part}": getattr(x, part) for name, x in masked.items() for part in ("values", "mask")}


def test_any_split_of_a_batch_draws_the_same():
    config, batch = AugmentConfig(blank_instruction=0.5), window(8)
    whole = augment(batch, config, numbers(5))
    halves = [augment(batch.take(np.arange(4 * r, 4 * r + 4)), config, numbers(5), r, 2) for r in range(2)]
    joined = WindowBatch.concatenate(halves)
    for name, value in arrays(joined).items():
        np.testing.assert_array_equal(arrays(whole)[name], value)
    images = torch.rand(8, 1, 2, 3, 4, 4)
    colors = [jitter_colors(images[4 * r : 4 * r + 4], config, torch_numbers(5), r, 2) for r in range(2)]
    assert torch.equal(jitter_colors(images, config, torch_numbers(5)), torch.cat(colors))


def test_colors_change_as_named():
    gray, red = torch.full((1, 1, 1, 3, 2, 2), 0.5), torch.tensor([1.0, 0, 0]).view(1, 1, 1, 3, 1, 1).expand(1, 1, 1, 3, 2, 2)
    none = AugmentConfig(brightness=0, contrast=0, saturation=0)
    assert torch.equal(jitter_colors(gray, none, torch_numbers(0)), gray)
    # Middle gray is where contrast turns, and without color saturation has nothing to change.
    for change in ({"contrast": 0.5}, {"saturation": 0.5}):
        torch.testing.assert_close(jitter_colors(gray, dataclasses.replace(none, **change), torch_numbers(0)), gray)
    pale = jitter_colors(red, dataclasses.replace(none, saturation=0.9), torch_numbers(3))[0, 0, 0, :, 0, 0]
    luma = pale @ torch.tensor([0.299, 0.587, 0.114])
    assert float(luma) == pytest.approx(0.299, abs=1e-4) or float(pale.max()) == 1.0
    bright = jitter_colors(gray, dataclasses.replace(none, brightness=0.5), torch_numbers(1))
    assert 0.25 <= float(bright.min()) == float(bright.max()) <= 0.75 != 0.5


def test_bytes_and_floats_agree():
    images = torch.randint(0, 256, (2, 1, 2, 3, 4, 4), dtype=torch.uint8)
    config = AugmentConfig()
    torch.testing.assert_close(
        jitter_colors(images, config, torch_numbers(0)), jitter_colors(images / 255, config, torch_numbers(0))
    )


def test_numbers_depend_on_every_part_of_their_key():
    keys = [(0, 1, 2), (0, 1, 3), (0, 2, 2), (1, 1, 2)]
    assert len({numbers(*key).integers(1 << 62) for key in keys}) == 4
    assert len({int(torch.randint(1 << 62, (), generator=torch_numbers(*key))) for key in keys}) == 4
    assert numbers(0, 1).integers(1 << 62) == numbers(0, 1).integers(1 << 62)


def test_a_goal_image_replaces_the_instruction_and_a_camera_is_missing_in_their_shares():
    batch = augment(window(400), AugmentConfig(blank_instruction=0, goal_image=0.3, camera_dropout=0.5), numbers(1))
    instructed = np.array([bool(text) for text in batch.instructions])
    assert np.array_equal(batch.goal_mask, ~instructed) and 0.2 < batch.goal_mask.mean() < 0.4
    seen = batch.images_mask[:, 0]
    assert seen.any(1).all(), "never all cameras"
    assert 0.4 < (~seen.all(1)).mean() < 0.6 and 0.15 < (~seen[:, 0]).mean() < 0.35
    assert np.array_equal(batch.targets["keypoints"].mask.all(2), seen)
    assert np.array_equal(batch.query_keypoints.mask[:, 0].all(2), seen)
    assert batch.targets["known_keypoints"].mask.all(), "what is remembered needs no camera"
    plain = augment(window(400), AugmentConfig(blank_instruction=0), numbers(1))
    assert np.array_equal(plain.images, batch.images), "what was drawn before stays as it was"
    assert not plain.goal_mask.any() and plain.images_mask.all()


def test_the_frames_of_a_sequence_are_treated_alike():
    config = AugmentConfig(blank_instruction=0.5, camera_dropout=0.5)
    whole = augment(window(12), config, numbers(2), frames=3)
    for start in range(0, 12, 3):
        assert len(set(whole.instructions[start : start + 3])) == 1
        for values in (whole.images, whole.images_mask, whole.targets["keypoints"].values):
            assert (values[start : start + 3] == values[start]).all()
    parts = [augment(window(6), config, numbers(2), rank, 2, frames=3) for rank in range(2)]
    assert np.array_equal(np.concatenate([p.images for p in parts]), whole.images)
    pixels = torch.randint(0, 256, (12, 1, 2, 3, 8, 8), dtype=torch.uint8)[:1].expand(12, -1, -1, -1, -1, -1).contiguous()
    colored = jitter_colors(pixels, AugmentConfig(), torch.Generator().manual_seed(0), frames=3)
    assert torch.equal(colored[0], colored[2]) and not torch.equal(colored[0], colored[3])
