"""The entries of a comparison: recipes that are trained for it, policies that exist, evaluations that were made."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verbot.configuration import to_plain
from verbot.errors import ConfigError, UnknownNameError
from verbot.evaluation.comparison.rows import Kind
from verbot.recipes import recipes
from verbot.rollout.baselines import POLICY_FREE_AGENTS
from verbot.workflows.load_policy import policy_source

if TYPE_CHECKING:  # only entries that are trained need torch
    from verbot.recipes.config import Recipe
    from verbot.recipes.variants import Variant

POLICY_PREFIX = "policy:"  # selects the policy if a recipe has the same name


@dataclass(frozen=True)
class ComparisonEntry:
    """An entry of a comparison; exactly one of `recipe`, `policy` and `evaluation` is given.

    Args:
        variant: the recipe with settings from which `recipe` is resolved.
        recipe: a recipe to train and evaluate.
        policy: the name of a policy to evaluate, as in `verbot.evaluate`.
        evaluation: a folder of `verbot evaluate`, which is read.
        baseline: listed in the table and compared with no other entry.
    """

    name: str
    variant: Variant | None = None
    recipe: Recipe | None = None
    policy: str | None = None
    evaluation: Path | None = None
    baseline: bool = False

    @property
    def kind(self) -> Kind:
        return "baseline" if self.baseline else "recipe" if self.recipe else "policy"


def find_entries(
    specs: Sequence[str], listed: str | Path | None, only: Sequence[str], budget: Mapping[str, Any], seed: int
) -> list[ComparisonEntry]:
    """The entries of a comparison, in order: first those of the list, then those of `specs`.

    A spec is a folder with an evaluation, a policy, or a recipe with settings. ``starter`` is a recipe if there is a `budget` to
    train with, otherwise the policy that ships with verbot; ``policy:starter`` is always that policy.

    Raises:
        ConfigError: nothing was named, a name comes twice, or something was to be trained without a budget.
        UnknownNameError: `only` names none of them.
    """
    if len(budget) > 1:
        raise ConfigError(f"give one of samples, minutes and steps; came {' and '.join(budget)}")
    variants = _listed(listed) if listed is not None else []
    entries = [ComparisonEntry(each.name, variant=each) for each in variants] + [_entry(spec, bool(budget)) for spec in specs]
    names = [entry.name for entry in entries]
    if not entries:
        raise ConfigError("nothing to compare; name recipes (also RECIPE+field=value), policies, or --list LIST")
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"named twice: {', '.join(sorted(repeated))}")
    for name in only:
        if name not in names:
            raise UnknownNameError("entry of this comparison", name, names)
    if not budget and (untrained := [entry.name for entry in entries if entry.variant]):
        raise ConfigError(f"{', '.join(untrained[:3])} must be trained: give samples, minutes or steps, the same for all")
    chosen = [entry for entry in entries if not only or entry.name in only]
    return [dataclasses.replace(e, recipe=_resolved(e.variant, budget, seed)) if e.variant else e for e in chosen]


def _listed(listed: str | Path) -> list[Variant]:
    from verbot.recipes.variants import read_variants

    return read_variants(listed)


def _resolved(variant: Variant, budget: Mapping[str, Any], seed: int) -> Recipe:
    from verbot.recipes.variants import resolve_variant

    return resolve_variant(variant, budget, seed)


def digest(*parts: Any, without: Collection[str] = ()) -> str:
    """The first ten hex digits of the sha256 of these values. Fields with their default value are left out, so that a field which
    is added later changes no digest.

    Args:
        without: dotted paths of fields of the outermost dataclasses to leave out too.

    Example:
        >>> from verbot.evaluation import EvaluationConfig
        >>> digest(EvaluationConfig()) == digest(EvaluationConfig(workers=2), without=["workers"])
        True
    """
    plain = [_sparse(part, without) for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:10]


def folder_for(parent: Path, name: str, identity: str) -> Path:
    """The folder in `parent` for the digest `identity`; its name begins with the first `name` that used it."""
    return next(iter(sorted(parent.glob(f"*-{identity}"))), parent / f"{slug(name)}-{identity}")


def slug(name: str) -> str:
    """A name in a form that is valid for a file.

    Example:
        >>> slug("outputs/demo/policy"), slug("starter+vision=vit")
        ('outputs-demo-policy', 'starter-vision=vit')
    """
    return re.sub(r"[^A-Za-z0-9_.=]+", "-", name).strip("-.")[-60:]


def _entry(spec: str, trains: bool) -> ComparisonEntry:
    folder, policy_name = Path(spec), spec.removeprefix(POLICY_PREFIX)
    if (folder / "results.jsonl").is_file():
        return ComparisonEntry(spec, evaluation=folder)
    if policy_name in POLICY_FREE_AGENTS:
        return ComparisonEntry(policy_name, policy=policy_name)
    if policy_name != spec or folder.is_dir() or spec.startswith(("ws://", "wss://")) or (spec == "starter" and not trains):
        policy_source(policy_name)  # raises if there is no such policy, before anything is trained
        return ComparisonEntry(policy_name, policy=policy_name)
    if folder.suffix in (".yaml", ".yml") or "+" in spec or spec in recipes.names():
        from verbot.recipes.variants import parse_variant

        return ComparisonEntry(spec, variant=parse_variant(spec))
    raise UnknownNameError("recipe or policy", spec, [*recipes.names(), *POLICY_FREE_AGENTS])


def _sparse(value: Any, without: Collection[str] = ()) -> Any:
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return to_plain(value)
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        own, factory = getattr(value, field.name), field.default_factory
        inner = [path.removeprefix(f"{field.name}.") for path in without if path.startswith(f"{field.name}.")]
        if field.name not in without and own != (field.default if factory is dataclasses.MISSING else factory()):
            found = _sparse(own, inner)
            if found or not inner:
                plain[field.name] = found
    return plain
