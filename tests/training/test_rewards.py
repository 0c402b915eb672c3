"""Rewards by name: of a language reward model, recovered from demonstrations, and their state in checkpoints."""

import dataclasses
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from test_ppo import NOWHERE, TOY, Here, toy  # noqa: F401

from verbot.configuration import replace
from verbot.envs import make_env
from verbot.errors import ConfigError, CorruptFileError, PolicyError, UnknownNameError
from verbot.models.network import Part
from verbot.models.reward_models.matcher import Matcher, TrainedRewardModel
from verbot.training import read_log
from verbot.training.rl import ReinforceConfig, train_ppo
from verbot.training.rl import ppo as running
from verbot.training.rl.config import EnvConfig, PPOConfig
from verbot.training.rl.envs import VecTransition
from verbot.training.rl.rewards import train_reward_model
from verbot.training.rl.rewards.airl import ExpertData, demonstrate
from verbot.training.rl.rewards.base import EnvReward, LearnedReward, make_reward, rewards
from verbot.training.rl.rewards.language import LanguageReward
from verbot.training.rl.rewards.train_reward_model import RewardModelConfig, Sentences, contradict, describe_episodes
from verbot.training.rl.rewards.train_reward_model import train_reward_model as train_model

GO = ReinforceConfig(
    env=EnvConfig("navigation-compass", tasks=("go",), num_envs=4), ppo=PPOConfig(num_steps=8, batch_size=32, gamma=0.9)
)
TAUGHT = RewardModelConfig(tasks=("go",), episodes=80, steps=100, batch_size=6, width=32, learning_rate=4e-3)


@pytest.fixture(scope="module")
def reward_model():
    return train_model(TAUGHT, progress=False)


def test_a_reward_model_learns_progress_and_success_from_demonstrations(reward_model):
    """In scenes, with objects and words that are not in its training data."""
    unseen = describe_episodes(dataclasses.replace(TAUGHT, episodes=60), split="test", progress=False)
    nearer, fits = [], []
    for episode in unseen:
        others = [wordings[0] for goal, wordings in episode.offered if contradict(goal, episode.goal)]
        said = episode.instructions[0]
        if len(episode.states) > 8:
            early, late = reward_model.forward_no_grad([episode.states[0], episode.states[-2]], [said] * 2)[:, 0]
            nearer.append(bool(late > early))
        done = reward_model.forward_no_grad([episode.states[-1]] * (1 + len(others)), [said, *others])[:, 1]
        fits.append(bool(done[0] > done[1:].max()))
    assert np.mean(nearer) > 0.8, "half of them by chance"
    assert np.mean(fits) > 0.6, "a third or a quarter of them by chance"


def test_training_of_a_reward_model_resumes_to_the_same_weights(tmp_path, monkeypatch):
    few = dataclasses.replace(TAUGHT, episodes=6, steps=6, width=8)
    whole = train_model(few, progress=False)
    monkeypatch.setattr(train_reward_model, "EVERY", 4)
    path, step = tmp_path / "checkpoint", train_reward_model.write_atomic

    def killed(*args):
        step(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(train_reward_model, "write_atomic", killed)
    with pytest.raises(KeyboardInterrupt):
        train_model(few, progress=False, checkpoint=path)
    again = train_model(few, progress=False, checkpoint=path)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())
    with pytest.raises(ConfigError, match="of a reward model with another configuration"):
        train_model(dataclasses.replace(few, seed=1), progress=False, checkpoint=path)
    for damage in (path.read_bytes()[:-9], b"", b"\xff" * 40):
        path.write_bytes(damage)
        with pytest.raises(CorruptFileError, match="checkpoint: is no checkpoint of a reward model"):
            train_reward_model._resume(path, few, whole, None)


def test_negatives_contradict_the_end_of_their_episode():
    episodes = describe_episodes(dataclasses.replace(TAUGHT, tasks=None, episodes=30), progress=False)
    sentences, rng = Sentences(episodes), np.random.default_rng(0)
    meant = {text: goal for episode in episodes for goal, wordings in episode.offered for text in wordings}
    for episode in episodes:
        negatives = [meant[text] for _ in range(10) if (text := sentences.against(episode, rng)) is not None]
        assert negatives and all(contradict(goal, episode.goal) for goal in negatives)
        assert any(goal["object"] != episode.goal["object"] for goal in negatives)
    states, goals, near, done = train_reward_model._batch(episodes, sentences, TAUGHT, rng, Matcher(8, 2))
    assert len(states) == len(goals) == 36
    assert near.isnan().sum() == 12 and done.sum() == 6 and all(near[done > 0] == 1.0)


class WrittenScores:
    """A reward model that reads its scores from the state."""

    def score(self, states, goals):
        assert all(goals)
        return np.array([[float(number) for number in state.split()] for state in states], np.float32)


def transition(near, done, last=False, truncated=False):
    return VecTransition(NOWHERE, np.nan, {"state_text": f"{near} {done}"}, NOWHERE if last else None, truncated)


def test_the_language_reward_depends_on_the_reward_model_only():
    rng, actions = np.random.default_rng(0), np.zeros((1, 1), np.float32)
    config = replace(GO, {"env": {"num_envs": 1}, "ppo": {"batch_size": 8}})
    for truncated in (False, True):
        reward = LanguageReward(config, WrittenScores(), weight=2.0, cost=0.5)
        near, done = rng.uniform(0, 1, 9), rng.uniform(0, 1, 9)
        reward.reset([0], [{"state_text": f"{near[0]} 0", "instruction": "go"}], [])
        earned = [reward([transition(near[t], done[t], t == 8, truncated and t == 8)], actions)[0] for t in range(1, 9)]
        assert np.isfinite(earned).all(), "the world's own reward is not asked for"
        cost = 0.0 if truncated else 0.5 * (1 - done[8])
        assert sum(earned) == pytest.approx(2.0 * (near[8] - near[0]) + done[8] - cost, abs=1e-5)
        assert earned[3] == pytest.approx(2.0 * (near[4] - near[3]), abs=1e-5), "on the way nothing is judged"


def test_a_reward_is_found_by_name(toy, tmp_path, reward_model):  # noqa: F811
    assert isinstance(make_reward(TOY), EnvReward)
    for reward, error, message in (
        (Part("langauge"), UnknownNameError, "Did you mean 'language'"),
        (Part("language"), ConfigError, "needs a reward_model"),
        (Part("language", {"reward_model": {"path": "x"}}), ConfigError, "a reward model is a path, or a name with options"),
        (Part("language", {"reward_model": str(tmp_path / "x")}), PolicyError, "there is no reward model at"),
        (Part("world", {"pay": 1}), ConfigError, "does not take these options: .*pay"),
    ):
        with pytest.raises(error, match=message):
            train_ppo(dataclasses.replace(TOY, reward=reward), tmp_path / "run", progress=False)
    with pytest.raises(ConfigError, match="reward_shaping adds to the env's own reward; 'language'"):
        replace(TOY, {"reward_shaping": {"potential_weight": 1.0}, "reward": "language"})
    path = tmp_path / "reward_model.safetensors"
    reward_model.save(path)
    config = dataclasses.replace(TOY, reward=Part("language", {"reward_model": str(path)}))
    with pytest.raises(ConfigError, match="'toy' does not describe its state in words"):
        train_ppo(config, tmp_path / "toy", progress=False)
    running.with_content_hashes(config)
    options = running.with_content_hashes(config).reward.options["reward_model"]["options"]
    assert options == TrainedRewardModel.fit({"path": str(path)})
    Matcher(16).save(path)
    with pytest.raises(ConfigError, match="holds a run with another reward"):
        train_ppo(config, tmp_path / "toy", progress=False)


def test_a_run_refuses_another_initial_policy(toy, tmp_path):  # noqa: F811
    running.initial_policy(TOY).save(tmp_path / "start")
    config = replace(TOY, {"init": {"init_from": str(tmp_path / "start")}, "steps": 256})
    first = running.with_content_hashes(config)
    train_ppo(config, tmp_path / "run", progress=False)
    other = running.initial_policy(dataclasses.replace(TOY, seed=1))
    (tmp_path / "start").rename(tmp_path / "old")
    other.save(tmp_path / "start")
    with pytest.raises(ConfigError, match="holds a run with another init.sha256"):
        train_ppo(config, tmp_path / "run", progress=False)
    with pytest.raises(ConfigError, match=f"not the one that this run started from: its sha256 is .*, not {first.init.sha256}"):
        train_ppo(first, tmp_path / "again", progress=False)


class Counting(EnvReward):
    """Learns how many steps it saw, by what policy."""

    def __init__(self):
        self.steps = torch.zeros(1)
        self.looks = []

    def reset(self, env_ids, infos, observations):
        self.looks = [*self.looks, *observations][-8:]

    def learn(self, judge, log_probs):
        self.steps = self.steps + log_probs.size
        chances = judge(self.looks, np.zeros((len(self.looks), self.actions), np.float32))
        assert np.isfinite(chances).all() and chances.shape == (len(self.looks),)
        return {"steps seen": float(self.steps)}

    def __call__(self, transitions, actions):
        self.actions = actions.shape[1]
        return super().__call__(transitions, actions)

    def save(self, folder):
        (folder / "steps").write_text(f"{self.steps.item():.0f}")

    def state(self):
        return {"steps": self.steps}

    def restore(self, state):
        self.steps = state["steps"]


def test_a_learned_reward_is_in_the_checkpoint(toy, tmp_path):  # noqa: F811
    first = Counting()
    assert isinstance(first, LearnedReward) and not isinstance(EnvReward(), LearnedReward)
    save = running._RunCallback._save

    def killed(self):
        save(self)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running._RunCallback, "_save", killed)
        with pytest.raises(KeyboardInterrupt):
            train_ppo(TOY, tmp_path / "run", reward=first, progress=False)
    second = Counting()
    train_ppo(TOY, tmp_path / "run", reward=second, progress=False)
    assert (float(first.steps), float(second.steps)) == (512, TOY.steps)
    assert (tmp_path / "run" / "steps").read_text() == "1024"
    assert [line["steps seen"] for line in read_log(tmp_path / "run")] == [256, 512, 768, 1024]


@pytest.fixture(scope="module")
def adversarial():
    return rewards.build(
        "adversarial", GO, demonstrations=30, episodes_per_side=6, steps_per_episode=6, updates=4, width=32, learning_rate=4e-3
    )


def play(reward, rounds):
    """Transitions of random actions."""
    rng, figures = np.random.default_rng(0), {}
    envs = [make_env("navigation-compass", tasks=["go"], render_cameras=False) for _ in range(GO.env.num_envs)]
    number = 0

    def begin(world):
        nonlocal number
        number += 1
        _, info = envs[world].reset(seed=0, options={"split": "train", "index": number})
        reward.reset([world], [info], [NOWHERE])

    for world in range(GO.env.num_envs):
        begin(world)
    for _ in range(rounds):
        for _ in range(GO.ppo.num_steps * 2):
            transitions = []
            for env in envs:
                _, own, terminated, truncated, info = env.step(rng.integers(7))
                transitions.append(VecTransition(NOWHERE, own, info, NOWHERE if terminated or truncated else None, truncated))
            worth = reward(transitions, np.zeros((GO.env.num_envs, 1), np.float32))
            assert np.isfinite(worth).all() and np.abs(worth).max() <= 9.0
            for world in [w for w, t in enumerate(transitions) if t.final is not None]:
                begin(world)
        chances = np.full((GO.ppo.num_steps * 2, GO.env.num_envs), -np.log(7))
        figures = reward.learn(lambda looks, actions: np.full(len(looks), -np.log(7)), chances)
    return figures


def test_the_reward_of_the_expert_is_recovered_against_random_actions(adversarial):
    first = play(adversarial, 1)
    later = play(adversarial, 22)
    assert later["discriminator loss"] < 0.75 * first["discriminator loss"], f"{first}, {later}"
    worth = []
    for shown in demonstrate(GO, ExpertData(30, seed=2, noise=0.0)):
        with torch.no_grad():
            start, end = adversarial.matcher([shown.states[0], shown.states[-1]], [shown.instruction] * 2)
        worth.append(float(end[0] - start[0]))
    assert np.mean(np.array(worth) > 0) > 0.8, "in scenes never shown, to have come there is worth more than to begin"


def test_a_recovered_reward_is_restored_from_its_state(adversarial):
    play(adversarial, 1)
    again = rewards.build("adversarial", GO, demonstrations=2, episodes_per_side=6, steps_per_episode=6, updates=4, width=32)
    again.restore(adversarial.state())
    texts = [shown.states[0] for shown in demonstrate(GO, ExpertData(3, seed=3, noise=0.0))]
    assert torch.equal(
        again.matcher(texts, ["go to the red circle"] * 3), adversarial.matcher(texts, ["go to the red circle"] * 3)
    )
    one, other = (r._optimizer.state_dict()["state"] for r in (adversarial, again))
    assert all(torch.equal(one[n]["exp_avg"], other[n]["exp_avg"]) and one[n]["step"] == other[n]["step"] for n in one)


def test_demonstrations_are_those_that_are_collected():
    (shown,) = demonstrate(GO, ExpertData(1, seed=5, noise=0.5))
    assert len(shown.observations) == len(shown.states) == len(shown.actions) + 1 == len(shown.clean) + 1
    assert 0 < shown.clean.sum() < len(shown.clean), "half of it was meant"
    with closing(make_env("navigation-compass")) as env:
        _, info = env.reset(seed=5, options={"split": "train", "index": 0, "task": "go", "wording": "seen"})
        assert (info["instruction"], info["state_text"]) == (shown.instruction, shown.states[0])
        for action, state in zip(shown.actions, shown.states[1:], strict=True):
            *_, info = env.step(action)
            assert info["state_text"] == state
    with pytest.raises(ConfigError, match="'tabletop-starter' does not describe its state in words"):
        demonstrate(replace(GO, {"env": {"name": "tabletop-starter", "tasks": None}}), ExpertData(1, 0, 0.0))
