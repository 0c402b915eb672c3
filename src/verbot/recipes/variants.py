"""A variant: a recipe with some settings changed, written as one word or as an entry of a list in YAML."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verbot.configuration import load_yaml, renamed
from verbot.errors import ConfigError, UnknownNameError, VerbotError
from verbot.recipes import LISTS, comparison_lists
from verbot.recipes.acting import SCENES
from verbot.recipes.config import Recipe, change, format_settings, parse_recipe_spec, resolve
from verbot.recipes.overrides import locate

# What all variants of a comparison have in common, so none may set it.
SHARED = frozenset({"data.datasets", "data.weights"})


@dataclass(frozen=True)
class Variant:
    """A recipe with changed settings.

    Args:
        name: name of the row in the table.
        recipe: a recipe's name or a YAML file.
        settings: as in `verbot.recipes.overrides`. How the policy acts (``execute``, ``decay``) needs no training of its own.
        about: one line.
    """

    name: str
    recipe: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    about: str = ""


@dataclass(frozen=True)
class Listed:
    """An entry in a list, which gives it its name; without a recipe of its own it changes the list's."""

    about: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    recipe: str | None = None


@renamed(designs="entries")
@dataclass(frozen=True)
class VariantList:
    """What a YAML file of entries holds."""

    entries: Mapping[str, Listed]
    recipe: str = "starter"
    about: str = ""


def parse_variant(word: str) -> Variant:
    """A variant as typed by a user: a recipe, then ``+field=value`` for each change. Raises `ConfigError` for another form.

    Example:
        >>> parse_variant("starter+vision.channels=24").settings
        {'vision.channels': 24}
    """
    return Variant(word, *parse_recipe_spec(word))


def read_variants(source: str | Path) -> list[Variant]:
    """The entries of a list: one of `comparison_lists`, or a YAML file of an `VariantList`.

    Raises `UnknownNameError` for a name that there is not, `ConfigError` for a file that does not fit.
    """
    path = Path(source)
    if path.suffix not in (".yaml", ".yml"):
        if str(source) not in comparison_lists():
            raise UnknownNameError("list of variants", str(source), comparison_lists())
        path = LISTS / f"{source}.yaml"
    found = load_yaml(VariantList, path)
    if not found.entries:
        raise ConfigError(f"{path} lists no entries")
    return [Variant(name, each.recipe or found.recipe, each.settings, each.about) for name, each in found.entries.items()]


def resolve_variant(variant: Variant, budget: Mapping[str, Any] | None = None, seed: int | None = None) -> Recipe:
    """The complete recipe of a variant.

    Args:
        budget: one of steps, samples and minutes in place of the recipe's; a variant's own setting comes before it.
        seed: the seed of the whole run; None uses that of the recipe.

    Raises `ConfigError` with the variant's name, and what exists instead of what it names.

    Example:
        >>> run = resolve_variant(parse_variant("starter+head=flow+execute=3"), {"samples": 1000})
        >>> run.training.network.head.name, run.evaluation.execute
        ('flow', 3)
    """
    try:
        base = resolve(variant.recipe, budget, seed)
        _check_shared(base, variant.settings)
        run = change(base, variant.settings)
    except VerbotError as error:
        raise ConfigError(f"variant {variant.name!r}: {error}") from error
    about = variant.about or (f"{variant.recipe} with {format_settings(variant.settings)}" if variant.settings else run.about)
    return dataclasses.replace(run, name=variant.name, about=about)


def _check_shared(recipe: Recipe, settings: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for a setting of what all variants of a comparison have in common."""
    for path in locate(recipe, settings, recipe.short_path_roots):
        if path[0] == "collection" or "collections" in path[:3] or ".".join(path[3:]) in SHARED:
            raise ConfigError(f"all variants of a comparison are trained on the same data, so none can set {'.'.join(path)!r}")
        if path[0] == "evaluation" and path[1] in SCENES:
            raise ConfigError(f"all variants of a comparison are played on the same episodes, so none can set {'.'.join(path)!r}")
