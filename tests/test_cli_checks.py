"""What a command refuses before it begins: numbers outside their range, results that cannot be written, values of no meaning."""

import io
import os
import re
import signal
import sys
import typing
from pathlib import Path

import pytest

from verbot import cli
from verbot.cli import checks
from verbot.configuration import build, load_yaml
from verbot.envs import make_env
from verbot.errors import ConfigError
from verbot.ranges import COUNT, FRACTION_BELOW_ONE, POSITIVE, SEED
from verbot.recipes.config import Recipe, resolve
from verbot.registry import options_of, records_of
from verbot.text import PrintableStream, printable, progress_bars
from verbot.training.imitation.config import TrainConfig
from verbot.training.rl.config import PPOConfig
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
        (["collect", "out", "--suite", ""], "there is no env named ''. Known: "),
        (["teleop", "out", "--port", "65536"], "--port is 65536; expected at least 0 and at most 65535"),
        (["data", "edit", "d", "--rate-hz", "inf"], "--rate-hz is inf; expected more than 0"),
        (["teleop", "out", "--host", "a\udcff"], "--host is 'a\\udcff'; expected an address such as 127.0.0.1"),
        (["evaluate", "ws://[::1"], "'ws://[::1' is not the address of a policy server (Invalid IPv6 URL); expected ws://HOST:PORT"),
        (["train", "tiny", "--set", "seed=3"], "--set seed=… does not apply: give --seed"),
        (["config", "tiny", "--set", "learning_rate=-1"], "optimizer.learning_rate is -1.0; expected at least 0"),
        (["collect", "out", "--noise", "inf", "--episodes", "1"], "--noise is inf; expected at least 0"),
        (["config", "tiny", "--set", "ema_decay=2"], "imitation.optimizer.ema_decay is 2.0; expected at least 0 and below 1"),
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


def test_a_folder_that_is_checked_is_never_there(tmp_path, monkeypatch):
    """Another command that starts at once may check it, or the folder above."""
    seen = []
    monkeypatch.setattr(Path, "mkdir", lambda path, *_, **__: seen.append(path))
    monkeypatch.setattr(Path, "rmdir", lambda path: seen.append(path))
    checks.check_folder("--out", tmp_path / "new" / "run")
    checks.check_file("--out", tmp_path / "new" / "video.mp4")
    (tmp_path / "gone").symlink_to("nowhere")
    for out in ("gone/run", "gone", "new/" + "x" * 300):
        with pytest.raises(ConfigError, match="no folder can be written there"):
            checks.check_folder("--out", tmp_path / out)
    with pytest.raises(ConfigError, match="File name too long"):
        checks.check_file("--out", tmp_path / "new" / ("x" * 300))
    assert seen == []


@pytest.mark.parametrize("name", ["tabletop-starter", "navigation"])
def test_an_episode_lasts_a_day_at_most(name):
    for seconds in (float("inf"), 1e9, -1.0):
        with pytest.raises(ConfigError, match="max_seconds is .*; expected at least 0 and at most 86400"):
            make_env(name, max_seconds=seconds)


def test_a_record_names_where_its_field_is_and_takes_what_earlier_runs_recorded():
    record = {"data": {"datasets": ["d"], "rate_hz": -1.0}, "budget": {"steps": 1}}
    with pytest.raises(ConfigError, match=r"^data\.rate_hz is -1\.0; expected more than 0"):
        build(TrainConfig, record)
    jitter = {"brightness": 1.5, "contrast": 2.0, "saturation": 3.0}
    earlier = {"optimizer": {"learning_rate": 0.0}, "validation": {"batches": 0}, "augment": jitter}
    assert build(TrainConfig, record | {"data": {"datasets": ["d"]}} | earlier).optimizer.learning_rate == 0.0
    assert PPOConfig(learning_rate=0.0).learning_rate == 0.0


def test_only_rank_0_needs_a_folder_for_results(monkeypatch):
    options = {"out": Path("/proc/verbot/run")}
    with pytest.raises(ConfigError, match="no folder"):
        checks.check_options("train", options)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    checks.check_options("train", options)


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


def test_a_printable_stream_lets_only_progress_bars_move(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", PrintableStream(shown))
    sys.stderr.writelines(["a\x1b[31m\n", "b\r"])
    with progress_bars():
        sys.stderr.write("\r1 %\x1b[A\x1b[2J")
    assert shown.getvalue() == "a\\x1b[31m\nb\\r" + "\r1 %\x1b[A\\x1b[2J"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 900 + "]" * 900, "it is nested more than 60 levels deep"),
        ("&a [*a]", "it contains itself"),
        ("a: 1\na: 2", "line 2: a is set twice"),
        ("!!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("2020-13-45", "month must be in 1..12"),
        ("9" * 5000, "Exceeds the limit"),
        ("a: !!bool x", "a value is not what its tag says (KeyError: 'x')"),
        ("!!timestamp x", "a value is not what its tag says"),
        ("!!float", "a value is not what its tag says"),
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


@pytest.mark.parametrize(("policy", "saved", "note"), [
    ("expert", True, "; the same command goes on"), ("expert", False, ""), ("ws://127.0.0.1:1", True, ""),
])  # fmt: skip
def test_a_command_says_that_it_goes_on_only_if_it_does(policy, saved, note, capsys, monkeypatch, tmp_path):
    def evaluating(policy: str = "expert", out: Path = tmp_path) -> int:
        (out / ("results.jsonl" if saved else ".lock")).touch()
        os.kill(os.getpid(), signal.SIGTERM)
        return 0

    monkeypatch.setitem(cli.COMMANDS, "evaluate", evaluating)
    assert run(capsys, "evaluate", "--policy", policy) == (143, "", f"verbot: ended by SIGTERM{note}\n")
