"""A policy with a language trunk answers in its own words; another one says that it has none."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from tests.policy.test_policy import CONFIG, SPEC, make_policy, observation, statistics, window

from verbot.contracts import AnsweringPolicy, TextTask
from verbot.errors import ConfigError, DataError, PolicyError
from verbot.models.network import NetworkConfig, Part
from verbot.models.registries import Objective
from verbot.policy.policy import VLAPolicy

TRUNK = {"name": "tiny", "options": {"width": 32, "layers": 2, "heads": 2, "key_heads": 1, "tokens": 400, "reserved": 40}}
HEAD = Part("action_tokens", {"bins": 40, "low": -2.0, "high": 2.0})
QUESTIONS = {"what color is it?": "blue", "is it red?": "no", "pick up the red cube": "in words"}


def speaking(objective: float = 1.0, **prompt) -> VLAPolicy:
    backbone = Part("vlm", {"trunk": TRUNK, "readers": 1, **prompt})
    config = NetworkConfig(backbone, head=HEAD, width=16, chunk=2, objectives={"action": Objective()})
    config = config.with_objectives(text=objective) if objective else config
    return VLAPolicy.create(config, SPEC, statistics(), [*QUESTIONS, *QUESTIONS.values()])


def windows(asked, kind="question"):
    """A training batch of these questions about random images."""
    count, shown = len(asked), [observation(i) for i in range(len(asked))]
    tasks = [TextTask(text, answer, kind, i) for i, (text, answer) in enumerate(asked.items())]
    batch = window(count)
    batch.images, batch.state = (
        np.stack([[list(each.images.values())] for each in shown]),
        np.stack([each.state[None] for each in shown]),
    )
    batch.actions, batch.actions_mask = batch.actions[:, :2], np.zeros((count, 2), bool)
    batch.instructions, batch.text_tasks = list(asked), tasks
    return batch


def test_it_answers_what_it_was_trained_to_answer():
    policy = speaking()
    policy.network.eval()
    batch = policy.collate(windows(QUESTIONS))
    for step in range(30):
        policy.network.zero_grad()
        policy.network.losses(batch)["loss"].backward()
        with torch.no_grad():
            for weights in policy.network.parameters():
                if weights.grad is not None:
                    weights -= 0.01 * (1 - step / 30) * weights.grad.sign()
    shown = [observation(i) for i in range(3)]
    assert isinstance(policy, AnsweringPolicy)
    assert policy.answer(shown, list(QUESTIONS)) == list(QUESTIONS.values())
    assert policy.answer(shown[1:2], ["is it red?"]) == ["no"], "alone as in a batch"
    assert policy.answer(shown[1:2], ["is it red?"], most=0) == [""] and policy.answer([], []) == []


def test_a_question_is_not_asked_as_an_instruction():
    policy = speaking(template="what action should the robot take to {instruction}?", question_template="Q: {question} A:")
    tokenizer = policy.network.backbone.tokenizer
    for kind, expected in (("question", "Q: is it red? A:"), ("reasoning", "what action should the robot take to is it red??")):
        ids, mask = (x[0] for x in dataclasses.astuple(policy.collate(windows({"is it red?": "no"}, kind)).text)[:2])
        assert tokenizer.decode(ids[mask].tolist()) == expected
    asked = []
    backbone = policy.network.backbone
    prepare = backbone.prepare_questions
    backbone.prepare_questions = lambda texts, are: asked.append(prepare(texts, are)) or asked[0]
    policy.answer([observation()], ["is it red?"])
    assert tokenizer.decode(asked[0].values[0].tolist()) == "Q: is it red? A:"


def test_what_is_not_known_changes_nothing():
    policy = speaking()
    one = dataclasses.replace(observation(), state=np.full(4, 7.0, np.float32))
    few = dataclasses.replace(one, images={"front": one.images["front"]})
    first = policy.answer([few], ["is it red?"], knows_state=False)
    assert first == policy.answer([dataclasses.replace(few, state=np.zeros(4, np.float32))], ["is it red?"], knows_state=False)


def test_readers_give_the_vision_encoder_the_order_of_words():
    policy = speaking()
    backbone = policy.network.eval().backbone
    texts = ["the red cube blue", "the blue cube red"]
    with torch.no_grad():
        first, second = (backbone.encode_text(backbone.prepare([text]))[1].tokens for text in texts)
        bag = speaking(readers=0).network.eval().backbone
        one, other = (bag.encode_text(bag.prepare([text]))[1].tokens for text in texts)
    assert (first - second).abs().max() > 1e-3
    assert (one - other).abs().max() < 1e-5


def test_who_has_no_words_says_so():
    with pytest.raises(PolicyError, match=r"no words to answer with: its backbone is 'modular'.*verbot train rt2"):
        make_policy(CONFIG).answer([observation()], ["is it red?"])
    with pytest.raises(PolicyError, match="never trained to answer"):
        speaking(0.0).answer([observation()], ["is it red?"])
    with pytest.raises(DataError, match="2 questions for 1 observations"):
        speaking().answer([observation()], ["is it red?", "is it blue?"])


@pytest.mark.parametrize("options", [{"question_template": "no place"}, {"template": "no place"}, {"readers": -1}])
def test_prompts_that_make_no_sense_are_refused(options):
    with pytest.raises(ConfigError):
        speaking(**options)
