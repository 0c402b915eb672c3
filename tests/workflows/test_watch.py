import numpy as np
import pytest

from verbot.agents import ChunkAgent
from verbot.cli import main
from verbot.envs import envs
from verbot.errors import ConfigError
from verbot.policy.storage import STARTER
from verbot.recipes.config import resolve
from verbot.rollout import video
from verbot.workflows import stages
from verbot.workflows import watch as module
from verbot.workflows.load_policy import open_policy
from verbot.workflows.trained_on import EXPERT_SUITES, trained_on
from verbot.workflows.watch import BORDERS, find_scene, watch


def expert(env):
    return env.expert()


def border_of(frame):
    assert (frame[0] == frame[0, 0]).all() and (frame[:, -1] == frame[0, 0]).all()
    return tuple(frame[0, 0])


class Still:
    """Does nothing, so that nothing is reached by chance."""

    def reset(self, instruction):
        self.instruction = instruction

    def act(self, observation):
        assert observation.instruction == self.instruction
        return np.array((0, 0, 0, 0, 0, 0, 1), np.float32)


@pytest.mark.parametrize(
    ("text", "goal", "goal_text"),
    [
        (
            "put the red cube in the blue box",
            {"verb": "put", "object": "red cube", "receptacle": "blue box"},
            "put the red cube in the blue box",
        ),
        ("Push the yellow ball to the left.", {"verb": "push", "object": "yellow ball"}, "push the yellow ball to the left"),
        ("grab the green block", {"verb": "pick", "object": "green cube"}, "pick up the green cube"),
        ("pick up the green ball", {"verb": "pick", "object": "green ball"}, "pick up the green ball"),
        ("leave the green ball alone. grab the red cube", {"verb": "pick", "object": "red cube"}, "pick up the red cube"),
    ],
)
def test_a_sentence_finds_a_scene_where_it_can_be_done(text, goal, goal_text):
    seen = watch(text, expert)
    assert goal.items() <= seen.goal.items()
    assert seen.instruction == text and seen.goal_text == goal_text
    assert seen.success and seen.judgement == "success" and seen.hints == ()
    assert seen.reason.startswith(f"the goal was reached after {seen.seconds:.1f} s")
    assert ("not checked: leave the green ball alone" in seen.reason) == text.startswith("leave")
    assert len(seen.frames) == round(seen.seconds * seen.rate_hz) + 1 + round(seen.rate_hz)
    assert len({frame.shape for frame in seen.frames}) == 1
    assert border_of(seen.frames[-1]) == video.GREEN


def test_a_goal_that_is_not_reached_is_a_failure():
    seen = watch("pick up the red cube", lambda env: Still())
    assert seen.judgement == "failure" and not seen.success
    assert seen.goal == {"verb": "pick", "object": "red cube"}
    assert seen.reason == "the goal was not reached in 6.0 s; 0.05 m were left"
    assert border_of(seen.frames[-1]) == video.RED


@pytest.mark.parametrize(
    ("text", "reason", "holds"),
    [
        ("put the green ball into the yellow bowl", "no object here is called 'yellow bowl'", "green ball"),
        ("do not pick up the red cube", "it says what not to do ('not'); only instructions that say what to do", "red cube"),
        ("burn the red cube", "the grammar does not know the word 'burn'", "red cube"),
        ("pick up the red cube and push it to the left", "it gives 2 commands", "red cube"),
        ("pick up the white ball", "no object here is called 'white ball'", ""),
        ("open the drawer", "tabletop-starter has no task 'open_drawer'", ""),
    ],
)
def test_a_sentence_that_is_not_understood_is_played_and_not_judged(text, reason, holds):
    policy = open_policy("starter")
    seen = watch(text, lambda env: ChunkAgent(policy, 1), trained_on=trained_on("starter"))
    assert seen.judgement == "not judged" and not seen.success
    assert seen.reason.startswith(reason)
    assert seen.goal == {} and seen.goal_text == ""
    assert seen.seconds > 1 and border_of(seen.frames[-1]) == video.GRAY
    assert seen.hints[0].startswith(f"scene {seen.scene} has: ") and holds in seen.hints[0]
    assert seen.hints[1].startswith("can be judged there: ")
    assert not any("--suite" in hint for hint in seen.hints)
    assert len(set(BORDERS.values())) == 3


def test_the_expert_does_not_act_without_a_goal():
    with pytest.raises(ConfigError, match=r"the expert needs a goal, and 'burn the red cube' gives none: .*word 'burn'"):
        watch("burn the red cube", expert)


def test_a_suite_is_hinted_only_where_the_policy_was_trained_on_it():
    assert find_scene("open the drawer", "tabletop-starter", trained_on=EXPERT_SUITES).hints[-1] == (
        "the instruction can be judged with --suite tabletop-full"
    )  # fmt: skip
    for known in ((), ("tabletop-starter",)):
        assert not any("--suite" in hint for hint in find_scene("open the drawer", "tabletop-starter", trained_on=known).hints)
    hints = find_scene("follow the yellow line", "tabletop-starter", trained_on=EXPERT_SUITES).hints
    assert hints[-1].endswith("--suite navigation")


def test_where_a_policy_was_trained_is_read_from_its_card(tmp_path):
    assert trained_on("starter") == trained_on(str(STARTER)) == ("tabletop-starter",)
    assert trained_on("expert") == EXPERT_SUITES
    assert trained_on("ws://nowhere:1") == trained_on(str(tmp_path)) == ()
    for recipe, known in (("starter-ppo", ("tabletop-starter",)), ("multi-task-net", ("tabletop-starter", "navigation-compass"))):
        (tmp_path / "README.md").write_text(stages.card(resolve(recipe)), encoding="utf-8")
        assert trained_on(str(tmp_path)) == known
    card = tmp_path / "README.md"
    for text, expected in (
        ("```yaml\nreinforcement:\n  env: navigation\n```\n", ("navigation",)),
        ("```yaml\ncollection: [\n```\n", ()),
        ("```yaml\ncollection: 3\n```\n", ()),
        ("no settings", ()),
    ):
        card.write_text(text)
        assert trained_on(str(tmp_path)) == expected


def test_nothing_is_searched_for_where_no_object_is_named(monkeypatch):
    resets = []

    def counted(name, **options):
        env = envs.get(name)(**options)
        reset = env.reset

        def count(**arguments):
            resets.append(arguments)
            return reset(**arguments)

        env.reset = count
        return env

    monkeypatch.setattr(module, "make_env", counted)
    assert find_scene("dance", "tabletop-starter").reason == "the grammar does not know the word 'dance'"
    assert len(resets) <= 3
    resets.clear()
    find_scene("burn the red cube", "tabletop-starter")
    assert len(resets) < 40


def test_a_scene_of_your_own_choice():
    found = find_scene("pick up the red cube", "tabletop-starter")
    assert not found.reason
    assert find_scene("pick up the red cube", "tabletop-starter", found.options["index"]) == found
    for text, reason in (
        ("pick up the orange ball", "scene 9 has no orange ball"),
        ("pick up the cube", "scene 22 has more than one cube"),
        ("pick up the white ball", "no object here is called 'white ball'"),
    ):
        assert find_scene(text, "tabletop-starter", 22 if "22" in reason else 9).reason.startswith(reason)


def test_objects_that_no_scene_has_together_are_said(monkeypatch):
    monkeypatch.setattr(module, "SCENES", 2)
    found = find_scene("put the orange ball in the orange box", "tabletop-starter")
    assert found.reason == "none of 2 test scenes has 'orange ball' and 'orange box'"


def test_a_noun_without_color_is_judged_where_it_is_unique():
    found = find_scene("put the red cube in the box", "tabletop-starter")
    assert found.goal_text.startswith("put the red cube in the ") and found.goal_text.endswith(" box")
    assert found.goal_text != "put the red cube in the box"


@pytest.mark.parametrize(
    ("text", "suite", "goal_text"),
    [
        ("open the drawer", "tabletop-full", "open the drawer"),
        ("pick up the cube on the far left", "tabletop-relations", "pick up the leftmost cube"),
        ("follow the yellow line", "navigation", "follow the yellow line"),
    ],
)
def test_every_grammar_is_judged(text, suite, goal_text):
    seen = watch(text, expert, suite=suite)
    assert seen.success and seen.goal_text == goal_text


def test_an_env_without_a_grammar_is_played_and_not_judged(monkeypatch):
    class Wordless:
        """The starter suite without its grammar."""

        def __init__(self, env):
            self._env, self.robot_spec, self.tasks = env, env.robot_spec, env.tasks
            self.reset, self.step, self.expert, self.close = env.reset, env.step, env.expert, env.close

    make = module.make_env
    monkeypatch.setattr(module, "make_env", lambda name, **options: Wordless(make(name, **options)))
    seen = watch("pick up the red cube", lambda env: Still(), scene=4)
    assert seen.judgement == "not judged" and seen.scene == 4
    assert seen.reason == "tabletop-starter has no grammar that could read an instruction"
    assert seen.frames[0].shape[1] > 256


@pytest.mark.parametrize(
    ("text", "first", "goal"),
    [
        ("grab the red block", "success: the goal was reached after", "judged goal: pick up the red cube (scene "),
        ("burn the red cube", "not judged: the grammar does not know the word 'burn'", "judged goal: none (scene "),
    ],
)
def test_the_command_prints_the_judgement_and_the_judged_goal(tmp_path, capsys, text, first, goal):
    with pytest.raises(SystemExit) as stop:
        main(["watch", text, "--out", str(tmp_path / "a.mp4")])
    lines = capsys.readouterr().out.splitlines()
    assert stop.value.code == 0
    assert lines[0].startswith(first) and lines[1] == f"instruction: {text}" and lines[2].startswith(goal)
    assert lines[-1] == str(tmp_path / "a.mp4")
    assert (tmp_path / "a.mp4").stat().st_size > 1000


def test_a_window_without_a_display_fails_before_anything_is_played(monkeypatch, capsys):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setattr(module, "watch", lambda *_, **__: pytest.fail("played"))
    with pytest.raises(SystemExit) as stop:
        main(["watch", "pick up the red cube", "--policy", "expert", "--window"])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1 and "no window" in error and "Leave --window off" in error
