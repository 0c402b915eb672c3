"""A network as graphs with named inputs and outputs: one, or an encoder and a step where the head iterates."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from verbot.errors import PolicyError
from verbot.models.config import NetworkConfig
from verbot.models.features import AuxiliaryPrediction, Features
from verbot.models.heads.diffusion import Diffusion, sampled_levels
from verbot.models.heads.flow import Flow
from verbot.models.heads.flow_expert import FlowExpert
from verbot.models.network import VLANetwork
from verbot.models.protocols import ExportsText
from verbot.models.tokens import Batch, TextBatch, TokenGroup

INPUTS = ("images", "images_mask", "state", "state_mask", "text", "text_mask")
ROWS, MOST_ROWS = 3, 1024  # of the example; it differs from the number of views, so that no size is taken for another
Schedule = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class GraphSource:
    """A module to be written as a graph.

    Args:
        inputs, outputs: their names, in the order of the arguments and of the results.
        examples: one argument for each input.
        texts: the inputs whose second axis is the length of the text, at most `most` tokens.
    """

    name: str
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    examples: tuple[Tensor, ...]
    texts: tuple[str, ...] = ()
    most: int = 512

    def traced(self) -> torch.export.ExportedProgram:
        """The graph for batches of any size. Raises `PolicyError` if the module cannot be expressed as one."""
        rows, length = torch.export.Dim("rows", min=1, max=MOST_ROWS), torch.export.Dim("length", min=2, max=self.most)
        shapes: tuple[Any, ...] = tuple(
            self._shape(name, x, rows, length) for name, x in zip(self.inputs, self.examples, strict=True)
        )
        parameters = inspect.signature(self.module.forward).parameters.values()
        named = sum(parameter.kind is not parameter.VAR_POSITIONAL for parameter in parameters)
        if named < len(self.inputs):  # the others are the elements of one argument
            shapes = (*shapes[:named], shapes[named:])
        with torch.no_grad(), quiet():
            try:
                return torch.export.export(self.module.eval(), self.examples, dynamic_shapes=shapes, strict=False)
            except Exception as error:  # torch.export's errors have no common base
                text = next(iter(str(error).strip().splitlines()), type(error).__name__)
                raise PolicyError(f"the graph {self.name!r} cannot be exported: {text[:300]}") from error

    def _shape(self, name: str, example: Tensor, rows: Any, length: Any) -> dict[int, Any]:
        if name == "schedule":
            return {}
        free = dict.fromkeys(range(1, example.ndim), torch.export.Dim.AUTO) if name.startswith("condition") else {}
        return {0: rows, **free, **({1: length} if name in self.texts else {})}


class Perception(nn.Module):
    """A network up to the tokens that its head reads, without the names that `VLANetwork` gives its weights."""

    def __init__(self, network: VLANetwork):
        super().__init__()
        self.backbone, self.objectives, self.head = network.backbone, network.objectives, network.head

    def features(self, *inputs: Tensor) -> Features:
        images, images_mask, state, state_mask, text, text_mask = inputs
        batch = Batch(images.permute(0, 1, 2, 5, 3, 4), images_mask, state, state_mask, TextBatch(text, text_mask))
        asked = {name: each.prediction_queries(batch) for name, each in self.objectives.items()}
        found, _ = self.backbone.prediction_features(batch, {name: each for name, each in asked.items() if each is not None})
        for each in self.objectives.values():
            found = each.refine(found)
        return found

    def extras(self, features: Features) -> dict[str, AuxiliaryPrediction]:
        return {name: value for each in self.objectives.values() for name, value in each.predict(features).items()}


class ActingGraph(Perception):
    """One graph: from an observation to actions (b, k, a), normalized, and the predictions of the objectives."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        features = self.features(*inputs)
        return self.head.predict(features.fused, None), *(each.values for each in self.extras(features).values())


class Steps(nn.Module):
    """The iteration of a head: ``forward(x (b, k, a), schedule (n,), *condition)`` gives the next x, and the actions at it."""

    schedule: Schedule

    @abstractmethod
    def condition(self, fused: TokenGroup) -> tuple[Tensor, ...]:
        """What all steps read."""


class FlowSteps(Steps):
    """Euler steps of ``flow``: each gets its time and the length of the step."""

    def __init__(self, head: Flow):
        super().__init__()
        self.head, self.schedule = head, head.distilled.schedule(head.steps)

    def condition(self, fused: TokenGroup) -> tuple[Tensor, ...]:
        return (self.head.denoiser.condition(fused),)

    def forward(self, x: Tensor, schedule: Tensor, *condition: Tensor) -> tuple[Tensor, Tensor]:
        x = x + self.head.velocity(x, schedule[0].expand(x.shape[0]), condition[0]) * schedule[1]
        return x, self.head.space.inverse(x)


class ExpertSteps(Steps):
    """Euler steps of ``flow_expert``; the condition are the keys of its attention, of each layer if it reads several."""

    def __init__(self, head: FlowExpert):
        super().__init__()
        self.head, self.schedule = head, head.distilled.schedule(head.steps)

    def condition(self, fused: TokenGroup) -> tuple[Tensor, ...]:
        found = self.head.condition(fused)
        return found.mask, *(found.layers or (found.tokens,))

    def forward(self, x: Tensor, schedule: Tensor, *condition: Tensor) -> tuple[Tensor, Tensor]:
        mask, *layers = condition
        keys = TokenGroup(layers[-1], mask, "fused", layers=tuple(layers) if self.head.reads_layers else None)
        x = x + self.head.velocity(x, schedule[0].expand(x.shape[0]), keys) * schedule[1]
        return x, self.head.space.inverse(x)


class DiffusionSteps(Steps):
    """DDIM steps of ``diffusion``: each gets its level, the ᾱ there and the ᾱ of the next."""

    def __init__(self, head: Diffusion):
        super().__init__()
        self.head = head
        levels = sampled_levels(len(head.alphas), head.steps)
        kept = [float(head.alphas[level]) for level in levels]
        self.schedule = tuple(zip(map(float, levels), kept, [*kept[1:], 1.0], strict=True))

    def condition(self, fused: TokenGroup) -> tuple[Tensor, ...]:
        return (self.head.denoiser.condition(fused),)

    def forward(self, x: Tensor, schedule: Tensor, *condition: Tensor) -> tuple[Tensor, Tensor]:
        level, kept, left = schedule.unbind(0)
        x = self.head.step(x, self.head.guess(x, level.expand(x.shape[0]), condition[0]), kept, left)
        return x, self.head.space.inverse(x)


ITERATED: Mapping[type[nn.Module], type[Any]] = {Flow: FlowSteps, FlowExpert: ExpertSteps, Diffusion: DiffusionSteps}


class Encoding(Perception):
    """The first of two graphs: from an observation to what all steps read, and the predictions of the objectives."""

    def __init__(self, network: VLANetwork, steps: Steps):
        super().__init__(network)
        self.steps = steps

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        features = self.features(*inputs)
        return *self.steps.condition(features.fused), *(each.values for each in self.extras(features).values())


def language_of(network: VLANetwork) -> Any:
    """The language encoder, or None if it is not one that can be exported."""
    language = dict(network.backbone.named_children()).get("language")
    return language if isinstance(language, ExportsText) else None


def check_exportable(config: NetworkConfig, network: VLANetwork) -> None:
    """Raise `PolicyError` that names every part of which no graph can be made."""
    without = {"goal": config.goal, "previous_action": config.previous_action, "memory": config.memory, "depth": config.depth}
    named = [f"{field} {part.name!r}" for field, part in without.items() if part is not None]
    named += [f"a history of {config.history} frames"] if config.history > 1 else []
    named += ["the state of then (ahead)"] if config.ahead else []
    named += [f"backbone {config.backbone.name!r}"] if not config.is_modular else []
    if config.is_modular and language_of(network) is None:
        named.append(f"language {config.language.name!r}")
    named += [f"head {config.head.name!r}"] if config.head.name in ("sequence", "multi_task") else []
    if named:
        raise PolicyError(
            f"a policy with {', '.join(named)} cannot be exported: an export has one frame, no memory and no goal image, reads "
            "instructions with 'word_embedding' or 'minilm', and its head predicts in one pass or in steps"
        )


def sources(network: VLANetwork, example: Batch) -> tuple[list[GraphSource], dict[str, AuxiliaryPrediction], Schedule]:
    """The graphs of a network; the predictions of its objectives for the example; and the schedule of a head that iterates.

    Args:
        example: a batch of `ROWS` observations.
    """
    inputs = (
        example.images.permute(0, 1, 2, 4, 5, 3).contiguous(),
        example.images_mask,
        example.state,
        example.state_mask,
        example.text.values if example.text.values.dtype == torch.int64 else example.text.values.float(),
        example.text.mask,
    )
    most = network.backbone.most_tokens() or 512
    made = next((steps(network.head) for kind, steps in ITERATED.items() if isinstance(network.head, kind)), None)
    with torch.no_grad():
        perception = Perception(network).eval()
        features = perception.features(*inputs)
        extras = perception.extras(features)
        texts = ("text", "text_mask")
        if made is None:
            return [GraphSource("act", ActingGraph(network), INPUTS, ("actions", *extras), inputs, texts, most)], extras, ()
        condition = made.condition(features.fused)
        names = tuple(f"condition_{number}" for number in range(len(condition)))
        x = torch.zeros(len(example.state), *made.head.shape)
        step = (x, torch.tensor(made.schedule[0]), *condition)
    encode = GraphSource("encode", Encoding(network, made), INPUTS, (*names, *extras), inputs, texts, most)
    return [encode, GraphSource("step", made, ("x", "schedule", *names), ("next", "actions"), step)], extras, made.schedule


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of exporters about their own insides."""
    import logging

    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "torch.export", "onnxscript", "root")]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)
