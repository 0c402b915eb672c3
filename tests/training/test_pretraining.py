"""Encoders are pretrained on captions in the same loop, warn when they do not learn, and are taken over by other networks."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from test_finetune import write
from toys import SMALL, SPEC, changed, toy_config

from verbot.data import DatasetWriter, EpisodeRecord
from verbot.errors import ConfigError, GroundingWarning, PolicyError
from verbot.models.lora import LoraConfig
from verbot.models.network import Objective, Part
from verbot.policy.opening import load_policy
from verbot.policy.policy import VLAPolicy
from verbot.spec import Observation
from verbot.training import AugmentConfig, TrainConfig, read_log, train_policy
from verbot.training.imitation.data import TrainingData
from verbot.training.imitation.finetune import init_parts, resolved
from verbot.training.imitation.records import MonitorConfig

PRETRAINED = dataclasses.replace(SMALL, objectives={"contrastive": Objective()})
NAMING = AugmentConfig(captions=1)
SEEING = ("vision", "language", "sentence")


def write_captioned(path: Path, episodes: int = 6) -> str:
    """Pictures of one color each, and what is true of them."""
    with DatasetWriter(path, SPEC) as writer:
        for number in range(episodes):
            color, other = ("red", "blue")[:: 1 if number % 2 else -1]
            shade = (220, 40, 40) if color == "red" else (40, 40, 220)
            images = {c.name: np.full((4, 16, 16, 3), shade, np.uint8) for c in SPEC.cameras}
            states, actions = np.zeros((4, 4), np.float32), np.zeros((4, 4), np.float32)
            states += np.arange(4)[:, None] / 10
            actions[:, :3] = np.arange(4)[:, None] / 100
            captions = [{"true": f"a {color} wall", "false": f"a {other} wall", "kind": "object"}]
            extras = {"captions": captions, "first_contact_frame": None}
            writer.save_episode(EpisodeRecord("look", states, actions, images, extras=extras))
    return str(path)


@pytest.fixture(scope="module")
def captioned(tmp_path_factory) -> str:
    return write_captioned(tmp_path_factory.mktemp("data") / "captioned")


@pytest.fixture(scope="module")
def pretrained(captioned, tmp_path_factory) -> str:
    config = toy_config(
        captioned,
        network=PRETRAINED,
        augment=NAMING,
        steps=100,
        batch_size=8,
        learning_rate=5e-3,
        validate_every=20,
        checkpoint_every=50,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", GroundingWarning)
        return train_policy(config, tmp_path_factory.mktemp("pretrained"), progress=False).policy


def at_first(config: TrainConfig, out: Path):
    config = resolved(config)
    with TrainingData(config, out, 0, 0) as training_data:
        data = training_data
        fresh = VLAPolicy.create(config.network, data.spec, data.statistics, data.instructions, config.preprocessing, config.seed)
        return init_parts(config.init, fresh, data.instructions, config.seed)


def test_what_is_true_is_learned_in_the_loop(pretrained):
    log = [line for line in read_log(Path(pretrained).parent) if line["kind"] == "validation"]
    assert log[-1]["separated"] == 1.0 and log[-1]["contrastive"] < 0.05
    assert log[-1]["matching"] > 0.3 > log[-1]["mismatching"]
    assert "action" not in log[-1], "fusion and head are left alone"
    red = {c.name: np.full((16, 16, 3), (220, 40, 40), np.uint8) for c in SPEC.cameras}
    with pytest.raises(PolicyError, match="cannot act: train from it"):
        load_policy(pretrained).predict([Observation(red, np.zeros(4, np.float32), "a red wall")])
    predict_extras = load_policy(pretrained).predict_extras(
        [Observation(red, np.zeros(4, np.float32), f"a {c} wall") for c in ("red", "blue")]
    )
    assert predict_extras[0]["alignment"] > 0.3 > predict_extras[1]["alignment"], "the policy reports the learned alignment"


def test_a_new_network_takes_over_what_sees_and_listens(pretrained, tmp_path):
    network = dataclasses.replace(SMALL, chunk=5)
    data = write(tmp_path / "nudged")
    config = toy_config(data, network=network, init_from=pretrained, parts=SEEING)
    policy, start = at_first(config, tmp_path / "a"), load_policy(pretrained)
    with TrainingData(changed(config, init_from=None, parts=None), tmp_path / "b", 0, 0) as training_data:
        assert policy.statistics.to_json() == training_data.statistics.to_json(), "normalized as the demonstrations are"
        fresh = type(policy).create(
            network, training_data.spec, training_data.statistics, training_data.instructions, config.preprocessing, config.seed
        )
    known = start.config.language.options["vocabulary"]
    assert policy.config.language.options["vocabulary"] == [*known, "cube", "green", "nudge", "the"]
    old, new = start.network.state_dict(), policy.network.state_dict()
    for name, value in new.items():
        if name.startswith(SEEING) and "embed" not in name:
            assert torch.equal(value, old[name]), name
    seeing = at_first(changed(config, parts=("vision",)), tmp_path / "c").network.state_dict()
    for name, value in fresh.network.state_dict().items():
        assert torch.equal(seeing[name], old[name] if name.startswith("vision.") else value), "the rest as without a start"
    assert torch.equal(new["language.embed.weight"][: len(known) + 4], old["language.embed.weight"][: len(known) + 4])
    assert "contrastive" not in policy.config.objectives and not any("contrastive" in name for name in new)


def test_a_run_that_takes_parts_over_goes_all_the_way(pretrained, toy, tmp_path):
    result = train_policy(toy_config(toy, init_from=pretrained, parts=("vision",)), tmp_path / "run", progress=False)
    assert "Began with vision of the policy" in (Path(result.policy) / "README.md").read_text()
    assert load_policy(result.policy).config.head.name == "regression"


@pytest.mark.parametrize(
    ("network", "parts", "message"),
    [
        (SMALL, ("eyes",), "init.parts has 'eyes', which the network does not have; its parts are fusion, head, language"),
        (SMALL.with_objectives(value=1.0), ("objectives.value",), "init.parts has 'objectives.value', which the initial policy"),
        (dataclasses.replace(SMALL, width=24), ("vision",), r"the initial policy has \(.*\) for vision\..*, which is \("),
        (dataclasses.replace(SMALL, vision=Part("query_conv")), ("vision",), r"the initial policy has \(.*\) for vision\.slots"),
    ],
)
def test_what_cannot_be_taken_over_is_named(pretrained, toy, tmp_path, network, parts, message):
    with pytest.raises(ConfigError, match=message):
        at_first(toy_config(toy, network=network, init_from=pretrained, parts=parts), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parts": SEEING}, "lora, parts and sha256 need an initial policy"),
        ({"init_from": "there", "parts": ()}, "init.parts lists the parts to copy: at least one"),
        (
            {"augment": NAMING},
            "'contrastive' needs captions, and no other objective uses them: network.objectives has action, .*captions 1",
        ),
        ({"network": PRETRAINED}, "network.objectives has contrastive, with augment.captions 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(toy, changes, message):
    with pytest.raises(ConfigError, match=message):
        toy_config(toy, **changes)


def test_a_dataset_without_captions_is_named(toy, tmp_path):
    with pytest.raises(
        ConfigError, match=r"augment.captions needs captions, and .*toy has none: record them with `verbot collect"
    ):
        train_policy(toy_config(toy, network=PRETRAINED, augment=NAMING), tmp_path / "run", progress=False)


def test_training_warns_while_seen_and_said_stay_apart(captioned, tmp_path):
    config = toy_config(
        captioned,
        network=PRETRAINED,
        augment=NAMING,
        steps=8,
        learning_rate=1e-6,
        monitor=MonitorConfig(threshold=1.0, patience=3),
    )
    with pytest.warns(GroundingWarning) as caught:
        train_policy(config, tmp_path / "run", progress=False)
    assert "step 6: images and true captions have not matched for 3 validations" in str(caught[0].message)
    found = [line for line in read_log(tmp_path / "run") if line["kind"] == "image_text_mismatch"]
    assert [(line["step"], line["validations"]) for line in found] == [(6, 3), (8, 4)]


def test_contrast_beside_cloning_tells_of_every_prediction(captioned, toy, tmp_path):
    """Demonstrations without captions and scenes with them, in one run."""
    network = SMALL.with_objectives(contrastive=1.0)
    config = toy_config(toy, network=network, augment=NAMING, datasets=(toy, captioned), steps=2)
    policy = load_policy(train_policy(config, tmp_path / "run", progress=False).policy)
    look = {c.name: np.zeros((16, 16, 3), np.uint8) for c in SPEC.cameras}
    chunk, other = policy.predict([Observation(look, np.zeros(4, np.float32), text) for text in ("a red wall", "look")])
    assert -1 <= chunk.extras["alignment"] <= 1 and chunk.extras["alignment"] != other.extras["alignment"]


def test_a_policy_that_acts_is_taught_to_tell_and_acts_as_before(captioned, toy, tmp_path):
    start = train_policy(toy_config(toy), tmp_path / "start", progress=False).policy
    network = SMALL.with_objectives(contrastive=1.0, keypoints=0.0, grounding_queries=None)
    lora = LoraConfig(adapt=(), train=("objectives.contrastive.*",))
    parts = ("vision", "language", "sentence", "state", "fusion", "head")
    config = toy_config(captioned, network=network, augment=NAMING, init_from=start, parts=parts, lora=lora)
    result = train_policy(config, tmp_path / "lora", progress=False)
    old, new = load_policy(start), load_policy(result.policy)
    assert result.trained == sum(p.numel() for p in new.network.objectives["contrastive"].parameters())
    assert new.statistics.to_json() == old.statistics.to_json(), "of state and action, whose parts were taken over"
    rng = np.random.default_rng(0)
    for text in ("touch the red cube", "touch the blue cube"):
        look = {c.name: rng.integers(0, 255, (16, 16, 3)).astype(np.uint8) for c in SPEC.cameras}
        seen = [Observation(look, np.full(4, 0.2, np.float32), text)]
        (before,), (after,) = old.predict(seen), new.predict(seen)
        assert np.array_equal(before.values, after.values)
        assert "alignment" in after.extras and "alignment" not in before.extras


def test_statistics_belong_to_the_parts_that_are_taken_over(toy, tmp_path):
    start = train_policy(toy_config(toy, steps=1), tmp_path / "start", progress=False).policy
    old = load_policy(start).statistics.to_json()
    data = write(tmp_path / "nudged")
    for parts, kept in ((("state",), {"state"}), (("head.out",), {"action"}), (("vision",), set())):
        found = at_first(toy_config(data, init_from=start, parts=parts), tmp_path).statistics.to_json()
        assert {name for name in ("state", "action") if found[name] == old[name]} == kept


def test_chunks_are_rebuilt_from_actions_alone_and_the_decoder_is_taken_over(toy, tmp_path):
    head = Part("latent", {"latent": 4, "hidden": 32, "pretrain": True})
    alone = dataclasses.replace(SMALL, head=head, objectives={"action": Objective()})
    start = train_policy(
        toy_config(toy, network=alone, steps=150, batch_size=16, learning_rate=3e-3, validate_every=50, checkpoint_every=150),
        tmp_path / "actions",
        progress=False,
    ).policy
    log = [line["action"] for line in read_log(tmp_path / "actions") if line["kind"] == "train"]
    assert np.mean(log[-10:]) < 0.5 * np.mean(log[:10])
    network = dataclasses.replace(SMALL, head=Part("latent", {"latent": 4, "hidden": 32}))
    config = toy_config(toy, network=network, init_from=start, parts=("head.encode", "head.mix", "head.decode"))
    policy, old = at_first(config, tmp_path), load_policy(start).network.state_dict()
    new = policy.network.state_dict()
    assert all(torch.equal(new[name], old[name]) for name in new if name.startswith(("head.encode", "head.mix", "head.decode")))
    assert not torch.equal(new["head.tell.0.weight"], old["head.tell.0.weight"]) or not torch.equal(
        new["head.tell.2.weight"], old["head.tell.2.weight"]
    ), "what tells the latent is new, or was not trained"
