"""Instructions in other scripts, and in languages that a pretrained encoder was not trained on."""

from __future__ import annotations

import numpy as np
import pytest

import verbot
from verbot.data import DatasetWriter, EpisodeRecord
from verbot.models.encoders.language.tokenizer import split_words
from verbot.spec import Camera, Component, Observation, RobotSpec
from verbot.training import read_log

PLACE = Component("place", "position", ("x",), "m", "base", (-1.0,), (1.0,))
ARM = RobotSpec("arm", 10.0, (Camera("front", 16, 24),), (PLACE,), (PLACE,))
SIGLIP = {
    "model_type": "siglip_text_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 16, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3,
}  # fmt: skip


def record(path, *sentences):
    with DatasetWriter(path, ARM) as writer:
        for sentence in sentences:
            images = {"front": np.zeros((6, 16, 24, 3), np.uint8)}
            numbers = np.linspace(-0.5, 0.5, 6, dtype=np.float32)[:, None]
            writer.save_episode(EpisodeRecord(sentence, numbers, numbers, images))
    return path


def trained(out, data, **settings):
    result = verbot.train("tiny", out=out, data=str(data), **{"steps": 1, "progress": False, "validation.share": 0.0, **settings})
    return verbot.load_policy(result.policy), [line["text"] for line in read_log(out) if line["kind"] == "note"]


def prediction(policy, sentence, pixel=0, place=0.0):
    images = {"front": np.full((16, 24, 3), pixel, np.uint8)}
    (chunk,) = policy.predict([Observation(images, np.full(1, place, np.float32), sentence)])
    return chunk.values


@pytest.mark.parametrize(
    "sentence", ["拿起红色方块", "подними красный кубик", "赤い立方体を持ち上げる", "หยิบลูกบาศก์สีแดง", "빨간 큐브를 집어"]
)
def test_a_sentence_that_the_encoder_cannot_read_is_said(tmp_path, sentence):
    _, notes = trained(tmp_path / "run", record(tmp_path / "data", sentence), language="minilm")
    unread = [note for note in notes if "unknown to the language encoder 'minilm'" in note]
    assert len(unread) == 1 and "network.language=word_embedding" in unread[0] and "\n" not in unread[0]


def test_english_is_not_remarked_upon(tmp_path):
    _, notes = trained(tmp_path / "run", record(tmp_path / "data", "pick up the red cube", "soulève le cube"), language="minilm")
    assert notes == []


def test_words_are_normalized(tmp_path):
    """Full-width letters, and letters composed of two characters, are the words that they look like."""
    assert split_words("Ｐｉｃｋ ｕｐ cafe\u0301") == split_words("pick up café") == ["pick", "up", "café"]
    policy, notes = trained(tmp_path / "run", record(tmp_path / "data", "拿起红色方块", "ｐｉｃｋ it", "go to the cafe\u0301"))
    assert policy.config.language.options["vocabulary"] == sorted([*"拿起红色方块", "pick", "it", "go", "to", "the", "café"])
    assert notes == []
    np.testing.assert_array_equal(prediction(policy, "go to the café"), prediction(policy, "go to the cafe\u0301"))


def test_a_dataset_without_sentences_trains(tmp_path):
    policy, _ = trained(tmp_path / "run", record(tmp_path / "data", "", ""))
    assert policy.config.language.options["vocabulary"] == []
    found = prediction(policy, "")
    assert np.isfinite(found).all()
    assert (prediction(policy, "", pixel=255) != found).any() and (prediction(policy, "", place=0.4) != found).any()


def test_a_siglip_text_tower_trains_from_random_weights(tmp_path):
    data = record(tmp_path / "data", "pick up the cube", "push the ball to the left")
    settings = {"network.language": "hf_language", "network.language.architecture": SIGLIP, "steps": 2}
    policy, notes = trained(tmp_path / "run", data, **settings)
    assert notes == [] and type(policy.network.backbone.language.model).__name__ == "SiglipTextModel"
    assert (prediction(policy, "pick up the cube") != prediction(policy, "push the ball to the left")).any()
    whole = {"model_type": "siglip", "text_config": {**SIGLIP, "num_hidden_layers": 1}}
    again, _ = trained(tmp_path / "whole", data, **{**settings, "network.language.architecture": whole})
    assert len(again.network.backbone.language.model.encoder.layers) == 1
