"""YAML as people type it: plain values only, of a bounded size, with numbers as Python reads them."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

from verbot.errors import ConfigError

MOST_BYTES, MOST_VALUES, MOST_DEPTH = 4 << 20, 200_000, 60
# Integers and floats as Python writes them: YAML 1.1 takes 1e-3 for a word, 010 for 8 and 1:30 for 90.
_INTEGER = re.compile(r"[-+]?(?:0|[1-9](?:_?[0-9])*|0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO][0-7]+)$")
_DIGITS, _EXPONENT = r"[0-9](?:_?[0-9])*", r"[eE][-+]?[0-9]+"
_FLOAT = re.compile(
    rf"[-+]?(?:(?:{_DIGITS}\.(?:{_DIGITS})?|\.{_DIGITS})(?:{_EXPONENT})?|{_DIGITS}{_EXPONENT}|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$"
)


def parse_value(text: str) -> Any:
    """A value as a person types it: YAML, with numbers as Python reads them.

    Raises `ConfigError` for text that is no YAML, sets a name twice, or is nested or repeated by aliases beyond measure.

    Example:
        >>> parse_value("1e-3"), parse_value("[1, 2_000]"), parse_value("{name: vit}"), parse_value("best"), parse_value("")
        (0.001, [1, 2000], {'name': 'vit'}, 'best', None)
    """
    try:
        return _parsed(text)
    except ConfigError as error:
        shown = repr(text) if len(text) <= 80 else f"{text[:60]!r}…"
        raise ConfigError(f"cannot read the value {shown}: {error}") from error


def read_yaml(path: str | Path, what: str = "the configuration") -> Any:
    """The value in a YAML file. Raises `ConfigError` naming the file, as `parse_value` does."""
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ConfigError(f"it has more than {MOST_BYTES >> 20} MiB")
        return _parsed(content.decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {what} {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read {what} {path}: it is not text in UTF-8 (byte {error.start})") from error
    except ValueError as error:  # a `ConfigError` too, and a path with a null character
        raise ConfigError(f"cannot read {what} {path}: {error}") from error


def _parsed(text: str) -> Any:
    import yaml

    try:
        loader = _loader()(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {}, 0)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ConfigError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ConfigError(f"it is nested more than {MOST_DEPTH} levels deep") from error
    except ConfigError:
        raise
    except ValueError as error:  # a date that there is not, or a number of too many digits
        raise ConfigError(str(error)) from error
    except (LookupError, AttributeError, TypeError) as error:  # of PyYAML, as for "!!bool x"
        raise ConfigError(f"a value is not what its tag says ({type(error).__name__}: {error})") from error


def _count(node: Any, counts: dict[int, int], depth: int) -> int:
    """The number of values in `node`, those behind aliases counted wherever they occur. Raises `ConfigError`."""
    import yaml

    if id(node) in counts:
        if not counts[id(node)]:
            raise ConfigError(f"line {node.start_mark.line + 1}: it contains itself")
        return counts[id(node)]
    if depth > MOST_DEPTH:
        raise ConfigError(f"it is nested more than {MOST_DEPTH} levels deep")
    counts[id(node)] = 0  # until its end
    inner = [] if isinstance(node, yaml.ScalarNode) else node.value
    if isinstance(node, yaml.MappingNode):
        names = set[tuple[str, str]]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in names:
                raise ConfigError(f"line {key.start_mark.line + 1}: {key.value} is set twice")
            names |= {(key.tag, str(key.value))}
        inner = [each for pair in node.value for each in pair]
    total = 1 + sum(_count(each, counts, depth + 1) for each in inner)
    if total > MOST_VALUES:
        raise ConfigError(f"it holds more than {MOST_VALUES} values")
    counts[id(node)] = total
    return total


@functools.cache
def _loader() -> Any:
    """A safe YAML loader whose numbers are those of Python."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Plain values only, and no deeper than `MOST_DEPTH`."""

        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            self.depth += 1
            if self.depth > MOST_DEPTH:
                raise ConfigError(f"it is nested more than {MOST_DEPTH} levels deep")
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

    kept = {first: [(tag, rule) for tag, rule in rules if tag not in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")]
            for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()}  # fmt: skip
    Loader.yaml_implicit_resolvers = kept
    Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INTEGER, list("-+0123456789"))
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
    Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(loader.construct_scalar(node), 0))
    return Loader
