import dataclasses
import importlib
import inspect
import sys

import pytest

from verbot.errors import ConfigError, UnknownNameError, VerbotDeprecationWarning
from verbot.registry import Registry, options_of, records_of, with_records


def test_a_registered_part_is_found_and_listed():
    parts = Registry("part")
    parts.register("two")(lambda: 2)
    parts.register("one")(lambda: 1)
    assert parts.get("one")() == 1
    assert parts.names() == ("one", "two")


@dataclasses.dataclass(frozen=True)
class Grid:
    rows: int = 2
    columns: int = 3

    def __post_init__(self):
        if self.rows < 1:
            raise ConfigError("a grid has rows")


FINE = Grid(columns=9)


def draw(color, grid=FINE, filled=True):
    return color, grid, filled


def test_the_fields_of_a_record_are_options_of_the_part():
    parts = Registry("part")
    parts.register("draw")(draw)
    assert options_of(draw) == {"rows": 2, "columns": 9, "filled": True}
    assert parts.build("draw", "red") == ("red", FINE, True)
    assert parts.build("draw", "red", rows=5, filled=False) == ("red", Grid(5, 9), False), "the part's own defaults"
    assert parts.build("draw", "red", grid=Grid(1, 1), rows=4) == ("red", Grid(4, 1), True)
    assert FINE.rows == 2
    with pytest.raises(ConfigError, match="a grid has rows"):
        parts.build("draw", "red", rows=0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'row'"):
        parts.build("draw", "red", row=3)
    with pytest.raises(UnknownNameError, match="no part named 'drow'"):
        parts.build("drow", "red")


def test_a_part_without_records_is_built_from_its_options_as_they_are():
    def part(a, b=1, **more):
        return a, b, more

    assert options_of(part) == {"b": 1}
    assert with_records(part, {"b": 2, "c": 3}) == {"b": 2, "c": 3}


def test_no_option_of_a_part_is_two():
    from verbot.models import registries, reward_models
    from verbot.training.rl.rewards.base import rewards

    found = [value for module in (registries, reward_models) for value in vars(module).values() if isinstance(value, Registry)]
    shared = 0
    for registry in (*found, rewards):
        for name in registry.names():
            factory = registry.get(name)
            fields = [field.name for record in records_of(factory).values() for field in dataclasses.fields(record)]
            names = [*inspect.signature(factory).parameters, *fields]
            assert len(names) == len(set(names)), f"{registry.kind} {name}"
            shared += bool(fields)
    assert shared >= 6


def test_an_unknown_name_is_answered_with_the_nearest():
    parts = Registry("head")
    parts.register("regression")(lambda: 0)
    with pytest.raises(UnknownNameError, match=r"no head named 'regresion'\. Did you mean 'regression'\? Known: regression"):
        parts.get("regresion")
    with pytest.raises(UnknownNameError, match=r"no cup named 'tea'\. Known: none"):
        Registry("cup").get("tea")


def test_a_name_is_given_once():
    parts = Registry("part")

    def mine():
        return 1

    parts.register("one")(mine)
    parts.register("one")(mine)  # the same module imported again
    with pytest.raises(ConfigError, match="the part name 'one' is taken by"):
        parts.register("one")(lambda: 2)


def test_a_file_in_the_package_is_enough(tmp_path, monkeypatch):
    package = tmp_path / "zoo_for_test"
    package.mkdir()
    (package / "__init__.py").write_text("from verbot.registry import Registry\nanimals = Registry('animal', package=__name__)\n")
    (package / "cat.py").write_text("from zoo_for_test import animals\n@animals.register('cat')\ndef cat(): return 'meow'\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        from zoo_for_test import animals

        assert "zoo_for_test.cat" not in sys.modules
        assert animals.get("cat")() == "meow"
    finally:
        for name in [name for name in sys.modules if name.startswith("zoo_for_test")]:
            del sys.modules[name]


def test_entry_points_of_other_distributions_are_found(monkeypatch):
    class Point:
        name = "dog"

        def load(self):
            return lambda: "woof"

    monkeypatch.setattr("verbot.registry.entry_points", lambda group: [Point()] if group == "verbot.animals" else [])
    assert Registry("animal", group="verbot.animals").get("dog")() == "woof"


def test_a_former_group_of_entry_points_is_read_and_warns(monkeypatch):
    class Point:
        name = "dog"

        def load(self):
            return lambda: "woof"

    monkeypatch.setattr("verbot.registry.entry_points", lambda group: [Point()] if group == "zoo.old" else [])
    animals = Registry("animal", group="zoo.animals", old_group="zoo.old")
    with pytest.warns(VerbotDeprecationWarning, match="entry-point group zoo.old is now called zoo.animals"):
        assert animals.names() == ("dog",)
    assert animals.get("dog")() == "woof"


def test_an_old_name_stands_for_its_successor_and_warns():
    parts = Registry("part")
    parts.register("new")(lambda: 1)
    parts.alias("old", "new")
    with pytest.warns(VerbotDeprecationWarning, match="the part 'old' is now called 'new'"):
        assert parts.get("old")() == 1
    assert parts.names() == ("new",)


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A package of parts, one of which needs what nobody has."""
    package = tmp_path / "lazy_zoo"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from verbot.registry import Registry\nanimals = Registry('animal', package=__name__, needs=('sys',))\n"
        "plants = Registry('plant', package=__name__)\n"
    )
    (package / "cat.py").write_text("from lazy_zoo import animals as a\n@a.register('cat')\ndef cat(): return 'meow'\n")
    (package / "roc.py").write_text(
        "import torch_of_nobody\nimport lazy_zoo\nfrom lazy_zoo import plants\n"
        "@lazy_zoo.animals.register('roc', needs=('torch_of_nobody',))\n"
        "def roc(): return 'hoo'\n@plants.register('fern')\ndef fern(): return ''\nplants.alias('bracken', 'fern')\n"
    )
    (package / "many.py").write_text(
        "from lazy_zoo import animals\nfor name in ('ant', 'bee'):\n    animals.register(name)(lambda name=name: name)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("lazy_zoo")
    for name in [name for name in sys.modules if name.startswith("lazy_zoo")]:
        del sys.modules[name]


def test_an_alias_in_the_package_is_known_before_its_module_is_imported(zoo):
    with pytest.warns(VerbotDeprecationWarning, match="the plant 'bracken' is now called 'fern'"):
        assert zoo.plants.successor("bracken") == "fern"
    assert "lazy_zoo.roc" not in sys.modules


def test_listing_imports_no_part_and_says_what_is_missing(zoo):
    assert zoo.animals.names() == ("ant", "bee", "cat", "roc")  # a loop's names are known by importing its module alone
    assert {"lazy_zoo.cat", "lazy_zoo.roc"}.isdisjoint(sys.modules)
    assert [zoo.animals.missing(name) for name in ("cat", "roc")] == [(), ("torch_of_nobody",)]
    assert zoo.plants.names() == ("fern",)
    assert zoo.animals.get("cat")() == "meow"
    with pytest.raises(ModuleNotFoundError, match="torch_of_nobody"):
        zoo.animals.get("roc")
    with pytest.raises(UnknownNameError, match="no animal named 'rock'. Did you mean 'roc'"):
        zoo.animals.get("rock")


def test_a_name_in_the_package_is_taken_before_its_module_is_imported(zoo):
    def cat():
        return "mine"

    zoo.animals.names()
    with pytest.raises(ConfigError, match=r"the animal name 'cat' is taken by lazy_zoo\.cat"):
        zoo.animals.register("cat")(cat)
    zoo.plants.register("fern")(cat)
    with pytest.raises(ConfigError, match="the plant name 'fern' is taken by .*cat"):
        zoo.plants.get("fern")
