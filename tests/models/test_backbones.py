"""The seam between what makes features and what learns from them: names of weights, own backbones, and what each can do."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from networks import SPEC, TEXTS
from torch import nn

from verbot.errors import ConfigError
from verbot.models.backbones.modular import Modular
from verbot.models.features import Backbone, Features, TrainingObjective
from verbot.models.flat_names import holder
from verbot.models.network import NetworkConfig, VLANetwork
from verbot.models.registries import Objective, Part, backbones
from verbot.models.tokens import TextBatch, TokenGroup
from verbot.policy.attribution import Attributed
from verbot.policy.policy import VLAPolicy
from verbot.spec import Observation
from verbot.statistics import Statistics
from verbot.training.imitation.frozen_features import FrozenFeatureExtractor


class Counting(Backbone):
    """Reads the state and the number of predictions that its memory has counted."""

    def __init__(self, config, sizes, step=1.0):
        super().__init__()
        self.width, self.count, self.step = config.width, 1, step
        self.embed, self.scale = nn.Linear(sizes.state + 1, config.width), nn.Parameter(torch.ones(1))

    def prepare(self, texts):
        lengths = torch.tensor([[len(text)] for text in texts])
        return TextBatch(lengths, lengths > 0)

    def forward(self, batch, queries):
        return self._features(batch, batch.state.new_zeros(len(batch.state), 1))

    def prediction_features(self, batch, queries):
        seen = self.initial(len(batch.state))["seen"] if batch.memory is None else batch.memory["seen"]
        return self._features(batch, seen), {"seen": seen + self.step * batch.writes.unsqueeze(1)}

    def initial(self, rows, device="cpu"):
        return {"seen": torch.zeros(rows, 1, device=device)}

    def _features(self, batch, seen):
        tokens = self.scale * self.embed(torch.cat([batch.state[:, -1], seen], 1)).unsqueeze(1)
        return Features(batch, TokenGroup(tokens, torch.ones_like(tokens[..., 0], dtype=torch.bool), "fused"))


@pytest.fixture
def counting(monkeypatch):
    backbones.names()
    monkeypatch.setitem(backbones._factories, "counting", Counting)
    return NetworkConfig(backbone=Part("counting", {"step": 2.0}), width=16, chunk=3)


def make_policy(config):
    rng = np.random.default_rng(0)
    statistics = Statistics.of({"state": rng.normal(size=(64, 4)), "action": rng.normal(size=(64, SPEC.action_size))})
    return VLAPolicy.create(config, SPEC, statistics, list(TEXTS))


def observation(memory=None, time_s=0.0):
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (16, 16, 3), dtype=np.uint8) for name in ("front", "wrist")}
    return Observation(images, np.zeros(4, np.float32), TEXTS[0], time_s=time_s, memory=memory)


def test_an_own_backbone_carries_its_memory_from_one_prediction_to_the_next(counting, tmp_path):
    made = make_policy(counting)
    made.save(tmp_path / "policy")
    for policy in (made, VLAPolicy.load(tmp_path / "policy")):
        assert policy.network.backbone.step == 2.0
        (first,) = policy.predict([observation()])
        (second,) = policy.predict([observation(first.memory, 0.1)])
        assert (first.memory["memory.seen"], second.memory["memory.seen"]) == (2.0, 4.0)
        assert not np.allclose(first.values, second.values)
        assert np.array_equal(first.values, policy.predict([observation()])[0].values), "a new episode begins anew"


def test_an_own_backbone_learns_and_its_gradient_is_whole(counting, make_batch):
    network = VLANetwork(counting.fit(list(TEXTS)), SPEC)
    batch = make_batch(network)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = network.losses(batch, torch.Generator().manual_seed(0))["loss"]
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    assert all(p.grad.any() for p in network.backbone.parameters())


def test_what_an_own_backbone_cannot_is_refused(counting):
    def made(**changes):
        return VLANetwork(dataclasses.replace(counting, **changes), SPEC)

    with pytest.raises(ConfigError, match=r"the backbone 'counting' does not read goal, previous_action of the network: leave"):
        made(goal=Part("goal_conv"), previous_action=Part("action"))
    with pytest.raises(ConfigError, match="'counting' does not read memory"):
        made(memory=Part("recurrent"), sequence=4)
    with pytest.raises(ConfigError, match="encodes both apart, such as 'modular'; Counting does not"):
        made(objectives={"action": Objective(), "contrastive": Objective()})
    with pytest.raises(ConfigError, match=r"'flow_expert' reads \d+ layers of the backbone; 'counting' gives none"):
        made(head=Part("flow_expert", {"hidden": 16, "layerwise": True}))


def test_features_are_cached_of_a_vision_encoder_alone(counting):
    with pytest.raises(ConfigError, match="of the backbone 'modular' sees; the network's backbone is 'counting'"):
        FrozenFeatureExtractor(counting, SPEC, torch.device("cpu"))


def test_an_own_backbone_explains_as_much_as_it_can(counting):
    policy = make_policy(counting)
    (plain,), (explained,) = policy.predict([observation()]), Attributed(policy).predict([observation()])
    assert np.array_equal(plain.values, explained.values)
    assert set(explained.extras) == set(plain.extras)


def test_the_card_says_which_backbone_a_policy_has(counting, tmp_path):
    for config, parts in ((counting, "- backbone: `counting`\n- head"), (NetworkConfig(width=16), "- vision: `film_conv`\n")):
        make_policy(config).save(tmp_path / "policy")
        assert parts in (tmp_path / "policy" / "README.md").read_text()


def test_names_of_weights_leave_the_backbone_out(make_network):
    network = make_network(NetworkConfig(width=16, chunk=3, history=2))
    state, named = network.state_dict(), dict(network.named_parameters())
    assert set(state) == set(named)
    assert {name.partition(".")[0] for name in named} == {
        "times", "vision", "language", "sentence", "state", "fusion", "head"
    }  # fmt: skip
    assert next(iter(state)) == "times" and list(state)[-1].startswith("head")
    both = nn.ModuleList([network, copy.deepcopy(network)])
    assert [f"{i}.{name}" for i in range(2) for name in state] == list(both.state_dict())
    assert [f"{i}.{name}" for i in range(2) for name in named] == list(dict(both.named_parameters()))


def test_weights_are_found_again_by_their_names(make_network):
    network, other = (make_network(NetworkConfig(width=16, chunk=3, history=2)) for _ in range(2))
    both = nn.ModuleList([copy.deepcopy(other), other])
    both.load_state_dict({f"{i}.{name}": value for i in range(2) for name, value in network.state_dict().items()})
    for each in both:
        assert all(torch.equal(value, each.state_dict()[name]) for name, value in network.state_dict().items())
    with pytest.raises(RuntimeError, match=r"Unexpected key.*backbone\.nothing"):
        network.load_state_dict({**network.state_dict(), "nothing": torch.zeros(1)})
    assert network.get_submodule("vision") is network.backbone.vision and network.get_submodule("head") is network.head
    assert network.get_submodule("") is network
    assert holder(network, "times") == (network.backbone, "times")
    assert holder(network, "fusion") == (network.backbone, "fusion") and holder(network, "head") == (network, "head")
    assert holder(both, "1.times") == (other.backbone, "times")


def test_a_backbone_must_not_use_the_networks_own_names(counting, monkeypatch):
    class Headed(Counting):
        def __init__(self, config, sizes):
            super().__init__(config, sizes)
            self.head = nn.Linear(1, 1)

    monkeypatch.setitem(backbones._factories, "headed", Headed)
    with pytest.raises(ConfigError, match="a network has its own head, so Headed must call its otherwise"):
        VLANetwork(dataclasses.replace(counting, backbone=Part("headed")), SPEC)


def test_embeddings_of_time_are_drawn_after_all_other_weights(make_network, monkeypatch):
    config = NetworkConfig(width=16, chunk=3, history=2)
    torch.manual_seed(0)
    times = make_network(config).backbone.times
    monkeypatch.setattr(Modular, "initialize_last", lambda self: None)
    torch.manual_seed(0)
    make_network(config)
    assert torch.equal(times, torch.randn(2, 16) * 0.02)


def test_a_backbone_and_an_objective_are_not_made_without_their_methods():
    class NoFeatures(Backbone):
        def prepare(self, texts): ...

    class NoLosses(TrainingObjective):
        pass

    with pytest.raises(TypeError, match=r"abstract class NoFeatures.*forward"):
        NoFeatures()
    with pytest.raises(TypeError, match=r"abstract class NoLosses.*losses"):
        NoLosses()
