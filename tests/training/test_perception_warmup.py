"""Perception warm-up: keypoints are trained before the policy, with cached image features afterwards."""

import dataclasses
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))
from test_ppo import SMALL, TOY, toy  # noqa: F401
from toy_world import ToyEnv

from verbot.envs import make_env
from verbot.errors import ConfigError
from verbot.models.network import Part
from verbot.policy.policy import VLAPolicy
from verbot.rollout.collect import CollectConfig, request_for
from verbot.rollout.episode import EpisodeRunner, final, play
from verbot.training import read_log
from verbot.training.rl import ppo as running
from verbot.training.rl import train_ppo
from verbot.training.rl.actor_critic import ActorCritic, ObservationEncoder
from verbot.training.rl.config import EnvConfig, PerceptionWarmup, ReinforceInitConfig
from verbot.training.rl.curriculum import Curriculum
from verbot.training.rl.envs import SAMPLE_STEPS, EnvRunner, EnvRunnerPlan, RunState

NAVIGATION = EnvConfig("navigation", num_envs=8)
QUERY_CONV = Part("query_conv", {"channels": 4, "features": 8, "heatmaps": 4})


def _actor_and_observation(config):
    """An actor of a new policy, and one observation with known keypoints."""
    policy = running.initial_policy(config)
    encoder = ObservationEncoder(policy, features=config.perception_warmup is not None)
    grounded, _ = EnvRunner(ToyEnv(), CollectConfig(env="toy"), 0, 1, EnvRunnerPlan()).begin()
    grounded = dataclasses.replace(grounded, points=np.full((1, 1, 3, 2), 0.25, np.float32), known=np.ones((1, 1, 3), bool))
    obs = {name: torch.as_tensor(value) for name, value in encoder.encode([grounded]).items()}
    return ActorCritic(encoder.space, None, lambda left: 1e-3, policy=policy, encoder=encoder, config=config), obs


def _moved(actor, loss):
    """The first two names of every part with a gradient of `loss`."""
    actor.zero_grad(set_to_none=True)
    loss.sum().backward()
    return {".".join(name.split(".")[:2]) for name, p in actor.named_parameters() if p.grad is not None and p.grad.any()}


def test_the_warm_up_trains_perception_only_and_the_policy_gradient_the_rest(toy):  # noqa: F811
    first = dataclasses.replace(
        TOY, network=dataclasses.replace(SMALL, vision=QUERY_CONV), keypoint_weight=1.0, perception_warmup=PerceptionWarmup(1)
    )
    actor, obs = _actor_and_observation(first)
    action = torch.zeros(1, 1)
    actor.train_perception(only=True)
    values, chances, entropy = actor.evaluate_actions(obs, action)
    assert not chances.requires_grad and not entropy.requires_grad
    assert _moved(actor, values) == {"network.vision", "network.language", "network.sentence"}
    actor.train_perception(only=False)
    values, chances, _ = actor.evaluate_actions(obs, action)
    moved = _moved(actor, values + chances)
    assert {"network.fusion", "network.head"} <= moved
    assert not moved & {"network.vision", "network.language", "network.sentence"}, "perception is frozen"
    assert actor.keypoint_errors[-1] > 0, "the keypoint error is still reported"


def test_the_keypoint_loss_may_continue_to_train_perception(toy):  # noqa: F811
    first = PerceptionWarmup(1, lr_multiplier=0.5)
    network = dataclasses.replace(SMALL, vision=QUERY_CONV)
    actor, obs = _actor_and_observation(dataclasses.replace(TOY, network=network, keypoint_weight=1.0, perception_warmup=first))
    obs = {name: value.repeat(16, *[1] * (value.ndim - 1)) for name, value in obs.items()}
    perception = {"network.vision", "network.language", "network.sentence"}
    actor.train_perception(only=False)
    values, chances, _ = actor.evaluate_actions(obs, torch.zeros(16, 1))
    assert len(values) == len(chances) == 16
    assert _moved(actor, values) >= perception, "the values carry the keypoint loss"
    moved = _moved(actor, actor.evaluate_actions(obs, torch.zeros(16, 1))[1])
    assert not moved & perception, "the policy gradient does not train perception"
    assert [group["lr_multiplier"] for group in actor.optimizer.param_groups] == [0.5, 1.0, 1.0]
    named = {id(p): name for name, p in actor.named_parameters()}
    assert {".".join(named[id(p)].split(".")[:2]) for p in actor.optimizer.param_groups[0]["params"]} == perception


def test_after_the_warm_up_images_are_encoded_once(toy):  # noqa: F811
    first = dataclasses.replace(
        TOY, network=dataclasses.replace(SMALL, vision=QUERY_CONV), keypoint_weight=1.0, perception_warmup=PerceptionWarmup(1)
    )
    actor, obs = _actor_and_observation(first)
    blind = {**obs, "images": torch.zeros_like(obs["images"])}
    chance = actor.log_probs(obs, torch.ones(1, 1))
    assert torch.equal(chance, actor.log_probs(blind, torch.ones(1, 1)))
    actor.train_perception(only=True)
    seen, missed = (actor.evaluate_actions(x, torch.ones(1, 1))[1] for x in (obs, blind))
    assert torch.allclose(seen, chance) and not torch.allclose(missed, chance), "during the warm-up, images are encoded"


def test_a_vision_encoder_that_depends_on_the_instruction_has_no_warm_up(toy):  # noqa: F811
    with pytest.raises(ConfigError, match="'film_conv' does not"):
        _actor_and_observation(dataclasses.replace(TOY, keypoint_weight=1.0, perception_warmup=PerceptionWarmup(1)))


def test_without_a_warm_up_rewards_train_perception_too(toy):  # noqa: F811
    actor, obs = _actor_and_observation(dataclasses.replace(TOY, keypoint_weight=1.0))
    assert "network.vision" in _moved(actor, actor.evaluate_actions(obs, torch.zeros(1, 1))[1])


def test_warm_up_samples_lie_along_the_trajectory_of_an_expert():
    plays = CollectConfig(env="navigation-compass", tasks=("follow",))
    with closing(make_env("navigation-compass")) as env:
        runner = EnvRunner(env, plays, 0, 1, EnvRunnerPlan(curriculum=Curriculum()))
        runner.run_state = RunState(warmup=True)
        infos, covered = zip(*((runner.begin()[1], max(env.world.covered.values())) for _ in range(30)), strict=True)
        assert covered.count(0) >= 5 and len(set(covered)) >= 8, "on the way to the line, and anywhere along it"
        assert not any("level" in info for info in infos)
        transitions = [runner.step(np.zeros(1, np.float32)) for _ in range(2 * SAMPLE_STEPS)]
        assert [transition.final is not None for transition in transitions] == [*[False] * (SAMPLE_STEPS - 1), True] * 2
        runner.run_state = RunState(reached={"follow": 0})
        assert {runner.begin()[1]["level"] for _ in range(5)} == {0}


def test_warm_up_samples_also_lie_off_the_trajectory():
    plays = CollectConfig(env="navigation-compass", tasks=("follow",))
    with closing(make_env("navigation-compass")) as env:
        runner = EnvRunner(env, plays, 0, 1, EnvRunnerPlan())
        runner.run_state = RunState(warmup=True)
        away = []
        for _ in range(60):
            runner.begin()
            for line in env.world.scene.lines:
                count = env.world.covered[line.name]
                if 5 < count < line.needed:
                    away.append(env.world.distance_m(line.points_m[count]))
        assert len(away) >= 10 and max(away) > 0.4, "an expert alone is never farther than about 0.2 m"


@pytest.mark.parametrize("task", ["follow", "around"])
def test_the_last_warm_up_sample_of_a_trajectory_is_the_one_before_its_end(task):
    class Last:
        """Draws the end of the trajectory, and no steps off it."""

        def random(self):
            return 0.0

        def integers(self, high):
            return 0

    plays = CollectConfig(env="navigation-compass", tasks=(task,))
    with closing(make_env("navigation-compass", render_cameras=False)) as env:
        runner = EnvRunner(env, plays, 0, 1, EnvRunnerPlan())
        for index in range(4):
            request = request_for(plays, (task,), index)
            last = final(play(env, env.expert(0.0), request))
            runner._rng = Last()
            before = runner._advanced(EpisodeRunner(env, request))
            assert before.info["final_error_m"] > 0 and not before.info["success"]
            assert before.step(last.action).info["success"], "one step was missing"


def test_warm_up_may_have_other_tasks():
    plays = CollectConfig(env="navigation-compass", tasks=("go",))
    with closing(make_env("navigation-compass")) as env:
        runner = EnvRunner(env, plays, 0, 1, EnvRunnerPlan(warmup_tasks=("around", "follow", "follow")))
        runner.run_state = RunState(warmup=True)
        sampled = [runner.begin()[1]["task"] for _ in range(9)]
        assert sampled.count("follow") == 6 and sampled.count("around") == 3
        runner.run_state = RunState()
        assert {runner.begin()[1]["task"] for _ in range(3)} == {"go"}


def test_a_task_that_is_not_there_is_refused_before_anything_is_claimed(tmp_path):
    warmup = PerceptionWarmup(1, tasks=("go", "juggle"))
    config = dataclasses.replace(TOY, env=NAVIGATION, keypoint_weight=1.0, perception_warmup=warmup)
    with pytest.raises(ConfigError, match="navigation has no task 'juggle'; it has go, around, follow"):
        train_ppo(config, tmp_path / "run", progress=False)
    with pytest.raises(ConfigError, match="no task 'dance'"):
        dance = dataclasses.replace(NAVIGATION, tasks=("dance",))
        train_ppo(dataclasses.replace(TOY, env=dance), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_the_warm_up_needs_the_keypoint_loss():
    with pytest.raises(ConfigError, match="keypoint_weight is 0"):
        dataclasses.replace(TOY, perception_warmup=PerceptionWarmup(3))
    with pytest.raises(ConfigError, match="updates is -1"):
        PerceptionWarmup(-1)
    with pytest.raises(ConfigError, match="got 0.001, -1"):
        PerceptionWarmup(lr_multiplier=-1)


def test_an_initial_policy_keeps_its_perception(toy, tmp_path):  # noqa: F811
    config = dataclasses.replace(TOY, network=dataclasses.replace(SMALL, vision=QUERY_CONV), keypoint_weight=1.0)
    before = running.initial_policy(config)
    before.save(tmp_path / "warmed")
    config = dataclasses.replace(
        config, init=ReinforceInitConfig(str(tmp_path / "warmed")), perception_warmup=PerceptionWarmup(0)
    )
    after = VLAPolicy.load(train_ppo(config, tmp_path / "run", progress=False).policy).network.state_dict()
    changed = {name.split(".")[0] for name, value in before.network.state_dict().items() if not torch.equal(value, after[name])}
    assert {"fusion", "head"} <= changed and not changed & {"vision", "language", "sentence"}


def test_a_run_looks_at_its_own_rate_and_then_tries_at_the_other(toy, tmp_path):  # noqa: F811
    first = PerceptionWarmup(2, batch_size=32, learning_rate=0.004, lr_multiplier=0.5)
    network = dataclasses.replace(SMALL, vision=QUERY_CONV)
    train_ppo(
        dataclasses.replace(TOY, network=network, keypoint_weight=1.0, perception_warmup=first),
        tmp_path,
        progress=False,
    )
    rates = [line["learning_rate"] for line in read_log(tmp_path) if "learning_rate" in line]
    assert rates == pytest.approx([0.004, 0.002, 0.0005]), "falls to nothing while it looks, and then over the whole run"
