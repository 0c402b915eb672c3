"""Training that begins with a policy: what it has learned stays, and is built upon."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from verbot.data import open_dataset
from verbot.errors import ConfigError
from verbot.models.format_1 import weight_name
from verbot.models.lora import adapt
from verbot.models.network import NetworkConfig, VLANetwork
from verbot.models.registries import backbones
from verbot.policy.identity import policy_identity
from verbot.policy.policy import Policy
from verbot.policy.storage import policy_folder
from verbot.spec import Component, RobotSpec
from verbot.statistics import Statistics
from verbot.training.imitation.config import TrainConfig
from verbot.training.imitation.records import InitConfig

KEEPS = {"state": "state", "action": "head"}  # whose statistics belong to which part


def begun(config: TrainConfig) -> TrainConfig:
    """`config` with what the policy that it starts from decides: network, preprocessing, cameras, and that policy's identity.

    Raises `ConfigError` where that policy is another one than `config` was made with, or where the datasets are of a robot that
    it cannot be trained for; `PolicyError` where there is no policy.
    """
    init, data = config.init, config.data
    if init.init_from is None:
        return config
    sha256, start = _load(init)
    dataset = open_dataset(data.datasets[0])
    identified = dataclasses.replace(init, sha256=sha256)
    if init.parts is not None:
        if any(part.startswith("vision") for part in init.parts):
            cameras = dataset.spec.camera_names if data.cameras is None else data.cameras
            _check_cameras(start.spec, dataset.spec, cameras, f"{init.init_from}", f"{dataset.root}")
        return dataclasses.replace(config, init=identified)
    cameras = start.spec.camera_names if data.cameras is None else data.cameras
    check_robot(start.spec, dataset.spec, cameras, f"{init.init_from}", f"{dataset.root}")
    sizes = start.network.sizes  # images of another robot are brought to the size that the start knows
    network = dataclasses.replace(start.config, image_size=(sizes.height, sizes.width_px))
    seen = dataclasses.replace(data, cameras=cameras)
    return dataclasses.replace(config, network=network, preprocessing=start.preprocessing, data=seen, init=identified)


def begin(
    init: InitConfig, config: NetworkConfig, spec: RobotSpec, statistics: Statistics, instructions: Sequence[str], seed: int
) -> Policy:
    """The policy of `init` (after `begun`) to be trained: words that it does not know are added to its vocabulary.

    Args:
        config: the policy's network.
        spec: the datasets' robot, whose ranges the policy will keep to.
        statistics: of the datasets, taken where ``init.statistics`` is ``"new"``.

    Raises `ConfigError` where the policy has changed, where a weight has another shape, or where `init.lora` leaves out new
    words.
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
            f"the datasets have words that {init.init_from} does not know, and lora would leave {', '.join(unlearned)} as "
            f"random as it begins: add it to lora.train"
        )
    kept = start.statistics if init.statistics == "kept" else statistics
    return Policy(network, spec, kept, start.preprocessing, start.blind)


def begin_parts(init: InitConfig, fresh: Policy, instructions: Sequence[str], seed: int) -> Policy:
    """The new policy `fresh`, of which `init.parts` are taken from the policy of `init` (after `begun`).

    Words that are new are added to a vocabulary that is taken over. Statistics are those of `fresh`, but of the state where its
    encoder is taken over, and of the action where a part of the head is: so numbers keep their meaning.

    Raises `ConfigError` for a part that the network or the start has not, or that differs between them.
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
        for names, whose in zip(named, ("the network", f"the start {init.init_from}"), strict=True):
            if not names:
                parts = ", ".join(sorted({name.partition(".")[0] for name in (new if whose == "the network" else old)}))
                raise ConfigError(f"init.parts has {part!r}, of which {whose} has nothing; its parts are {parts}")
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
    return Policy(network, spec, statistics, preprocessing)


def _is_of(name: str, part: str) -> bool:
    part = weight_name(part)
    return name.startswith(f"{part}.") or fnmatchcase(name, part)


def check_robot(start: RobotSpec, robot: RobotSpec, cameras: Sequence[str], where: str, data: str) -> None:
    """Raise `ConfigError`, naming what differs, where a policy of the robot `start` cannot be trained for `robot`.

    Ranges, units, rate and the sizes of images may differ; numbers of state and action and their kinds may not, nor the cameras.
    """
    _check_components(start, robot, KEEPS, where, data)
    _check_cameras(start, robot, cameras, where, data)


def _check_components(start: RobotSpec, robot: RobotSpec, which: Iterable[str], where: str, data: str = "the datasets") -> None:
    for what in which:
        ours, theirs = getattr(start, what), getattr(robot, what)
        if [_shape(c) for c in ours] != [_shape(c) for c in theirs]:
            raise ConfigError(
                f"{where} cannot be trained on {data}: its {what} is {_words(ours)} of robot {start.name!r}, and theirs "
                f"{_words(theirs)} of {robot.name!r}; a start must have the same components"
            )


def _check_cameras(start: RobotSpec, robot: RobotSpec, cameras: Sequence[str], where: str, data: str) -> None:
    lacking = [name for name in start.camera_names if name not in robot.camera_names]
    if tuple(cameras) != start.camera_names or lacking:
        seen = f"lacks {', '.join(lacking)}" if lacking else f"would be seen through {', '.join(cameras)}"
        raise ConfigError(
            f"{where} sees through {', '.join(start.camera_names)}, each with weights of its own, and {data} {seen}: a start "
            f"needs its own cameras, in their order (others may stand beside them and are not used)"
        )


def note(init: InitConfig, trained: int, parameters: int) -> str:
    """Markdown for the card: the policy that training started from, and how much of it was trained; empty without one."""
    if init.init_from is None:
        return ""
    how = f", by adapters of rank {init.lora.rank}" if init.lora else ""
    what = "" if init.parts is None else f"{', '.join(init.parts)} of "
    return (
        f"\n## Start\n\nBegan with {what}the policy {init.init_from}, sha256 `{init.sha256}`; "
        f"{trained:,} numbers were trained{how}, for {parameters:,} parameters in all.\n"
    )


def _load(init: InitConfig) -> tuple[str, Policy]:
    """The policy to start from and its identity. Raises `ConfigError` where it is not the one that `init` names."""
    assert init.init_from is not None
    sha256 = policy_identity(policy_folder(init.init_from))
    if init.sha256 not in (None, sha256):
        raise ConfigError(
            f"the start {init.init_from} is another policy than the one that this run began with: sha256 {sha256}, not "
            f"{init.sha256}; put that one back, or begin a new run in another folder"
        )
    return sha256, Policy.load(init.init_from)


def _grown(config: NetworkConfig, instructions: Sequence[str]) -> NetworkConfig:
    """The network with the words of `instructions` that it does not know yet, where its language is made of known words."""
    grown: NetworkConfig = backbones.get(config.backbone.name).grow(config, instructions)
    return grown


def _continued(old: dict[str, Tensor], new: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The weights `old` in the places of `new`; of a vocabulary that grew the added rows are new's. And which those were."""
    state, longer = {}, []
    for name, fresh in new.items():
        known = old.get(name)
        if known is None or (known.shape != fresh.shape and not _rows_added(name, known, fresh)):
            came = "nothing" if known is None else f"{tuple(known.shape)}"
            raise ConfigError(f"the start has {came} for {name}, which is {tuple(fresh.shape)} for the robot of these datasets")
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
