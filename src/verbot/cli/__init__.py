"""The command ``verbot``. Each command imports what it needs when it runs."""

from __future__ import annotations

import contextlib
import difflib
import functools
import io
import os
import select
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from signal import SIGINT
from typing import Any

from verbot.cli.ask import ask_command
from verbot.cli.checks import PATH_ERRORS, RESULT_FOLDERS, check_options, described
from verbot.cli.collect import collect_command, data_annotate_command, teleop_command
from verbot.cli.console import console_command
from verbot.cli.convert import data_export_command, data_import_command
from verbot.cli.corrector import corrector_command
from verbot.cli.edit import data_edit_command
from verbot.cli.evaluate import compare_command, evaluate_command, explain_command, robustness_command, watch_command
from verbot.cli.inspect import (
    data_check_command,
    data_info_command,
    data_lint_command,
    data_view_command,
    doctor_command,
    list_command,
)
from verbot.cli.models import models_check_command, models_fetch_command, models_list_command
from verbot.cli.optimize import optimize_command
from verbot.cli.robot import (
    robot_calibrate_command,
    robot_check_command,
    robot_list_command,
    robot_record_command,
    robot_replay_command,
    robot_teleoperate_command,
)
from verbot.cli.run import run_command
from verbot.cli.serve import serve_command
from verbot.cli.train import config_command, demo_command, reinforce_command, train_command
from verbot.errors import CheckpointWarning, ConfigError, GroundingWarning, VerbotDeprecationWarning, VerbotError, missing
from verbot.folders import is_blank
from verbot.parallel.signals import Stopped, raising
from verbot.registry import options_of
from verbot.text import PrintableStream, printable

COMMANDS: dict[str, Callable[..., int]] = {
    "demo": demo_command,
    "collect": collect_command,
    "teleop": teleop_command,
    "train": train_command,
    "corrector": corrector_command,
    "evaluate": evaluate_command,
    "compare": compare_command,
    "robustness": robustness_command,
    "watch": watch_command,
    "ask": ask_command,
    "run": run_command,
    "explain": explain_command,
    "optimize": optimize_command,
    "serve": serve_command,
    "console": console_command,
    "data annotate": data_annotate_command,
    "data check": data_check_command,
    "data info": data_info_command,
    "data lint": data_lint_command,
    "data view": data_view_command,
    "data edit": data_edit_command,
    "data import": data_import_command,
    "data export": data_export_command,
    "robot list": robot_list_command,
    "robot check": robot_check_command,
    "robot calibrate": robot_calibrate_command,
    "robot teleoperate": robot_teleoperate_command,
    "robot record": robot_record_command,
    "robot replay": robot_replay_command,
    "models list": models_list_command,
    "models fetch": models_fetch_command,
    "models check": models_check_command,
    "list": list_command,
    "config": config_command,
    "doctor": doctor_command,
}
# Former names, which work for one version and warn; each with its successor.
OLD_COMMANDS: dict[str, tuple[Callable[..., int], str]] = {
    "reinforce": (reinforce_command, "train"),
    "gap": (robustness_command, "robustness"),
    "look": (explain_command, "explain"),
}
OLD_OPTIONS: dict[str, dict[str, str]] = {
    "train": {"--start": "--init-from"},
    "compare": {"--designs": "--list"},
    "collect": {"--again": "--revisit", "--first": "--max-frames"},
}
_python_text = warnings.formatwarning
RESUMED = (
    "demo", "collect", "teleop", "train", "evaluate", "compare", "robustness", "optimize",
    "data import", "robot record", "reinforce", "gap",
)  # fmt: skip
OLD_KINDS = {"designs": "comparisons", "reinforcement": "recipes", "scorers": "reward-models"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 for success, 1 if it found errors, 2 if it could not run."""
    warnings.formatwarning = _warning_text
    try:
        try:
            _run(arguments)
        finally:
            sys.stdout.flush()  # here, not at exit, where the error of a closed pipe could not be caught
    except BrokenPipeError:
        _leave_quietly()


def _warning_text(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    """A line without file and code for verbot's own warnings, Python's text for others."""
    if issubclass(category, VerbotDeprecationWarning | CheckpointWarning | GroundingWarning):
        return f"verbot: {printable(str(message))}\n"
    return _python_text(message, category, filename, lineno, line)


def _leave_quietly() -> None:
    """Exit if the reader of the output, such as `head`, has gone. Raises the current error if another pipe broke."""
    output = select.poll()
    output.register(sys.stdout.fileno(), select.POLLOUT)
    if not any(event & (select.POLLERR | select.POLLHUP) for _, event in output.poll(0)):
        raise
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still in the buffer
    sys.exit(0)


def _run(arguments: Sequence[str] | None) -> None:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if arguments in (["--version"], ["-V"]):
            print(f"verbot {sys.modules['verbot'].__version__}")
            sys.exit(0)
        name, rest = _command(arguments)
        if name is None:
            print(_overview(*rest))
            sys.exit(0)
        name, rest = _with_successors(name, rest)
        sys.exit(_called(OLD_COMMANDS[name][0] if name in OLD_COMMANDS else COMMANDS[name], name, rest))
    except (VerbotError, ModuleNotFoundError) as error:
        reported = missing(error) if isinstance(error, ModuleNotFoundError) else error
        if not isinstance(reported, VerbotError):
            raise
        print(f"verbot: {printable(str(reported))}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as stop:
        stopped = stop if isinstance(stop, Stopped) else Stopped(SIGINT)
        print(f"verbot: {stopped}", file=sys.stderr)
        sys.exit(stopped.exit_code)


def _called(function: Callable[..., int], name: str, arguments: Sequence[str]) -> int:
    """What the command's function returns. The fields of a record among its parameters are options without a prefix.

    What it prints is made harmless for a terminal, and a path that cannot be read or written is one line.
    """
    options = _parsed(function, name, arguments)
    check_options(name, options)
    printed = PrintableStream(sys.stdout), PrintableStream(sys.stderr)
    with contextlib.redirect_stdout(printed[0]), contextlib.redirect_stderr(printed[1]):
        try:
            with raising():
                return function(**options)
        except KeyboardInterrupt as stop:
            number, note = (stop.number, stop.note) if isinstance(stop, Stopped) else (SIGINT, "")
            raise Stopped(number, note + ("; the same command goes on" if _resumes(name, options) else "")) from stop
        except OSError as error:
            if error.errno not in PATH_ERRORS:
                raise
            raise ConfigError(described(error, name, options)) from error


def _resumes(name: str, options: Mapping[str, Any]) -> bool:
    """Whether the command saved something that the same command reads: not results of a server, which may be another one then."""
    served = str(options.get("policy", "")).startswith(("ws://", "wss://"))
    return name in RESUMED and not served and not is_blank(Path(options[RESULT_FOLDERS[name]]))


def _parsed(function: Callable[..., int], name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The arguments of the command's function, by name. What is wrong with them is printed, and the exit code is 2."""
    import tyro

    @functools.wraps(function)
    def bound(**options: Any) -> dict[str, Any]:
        return options

    errors = io.StringIO()  # tyro repeats what was typed
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(bound, args=arguments, prog=f"verbot {name}", config=(tyro.conf.OmitArgPrefixes,))
    finally:
        print(printable(errors.getvalue()), end="", file=sys.stderr)


def _command(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The command's name and what is left for it. Raises `ConfigError` with the nearest name.

    None asks for the overview of all commands, or of those of the group that is left, such as ``data``.
    """
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        return None, []
    for words in (2, 1):
        name = " ".join(arguments[:words])
        if name in COMMANDS or name in OLD_COMMANDS:
            return name, arguments[words:]
    group = [name for name in COMMANDS if name.startswith(arguments[0] + " ")]
    if group and (len(arguments) == 1 or arguments[1] in ("-h", "--help", "help")):
        return None, arguments[:1]
    asked = " ".join(arguments[: 2 if group else 1])
    near = difflib.get_close_matches(asked, group or COMMANDS, n=1) if asked not in {name.split()[0] for name in group} else []
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"there is no command {asked!r}.{hint} Known: {', '.join(group or COMMANDS)}")


def _with_successors(name: str, arguments: list[str]) -> tuple[str, list[str]]:
    """The command and its arguments with the current names; warns of a former name of a command or of an option.

    Raises `ConfigError` for an option that another command has.
    """
    if name in OLD_COMMANDS:
        _warn_renamed(f"verbot {name}", f"verbot {OLD_COMMANDS[name][1]}")
    options, found = OLD_OPTIONS.get(name, {}), []
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if option in options:
            _warn_renamed(option, options[option])
            argument = f"{options[option]}{equals}{value}"
        found.append(argument)
    if name == "list" and found and found[0] in OLD_KINDS:
        _warn_renamed(f"verbot list {found[0]}", f"verbot list {OLD_KINDS[found[0]]}")
        found[0] = OLD_KINDS[found[0]]
    if name == "collect":
        name, found = _without_demonstrator(found)
    _check_options(name, found)
    return name, found


def _without_demonstrator(arguments: list[str]) -> tuple[str, list[str]]:
    """The command that ``verbot collect`` with these arguments means, and its arguments: a former ``--by`` chose it."""
    for i, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option == "--by":
            after = i + (1 if equals else 2)
            if "expert" in (value, *arguments[i + 1 : after]):
                _warn_renamed("verbot collect --by expert", "verbot collect")
                return "collect", arguments[:i] + arguments[after:]
            _warn_renamed("verbot collect --by", "verbot teleop --by")
            return "teleop", arguments
    return "collect", arguments


def _check_options(name: str, arguments: list[str]) -> None:
    """Raise `ConfigError` for an option of ``collect`` given to ``teleop``, or the reverse."""
    other = {"collect": "teleop", "teleop": "collect"}.get(name)
    if other is None:
        return
    foreign = options_of(COMMANDS[other]).keys() - options_of(COMMANDS[name]).keys()
    for argument in arguments:
        option = argument.partition("=")[0]
        if option.startswith("--") and option[2:].replace("-", "_") in foreign:
            raise ConfigError(f"{option} is an option of `verbot {other}`, not of `verbot {name}`")


def _warn_renamed(old: str, new: str) -> None:
    warnings.warn(f"{old} is now called {new}; the old name works for one version", VerbotDeprecationWarning, 2)


def _overview(group: str = "") -> str:
    about = (
        f"Commands of verbot {group}."
        if group
        else "Vision-language-action policies for robots: collect, train, evaluate, deploy."
    )
    lines = [f"usage: verbot {group + ' ' if group else ''}COMMAND …", "", about, ""]
    for name, function in COMMANDS.items():
        if group and not name.startswith(f"{group} "):
            continue
        lines.append(f"  {name:<13} {(function.__doc__ or '').splitlines()[0]}")
    return "\n".join(
        [*lines, "", "verbot COMMAND --help explains one and shows an example; verbot --version prints the version."]
    )
