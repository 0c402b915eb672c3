"""Strict configurations: what is not expected is refused by name, and what was written reads back equal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from verbot.configuration import build, dump_yaml, load_yaml, replace, to_plain
from verbot.errors import ConfigError


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
