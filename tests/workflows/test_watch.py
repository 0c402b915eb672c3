import pytest

from verbot.errors import ConfigError
from verbot.workflows.watch import find_scene, watch


@pytest.mark.parametrize(
    ("text", "goal"),
    [
        ("put the red cube in the blue box", {"verb": "put", "object": "red cube", "receptacle": "blue box"}),
        ("Push the yellow ball to the left.", {"verb": "push", "object": "yellow ball", "direction": "left"}),
        ("grab the green block", {"verb": "pick", "object": "green cube"}),
        ("pick up the green ball", {"verb": "pick", "object": "green ball"}),
    ],
)
def test_a_sentence_finds_a_scene_where_it_can_be_done(text, goal):
    seen = watch(text, lambda env: env.expert())
    assert goal.items() <= seen.goal.items()
    assert seen.instruction == text
    assert seen.success
    assert len(seen.frames) == round(seen.seconds * seen.rate_hz) + 1 + round(seen.rate_hz)
    assert len({frame.shape for frame in seen.frames}) == 1


def test_a_scene_of_your_own_choice():
    found = find_scene("pick up the red cube", "tabletop-starter")
    assert find_scene("pick up the red cube", "tabletop-starter", found["index"]) == found
    with pytest.raises(
        ConfigError, match=r"scene 9 has nothing like 'pick up the white ball'; what can be done there: .*pick up"
    ):
        find_scene("pick up the white ball", "tabletop-starter", 9)


def test_an_env_with_words_of_its_own_is_watched_by_them(monkeypatch):
    watched = watch("follow the yellow line", lambda env: env.expert(), suite="navigation")
    assert watched.success and watched.goal["verb"] == "follow" and watched.goal["object"] == "yellow line"
    monkeypatch.setattr("verbot.workflows.watch.SCENES", 2)
    with pytest.raises(ConfigError, match="no scene fits 'pick up the cube'.*for example: (go|follow)"):
        watch("pick up the cube", lambda env: env.expert(), suite="navigation")


def test_what_cannot_be_done_is_said(monkeypatch):
    monkeypatch.setattr("verbot.workflows.watch.SCENES", 3)
    with pytest.raises(ConfigError, match=r"no scene fits 'dance': it names nothing by color and shape"):
        find_scene("dance", "tabletop-starter")
    with pytest.raises(ConfigError, match=r"it names black box, white ball"):
        find_scene("put the white ball in the black box", "tabletop-starter")
