"""Strict configurations: what is not expected is refused by name, and what was written reads back equal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from verbot.configuration import assignments, build, dump_yaml, load_yaml, parse_value, renamed, replace, to_plain
from verbot.errors import ConfigError, VerbotDeprecationWarning


@dataclass(frozen=True)
class Wheel:
    radius_m: float = 0.3
    spokes: int = 12


@dataclass(frozen=True)
class Cart:
    name: str
    wheels: tuple[Wheel, ...] = (Wheel(),)
    spare: Wheel = field(default_factory=Wheel)
    pull: Literal["horse", "person"] = "horse"
    load_kg: float | None = None
    size_m: tuple[float, float] = (1.0, 2.0)
    marks: Mapping[str, Any] = field(default_factory=dict)


def test_plain_values_become_nested_dataclasses_and_back():
    record = {"name": "blue", "wheels": [{"radius_m": 1}, {"spokes": 8}], "load_kg": 2, "size_m": [3, 4], "marks": {"a": [1]}}
    cart = build(Cart, record)
    assert cart == Cart("blue", (Wheel(1.0), Wheel(spokes=8)), load_kg=2.0, size_m=(3.0, 4.0), marks={"a": [1]})
    assert isinstance(cart.load_kg, float)
    assert build(Cart, to_plain(cart)) == cart


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"name": "a", "lode_kg": 1}, r"Cart has no field 'lode_kg'. Did you mean 'load_kg'\? Fields: name, wheels"),
        ({}, r"Cart lacks the field 'name', a str"),
        ({"name": 3}, r"name is 3; expected str"),
        ({"name": "a", "pull": "ox"}, r"pull is 'ox'; expected one of 'horse', 'person'"),
        ({"name": "a", "load_kg": "much"}, r"load_kg is 'much'; expected float"),
        ({"name": "a", "load_kg": float("nan")}, r"load_kg is nan; expected float"),
        ({"name": "a", "size_m": [1]}, r"size_m is \[1\]; expected tuple\[float, float\]"),
        ({"name": "a", "spare": {"spokes": True}}, r"spare.spokes is True; expected int"),
        ({"name": "a", "wheels": [{"spoke": 1}]}, r"wheels\[0\] has no field 'spoke'. Did you mean 'spokes'"),
        ({"name": "a", "spare": 4}, r"spare is 4; expected a mapping of Wheel's fields"),
        ({"name": "a", "marks": 4}, r"marks is 4; expected"),
    ],
)
def test_what_does_not_fit_is_named(record, message):
    with pytest.raises(ConfigError, match=message):
        build(Cart, record)


def test_replace_changes_only_what_is_given():
    cart = replace(Cart("a", spare=Wheel(0.5, 6)), {"spare": {"spokes": 7}, "marks": {"x": 1}})
    assert cart == Cart("a", spare=Wheel(0.5, 7), marks={"x": 1})
    with pytest.raises(ConfigError, match="no field 'nam'. Did you mean 'name'"):
        replace(cart, {"nam": "b"})


def test_yaml_reads_back_equal_and_errors_name_the_file(tmp_path):
    cart = Cart("a", load_kg=1e-3)
    dump_yaml(cart, tmp_path / "cart.yaml")
    assert load_yaml(Cart, tmp_path / "cart.yaml") == cart
    (tmp_path / "bad.yaml").write_text("name: a\nload: 3\n")
    with pytest.raises(ConfigError, match=r"bad.yaml: Cart has no field 'load'"):
        load_yaml(Cart, tmp_path / "bad.yaml")
    (tmp_path / "worse.yaml").write_text("name: [")
    with pytest.raises(ConfigError, match="cannot read the configuration .*worse.yaml"):
        load_yaml(Cart, tmp_path / "worse.yaml")


@renamed(load="cart.load_kg", radius="cart.spare.radius_m", tag="label")
@dataclass(frozen=True)
class Journey:
    cart: Cart
    label: str = ""


def test_old_field_names_are_read_with_a_warning_that_names_their_successors():
    with pytest.warns(VerbotDeprecationWarning, match=r"load → cart.load_kg, radius → cart.spare.radius_m; old names are read"):
        journey = build(Journey, {"cart": {"name": "a"}, "load": 2, "radius": 0.5})
    assert journey == Journey(Cart("a", load_kg=2.0, spare=Wheel(0.5)))
    with pytest.raises(ConfigError, match="given label and also tag, which is its old name"):
        build(Journey, {"cart": {"name": "a"}, "label": "x", "tag": "y"})


def test_a_record_of_an_older_shape_is_made_into_todays():
    def upgrade(record):
        return {"radius_m": record["radii"][0]} if "radii" in record else record

    @renamed(upgrade)
    @dataclass(frozen=True)
    class Hub:
        radius_m: float = 1.0

    assert build(Hub, {"radii": [2.0]}) == Hub(2.0)
    assert build(Hub, {"radius_m": 3.0}) == Hub(3.0)


@dataclass(frozen=True)
class Horse:
    name: Literal["bay", "gray"] = "bay"
    legs: int = 4


@dataclass(frozen=True)
class Stable:
    horse: Horse = field(default_factory=Horse)


def test_the_name_of_a_record_stands_for_it_with_its_defaults():
    assert build(Stable, {"horse": "gray"}) == build(Stable, {"horse": {"name": "gray"}})
    with pytest.raises(ConfigError, match="horse.name is 'red'; expected one of 'bay', 'gray'"):
        build(Stable, {"horse": "red"})


@dataclass(frozen=True)
class Sail:
    area_m2: float


@dataclass(frozen=True)
class Engine:
    power_w: float


@dataclass(frozen=True)
class Boat:
    drives: tuple[Sail | Engine, ...]


def test_the_fields_that_are_given_decide_between_records():
    assert build(Boat, {"drives": [{"power_w": 3}, {"area_m2": 2}]}) == Boat((Engine(3.0), Sail(2.0)))
    with pytest.raises(ConfigError, match=r"drives\[0\] has no field 'pover_w'"):
        build(Boat, {"drives": [{"power_w": 3, "pover_w": 1}]})


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("-2E5", -2e5), ("1.", 1.0), (".5", 0.5), ("1_000", 1000), ("0x10", 16), ("7", 7), ("true", True),
     ("[1e-3, x]", [0.001, "x"]), ("{a: 2e1}", {"a": 20.0}), ("10:30", "10:30"), ("010", "010"), ("e3", "e3"), ("null", None)],
)  # fmt: skip
def test_values_are_yaml_with_the_numbers_of_python(text, value):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


def test_settings_have_a_path_and_a_value():
    assert assignments(["vision=vit", "vision.depth=3"]) == {"vision": "vit", "vision.depth": 3}
    for words, message in (
        (["a"], "'a' is not of the form name=value"),
        (["a=1", "a=2"], "a is set twice"),
        (["a=["], "the value '\\['"),
    ):
        with pytest.raises(ConfigError, match=message):
            assignments(words)
