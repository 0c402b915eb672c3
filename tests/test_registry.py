import sys

import pytest

from verbot.errors import ConfigError, UnknownNameError, VerbotDeprecationWarning
from verbot.registry import Registry


def test_a_registered_part_is_found_and_listed():
    parts = Registry("part")
    parts.register("two")(lambda: 2)
    parts.register("one")(lambda: 1)
    assert parts.get("one")() == 1
    assert parts.names() == ("one", "two")


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


def test_an_old_name_stands_for_its_successor_and_warns():
    parts = Registry("part")
    parts.register("new")(lambda: 1)
    parts.alias("old", "new")
    with pytest.warns(VerbotDeprecationWarning, match="the part 'old' is now called 'new'"):
        assert parts.get("old")() == 1
    assert parts.names() == ("new",)
