"""The kinds of action components: how heads encode, compare, noise and constrain each of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from verbot.errors import ConfigError
from verbot.models.tokens import Batch
from verbot.spec import Component

ROTATIONS = ("quaternion", "six")


@dataclass(frozen=True)
class ActionReadout:
    """Decodes raw outputs (…, `size`) of a network to actions (…, a), and compares them with target actions, per component.

    | kind | raw numbers | decoded as | error |
    |---|---|---|---|
    | gripper | 1 per dimension | the probability that it is open | binary cross-entropy |
    | quaternion, ``rotation="quaternion"`` | 4 | normalized to unit length, w ≥ 0 | L1 up to sign |
    | quaternion, ``rotation="six"`` | 6 | two axes, made orthonormal (Zhou et al. 2019) | mean L1 of the rotation matrices |
    | discrete | one per class, low to high | the most likely class | cross-entropy |
    | every other | 1 per dimension | itself | L1 |

    Six numbers represent rotations continuously; four numbers cannot (q and −q are one rotation).

    Args:
        gripper: weight of a gripper dimension relative to the others.

    Raises `ConfigError` for an unknown rotation, and for a quaternion that does not have four numbers.
    """

    action: tuple[Component, ...]
    rotation: str = "quaternion"
    gripper: float = 1.0

    def __post_init__(self) -> None:
        if self.rotation not in ROTATIONS:
            raise ConfigError(f"there is no rotation {self.rotation!r} of a head; there are {', '.join(ROTATIONS)}")
        check(self.action)

    @property
    def size(self) -> int:
        return sum(map(self._size, self.action))

    def decode(self, raw: Tensor) -> Tensor:
        return torch.cat([self._decode(c, x) for c, x in zip(self.action, self.split(raw), strict=True)], -1)

    def errors(self, raw: Tensor, true: Tensor) -> Tensor:
        """Errors (…, a), each at least 0. Masked entries of `true` (…, a) may have any finite value."""
        pairs = zip(self.action, self.split(raw), parts(self.action, true), strict=True)
        return torch.cat([self._error(c, x, y) for c, x, (_, y) in pairs], -1)

    def split(self, raw: Tensor) -> tuple[Tensor, ...]:
        return raw.split([self._size(c) for c in self.action], -1)

    def _size(self, component: Component) -> int:
        if component.kind == "discrete":
            return sum(classes(component))
        return 6 if component.kind == "quaternion" and self.rotation == "six" else component.size

    def _decode(self, component: Component, raw: Tensor) -> Tensor:
        if component.kind == "gripper":
            return raw.sigmoid()
        if component.kind == "quaternion":
            return quaternion_of_matrix(orthonormal(raw)) if self.rotation == "six" else unit(raw)
        if component.kind == "discrete":
            chosen = [logits.argmax(-1) for logits in raw.split(classes(component), -1)]
            return torch.stack(chosen, -1) + raw.new_tensor(component.low)
        return raw

    def _error(self, component: Component, raw: Tensor, true: Tensor) -> Tensor:
        if component.kind == "gripper":
            return self.gripper * F.binary_cross_entropy_with_logits(raw, true.clamp(0, 1), reduction="none")
        if component.kind == "quaternion":
            return _matrix_error(raw, true) if self.rotation == "six" else _quaternion_error(raw, true)
        if component.kind == "discrete":
            index = constrained((component,), true) - true.new_tensor(component.low)
            pairs = zip(raw.split(classes(component), -1), index.long().unbind(-1), strict=True)
            return torch.stack([-logits.log_softmax(-1).gather(-1, i.unsqueeze(-1)).squeeze(-1) for logits, i in pairs], -1)
        return (raw - true).abs()


@dataclass(frozen=True)
class Continuous:
    """Actions (…, a) as real numbers of about unit variance, to which noise can be added.

    `forward` maps a gripper's 0..1 and classes low..high to −1..1, and chooses the sign of a quaternion with w ≥ 0. `inverse`
    also projects to valid values (see `constrained`).
    """

    action: tuple[Component, ...]

    def __post_init__(self) -> None:
        check(self.action)

    def forward(self, actions: Tensor) -> Tensor:
        offset, scale = self._affine(actions)
        signed = [unit(x) if c.kind == "quaternion" else x for c, x in parts(self.action, actions)]
        return (torch.cat(signed, -1) - offset) / scale

    def inverse(self, x: Tensor) -> Tensor:
        offset, scale = self._affine(x)
        return constrained(self.action, x * scale + offset)

    def _affine(self, like: Tensor) -> tuple[Tensor, Tensor]:
        ranges = [r for c in self.action for r in (known_range(c) or [(-1.0, 1.0)] * c.size)]
        low, high = like.new_tensor(ranges).unbind(-1)  # each (a,)
        return (low + high) / 2, (high - low) / 2


def known_range(component: Component) -> list[tuple[float, float]] | None:
    """(low, high) of each dimension of a kind that is not normalized; None for the others."""
    if component.kind == "gripper":
        return [(0.0, 1.0)] * component.size
    if component.kind == "quaternion":
        return [(-1.0, 1.0)] * component.size
    return list(zip(component.low, component.high, strict=True)) if component.kind == "discrete" else None


def constrained(action: tuple[Component, ...], actions: Tensor) -> Tensor:
    """Project actions (…, a) to valid values: gripper in 0..1, quaternions of unit length with w ≥ 0, whole-number classes."""
    return torch.cat([_constrained(c, x) for c, x in parts(action, actions)], -1)


def _constrained(component: Component, x: Tensor) -> Tensor:
    if component.kind == "gripper":
        return x.clamp(0, 1)
    if component.kind == "quaternion":
        return unit(x)
    if component.kind == "discrete":
        return torch.minimum(torch.maximum(x.round(), x.new_tensor(component.low)), x.new_tensor(component.high))
    return x


def parts(action: tuple[Component, ...], actions: Tensor) -> Iterator[tuple[Component, Tensor]]:
    """Each component with its dimensions of `actions` (…, a)."""
    return zip(action, actions.split([c.size for c in action], -1), strict=True)


def check(action: tuple[Component, ...]) -> None:
    """Raise `ConfigError` for a quaternion that does not have four numbers, and for classes that are not whole numbers."""
    for component in action:
        if component.kind == "quaternion" and component.size != 4:
            raise ConfigError(f"action component {component.name!r} is a quaternion of {component.size} numbers; expected 4")
        if component.kind == "discrete" and any(not value.is_integer() for value in map(float, component.low + component.high)):
            raise ConfigError(
                f"action component {component.name!r} is discrete from {component.low} to {component.high}; "
                "expected whole numbers, which are its first and last class"
            )


def classes(component: Component) -> list[int]:
    """The number of classes of each dimension of a discrete component."""
    return [round(high - low) + 1 for low, high in zip(component.low, component.high, strict=True)]


def targets(batch: Batch) -> tuple[Tensor, Tensor]:
    """The actions (b, k, a) and their mask (b, k). Masked actions, which may be NaN in the batch, are zero."""
    assert batch.actions is not None and batch.actions_mask is not None
    return batch.actions.masked_fill(~batch.actions_mask.unsqueeze(-1), 0), batch.actions_mask


def start(rows: int, shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Initial values (rows, *shape) of a generative head: standard normal noise, or 0 without a generator.

    Zero leads to a likely action; in one dimension exactly to the median. One fixed draw of noise would be deterministic too,
    but it would bias every action in the same direction, and closed-loop control never corrects that.
    """
    if generator is None:
        return torch.zeros((rows, *shape), device=device)
    return normal((rows, *shape), generator, device)


def normal(shape: Sequence[int], generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Standard normal numbers on `device`, drawn on the CPU, so that a seed gives the same numbers on every device."""
    return torch.randn(shape, generator=generator).to(device)


def unit(quaternion: Tensor) -> Tensor:
    """Quaternions (…, 4) normalized to unit length with w ≥ 0; the identity for length zero."""
    length = quaternion.norm(dim=-1, keepdim=True)
    none = quaternion.new_tensor([1.0, 0.0, 0.0, 0.0])
    found = torch.where(length > 1e-8, quaternion / length.clamp(min=1e-8), none)
    return torch.where(found[..., :1] < 0, -found, found)


def orthonormal(six: Tensor) -> Tensor:
    """Rotation matrices (…, 3, 3) whose first two columns are six numbers (…, 6) after Gram and Schmidt (Zhou et al. 2019)."""
    first, second = six.unflatten(-1, (2, 3)).unbind(-2)
    x = F.normalize(first, dim=-1)
    y = F.normalize(second - (x * second).sum(-1, keepdim=True) * x, dim=-1)
    return torch.stack([x, y, torch.linalg.cross(x, y)], -1)


def matrix_of_quaternion(quaternion: Tensor) -> Tensor:
    """(…, 4), w first and of unit length → (…, 3, 3)."""
    w, x, y, z = quaternion.unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def quaternion_of_matrix(matrix: Tensor) -> Tensor:
    """(…, 3, 3) → (…, 4), w first and w ≥ 0. The largest of the four numbers is computed first, to avoid division by zero."""
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in matrix.unbind(-2))
    rows = (  # row n is 4·q[n]·q
        (1 + a + e + i, h - f, c - g, d - b),
        (h - f, 1 + a - e - i, b + d, c + g),
        (c - g, b + d, 1 - a + e - i, f + h),
        (d - b, c + g, f + h, 1 - a - e + i),
    )
    products = torch.stack([torch.stack(row, -1) for row in rows], -2)  # (…, 4, 4)
    largest = products.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None].expand(*products.shape[:-2], 1, 4)
    return unit(products.gather(-2, largest).squeeze(-2))


def _quaternion_error(raw: Tensor, true: Tensor) -> Tensor:
    found = F.normalize(raw, dim=-1)
    sign = torch.where((found * true).sum(-1, keepdim=True) < 0, -1.0, 1.0)  # q and -q are one rotation
    return (found * sign - true).abs()


def _matrix_error(raw: Tensor, true: Tensor) -> Tensor:
    error = (orthonormal(raw) - matrix_of_quaternion(true)).abs().mean((-2, -1))
    return error.unsqueeze(-1).expand(*error.shape, 4)
