"""One small robot and what a head is given, for the tests of heads."""

import torch

from verbot.models.tokens import Batch, HeadInput, Sizes, TextBatch, TokenGroup
from verbot.spec import Component

WIDTH = 8


def component(name: str, kind: str, size: int, low: float = -1.0, high: float = 1.0) -> Component:
    return Component(name, kind, tuple(f"{name}{i}" for i in range(size)), "1", "base", (low,) * size, (high,) * size)


PLANE = (component("move", "position_delta", 2),)
TURN = (component("turn", "quaternion", 4),)
KEYS = (component("key", "discrete", 1, 0.0, 3.0),)
ARM = (*PLANE, *TURN, component("gripper", "gripper", 1, 0.0))


def sizes(action: tuple[Component, ...], chunk: int = 3) -> Sizes:
    return Sizes(WIDTH, 1, 8, 8, 1, chunk, action)


def inputs(action: tuple[Component, ...], chunk: int = 3, count: int = 1) -> HeadInput:
    return HeadInput(sizes(action, chunk), WIDTH, count)


def group(rows: int = 1, count: int = 1, seed: int = 0) -> TokenGroup:
    tokens = torch.randn(rows, count, WIDTH, generator=torch.Generator().manual_seed(seed))
    return TokenGroup(tokens, torch.ones(rows, count, dtype=torch.bool), "fused")


def batch_of(actions: torch.Tensor, mask: torch.Tensor | None = None) -> Batch:
    nothing = torch.zeros(0)
    valid = torch.ones(actions.shape[:2], dtype=torch.bool) if mask is None else mask
    return Batch(nothing, nothing, nothing, nothing, TextBatch(nothing, nothing), actions, valid)


def learn(head: torch.nn.Module, fused: TokenGroup, batch: Batch, steps: int, rate: float = 1e-2) -> torch.Tensor:
    """The last loss of `steps` steps on one batch."""
    optimizer, generator = torch.optim.Adam(head.parameters(), rate), torch.Generator().manual_seed(0)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = head.losses(fused, batch, generator)["action"]
        loss.backward()
        optimizer.step()
    return loss.detach()
