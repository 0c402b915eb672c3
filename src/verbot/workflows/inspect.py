"""Inspection: the registered choices, the contents of a dataset as text, an episode as a video."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from verbot.data import open_dataset
from verbot.data.importers import sources
from verbot.data.importers.table import read_table
from verbot.data.quality.checks import lint_checks
from verbot.data.samples.labels import labels
from verbot.data.storage.features import FeatureMap
from verbot.envs import envs
from verbot.errors import ConfigError, UnknownNameError, install_command
from verbot.models import registries as parts
from verbot.models.reward_models import reward_models
from verbot.policy.runtimes import runtimes
from verbot.recipes import comparison_lists, recipes
from verbot.registry import Registry
from verbot.robots import robots
from verbot.rollout import video
from verbot.spec import UInt8Array


def choices(kind: str | None = None) -> dict[str, tuple[str, ...]]:
    """Names by kind: of envs, recipes, comparison lists, reward models, dataset formats, and of every kind of a network's parts.

    Raises `UnknownNameError` for an unknown kind.

    Example:
        >>> choices("envs")["envs"][-1]
        'tabletop-starter'
    """
    known = {"envs": envs.names, "recipes": recipes.names, "comparisons": comparison_lists}
    known |= {_plural(registry.kind).replace(" ", "-"): registry.names for registry in _registries()}
    if kind is not None and kind not in known:
        raise UnknownNameError("kind of list", kind, known)
    return {name: names() for name, names in known.items() if kind in (None, name)}


def listing(kind: str | None = None) -> list[str]:
    """`choices` as lines of text; those that cannot be used on this machine come last, with the command that installs them.

    Example:
        >>> listing("dataset-formats")
        ['dataset-formats: hdf5, manifest...']
    """
    registries = {_plural(registry.kind).replace(" ", "-"): registry for registry in _registries()}
    registries |= {"envs": envs, "recipes": recipes}
    lines = []
    for name, known in choices(kind).items():
        groups: dict[tuple[str, ...], list[str]] = {}
        for each in known:
            groups.setdefault(registries[name].missing(each) if name in registries else (), []).append(each)
        texts = [", ".join(groups[missing]) + _hint(missing) for missing in sorted(groups)]
        lines.append(f"{name}: {'; '.join(texts)}")
    return lines


def _registries() -> list[Registry[Any]]:
    return [
        *(found for found in vars(parts).values() if isinstance(found, Registry)),
        reward_models,
        sources,
        labels,
        lint_checks,
        robots,
        runtimes,
    ]


def _hint(missing: tuple[str, ...]) -> str:
    return f" ({install_command(*missing)})" if missing else ""


def _plural(word: str) -> str:
    return word[:-1] + "ies" if word.endswith("y") else word + ("es" if word.endswith("s") else "s")


def describe(path: Path, features: FeatureMap | None = None) -> str:
    """Robot, cameras, episodes, instructions, components, and what is not read, a line each; also the table of an import.

    Args:
        features: as in `open_dataset`.
    """
    dataset = open_dataset(path, features=features)
    spec, frames = dataset.spec, int(dataset.lengths.sum())
    said = sorted({segment.wordings[0] for episode in dataset for segment in episode.segments})
    lines = [
        f"{path}: {len(dataset)} episodes, {frames} frames, {frames / spec.rate_hz / 60:.1f} minutes",
        f"robot {spec.name} at {spec.rate_hz:g} Hz; {len(said)} instructions, such as: {'; '.join(said[:5])}",
    ]
    lines += [f"camera {camera.name}: {camera.width}×{camera.height}, frame {camera.frame}" for camera in spec.cameras]
    for label, components in (("state", spec.state), ("action", spec.action)):
        lines += [f"{label} {c.name}: {c.kind}, {', '.join(c.axes)} ({c.unit}, frame {c.frame})" for c in components]
    lines += [f"left out {name}: {reason}" for name, reason in dataset.left_out.items()]
    table = read_table(path)
    if table is not None:
        lines += ["", f"imported from {table.source} ({table.format}), {len(table.skipped)} episodes skipped", *table.lines()]
    return "\n".join(lines)


def episode_frames(path: Path, number: int, features: FeatureMap | None = None) -> tuple[list[UInt8Array], float, str]:
    """(frames, rate in Hz, instruction) of one episode, for `verbot.rollout.video`. Raises `ConfigError` if there is none."""
    dataset = open_dataset(path, features=features)
    if not 0 <= number < len(dataset):
        raise ConfigError(f"{path} has no episode {number}; it has {len(dataset)}, counted from 0")
    episode = dataset[number]
    views = {name: episode.images(name) for name in dataset.spec.camera_names}
    frames = [
        video.compose({name: view[i] for name, view in views.items()}, episode.instruction) for i in range(len(episode.actions))
    ]
    return frames, dataset.spec.rate_hz, episode.instruction
