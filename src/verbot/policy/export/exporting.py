"""A policy as the files of an exported one."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from verbot.errors import ConfigError
from verbot.files import sha256
from verbot.policy.checks import blank_images
from verbot.policy.export.graphs import ROWS, GraphSource, check_exportable, language_of, sources
from verbot.policy.export.prune import Pruning, prune
from verbot.policy.identity import CARD
from verbot.policy.policy import VLAPolicy
from verbot.policy.runtime import ExtraRecord, RuntimePolicy, RuntimeRecord
from verbot.policy.runtimes import PRECISIONS, Feed, Runtime, runtimes
from verbot.policy.storage import FORMAT, MANIFEST, to_json
from verbot.policy.stored import CONFIG, STATISTICS
from verbot.spec import Observation

EXAMPLES = ("", "put the red cube in the blue box", "go")  # texts of different lengths; what they say has no effect


@dataclass(frozen=True)
class ExportConfig:
    """What to make of a policy.

    Args:
        to: the registered name of a runtime.
        precision: one of `verbot.policy.runtimes.PRECISIONS`.
        pruning: which weights become zero; None for none.

    Raises `ConfigError` for a precision that the runtime does not have.
    """

    to: str = "onnx"
    precision: str = "fp32"
    pruning: Pruning | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ConfigError(f"there is no precision {self.precision!r}; there are {', '.join(PRECISIONS)}")
        kind = runtimes.get(self.to)
        if self.precision not in kind.precisions:
            raise ConfigError(f"{self.to} has no precision {self.precision!r}; it has {', '.join(kind.precisions)}")


def export(policy: VLAPolicy, config: ExportConfig, calibration: Sequence[Observation] = (), card: str = "") -> dict[str, bytes]:
    """The files of `policy` in the form that `config` says, with their manifest. The policy itself is not changed.

    Args:
        calibration: recorded observations, from which ``"int8-static"`` finds the ranges of activations.
        card: Markdown for the model card.

    Raises `PolicyError` that names the part which cannot be exported, `ConfigError` for a static precision without calibration.
    """
    check_exportable(policy.config, policy.network)
    if config.precision == "int8-static" and not calibration:
        raise ConfigError("int8-static finds the ranges of activations in recorded observations, and there are none")
    network = copy.deepcopy(policy.network).cpu().eval()
    made: dict[str, Any] = {"of": policy.identity, "fused_batch_norms": fuse_batch_norms(network)}
    if config.pruning is not None:
        made["pruning"] = prune(network, config.pruning)
    own = VLAPolicy(network, policy.spec, policy.statistics, policy.preprocessing, policy.blind)
    observations = [_blank(own, text) for text in EXAMPLES]
    batch = own.collate_observations(observations, [own.preprocess(each) for each in observations])
    graphs, extras, schedule = sources(network, batch)
    text = language_of(network).exported_text()
    record = RuntimeRecord(
        config.to,
        config.precision,
        text.record,
        (policy.config.chunk, policy.spec.action_size),
        (network.sizes.height, network.sizes.width_px),
        policy.config.image_fit,
        {name: ExtraRecord(each.space, each.names) for name, each in extras.items()},
        schedule,
        made,
    )
    runtime: Runtime = runtimes.get(config.to)()
    files = dict(text.files)
    if text.states is not None:
        ids, mask = torch.ones(ROWS, 5, dtype=torch.int64), torch.ones(ROWS, 5, dtype=torch.bool)
        names = ("ids", "mask")
        frozen = GraphSource("language", text.states, names, ("states",), (ids, mask), names, text.record.most)
        files |= runtime.write(frozen, "fp32", ())
    feeds: Mapping[str, Sequence[Feed]] = {}
    if config.precision == "int8-static":
        plain = {name: data for graph in graphs for name, data in runtime.write(graph, "fp32", ()).items()}
        described = _described(own, dataclasses.replace(record, precision="fp32"))
        feeds = _recorded(files | plain | described, calibration)
    for graph in graphs:
        files |= runtime.write(graph, config.precision, feeds.get(graph.name, ()))
    files |= _described(own, record)
    files[CARD] = (_card(policy, config) + card).encode()
    files[MANIFEST] = to_json({"format": FORMAT, "sha256": {name: sha256(data) for name, data in files.items()}})
    return files


def _blank(policy: VLAPolicy, text: str) -> Observation:
    return Observation(blank_images(policy.spec), np.zeros(policy.spec.state_size, np.float32), text)


def _described(policy: VLAPolicy, record: RuntimeRecord) -> dict[str, bytes]:
    return {
        CONFIG: to_json(
            {
                "format": FORMAT,
                "spec": policy.spec.to_json(),
                "network": policy.config.to_json(),
                "preprocessing": dataclasses.asdict(policy.preprocessing),
                "blind": policy.blind,
                "runtime": dataclasses.asdict(record),
            }
        ),
        STATISTICS: to_json(policy.statistics.to_json()),
    }


def _recorded(files: Mapping[str, bytes], observations: Sequence[Observation]) -> dict[str, list[Feed]]:
    """The inputs of each graph while the policy of these files predicts, one observation at a time."""
    policy, feeds = RuntimePolicy.of(files, Path("calibration"), trusted=True), dict[str, list[Feed]]()

    def watched(name: str) -> Any:
        run, kept = policy.graphs[name], feeds.setdefault(name, [])

        def call(feed: Feed) -> Any:
            kept.append({key: value.copy() for key, value in feed.items()})
            return run(feed)

        return call

    policy.graphs = {name: watched(name) for name in policy.graphs}
    for observation in observations:
        policy.predict([dataclasses.replace(observation, sample_seed=None)])
    return feeds


def fuse_batch_norms(module: nn.Module) -> int:
    """Put every batch normalization that directly follows a convolution in a sequence into its weights; how many there were."""
    count = 0
    for child in module.modules():
        if not isinstance(child, nn.Sequential):
            continue
        names = list(child._modules)
        for before, after in itertools.pairwise(names):
            convolution, norm = child._modules[before], child._modules[after]
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                child._modules[before], child._modules[after] = fuse_conv_bn_eval(convolution, norm), nn.Identity()
                count += 1
    return count


def _card(policy: VLAPolicy, config: ExportConfig) -> str:
    pruned = f", pruned by {config.pruning}" if config.pruning else ""
    return (
        f"# A verbot policy for {policy.spec.name}, exported\n\nGraphs for {config.to} in {config.precision}{pruned}, "
        f"made of the policy {policy.identity[:16]}.\n\n"
        '```python\nimport verbot\npolicy = verbot.load_policy("this directory")\n'
        "chunk, = policy.predict([observation])\n```\n\n"
    )
