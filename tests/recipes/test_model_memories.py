"""What memories, goals, tasks, robots and captions do in the networks of the recipes that have them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from model_networks import (
    TASKS,
    actions,
    all_reached,
    batch_for,
    build,
    differs,
    learned,
    reached,
    ready,
    robot,
    with_sentences,
    zeroed,
)

from verbot.models.tokens import Masked
from verbot.recipes.config import resolve
from verbot.training.imitation.cotraining import tie_weights

LEFT = "push the green ball to the left"


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


# Memories


def test_memory_vla_acts_by_what_slots_and_frames_hold():
    """Kills: memory-vla without memory, or without one of its two."""
    network, batch = ready("memory-vla")
    external, temporal = network.backbone.memory.parts
    assert (external.slots, temporal.frames) == (16, 3)
    learned(network, batch)
    assert all_reached(external)
    assert all_reached(temporal)
    assert len(network.backbone.fusion.blocks) == 6
    assert (network.head.lengths, len(network.head.codes)) == ([3, 3, 4], 20)
    with torch.no_grad():
        empty = network.predict(batch)
        later = dataclasses.replace(batch, memory=network.predict(batch_for(network, seed=1)).memory)
        assert set(later.memory) == {f"0.{k}" for k in ("keys", "values", "usage", "filled")} | {"1.features", "1.filled"}
        after, _ = remembered(network, later, later.memory)
        before, _ = remembered(network, batch, network.backbone.memory.initial(4))
        assert differs(after, before)
        for start in ("0.", "1."):  # each of the two by itself
            half = {k: v if k.startswith(start) else network.backbone.memory.initial(4)[k] for k, v in later.memory.items()}
            assert differs(remembered(network, batch, half)[0], before)
    assert empty.memory["0.filled"].sum() == 4
    outputs = [actions(network, dataclasses.replace(batch, memory=m)) for m in (None, later.memory)]
    assert differs(*outputs)


def remembered(network, batch, memory):
    group = network(batch).fused
    out, state = network.backbone.memory(group, memory, torch.ones(len(batch.state), dtype=torch.bool))
    return out.tokens, state


@pytest.mark.parametrize("name", ["memory-vla", "visits"])
def test_a_memory_is_taught_through_time(name):
    """Kills: a memory that each row of a sequence begins anew: what is fused of the first row teaches nothing of the last."""
    network, batch = ready(name)
    group = network(batch).fused
    tokens = group.tokens.detach().requires_grad_()
    present = torch.ones(4, dtype=torch.bool)
    out = network.backbone._remember(dataclasses.replace(group, tokens=tokens), present)
    out.tokens[-1].square().sum().backward()
    assert (tokens.grad.abs().amax((1, 2)) > 0).all()


def test_visits_and_memory_tell_places_from_what_is_fused():
    """Kills: both recipes without their second look at remembered places, and visits without its slots."""
    for name in ("memory", "visits"):
        network, batch = ready(name)
        losses = learned(network, batch)
        assert losses["keypoint_memory"] > 0
        assert all_reached(network.objectives["keypoint_memory"])
        before = actions(network, batch)
        with zeroed(*network.objectives["keypoint_memory"].join.parameters()):
            assert differs(actions(network, batch), before)
    assert all_reached(network.backbone.memory)
    with torch.no_grad():
        memory = network.predict(batch_for(network, seed=1)).memory
    assert differs(actions(network, dataclasses.replace(batch, memory=memory)), before)


# Goals, tasks, robots and captions


def test_goal_conditioned_obeys_a_picture_compared_with_the_present():
    """Kills: goal-conditioned without its goal encoder, or with one that sees the goal alone."""
    network, batch = ready("goal-conditioned")
    learned(network, batch)
    assert all_reached(network.backbone.goal)
    assert all_reached(network.backbone.vision.where)
    silent = with_sentences(batch, network, "")
    shown = actions(network, silent)
    assert differs(shown, actions(network, dataclasses.replace(silent, goal=255 - silent.goal)))
    none = dataclasses.replace(silent, goal_mask=torch.zeros_like(silent.goal_mask))
    assert differs(shown, actions(network, none))
    with torch.no_grad():
        now = dataclasses.replace(silent, images=255 - silent.images)
        count = silent.text.values.shape[1]
        tokens = [network.backbone.encode_text(b.text, b)[0].tokens for b in (silent, now)]
        assert tokens[0].shape[1] == count + 8
        assert torch.equal(*(t[:, :count] for t in tokens))
        assert differs(*(t[:, count:] for t in tokens)), "the goal is read beside the picture of now"


def test_multi_task_has_a_head_and_an_embedding_for_each_task():
    """Kills: multi-task with one head, or without its classifier."""
    network, batch = ready("multi-task", rows=6)
    head = network.head
    assert head.tasks == TASKS
    for task in range(3):
        every = Masked(torch.full((6,), task), torch.ones(6, dtype=torch.bool))
        learned(network, dataclasses.replace(batch, targets={**batch.targets, "task": every}))
        assert [reached(own) for own in head.heads] == [task == number for number in range(3)]
        assert head.embeddings.weight.grad.any(1).tolist() == [task == number for number in range(3)]
        assert all_reached(head.choose)
    with torch.no_grad():
        prediction = network.predict(batch)
        torch.testing.assert_close(prediction.extras["tasks"].values.sum(1), torch.ones(6))
        chosen = []
        for task in range(3):
            head.choose[-1].bias.copy_(1e3 * torch.eye(3)[task])
            chosen.append(network.predict(batch).actions)
    assert differs(chosen[0], chosen[1])
    assert differs(chosen[1], chosen[2])


def test_multi_task_net_shares_its_encoders_between_two_robots():
    """Kills: multi-task-net without the rover, without what both share, or without the grasp."""
    run = resolve("multi-task-net")
    (rover_training,) = run.training.cotraining
    rover = robot(resolve("navigation"))
    assert rover_training.robot == rover.name
    assert [each.env for each in run.stages[0].collections] == [resolve("navigation").collection.env]
    arm, batch = ready("multi-task-net")
    other = build(rover_training.network, rover, seed=1)
    shared = tie_weights(arm, other, rover_training.shared)
    assert {name.partition(".")[0] for name in shared} == {"vision", "language", "sentence", "fusion"}
    learned(other, batch_for(other))
    for part in (arm.backbone.language, arm.backbone.sentence, arm.backbone.vision, arm.backbone.fusion):
        assert reached(part), "the rover's loss teaches the arm's weights"
    assert not reached(arm.head)
    losses = learned(arm, batch)
    assert losses["grasp_state"] > 0
    assert all_reached(arm.objectives["grasp_state"])
    with torch.no_grad():
        first, second = (
            arm.predict(b).extras["grasp"].values for b in (batch, dataclasses.replace(batch, images=255 - batch.images))
        )
    assert first.shape == (4, arm.sizes.state)
    assert differs(first, second)


def test_contrastive_tells_captions_by_words_and_pictures():
    """Kills: contrastive without its contrast, or with captions that are not compared with the picture."""
    network, batch = ready("contrastive")
    losses = learned(network, batch)
    torch.testing.assert_close(losses["loss"], losses["contrastive"])
    assert losses["contrastive"] > 0
    for part in (
        network.objectives["contrastive"],
        network.backbone.vision.trunks,
        network.backbone.vision.queries,
        network.backbone.language,
    ):
        assert reached(part)
    with torch.no_grad():
        found = network.predict(batch).extras["alignment"].values
        images = network.predict(dataclasses.replace(batch, images=255 - batch.images)).extras["alignment"].values
        words = network.predict(with_sentences(batch, network, "lift the yellow cylinder")).extras["alignment"].values
    assert found.shape == (4,)
    assert (found != images).all()
    assert (found != words).all()


def test_actions_learns_from_actions_alone():
    """Kills: the recipe's head without its pretraining, which would learn from pictures."""
    network, batch = ready("actions")
    losses = learned(network, batch)
    blind = learned(network, dataclasses.replace(with_sentences(batch, network, LEFT), images=255 - batch.images))
    assert torch.equal(losses["loss"], blind["loss"])
    other = learned(network, dataclasses.replace(batch, actions=batch.actions.flip(0) * 2))
    assert losses["loss"] != other["loss"]
    for part in (network.head.encode, network.head.mix, network.head.decode):
        assert all_reached(part)
