"""What a command refuses before it begins: numbers outside their range, results that cannot be written, values of no meaning."""

import os
import re
import signal
import typing
from pathlib import Path

import pytest

from verbot import cli
from verbot.cli import checks
from verbot.configuration import load_yaml
from verbot.errors import ConfigError
from verbot.ranges import COUNT, FRACTION_BELOW_ONE, POSITIVE, SEED
from verbot.recipes.config import Recipe, resolve
from verbot.registry import options_of, records_of
from verbot.text import printable
from verbot.yaml_values import parse_value


def run(capsys, *arguments):
    """(exit code, stdout, stderr) of a command run in this process."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(arguments))
    captured = capsys.readouterr()
    return stopped.value.code or 0, captured.out, captured.err


def numbers(command):
    """The names of a command's options that are numbers."""
    hints = typing.get_type_hints(command)
    for record in records_of(command).values():
        hints |= typing.get_type_hints(type(record))
    for option in options_of(command):
        if re.search(r"\b(int|float)\b", str(hints[option])) and "Literal" not in str(hints[option]):
            yield option


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_number_of_a_command_has_a_range(name):
    assert [option for option in numbers(cli.COMMANDS[name]) if option not in checks.RANGES] == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["collect", "out", "--workers", "-3"], "--workers is -3; expected at least 0"),
        (["collect", "out", "--noise", "nan"], "--noise is nan; expected at least 0"),
        (["collect", "out", "--axes", "lighting", "4"], "--axes.lighting is 4; expected at least 0 and at most 3"),
        (["train", "tiny", "--steps", "-1"], "--steps is -1; expected at least 1"),
        (["train", "tiny", "--seed", "9" * 40], "--seed is a number of more than 30 digits; expected at most 4294967295"),
        (["evaluate", "expert", "--episodes", "-1"], "--episodes is -1; expected at least 1"),
        (["teleop", "out", "--port", "65536"], "--port is 65536; expected at least 0 and at most 65535"),
        (["data", "edit", "d", "--rate-hz", "inf"], "--rate-hz is inf; expected more than 0"),
        (["teleop", "out", "--host", "a\udcff"], "--host is 'a\\udcff'; expected an address such as 127.0.0.1"),
        (["evaluate", "ws://[::1"], "'ws://[::1' is not the address of a policy server (Invalid IPv6 URL); expected ws://HOST:PORT"),
        (["train", "tiny", "--set", "seed=3"], "--set seed=… does not apply: give --seed"),
        (["config", "tiny", "--set", "learning_rate=-1"], "learning_rate is -1.0; expected more than 0"),
        (["config", "tiny", "--set", "ema_decay=2"], "ema_decay is 2.0; expected at least 0 and below 1"),
        (["config", "tiny", "--set", "seed=text"], "stages[0].imitation.seed is 'text'; expected int"),
        (["watch", "a cube", "--out", "\x1b[31m/" + "x" * 300 + ".gif"], r"\x1b[31m/xxx"),
    ],
)  # fmt: skip
def test_a_value_of_no_meaning_is_one_line(line, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *line)
    assert (code, out) == (2, "")
    assert err.startswith("verbot: ") and err.count("\n") == 1 and "\x1b" not in err
    assert said in err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("file", "which is a file; expected a folder"),
        ("file/below", "and no folder can be written there: "),
        ("/proc/verbot/below", "and no folder can be written there: "),
        ("x" * 300, "File name too long"),
    ],
)
def test_results_that_cannot_be_written_are_refused_before_the_work(out, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("kept")
    for command in (["train", "tiny"], ["evaluate", "expert"], ["demo"]):
        code, _, err = run(capsys, *command, "--out", out)
        assert code == 2 and err.count("\n") == 1
        assert f"verbot: --out is {out}, " in err and said in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "kept"


def test_a_folder_that_can_be_written_is_left_as_it_was(tmp_path):
    checks.check_folder("--out", tmp_path / "new" / "run")
    checks.check_file("--out", tmp_path / "new" / "video.mp4")
    assert not any(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="which is a folder; expected a file"):
        checks.check_file("--out", tmp_path)


def test_what_the_parser_repeats_is_printable(capsys):
    code, _, err = run(capsys, "collect", "out", "--episodes", "\x1b[31mred")
    assert code == 2 and "\x1b" not in err and r"\x1b[31mred" in err


def test_a_path_that_cannot_be_read_is_one_line(capsys, monkeypatch):
    def reading() -> int:
        Path("/dev/null/there").read_text()
        return 0

    monkeypatch.setitem(cli.COMMANDS, "reading", reading)
    assert run(capsys, "reading") == (2, "", "verbot: /dev/null/there cannot be read: Not a directory\n")


def test_text_of_data_controls_no_terminal(capsys, monkeypatch):
    hostile = "red\x1b[31m bell\x07 csi\x9b31m \u202egnp.exe half \udcff\r"

    def showing() -> int:
        print(hostile, "\ttabs\nand lines stay")
        return 0

    monkeypatch.setitem(cli.COMMANDS, "showing", showing)
    code, out, _ = run(capsys, "showing")
    assert code == 0 and out == f"{printable(hostile)} \ttabs\nand lines stay\n"
    assert printable(hostile) == r"red\x1b[31m bell\x07 csi\x9b31m \u202egnp.exe half \udcff\r"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 900 + "]" * 900, "it is nested more than 60 levels deep"),
        ("&a [*a]", "it contains itself"),
        ("a: 1\na: 2", "line 2: a is set twice"),
        ("!!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("2020-13-45", "month must be in 1..12"),
        ("9" * 5000, "Exceeds the limit"),
        ("a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9}]\n" for i in range(1, 9)), "more than 200000 values"),
    ],
)  # fmt: skip
def test_yaml_that_is_none_is_named(text, said, tmp_path):
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        parse_value(text)
    assert len(str(caught.value)) < 400
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(said)):
        load_yaml(Recipe, tmp_path / "recipe.yaml")


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "recipe.yaml").write_bytes(bytes(range(256)))
    with pytest.raises(ConfigError, match="is not text in UTF-8 .byte 128"):
        resolve(tmp_path / "recipe.yaml")


def test_ranges_take_what_is_inside():
    COUNT.check("steps", 1)
    COUNT.check("steps", None)
    SEED.check("seed", 2**32 - 1)
    POSITIVE.check("rates", [1e-9, 3])
    for allowed, value in ((COUNT, True), (COUNT, 1.0), (COUNT, 0), (POSITIVE, 0), (FRACTION_BELOW_ONE, 1), (COUNT, "3")):
        with pytest.raises(ConfigError, match="steps is .*; expected "):
            allowed.check("steps", value)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_signal_ends_a_command_with_its_code(number, code, capsys, monkeypatch):
    def endless() -> int:
        os.kill(os.getpid(), number)
        return 0

    monkeypatch.setitem(cli.COMMANDS, "endless", endless)
    name = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
    assert run(capsys, "endless") == (code, "", f"verbot: {name}\n")
