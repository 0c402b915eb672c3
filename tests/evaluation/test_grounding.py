import dataclasses
import json
from contextlib import closing

import numpy as np
import pytest

from verbot.envs import make_env
from verbot.errors import ConfigError
from verbot.evaluation.grounding.metrics import (
    GroundingMetrics,
    attribution_lift,
    attribution_share,
    change,
    grown,
    leave_one_out,
    measure_grounding,
    moved,
    painted,
    paired_ratio,
    peak,
    points_at,
    without_word,
)
from verbot.evaluation.grounding.page import Page, Word, figures, write_page
from verbot.evaluation.protocol.intervals import Estimate
from verbot.evaluation.report import overlay
from verbot.spec import ActionChunk, Observation

SIZE = 64


def spot(row, column, size=16, weight=1.0):
    heat = np.full((size, size), 1e-6, np.float32)
    heat[row, column] += weight
    return heat / heat.sum()


def square(top, left, side=4, size=16):
    mask = np.zeros((size, size), bool)
    mask[top : top + side, left : left + side] = True
    return mask


# Hand-made maps and masks.


def test_an_even_map_has_lift_one_and_a_sure_one_the_inverse_of_the_masks_share():
    mask = square(2, 3)
    even = np.full((16, 16), 1 / 256)
    assert attribution_lift(even, mask) == pytest.approx(1.0)
    assert attribution_lift(spot(3, 4), mask) == pytest.approx(256 / 16, rel=0.01)
    assert attribution_lift(spot(12, 12), mask) < 0.01
    half = 0.5 * spot(3, 4) + 0.5 * spot(12, 12)
    assert attribution_share(half, mask) == pytest.approx(0.5, abs=0.01)


def test_the_pointing_game_counts_from_the_middle_of_a_cell_and_knows_its_tolerance():
    coarse = spot(1, 2, 4).repeat(4, 0).repeat(4, 1)  # cells of 4×4 pixels
    assert peak(coarse).tolist() == [5.5, 9.5]
    assert points_at(coarse, square(4, 8), 0.0)
    assert not points_at(coarse, square(8, 8), 2.0)  # 2.55 pixels away
    assert points_at(coarse, square(8, 8), 3.0)
    assert not points_at(coarse, np.zeros((16, 16), bool), 99.0)


def test_painting_over_takes_the_nearest_ground_and_leaves_all_else():
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, :4], image[:, 4:], image[3:5, 3:5] = (10, 20, 30), (70, 80, 90), (255, 0, 0)
    mask, ground = square(3, 3, 2, 8), ~square(3, 3, 2, 8)
    out = painted(image, mask, ground)
    assert out[3, 3].tolist() == [10, 20, 30] and out[4, 4].tolist() == [70, 80, 90]
    assert np.array_equal(out[~mask], image[~mask]) and image[3, 3].tolist() == [255, 0, 0]


def test_a_mask_grows_to_a_count_over_what_is_allowed_only():
    allowed = np.ones((16, 16), bool)
    allowed[:, 8:] = False
    out = grown(square(4, 5, 3), 20, allowed)
    assert out.sum() == 20 and not out[:, 8:].any() and out[square(4, 5, 3)].all()
    assert grown(square(4, 5, 3), 4, allowed).sum() == 9  # it never shrinks


def test_a_ratio_of_paired_means():
    pairs = [(2.0, 1.0), (4.0, 2.0), (6.0, 3.0)] * 10
    found = paired_ratio(pairs)
    assert (found.value, found.n) == (2.0, 30) and found.low == pytest.approx(2.0) and found.high == pytest.approx(2.0)
    assert paired_ratio([(1.0, 0.0)]) == Estimate(None, None, None, 1)
    wide = paired_ratio([(1.0, 1.0), (9.0, 1.0)] * 5)
    assert wide.low < wide.value == 5.0 < wide.high


# Omitted words.


class WordPolicy:
    """Its heatmap is at the upper left if the instruction contains "left", else at the lower right."""

    spec = None

    def predict(self, observations):
        found = []
        for o in observations:
            heat = spot(2, 2) if "left" in o.instruction.split() else spot(12, 12)
            found.append(ActionChunk(np.zeros((1, 1), np.float32), extras={"heatmaps": {"front": np.stack([heat] * 3)}}))
        return found


def test_only_a_word_that_matters_changes_the_map():
    observation = Observation({"front": np.zeros((16, 16, 3), np.uint8)}, np.zeros(1, np.float32), "look to the left now")
    whole, others = leave_one_out(WordPolicy(), observation)
    complete = whole.extras["heatmaps"]["front"][0]
    effects = [moved(complete, other.extras["heatmaps"]["front"][0]) for other in others]
    assert effects[:3] == [0, 0, 0] and effects[4] == 0
    assert effects[3] == pytest.approx(1.0, abs=0.01)
    assert without_word("look to the left now", 3) == "look to the now"


# Pictures.


def test_the_overlay_marks_the_right_pixel_and_no_other():
    image = np.full((16, 16, 3), 100, np.uint8)
    bare, marked = overlay.overlay(image, {}), overlay.overlay(image, {"target": spot(5, 9)})
    assert np.argwhere((bare != marked).any(-1)).tolist() == [[5, 9]]
    assert np.abs(marked[5, 9].astype(int) - overlay.COLORS["target"]).max() < 40


def test_a_difference_shows_where_a_word_adds_and_removes():
    shown = overlay.difference(np.zeros((16, 16, 3), np.uint8), spot(5, 9), spot(7, 1)).astype(int)
    assert shown[5, 9].argmax() == 0 and shown[7, 1].argmax() == 2
    assert np.argwhere(shown.any(-1)).tolist() == [[5, 9], [7, 1]]


def test_a_word_is_underlined_in_proportion_to_its_share():
    def marked(share):
        return int((overlay.weights(200, ["cube"], [share]) == overlay.MORE).all(-1).sum())

    assert marked(0.0) == 0 and 0 < marked(0.5) < marked(1.0)


# A policy with known grounding in the simulation.


class Planted:
    """Reads the segmentation. Its map covers the named object, or is shifted; its action depends on that object's pixels."""

    def __init__(self, env, shift=0, reads=True):
        self.env, self.spec, self.shift, self.reads = env, env.robot_spec, shift, reads

    def predict(self, observations):
        shown = self.env.segmentation()
        return [self._chunk(o, shown) for o in observations]

    def _chunk(self, o, shown):
        name = next((n for n in shown.names if n in o.instruction), shown.names[0])
        maps, values = {}, np.full((2, 7), 1e-6 * sum(float(image.mean()) for image in o.images.values()), np.float32)
        for camera, image in o.images.items():
            mask = shown.mask(camera, name)
            heat = np.roll(np.where(mask, 1.0, 1e-9), self.shift, 1)
            heat[tuple(np.argwhere(heat == heat.max())[0])] *= 2
            maps[camera] = np.stack([heat / heat.sum()] * 3)
            values += 1e-3 * float(image[mask].mean()) if mask.any() and self.reads else 0.0
        return ActionChunk(values, extras={"heatmaps": maps})


@pytest.fixture(scope="module")
def world():
    with closing(make_env("tabletop-starter")) as env:
        yield env


def test_correct_grounding_wins_the_pointing_game_and_its_cause_is_found(world):
    found = measure_grounding(Planted(world), world, scenes=18)
    row = found.rows["front target"]
    assert row["pointing_game"].value == row["pointing_game_exact"].value == 1.0 and row["pointing_game"].n == 18
    assert row["pointing_game_other_instruction"].value == 0.0
    assert row["attribution_share"].value > 0.99
    assert row["attribution_lift"].value == pytest.approx(1 / row["pixel_share"].value, rel=0.4)
    assert set(found.by_task) == {"pick", "push", "put"} and found.by_task["put"].n == 6
    assert found.causal["causal_occlusion"].value > 10 and found.causal["named_matters_more"].value == 1.0
    assert found.p < 0.01 and found.painted_px[0] == pytest.approx(found.painted_px[1], rel=0.2)


def test_a_shifted_map_loses_and_ignored_pixels_have_no_effect(world):
    found = measure_grounding(Planted(world, shift=20, reads=False), world, scenes=9)
    assert found.rows["front target"]["pointing_game"].value == 0.0
    assert found.rows["front target"]["attribution_lift"].value < 0.1
    assert found.causal["change_named"].value < 1e-4


def test_a_policy_without_maps_has_metrics_of_its_actions_only(world):
    class WithoutMaps(Planted):
        def predict(self, observations):
            return [dataclasses.replace(chunk, extras={}) for chunk in super().predict(observations)]

    found = measure_grounding(WithoutMaps(world), world, scenes=6)
    assert found.rows == {} and found.by_task == {} and found.causal["causal_occlusion"].n > 0


def test_the_same_scenes_give_the_same_figures_and_another_seed_others(world):
    one, again, other = (measure_grounding(Planted(world), world, scenes=3, seed=seed).to_json() for seed in (0, 0, 1))
    assert one == again and one["rows"] != other["rows"]


def test_an_env_without_segmentation_is_refused():
    from toy_world import ToyEnv, ToyPolicy

    with pytest.raises(ConfigError, match=r"segmentation masks, such as tabletop-starter"):
        measure_grounding(ToyPolicy(), ToyEnv())


def test_a_change_is_a_share_of_each_numbers_range(world):
    spec = world.robot_spec
    low, high = (np.tile(edge, (3, 1)) for edge in (spec.action_low(), spec.action_high()))
    assert change(low, high, spec) == pytest.approx(1.0) and change(low, low, spec) == 0.0


def test_metrics_survive_a_file_and_the_page_shows_them(world, tmp_path):
    found = measure_grounding(Planted(world), world, scenes=3)
    record = json.loads(json.dumps(found.to_json()))
    assert GroundingMetrics.from_json(record) == found
    row = record["rows"]["front target"]
    row["pointing_game_told_otherwise"] = row.pop("pointing_game_other_instruction")  # as verbot 0.1 wrote it
    old = GroundingMetrics.from_json(record).rows["front target"]
    assert dict(old) == dict(found.rows["front target"])
    assert "| front target | `pointing_game` | 1 [" in found.table() and "<code>pointing_game</code>" in figures(found)
    picture = np.zeros((4, 4, 3), np.uint8)
    words = [Word("<b>", {"target": 0.25}, 0.5, None, {"front target": picture})]
    page = Page("mine", "tabletop-starter", "take <b>", True, b"mp4", picture, words, found, "verbot explain mine")
    text = write_page(page, tmp_path / "explain.html").read_text()
    assert "take &lt;b&gt;" in text and "0.250" in text and "verbot explain mine" in text and "http" not in text


@pytest.mark.parametrize("name", ["grounding.json", "looking.json"])
def test_a_report_shows_grounding_metrics_of_the_same_policy_in_its_folder(name, world, tmp_path):
    from toy_world import ToyEnv, listening

    from verbot.evaluation import EvaluationConfig, PolicySource, run_evaluation

    record = {"policy": "mine", "suite": "toy", **measure_grounding(Planted(world), world, scenes=3).to_json()}
    (tmp_path / name).write_text(json.dumps(record))
    config = EvaluationConfig("toy", episodes=2, baselines=False, conditions=(), videos=0, latency_calls=0, workers=1)
    for policy in ("mine", "another"):
        (tmp_path / "run.json").unlink(missing_ok=True)
        run_evaluation(PolicySource(policy, listening), config, tmp_path, make=ToyEnv, progress=False)
        assert ("<h2>Grounding</h2>" in (tmp_path / "report.html").read_text()) == (policy == "mine")
