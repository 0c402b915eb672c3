import importlib
import subprocess
import sys

import pytest

import verbot
from verbot.errors import VerbotDeprecationWarning

HEAVY = ("torch", "mujoco", "pyarrow", "av", "PIL", "gymnasium", "tyro", "rich", "websockets", "msgpack", "safetensors", "scipy")


def modules_after(statement):
    """The modules in memory after `statement` in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint(' '.join(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_verbot_costs_numpy():
    loaded = modules_after("import verbot")
    assert "numpy" in loaded
    assert not loaded.intersection(HEAVY)


def test_a_robot_computer_needs_no_torch():
    loaded = modules_after("import verbot.spec, verbot.remote")
    assert not loaded.intersection({"torch", "mujoco", "pyarrow", "av", "PIL", "gymnasium"})


def test_every_public_name_exists_and_is_documented():
    assert set(verbot.__all__) <= set(dir(verbot))
    for name in verbot.__all__:
        value = getattr(verbot, name)
        assert name == "__version__" or value.__doc__, name


@pytest.mark.parametrize("name", ["open_dataset", "make_env", "load_policy", "collect", "train", "evaluate"])
def test_every_public_function_shows_an_example(name):
    function = getattr(verbot, name)
    assert callable(function)
    assert "Example:" in function.__doc__
    assert ">>> " in function.__doc__


def test_a_wrong_name_lists_the_existing_ones():
    with pytest.raises(AttributeError, match="no attribute 'open_data'; its public names are .*open_dataset"):
        verbot.open_data  # noqa: B018


@pytest.mark.parametrize(
    ("module", "former", "name"),
    [
        ("verbot.policy.policy", "Policy", "VLAPolicy"),
        ("verbot.training", "train", "train_policy"),
        ("verbot.training.rl.config", "InitConfig", "ReinforceInitConfig"),
        ("verbot.training.rl.config", "ParallelismConfig", "ReinforceParallelismConfig"),
        ("verbot.evaluation", "evaluate", "evaluate_policy"),
        ("verbot.evaluation", "run", "run_evaluation"),
        ("verbot.evaluation.comparison.paired", "compare", "compare_evaluations"),
        ("verbot.models.features", "Predicted", "AuxiliaryPrediction"),
        ("verbot.models.features", "Prediction", "NetworkOutput"),
        ("verbot.rollout.episode", "RunningEpisode", "EpisodeRunner"),
        ("verbot.training.rl", "reinforce", "train_ppo"),
        ("verbot.training.rl.ppo", "reinforce", "train_ppo"),
        ("verbot.workflows.compare", "compare", "run_comparison"),
        ("verbot.workflows.train_evaluate", "compare", "compare_policies"),
    ],
)
def test_a_former_name_is_read_with_a_warning(module, former, name):
    where = importlib.import_module(module)
    with pytest.warns(VerbotDeprecationWarning, match=f"{module}.{former} is now called {module}.{name}; the old name is read"):
        value = getattr(where, former)
    assert value is getattr(where, name)


@pytest.mark.parametrize(
    "module", ["verbot.policy.policy", "verbot.training", "verbot.training.rl", "verbot.training.rl.config", "verbot.evaluation"]
)
def test_a_module_with_former_names_refuses_others(module):
    with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'Polcy'"):
        importlib.import_module(module).Polcy  # noqa: B018
