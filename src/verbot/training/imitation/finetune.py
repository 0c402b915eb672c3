"""Fine-tuning: training that starts from a policy or from parts of one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from verbot.errors import ConfigError
from verbot.models.format_1 import weight_name
from verbot.models.lora import adapt
from verbot.models.network import NetworkConfig, VLANetwork
from verbot.models.registries import backbones
from verbot.policy.identity import policy_identity
from verbot.policy.policy import VLAPolicy
from verbot.policy.storage import policy_folder
from verbot.spec import Component, ForwardModel, RobotSpec
from verbot.statistics import Statistics
from verbot.training.imitation.config import TrainConfig
from verbot.training.imitation.mixing import opened
from verbot.training.imitation.records import InitConfig

KEEPS = {"state": "state", "action": "head"}  # statistics, each with the part that depends on them


def resolved(config: TrainConfig) -> TrainConfig:
    """`config` with the network, preprocessing, cameras and identity of its initial policy.

    Raises `ConfigError` if that policy has changed, or if it cannot be trained for the robot of the datasets; `PolicyError` if
    there is no policy.
    """
    init, data = config.init, config.data
    if init.init_from is None:
        return config
    sha256, start = _load(init)
    dataset = opened(data, data.datasets[0])
    identified = dataclasses.replace(init, sha256=sha256)
    if init.parts is not None:
        if any(part.startswith("vision") for part in init.parts):
            cameras = dataset.spec.camera_names if data.cameras is None else data.cameras
            _check_cameras(start.spec, dataset.spec, cameras, f"{init.init_from}", f"{dataset.root}")
        return dataclasses.replace(config, init=identified)
    cameras = start.spec.camera_names if data.cameras is None else data.cameras
    check_robot(start.spec, dataset.spec, cameras, f"{init.init_from}", f"{dataset.root}")
    sizes = start.network.sizes  # images of another robot are resized to the initial policy's size
    network = dataclasses.replace(start.config, image_size=(sizes.height, sizes.width_px))
    seen = dataclasses.replace(data, cameras=cameras)
    return dataclasses.replace(config, network=network, preprocessing=start.preprocessing, data=seen, init=identified)


def init_policy(
    init: InitConfig, config: NetworkConfig, spec: RobotSpec, statistics: Statistics, instructions: Sequence[str], seed: int
) -> VLAPolicy:
    """The policy of `init` (after `resolved`), ready for training; new words are added to its vocabulary.

    Args:
        config: the policy's network.
        spec: the robot of the datasets, with its ranges.
        statistics: statistics of the datasets, used if ``init.statistics`` is ``"new"``.

    Raises `ConfigError` if the policy has changed, if a weight has another shape, or if `init.lora` does not train new words.
    """
    _, start = _load(init)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = VLANetwork(_grown(config, instructions), spec)
        state, longer = _continued(start.network.state_dict(), network.state_dict())
        network.load_state_dict(state)
        if init.lora is not None:
            adapt(network, init.lora)
    learned = {name for name, p in network.named_parameters() if p.requires_grad}
    if unlearned := sorted(set(longer) - learned):
        raise ConfigError(
            f"the datasets have words that {init.init_from} does not know, and with lora {', '.join(unlearned)} would keep "
            f"random weights: add it to lora.train"
        )
    kept = start.statistics if init.statistics == "kept" else statistics
    return VLAPolicy(network, spec, kept, start.preprocessing, start.blind, ForwardModel(spec, start.forward.responses))


def init_parts(init: InitConfig, fresh: VLAPolicy, instructions: Sequence[str], seed: int) -> VLAPolicy:
    """The new policy `fresh`, with `init.parts` taken from the policy of `init` (after `resolved`).

    New words are added to the vocabulary of a copied language encoder. Statistics are those of `fresh`, except that those of the
    state come with a copied state encoder, and those of the action with a copied part of the head.

    Raises `ConfigError` for a part that either policy lacks, or that differs between them.
    """
    assert init.parts is not None
    _, start = _load(init)
    spec = fresh.spec
    network, language = fresh.network, start.config.language
    if "language" in init.parts and language.name == fresh.config.language.name:
        grown = dataclasses.replace(fresh.config, language=_grown(start.config, instructions).language)
        if grown != fresh.config:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                network = VLANetwork(grown, spec)
    old, new = start.network.state_dict(), network.state_dict()
    for part in init.parts:
        named = [[name for name in state if _is_of(name, part)] for state in (new, old)]
        for names, whose in zip(named, ("the network", f"the initial policy {init.init_from}"), strict=True):
            if not names:
                parts = ", ".join(sorted({name.partition(".")[0] for name in (new if whose == "the network" else old)}))
                raise ConfigError(f"init.parts has {part!r}, which {whose} does not have; its parts are {parts}")
        taken, _ = _continued(old, {name: new[name] for name in named[0]})
        new |= taken
    network.load_state_dict(new)
    if init.lora is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            adapt(network, init.lora)
    kept = {what: start.statistics[what] for what, part in KEEPS.items() if any(p.startswith(part) for p in init.parts)}
    if kept:
        _check_components(start.spec, spec, kept, f"{init.init_from}")
    preprocessing = start.preprocessing if kept else fresh.preprocessing
    statistics = Statistics({**{name: fresh.statistics[name] for name in fresh.statistics}, **kept})
    return VLAPolicy(network, spec, statistics, preprocessing, forward=fresh.forward)


def _is_of(name: str, part: str) -> bool:
    part = weight_name(part)
    return name.startswith(f"{part}.") or fnmatchcase(name, part)


def check_robot(start: RobotSpec, robot: RobotSpec, cameras: Sequence[str], where: str, data: str) -> None:
    """Raise `ConfigError`, which names the difference, if a policy of the robot `start` cannot be trained for `robot`.

    Ranges, units, rate and image sizes may differ. Components of state and action, with kinds and sizes, and cameras may not.
    """
    _check_components(start, robot, KEEPS, where, data)
    _check_cameras(start, robot, cameras, where, data)


def _check_components(start: RobotSpec, robot: RobotSpec, which: Iterable[str], where: str, data: str = "the datasets") -> None:
    for what in which:
        ours, theirs = getattr(start, what), getattr(robot, what)
        if [_shape(c) for c in ours] != [_shape(c) for c in theirs]:
            raise ConfigError(
                f"{where} cannot be trained on {data}: its {what} is {_words(ours)} of robot {start.name!r}, and theirs is "
                f"{_words(theirs)} of {robot.name!r}; an initial policy must have the same components"
            )


def _check_cameras(start: RobotSpec, robot: RobotSpec, cameras: Sequence[str], where: str, data: str) -> None:
    lacking = [name for name in start.camera_names if name not in robot.camera_names]
    if tuple(cameras) != start.camera_names or lacking:
        problem = f"lacks {', '.join(lacking)}" if lacking else f"would use {', '.join(cameras)}"
        raise ConfigError(
            f"{where} uses the cameras {', '.join(start.camera_names)}, with weights for each, and {data} {problem}: an initial "
            f"policy needs its own cameras, in their order (the datasets may have others, which are not used)"
        )


def card_text(init: InitConfig, trained: int, parameters: int) -> str:
    """Markdown for the card: the initial policy and the number of trained parameters; empty without an initial policy."""
    if init.init_from is None:
        return ""
    how = f", by adapters of rank {init.lora.rank}" if init.lora else ""
    what = "" if init.parts is None else f"{', '.join(init.parts)} of "
    return (
        f"\n## Start\n\nBegan with {what}the policy {init.init_from}, sha256 `{init.sha256}`; "
        f"{trained:,} numbers were trained{how}, for {parameters:,} parameters in all.\n"
    )


def _load(init: InitConfig) -> tuple[str, VLAPolicy]:
    """The initial policy and its identity. Raises `ConfigError` if the identity differs from that in `init`."""
    assert init.init_from is not None
    sha256 = policy_identity(policy_folder(init.init_from))
    if init.sha256 not in (None, sha256):
        raise ConfigError(
            f"the initial policy {init.init_from} has changed since this run started: sha256 {sha256}, not "
            f"{init.sha256}; restore it, or start a new run in another folder"
        )
    return sha256, VLAPolicy.load(init.init_from)


def _grown(config: NetworkConfig, instructions: Sequence[str]) -> NetworkConfig:
    """The network with new words of `instructions` added to its vocabulary, if its language encoder has one."""
    grown: NetworkConfig = backbones.get(config.backbone.name).grow(config, instructions)
    return grown


def _continued(old: dict[str, Tensor], new: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The weights `new` replaced by `old`, except for added rows of a vocabulary; and the names of weights with added rows."""
    state, longer = {}, []
    for name, fresh in new.items():
        known = old.get(name)
        if known is None or (known.shape != fresh.shape and not _rows_added(name, known, fresh)):
            came = "nothing" if known is None else f"{tuple(known.shape)}"
            raise ConfigError(
                f"the initial policy has {came} for {name}, which is {tuple(fresh.shape)} for the robot of these datasets"
            )
        state[name] = known
        if known.shape != fresh.shape:
            state[name] = torch.cat([known, fresh[len(known) :]])
            longer.append(name)
    return state, longer


def _rows_added(name: str, old: Tensor, new: Tensor) -> bool:
    return name.startswith("language.") and old.shape[1:] == new.shape[1:] and len(old) < len(new)


def _shape(component: Component) -> tuple[object, ...]:
    classes = (component.low, component.high) if component.kind == "discrete" else ()
    return component.kind, component.size, *classes


def _words(components: Sequence[Component]) -> str:
    return ", ".join(f"{c.name} ({c.size} of {c.kind})" for c in components) or "nothing"
