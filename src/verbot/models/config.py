"""Which parts a network has, how large they are, and how much each loss counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from verbot.errors import ConfigError
from verbot.models.registries import Part, heads, language_encoders, vision_encoders
from verbot.spec import FloatArray, RobotSpec

if TYPE_CHECKING:
    from verbot.models.tokens import Sizes  # it loads torch

FILM_CONV, WORDS, PROPRIOCEPTION = Part("film_conv"), Part("words"), Part("proprioception")
MLP, REGRESSION = Part("mlp"), Part("regression")


@dataclass(frozen=True)
class NetworkConfig:
    """Which parts a network is made of. With a robot spec it determines every shape.

    Args:
        vision: the encoder of camera images.
        language: the encoder of instructions.
        state: the encoder of the robot's state.
        fusion: what joins the encoders' tokens.
        head: what predicts actions from the fused tokens.
        goal: how a goal image is read; None for a policy that is told everything in words.
        acted: how the action of the control step before is read; None for a policy that is not told what it has done.
        memory: what is carried from one prediction to the next; None forgets.
        width: e, the common width of all tokens.
        chunk: k, the actions predicted at once.
        history: t, the frames seen at once.
        stride: control steps from one of these frames to the next, and from one writing into the memory to the next.
        sequence: the frames, `stride` apart, through which a memory learns.
        image_size: (height, width) that every camera's image is brought to; None takes the cameras' own.
        keypoint_weight: of the keypoint loss beside the action loss; 0 turns it off.
        recall_weight: of telling the keypoints from the fused features, after the memory, and of a second look near there, also
            while what is there is covered (see `verbot.models.objectives.keypoint_memory`); 0 for neither.
        word_dropout: the share of words that are not understood, in training only.
        acted_dropout: the share of samples that are not told the action before, in training only: it foretells the next one so
            well that a policy could learn to copy itself (de Haan et al. 2019, "Causal Confusion in Imitation Learning").
        sentence_norm: the sentence that encoders are told has mean 0 and variance 1 over its features, so that what differs
            between sentences is not drowned by what they have in common.
        tasks: learned embeddings of tasks, of which every sentence takes a mixture of its own (see
            `verbot.models.objectives.task_embedding`); 0 has none.
        value_weight: of telling γ^(steps left until the demonstration's end) from the fused features, after the memory, beside
            the action loss; 0 has no value head.
        value_discount: this γ, of one control step.
        action_weight: of the action loss; 0 learns everything else alone: where nothing of it comes after the fusion, what sees
            and listens. Such a policy cannot act.
        grasp_weight: of foretelling the state in which the hand will take hold (see `verbot.models.objectives.grasp_state`)
            from the fused features, beside the action loss; 0 foretells none.
        contrast: how what is seen and what is said are compared; None compares nothing. It learns from captions
            (``augment.captions``) and tells of every prediction how well both fit.
        contrast_weight: of this loss beside the action loss.
        loss_weights: ``"fixed"`` are these weights; ``"learned"`` begins with them and learns how certain each loss can be, as
            `verbot.models.objectives.weighting.Balance` does; what a head teaches beside its actions keeps its own.

    Example:
        >>> NetworkConfig.from_json(NetworkConfig(width=32).to_json()) == NetworkConfig(width=32)
        True
    """

    vision: Part = FILM_CONV
    language: Part = WORDS
    state: Part = PROPRIOCEPTION
    fusion: Part = MLP
    head: Part = REGRESSION
    goal: Part | None = None
    acted: Part | None = None
    memory: Part | None = None
    width: int = 64
    chunk: int = 10
    history: int = 1
    stride: int = 1
    sequence: int = 1
    image_size: tuple[int, int] | None = None
    keypoint_weight: float = 1.0
    recall_weight: float = 0.0
    word_dropout: float = 0.0
    acted_dropout: float = 0.5
    sentence_norm: bool = False
    tasks: int = 0
    value_weight: float = 0.0
    value_discount: float = 0.97
    action_weight: float = 1.0
    grasp_weight: float = 0.0
    contrast: Part | None = None
    contrast_weight: float = 1.0
    loss_weights: Literal["fixed", "learned"] = "fixed"

    def __post_init__(self) -> None:
        for name in ("width", "chunk", "history", "stride", "sequence"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 1")
        if not 0 <= self.acted_dropout < 1:
            raise ConfigError(f"acted_dropout is a share of samples, at least 0 and below 1; got {self.acted_dropout:g}")
        if self.tasks < 0 or self.tasks == 1:
            raise ConfigError(f"tasks is {self.tasks}; expected at least 2 embeddings to choose from, or 0 for none")
        if self.value_weight < 0 or not 0 < self.value_discount < 1:
            raise ConfigError(
                f"a value head needs a weight of at least 0 (0 for none) and a discount between 0 and 1; "
                f"got {self.value_weight:g} and {self.value_discount:g}"
            )
        if self.loss_weights not in ("fixed", "learned"):
            raise ConfigError(f"loss_weights is {self.loss_weights!r}; expected 'fixed' or 'learned'")
        weights = {name: getattr(self, name) for name in ("action_weight", "grasp_weight", "contrast_weight")}
        if min(weights.values()) < 0:
            told = ", ".join(f"{name} {weight:g}" for name, weight in weights.items())
            raise ConfigError(f"weights of losses are at least 0; got {told}")
        if (self.sequence > 1) != (self.memory is not None):
            raise ConfigError(
                f"a memory learns from sequences, and nothing else does: memory is "
                f"{self.memory.name if self.memory else None!r} with a sequence of {self.sequence}"
            )

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> NetworkConfig:
        """Inverse of `to_json`. Raises `ConfigError` on an unknown field."""
        known = {f.name for f in dataclasses.fields(NetworkConfig)}
        if unknown := set(record) - known:
            raise ConfigError(
                f"a network configuration has no field {', '.join(sorted(unknown))}; it has {', '.join(sorted(known))}"
            )
        values: dict[str, Any] = {key: Part(**value) if isinstance(value, Mapping) else value for key, value in record.items()}
        if values.get("image_size") is not None:
            values["image_size"] = tuple(values["image_size"])
        return NetworkConfig(**values)

    @property
    def learns_from_chunks(self) -> bool:
        """Whether the head takes something from the training actions before it is built, e.g. the edges of its bins."""
        return hasattr(heads.get(self.head.name), "fit")

    @property
    def head_tasks(self) -> tuple[str, ...] | None:
        """The tasks by name that the head has parts of its own for, none before `with_tasks`; None for a head without."""
        return tuple(self.head.options.get("tasks", ())) if hasattr(heads.get(self.head.name), "classify") else None

    def with_tasks(self, names: Sequence[str]) -> NetworkConfig:
        """The same network, its head made for these tasks."""
        return dataclasses.replace(self, head=Part(self.head.name, {**self.head.options, "tasks": list(names)}))

    def fit(self, instructions: list[str], chunks: FloatArray | None = None) -> NetworkConfig:
        """The same network with what its parts take from the training data.

        Args:
            instructions: all of them; the language encoder builds its vocabulary.
            chunks: normalized action chunks (n, k, a), for a head that `learns_from_chunks`.
        """
        options = language_encoders.get(self.language.name).fit(self.language.options, instructions)
        fitted = dataclasses.replace(self, language=Part(self.language.name, options))
        vision = vision_encoders.get(self.vision.name)
        if hasattr(vision, "fit"):
            fitted = dataclasses.replace(fitted, vision=Part(self.vision.name, vision.fit(self.vision.options, instructions)))
        if chunks is None or not self.learns_from_chunks:
            return fitted
        return dataclasses.replace(fitted, head=Part(self.head.name, heads.get(self.head.name).fit(self.head.options, chunks)))

    def sizes(self, spec: RobotSpec) -> Sizes:
        """Raises `ConfigError` for a robot without cameras, or with cameras of several sizes and no `image_size`."""
        found = {(c.height, c.width) for c in spec.cameras} if self.image_size is None else {self.image_size}
        if len(found) != 1:
            raise ConfigError(f"robot {spec.name!r} has cameras of sizes {sorted(found)}; set image_size to bring them to one")
        (height, width_px), *_ = found
        from verbot.models.tokens import Sizes

        return Sizes(self.width, len(spec.cameras), height, width_px, spec.state_size, self.chunk, spec.action, self.history)
