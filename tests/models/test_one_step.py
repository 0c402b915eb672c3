"""Flow heads that are distilled to one step."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from small_heads import PLANE, batch_of, group, inputs

from verbot.errors import ConfigError
from verbot.models.continuation import Continuation
from verbot.models.heads.flow import ONE_STEP_TIME, Flow, OneStep, integrate, one_step_loss
from verbot.models.heads.flow_expert import FlowExpert
from verbot.models.tokens import PlannedActions, TokenGroup

ROWS, CHUNK = 8, 3
HEADS = {"flow": (Flow, {"hidden": 64, "draws": 8}), "flow_expert": (FlowExpert, {"hidden": 32, "draws": 8})}


def made(name: str, **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    kind, own = HEADS[name]
    return kind(inputs(PLANE, CHUNK, 2), **{**own, **options})


def modes() -> torch.Tensor:
    """Two ways for the same observation, so that one Euler step ends between them."""
    actions = torch.ones(ROWS, CHUNK, 2)
    actions[::2] = -1
    return actions


def predicted(head: torch.nn.Module, steps: int) -> torch.Tensor:
    """From the same noise, whatever the head."""
    head.steps = steps
    with torch.no_grad():
        return head.predict(same(), torch.Generator().manual_seed(7))


def same() -> TokenGroup:
    one = group(1, 2)
    return dataclasses.replace(one, tokens=one.tokens.expand(ROWS, -1, -1), mask=one.mask.expand(ROWS, -1))


def learned(head: torch.nn.Module, steps: int) -> torch.nn.Module:
    """On actions that are normal: ten steps reach their spread, and one Euler step only their mean."""
    optimizer, generator = torch.optim.Adam(head.parameters(), 1e-2), torch.Generator().manual_seed(0)
    for _ in range(steps):
        optimizer.zero_grad()
        actions = torch.randn(ROWS, CHUNK, 2, generator=generator)
        head.losses(same(), batch_of(actions), generator)["action"].backward()
        optimizer.step()
    return head


def test_one_step_comes_where_ten_steps_come() -> None:
    teacher = learned(made("flow"), 60)
    before = (predicted(teacher, 1) - predicted(teacher, 10)).abs().mean()
    student = made("flow", distilled=OneStep(1.0, 10))
    student.load_state_dict(teacher.state_dict())  # no weights of its own
    learned(student, 60)
    assert (predicted(student, 1) - predicted(student, 10)).abs().mean() < 0.5 * before
    assert 0.5 < float(predicted(student, 10).std()) < 1.5, "its ten steps are still a flow"


@pytest.mark.parametrize("name", HEADS)
def test_the_target_is_where_its_own_steps_end_and_has_no_gradient(name: str) -> None:
    head, batch = made(name, distilled=OneStep(1.0, 4)), batch_of(modes())
    asked: list[tuple[float, bool]] = []

    def velocity(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        asked.append((float(time[0]), torch.is_grad_enabled()))
        return x * 0 + (2.0 if time[0] == ONE_STEP_TIME else time[0])

    loss = one_step_loss(velocity, batch, 2, 4, torch.Generator().manual_seed(0))
    assert asked == [(0.0, False), (0.25, False), (0.5, False), (0.75, False), (ONE_STEP_TIME, True)]
    assert float(loss) == pytest.approx((2.0 - 0.375) ** 2)
    losses = head.losses(same(), batch, torch.Generator().manual_seed(0))
    plain = made(name).losses(same(), batch, torch.Generator().manual_seed(0))
    assert set(losses) == {"action", "one_step"} and set(plain) == {"action"}
    torch.testing.assert_close(losses["action"], plain["action"] + losses["one_step"])


@pytest.mark.parametrize("name", HEADS)
def test_only_a_single_step_of_a_distilled_head_is_the_one_that_it_learned(name: str) -> None:
    fused, plain, distilled = same(), made(name), made(name, distilled=OneStep(1.0))
    for steps in (1, 2):
        plain.steps = distilled.steps = steps
        with torch.no_grad():
            pair = plain.predict(fused), distilled.predict(fused)
        assert torch.equal(*pair) is (steps == 2)
    assert distilled.distilled.schedule(1) == ((ONE_STEP_TIME, 1.0),)
    assert distilled.distilled.schedule(2) == plain.distilled.schedule(2) == ((0.0, 0.5), (0.5, 0.5))
    distilled.steps = 1
    values = torch.ones(ROWS, CHUNK, 2)
    planned = PlannedActions(values, torch.full((ROWS,), 2), torch.ones(ROWS, dtype=torch.int64))
    with torch.no_grad():
        own = distilled.predict(fused)
    assert (distilled.continued(fused, planned) - own).abs().max() > 1e-4


def test_padding_has_no_loss_and_wrong_options_are_refused() -> None:
    head, mask = made("flow", distilled=OneStep(1.0, 2)), torch.ones(ROWS, CHUNK, dtype=torch.bool)
    mask[:, 1:] = False
    found = [
        head.losses(same(), batch_of(actions, mask), torch.Generator().manual_seed(0))["one_step"]
        for actions in (modes(), torch.where(mask[..., None], modes(), torch.full_like(modes(), torch.nan)))
    ]
    assert torch.equal(*found) and found[0].isfinite()
    for wrong in ({"one_step": -1.0}, {"one_step": float("nan")}, {"target_steps": 0}):
        with pytest.raises(ConfigError, match="a flow has one_step ≥ 0 and target_steps ≥ 1"):
            OneStep(**wrong)
    with pytest.raises(ConfigError, match="does not continue clean actions; leave prefix out"):
        made("flow", distilled=OneStep(1.0), continuation=Continuation(prefix=1))
    assert integrate(lambda x, time: x * 0 + 1, torch.zeros(1, 1, 1), 3).item() == pytest.approx(1.0)
