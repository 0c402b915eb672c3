"""Every registered head: what it learns is what it predicts."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from networks import SPEAKING
from small_heads import ARM, WIDTH, batch_of, component, inputs

from verbot.models.action_space import constrained, unit
from verbot.models.heads.latent import Latent
from verbot.models.protocols import TaskClassifier
from verbot.models.registries import heads
from verbot.models.tokens import Masked, TokenGroup

ROWS, CHUNK, TOKENS, LAYERS = 6, 3, 2, 2
KEYS = (component("key", "discrete", 2, 0.0, 3.0),)
SMALL = {"hidden": 32}
CASES = {
    "bins": ("bins", {"hidden": 16}, ARM),
    "bins of rt1": ("bins", {"hidden": 16, "convention": "rt1", "decode": "argmax", "pooled": True}, ARM),
    "cvae": ("cvae", {"hidden": 64, "latent": 4}, ARM),
    "cvae with a learned prior": ("cvae", {"hidden": 32, "latent": 4, "prior": "learned"}, ARM),
    "diffusion": ("diffusion", {"hidden": 64, "draws": 16}, ARM),
    "diffusion of noise": ("diffusion", {"hidden": 64, "draws": 16, "predict": "noise"}, ARM),
    "diffusion of actions": ("diffusion", {"hidden": 64, "draws": 16, "predict": "actions"}, ARM),
    "flow": ("flow", {"hidden": 64, "draws": 16}, ARM),
    "flow_expert": ("flow_expert", {"hidden": 64, "draws": 16}, ARM),
    "flow_expert of layers": ("flow_expert", {"hidden": 64, "draws": 16, "layers": LAYERS, "layerwise": True}, ARM),
    "latent": ("latent", {"hidden": 32, "latent": 8}, ARM),
    "latent by its actions alone": ("latent", {"hidden": 32, "latent": 8, "weight": 0.0}, ARM),
    "multi_task": ("multi_task", {"tasks": ["pick", "push"]}, ARM),
    "multi_task of flows": ("multi_task", {"tasks": ["pick", "push"], "head": "flow", "options": {"draws": 16}}, ARM),
    "regression": ("regression", {}, ARM),
    "regression of six numbers": ("regression", {"rotation": "six"}, ARM),
    "regression of classes": ("regression", {}, KEYS),
    "sequence": ("sequence", {**SMALL, "actions": 8}, ARM),
    "sequence of classes": ("sequence", SMALL, KEYS),
}


CASES |= {name: (name, {}, ARM) for name in heads.names() if name not in {case[0] for case in CASES.values()} | SPEAKING}
RATES = dict.fromkeys(("cvae", "flow_expert", "sequence"), 3e-3)  # heads with attention; 1e-2 for the others


def sample(action):
    """Fused tokens that tell the rows apart, and a chunk of actions for each row."""
    g = torch.Generator().manual_seed(0)

    def tokens():
        return torch.randn(ROWS, TOKENS, WIDTH, generator=g)

    fused = TokenGroup(tokens(), torch.ones(ROWS, TOKENS, dtype=torch.bool), "fused", layers=(tokens(), tokens()))
    if action is KEYS:
        actions = torch.randint(0, 4, (ROWS, CHUNK, 2), generator=g).float()
    else:
        # Far from half a turn, where the sign of a quaternion jumps.
        turn = unit(torch.randn(ROWS, CHUNK, 4, generator=g) + torch.tensor([2.0, 0, 0, 0]))
        gripper = torch.randint(0, 2, (ROWS, CHUNK, 1), generator=g).float()
        actions = constrained(action, torch.cat([torch.randn(ROWS, CHUNK, 2, generator=g), turn, gripper], -1))
    task = Masked(torch.arange(ROWS) % 2, torch.ones(ROWS, dtype=torch.bool))
    return fused, dataclasses.replace(batch_of(actions), targets={"task": task})


def trained(head, fused, batch, rate=1e-2, steps=80):
    optimizer, g = torch.optim.Adam(head.parameters(), rate), torch.Generator().manual_seed(0)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = head.losses(fused, batch, g)["action"]
        if isinstance(head, TaskClassifier):  # the objective task_classification teaches it
            loss = loss + 0.1 * F.cross_entropy(head.classify(fused), batch.targets["task"].values)
        loss.backward()
        optimizer.step()
    return head.eval()


def distance(head, fused, batch):
    """The mean distance of what is predicted without a generator from the batch's actions."""
    with torch.no_grad():
        return float((head.predict(fused) - batch.actions).abs().mean())


@pytest.mark.parametrize("case", CASES)
def test_a_prediction_is_nearer_by_half_after_eighty_steps(case):
    """Kills: a head that trains something else than what it predicts with."""
    torch.manual_seed(0)
    name, options, action = CASES[case]
    head = heads.build(name, inputs(action, CHUNK, TOKENS), **options)
    fused, batch = sample(action)
    before = distance(head.eval(), fused, batch)
    after = distance(trained(head.train(), fused, batch, RATES.get(name, 1e-2)), fused, batch)
    assert after < 0.5 * before


def test_a_pretrained_latent_rebuilds_chunks():
    torch.manual_seed(0)
    head = Latent(inputs(ARM, CHUNK, count=TOKENS), pretrain=True, latent=8, hidden=32)
    fused, batch = sample(ARM)

    def apart():
        with torch.no_grad():
            z = head.latents(batch.actions, batch.actions_mask)
            return float((head.readout.decode(head._raw(z)) - batch.actions).abs().mean())

    before = apart()
    trained(head, fused, batch)
    assert apart() < 0.5 * before


def test_what_is_predicted_does_not_lead_the_latents_encoder():
    """Kills: a distance that also pulls the encoder's z towards what the observation tells: z would collapse.

    The gradient of the encoder is that of rebuilding alone, whatever the weight of the distance.
    """
    found = {}
    for weight in (0.0, 10.0):
        torch.manual_seed(0)
        head = Latent(inputs(ARM, CHUNK, count=TOKENS), latent=8, hidden=32, weight=weight)
        fused, batch = sample(ARM)
        head.losses(fused, batch, torch.Generator().manual_seed(0))["action"].backward()
        parts = {"encoder": (head.encode, head.mix), "observer": (head.pool, head.tell)}
        found[weight] = {name: torch.cat([p.grad.flatten() for m in of for p in m.parameters()]) for name, of in parts.items()}
    torch.testing.assert_close(found[0.0]["encoder"], found[10.0]["encoder"])
    assert found[0.0]["encoder"].any()
    assert not torch.allclose(found[0.0]["observer"], found[10.0]["observer"])
