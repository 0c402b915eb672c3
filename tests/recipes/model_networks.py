"""The network of a recipe in its own size on its own robot, and random batches for it."""

from __future__ import annotations

import dataclasses
import functools
import json
from contextlib import closing, contextmanager

import torch

from verbot.contracts import POINTS
from verbot.envs import make_env
from verbot.models.action_space import constrained
from verbot.models.network import NetworkConfig, VLANetwork
from verbot.models.tokens import Batch, Captions, Masked, TokenGroup
from verbot.recipes.config import Recipe, resolve

TEXTS = ("pick up the red cube", "push the green ball to the left", "put it in the box", "go to the yellow star")
TASKS = ("pick", "push", "put")


@functools.cache
def _robot(suite: str, options: str):
    with closing(make_env(suite, render_cameras=False, **json.loads(options))) as env:
        return env.robot_spec


def robot(run: Recipe):
    """The robot of the recipe's own suite."""
    return _robot(run.collection.env, json.dumps(dict(run.collection.options)))


def build(config: NetworkConfig, spec, seed: int = 0) -> VLANetwork:
    """`config` fitted to random chunks and a few sentences, with seeded weights."""
    torch.manual_seed(seed)
    config = config if config.head_tasks is None else config.with_tasks(TASKS)
    chunks = torch.randn(64, config.chunk, spec.action_size)
    actions = constrained(spec.action, chunks).numpy()
    return VLANetwork(config.fit(list(TEXTS), actions), spec)


def network_of(name: str) -> VLANetwork:
    run = resolve(name)
    return build(run.training.network, robot(run))


def batch_for(network: VLANetwork, rows: int = 4, seed: int = 0) -> Batch:
    """Everything valid, everything random."""
    g, sizes = torch.Generator().manual_seed(seed), network.sizes
    v, t, k, size = sizes.views, sizes.history, sizes.chunk, (sizes.height, sizes.width_px)
    state = torch.randn(rows, t, sizes.state, generator=g)
    captions = torch.arange(2 * rows) % rows
    everywhere, each = torch.ones(rows, v, len(POINTS), dtype=torch.bool), torch.ones(rows, dtype=torch.bool)
    places = torch.rand(rows, v, len(POINTS), 2, generator=g) * 2 - 1
    return Batch(
        images=torch.randint(0, 256, (rows, t, v, 3, *size), generator=g, dtype=torch.uint8),
        images_mask=torch.ones(rows, t, v, dtype=torch.bool),
        state=state,
        state_mask=torch.ones(rows, t, dtype=torch.bool),
        text=network.backbone.prepare([TEXTS[i % len(TEXTS)] for i in range(rows)]),
        actions=constrained(sizes.action, torch.randn(rows, k, sizes.action_size, generator=g)),
        actions_mask=torch.ones(rows, k, dtype=torch.bool),
        targets={
            "keypoints": Masked(places, everywhere),
            "known_keypoints": Masked(places, everywhere),
            "steps_left": Masked(torch.randint(0, 40, (rows,), generator=g), each),
            "task": Masked(torch.arange(rows) % len(TASKS), each),
            "grasp_state": Masked(torch.randn(rows, sizes.state, generator=g), each),
        },
        goal=torch.randint(0, 256, (rows, 3, *size), generator=g, dtype=torch.uint8) if network.config.goal else None,
        goal_mask=torch.ones(rows, dtype=torch.bool) if network.config.goal else None,
        captions=Captions(
            captions, network.backbone.prepare([TEXTS[(3 * i + 1) % 4] for i in captions]), torch.arange(2 * rows) < rows
        )
        if "contrastive" in network.objectives
        else None,
    )


def learned(network: VLANetwork, batch: Batch) -> dict[str, torch.Tensor]:
    """The losses, after their gradients have gone back."""
    network.zero_grad(set_to_none=True)
    losses = network.train().losses(batch, torch.Generator().manual_seed(0))
    losses["loss"].backward()
    network.eval()
    return losses


def reached(module: torch.nn.Module) -> bool:
    """Whether any parameter inside has a gradient that is not zero."""
    return any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


def all_reached(module: torch.nn.Module) -> bool:
    return all(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


def differs(a: torch.Tensor, b: torch.Tensor, least: float = 1e-5) -> bool:
    """Whether every row of `a` is another than that of `b`."""
    return bool(((a - b).abs().flatten(1).amax(1) > least).all())


def with_sentences(batch: Batch, network: VLANetwork, *texts: str) -> Batch:
    return dataclasses.replace(batch, text=network.backbone.prepare([texts[i % len(texts)] for i in range(len(batch.state))]))


def looked(network: VLANetwork, batch: Batch, sentence: torch.Tensor) -> TokenGroup:
    """The keypoint tokens of the pictures when `sentence` (b, e) is said."""
    groups, _ = network.backbone.encode_images(batch, sentence)
    return next(group for group in groups if group.kind == "keypoints")


def fused(network: VLANetwork, batch: Batch) -> torch.Tensor:
    return network(batch).fused.tokens


def ready(name, rows=4):
    """The network, ready to predict, and a batch."""
    network = network_of(name).eval()
    return network, batch_for(network, rows)


def sentences(network, rows=4):
    g = torch.Generator().manual_seed(5)
    return torch.randn(2, rows, network.config.width, generator=g).unbind(0)


@contextmanager
def zeroed(*parameters):
    """Parameters that are zero for as long as the block lasts."""
    kept = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for p in parameters:
            p.zero_()
        yield
        for p, value in zip(parameters, kept, strict=True):
            p.copy_(value)


def actions(network, batch):
    with torch.no_grad():
        return network.predict(batch, torch.Generator().manual_seed(0)).actions
