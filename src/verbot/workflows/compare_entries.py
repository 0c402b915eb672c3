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
from verbot.rollout.baselines import SCRIPTED
from verbot.workflows.load_policy import policy_source

if TYPE_CHECKING:  # only entries that are trained need torch
    from verbot.recipes.config import Recipe
    from verbot.recipes.variants import Variant

ALREADY = "policy:"  # before a name that is a recipe's too


@dataclass(frozen=True)
class ComparisonEntry:
    """One row of a comparison to be: exactly one of `recipe`, `policy` and `evaluation` is given.

    Args:
        recipe: trained first; `variant` says how it came about.
        policy: by name, as of `verbot.evaluate`; played.
        evaluation: a folder that `verbot evaluate` left; read.
        baseline: stands beside the others and is compared with nobody.
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
    words: Sequence[str], listed: str | Path | None, only: Sequence[str], budget: Mapping[str, Any], seed: int
) -> list[ComparisonEntry]:
    """The entries that a person named, in order: first those of the list, then the words.

    A word is a folder that holds an evaluation, a policy, or a recipe with settings. ``starter`` is a recipe where there is a
    `budget` to train with, and the policy that ships with verbot where there is none; ``policy:starter`` is that policy always.

    Raises:
        ConfigError: nothing was named, a name comes twice, or something was to be trained without a budget.
        UnknownNameError: `only` names none of them.
    """
    if len(budget) > 1:
        raise ConfigError(f"give one of samples, minutes and steps; came {' and '.join(budget)}")
    variants = _listed(listed) if listed is not None else []
    found = [ComparisonEntry(each.name, variant=each) for each in variants] + [_entry(word, bool(budget)) for word in words]
    names = [entry.name for entry in found]
    if not found:
        raise ConfigError("nothing to compare; name recipes (also RECIPE+field=value), policies, or --list LIST")
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"named twice: {', '.join(sorted(twice))}")
    for name in only:
        if name not in names:
            raise UnknownNameError("entry of this comparison", name, names)
    if not budget and (lacking := [entry.name for entry in found if entry.variant]):
        raise ConfigError(f"{', '.join(lacking[:3])} must be trained: give samples, minutes or steps, the same for all")
    kept = [entry for entry in found if not only or entry.name in only]
    return [dataclasses.replace(e, recipe=_resolved(e.variant, budget, seed)) if e.variant else e for e in kept]


def _listed(listed: str | Path) -> list[Variant]:
    from verbot.recipes.variants import read_variants

    return read_variants(listed)


def _resolved(variant: Variant, budget: Mapping[str, Any], seed: int) -> Recipe:
    from verbot.recipes.variants import resolve_variant

    return resolve_variant(variant, budget, seed)


def digest(*parts: Any, without: Collection[str] = ()) -> str:
    """Ten letters that stand for these values. A field at its default does not count, so that a field which is added later
    changes no digest.

    Args:
        without: dotted paths of fields of the outermost dataclasses that do not count either.

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


def _entry(word: str, trains: bool) -> ComparisonEntry:
    folder, already = Path(word), word.removeprefix(ALREADY)
    if (folder / "results.jsonl").is_file():
        return ComparisonEntry(word, evaluation=folder)
    if already in SCRIPTED:
        return ComparisonEntry(already, policy=already)
    if already != word or folder.is_dir() or word.startswith(("ws://", "wss://")) or (word == "starter" and not trains):
        policy_source(already)  # raises where there is no such policy, before anything is trained
        return ComparisonEntry(already, policy=already)
    if folder.suffix in (".yaml", ".yml") or "+" in word or word in recipes.names():
        from verbot.recipes.variants import parse_variant

        return ComparisonEntry(word, variant=parse_variant(word))
    raise UnknownNameError("recipe or policy", word, [*recipes.names(), *SCRIPTED])


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
