"""Networks with the previous action as input: it has no effect where it is masked, and helps where it is known."""

import dataclasses

import pytest
import torch

from verbot.errors import ConfigError, UnknownNameError
from verbot.models.encoders.state.previous_action import ActionEncoder, manipulator
from verbot.models.network import NetworkConfig
from verbot.models.registries import Objective, Part, fusions, memories
from verbot.models.tokens import Masked

CONFIG = NetworkConfig(width=16, chunk=3, fusion=Part("mlp", {"hidden": 32}), previous_action=Part("action", {"hidden": 32}))
FUSIONS = [*((name, {}) for name in fusions.names()), ("concat", {"hidden": 0}), ("temporal", {"hidden": 32})]


def losses(network, batch):
    return network.losses(batch, torch.Generator().manual_seed(1))


def recorded_masks(network):
    """A list that fills with the mask of every call of the action encoder."""
    masks = []
    network.backbone.previous_action.register_forward_pre_hook(lambda _, args: masks.append(args[1].clone()))
    return masks


@pytest.mark.parametrize("history", [1, 3])
@pytest.mark.parametrize(("name", "options"), FUSIONS)
def test_in_every_fusion_an_action_counts_where_it_is_known_and_nowhere_else(name, options, history, make_network, make_batch):
    network = make_network(dataclasses.replace(CONFIG, fusion=Part(name, options), history=history)).eval()
    batch = make_batch(network)
    known = batch.previous_action
    known.mask[:2] = False
    before = network.predict(batch).actions

    def after(values, mask=known.mask):
        return network.predict(dataclasses.replace(batch, previous_action=Masked(values, mask))).actions

    assert torch.equal(before, after(torch.where(known.mask[:, None], known.values, float("nan"))))
    moved = (after(known.values.flip(0)) - before).abs().amax((1, 2))
    assert (moved[:2] == 0).all()
    assert (moved[2:] > 1e-6).all()
    without = dataclasses.replace(batch, previous_action=None)
    assert torch.equal(after(known.values, torch.zeros(4, dtype=torch.bool)), network.predict(without).actions)


def test_it_is_one_token_of_the_latest_frame(make_network, make_batch):
    for history in (1, 3):
        network = make_network(dataclasses.replace(CONFIG, history=history))
        batch = make_batch(network)
        group = network.backbone.encode_previous_action(batch)
        assert group.kind == "previous_action"
        assert group.tokens.shape == (4, history, 16)
        assert group.mask.tolist() == [[False] * (history - 1) + [True]] * 4
        torch.testing.assert_close(group.tokens[:, -1], network.backbone.previous_action.encoder(batch.previous_action.values))


def test_dropout_of_the_previous_action_applies_in_training_only(make_network, make_batch):
    network = make_network(dataclasses.replace(CONFIG, previous_action_dropout=0.3))
    batch = make_batch(network, rows=400)
    batch.previous_action.mask[:100] = False
    masks = recorded_masks(network)
    first, again = losses(network, batch), losses(network, batch)
    assert torch.equal(first["loss"], again["loss"]), "drawn from the generator that was given"
    assert not masks[0][:100].any()
    assert 0.6 < masks[0][100:].float().mean() < 0.8
    network.losses(batch, torch.Generator().manual_seed(2))
    assert not torch.equal(masks[0], masks[2])
    network.predict(batch)
    network.eval()
    losses(network, batch)
    assert torch.equal(masks[3], batch.previous_action.mask)
    assert torch.equal(masks[4], batch.previous_action.mask)
    always = make_network(dataclasses.replace(CONFIG, previous_action_dropout=0.0))
    masks = recorded_masks(always)
    losses(always, batch)
    assert torch.equal(masks[0], batch.previous_action.mask)


@pytest.mark.parametrize("name", memories.names())
def test_a_memory_knows_what_was_done_frames_ago(name, make_network, make_batch):
    """The last row's prediction hangs on the action of the first, through the memory and nothing else."""
    network = make_network(dataclasses.replace(CONFIG, memory=Part(name), sequence=8, previous_action_dropout=0.0))
    batch = make_batch(network, rows=8)
    batch.previous_action.values.requires_grad_()
    batch.actions_mask[:-1] = False
    losses(network, batch)["action"].backward()
    assert (batch.previous_action.values.grad.abs().amax(1) > 0).all()


def test_what_was_done_can_decide_what_comes_next(make_network, make_batch):
    """The next action equals the previous one and depends on nothing else: only a network with that input can learn it."""
    found = {}
    for encoder in (CONFIG.previous_action, None):
        torch.manual_seed(0)
        network = make_network(
            dataclasses.replace(CONFIG, previous_action=encoder, previous_action_dropout=0.0, objectives={"action": Objective()})
        )
        optimizer = torch.optim.Adam(network.parameters(), 3e-3)
        plain = make_batch(make_network(CONFIG), rows=64)
        for step in range(151):  # the last is not learned from
            done = torch.randn(64, 10, generator=torch.Generator().manual_seed(step))
            wanted = torch.zeros_like(plain.actions)
            wanted[..., 0] = done[:, None, 0]
            batch = dataclasses.replace(plain, actions=wanted, previous_action=Masked(done, torch.ones(64, dtype=torch.bool)))
            if step < 150:
                optimizer.zero_grad()
                losses(network, batch)["loss"].backward()
                optimizer.step()
        network.eval()
        predicted = network.predict(batch).actions[:, 0, 0]
        found[encoder is not None] = float(torch.corrcoef(torch.stack([predicted.detach(), done[:, 0]]))[0, 1])
    assert found[True] > 0.9
    assert abs(found[False]) < 0.4


def test_an_encoder_without_absence_has_none_to_learn_and_takes_no_mask():
    whole, partial = ActionEncoder(manipulator(), 16, partial=False), ActionEncoder(manipulator(), 16)
    assert {name for name, _ in partial.named_parameters()} - {name for name, _ in whole.named_parameters()} == {"absent"}
    whole.load_state_dict({name: value for name, value in partial.state_dict().items() if name != "absent"})
    actions = torch.randn(3, 14)
    torch.testing.assert_close(whole(actions), partial(actions))
    with pytest.raises(ConfigError, match=r"built without unknown components \(partial=False\) and takes no mask"):
        whole(actions, torch.ones(3, 4, dtype=torch.bool))


def test_wrong_settings_say_what_there_is(make_network):
    for share in (-0.1, 1.0):
        with pytest.raises(ConfigError, match="previous_action_dropout is a share of samples, at least 0 and below 1; got"):
            NetworkConfig(previous_action_dropout=share)
    with pytest.raises(UnknownNameError, match="Did you mean 'action'"):
        make_network(dataclasses.replace(CONFIG, previous_action=Part("acton")))


def test_a_network_without_the_part_ignores_the_previous_action(make_network, make_batch):
    network = make_network(NetworkConfig(width=16, chunk=3))
    assert network.backbone.previous_action is None
    batch = make_batch(network)
    more = dataclasses.replace(batch, previous_action=Masked(torch.randn(4, 10), torch.ones(4, dtype=torch.bool)))
    assert torch.equal(losses(network, batch)["loss"], losses(network, more)["loss"])
