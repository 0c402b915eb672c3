"""Format 1 of policies, configurations and checkpoints: the present names of its fields and weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from verbot.configuration import Record

FIELDS = {
    "acted": "previous_action",
    "acted_dropout": "previous_action_dropout",
    "tasks": "task_embeddings",
    "loss_weights": "loss_weighting",
}
# Fields of loss weights, with their present objectives. A weight of 0 meant no module, except for the first two.
WEIGHTS = {
    "action_weight": ("action",),
    "keypoint_weight": ("keypoints", "grounding_queries"),
    "recall_weight": ("keypoint_memory",),
    "value_weight": ("value",),
    "contrast_weight": ("contrastive",),
    "grasp_weight": ("grasp_state",),
}
ALWAYS = ("action", "keypoints", "grounding_queries")
PART_NAMES = {"words": "word_embedding", "match": "siglip"}
OLD_FIELDS = (*FIELDS, *WEIGHTS, "value_discount", "contrast")
ORDER = (
    "action",
    "task_classification",
    "keypoints",
    "grounding_queries",
    "keypoint_memory",
    "value",
    "contrastive",
    "grasp_state",
)

PREFIXES = {
    "recall": "objectives.keypoint_memory",
    "value": "objectives.value",
    "contrast": "objectives.contrastive.pair",
    "grasp": "objectives.grasp_state",
    "balance": "weighting",
    "acted": "previous_action",
    "tasks": "task_embeddings",
}
# In checkpoints the networks of several robots are numbered, and a network may be part of an actor.
_BELOW = r"^((?:\d+\.|(?:actor\.)?network\.)?)"
_PREFIX = re.compile(rf"{_BELOW}({'|'.join(PREFIXES)})(?=\.|$)")
_ATTRIBUTES = {
    re.compile(rf"{_BELOW}fusion\.told(?=\.|$)"): r"\1fusion.text",
    re.compile(rf"{_BELOW}head((?:\.heads\.\d+)?)\.acted(?=\.|$)"): r"\1head\2.action",
    re.compile(r"contrastive\.pair\.glance$"): "contrastive.pair.prompt",
}
_KIND = re.compile(r"\.(norms|kinds)\.acted(?=\.|$)")


def network_record(record: Record) -> Record:
    """A network's record with the present field names.

    Example:
        >>> network_record({"keypoint_weight": 0.5, "value_weight": 0.1})["objectives"]["value"]
        {'weight': 0.1, 'options': {'discount': 0.97}}
    """
    if not any(name in record for name in OLD_FIELDS):
        return record
    found = {FIELDS.get(name, name): value for name, value in record.items() if name in FIELDS or name not in OLD_FIELDS}
    if found.get("loss_weighting") == "learned":
        found["loss_weighting"] = "uncertainty"
    if found.get("language"):
        found["language"] = _part(found["language"])
    given = {name: dict(value) for name, value in record.get("objectives", {}).items()}
    known = given or {name: {"weight": 1.0, "options": {}} for name in ALWAYS}
    if not given and found.get("head"):
        found["head"], weight = _without_task_weight(found["head"])
        known |= {"task_classification": {"weight": weight, "options": {}}} if weight is not None else {}
    for field, names in WEIGHTS.items():
        for name in names if field in record else ():
            known.setdefault(name, {"weight": 0.0, "options": {}})["weight"] = record[field]
    if "value" in known and not known["value"].get("options"):
        known["value"]["options"] = {"discount": record.get("value_discount", 0.97)}
    if record.get("contrast"):
        kind = _part(record["contrast"])
        known.setdefault("contrastive", {"weight": 1.0})["options"] = {"kind": kind["name"], **kind.get("options", {})}
    elif "contrast" in record or not given:
        known.pop("contrastive", None)
    kept = {name: value for name, value in known.items() if name in ALWAYS or name in given or value["weight"]}
    if record.get("contrast"):
        kept["contrastive"] = known["contrastive"]
    order = sorted(kept, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))
    found["objectives"] = kept if given else {name: kept[name] for name in order}
    return found


def weight_name(name: str) -> str:
    """The present name of a weight, of a part, or of a pattern of weights.

    Example:
        >>> weight_name("recall.tell.weight"), weight_name("1.fusion.marks.kinds.acted"), weight_name("contrast.*")
        ('objectives.keypoint_memory.tell.weight', '1.fusion.marks.kinds.previous_action', 'objectives.contrastive.pair.*')
    """
    name = _PREFIX.sub(lambda match: match[1] + PREFIXES[match[2]], name)
    for old, new in _ATTRIBUTES.items():
        name = old.sub(new, name)
    return _KIND.sub(r".\1.previous_action", name)


def _part(record: Any) -> dict[str, Any]:
    part: dict[str, Any] = {"name": record} if isinstance(record, str) else dict(record)
    part["name"] = PART_NAMES.get(part["name"], part["name"])
    if "base" in part.get("options", {}):  # of a hierarchical language encoder
        base = part["options"]["base"]
        part["options"] = {**part["options"], "base": PART_NAMES.get(base, base)}
    return part


def _without_task_weight(head: Any) -> tuple[Any, float | None]:
    """The head, and the weight of its task classifier if it has one."""
    if not isinstance(head, Mapping) or head["name"] != "multi_task":
        return head, None
    options = dict(head.get("options", {}))
    weight = options.pop("task_weight", 0.1)
    return {**head, "options": options}, weight
