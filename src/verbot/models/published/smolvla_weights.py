"""The published names of SmolVLA's weights, and the sizes that follow from their shapes."""

from __future__ import annotations

from collections.abc import Callable

from verbot.errors import ConfigError
from verbot.models.encoders.vision.published_towers import tower_targets
from verbot.models.published.names import STATISTICS, Shapes, named_below, without_wrappers
from verbot.models.published.smolvla import SmolConfig
from verbot.models.trunks.architecture import DecoderConfig
from verbot.models.trunks.weights import Targets, TensorFiles

BODY = "vlm_with_expert."
VISION, CONNECTOR, LANGUAGE, EXPERT = (
    "vlm.model.vision_model.", "vlm.model.connector.modality_projection.proj.", "vlm.model.text_model.", "lm_expert.",
)  # fmt: skip
HEAD = 64  # of all three transformers; the width of a head is not in the shapes
EPSILON = 1e-5


def plain_name(name: str) -> str | None:
    """Without wrappers; None for the output layer, which acting does not use, and for statistics."""
    name = without_wrappers(name, "model.")
    own = name.removeprefix(BODY)
    return None if name.startswith(STATISTICS) or own in ("vlm.lm_head.weight", f"{EXPERT}embed_tokens.weight") else own


def smol_config(tensors: TensorFiles, chunk: int, every: int, steps: int) -> SmolConfig:
    """The architecture that the shapes of the files have. Raises `CorruptFileError` if a weight that says it is missing."""
    shapes = Shapes.of(tensors, plain_name)
    vision = shapes.siglip(VISION, HEAD)
    joined = shapes.get(f"{CONNECTOR}weight", 2)[1]
    factor = round((joined / vision.width) ** 0.5)
    side = vision.side // vision.patch
    if factor < 1 or factor**2 * vision.width != joined or side % factor:
        raise ConfigError(f"{tensors.folder}: {joined} features cannot be those of squares of {side} × {side} patches")
    language, expert = _decoder(shapes, LANGUAGE, True), _decoder(shapes, EXPERT, False)
    if language.depth != expert.depth:
        raise ConfigError(
            f"{tensors.folder}: the expert has {expert.depth} layers and the language model {language.depth}; expected as many"
        )
    state, action = shapes.get("state_proj.weight", 2)[1], shapes.get("action_in_proj.weight", 2)[1]
    return SmolConfig(vision, language, expert, factor, every, chunk, action, state, steps)


def _decoder(shapes: Shapes, prefix: str, vocabulary: bool) -> DecoderConfig:
    queries, width = shapes.get(f"{prefix}layers.0.self_attn.q_proj.weight", 2)
    return DecoderConfig(
        vocabulary=shapes.get(f"{prefix}embed_tokens.weight", 2)[0] if vocabulary else 0,
        width=width,
        depth=shapes.count(f"{prefix}layers.{{}}."),
        heads=max(queries // HEAD, 1),
        key_heads=max(shapes.get(f"{prefix}layers.0.self_attn.k_proj.weight", 2)[0] // HEAD, 1),
        head_width=HEAD,
        hidden=shapes.get(f"{prefix}layers.0.mlp.gate_proj.weight", 2)[0],
        epsilon=EPSILON,
        embedding_scale=width**0.5 if vocabulary else 1.0,
    )


def smol_targets(config: SmolConfig) -> Callable[[str], Targets]:
    """The weights of a `SmolNetwork` for published names."""
    parts = (
        named_below(VISION, "vision.", tower_targets(config.vision)),
        named_below(CONNECTOR, "connector.", lambda own: (own,)),
        named_below(LANGUAGE, "language.", lambda own: (own,)),
        named_below(EXPERT, "expert.", lambda own: (own,)),
    )

    def targets(name: str) -> Targets:
        own = plain_name(name)
        if own is None:
            return ()
        return next((found for part in parts if (found := part(own)) is not None), (own,))

    return targets
