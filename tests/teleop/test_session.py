"""Whole teleoperation sessions over a real websocket, with a script that sends keyboard and gamepad input."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scripted import OPTIONS, KeyboardExpert, after, config, demonstrate, ready, teleop_session

from verbot import cli
from verbot.data import WindowConfig, Windows, check_dataset, open_dataset
from verbot.envs import make_env
from verbot.errors import DataError, SimulationError
from verbot.teleop import TeleopResult

SCENES = 9


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """`SCENES` scenes driven by the expert through a gamepad: (dataset, successes, result)."""
    path, won = tmp_path_factory.mktemp("many") / "demos", []

    def script(page, env):
        state = ready(page)
        for _ in range(SCENES):
            state = demonstrate(page, env, state)
            won.append(state["success"])
            state = after(page, "save" if state["success"] else "discard")
            while state is not None and state["phase"] != "ready":
                page.seen()
                state = page.receive()
        if state is not None:
            after(page, "quit")

    with teleop_session(path, script, config(episodes=SCENES)) as result:
        return open_dataset(path), won, result


def test_an_eight_bit_gamepad_suffices_to_succeed(many):
    dataset, won, result = many
    assert len(won) == SCENES
    assert sum(won) == len(dataset) == result.attempts >= SCENES - 1


def test_keys_alone_suffice(tmp_path):
    won = []

    def script(page, env):
        state = ready(page)
        for _ in range(3):
            state = demonstrate(page, env, state, KeyboardExpert)
            won.append(state["success"])
            state = after(page, "save" if state["success"] else "discard")
        after(page, "quit")

    settings = config(by="keyboard", options={**OPTIONS, "max_seconds": 40})
    with teleop_session(tmp_path / "demos", script, settings) as result:
        pass
    assert won == [True] * 3
    assert result.attempts == 3
    assert {episode.extras["by"] for episode in open_dataset(tmp_path / "demos")} == {"keyboard"}


def test_saved_episodes_have_the_fields_of_an_expert_collection_and_the_device(many):
    dataset, *_ = many
    for episode in dataset:
        extras = episode.extras
        assert extras["success"] is True
        assert extras["by"] == "gamepad"
        assert extras["feasible"][0] == extras["goal"]
        assert episode.instruction == extras["instructions"][0]
        assert len(extras["instructions"]) >= 3
        assert 0 < extras["first_contact_frame"] < len(episode)
        assert extras["request"]["split"] == "train"
        assert set(episode.calibration) == {"front", "wrist"}
        assert np.abs(episode.actions[0]).max() > 0
    assert {episode.extras["goal"]["verb"] for episode in dataset} == {"pick", "push", "put"}
    assert check_dataset(dataset.root) == []
    assert len(Windows(dataset, WindowConfig(history=1, chunk=4, keypoints="grounding"))) == sum(map(len, dataset))


def test_replaying_the_recorded_actions_succeeds(many):
    dataset, *_ = many
    env = make_env("tabletop-starter", **OPTIONS)
    episode = dataset[2]
    env.reset(seed=0, options=dict(episode.extras["request"]))
    for action in episode.actions:
        *_, info = env.step(action)
    env.close()
    assert info["success"]


def test_retaking_discarding_typing_and_annotating(tmp_path):
    states = []

    def script(page, env):
        state = ready(page)
        page.say("lift up the object that I mean")  # before the episode it sets the instruction
        states.append(after(page))
        first = demonstrate(page, env, states[-1])
        states.append(after(page, "retake"))
        state = demonstrate(page, env, states[-1])
        assert (first["success"], state["success"]) == (True, True)
        page.say("another way to say it", add=True)
        states.append(after(page, "save"))
        demonstrate(page, env, states[-1])
        states.append(after(page, "discard"))
        demonstrate(page, env, states[-1])
        page.say("an instruction given afterwards")
        states.append(after(page))
        states.append(after(page, "save"))
        states.append(after(page, "next"))
        after(page, "quit")

    with teleop_session(tmp_path / "demos", script) as result:
        pass
    asked, again, saved, discarded, annotated, second, skipped = states
    assert asked["instruction"] == again["instruction"] == "lift up the object that I mean"
    assert (asked["scene"], again["scene"], again["saved"]) == (0, 0, 0)
    assert again["message"].startswith("Discarded; the same scene again.")
    assert (saved["scene"], saved["saved"]) == (1, 1)
    assert saved["message"].startswith("Saved as episode 0.")
    assert (discarded["scene"], discarded["saved"]) == (2, 1)
    assert annotated["instruction"] == "an instruction given afterwards"
    assert (second["scene"], second["saved"], skipped["scene"]) == (3, 2, 4)
    dataset = open_dataset(tmp_path / "demos")
    assert (result.attempts, result.episodes, len(dataset)) == (2, 2, 2)
    one, two = dataset
    assert one.instruction == "lift up the object that I mean"
    assert one.extras["request"]["text"] == one.instruction
    assert one.instructions[-1] == "another way to say it"
    assert "annotated" not in one.extras
    assert two.instruction == "an instruction given afterwards"
    assert two.extras["annotated"] is True
    assert two.extras["request"]["index"] == 2
    assert len(two.instructions) > 3, "of a success, the scene's own wordings stay"


def test_a_failure_is_saved_only_on_request(tmp_path):
    states = []

    def script(page, env):
        ready(page)
        page.pad([0.6, 0, 0, 0])
        after(page)
        page.pad([0, 0, 0, 0])
        states.append(after(page, "save"))
        states.append(after(page, "save"))
        page.say("wave to the right")
        states.append(after(page))
        states.append(after(page, "keep"))
        after(page, "quit")

    with teleop_session(tmp_path / "demos", script):
        pass
    over, refused, described, kept = states
    assert (over["phase"], over["success"]) == ("review", False)
    assert refused["phase"] == "review"
    assert refused["message"].startswith("Not saved: it did not succeed.")
    assert described["message"] == "It will be saved with the instruction 'wave to the right'. K keeps it as a failure."
    assert kept["saved"] == 1
    (episode,) = open_dataset(tmp_path / "demos")
    assert episode.extras["success"] is False
    assert episode.instructions == ("wave to the right",)
    assert "grounding" not in episode.extras, "positions of another goal are not kept"
    assert episode.actions[0][1] > 0, "right in the image is +y"


def test_a_chosen_goal_of_the_scene_is_recorded(tmp_path):
    goals = []

    def script(page, env):
        goals.append(ready(page)["goal"])
        state = after(page, "goal")
        goals.append(state["goal"])
        assert demonstrate(page, env, state)["success"]
        after(page, "save")
        after(page, "quit")

    with teleop_session(tmp_path / "demos", script):
        pass
    (episode,) = open_dataset(tmp_path / "demos")
    drawn, chosen = goals
    assert chosen != drawn
    assert {key: str(value) for key, value in episode.extras["goal"].items()} == chosen
    assert episode.extras["feasible"][0] == episode.extras["goal"]
    assert episode.instruction in episode.extras["grounding"][0]["instructions"] + list(episode.instructions)
    env = make_env("tabletop-starter", **OPTIONS)
    _, info = env.reset(seed=0, options={**episode.extras["request"]})
    env.close()
    assert episode.extras["grounding"][0] == info["grounding"][1]
    assert episode.extras["grounding"][1] == info["grounding"][0]


def test_nothing_moves_before_input_nor_by_a_stick_still_held(tmp_path):
    phases = []

    def script(page, env):
        page.receive()
        page.pad([0.9, 0, 0, 0])  # held from before; it must be released first
        phases.append(after(page, "speed")["phase"])
        page.pad([0, 0, 0, 0])
        phases.append(after(page, "speed")["phase"])
        page.send(type="key", code="KeyW", down=True)
        page.send(type="key", code="KeyW", down=False)
        phases.append(after(page, "speed")["phase"])
        after(page, "quit", "quit")

    with teleop_session(tmp_path / "demos", script) as result:
        pass
    assert phases == ["ready", "ready", "recording"]
    assert result.episodes == 0


SESSION = """
import sys
from scripted import after, config, demonstrate, ready, teleop_session

def script(page, env):
    state = ready(page)
    for _ in range(3):
        state = demonstrate(page, env, state)
        state = after(page, "save")
        print("saved", state["saved"], flush=True)
    page.pad([0.5, 0, 0, 0])
    after(page)
    print("recording", flush=True)
    while True:
        page.pad([0.5, 0, 0, 0])
        after(page, "speed")

with teleop_session(sys.argv[1], script, config(tasks=("pick",))):
    pass
"""


def test_a_killed_session_keeps_saved_episodes_and_continues(tmp_path):
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parents[1] / "src")])}
    command = [sys.executable, "-c", SESSION, str(tmp_path / "demos")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
        lines = [child.stdout.readline() for _ in range(4)]
        time.sleep(0.2)
        child.send_signal(signal.SIGKILL)
    assert lines[-1] == "recording\n"
    saved = int(lines[-2].split()[1])
    assert saved == len(open_dataset(tmp_path / "demos")) == 3
    scenes = []

    def script(page, env):
        state = ready(page)
        scenes.append((state["scene"], state["saved"]))
        after(page, "quit")

    with teleop_session(tmp_path / "demos", script, config(tasks=("pick",))) as result:
        pass
    assert scenes == [(3, 3)]
    assert result.attempts == 3
    assert check_dataset(tmp_path / "demos") == []


def test_a_simulator_fault_costs_only_that_scene(tmp_path):
    states = []

    def script(page, env):
        ready(page)
        genuine = env.step

        def fault(action):
            env.step = genuine
            raise SimulationError("NaN in qpos")

        env.step = fault
        page.pad([0.9, 0, 0, 0])
        states.append(after(page))
        after(page, "quit")

    with teleop_session(tmp_path / "demos", script) as result:
        pass
    assert (states[0]["phase"], states[0]["scene"]) == ("ready", 1)
    assert states[0]["message"].startswith("The simulator faulted (NaN in qpos): nothing of that scene is kept.")
    assert (result.attempts, result.errors) == (0, 1)


def test_keys_without_effect_explain_why(tmp_path):
    messages = []

    def script(page, env):
        ready(page)
        for name in ("discard", "hand_back"):
            messages.append(after(page, name)["message"])
        page.pad([0.9, 0, 0, 0])
        after(page)
        for name in ("next", "keep", "goal", "quit"):
            messages.append(after(page, name)["message"])
        page.say("too late")
        messages.append(after(page)["message"])
        after(page, "quit", "quit")

    with teleop_session(tmp_path / "demos", script) as result:
        pass
    assert [message.split(":")[0].split(";")[0] for message in messages] == [
        "There is nothing to discard", "There is no policy to hand back to", "This episode is not saved",
        "K keeps an episode that is over", "Another goal of this scene can be chosen before it begins.",
        "This episode is not saved. Esc once more quits without it", "Say it before it begins, or when it is over.",
    ]  # fmt: skip
    assert result.episodes == 0


def test_the_command_passes_its_arguments(tmp_path, capsys, monkeypatch):
    asked = []

    def remember(settings, path, make_policy):
        asked.append((settings, path, make_policy))
        return TeleopResult(str(path), 2, 3, 0, 1.0)

    monkeypatch.setattr("verbot.teleop.teleoperate", remember)
    out = str(tmp_path / "demos")
    words = ["teleop", out, "--by", "keyboard", "--episodes", "2", "--seed", "7", "--tasks", "pick", "--port", "8123"]
    assert run(capsys, *words) == (0, f"2 attempts in 3 episodes, 0 simulator errors: {out}\n", "")
    ((settings, path, make_policy),) = asked
    assert (settings.by, settings.episodes, settings.seed, settings.tasks, settings.port) == ("keyboard", 2, 7, ("pick",), 8123)
    assert settings.options == {"image_size": 64, "max_seconds": 60.0}
    assert (settings.host, path, make_policy) == ("127.0.0.1", tmp_path / "demos", None)
    for more, message in (
        (["--execute", "2"], "--execute concerns the chunks of a policy: give a --policy too"),
        (["--axes", "camera_dropout", "1"], "teleoperate without camera_dropout"),
    ):
        code, _, err = run(capsys, "teleop", out, *more)
        assert code == 2
        assert message in err


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(arguments))
    captured = capsys.readouterr()
    return stopped.value.code or 0, captured.out, captured.err


def test_another_robots_dataset_is_refused(many, tmp_path):
    dataset, *_ = many
    with pytest.raises(DataError, match="has another robot spec"):
        with teleop_session(dataset.root, lambda page, env: None, config(options={"image_size": 16})):
            pass
