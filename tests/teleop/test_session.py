"""Whole lessons over a real websocket, given by a script that sends what a keyboard and a gamepad would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scripted import OPTIONS, KeyboardExpert, after, config, demonstrate, lesson, ready

from verbot import cli
from verbot.data import Windows, check_dataset, open_dataset
from verbot.envs import make_env
from verbot.errors import DataError, SimulationError
from verbot.teleop import TeachResult

SCENES = 9


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """What an expert's hands on a gamepad do in `SCENES` scenes: (dataset, successes)."""
    path, won = tmp_path_factory.mktemp("many") / "demos", []

    def script(page, env):
        state = ready(page)
        for _ in range(SCENES):
            state = demonstrate(page, env, state)
            won.append(state["success"])
            state = after(page, "save" if state["success"] else "discard")
            while state is not None and state["phase"] != "ready":
                page.seen()
                state = page.see()
        if state is not None:
            after(page, "quit")

    with lesson(path, script, config(episodes=SCENES)) as result:
        return open_dataset(path), won, result


def test_a_gamepad_of_eight_bits_is_enough_to_succeed(many):
    dataset, won, result = many
    assert len(won) == SCENES
    assert sum(won) == len(dataset) == result.attempts >= SCENES - 1


def test_keys_alone_are_enough_too(tmp_path):
    won = []

    def script(page, env):
        state = ready(page)
        for _ in range(3):
            state = demonstrate(page, env, state, KeyboardExpert)
            won.append(state["success"])
            state = after(page, "save" if state["success"] else "discard")
        after(page, "quit")

    settings = config(by="keyboard", options={**OPTIONS, "max_seconds": 40})
    with lesson(tmp_path / "demos", script, settings) as result:
        pass
    assert won == [True] * 3
    assert result.attempts == 3
    assert {episode.extras["by"] for episode in open_dataset(tmp_path / "demos")} == {"keyboard"}


def test_what_is_saved_is_what_an_expert_collection_saves_and_who_did_it(many):
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
    assert len(Windows(dataset, history=1, chunk=4, keypoints="grounding")) == sum(map(len, dataset))


def test_replaying_the_recorded_actions_does_it_again(many):
    dataset, *_ = many
    env = make_env("tabletop-starter", **OPTIONS)
    episode = dataset[2]
    env.reset(seed=0, options=dict(episode.extras["request"]))
    for action in episode.actions:
        *_, info = env.step(action)
    env.close()
    assert info["success"]


def test_taking_again_discarding_typing_and_annotating(tmp_path):
    states = []

    def script(page, env):
        state = ready(page)
        page.say("lift up the thing that I mean")  # before: the scene is asked for in these words
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
        page.say("what I did, told after")
        states.append(after(page))
        states.append(after(page, "save"))
        states.append(after(page, "next"))
        after(page, "quit")

    with lesson(tmp_path / "demos", script) as result:
        pass
    asked, again, saved, discarded, told, second, skipped = states
    assert asked["instruction"] == again["instruction"] == "lift up the thing that I mean"
    assert (asked["scene"], again["scene"], again["saved"]) == (0, 0, 0)
    assert again["message"].startswith("Discarded; the same scene again.")
    assert (saved["scene"], saved["saved"]) == (1, 1)
    assert saved["message"].startswith("Saved as episode 0.")
    assert (discarded["scene"], discarded["saved"]) == (2, 1)
    assert told["instruction"] == "what I did, told after"
    assert (second["scene"], second["saved"], skipped["scene"]) == (3, 2, 4)
    dataset = open_dataset(tmp_path / "demos")
    assert (result.attempts, result.episodes, len(dataset)) == (2, 2, 2)
    one, two = dataset
    assert one.instruction == "lift up the thing that I mean"
    assert one.extras["request"]["text"] == one.instruction
    assert one.instructions[-1] == "another way to say it"
    assert "annotated" not in one.extras
    assert two.instruction == "what I did, told after"
    assert two.extras["annotated"] is True
    assert two.extras["request"]["index"] == 2
    assert len(two.instructions) > 3, "of a success, the scene's own wordings stay"


def test_a_failure_is_saved_only_if_the_person_says_so(tmp_path):
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

    with lesson(tmp_path / "demos", script):
        pass
    over, refused, told, kept = states
    assert (over["phase"], over["success"]) == ("review", False)
    assert refused["phase"] == "review"
    assert refused["message"].startswith("Not saved: it did not succeed.")
    assert told["message"] == "It will be saved with the instruction 'wave to the right'. K keeps it as a failure."
    assert kept["saved"] == 1
    (episode,) = open_dataset(tmp_path / "demos")
    assert episode.extras["success"] is False
    assert episode.instructions == ("wave to the right",)
    assert "grounding" not in episode.extras, "the places of another goal are not those of what was done"
    assert episode.actions[0][1] > 0, "right in the picture is +y"


def test_another_goal_of_the_scene_is_the_one_that_is_recorded(tmp_path):
    goals = []

    def script(page, env):
        goals.append(ready(page)["goal"])
        state = after(page, "goal")
        goals.append(state["goal"])
        assert demonstrate(page, env, state)["success"]
        after(page, "save")
        after(page, "quit")

    with lesson(tmp_path / "demos", script):
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


def test_nothing_moves_before_the_person_does_nor_by_what_is_still_held(tmp_path):
    phases = []

    def script(page, env):
        page.see()
        page.pad([0.9, 0, 0, 0])  # held from before: it must be let go first
        phases.append(after(page, "speed")["phase"])
        page.pad([0, 0, 0, 0])
        phases.append(after(page, "speed")["phase"])
        page.send(type="key", code="KeyW", down=True)
        page.send(type="key", code="KeyW", down=False)
        phases.append(after(page, "speed")["phase"])
        after(page, "quit", "quit")

    with lesson(tmp_path / "demos", script) as result:
        pass
    assert phases == ["ready", "ready", "recording"]
    assert result.episodes == 0


LESSON = """
import sys
from scripted import after, config, demonstrate, lesson, ready

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

with lesson(sys.argv[1], script, config(tasks=("pick",))):
    pass
"""


def test_a_kill_in_the_middle_leaves_all_that_was_saved_and_the_lesson_goes_on(tmp_path):
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parents[1] / "src")])}
    command = [sys.executable, "-c", LESSON, str(tmp_path / "demos")]
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

    with lesson(tmp_path / "demos", script, config(tasks=("pick",))) as result:
        pass
    assert scenes == [(3, 3)]
    assert result.attempts == 3
    assert check_dataset(tmp_path / "demos") == []


def test_a_fault_of_the_simulator_costs_that_scene_only(tmp_path):
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

    with lesson(tmp_path / "demos", script) as result:
        pass
    assert (states[0]["phase"], states[0]["scene"]) == ("ready", 1)
    assert states[0]["message"].startswith("The simulator faulted (NaN in qpos): nothing of that scene is kept.")
    assert (result.attempts, result.errors) == (0, 1)


def test_keys_that_mean_nothing_now_say_why(tmp_path):
    told = []

    def script(page, env):
        ready(page)
        for name in ("discard", "hand_back"):
            told.append(after(page, name)["message"])
        page.pad([0.9, 0, 0, 0])
        after(page)
        for name in ("next", "keep", "goal", "quit"):
            told.append(after(page, name)["message"])
        page.say("too late")
        told.append(after(page)["message"])
        after(page, "quit", "quit")

    with lesson(tmp_path / "demos", script) as result:
        pass
    assert [message.split(":")[0].split(";")[0] for message in told] == [
        "There is nothing to discard", "There is no policy to hand back to", "This episode is not saved",
        "K keeps an episode that is over", "Another goal of this scene can be chosen before it begins.",
        "This episode is not saved. Esc once more quits without it", "Say it before it begins, or when it is over.",
    ]  # fmt: skip
    assert result.episodes == 0


def test_the_command_hands_on_what_was_typed(tmp_path, capsys, monkeypatch):
    asked = []

    def remember(settings, path, make_policy):
        asked.append((settings, path, make_policy))
        return TeachResult(str(path), 2, 3, 0, 1.0)

    monkeypatch.setattr("verbot.teleop.teach", remember)
    out = str(tmp_path / "demos")
    words = ["collect", out, "--by", "keyboard", "--episodes", "2", "--seed", "7", "--tasks", "pick", "--port", "8123"]
    assert run(capsys, *words) == (0, f"2 attempts in 3 episodes, 0 simulator errors: {out}\n", "")
    ((settings, path, make_policy),) = asked
    assert (settings.by, settings.episodes, settings.seed, settings.tasks, settings.port) == ("keyboard", 2, 7, ("pick",), 8123)
    assert settings.options == {"image_size": 64, "max_seconds": 60.0}
    assert (settings.host, path, make_policy) == ("127.0.0.1", tmp_path / "demos", None)
    for more, message in (
        (["--policy", "starter"], "--policy is what a person corrects: give --by keyboard or --by gamepad"),
        (["--by", "keyboard", "--again", "tabletop-revisit"], "--again is for the experts"),
        (["--by", "keyboard", "--axes", "camera_dropout", "1"], "teleoperate without camera_dropout"),
    ):
        code, _, err = run(capsys, "collect", out, *more)
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
        with lesson(dataset.root, lambda page, env: None, config(options={"image_size": 16})):
            pass
