"""Former names of commands and options: they work for one version and warn; and options of another command are refused."""

import subprocess
import sys

import pytest

from verbot import cli
from verbot.errors import DataError, VerbotDeprecationWarning
from verbot.rollout.collect import CollectResult
from verbot.teleop import TeleopResult


def run(capsys, *arguments):
    """(exit code, stdout, stderr) of a command run in this process."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(arguments))
    captured = capsys.readouterr()
    return stopped.value.code or 0, captured.out, captured.err


def test_former_names_of_commands_and_options_work_and_warn(tmp_path, capsys):
    out = tmp_path / "run"
    steps = ("--steps", "2048", "--set", "steps=16", "worlds=2")
    with pytest.warns(VerbotDeprecationWarning, match="verbot reinforce is now called verbot train"):
        code, _, err = run(capsys, "reinforce", "tiny", "--out", str(out), *steps)
    assert (code, "worlds" in err) == (2, True)
    with pytest.warns(VerbotDeprecationWarning, match="--start is now called --init-from"):
        code, _, err = run(capsys, "train", "tiny", "--out", str(out), "--start", str(tmp_path / "none"))
    assert (code, "is not a policy directory" in err) == (2, True)
    with pytest.warns(VerbotDeprecationWarning, match="verbot list designs is now called verbot list comparisons"):
        assert run(capsys, "list", "designs")[1].startswith("comparisons: all")
    with pytest.warns(VerbotDeprecationWarning, match="verbot list scorers is now called verbot list reward-models"):
        assert run(capsys, "list", "scorers")[1].startswith("reward-models: huggingface")


@pytest.mark.parametrize(("old", "new"), [("gap", "robustness"), ("look", "explain")])
def test_former_names_of_commands_run_their_successors(old, new, capsys, monkeypatch):
    monkeypatch.setattr(f"verbot.workflows.{new}.{new}", unavailable)
    with pytest.warns(VerbotDeprecationWarning, match=f"verbot {old} is now called verbot {new}"):
        assert run(capsys, old, "starter", "--episodes" if old == "gap" else "--scenes", "7") == (2, "", "verbot: 7 of starter\n")


def unavailable(policies, where, config=None, *, scenes=None, **settings):
    policy = policies if isinstance(policies, str) else policies[0]
    raise DataError(f"{config.episodes if config else scenes} of {policy}")


def test_a_collection_by_a_person_is_forwarded_to_teleop(tmp_path, capsys, monkeypatch):
    asked = []
    result = TeleopResult("demos", 2, 3, 0, 1.0)
    monkeypatch.setattr("verbot.teleop.teleoperate", lambda config, *rest: asked.append(config) or result)
    for words in (["--by", "gamepad"], ["--by=gamepad"]):
        with pytest.warns(VerbotDeprecationWarning, match="verbot collect --by is now called verbot teleop --by"):
            code, out, _ = run(capsys, "collect", str(tmp_path), *words, "--seconds", "9")
        assert (code, out) == (0, "2 attempts in 3 episodes, 0 simulator errors: demos\n")
        assert (asked[-1].by, asked[-1].options["max_seconds"]) == ("gamepad", 9.0)


def test_former_options_of_a_collection_work_and_warn(capsys, monkeypatch):
    asked = []
    result = CollectResult("demos", 1, 2, 1, 0, 0, 3.0)
    monkeypatch.setattr("verbot.rollout.collect.run", lambda config, out, cluster: asked.append(config) or result)
    with pytest.warns(VerbotDeprecationWarning, match="--again is now called --revisit"):
        assert run(capsys, "collect", "demos", "--again", "tabletop-revisit")[0] == 0
    with pytest.warns(VerbotDeprecationWarning, match="--first is now called --max-frames"):
        assert run(capsys, "collect", "demos", "--first=6")[0] == 0
    assert asked.pop().max_frames == 6
    with pytest.warns(VerbotDeprecationWarning, match="verbot collect --by expert is now called verbot collect"):
        assert run(capsys, "collect", "demos", "--by", "expert", "--episodes", "5")[0] == 0
    assert [(config.revisit_env, config.episodes) for config in asked] == [("tabletop-revisit", 1600), (None, 5)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("collect", "--policy", "starter"), "--policy is an option of `verbot teleop`, not of `verbot collect`"),
        (("collect", "--seconds=9"), "--seconds is an option of `verbot teleop`, not of `verbot collect`"),
        (("teleop", "--noise", "0.1"), "--noise is an option of `verbot collect`, not of `verbot teleop`"),
        (("teleop", "--revisit", "tabletop-revisit"), "--revisit is an option of `verbot collect`, not of `verbot teleop`"),
        (("teleop", "--execute", "2"), "--execute concerns the chunks of a policy: give a --policy too"),
    ],
)
def test_no_option_of_a_collection_is_ignored(words, message, tmp_path, capsys):
    assert run(capsys, *words, str(tmp_path / "demos")) == (2, "", f"verbot: {message}\n")
    assert not (tmp_path / "demos").exists()


def test_a_former_name_is_reported_in_one_line():
    done = subprocess.run([sys.executable, "-m", "verbot", "gap", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr == "verbot: verbot gap is now called verbot robustness; the old name works for one version\n"
