"""Users of Gymnasium find the envs, and Stable-Baselines3 learns in them."""

from __future__ import annotations

import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest

import verbot
from verbot.envs.gym_wrappers import FlatObservation

MAKE = "env = gymnasium.make('verbot/Navigation-v0', image_size=16); print(env.reset(seed=0)[0]['state'].shape)"


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split("\n")


@pytest.mark.parametrize("order", ["import verbot, gymnasium", "import gymnasium, verbot"])
def test_gymnasium_knows_the_envs_after_importing_verbot_alone(order):
    shape, loaded, loader = python(
        f"{order}\n{MAKE}\nimport sys\nprint({{'torch', 'mujoco', 'verbot.envs.tabletop'}} & set(sys.modules))\n"
        "print(type(gymnasium.__loader__).__name__, type(gymnasium.__spec__.loader).__name__, [type(f) for f in sys.meta_path])"
    )[:3]
    assert (shape, loaded) == ("(6,)", "set()")
    assert loader.startswith("SourceFileLoader SourceFileLoader") and "verbot" not in loader


def test_looking_for_gymnasium_without_importing_it_loses_nothing():
    code = "import verbot, importlib.util\nassert importlib.util.find_spec('gymnasium')\nimport gymnasium"
    assert python(f"{code}\n{MAKE}")[0] == "(6,)"


@pytest.mark.parametrize("name", ["verbot/Navigation-v0", "verbot/Tabletop-v0"])
def test_gymnasium_knows_how_an_env_renders(name):
    with pytest.warns(UserWarning, match="not in the possible render_modes .*rgb_array"):
        env = gymnasium.make(name, image_size=16, render_mode="ansi")
    assert env.unwrapped.robot_spec.cameras[0].width == 16
    with pytest.raises(TypeError, match="unexpected keyword argument 'image_sise'"):
        gymnasium.make(name, image_sise=16)


def test_a_flat_observation_holds_state_words_and_pixels():
    inner = gymnasium.make("verbot/Navigation-v0", image_size=16)
    env = FlatObservation(inner, words=50)
    observation, _ = env.reset(seed=3)
    seen = inner.unwrapped.reset(seed=3)[0]
    assert observation.dtype == np.float32 and env.observation_space.contains(observation)
    size = len(seen["state"])
    np.testing.assert_array_equal(observation[:size], seen["state"])
    assert observation[size : size + 50].sum() == len(seen["instruction"].split())
    np.testing.assert_allclose(observation[size + 50 :] * 255, seen["images"]["top"].ravel(), atol=1e-4)
    blind = FlatObservation(inner, words=0, images=False)
    np.testing.assert_array_equal(blind.reset(seed=3)[0], seen["state"])


@pytest.mark.parametrize(
    ("name", "options"), [("verbot/Navigation-v0", {"discrete": True}), ("verbot/Tabletop-v0", {"suite": "tabletop-starter"})]
)
def test_stable_baselines_accepts_it_and_learns(name, options):
    stable_baselines3 = pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.env_checker import check_env

    assert verbot.__version__
    env = FlatObservation(gymnasium.make(name, image_size=16, **options))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice on ranges of actions
        check_env(env)
        algorithm = stable_baselines3.PPO("MlpPolicy", env, n_steps=32, batch_size=16, n_epochs=1, seed=0, device="cpu")
        before = [p.detach().clone() for p in algorithm.policy.parameters()]
        algorithm.learn(64)
    assert algorithm.num_timesteps == 64
    assert any((p.detach() != b).any() for p, b in zip(algorithm.policy.parameters(), before, strict=True))
    env.close()
