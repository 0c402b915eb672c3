import ast
import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import verbot
from verbot import cli
from verbot.configuration import assignments
from verbot.errors import DataError, VerbotDeprecationWarning
from verbot.policy.opening import load_policy
from verbot.recipes.config import resolve
from verbot.workflows.show_config import field_help

ROOT = Path(__file__).resolve().parents[1]


def run(capsys, *arguments):
    """(exit code, stdout, stderr) of a command run in this process."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(arguments))
    captured = capsys.readouterr()
    return stopped.value.code or 0, captured.out, captured.err


def commands_in(text):
    """Command lines in shell blocks, and in docstrings' examples."""
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))
    return re.findall(r"^(verbot .*)$", blocks, re.MULTILINE) + re.findall(r"^\s*Example: (verbot .*)$", text, re.MULTILINE)


def parse(line):
    """Parse a command line as `verbot` would, without running it."""
    name, rest = cli._command(shlex.split(line)[1:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VerbotDeprecationWarning)
        name, rest = cli._with_successors(name, rest)
    return cli._parsed(cli.OLD_COMMANDS[name][0] if name in cli.OLD_COMMANDS else cli.COMMANDS[name], name, rest)


def test_help_lists_every_command_and_loads_nothing_heavy():
    code = "import sys; from verbot.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\nprint(' '.join(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for name in cli.COMMANDS:
        assert f"  {name} " in out
    assert not {"torch", "mujoco", "pyarrow", "av", "gymnasium"}.intersection(out.splitlines()[-1].split())


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_itself_with_an_example_that_parses(capsys, name):
    code, out, _ = run(capsys, *name.split(), "--help")
    assert code == 0
    assert f"Example: verbot {name}" in out
    examples = commands_in(cli.COMMANDS[name].__doc__)
    assert examples
    for example in examples:
        parse(example)


# Pages whose commands are of today; the notebook keeps those of its time.
PAGES = [
    path.relative_to(ROOT).as_posix()
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    if "notebook" not in path.parts and path.name != "CHANGELOG.md"
]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_in_the_docs_parses(page):
    for line in commands_in((ROOT / page).read_text()):
        if " --help" not in line:
            parse(line)


@pytest.mark.parametrize("page", PAGES)
def test_settings_of_documented_trainings_fit_their_recipes(page):
    for line in commands_in((ROOT / page).read_text()):
        if line.startswith(("verbot train ", "verbot config ")):
            called = parse(line)
            settings = assignments(called.get("set", ()))
            if policy := called.get("init_from"):
                settings = {"init_from": str(policy), **settings}
            resolve(called["recipe"], settings)


@pytest.mark.parametrize("page", PAGES)
def test_documented_calls_of_train_fit_their_recipes(page):
    for block in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
        for call in ast.walk(ast.parse(block)):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "verbot.train":
                settings = {
                    k.arg: ast.literal_eval(k.value) for k in call.keywords if isinstance(k.value, ast.Constant | ast.Dict)
                }
                own = {"out", "data", "seed", "resume", "progress"}
                resolve(call.args[0].value, {name: value for name, value in settings.items() if name not in own})


def test_a_misspelt_command_gets_the_nearest_name(capsys):
    assert run(capsys, "evalute", "x")[::2] == (
        2,
        f"verbot: there is no command 'evalute'. Did you mean 'evaluate'? Known: {', '.join(cli.COMMANDS)}\n",
    )
    code, _, err = run(capsys, "data", "chekc", "x")
    assert code == 2
    assert "there is no command 'data chekc'. Did you mean 'data check'? Known: data annotate, data check, data info, " in err


@pytest.mark.parametrize("arguments", [["data"], ["data", "--help"]])
def test_a_group_lists_its_commands(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    listed = capsys.readouterr().out
    assert stop.value.code == 0 and "data import" in listed and "data check" in listed and "evaluate" not in listed


def test_errors_on_purpose_have_no_traceback(capsys, monkeypatch):
    def broken() -> int:
        """Break.

        Example: verbot broken
        """
        raise DataError("the file is torn")

    monkeypatch.setitem(cli.COMMANDS, "broken", broken)
    assert run(capsys, "broken") == (2, "", "verbot: the file is torn\n")


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["list"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_enough_ends_the_command_silently(arguments, unbuffered):
    reader, writer = os.pipe()
    os.close(reader)
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run([sys.executable, "-m", "verbot", *arguments], env=env, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_another_broken_pipe_is_no_silent_exit():
    code = "import sys\nfrom verbot import cli\ndef broken() -> int: raise BrokenPipeError('of a worker')\n"
    code += "cli.COMMANDS['broken'] = broken\ncli.main(['broken'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "BrokenPipeError: of a worker" in done.stderr


def test_the_version_is_said(capsys):
    assert run(capsys, "--version") == (0, f"verbot {verbot.__version__}\n", "")


def test_a_server_that_is_not_there_is_one_typed_line(tmp_path, capsys):
    code, out, err = run(capsys, "evaluate", "ws://127.0.0.1:1", "--suite", "navigation", "--out", str(tmp_path / "out"))
    assert (code, out) == (2, "")
    assert re.fullmatch(r"verbot: no policy server answers at ws://127\.0\.0\.1:1: .*\n", err), err
    assert not (tmp_path / "out").exists()


def test_interruption_is_said(capsys, monkeypatch):
    def endless() -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "endless", endless)
    assert run(capsys, "endless") == (130, "", "verbot: interrupted\n")


def test_list_knows_the_parts(capsys):
    code, out, _ = run(capsys, "list")
    assert code == 0
    assert re.search(r"^envs: .*tabletop-starter", out, re.MULTILINE)
    assert re.search(r"^heads: .*regression", out, re.MULTILINE)
    assert re.search(r"^recipes: .*starter", out, re.MULTILINE)
    assert run(capsys, "list", "fusions")[1].startswith("fusions: ")
    lists = "all, choices, goals, memory, occluded, relations, seeds, sentences"
    assert run(capsys, "list", "comparisons")[:2] == (0, f"comparisons: {lists}\n")
    assert "no kind of list named 'fusion'. Did you mean 'fusions'" in run(capsys, "list", "fusion")[2]


def test_doctor_finds_a_healthy_machine(capsys):
    code, out, _ = run(capsys, "doctor")
    assert code == 0, out
    assert "ok       camera images:" in out


def test_collect_check_info_and_view(tmp_path, capsys):
    data = tmp_path / "demos"
    code, out, _ = run(capsys, "collect", str(data), "--episodes", "2", "--workers", "1", "--seed", "5", "--tasks", "pick")
    assert code == 0
    assert out.startswith("2 episodes, ")
    code, out, _ = run(capsys, "data", "check", str(data))
    assert (code, out) == (0, f"{data}: all well\n")
    code, out, _ = run(capsys, "data", "info", str(data))
    assert code == 0
    assert "2 episodes" in out
    assert "camera front: 64×64" in out
    video = tmp_path / "one.gif"
    assert run(capsys, "data", "view", str(data), "--episode", "1", "--out", str(video))[0] == 0
    assert video.stat().st_size > 1000
    code, _, err = run(capsys, "data", "view", str(data), "--episode", "2")
    assert code == 2
    assert "has no episode 2; it has 2, counted from 0" in err
    broken = next(data.rglob("*.parquet"))
    broken.write_bytes(broken.read_bytes()[:-20])
    code, out, _ = run(capsys, "data", "check", str(data))
    assert code == 1
    assert broken.name in out


def test_watch_records_the_expert(tmp_path, capsys):
    video = tmp_path / "watch.mp4"
    code, out, _ = run(capsys, "watch", "put the red cube in the blue box", "--policy", "expert", "--out", str(video))
    assert code == 0
    assert out.startswith("success: the goal was reached after ")
    assert video.stat().st_size > 10_000


def test_evaluate_measures_the_expert(tmp_path, capsys):
    words = tmp_path / "words.yaml"
    words.write_text(
        "pick: ['lay hands on the {object}']\npush: ['nudge the {object} to the {direction}']\n"
        "put: ['drop the {object} {preposition} the {receptacle}']\n"
    )
    out = tmp_path / "evaluation"
    arguments = ["expert", "--episodes", "3", "--out", str(out), "--videos", "0", "--no-baselines", "--workers", "1"]
    code, text, _ = run(capsys, "evaluate", *arguments, "--paraphrases", str(words), "--axis", "lighting", "--strength", "3")
    assert code == 0
    assert "success_rate" in text
    for name in ("results.jsonl", "summary.json", "report.html"):
        assert (out / name).stat().st_size > 100
    lines = [line for line in (out / "results.jsonl").read_text().splitlines() if '"lighting": 3' in line]
    assert len(lines) == 3
    assert all(re.search(r"lay hands on|nudge|drop", line) for line in lines)


def test_a_policy_that_is_not_there_is_said(tmp_path, capsys):
    code, _, err = run(capsys, "evaluate", str(tmp_path), "--out", str(tmp_path / "out"))
    assert code == 2
    assert "is not a policy directory: it has no manifest.json" in err


def test_train_takes_settings_and_names_a_wrong_one(tmp_path, capsys):
    out = tmp_path / "run"
    code, text, _ = run(capsys, "train", "tiny", "--out", str(out), "--steps", "2", "--set", "augment.relabel=0.5", "keep=best")
    assert code == 0
    assert text.startswith("2 steps, 16 samples in ")
    config = (out / "config.yaml").read_text()
    assert "relabel: 0.5" in config
    assert "keep: best" in config
    code, _, err = run(capsys, "train", "tiny", "--out", str(tmp_path / "other"), "--set", "batch_sise=8")
    assert code == 2
    assert "Did you mean 'batch_size'?" in err
    code, _, err = run(capsys, "train", "tiny", "--set", "batch_size")
    assert (code, err) == (2, "verbot: 'batch_size' is not of the form name=value\n")


def test_train_starts_with_a_policy_whose_network_it_keeps(tmp_path, capsys):
    first, data = tmp_path / "first", ("--data", str(tmp_path / "first" / "dataset"))
    run(capsys, "train", "tiny", "--out", str(first), "--steps", "1")
    again = ("--init-from", str(first / "policy"), "--out", str(tmp_path / "second"), "--steps", "1")
    code, _, _ = run(capsys, "train", "tiny", *data, *again, "--set", "lora.rank=2")
    assert code == 0
    assert load_policy(tmp_path / "second" / "policy").config.chunk == load_policy(first / "policy").config.chunk
    for wrong in (("tiny", "--set", "network.chunk=2"), ("tiny+head=flow",)):
        code, _, err = run(capsys, "train", wrong[0], *data, *again, *wrong[1:])
        assert code == 2
        assert "cannot be set beside init_from: the network and its preprocessing are that policy's" in err


def test_compare_pairs_two_evaluations(tmp_path, capsys):
    for agent in ("expert", "random"):
        arguments = ["--episodes", "2", "--videos", "0", "--no-baselines", "--workers", "1", "--out", str(tmp_path / agent)]
        assert run(capsys, "evaluate", agent, *arguments)[0] == 0
    code, out, _ = run(capsys, "compare", str(tmp_path / "expert"), str(tmp_path / "random"), "--out", str(tmp_path / "c"))
    assert code == 0
    assert "McNemar" in out
    for name in ("comparison.json", "table.json", "table.md", "report.html"):
        assert (tmp_path / "c" / name).is_file()


def test_compare_hands_on_what_was_typed_and_tells_how_it_went(tmp_path, capsys, monkeypatch):
    from verbot.evaluation.comparison.rows import TableRow
    from verbot.evaluation.comparison.table import Table
    from verbot.workflows import compare

    asked = []

    def remember(config, out, **settings):
        asked.append(config)
        return Table("", "a", (TableRow("a", "recipe", error="ValueError: torn"),), {})

    monkeypatch.setattr(compare, "run_comparison", remember)
    arguments = ["tiny", "tiny+chunk=2", "--samples", "640", "--data", "one", "two", "--conditions", "blank", "--no-baselines"]
    code, out, _ = run(capsys, "compare", *arguments, "--list", "all", "--only", "tiny", "head-flow", "--base", "tiny")
    assert code == 1
    assert "error: a: ValueError: torn" in out
    (config,) = asked
    assert config.entries == ("tiny", "tiny+chunk=2")
    assert config.budget == {"samples": 640}
    assert config.data == (Path("one"), Path("two"))
    assert (config.conditions, config.baselines, config.base) == (("blank",), False, "tiny")
    assert (config.list, config.only) == ("all", ("tiny", "head-flow"))


def test_compare_refuses_what_it_cannot_do(tmp_path, capsys):
    for arguments, message in (
        (["tiny+chunks=2", "--steps", "1"], "there is no setting 'chunks'. Did you mean 'chunk'?"),
        (["tiny"], "tiny must be trained: give samples, minutes or steps"),
        (["--list", "al", "--steps", "1"], "there is no list of variants named 'al'. Did you mean 'all'?"),
    ):
        code, _, err = run(capsys, "compare", *arguments, "--out", str(tmp_path / "out"))
        assert code == 2
        assert message in err
    assert not (tmp_path / "out").exists()


def test_an_evaluation_with_errors_exits_with_one(tmp_path, capsys, monkeypatch):
    from verbot.workflows import train_evaluate

    measured = train_evaluate.evaluate(
        "expert", out=tmp_path, episodes=1, videos=0, baselines=False, conditions=(), progress=False
    )
    faulty = dataclasses.replace(measured, errors=1, error_messages=("pick/0: SimulationError: NaN in qpos",))
    monkeypatch.setattr(train_evaluate, "evaluate", lambda *arguments, **settings: faulty)
    code, out, err = run(capsys, "evaluate", "expert", "--out", str(tmp_path))
    assert code == 1
    assert "errors  1" in out
    assert err == "error: pick/0: SimulationError: NaN in qpos\n"


def test_all_axes_are_those_that_the_policy_can_take(tmp_path, capsys):
    verbot.train("tiny", out=tmp_path / "run", steps=1, progress=False)
    policy, out = str(tmp_path / "run" / "policy"), tmp_path / "evaluation"
    code, _, err = run(
        capsys, "evaluate", policy, "--axis", "all", "--episodes", "1", "--workers", "1", "--no-baselines", "--videos", "0",
        "--out", str(out),
    )  # fmt: skip
    assert code == 0, err
    assert f"--axis all leaves out camera_dropout: {policy} cannot do without a camera\n" in err
    axes = json.loads((out / "summary.json").read_text())["config"]["axes"]
    assert "camera_dropout" not in axes and len(axes) == 8


def test_config_prints_what_train_reads(tmp_path, capsys):
    settings = ("--set", "vision=vit", "vision.depth=3", "learning_rate=1e-3", "--seed", "4")
    code, out, _ = run(capsys, "config", "tiny", *settings)
    assert code == 0
    (tmp_path / "recipe.yaml").write_text(out)
    recipe = resolve(tmp_path / "recipe.yaml")
    assert recipe == resolve("tiny+vision=vit+vision.depth=3+learning_rate=1e-3", seed=4)
    assert run(capsys, "config", str(tmp_path / "recipe.yaml"))[1] == out
    code, _, err = run(capsys, "config", "tiny", "--set", "lerning_rate=1e-3")
    assert code == 2
    assert "there is no setting 'lerning_rate'. Did you mean 'learning_rate'?" in err


def test_every_field_of_a_recipe_is_explained(capsys):
    for recipe in ("tiny", "navigation-ppo"):
        unexplained = [found.path for found in field_help(resolve(recipe)) if not found.text]
        assert not unexplained
    code, out, _ = run(capsys, "config", "tiny", "--fields", "--set", "batch_size=16")
    assert code == 0
    assert re.search(r"batch_size \(int\) = 16\n    \w", out)
