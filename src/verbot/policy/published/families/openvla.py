"""OpenVLA, as its authors' code saved it."""

from __future__ import annotations

from pathlib import Path

from verbot.errors import ConfigError
from verbot.files import read_record
from verbot.models.published.base import filled
from verbot.models.published.openvla import OpenVlaNetwork
from verbot.models.published.openvla_weights import openvla_config, openvla_targets
from verbot.models.trunks.weights import TensorFiles
from verbot.policy.published.base import OpenOptions, PublishedParts, families, record_of
from verbot.policy.published.prismatic import (
    CONFIG,
    STATISTICS,
    PrismaticProcessing,
    StatisticRange,
    kept_files,
    llama_tokenizer,
    statistics_of,
    switch,
)  # fmt: skip
from verbot.policy.published.specs import generic_spec

CAMERA = "image"
HEADS = "action_head--*.pt"


@families.register("openvla")
class OpenVla:
    about = "OpenVLA, with tokens of bins"

    @staticmethod
    def recognizes(folder: Path) -> bool:
        return record_of(folder).get("model_type") == "openvla" and not any(folder.glob(HEADS))

    @staticmethod
    def open(folder: Path, options: OpenOptions) -> PublishedParts:
        record = read_record(folder / CONFIG)
        name, statistics = statistics_of(folder, record, options.statistics)
        bounds = StatisticRange.read(
            statistics.get("action"), ("q01", "q99"), 0.0, f"{folder}: the statistics of actions of {name}"
        )
        tensors = TensorFiles.find(folder)
        config = openvla_config(record, tensors, len(bounds.low))
        if not config.action:
            raise ConfigError(f"{folder}: the statistics of {name} are of no numbers")
        tokenizer = llama_tokenizer(folder, options.tokenizer, config.language.vocabulary)
        cropped = switch(record, "center_crop", (folder / STATISTICS).is_file())
        processing = PrismaticProcessing(tokenizer, (CAMERA,), config.dino.side, cropped, cropped, bounds)
        spec = generic_spec("openvla", {CAMERA: (config.dino.side, config.dino.side)}, 0, config.action)
        notes = (
            f"actions are those of the dataset {name}",
            f'images are {"" if cropped else "not "}cropped; "center_crop": {str(not cropped).lower()} in {CONFIG} changes that',
        )
        network, names = filled(lambda: OpenVlaNetwork(config), tensors, openvla_targets(config), options.dtype)
        return PublishedParts(spec, network, processing, names, kept_files(folder), chunk=1, notes=notes)
