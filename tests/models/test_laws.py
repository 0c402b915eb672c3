"""What holds for every registered encoder, fusion and head."""

import dataclasses
import json

import pytest
import torch

from verbot.errors import UnknownNameError
from verbot.models.network import NetworkConfig
from verbot.models.protocols import InstructionFreeFeatures, ReadsLayers
from verbot.models.registries import Part, heads
from verbot.models.tokens import Batch, GoalQueries, Masked, TextBatch


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def other(values: torch.Tensor) -> torch.Tensor:
    """Values of the same kind that are nowhere the same."""
    if values.dtype == torch.uint8:
        return 255 - values
    return (values + 1) % 4 if values.dtype == torch.int64 else values * 3 + 5


def unknown_as_nan(target: Masked) -> Masked:
    if not target.values.is_floating_point():
        return target
    mask = target.mask.view(*target.mask.shape, *[1] * (target.values.ndim - target.mask.ndim))
    return Masked(torch.where(mask, target.values, float("nan")), target.mask)


def losses(network, batch):
    return network.losses(batch, torch.Generator().manual_seed(1))


def test_a_missing_camera_changes_nothing(variant, make_network, make_batch):
    network = make_network(variant)
    batch = make_batch(network)
    batch.images_mask[0, :, 1] = False
    batch.images_mask[1] = False
    images = torch.where(batch.images_mask[..., None, None, None], batch.images, other(batch.images))
    changed = dataclasses.replace(batch, images=images)
    close(network.predict(batch).actions, network.predict(changed).actions)
    with_camera = dataclasses.replace(batch, images_mask=torch.ones_like(batch.images_mask))
    assert not torch.allclose(network.predict(batch).actions[0], network.predict(with_camera).actions[0])


def test_an_absent_state_changes_nothing(variant, make_network, make_batch):
    network = make_network(variant)
    batch = make_batch(network)
    batch.state_mask[0] = False
    changed = dataclasses.replace(batch, state=torch.where(batch.state_mask[..., None], batch.state, other(batch.state)))
    close(network.predict(batch).actions, network.predict(changed).actions)


def test_what_many_rows_say_is_read_once(variant, make_network, make_batch):
    network = make_network(variant)
    batch = make_batch(network)
    which = torch.tensor([2, 0, 2, 1])
    values, mask = batch.text.values, batch.text.mask
    each = dataclasses.replace(batch, goal=None, goal_mask=None, text=TextBatch(values[which], mask[which]))
    once = dataclasses.replace(each, text=TextBatch(values[:3], mask[:3], which))
    g = torch.Generator
    close(network.predict(once, g().manual_seed(1)).actions, network.predict(each, g().manual_seed(1)).actions)


def test_what_is_seen_before_anything_is_said_can_be_kept(variant, make_network, make_batch):
    network = make_network(variant)
    if not isinstance(network.backbone.vision, InstructionFreeFeatures):
        return
    batch = make_batch(network)
    batch = dataclasses.replace(batch, goal=None, goal_mask=None)
    kept = dataclasses.replace(batch, features=network.backbone.vision.features(batch.images))
    blind = dataclasses.replace(kept, images=torch.zeros_like(batch.images))
    g = torch.Generator
    close(network.predict(blind, g().manual_seed(1)).actions, network.predict(batch, g().manual_seed(1)).actions)
    close(losses(network, kept)["loss"], losses(network, batch)["loss"])


def test_padding_after_the_words_changes_nothing(variant, make_network, make_batch):
    network = make_network(variant)
    batch = make_batch(network)
    extra = other(batch.text.values[:, :3])
    longer = TextBatch(
        torch.cat([batch.text.values, extra], 1), torch.cat([batch.text.mask, torch.zeros(4, 3, dtype=torch.bool)], 1)
    )
    close(network.predict(batch).actions, network.predict(dataclasses.replace(batch, text=longer)).actions)


def test_words_matter_and_no_words_are_finite(variant, make_network, make_batch):
    network = make_network(variant)
    batch = make_batch(network)
    said = network.predict(batch).actions
    swapped = network.backbone.prepare(["put the green box to the left"] * 4)
    assert not torch.allclose(said, network.predict(dataclasses.replace(batch, text=swapped)).actions)
    blank = network.predict(dataclasses.replace(batch, text=network.backbone.prepare([""] * 4))).actions
    assert blank.isfinite().all()
    nothing = TextBatch(batch.text.values, torch.zeros_like(batch.text.mask))
    assert network.predict(dataclasses.replace(batch, text=nothing)).actions.isfinite().all()


def test_rows_do_not_see_each_other(variant, make_network, make_batch):
    network = make_network(variant)
    batch = make_batch(network)
    order = torch.tensor([2, 0, 3, 1])
    fields = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    text, *_ = (fields.pop(name) for name in ("text", "grounding_queries", "captions"))
    targets, before = fields.pop("targets"), fields.pop("previous_action")
    moved = dataclasses.replace(
        batch,
        text=TextBatch(text.values[order], text.mask[order]),
        targets={name: Masked(target.values[order], target.mask[order]) for name, target in targets.items()},
        previous_action=None if before is None else Masked(before.values[order], before.mask[order]),
        **{name: x[order] for name, x in fields.items() if x is not None},
    )
    before, after = network.predict(batch), network.predict(moved)
    close(before.actions[order], after.actions)
    close(before.extras["keypoints"].values[order], after.extras["keypoints"].values)


def test_grounding_queries_teach_where_to_look_and_nothing_else(variant, make_network, make_batch):
    network = make_network(variant).eval()
    batch = make_batch(network)
    g = torch.Generator().manual_seed(1)
    rows, places = torch.tensor([0, 2, 2, 3]), torch.rand(4, 2, 3, 2, generator=g)
    text = network.backbone.prepare(["put the green box to the left", "", "pick up the red cube", "stop"])
    everywhere = torch.ones(4, 2, 3, dtype=torch.bool)
    asked = dataclasses.replace(batch, grounding_queries=GoalQueries(rows, text, Masked(places, everywhere)))
    plain, with_queries = (network.losses(b, torch.Generator().manual_seed(0)) for b in (batch, asked))
    close(plain["action"], with_queries["action"])
    # Asking is as telling: the same pictures and words as rows of their own cost as much.
    instructed = Batch(batch.images[rows], batch.images_mask[rows], batch.state[rows], batch.state_mask[rows], text)
    instructed = dataclasses.replace(
        instructed, actions=batch.actions[rows], actions_mask=batch.actions_mask[rows],
        targets={"keypoints": Masked(places, everywhere)},
    )  # fmt: skip
    close(with_queries["keypoints"], plain["keypoints"])
    close(with_queries["grounding_queries"], network.losses(instructed, torch.Generator().manual_seed(0))["keypoints"])
    close(network.predict(asked).actions, network.predict(batch).actions)


def test_padded_actions_and_unknown_keypoints_change_nothing(variant, make_network, make_batch):
    network = make_network(variant)
    batch = make_batch(network)
    batch.actions_mask[0, 1:] = False
    batch.actions_mask[2] = False
    for label in ("keypoints", "known_keypoints"):
        batch.targets[label].mask[1] = False
    known = batch.actions_mask[..., None]
    changed = dataclasses.replace(
        batch,
        actions=torch.where(known, batch.actions, float("nan")),
        targets={name: unknown_as_nan(target) for name, target in batch.targets.items()},
    )
    before, after = losses(network, batch), losses(network, changed)
    for name in before:
        close(before[name], after[name])
    after["loss"].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_a_batch_without_actions_teaches_keypoints_alone(variant, make_network, make_batch):
    network = make_network(variant)
    batch = make_batch(network)
    batch = dataclasses.replace(batch, captions=None)
    batch.actions_mask[:] = False
    for label in ("known_keypoints", "grasp_state"):
        batch.targets[label].mask[:] = False
    found = losses(network, batch)
    assert found["action"] == 0
    close(found["loss"], found["keypoints"])
    batch.targets["keypoints"].mask[:] = False
    found = losses(network, batch)
    found["loss"].backward()
    assert found["loss"] == 0 and all(p.grad is None or not p.grad.any() for p in network.parameters())


def test_gradients_reach_every_parameter(variant, make_network, make_batch):
    network = make_network(variant)
    losses(network, make_batch(network))["loss"].backward()
    read = network.head.reads_layers if isinstance(network.head, ReadsLayers) else 0
    last = read - 1  # what this layer of the fusion makes is read by no one
    unread = () if last < 0 else (f"fusion.blocks.{last}.", "fusion.norm.")
    missed = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert [name for name in missed if not name.startswith(unread)] == []


def test_one_batch_is_learned(variant, make_network, make_batch):
    network = make_network(variant)
    batch = make_batch(network)
    optimizer = torch.optim.AdamW(network.parameters(), 5e-3)
    before = losses(network, batch)
    for _ in range(80):
        optimizer.zero_grad()
        losses(network, batch)["loss"].backward()
        optimizer.step()
    after = losses(network, batch)
    assert after["action"] < 0.5 * before["action"]
    assert after["keypoints"] < 0.7 * before["keypoints"]


def test_predictions_keep_what_the_components_promise(variant, make_network, make_batch):
    network = make_network(variant)
    prediction = network.predict(make_batch(network))
    assert prediction.actions.shape == (4, 3, 10)
    turn, gripper = prediction.actions[..., 3:7], prediction.actions[..., 9]
    close(turn.norm(dim=-1), torch.ones(4, 3))
    assert (turn[..., 0] >= 0).all() and (gripper >= 0).all() and (gripper <= 1).all()
    keypoints = prediction.extras["keypoints"].values
    assert keypoints.shape == (4, 2, 3, 2) and keypoints.abs().max() <= 1


def test_two_predictions_are_one(variant, make_network, make_batch):
    network = make_network(variant)
    batch = make_batch(network)
    assert torch.equal(network.predict(batch).actions, network.predict(batch).actions)


def test_the_configuration_survives_json(variant, make_network):
    config = make_network(variant).config
    assert NetworkConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_an_unknown_part_names_its_neighbors(make_network):
    with pytest.raises(UnknownNameError, match="Did you mean 'regression'"):
        make_network(NetworkConfig(head=Part("regresion")))
    assert {"regression", "flow"} <= set(heads.names())
