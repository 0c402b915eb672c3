"""The registries of a network's parts, and what each part promises.

A new part is one file in `encoders/`, `fusion/` or `heads/` and one `register` line; `VLANetwork` builds it by name.

| part | built as | called as |
|---|---|---|
| vision encoder | ``factory(sizes, **options)``, states ``counts`` {kind: n of one frame} | ``(images (b, v, 3, h, w), mask (b, v), sentence (b, e)) -> [TokenGroup]``; where many goals of one image cost little, also ``ask_many``; where it sees before it listens, ``features``, ``groups`` and ``answer`` (see ``query_conv``) |
| language encoder | ``factory(sizes, **options)`` | ``prepare(texts) -> TextBatch``, then ``(text) -> TokenGroup`` |
| state encoder | ``factory(sizes, **options)``, states ``counts`` | ``(state (b, s), mask (b,)) -> TokenGroup`` |
| fusion | ``factory(sizes, counts, **options)``, states its output ``width`` and ``count``, and ``gives_layers`` where its group has them | ``([TokenGroup]) -> TokenGroup`` |
| action encoder | ``factory(sizes, **options)`` | ``(action (b, a), mask (b,)) -> TokenGroup`` of one token, kind ``"acted"`` |
| goal encoder | ``factory(sizes, **options)`` | ``(goal (b, 3, h, w), mask (b,), now (b, 3, h, w), seen (b,)) -> TokenGroup`` |
| memory | ``factory(sizes, width, count, **options)`` of the fusion's, states its own, and ``frames`` where it keeps that many of the last | ``initial(rows, device) -> state``, ``(fused, state, writes (b,)) -> (TokenGroup, state)`` |
| contrast | ``factory(sizes, **options)`` where it ``attends``, else ``(sizes, tokens, **options)`` of one picture | ``losses(told (q, e), seen, captions) -> {name: scalar}``, ``alignment(told, seen) -> (q,)``; seen is what each sentence finds, else every picture's tokens |
| head | ``factory(sizes, width, count, **options)``, states ``reads_layers`` where it reads the fusion layer by layer | ``losses(fused, batch, generator) -> {name: scalar}``, ``predict(fused, generator) -> (b, k, a)`` |
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from verbot.registry import Registry


@dataclass(frozen=True)
class Part:
    """A registered part by name, with the options of its factory (JSON-able)."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


vision_encoders: Registry[Any] = Registry(
    "vision encoder", package="verbot.models.encoders.vision", group="verbot.vision_encoders", needs=("torch",)
)
language_encoders: Registry[Any] = Registry(
    "language encoder", package="verbot.models.encoders.language", group="verbot.language_encoders", needs=("torch",)
)
state_encoders: Registry[Any] = Registry(
    "state encoder", package="verbot.models.encoders.state", group="verbot.state_encoders", needs=("torch",)
)
action_encoders: Registry[Any] = Registry(
    "acted encoder", package="verbot.models.encoders.state", group="verbot.action_encoders", needs=("torch",)
)
goal_encoders: Registry[Any] = Registry(
    "goal encoder", package="verbot.models.encoders.vision", group="verbot.goal_encoders", needs=("torch",)
)
memories: Registry[Any] = Registry("memory", package="verbot.models.memory", group="verbot.memories", needs=("torch",))
fusions: Registry[Any] = Registry("fusion", package="verbot.models.fusion", group="verbot.fusions", needs=("torch",))
contrasts: Registry[Any] = Registry("contrast", package="verbot.models.objectives", group="verbot.contrasts", needs=("torch",))
heads: Registry[Any] = Registry("head", package="verbot.models.heads", group="verbot.heads", needs=("torch",))
