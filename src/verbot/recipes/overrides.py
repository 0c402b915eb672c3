"""A design: a recipe with some settings changed, written as one word (``starter+vision=film_conv``) or as an entry of a list."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from verbot.configuration import build, load_yaml, replace, to_plain
from verbot.errors import ConfigError, UnknownNameError, VerbotError
from verbot.evaluation import EvaluationConfig
from verbot.models import registries
from verbot.models.network import NetworkConfig
from verbot.models.registries import Part
from verbot.recipes.config import RunConfig, change, resolve
from verbot.registry import Registry
from verbot.training import TrainConfig

LISTS = Path(__file__).parent / "comparisons"
# What every design of a comparison has in common, so no design may say it.
SHARED = frozenset({"datasets", "weights"})
# The fields of an evaluation that say what is played; the others say how the policy acts in it, which a design may change.
SCENES = frozenset(
    [
        *("suite", "tasks", "episodes", "seed", "mode", "axes", "templates", "conditions", "side_episodes", "goals", "baselines"),
        *("videos", "latency_calls", "workers", "slots", "options"),
    ]
)
TRAINING, NETWORK = typing.get_type_hints(TrainConfig), typing.get_type_hints(NetworkConfig)
NESTED = tuple(name for name, hint in TRAINING.items() if dataclasses.is_dataclass(hint))
PARTS = tuple(name for name, hint in NETWORK.items() if Part in (hint, *typing.get_args(hint)))
ACTING = tuple(f.name for f in dataclasses.fields(EvaluationConfig) if f.name not in SCENES)


@dataclass(frozen=True)
class Design:
    """A recipe and what is changed in it.

    Args:
        name: of the row in the table.
        recipe: a recipe's name or a YAML file.
        settings: field to value. A field is one of the network (``vision``, ``chunk``), of an option of one of its parts
            (``vision.channels``), of the training (``batch_size``, ``augment.grounding_queries``), or of how the policy acts
            (``execute``, ``decay``): the latter needs no training of its own. Naming a part takes its default options.
        about: one line.
    """

    name: str
    recipe: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    about: str = ""


@dataclass(frozen=True)
class Entry:
    """A design in a list, which gives it its name; without a recipe of its own it changes the list's."""

    about: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    recipe: str | None = None


@dataclass(frozen=True)
class DesignList:
    """What a YAML file of designs holds."""

    designs: Mapping[str, Entry]
    recipe: str = "starter"
    about: str = ""


def parse_design(word: str) -> Design:
    """A design as a person types it: a recipe, then ``+field=value`` for each change; values are YAML.

    Raises `ConfigError` where a change is not of that form, or given twice.

    Example:
        >>> parse_design("starter+vision=film_conv+vision.channels=24+learning_rate=1e-3").settings
        {'vision': 'film_conv', 'vision.channels': 24, 'learning_rate': 0.001}
    """
    recipe, *changes = [word] if Path(word).is_file() else re.split(r"\+(?=[A-Za-z_])", word)
    settings: dict[str, Any] = {}
    for changed in changes:
        name, equals, value = changed.partition("=")
        if not equals:
            raise ConfigError(f"{changed!r} in {word!r} is not of the form field=value; a design is RECIPE+field=value+…")
        if name in settings:
            raise ConfigError(f"{word!r} sets {name} twice")
        settings[name] = _value(value)
    return Design(word, recipe, settings)


def design_lists() -> tuple[str, ...]:
    """Names of the lists of designs that ship with verbot.

    Example:
        >>> "all" in design_lists()
        True
    """
    return tuple(sorted(path.stem for path in LISTS.glob("*.yaml")))


def read_designs(source: str | Path) -> list[Design]:
    """The designs of a list: one of `design_lists`, or a YAML file of a `DesignList`.

    Raises `UnknownNameError` for a name that there is not, `ConfigError` for a file that does not fit.
    """
    path = Path(source)
    if path.suffix not in (".yaml", ".yml"):
        if str(source) not in design_lists():
            raise UnknownNameError("list of designs", str(source), design_lists())
        path = LISTS / f"{source}.yaml"
    found = load_yaml(DesignList, path)
    if not found.designs:
        raise ConfigError(f"{path} lists no designs")
    return [Design(name, entry.recipe or found.recipe, entry.settings, entry.about) for name, entry in found.designs.items()]


def resolve_design(design: Design, budget: Mapping[str, Any] | None = None, seed: int | None = None) -> RunConfig:
    """The complete configuration that a design means.

    Args:
        budget: one of steps, samples and minutes in place of the recipe's; a design's own setting comes before it.
        seed: of everything; the recipe's own if None.

    Raises `ConfigError` with the design's name, and what exists instead of what it names.

    Example:
        >>> run = resolve_design(parse_design("starter+head=flow+execute=3"), {"samples": 1000})
        >>> run.training.network.head.name, run.training.samples, run.training.minutes, run.evaluation.execute
        ('flow', 1000, None, 3)
    """
    try:
        run = change(resolve(design.recipe), budget or {}, seed)
        training, acting = _sort(design.settings, run.training.network)
        run = replace(change(run, training), {"evaluation": acting})
    except VerbotError as error:
        raise ConfigError(f"design {design.name!r}: {error}") from error
    about = design.about or (f"{design.recipe} with {written(design.settings)}" if design.settings else run.about)
    return dataclasses.replace(run, name=design.name, about=about)


def resolve_word(word: str) -> RunConfig:
    """The configuration that a word means: a recipe's name, a YAML file or a design. Raises as `resolve` and `resolve_design` do.

    Example:
        >>> resolve_word("starter+head=flow").training.network.head.name
        'flow'
    """
    design = parse_design(word)
    return resolve_design(design) if design.settings else resolve(design.recipe)


def written(settings: Mapping[str, Any]) -> str:
    """Settings on one line.

    Example:
        >>> written({"head": "flow", "vision.channels": 24})
        'head=flow, vision.channels=24'
    """
    return ", ".join(f"{name}={value}" for name, value in settings.items())


def _value(text: str) -> Any:
    value = yaml.safe_load(text)
    try:  # YAML 1.1 takes 1e-3 for a word
        return float(value) if isinstance(value, str) and re.fullmatch(r"[-+]?[\d.]+[eE][-+]?\d+", value) else value
    except ValueError:
        return value


def _sort(settings: Mapping[str, Any], network: NetworkConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Changes to a `TrainConfig` and to an `EvaluationConfig`, nested as these are."""
    training: dict[str, Any] = {}
    acting: dict[str, Any] = {}
    named: dict[str, Any] = {}
    options: dict[str, dict[str, Any]] = {}
    for path, value in _flat(settings):
        first = path[0]
        if first in PARTS and len(path) == 1:
            named[first] = value
        elif first in PARTS:
            options.setdefault(first, {})[".".join(path[1:])] = value
        elif first == "objectives" and len(path) == 3:
            changed = training.setdefault("network", {}).setdefault("objectives", to_plain(network.objectives))
            changed.setdefault(path[1], {})[path[2]] = value
        elif first in NETWORK and len(path) == 1:
            training.setdefault("network", {})[first] = value
        elif first in ACTING and len(path) == 1:
            acting[first] = value
        elif first in TRAINING and first not in SHARED and len(path) == 1 + (first in NESTED):
            (training if len(path) == 1 else training.setdefault(first, {}))[path[-1]] = value
        else:
            raise _no_setting(".".join(path))
    for kind in dict.fromkeys((*named, *options)):
        chosen = _part(kind, named[kind], None) if kind in named else getattr(network, kind)
        training.setdefault("network", {})[kind] = _part(kind, chosen, options.get(kind))
    return training, acting


def _flat(settings: Mapping[str, Any], outer: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each setting with its path; ``network`` before a network's field may be said or left out."""
    for name, value in settings.items():
        path = (*outer, *str(name).split("."))
        if path in {(nested,) for nested in NESTED} and isinstance(value, Mapping):
            yield from _flat(value, path)
        else:
            yield path[1:] if path[0] == "network" and len(path) > 1 else path, value


def _no_setting(path: str) -> ConfigError:
    first = path.split(".")[0]
    if first in SHARED:
        return ConfigError(f"all designs of a comparison are trained on the same data, so none can set {first!r}")
    nested = {name: typing.get_type_hints(TRAINING[name]) for name in NESTED if name != "network"}
    plain = [name for name in TRAINING if name not in NESTED and name not in SHARED]
    inner = [f"{name}.{field}" for name, fields in nested.items() for field in fields]
    near = difflib.get_close_matches(path, [*NETWORK, *plain, *inner, *ACTING], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    fields = "; ".join(f"{name}.FIELD: {', '.join(found)}" for name, found in nested.items() if path.split(".")[0] == name)
    return ConfigError(
        f"there is no setting {path!r}.{hint} "
        + (
            fields
            or f"Of the network: {', '.join(NETWORK)}, a part's options as in vision.channels; of the training: "
            f"{', '.join(plain)}, fields of {', '.join(nested)} as in augment.grounding_queries; of acting: {', '.join(ACTING)}"
        )
    )


def _part(kind: str, chosen: Any, options: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A part as plain values, its name and options checked against what is registered."""
    registry = _registry(kind)
    if chosen is None and not options and type(None) in typing.get_args(NETWORK[kind]):
        return None
    if chosen is None:
        wanted = f" to set {', '.join(options)} of" if options else ""
        names = registry.names()
        raise ConfigError(f"there is no {kind}{wanted}; name one of {', '.join(names)}, as in {kind}={names[0]}")
    part = chosen if isinstance(chosen, Part) else build(Part, {"name": chosen} if isinstance(chosen, str) else chosen, kind)
    return {"name": part.name, "options": _fit({**part.options, **(options or {})}, registry, part.name, kind)}


def _registry(kind: str) -> Registry[Any]:
    """A network's field is called as its registry's kind begins: ``vision`` is a vision encoder."""
    return next(r for r in vars(registries).values() if isinstance(r, Registry) and r.kind.split()[0] == kind)


def _fit(options: Mapping[str, Any], registry: Registry[Any], name: str, kind: str) -> dict[str, Any]:
    """Options as the factory's signature wants them. Raises `ConfigError` naming the option, and those that there are."""
    factory = registry.get(name)
    known = inspect.signature(factory).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in known):
        return dict(options)
    hints = typing.get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    # What has no default is given by the network: sizes, counts, width.
    fields = [(p.name, _checkable(hints.get(p.name)), field(default=None)) for p in known if p.default is not p.empty]
    fitted: Any = build(dataclasses.make_dataclass("Options", fields), options, f"{kind}={name}")
    return {option: to_plain(getattr(fitted, option)) for option in options}


def _checkable(hint: Any) -> Any:
    """An annotation that plain values can be held against; others are left to the factory."""
    plain = set(typing.get_args(hint) or (hint,)) <= {int, float, bool, str, type(None)}
    return hint if plain or typing.get_origin(hint) is typing.Literal else Any
