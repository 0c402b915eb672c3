"""The command ``verbot``. The only unit that knows everything; each command imports what it needs when it runs."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence

from verbot.cli.collect import collect, data_annotate
from verbot.cli.convert import data_export, data_import
from verbot.cli.evaluate import compare, evaluate, gap, look, watch
from verbot.cli.inspect import data_check, data_info, data_view, doctor, list_parts
from verbot.cli.train import demo, reinforce, train
from verbot.errors import ConfigError, VerbotError, missing

COMMANDS: dict[str, Callable[..., int]] = {
    "demo": demo,
    "collect": collect,
    "train": train,
    "reinforce": reinforce,
    "evaluate": evaluate,
    "compare": compare,
    "gap": gap,
    "data annotate": data_annotate,
    "data check": data_check,
    "data info": data_info,
    "data view": data_view,
    "data import": data_import,
    "data export": data_export,
    "watch": watch,
    "look": look,
    "list": list_parts,
    "doctor": doctor,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 when all is well, 1 when it found errors, 2 when it could not be done."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        name, rest = _command(arguments)
        if name is None:
            print(_overview())
            sys.exit(0)
        import tyro

        sys.exit(tyro.cli(COMMANDS[name], args=rest, prog=f"verbot {name}"))
    except (VerbotError, ModuleNotFoundError) as error:
        told = missing(error) if isinstance(error, ModuleNotFoundError) else error
        if not isinstance(told, VerbotError):
            raise
        print(f"verbot: {told}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("verbot: interrupted", file=sys.stderr)
        sys.exit(130)


def _command(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The command's name (None asks for the overview) and what is left for it. Raises `ConfigError` with the nearest name."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        return None, []
    for words in (2, 1):
        name = " ".join(arguments[:words])
        if name in COMMANDS:
            return name, arguments[words:]
    group = [name for name in COMMANDS if name.startswith(arguments[0] + " ")]
    asked = " ".join(arguments[: 2 if group else 1])
    near = difflib.get_close_matches(asked, group or COMMANDS, n=1) if asked not in {name.split()[0] for name in group} else []
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"there is no command {asked!r}.{hint} Known: {', '.join(group or COMMANDS)}")


def _overview() -> str:
    lines = ["usage: verbot COMMAND …", "", "A robot that sees, is told, and does.", ""]
    for name, function in COMMANDS.items():
        lines.append(f"  {name:<13} {(function.__doc__ or '').splitlines()[0]}")
    return "\n".join([*lines, "", "verbot COMMAND --help explains one and shows an example."])
