"""Learning by trying: what the words mean is found out by reward alone; shaping keeps the optimum; runs go on."""

from __future__ import annotations

import dataclasses
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import save

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))
from toy_world import SPEC, ToyEnv

from verbot.configuration import replace
from verbot.envs import make_env
from verbot.errors import ConfigError, CorruptFileError
from verbot.models.network import NetworkConfig, Part
from verbot.models.objectives.keypoints import keypoint_loss
from verbot.parallel.signals import StopRequest
from verbot.policy.policy import VLAPolicy
from verbot.rollout.collect import CollectConfig
from verbot.spec import Observation
from verbot.training import read_log
from verbot.training.rl import ReinforceConfig, train_ppo
from verbot.training.rl import ppo as running
from verbot.training.rl.actor_critic import ActorCritic, ObservationEncoder
from verbot.training.rl.config import EnvConfig, PPOConfig, RewardShaping
from verbot.training.rl.envs import EnvRunner, EnvRunnerPlan, EnvRunners, GroundedObservation, VecTransition
from verbot.training.rl.rewards.base import EnvReward, PotentialReward, ProgressReward, shaped_reward

SMALL = NetworkConfig(vision=Part("film_conv", {"channels": 4, "heatmaps": 4}), width=32, chunk=1)
TOY = ReinforceConfig(
    env=EnvConfig("toy", num_envs=8),
    network=SMALL,
    steps=8 * 32 * 4,
    ppo=PPOConfig(num_steps=32, batch_size=64, learning_rate=1e-3, log_std=0.0),
    checkpoint_every=2,
)
_CHANGES = {"steps": 2 * 8 * 4, "ppo": {"num_steps": 4, "batch_size": 16}, "parallelism": {"workers": 2}}
TABLETOP = replace(TOY, {"env": {"name": "tabletop-starter", "options": {"image_size": 32}}, **_CHANGES})


class Here:
    """EnvRunners of the toy, in this process."""

    def __init__(self, config: ReinforceConfig, played: int = 0):
        plays = CollectConfig(env="toy", seed=config.seed)
        self.count = config.env.num_envs
        self.runners = [EnvRunner(ToyEnv(), plays, number, self.count, EnvRunnerPlan(played)) for number in range(self.count)]

    def begin(self):
        return [runner.begin() for runner in self.runners]

    def step(self, actions):
        return [runner.step(action) for runner, action in zip(self.runners, actions, strict=True)]

    def set_run_state(self, stage):
        for runner in self.runners:
            runner.run_state = stage

    def close(self):
        pass


NOWHERE = GroundedObservation(
    Observation({}, np.zeros(4, np.float32)), np.zeros((1, 0, 3, 2), np.float32), np.zeros((1, 0, 3), bool)
)


@pytest.fixture
def toy(monkeypatch):
    def survey(config):
        states = np.random.default_rng(0).uniform(-6, 6, (200, 4)).astype(np.float32)
        return SPEC, states, [f"go to {color}" for color in ("red", "green", "blue")]

    monkeypatch.setattr(running, "EnvRunners", Here)
    monkeypatch.setattr(running, "sample_env_statistics", survey)


def closed_loop(policy, scenes: int = 60) -> float:
    envs = [ToyEnv() for _ in range(scenes)]
    live = [(env, env.reset(options={"task": "go", "index": number})[0]) for number, env in enumerate(envs)]
    won = 0
    while live:
        observations = [Observation(record["images"], record["state"], record["instruction"]) for _, record in live]
        left = []
        for (env, _), chunk in zip(live, policy.predict(observations), strict=True):
            record, _, terminated, truncated, info = env.step(chunk.values[0])
            won += info["success"]
            if not (terminated or truncated):
                left.append((env, record))
        live = left
    return won / scenes


def test_reward_alone_teaches_what_the_words_mean(toy, tmp_path):
    config = replace(
        TOY,
        {
            "steps": 12_288,
            "env": {"num_envs": 16},
            "ppo": {"batch_size": 128, "epochs": 8, "entropy_coef": 0.0},
            "reward_shaping": {"progress_weight": 0.5},
        },
    )
    before = closed_loop(running.initial_policy(config))
    result = train_ppo(config, tmp_path / "run", progress=False)
    policy = VLAPolicy.load(result.policy)
    learned, blind = closed_loop(policy), closed_loop(policy.blinded())
    assert before <= 0.2
    assert learned >= 0.5, f"{before:.2f} before, {learned:.2f} after, {blind:.2f} without words"
    assert blind <= 0.35, "who does not hear cannot know where to go"
    log = read_log(tmp_path / "run")
    assert log[-1]["step"] == result.steps == 12_288
    assert log[-1]["success go"] > log[0].get("success go", 0.0)


def test_entropy_matters_less_and_less(toy, tmp_path, monkeypatch):
    class Watched(running.PPO):
        def train(self):
            weights.append(self.ent_coef)
            super().train()

    weights: list[float] = []
    monkeypatch.setattr(running, "PPO", Watched)
    config = replace(TOY, {"steps": 1024, "ppo": {"entropy_coef": 0.008, "entropy_coef_end": 0.0}, "checkpoint_every": 1})
    samples = config.samples_per_update
    train_ppo(config, tmp_path / "run", progress=False)
    assert weights == pytest.approx([0.008 * (1 - done / 1024) for done in range(0, 1024, samples)])


def test_shaping_telescopes_so_that_no_path_earns_more_by_it():
    rng, discount = np.random.default_rng(0), 0.9
    shaped, own = PotentialReward(2.0, discount, 1), EnvReward()
    for truncated in (False, True):
        errors = rng.uniform(0, 1, 8)
        shaped.reset([0], [{"final_error_m": errors[0]}], [])
        gained = 0.0
        for step, error in enumerate(errors[1:]):
            last = NOWHERE if step == 6 else None
            transition = VecTransition(NOWHERE, float(step == 6), {"final_error_m": error}, last, truncated and step == 6)
            actions = np.zeros((1, 1), np.float32)
            gained += discount**step * (shaped([transition], actions)[0] - own([transition], actions)[0])
        ending = -2.0 * errors[-1] * discount**7 if truncated else 0.0
        assert gained == pytest.approx(ending + 2.0 * errors[0])


def test_the_progress_reward_adds_up_to_the_total_progress():
    rng = np.random.default_rng(1)
    left = rng.uniform(0, 3, 6)
    reward, actions = ProgressReward(0.5, 1), np.zeros((1, 1), np.float32)
    reward.reset([0], [{"final_error_m": left[0]}], [])
    earned = [reward([VecTransition(NOWHERE, 0.25, {"final_error_m": now})], actions)[0] for now in left[1:]]
    assert earned == pytest.approx(0.25 + 0.5 * (left[:-1] - left[1:]))
    reward.reset([0], [{"final_error_m": 2.0}], [])
    assert reward([VecTransition(NOWHERE, 0.0, {"final_error_m": 1.0})], actions)[0] == pytest.approx(0.5), (
        "an episode begins anew"
    )
    with pytest.raises(ConfigError, match=r"set one of them \(they are 1 and 0.5\)"):
        RewardShaping(1.0, 0.5)


def test_the_best_so_far_share_counts_only_new_progress():
    left, actions = (2.0, 1.5, 1.8, 1.5, 1.2, 1.2), np.zeros((1, 1), np.float32)

    def earned(share):
        reward = shaped_reward(RewardShaping(0.0, 2.0, share), 0.9, 1)
        reward.reset([0], [{"final_error_m": left[0]}], [])
        return [float(reward([VecTransition(NOWHERE, 0.0, {"final_error_m": now})], actions)[0]) for now in left[1:]]

    assert earned(1.0) == pytest.approx([1.0, 0.0, 0.0, 0.6, 0.0]), "going back costs nothing, and coming again brings nothing"
    assert earned(0.5) == pytest.approx([1.0, -0.3, 0.3, 0.6, 0.0])
    assert sum(earned(0.5)) == pytest.approx(sum(earned(0.0))) == pytest.approx(1.6), "an end that is nearest earns the same"


@pytest.mark.parametrize(("share", "weight"), [(1.5, 1.0), (-0.1, 1.0), (0.5, 0.0)])
def test_the_best_so_far_share_is_a_fraction_of_the_progress_reward(share, weight):
    with pytest.raises(ConfigError, match="best_so_far_share is a fraction of the progress reward"):
        replace(TOY, {"reward_shaping": {"best_so_far_share": share, "progress_weight": weight}})


def test_a_run_goes_on_from_its_checkpoint(toy, tmp_path):
    save, saved = running._RunCallback._save, []

    def killed(self):
        save(self)
        saved.append((self.num_timesteps, self.episodes, self.model.policy.critic[-1].weight.clone()))
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running._RunCallback, "_save", killed)
        with pytest.raises(KeyboardInterrupt):
            train_ppo(TOY, tmp_path / "run", progress=False)
    ((steps, episodes, critic),) = saved
    assert steps == 512 and not (tmp_path / "run" / "policy").exists(), "a policy is written at the end"
    with running._algorithm(TOY, tmp_path / "run", None) as (algorithm, _, _runners):
        state = running._restore(tmp_path / "run", algorithm)
        assert (algorithm.num_timesteps, state["episodes"]) == (512, episodes)
        assert torch.equal(algorithm.policy.critic[-1].weight, critic)
        moments = algorithm.policy.optimizer.state_dict()["state"]
        assert all(m["step"] == 2 * 4 * 4 and m["exp_avg"].abs().sum() > 0 for m in moments.values() if m["exp_avg"].any())
    result = train_ppo(TOY, tmp_path / "run", progress=False)
    assert result.steps == TOY.steps
    assert [line["step"] for line in read_log(tmp_path / "run")] == [256, 512, 768, 1024]
    assert train_ppo(TOY, tmp_path / "run", progress=False) == result, "a finished run is not run again"
    with pytest.raises(ConfigError, match="with another ppo.learning_rate; a new one"):
        train_ppo(replace(TOY, {"ppo": {"learning_rate": 1e-4}}), tmp_path / "run", progress=False)
    with pytest.raises(ConfigError, match="holds a run already"):
        train_ppo(TOY, tmp_path / "run", resume=False, progress=False)


@pytest.mark.parametrize("state", [None, "[]", "{", "[" * 100_000, '{"steps": 1}'])
def test_a_damaged_checkpoint_is_named(tmp_path, state):
    (tmp_path / running.CHECKPOINT).write_bytes(save({"a": torch.zeros(2)}, {"state": state}) if state else b"x" * 40)
    with pytest.raises(CorruptFileError, match="checkpoint.safetensors: .*; delete it to train from the beginning"):
        running._restore(tmp_path, SimpleNamespace(policy=torch.nn.Linear(1, 1)))


def test_a_cloned_policy_is_led_by_a_value_that_knows_something(toy, tmp_path):
    first = replace(TOY, {"steps": 2 * 8 * 32, "ppo": {"critic_warmup": 2}})
    start = running.initial_policy(first)
    start.save(tmp_path / "start")
    config = replace(first, {"init": {"init_from": str(tmp_path / "start")}})
    with running._algorithm(config, tmp_path, None) as (algorithm, policy, runners):
        log = running.Log(None, 0, 1, False)
        callback = running._RunCallback(config, tmp_path, policy, log, {}, runners, None, StopRequest())
        algorithm.learn(config.steps, callback=callback)
        weights = dict(policy.network.named_parameters())
        assert all(torch.equal(weights[name], p) for name, p in start.network.named_parameters()), "only the value has learned"
        assert algorithm.policy.critic[-1].weight.abs().sum() > 0
    result = train_ppo(replace(config, {"ppo": {"critic_warmup": 1}, "steps": 3 * 8 * 32}), tmp_path / "run", progress=False)
    tuned = dict(VLAPolicy.load(result.policy).network.named_parameters())
    assert not all(torch.equal(tuned[name], p) for name, p in start.network.named_parameters())


def test_env_runners_play_the_same_scenes_with_any_number_of_workers(tmp_path):
    plays = []
    for workers in (1, 2):
        runners = EnvRunners(
            replace(
                TABLETOP,
                {
                    "env": {"num_envs": 3, "options": {"image_size": 32, "max_seconds": 0.3}},
                    "ppo": {"batch_size": 12},
                    "parallelism": {"workers": workers},
                },
            )
        )
        try:
            starts = runners.begin()
            transitions = [runners.step([np.zeros(7, np.float32)] * 3) for _ in range(4)]
        finally:
            runners.close()
        ended = [step for step in transitions[2] if step.final is not None]
        assert len(ended) == 3 and all(step.truncated for step in ended), "the time limit of three steps"
        instructions = [grounded.observation.instruction for grounded, _ in starts] + [
            step.reset_info["instruction"] for step in ended
        ]
        states = [step.observation.observation.state.tobytes() for step in ended]
        assert len(set(zip(instructions[3:], states, strict=True))) == 3
        plays.append((instructions, [step.observation.observation.images["front"].tobytes() for step in transitions[3]]))
    assert plays[0] == plays[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ppo": {"batch_size": 100}}, "256 samples an update, which cannot be divided evenly into batches of 100"),
        ({"network": {"history": 2}}, "policies that read one frame"),
        ({"ppo": {"gamma": 1.5}}, "gamma and gae_lambda are fractions of 1"),
        ({"ppo": {"num_steps": 0}}, "num_steps is 0"),
        ({"env": {"num_envs": 0}}, "num_envs is 0"),
        ({"parallelism": {"threads": 0}}, "threads is 0"),
        ({"init": {"sha256": "0"}}, "give init_from"),
        ({"grounding_queries": 2}, "2 of them need a keypoint_weight"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(TOY, changes)


def test_a_head_without_probabilities_is_refused(toy, tmp_path):
    config = dataclasses.replace(TOY, network=dataclasses.replace(SMALL, head=Part("flow")))
    with pytest.raises(ConfigError, match="'flow' is none: use the head 'regression'"):
        train_ppo(config, tmp_path / "run", progress=False)


def test_the_keypoint_loss_joins_the_update_once(toy):
    config = dataclasses.replace(TOY, network=SMALL.with_objectives(keypoints=0.0), keypoint_weight=0.5)
    policy = running.initial_policy(config)
    encoder = ObservationEncoder(policy)
    grounded, _ = EnvRunner(ToyEnv(), CollectConfig(env="toy"), 0, 1, EnvRunnerPlan()).begin()
    places, known = np.full((1, 1, 3, 2), 0.25, np.float32), np.ones((1, 1, 3), bool)
    arrays = encoder.encode([dataclasses.replace(grounded, points=places, known=known)])
    obs = {name: torch.as_tensor(value) for name, value in arrays.items()}
    limits = spaces.Box(-1, 1, (1,), np.float32)

    def gradient(weight):
        torch.manual_seed(0)
        changed = dataclasses.replace(config, keypoint_weight=weight)
        actor = ActorCritic(encoder.space, limits, lambda left: 1e-3, policy=policy, encoder=encoder, config=changed)
        policy.network.zero_grad()
        values, log_prob, _ = actor.evaluate_actions(obs, torch.zeros(1, 1))
        ((values - 1.0).square().mean() - log_prob.mean()).backward()
        return slopes()

    def slopes():
        return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in policy.network.parameters()])

    keypoints = policy.network(encoder.batch(obs)).keypoints
    policy.network.zero_grad()
    keypoint_loss(keypoints, obs["points"][:, 0], obs["known"][:, 0].bool())[0].backward()
    alone = slopes()
    assert alone.abs().sum() > 0
    assert torch.allclose(gradient(0.5) - gradient(0.0), 0.5 * alone, atol=1e-6)


def test_the_critic_has_its_own_learning_rate(toy):
    policy = running.initial_policy(TOY)
    encoder = ObservationEncoder(policy)
    config = replace(TOY, {"ppo": {"critic_lr_multiplier": 20.0}})
    limits = spaces.Box(-1, 1, (1,), np.float32)
    actor = ActorCritic(encoder.space, limits, lambda left: 1e-4, policy=policy, encoder=encoder, config=config)
    before = {name: p.detach().clone() for name, p in actor.named_parameters()}
    for parameter in actor.parameters():
        parameter.grad = torch.ones_like(parameter)
    actor.optimizer.step()
    moved = {name: (p.detach() - before[name]).abs().mean().item() for name, p in actor.named_parameters()}
    for name, step in moved.items():
        assert step == pytest.approx(2e-3 if name.startswith("critic") else 1e-4, rel=1e-2), name
    assert {group["lr"] for group in actor.optimizer.param_groups} == {1e-4}, "what is set from outside stays"


def test_a_grounded_observation_has_the_position_of_the_target():
    plays = CollectConfig(env="navigation", tasks=("go",))
    with closing(make_env("navigation")) as env:
        grounded, info = EnvRunner(env, plays, 0, 1, EnvRunnerPlan()).begin()
        target = next(obj for obj in env.world.scene.objects if obj.name == info["target_object"])
        column, row = (grounded.points[0, 0, 0] + 1) * 32
        assert grounded.known[0, 0, 0]
        assert (column, row) == pytest.approx((20 * target.center_m[0], 20 * target.center_m[1]), abs=0.01)


def test_a_grounded_observation_has_queries_for_the_other_goals_of_its_scene(toy):
    plays = CollectConfig(env="navigation", tasks=("go",))
    with closing(make_env("navigation")) as env:
        grounded, first_info = EnvRunner(env, plays, 0, 1, EnvRunnerPlan(grounding_queries=12)).begin()
        scene = env.world.scene
        _, info = env.reset(seed=0, options={"task": "go", "index": 0, "split": "train", "wording": "seen"})
    goals = {text: entry for entry in info["grounding"][1:] for text in entry["instructions"]}
    asked = [text for text in grounded.queries if text]
    assert len(asked) == len(info["grounding"]) - 1 == len(set(asked)) and first_info["instruction"] not in asked
    for place, text in enumerate(grounded.queries, 1):
        assert grounded.known[place].any() == bool(text), "where a scene has fewer goals, the rest is not known"
        if text:
            x, y, _ = goals[text]["target_base_m"]
            assert (grounded.points[place, 0, 0] + 1) * 1.6 == pytest.approx((x, y), abs=1e-3)
    begins = {obj.center_m for obj in scene.objects} | {line.points_m[0] for line in scene.lines}
    assert {tuple(goals[text]["target_base_m"][:2]) for text in asked} <= begins


def test_grounding_queries_train_with_their_own_sentence(toy):
    """The update's gradient is that of the keypoint loss of the instruction and of the query."""
    network = SMALL.with_objectives(keypoints=0.0)
    config = dataclasses.replace(TOY, network=network, keypoint_weight=1.0, grounding_queries=1)
    policy = running.initial_policy(config)
    encoder = ObservationEncoder(policy, grounding_queries=1)
    grounded, _ = EnvRunner(ToyEnv(), CollectConfig(env="toy"), 0, 1, EnvRunnerPlan(grounding_queries=1)).begin()
    places, known = np.full((2, 1, 3, 2), 0.25, np.float32), np.ones((2, 1, 3), bool)
    places[1] = -0.5
    arrays = encoder.encode([dataclasses.replace(grounded, points=places, known=known, queries=("go to blue",))])
    obs = {name: torch.as_tensor(value) for name, value in arrays.items()}
    actor = ActorCritic(encoder.space, None, lambda left: 1e-3, policy=policy, encoder=encoder, config=config)

    def slopes():
        found = torch.cat([p.grad.flatten() for p in policy.network.parameters() if p.grad is not None])
        policy.network.zero_grad(set_to_none=True)
        return found

    values, _, _ = actor.evaluate_actions(obs, torch.zeros(1, 1))
    (values * 0.0).sum().backward()
    joined = slopes()
    batch = encoder.batch(obs)
    other = dataclasses.replace(batch, text=policy.network.backbone.prepare(["go to blue"]))
    loss = sum(
        keypoint_loss(policy.network(each).keypoints, obs["points"][:, i], obs["known"][:, i].bool())[0]
        for i, each in enumerate((batch, other))
    )
    (loss + 0.0 * actor.critic(policy.network(batch).fused).sum()).backward()
    assert joined.abs().sum() > 0 and torch.allclose(joined, slopes(), atol=1e-6)
