"""Every option of the commands with many, given on the command line without a prefix, reaches the work."""

import inspect
import json
import shlex
from pathlib import Path

import pytest

from verbot import cli
from verbot.data import ImportConfig
from verbot.envs.navigation.env import robot_spec
from verbot.errors import DataError
from verbot.registry import options_of
from verbot.rollout.collect import CollectConfig
from verbot.teleop import TeleopConfig
from verbot.workflows.compare import ComparisonConfig
from verbot.workflows.robustness import RobustnessConfig


def reached(capsys, monkeypatch, target, line):
    """(positional arguments, keywords) with which `target` is called by a command line; every option of the command is in it."""
    found = []

    def work(*given, **named):
        found.append((given, named))
        raise DataError("that will do")

    monkeypatch.setattr(target, work)
    name, rest = cli._command(shlex.split(line))
    for option in options_of(cli.COMMANDS[name]):
        parameter = inspect.signature(cli.COMMANDS[name]).parameters.get(option)
        positional = parameter is not None and "Positional" in str(parameter.annotation)
        flags = ("--" + option.replace("_", "-"), "--no-" + option.replace("_", "-"))
        assert positional or set(flags) & set(rest), f"{option} is not tried"
    with pytest.raises(SystemExit):
        cli.main(shlex.split(line))
    assert capsys.readouterr().err == "verbot: that will do\n"
    (only,) = found
    return only


def given_medians(monkeypatch):
    """The channel medians of the dataset "d"."""
    medians = {"front": (0.1, 0.2, 0.3)}
    monkeypatch.setattr("verbot.data.open_dataset", lambda path: path)
    monkeypatch.setattr("verbot.data.samples.image_statistics.channel_medians", {Path("d"): medians}.get)
    return medians


def test_those_of_collect(capsys, monkeypatch):
    line = (
        "collect demos --suite navigation --episodes 3 --seed 4 --noise 0.2 --tasks go around --axes camera 1 --randomize all 2"
        " --image-size 32 --cameras top --depth --revisit again --captions 5 --max-frames 6 --workers 7 --cluster ray"
        " --images image --truth"
    )
    given, named = reached(capsys, monkeypatch, "verbot.rollout.collect.run", line)
    options = {"image_size": 32, "cameras": ("top",), "depth": True, "captions": 5}
    config = CollectConfig(
        "navigation", 3, 4, 0.2, 7, ("go", "around"), options, {"camera": 1}, {"all": 2}, revisit_env="again", max_frames=6,
        images="image", truth=True,
    )  # fmt: skip
    assert (given, named) == ((config, Path("demos")), {"cluster": "ray"})


def test_those_of_teleop(capsys, monkeypatch):
    line = (
        "teleop demos --suite navigation --by gamepad --policy starter --execute 2 --episodes 3 --seconds 9 --seed 4 --tasks go"
        " --axes camera 1 --image-size 32 --cameras top --depth --captions 5 --host 0.0.0.0 --port 80 --images image"
    )
    (config, out, agent), _ = reached(capsys, monkeypatch, "verbot.teleop.teleoperate", line)
    options = {"image_size": 32, "cameras": ("top",), "depth": True, "captions": 5, "max_seconds": 9.0}
    wanted = TeleopConfig(
        env="navigation", by="gamepad", episodes=3, seed=4, tasks=("go",), axes={"camera": 1}, options=options, host="0.0.0.0",
        port=80, images="image",
    )  # fmt: skip
    assert (config, out, callable(agent)) == (wanted, Path("demos"), True)


def test_those_of_train(capsys, monkeypatch):
    line = "train tiny --data a b --out run --init-from p --minutes 1 --samples 2 --steps 3 --set learning_rate=1e-3 --seed 4"
    line += " --embodiments c --map state=qpos,grip --cache frames"
    given, named = reached(capsys, monkeypatch, "verbot.workflows.train_evaluate.train", line)
    settings = {"minutes": 1.0, "samples": 2, "steps": 3, "init_from": "p", "learning_rate": 1e-3, "embodiments": (Path("c"),)}
    settings |= {"data.features": {"observation.state": ("qpos", "grip")}, "data.cache": "frames"}
    assert (given, named) == (("tiny",), {"out": Path("run"), "data": (Path("a"), Path("b")), "seed": 4, **settings})


def test_those_of_evaluate(capsys, monkeypatch, tmp_path):
    (tmp_path / "words.yaml").write_text("pick: ['lift {object}']\n")
    medians = given_medians(monkeypatch)
    line = (
        f"evaluate starter --suite navigation --episodes 3 --seed 4 --out o --paraphrases {tmp_path}/words.yaml"
        " --instruction-mode blank --axis lighting --strength 3 --align d --execute 2 --sample --cameras top --no-baselines"
        " --videos 5 --workers 6 --cluster ray --device cuda --real-time blend --delay 4 --delay-jitter 1 --drop 0.1"
        " --delay-estimate 0 --think subtask --think-from 9"
    )
    given, named = reached(capsys, monkeypatch, "verbot.workflows.train_evaluate.evaluate", line)
    assert given == ("starter", "navigation") and named.pop("command")
    assert named == {
        "out": Path("o"), "device": "cuda", "episodes": 3, "seed": 4, "mode": "blank", "axes": {"lighting": 3},
        "templates": {"pick": ["lift {object}"]}, "align": medians, "execute": 2, "sample": True,
        "baselines": False, "videos": 5, "workers": 6, "cluster": "ray", "options": {"cameras": ("top",)},
        "real_time": "blend", "delay": 4, "delay_jitter": 1, "drop": 0.1, "delay_estimate": 0,
        "think": "subtask", "think_from": 9,
    }  # fmt: skip


def test_those_of_compare(capsys, monkeypatch):
    line = (
        "compare tiny starter --list all --only x --samples 1 --minutes 2 --steps 3 --data d --suite navigation --episodes 4"
        " --seed 5 --base tiny --conditions blank --no-baselines --workers 6 --out o"
    )
    given, named = reached(capsys, monkeypatch, "verbot.workflows.compare.run_comparison", line)
    budget = {"samples": 1, "minutes": 2.0, "steps": 3}
    config = ComparisonConfig(
        ("tiny", "starter"), "all", ("x",), budget, (Path("d"),), "navigation", 4, 5, "tiny", ("blank",), False, 6
    )
    assert given == (config, Path("o")) and set(named) == {"command"}


def test_those_of_robustness(capsys, monkeypatch):
    medians = given_medians(monkeypatch)
    line = (
        "robustness starter expert --suite navigation --axes camera lighting --strengths 1 3 --no-alone --align d --episodes 4"
        " --seed 5 --workers 6 --out o"
    )
    given, named = reached(capsys, monkeypatch, "verbot.workflows.robustness.robustness", line)
    config = RobustnessConfig("navigation", ("camera", "lighting"), (1, 3), False, medians, 4, 5, 6)
    assert given == (("starter", "expert"), Path("o"), config) and set(named) == {"command"}
    assert options_of(cli.COMMANDS["robustness"])["episodes"] == RobustnessConfig().episodes


def test_those_of_an_import(capsys, monkeypatch, tmp_path):
    spec = robot_spec()
    (tmp_path / "spec.json").write_text(json.dumps(spec.to_json()))
    line = (
        f"data import logs new --format mcap --limit 2 --rate-hz {spec.rate_hz} --robot aloha --spec {tmp_path}/spec.json"
        " --instruction 'fold it' --set split=/x images.front=/y --map action=/z,/w --json"
        " --images image --strict --max-episode-gb 4"
    )
    given, named = reached(capsys, monkeypatch, "verbot.data.importers.convert.import_dataset", line)
    options = {"split": "/x", "images": {"front": "/y"}, "action": ("/z", "/w")}
    config = ImportConfig("mcap", 2, spec.rate_hz, "aloha", spec, "fold it", options, "image", True, 4.0)
    assert (given, named) == ((Path("logs"), Path("new"), config), {"progress": True})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("evaluate starter --strength 3", "--strength does not apply: it concerns a randomization axis, give an --axis too"),
        ("evaluate expert --execute 2", "--execute does not apply: expert is not a policy"),
        ("evaluate random --sample", "--sample does not apply: random is not a policy"),
        ("evaluate expert --device cuda", "--device does not apply: expert is not a policy"),
        ("evaluate expert --align demos", "--align does not apply: expert is not a policy"),
        ("compare a b --data demos", "--data does not apply: without --samples, --minutes or --steps nothing is trained"),
        ("watch lift --window --out film.mp4", "--out does not apply: --window writes no file"),
        ("data annotate demos --instructions words.json --episode 3", "--episode does not apply: with --instructions no page"),
        ("data annotate demos --instructions words.json --port 8123", "--port does not apply: with --instructions no page opens"),
        ("teleop demos --execute 2", "--execute concerns the chunks of a policy: give a --policy too"),
    ],
)
def test_an_option_that_does_not_apply_is_an_error(capsys, line, message):
    with pytest.raises(SystemExit) as stopped:
        cli.main(line.split())
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
