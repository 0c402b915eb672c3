"""An answer that means no actions becomes a hold that is counted."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from tests.policy.test_policy import SPEC, TEXTS, observation, statistics

from verbot.agents import ChunkAgent, EnsembleAgent
from verbot.contracts import EpisodeRequest
from verbot.errors import PolicyError
from verbot.evaluation.protocol.metrics import policy_metrics
from verbot.models.network import NetworkConfig, Part
from verbot.models.registries import Objective
from verbot.policy.policy import VLAPolicy
from verbot.rollout.results import Job, ResultsJournal, read_results
from verbot.rollout.vector import EpisodeSlot
from verbot.spec import MALFORMED_ANSWER, ActionChunk, Component

pytest.importorskip("tokenizers")
TRUNK = {"name": "tiny", "options": {"width": 16, "layers": 1, "heads": 2, "key_heads": 1, "tokens": 300, "reserved": 500}}
CONFIG = NetworkConfig(
    Part("vlm", {"trunk": TRUNK}), head=Part("fast", {"vocab_size": 400}), width=16, chunk=2, objectives={"action": Objective()}
)


def fast_policy(spec=SPEC, **head) -> VLAPolicy:
    config = dataclasses.replace(CONFIG, head=Part("fast", {"vocab_size": 400, **head}))
    rng = np.random.default_rng(0)
    chunks = np.concatenate([rng.uniform(-0.05, 0.05, (40, 2, 3)), rng.integers(0, 2, (40, 2, 1)) * 0.5], -1)
    return VLAPolicy.create(config, spec, statistics(), TEXTS, chunks=chunks.astype(np.float32))


def test_what_means_no_actions_holds_the_robot():
    policy = fast_policy(decode="free")
    said = policy.network.head.words[[policy.network.head.end]].expand(2, 1)
    kept, policy.network.backbone.say = policy.network.backbone.say, lambda *_: said
    seen = [observation(0), observation(1)]
    for chunk, one in zip(policy.predict(seen), seen, strict=True):
        assert chunk.extras[MALFORMED_ANSWER] is True and (chunk.values[:, :3] == 0).all()
        assert chunk.values[:, 3] == pytest.approx(np.clip(one.state[3], 0, 1)), "the gripper as it was measured"
    policy.network.backbone.say = kept
    policy.network.head.decoding = "well_formed"
    assert all(MALFORMED_ANSWER not in chunk.extras for chunk in policy.predict(seen))


def test_a_robot_without_a_hold_is_not_sent_anything():
    strange = Component("aim", "position", ("x",), "1", "base", (-1.0,), (1.0,))
    spec = dataclasses.replace(SPEC, action=(*SPEC.action[:1], strange))
    policy = fast_policy(spec, decode="free")
    policy.network.backbone.say = lambda *_: policy.network.head.words[[policy.network.head.end]].expand(1, 1)
    with pytest.raises(PolicyError, match="means no actions, and its robot cannot be held instead"):
        policy.predict([observation()])


def test_a_gripper_has_its_known_range():
    ranges = fast_policy().config.head.options["ranges"]
    assert ranges[3] == [0, 1], "the data have 0 to 0.5"
    assert fast_policy(ranges=[None, None, None, [0, 0.5]]).config.head.options["ranges"][3] == [0, 0.5]


@pytest.mark.parametrize("make", [ChunkAgent, EnsembleAgent])
def test_agents_hold_with_the_gripper_as_commanded(make):
    chunks = [
        ActionChunk(np.full((2, 4), 0.04, np.float32), 0.0),
        ActionChunk(np.float32([[0, 0, 0, 0.9]] * 2), 0.1, {MALFORMED_ANSWER: True}),
    ]
    answers = iter(chunks)
    agent = make(SimpleNamespace(spec=SPEC, predict=lambda _: [next(answers)]))
    agent.reset("")
    first = agent.act(dataclasses.replace(observation(), time_s=0.0))
    held = agent.act(dataclasses.replace(observation(), time_s=0.1))
    assert first == pytest.approx([0.04] * 4) and held == pytest.approx([0, 0, 0, 0.04])


def test_an_evaluation_counts_them(tmp_path):
    policy = SimpleNamespace(spec=SPEC)
    episode = SimpleNamespace(info={"success": False}, steps=0)
    slot = EpisodeSlot(Job("policy", EpisodeRequest("pick")), episode, ChunkAgent(policy))
    for extras in ({}, {MALFORMED_ANSWER: True}, {MALFORMED_ANSWER: True}):
        slot.answer(ActionChunk(np.zeros((1, 4), np.float32), 0.0, extras))
    found = slot.result("failure")
    assert found.malformed == 2
    fine = dataclasses.replace(found, key="fine", malformed=0)
    with ResultsJournal(tmp_path / "results.jsonl") as journal:
        journal.add(found)
        journal.add(fine)
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert '"malformed": 2' in lines[0] and "malformed" not in lines[1]
    assert [each.malformed for each in read_results(tmp_path / "results.jsonl")] == [2, 0]
    assert policy_metrics({"canonical": [found, fine]}, ())["malformed_answers"].value == 1.0
    assert "malformed_answers" not in policy_metrics({"canonical": [fine]}, ())
