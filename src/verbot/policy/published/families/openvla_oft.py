"""OpenVLA-OFT with a regression head, as its authors' code saved it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verbot.errors import ConfigError
from verbot.files import read_record
from verbot.models.published.base import filled
from verbot.models.published.components import ComponentFiles, dtype_of
from verbot.models.published.openvla_oft import OftConfig, OftNetwork
from verbot.models.published.openvla_weights import head_size, oft_config, openvla_config, openvla_targets
from verbot.models.trunks.weights import TensorFiles
from verbot.policy.published.base import OpenOptions, PublishedParts, families, record_of
from verbot.policy.published.families.openvla import HEADS
from verbot.policy.published.prismatic import (
    CONFIG,
    PrismaticProcessing,
    StatisticRange,
    kept_files,
    llama_tokenizer,
    statistics_of,
    switch,
    whole,
)  # fmt: skip
from verbot.policy.published.specs import generic_spec

PARTS = {"action_head": HEADS, "proprio_projector": "proprio_projector--*.pt"}
REFUSED = {"vision_backbone--*.pt": "FiLM", "noisy_action_projector--*.pt": "a diffusion head"}
CAMERAS = {1: ("full_image",), 2: ("full_image", "wrist_image"), 3: ("full_image", "left_wrist_image", "right_wrist_image")}


@dataclass(frozen=True)
class Platform:
    """What the training code fixes for a robot, and does not save.

    Args:
        chunk, images: actions of a chunk, and images of an observation.
        ends: the statistics that are −1 and 1.
    """

    chunk: int
    images: int
    ends: tuple[str, str] = ("q01", "q99")


# Numbers of an action and of a state (0: none) -> LIBERO, ALOHA, Bridge.
PLATFORMS = {
    (7, 8): Platform(8, 2), (7, 0): Platform(8, 2), (14, 14): Platform(25, 3, ("min", "max")),
    (14, 0): Platform(25, 3, ("min", "max")), (7, 7): Platform(5, 1),
}  # fmt: skip


@families.register("openvla-oft")
class OpenVlaOft:
    about = "OpenVLA-OFT, with a regression head"

    @staticmethod
    def recognizes(folder: Path) -> bool:
        return record_of(folder).get("model_type") == "openvla" and any(folder.glob(HEADS))

    @staticmethod
    def open(folder: Path, options: OpenOptions) -> PublishedParts:
        record = read_record(folder / CONFIG)
        tensors = _files(folder)
        body = openvla_config(record, tensors, head_size(tensors))
        platform, config = _platform(folder, record, oft_config(body, tensors, 1))
        name, statistics = statistics_of(folder, record, options.statistics)
        what = f"{folder}: the statistics of {{}} of {name}"
        action = StatisticRange.read(statistics.get("action"), platform.ends, 1e-8, what.format("actions"))
        state = None
        if config.state:
            state = StatisticRange.read(statistics.get("proprio"), platform.ends, 1e-8, what.format("states"))
        for label, size, own in (("action", body.action, action), ("state", config.state, state)):
            if own is not None and len(own.low) != size:
                raise ConfigError(f"{what.format(label)} are of {len(own.low)} numbers; the weights are for {size}")
        cameras, side = CAMERAS[platform.images], body.dino.side
        tokenizer = llama_tokenizer(folder, options.tokenizer, body.language.vocabulary)
        cropped = switch(record, "center_crop", True)
        processing = PrismaticProcessing(tokenizer, cameras, side, cropped, True, action, state, config.slots)
        spec = generic_spec("openvla_oft", dict.fromkeys(cameras, (side, side)), config.state, body.action)
        notes = (
            f"{platform.chunk} actions a chunk and {platform.images} images are those of the published robot with as many "
            f"numbers; num_actions_chunk and num_images_in_input in {CONFIG} change them",
            f'images are {"" if cropped else "not "}cropped; "center_crop": {str(not cropped).lower()} in {CONFIG} changes that',
        )
        network, names = filled(lambda: OftNetwork(config), tensors, openvla_targets(body), options.dtype)
        return PublishedParts(spec, network, processing, names, kept_files(folder), chunk=config.chunk, notes=notes)


def _files(folder: Path) -> ComponentFiles:
    """The weights with those of the parts. Raises `ConfigError` for parts that are doubled, or not known."""
    for pattern, what in REFUSED.items():
        if found := sorted(folder.glob(pattern)):
            raise ConfigError(f"{found[0]} is of a policy with {what}, which verbot does not compute; known: a regression head")
    parts = dict[str, Path]()
    for part, pattern in PARTS.items():
        found = sorted(folder.glob(pattern))
        if len(found) > 1:
            raise ConfigError(f"{folder} has {', '.join(path.name for path in found)}; expected one {part}")
        if found:
            parts[part] = found[0]
    tensors = TensorFiles.find(folder)
    # The published code rounds the parts to the dtype of the language model.
    return ComponentFiles.joined(tensors, parts, dtype_of(tensors, next(iter(tensors.files))))


def _platform(folder: Path, record: Mapping[str, Any], config: OftConfig) -> tuple[Platform, OftConfig]:
    """What the training code fixed. Raises `ConfigError` for a robot that it does not name, if the files say nothing either."""
    sizes = (config.body.action, config.state)
    default = PLATFORMS.get(sizes)
    if default is None and not {"num_actions_chunk", "num_images_in_input"} <= set(record):
        raise ConfigError(
            f"{folder} is for {sizes[0]} numbers of an action and {sizes[1]} of a state, of no published robot; write "
            f"num_actions_chunk and num_images_in_input into {CONFIG}, which OFT's training does not save"
        )
    default = default or Platform(1, 1)
    images = whole(record, "num_images_in_input", default.images)
    if images not in CAMERAS:
        raise ConfigError(f"{folder / CONFIG}: num_images_in_input is {images}; expected 1, 2 or 3")
    chunk = whole(record, "num_actions_chunk", default.chunk)
    return Platform(chunk, images, default.ends), OftConfig(config.body, chunk, config.state, config.blocks, config.hidden)
