"""Easy episodes first: a task rises when it is mastered, and only then; a run that goes on knows how far it was."""

from __future__ import annotations

import numpy as np
import pytest

from verbot.errors import ConfigError
from verbot.models.network import NetworkConfig, Part
from verbot.training import read_log
from verbot.training.rl import ReinforceConfig, train_ppo
from verbot.training.rl.config import EnvConfig, PPOConfig, ReinforceParallelismConfig
from verbot.training.rl.curriculum import Curriculum, CurriculumState

QUICK = Curriculum((0.7, 0.8), episodes=10, review=0.25)


def test_a_task_rises_beyond_its_threshold_alone():
    course = CurriculumState(QUICK, 3, ["go", "around"])
    risen = [course.record_episode("go", 0, i % 10 != 0) for i in range(10)]
    assert risen == [False] * 9 + [True] and course.reached == {"go": 1, "around": 0}
    assert not any(course.record_episode("go", 0, True) for _ in range(20)), "what is played again for review does not count"
    assert not any(course.record_episode("go", 1, i % 5 != 0) for i in range(40)), "0.8 is not beyond 0.8"
    assert course.record_episode("go", 1, True) and course.reached["go"] == 2
    assert not any(course.record_episode("go", 2, True) for _ in range(40)), "the last level is the last"


def test_a_course_goes_on_where_it_was():
    course = CurriculumState(QUICK, 3, ["go"])
    for _ in range(9):
        course.record_episode("go", 0, True)
    again = CurriculumState(QUICK, 3, ["go"], course.state())
    assert again.record_episode("go", 0, True) and again.reached == {"go": 1}


def test_levels_are_drawn_as_the_order_says():
    rng = np.random.default_rng(0)
    rising = np.bincount([QUICK.draw(2, 4, rng) for _ in range(4000)], minlength=4) / 4000
    assert rising == pytest.approx([0.125, 0.125, 0.75, 0.0], abs=0.03)
    assert {QUICK.draw(0, 4, rng) for _ in range(50)} == {0}
    even = Curriculum((0.7, 0.8), order="uniform")
    assert np.bincount([even.draw(0, 4, rng) for _ in range(4000)]) / 4000 == pytest.approx([0.25] * 4, abs=0.03)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": "falling"}, "'falling'; expected one of rising, uniform"),
        ({"thresholds": (0.5, 1.0)}, "thresholds are success rates"),
        ({"review": 1.0}, "a review in"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Curriculum(**settings)


def test_levels_and_thresholds_must_fit():
    with pytest.raises(ConfigError, match="this env has 5 levels, which need 4 thresholds; got 2"):
        CurriculumState(QUICK, 5, ["go"])
    with pytest.raises(ConfigError, match="needs an env with levels"):
        CurriculumState(QUICK, 1, ["pick"])


def test_a_run_rises_and_says_so(tmp_path):
    """Everything together, in a worker process; the easiest level of `go` is often won by chance, so a low threshold passes."""
    config = ReinforceConfig(
        env=EnvConfig("navigation-compass", tasks=("go",), num_envs=16),
        network=NetworkConfig(
            vision=Part("film_conv", {"channels": 4, "heatmaps": 4}),
            language=Part("word_embedding", {"layers": 0}),
            width=32,
            chunk=1,
        ),
        curriculum=Curriculum((0.05, 0.99, 0.99, 0.99), episodes=4, review=0.0),
        steps=16 * 24 * 2,
        ppo=PPOConfig(num_steps=24, batch_size=384, epochs=1),
        parallelism=ReinforceParallelismConfig(workers=1),
    )
    train_ppo(config, tmp_path / "run", progress=False)
    assert read_log(tmp_path / "run")[-1]["level go"] == 1.0
    with pytest.raises(ConfigError, match="needs an env with levels"):
        train_ppo(ReinforceConfig(env=EnvConfig("tabletop-starter"), curriculum=Curriculum()), tmp_path / "other", progress=False)
