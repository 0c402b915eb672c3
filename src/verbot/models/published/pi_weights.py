"""The published names of π0, π0.5 and π0-FAST, of openpi's PyTorch code and of LeRobot, which adds ``model.`` in front."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch

from verbot.errors import CorruptFileError
from verbot.models.encoders.vision.published_towers import TowerConfig, tower_targets
from verbot.models.published.names import STATISTICS, Shapes, named_below, without_wrappers
from verbot.models.published.pi import PiConfig
from verbot.models.trunks.weights import Targets, TensorFiles

BODY, VISION, LANGUAGE, EXPERT = "paligemma_with_expert.", "vision_tower.", "language_model.", "gemma_expert.model."
HEAD, EMBEDDING = "lm_head.weight", f"{LANGUAGE}embed_tokens.weight"
SIGLIP_HEAD = 72  # of the So400m tower, which all of these have
UNUSED = ("gemma_expert.lm_head.weight", "gemma_expert.model.embed_tokens.weight")
# Where the modules of PaliGemma lay in the versions of transformers that files were written with.
MOVED = (
    (re.compile(r"^paligemma\.(?:model\.)?language_model\.lm_head\."), "lm_head."),
    (re.compile(r"^paligemma\.(?:model\.)?language_model\.(?:model\.)?"), LANGUAGE),
    (re.compile(r"^paligemma\.(?:model\.)?vision_tower\.(?:vision_model\.)?"), VISION),
    (re.compile(r"^paligemma\.(?:model\.)?multi_modal_projector\."), "multi_modal_projector."),
    (re.compile(r"^paligemma\.lm_head\."), "lm_head."),
)


def plain_name(name: str) -> str | None:
    """The name of a tensor without wrappers, with PaliGemma's modules where they are now; None for what no network has."""
    name = without_wrappers(name, "model.")
    if name.startswith(STATISTICS):
        return None
    if not name.startswith(BODY):
        return name
    own = name.removeprefix(BODY)
    for pattern, place in MOVED:
        own, moved = pattern.subn(place, own)
        if moved:
            break
    return None if own in UNUSED else own


def pi_config(tensors: TensorFiles, chunk: int, steps: int = 10) -> PiConfig:
    """The architecture that the shapes of the files have. Raises `CorruptFileError` if a weight that says it is missing."""
    shapes = Shapes.of(tensors, with_embedding(tensors))
    adaptive = f"{EXPERT}norm.dense.weight" in shapes
    action = shapes.get("action_in_proj.weight", 2)[1]
    return PiConfig(
        vision=shapes.siglip(VISION, SIGLIP_HEAD),
        language=shapes.gemma(LANGUAGE, True),
        expert=shapes.gemma(EXPERT, False),
        adaptive=adaptive,
        chunk=chunk,
        action=action,
        state=action if adaptive else shapes.get("state_proj.weight", 2)[1],
        steps=steps,
    )


def pi_targets(vision: TowerConfig, tensors: TensorFiles) -> Callable[[str], Targets]:
    """The weights of a `PiNetwork` or a `PiFastNetwork` for published names.

    Raises `CorruptFileError` if embedding and output layer differ.
    """
    named, problem = with_embedding(tensors), tied_problem(tensors)
    if problem:
        raise CorruptFileError(tensors.folder, problem)
    inside = (
        named_below(VISION, "paligemma.vision.", tower_targets(vision)),
        named_below("multi_modal_projector.linear.", "paligemma.project.", lambda own: (own,)),
        named_below(LANGUAGE, "paligemma.language.", lambda own: (own,)),
        named_below(EXPERT, "expert.", lambda own: (own,)),
    )

    def targets(name: str) -> Targets:
        own = named(name)
        if own is None:
            return ()
        return next((found for part in inside if (found := part(own)) is not None), (own,))

    return targets


def with_embedding(tensors: TensorFiles) -> Callable[[str], str | None]:
    """`plain_name`, where the tied output layer stands for the embedding if the file holds it alone."""
    embedded = any(plain_name(name) == EMBEDDING for name in tensors.files)

    def plain(name: str) -> str | None:
        own = plain_name(name)
        return (None if embedded else EMBEDDING) if own == HEAD else own

    return plain


def tied_problem(tensors: TensorFiles) -> str:
    """What is wrong with output layer and embedding, which these models tie; empty if they are equal, or one is absent."""
    both = [name for name in tensors.files if plain_name(name) in (HEAD, EMBEDDING)]
    if len(both) != 2:
        return ""
    first, second = (value for _, value in tensors.read(both))
    return (
        ""
        if first.shape == second.shape and torch.equal(first, second)
        else f"its {both[0]} and {both[1]} differ; these models tie them"
    )
