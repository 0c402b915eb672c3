"""The configuration of a network: its parts, their sizes, and its training objectives."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from verbot.configuration import build, renamed
from verbot.errors import ConfigError
from verbot.models.format_1 import FIELDS, WEIGHTS, network_record
from verbot.models.protocols import ClassifiesTasks, FitsActions, KnowsRanges, NeedsSideMultiple
from verbot.models.registries import Objective, Part, backbones, goal_encoders, heads, objectives, vision_encoders
from verbot.spec import Component, FloatArray, RobotSpec
from verbot.transforms import FITS

if TYPE_CHECKING:
    from verbot.models.tokens import Sizes  # it loads torch

FILM_CONV, WORD_EMBEDDING, PROPRIOCEPTION = Part("film_conv"), Part("word_embedding"), Part("proprioception")
MLP, REGRESSION, MODULAR = Part("mlp"), Part("regression"), Part("modular")
PARTS = (
    "backbone",
    "vision",
    "language",
    "state",
    "fusion",
    "head",
    "goal",
    "previous_action",
    "memory",
    "depth",
)  # fields of `NetworkConfig`


def default_objectives() -> dict[str, Objective]:
    """Imitation with the keypoint loss, for the instruction and for grounding queries."""
    return {"action": Objective(), "keypoints": Objective(), "grounding_queries": Objective()}


@renamed(
    network_record,
    **FIELDS,
    **{old: f"objectives.{names[0]}.weight" for old, names in WEIGHTS.items()},
    value_discount="objectives.value.options.discount",
)
@dataclass(frozen=True)
class NetworkConfig:
    """The parts of a network and its objectives. Together with a robot spec it determines all shapes.

    Args:
        backbone: makes the features of a batch. ``"modular"`` is made of the encoders, the fusion and the memory below. Others
            ignore `vision`, `language`, `state` and `fusion`, and refuse `goal`, `previous_action`, `memory` and `depth` if they
            do not read them.
        vision: the encoder of camera images.
        language: the encoder of instructions.
        state: the encoder of the robot's state.
        fusion: joins the encoders' tokens.
        head: predicts actions from the fused tokens.
        goal: the encoder of goal images; None for a policy that only gets instructions in words.
        previous_action: the encoder of the previous action; None for a policy without it.
        memory: the module that keeps state between predictions of an episode; None for a policy without memory.
        depth: the encoder of depth cameras; None for a policy that ignores them.
        depth_range_m: depth in meters is clipped to this range, which becomes [-1, 1]. Unknown depth stays unknown.
        width: e, the common width of all tokens.
        chunk: k, the number of actions in a prediction.
        history: t, the number of input frames.
        stride: control steps between two input frames, and between two writes to the memory.
        sequence: number of frames, `stride` apart, through which a memory is trained.
        image_size: (height, width) to which every camera image is resized; None keeps the cameras' own size, or takes a default
            where that cannot be (see `with_image_size`).
        image_fit: how images of another aspect ratio are resized: ``"crop"`` takes the largest centered part, ``"letterbox"``
            keeps the whole image and adds black borders.
        objectives: the training objectives by registered name (see `verbot.models.registries.objectives`), each with the weight
            of its loss, in the order in which they are built and their losses are summed. ``"action"`` is the loss of the action
            head; without it only the encoders are trained, and the policy cannot act.
        loss_weighting: ``"fixed"`` uses the weights of the objectives; ``"uncertainty"`` starts from them and learns weights from
            the uncertainty of each loss (see `verbot.models.weighting.UncertaintyWeighting`).
        word_dropout: fraction of words that are replaced by the unknown word, in training only.
        previous_action_dropout: fraction of samples without the previous action, in training only. The previous action predicts
            the next one so well that a policy could learn to copy it (de Haan et al. 2019, "Causal Confusion in Imitation
            Learning").
        sentence_norm: normalize the sentence embedding to mean 0 and variance 1 over its features, so that differences between
            sentences are not dominated by what they have in common.
        task_embeddings: number of learned task embeddings, of which every sentence gets a mixture (see
            `verbot.models.layers.task_embedding`); 0 uses none.
        ahead: most control steps between the images and the state and actions: the network reads the state of now and that of
            then, and predicts actions from then on, for an answer that comes late (Tang et al. 2025, VLASH); 0 for none.

    The last five are of the backbone ``"modular"``.

    Example:
        >>> NetworkConfig.from_json(NetworkConfig(width=32).to_json()) == NetworkConfig(width=32)
        True
    """

    backbone: Part = MODULAR
    vision: Part = FILM_CONV
    language: Part = WORD_EMBEDDING
    state: Part = PROPRIOCEPTION
    fusion: Part = MLP
    head: Part = REGRESSION
    goal: Part | None = None
    previous_action: Part | None = None
    memory: Part | None = None
    depth: Part | None = None
    depth_range_m: tuple[float, float] = (0.1, 2.0)
    width: int = 64
    chunk: int = 10
    history: int = 1
    stride: int = 1
    sequence: int = 1
    image_size: tuple[int, int] | None = None
    image_fit: Literal["crop", "letterbox"] = "crop"
    objectives: Mapping[str, Objective] = field(default_factory=default_objectives)
    loss_weighting: Literal["fixed", "uncertainty"] = "fixed"
    word_dropout: float = 0.0
    previous_action_dropout: float = 0.5
    sentence_norm: bool = False
    task_embeddings: int = 0
    ahead: int = 0

    def __post_init__(self) -> None:
        if self.image_fit not in FITS:
            raise ConfigError(f"image_fit is {self.image_fit!r}; expected one of {', '.join(map(repr, FITS))}")
        if self.image_size is not None and min(self.image_size) < 1:
            raise ConfigError(f"image_size is {self.image_size}; expected a positive height and width")
        for name in ("width", "chunk", "history", "stride", "sequence"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 1")
        if not 0 <= self.depth_range_m[0] < self.depth_range_m[1]:
            raise ConfigError(f"depth_range_m is {self.depth_range_m}; expected two distances in meters, the nearer one first")
        if not 0 <= self.previous_action_dropout < 1:
            raise ConfigError(
                f"previous_action_dropout is a share of samples, at least 0 and below 1; got {self.previous_action_dropout:g}"
            )
        if self.task_embeddings < 0 or self.task_embeddings == 1:
            raise ConfigError(
                f"task_embeddings is {self.task_embeddings}; expected at least 2 embeddings to choose from, or 0 for none"
            )
        if self.loss_weighting not in ("fixed", "uncertainty"):
            raise ConfigError(f"loss_weighting is {self.loss_weighting!r}; expected 'fixed' or 'uncertainty'")
        if not self.objectives:
            raise ConfigError("a network is trained for at least one objective; objectives is empty")
        if self.ahead < 0:
            raise ConfigError(f"ahead is {self.ahead}; expected a number of control steps, 0 for none")
        if self.ahead and self.memory is not None:
            raise ConfigError(
                f"the memory {self.memory.name!r} is written in every step, and ahead steps are left out: leave out one"
            )
        if (self.sequence > 1) != (self.memory is not None):
            raise ConfigError(
                f"a memory is trained on sequences, and a network without one is not: memory is "
                f"{self.memory.name if self.memory else None!r} with a sequence of {self.sequence}"
            )

    def to_json(self) -> dict[str, Any]:
        """Plain data; omits `ahead` if it is 0, for older readers."""
        record = dataclasses.asdict(self)
        return record if self.ahead else {name: value for name, value in record.items() if name != "ahead"}

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> NetworkConfig:
        """Inverse of `to_json`. Raises `ConfigError` on an unknown field or a value of another type."""
        known = {f.name for f in dataclasses.fields(NetworkConfig)}
        if unknown := set(record) - known:
            raise ConfigError(
                f"a network configuration has no field {', '.join(sorted(unknown))}; it has {', '.join(sorted(known))}"
            )
        return build(NetworkConfig, record)

    @property
    def is_modular(self) -> bool:
        """Whether the backbone is made of `vision`, `language`, `state` and `fusion`."""
        return self.backbone.name == MODULAR.name

    @property
    def essential_parts(self) -> dict[str, Part]:
        """The parts that every network of this backbone has, by field."""
        own = () if self.is_modular else ("backbone",)
        return {name: getattr(self, name) for name in (*own, *backbones.get(self.backbone.name).builds, "head")}

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that the objectives need (see `verbot.data.samples.labels`)."""
        return tuple(dict.fromkeys(label for name in self.objectives for label in objectives.get(name).labels))

    def is_trained(self, objective: str) -> bool:
        """Whether this objective is trained with a weight above 0."""
        return objective in self.objectives and self.objectives[objective].weight > 0

    def with_objectives(self, **changes: Objective | float | None) -> NetworkConfig:
        """The same network with changed objectives: each a record, a weight, or None to remove it.

        Example:
            >>> list(NetworkConfig().with_objectives(value=0.1, grounding_queries=None).objectives)
            ['action', 'keypoints', 'value']
        """
        found = dict(self.objectives)
        for name, change in changes.items():
            if change is None:
                found.pop(name, None)
            elif isinstance(change, Objective):
                found[name] = change
            else:
                found[name] = dataclasses.replace(found.get(name, Objective()), weight=float(change))
        return dataclasses.replace(self, objectives=found)

    @property
    def learns_from_chunks(self) -> bool:
        """Whether the head is fitted to the training actions before it is built, e.g. the edges of its bins."""
        return isinstance(heads.get(self.head.name), FitsActions)

    @property
    def head_tasks(self) -> tuple[str, ...] | None:
        """The names of the tasks for which the head has separate modules, empty before `with_tasks`; None for other heads."""
        return tuple(self.head.options.get("tasks", ())) if isinstance(heads.get(self.head.name), ClassifiesTasks) else None

    def with_tasks(self, names: Sequence[str]) -> NetworkConfig:
        """The same network with a head for these tasks."""
        return dataclasses.replace(self, head=Part(self.head.name, {**self.head.options, "tasks": list(names)}))

    def fit(self, instructions: list[str], chunks: FloatArray | None = None, action: tuple[Component, ...] = ()) -> NetworkConfig:
        """The same network with its parts fitted to the training data.

        Args:
            instructions: all of them; a language encoder builds its vocabulary from them.
            chunks: normalized action chunks (n, k, a), for a head that `learns_from_chunks`.
            action: the components of the action, for a head that knows the ranges of some.
        """
        fitted: NetworkConfig = backbones.get(self.backbone.name).fit(self, instructions)
        if chunks is None or not self.learns_from_chunks:
            return fitted
        kind, options = heads.get(self.head.name), self.head.options
        options = kind.known(options, action) if action and isinstance(kind, KnowsRanges) else options
        return dataclasses.replace(fitted, head=Part(self.head.name, kind.fit(options, chunks)))

    def with_image_size(self, spec: RobotSpec) -> NetworkConfig:
        """The same network with an `image_size`, where it has none and needs one.

        It needs one if the cameras have several sizes, or sides that an encoder cannot take. The default is the size of the
        camera with the fewest pixels, each side rounded down to a multiple of 8, or of what the encoders need.

        Example:
            >>> from verbot.spec import Camera
            >>> spec = RobotSpec("arm", 10.0, (Camera("front", 72, 128), Camera("wrist", 84, 84)), (), ())
            >>> NetworkConfig().with_image_size(spec).image_size
            (80, 80)
        """
        found = {(c.height, c.width) for c in spec.color_cameras}
        if self.image_size is not None or not found:
            return self
        needed = self._side_multiple()
        if len(found) == 1 and not any(side % needed for side in next(iter(found))):
            return self
        smallest = min(found, key=lambda size: (size[0] * size[1], size))
        multiple = needed if needed > 1 else 8
        height, width = (max(multiple, side // multiple * multiple) for side in smallest)
        return dataclasses.replace(self, image_size=(height, width))

    def _side_multiple(self) -> int:
        """What the sides of images must be multiples of; 1 if any size will do."""
        if "vision" not in backbones.get(self.backbone.name).builds:
            return 1
        parts = [(vision_encoders, self.vision), *([(goal_encoders, self.goal)] if self.goal else [])]
        kinds = [(registry.get(part.name), part.options) for registry, part in parts]
        return math.lcm(*(kind.side_multiple(options) for kind, options in kinds if isinstance(kind, NeedsSideMultiple)))

    def sizes(self, spec: RobotSpec) -> Sizes:
        """What parts need to know of a robot. Without cameras there are no views, and the image size means nothing.

        Raises `ConfigError` for cameras of several sizes and no `image_size`, for goal images without a camera, and for a robot
        with neither cameras nor a state.
        """
        depth_views, spec = len(spec.depth_cameras), spec.color_only()
        if self.depth is not None and not depth_views:
            raise ConfigError(f"the depth encoder {self.depth.name!r} needs a depth camera, and robot {spec.name!r} has none")
        found = {(c.height, c.width) for c in spec.cameras} if self.image_size is None else {self.image_size}
        if not spec.cameras:
            if not spec.state:
                raise ConfigError(f"robot {spec.name!r} has neither cameras nor a state: a policy would see only the instruction")
            if self.goal is not None:
                raise ConfigError(f"robot {spec.name!r} has no camera, and the goal {self.goal.name!r} is an image of one")
            found = found or {(1, 1)}
        if len(found) != 1:
            raise ConfigError(f"robot {spec.name!r} has cameras of sizes {sorted(found)}; set image_size to resize them to one")
        (height, width_px), *_ = found
        from verbot.models.tokens import Sizes

        return Sizes(
            self.width,
            len(spec.cameras),
            height,
            width_px,
            spec.state_size,
            self.chunk,
            spec.action,
            self.history,
            depth_views,
            reads_ahead=self.ahead > 0,
        )
