"""Reasoning before acting is a choice at run time; off, nothing changes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from tests.policy.test_answers import speaking
from tests.policy.test_policy import make_policy, observation

from verbot.errors import PolicyError, UnknownNameError
from verbot.models.tokens import Suffix

WORDS = "PLAN: reach the red cube SUBTASK: reach it MOVE: hold still ACTION:"


def test_thoughts_stand_between_the_prompt_and_the_actions():
    policy = speaking()
    policy.network.eval()
    backbone, seen = policy.network.backbone, [observation(0), observation(1)]
    tokenizer = backbone.tokenizer
    batch = policy.collate_observations(seen, [policy.preprocess(each) for each in seen])
    texts = [[*tokenizer.encode(WORDS), tokenizer.end], [*tokenizer.encode("MOVE: up ACTION:"), tokenizer.end]]
    with torch.no_grad():
        features, _ = backbone.prediction_features(batch, {})
        thought, said = backbone.think(features, texts, 99)
        assert said == texts
        logits = []
        backbone.say(thought, lambda x, before: logits.append(x) or x.argmax(-1) * 0 + 7, lambda ids: ids.shape[1] == 3, 3)
        length = max(map(len, texts)) + 3
        rows = [[*row, 7, 7, 7] + [0] * (length - len(row) - 3) for row in texts]
        mask = torch.tensor([[i < len(row) + 3 for i in range(length)] for row in texts])
        spoken = backbone(batch, {}, Suffix(torch.tensor(rows), mask, mask)).spoken
        whole = spoken.output(spoken.hidden)
    for row, text in enumerate(texts):  # as in training, where all of it is read in one pass
        expected = whole[row, len(text) : len(text) + 3]
        torch.testing.assert_close(torch.stack(logits, 1)[row], expected, rtol=0, atol=1e-5)


def test_off_it_changes_nothing_and_on_it_is_in_the_extras():
    policy = speaking()
    before = policy.predict([observation()])[0]
    thinking = policy.thinking()
    chunk = thinking.predict([observation()])[0]
    assert isinstance(chunk.extras["text"], str) and "text" not in before.extras
    assert np.array_equal(policy.predict([observation()])[0].values, before.values)
    assert thinking.network is policy.network
    first = policy.thinking("move").predict([observation()])[0].extras["text"]
    assert first.startswith("MOVE:")


def test_a_foreign_plan_is_given_in_place_of_its_own():
    plans = ("reach the red cube; lift the red cube", "reach the blue ball; lift the blue ball")
    policy = speaking().thinking(plans=plans)
    for text, expected in (("pick up the red cube", plans[1]), ("pick up the blue ball", plans[0])):
        chunk = policy.predict([dataclasses.replace(observation(), instruction=text)])[0]
        assert chunk.extras["text"].startswith(f"PLAN: {expected} SUBTASK:")


def test_who_cannot_think_says_so():
    with pytest.raises(PolicyError, match="cannot reason before it acts"):
        make_policy().thinking()
    with pytest.raises(UnknownNameError, match="mood"):
        speaking().thinking("mood")
