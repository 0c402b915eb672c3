"""Who stands in a comparison: designs that are trained for it, policies that are there, evaluations that were played."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verbot.configuration import to_plain
from verbot.errors import ConfigError, UnknownNameError
from verbot.evaluation.comparison.rows import Kind
from verbot.recipes import recipes
from verbot.recipes.config import RunConfig
from verbot.recipes.overrides import Design, parse_design, read_designs, resolve_design
from verbot.rollout.baselines import SCRIPTED
from verbot.workflows.load_policy import policy_source

ALREADY = "policy:"  # before a name that is a recipe's too


@dataclass(frozen=True)
class Candidate:
    """One row of a comparison to be: exactly one of `run`, `policy` and `evaluation` is given.

    Args:
        run: trained first; `design` says how it came about.
        policy: by name, as of `verbot.evaluate`; played.
        evaluation: a folder that `verbot evaluate` left; read.
        baseline: stands beside the others and is held against nobody.
    """

    name: str
    design: Design | None = None
    run: RunConfig | None = None
    policy: str | None = None
    evaluation: Path | None = None
    baseline: bool = False

    @property
    def kind(self) -> Kind:
        return "baseline" if self.baseline else "design" if self.run else "policy"


def candidates(
    words: Sequence[str], designs: str | Path | None, only: Sequence[str], budget: Mapping[str, Any], seed: int
) -> list[Candidate]:
    """What a person named, in order: first the list's designs, then the words.

    A word is a folder that holds an evaluation, a policy, or a design. ``starter`` is a recipe where there is a `budget` to train
    with and the policy that ships with verbot where there is none; ``policy:starter`` is that policy in any case.

    Raises:
        ConfigError: nothing was named, a name comes twice, or something was to be trained without a budget.
        UnknownNameError: `only` names none of them.
    """
    if len(budget) > 1:
        raise ConfigError(f"give one of samples, minutes and steps; came {' and '.join(budget)}")
    listed = read_designs(designs) if designs is not None else []
    found = [Candidate(d.name, design=d) for d in listed] + [_candidate(word, bool(budget)) for word in words]
    names = [candidate.name for candidate in found]
    if not found:
        raise ConfigError("nothing to compare; name recipes, designs (RECIPE+field=value), policies, or --designs LIST")
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"named twice: {', '.join(sorted(twice))}")
    for name in only:
        if name not in names:
            raise UnknownNameError("design in this comparison", name, names)
    if not budget and (lacking := [candidate.name for candidate in found if candidate.design]):
        raise ConfigError(f"{', '.join(lacking[:3])} must be trained: give samples, minutes or steps, the same for all")
    kept = [candidate for candidate in found if not only or candidate.name in only]
    return [dataclasses.replace(c, run=resolve_design(c.design, budget, seed)) if c.design else c for c in kept]


def digest(*parts: Any, without: Collection[str] = ()) -> str:
    """Ten letters that stand for these values. What a dataclass leaves at its default does not count, so that a field which
    is added later changes no digest.

    Args:
        without: fields of the outermost dataclasses that do not count either.

    Example:
        >>> from verbot.evaluation import EvaluationConfig
        >>> digest(EvaluationConfig()) == digest(EvaluationConfig(workers=2), without=["workers"])
        True
    """
    plain = [_sparse(part, without) for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:10]


def place(parent: Path, name: str, identity: str) -> Path:
    """The folder below `parent` for what `identity` stands for, called after whoever needed it first."""
    return next(iter(sorted(parent.glob(f"*-{identity}"))), parent / f"{slug(name)}-{identity}")


def slug(name: str) -> str:
    """A name as a file's.

    Example:
        >>> slug("outputs/demo/policy"), slug("starter+vision=vit")
        ('outputs-demo-policy', 'starter-vision=vit')
    """
    return re.sub(r"[^A-Za-z0-9_.=]+", "-", name).strip("-.")[-60:]


def _candidate(word: str, trains: bool) -> Candidate:
    folder, already = Path(word), word.removeprefix(ALREADY)
    if (folder / "results.jsonl").is_file():
        return Candidate(word, evaluation=folder)
    if already in SCRIPTED:
        return Candidate(already, policy=already)
    if already != word or folder.is_dir() or word.startswith(("ws://", "wss://")) or (word == "starter" and not trains):
        policy_source(already)  # raises where there is no such policy, before anything is trained
        return Candidate(already, policy=already)
    if folder.suffix in (".yaml", ".yml") or "+" in word or word in recipes.names():
        return Candidate(word, design=parse_design(word))
    raise UnknownNameError("recipe or policy", word, [*recipes.names(), *SCRIPTED])


def _sparse(value: Any, without: Collection[str] = ()) -> Any:
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return to_plain(value)
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        own, factory = getattr(value, field.name), field.default_factory
        if field.name not in without and own != (field.default if factory is dataclasses.MISSING else factory()):
            plain[field.name] = _sparse(own)
    return plain
