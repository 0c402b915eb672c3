"""The device of each process of a run, and moving a network to it."""

from __future__ import annotations

import torch
from torch import nn

from verbot.errors import ConfigError


def find_device(name: str, rank: int = 0, size: int = 1) -> torch.device:
    """The device of process `rank` of `size`, for the setting `parallelism.device`.

    Raises `ConfigError` for an unavailable device, and if there are fewer devices than processes.
    """
    kind, _, number = name.partition(":")
    kinds = {each.type for each in existing()}
    if kind == "auto":
        kind = next(best for best in ("cuda", "mps", "cpu") if best in kinds)
    here = [device for device in existing() if device.type == kind]
    if not here or int(number or 0) >= len(here):
        raise ConfigError(f"there is no device {name!r} here; there are {', '.join(map(str, existing()))}")
    if size == 1:
        return here[int(number or 0)]
    if kind == "cpu":
        return here[0]
    if number:
        raise ConfigError(f"{size} processes need a device each, and {name!r} is one: say device={kind!r}, or processes=1")
    if len(here) < size:
        raise ConfigError(
            f"{size} processes need a device each, and of {kind!r} there are {len(here)} here: say processes={len(here)}"
        )
    if not torch.distributed.is_nccl_available():
        raise ConfigError(
            f"{size} processes on GPUs need a torch with nccl, and torch {torch.__version__} has none: say processes=1"
        )
    return here[rank]


def existing() -> list[torch.device]:
    """The devices of this machine that torch supports, the CPU first."""
    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices += [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append(torch.device("mps"))
    return devices


def to_device(network: nn.Module, device: torch.device) -> None:
    """Move `network` to `device`, keeping the attribute `lr_scale` of its parameters."""
    scales = {name: p.lr_scale for name, p in network.named_parameters() if hasattr(p, "lr_scale")}
    network.to(device)  # on some devices torch creates new parameters
    for name, parameter in network.named_parameters():
        if name in scales:
            parameter.lr_scale = scales[name]  # type: ignore[attr-defined]


def generators(device: torch.device) -> list[torch.device]:
    """Devices other than the CPU whose random state a run changes, for `torch.random.fork_rng`."""
    return [device] if device.type == "cuda" else []
