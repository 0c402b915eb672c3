import dataclasses

import numpy as np
import pytest
import torch

from verbot.models.network import NetworkConfig
from verbot.models.registries import Part
from verbot.policy.attribution import Attributed
from verbot.policy.policy import VLAPolicy
from verbot.spec import Camera, Component, Observation, RobotSpec
from verbot.statistics import Statistics

TEXT = "put the red cube in the box"


def component(name, kind, size):
    return Component(name, kind, tuple(f"{name}{i}" for i in range(size)), "1", "base", (-1.0,) * size, (1.0,) * size)


SPEC = RobotSpec(
    "tiny",
    10.0,
    (Camera("front", 16, 16), Camera("wrist", 16, 16)),
    (component("ee_position", "position", 3),),
    (component("position_delta", "position_delta", 3),),
)


def policy(seed=0, spec=SPEC, **parts):
    options = {"width": 16, "chunk": 3, "fusion": Part("mlp", {"hidden": 32}), **parts}
    rng = np.random.default_rng(0)
    statistics = Statistics.of({name: rng.normal(size=(64, 3)) for name in ("state", "action")})
    made = VLAPolicy.create(NetworkConfig(**options), spec, statistics, [TEXT], seed=seed)
    made.network.eval()
    return made


def observation(text=TEXT, size=(16, 16), seed=0):
    rng = np.random.default_rng(seed)
    images = {name: rng.integers(0, 256, (*size, 3), dtype=np.uint8) for name in ("front", "wrist")}
    return Observation(images, np.zeros(3, np.float32), text)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def test_it_predicts_the_same_and_tells_where_it_looked():
    plain = policy()
    (chunk,), (explained,) = plain.predict([observation()]), Attributed(plain).predict([observation()])
    assert np.array_equal(chunk.values, explained.values) and np.array_equal(
        chunk.extras["keypoints"], explained.extras["keypoints"]
    )
    assert explained.extras["words"] == tuple(TEXT.split())
    for v, camera in enumerate(("front", "wrist")):
        heat = explained.extras["heatmaps"][camera]
        assert heat.shape == (3, 16, 16) and np.allclose(heat.sum((1, 2)), 1, atol=1e-5)
        # The map's center of mass is the keypoint that the policy itself tells.
        grid = (np.arange(16) + 0.5) / 8 - 1
        assert np.allclose((heat.sum(1) * grid).sum(-1), chunk.extras["keypoints"][v, :, 0], atol=1e-4)
        assert np.allclose((heat.sum(2) * grid).sum(-1), chunk.extras["keypoints"][v, :, 1], atol=1e-4)
    assert not plain.network.backbone.fusion._forward_pre_hooks and not plain.network.backbone.language._forward_hooks


def test_maps_come_back_to_the_cameras_own_pixels_also_from_a_crop():
    wide = dataclasses.replace(SPEC, cameras=(Camera("front", 16, 32), Camera("wrist", 16, 32)))
    (chunk,) = Attributed(policy(spec=wide, image_size=(16, 16))).predict([observation(size=(16, 32))])
    heat = chunk.extras["heatmaps"]["front"]
    assert heat.shape == (3, 16, 32) and np.allclose(heat.sum((1, 2)), 1, atol=1e-5)
    assert not heat[:, :, :8].any() and not heat[:, :, 24:].any() and heat[:, :, 8:24].all()


def test_several_observations_of_different_lengths_have_their_own_maps():
    seeing = Attributed(policy())
    long, short = observation(), observation("put the cube", seed=1)
    both, alone = seeing.predict([long, short])[1].extras, seeing.predict([short])[0].extras
    assert both["words"] == ("put", "the", "cube")
    assert np.allclose(both["read"], alone["read"], atol=1e-6)
    assert np.allclose(both["heatmaps"]["wrist"], alone["heatmaps"]["wrist"], atol=1e-6)


@pytest.mark.parametrize("fusion", ["cross_attention", "bidirectional", "concat"])
@pytest.mark.parametrize("vision", ["query_conv", "vit"])
def test_what_each_word_attends_to_is_a_picture_whose_sum_is_what_places_got(vision, fusion):
    made = policy(vision=Part(vision), fusion=Part(fusion, {"hidden": 32}))
    (chunk,) = Attributed(made).predict([observation()])
    shown = chunk.extras["attention"]
    assert shown["front"].shape == (7, 16, 16) and (shown["front"] >= 0).all()
    total = sum(view.sum((1, 2)) for view in shown.values())
    assert (total > 0.05).all() and (total < 1.0).all()  # the rest went to the state, or to other words


def test_attention_to_one_patch_lights_up_that_patch(monkeypatch):
    made = policy(vision=Part("vit", {"patch": 8, "heatmaps": 3}), fusion=Part("cross_attention", {"hidden": 32, "layers": 1}))
    place = 6 + 5 + 2  # after 2×3 keypoints and the front camera's summary and 4 patches: the wrist's summary, patch 0, patch 1

    def planted(self, queries, keys, mask):
        out = torch.zeros(len(queries), self.heads, queries.shape[1], keys.shape[1])
        out[..., place if keys.shape[1] > 12 else 0] = 1
        return out

    monkeypatch.setattr("verbot.models.layers.transformer.Attention.weights", planted)
    (chunk,) = Attributed(made).predict([observation()])
    shown = chunk.extras["attention"]
    assert not shown["front"].any()
    assert np.allclose(shown["wrist"][0], np.pad(np.full((8, 8), 1 / 64), ((0, 8), (8, 0))), atol=1e-6)


def test_the_pooled_sentences_attention_falls_on_the_words_tokens(monkeypatch):
    made = policy()

    def planted(self, queries, keys, mask):
        out = torch.zeros(len(queries), self.heads, queries.shape[1], keys.shape[1])
        out[..., 3] = 1  # the start, "put", "the", then "red"
        return out

    monkeypatch.setattr("verbot.models.layers.transformer.Attention.weights", planted)
    (chunk,) = Attributed(made).predict([observation()])
    assert chunk.extras["read"].tolist() == [0, 0, 1, 0, 0, 0, 0]


def test_what_has_no_words_of_its_own_tells_none():
    layered = Attributed(policy(language=Part("hierarchical")))
    (several,) = layered.predict([dataclasses.replace(observation(), instruction="stop. put the red cube in the box")])
    assert several.extras["words"] == () and "read" not in several.extras and "heatmaps" in several.extras
    (one,) = layered.predict([observation()])
    assert one.extras["words"] == tuple(observation().instruction.split())
    (blind,) = Attributed(policy().blinded()).predict([observation()])
    assert blind.extras["words"] == ()
    assert Attributed(policy()).predict([]) == []
