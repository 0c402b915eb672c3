"""The encoder of actions, by kind of component; it encodes the previous action."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.registries import action_encoders
from verbot.models.tokens import Sizes, TokenGroup
from verbot.spec import Component


def manipulator() -> tuple[Component, ...]:
    """The components of an arm's action: position (3), quaternion (4), linear and angular velocity (6), gripper (1)."""

    def component(name: str, kind: str, axes: tuple[str, ...], unit: str, low: float = -1.0) -> Component:
        return Component(name, kind, axes, unit, "base", (low,) * len(axes), (1.0,) * len(axes))

    return (
        component("position", "position", ("x", "y", "z"), "m"),
        component("orientation", "quaternion", ("w", "x", "y", "z"), "1"),
        component("velocity", "velocity", ("x", "y", "z", "wx", "wy", "wz"), "m/s, rad/s"),
        component("gripper", "gripper", ("open",), "1", 0.0),
    )


class ActionEncoder(nn.Module):
    """Normalized actions (…, a) to features (…, e), for any leading axes.

    A quaternion enters as the products of its four numbers after normalization. So q and −q, which are one rotation, give one
    feature, continuously. Unknown components are replaced by a learned embedding, not by zeros.

    Args:
        components: components of the action, in order.
        width: e.
        hidden: width of the hidden layers.
        partial: whether components may be unknown.

    Raises `ConfigError` for a quaternion that does not have four numbers.
    """

    def __init__(self, components: Sequence[Component], width: int, hidden: int = 128, partial: bool = True):
        super().__init__()
        for component in components:
            if component.kind == "quaternion" and component.size != 4:
                raise ConfigError(f"quaternion {component.name!r} has {component.size} numbers; expected 4, w first")
        self.sizes = [component.size for component in components]
        self.turns = [component.kind == "quaternion" for component in components]
        self.read = nn.ModuleList(
            nn.Linear(10 if turn else size, hidden) for turn, size in zip(self.turns, self.sizes, strict=True)
        )
        self.absent = nn.Parameter(torch.randn(len(self.sizes), hidden) * 0.1) if partial else None
        self.out = nn.Sequential(nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, actions: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask` (…, c) is True for known components; None if all are known. Values of unknown ones have no effect.

        Raises `ConfigError` for a mask if the encoder is not `partial`.
        """
        if mask is not None and self.absent is None:
            raise ConfigError("this action encoder was built without unknown components (partial=False) and takes no mask")
        read = torch.zeros((), dtype=actions.dtype, device=actions.device)
        for number, (part, layer, turn) in enumerate(zip(actions.split(self.sizes, -1), self.read, self.turns, strict=True)):
            if mask is None or self.absent is None:
                read = read + layer(_products(part) if turn else part)
                continue
            known = mask[..., number : number + 1]
            part = part.masked_fill(~known, 0)
            read = read + torch.where(known, layer(_products(part) if turn else part), self.absent[number])
        return self.out(read)


@action_encoders.register("action")
class PreviousAction(nn.Module):
    """The normalized previous action (b, a) as one token, masked if it is unknown."""

    def __init__(self, sizes: Sizes, hidden: int = 128):
        super().__init__()
        self.encoder = ActionEncoder(sizes.action, sizes.width, hidden, partial=False)

    def forward(self, action: Tensor, mask: Tensor) -> TokenGroup:
        tokens: Tensor = self.encoder(action.masked_fill(~mask.unsqueeze(-1), 0))  # (b, e)
        return TokenGroup(tokens.unsqueeze(1), mask.unsqueeze(1), "previous_action")


def _products(quaternion: Tensor) -> Tensor:
    """The ten products of two numbers (…, 10) of a unit quaternion (…, 4)."""
    unit = F.normalize(quaternion, dim=-1)
    first, second = torch.triu_indices(4, 4, device=unit.device)
    return unit[..., first] * unit[..., second]
