"""The commands and snippets of README, tutorials, guides and reference run in a scratch folder, shortened by their own options.

A folder or file that a command reads is made first, by the documented command that makes it. What cannot run here is listed with
its reason; other tests parse those commands. Commands that play many episodes run with ``-m soak``.
"""

import importlib
import json
import os
import re
import shlex
import warnings
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

import verbot
from verbot import cli
from verbot.configuration import assignments
from verbot.deploy import PolicyServer
from verbot.errors import VerbotDeprecationWarning
from verbot.recipes.config import Imitation, resolve
from verbot.training.rl.rewards.train_reward_model import RewardModelConfig, train_reward_model
from verbot.workflows.show_config import config_text

from .data.importers.test_mcap import START, Log

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "docs/reference/commands.md",
    *sorted(ROOT.glob("docs/tutorials/*.md")),
    *sorted(ROOT.glob("docs/guides/*.md")),
]
REFERENCE = "docs/reference/commands.md"
NOT_HERE = {
    r"openai/|google/|models:|vlm-pretrained|verbot models (fetch|check)": "weights that have to be downloaded",
    r"droid_100": "a dataset that has to be downloaded",
    r"--cluster ray": "a cluster",
    r"device=cuda": "a GPU",
    r"/dev/": "an arm or a camera",
    r"verbot robot (teleoperate|record)": "a person at a page",
    r"verbot teleop|verbot console|annotate outputs/[\w/-]+$": "a person at a page",
    r"--list all": "an hour",
    r"wss?://": "a server",
    r"verbot serve": "a server, which ends with a signal",
}
CAPS = {"--episodes": 4, "--exam": 4, "--scenes": 2, "--samples": 64, "--limit": 1, "--captions": 2, "--seconds": 1}
IMITATION = ("batch_size=16", "parallelism.processes=1", "validation.batches=1", "logging.checkpoint_every=1000")
REINFORCEMENT = ("env.num_envs=2", "ppo.num_steps=8", "ppo.batch_size=16", "ppo.epochs=1", "parallelism.workers=1")

WARM_UP = ("perception_warmup.updates=1", "perception_warmup.batch_size=8")
OF_RECIPE = {"navigation-airl": ("reward.demonstrations=2", "reward.updates=1")}
REWARD_MODEL = "outputs/reward_model.safetensors"  # experiments/language_reward.py trains it


def documented():
    found = {}
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
            for line in re.findall(r"^(?:\.venv/bin/)?(verbot .*?)(?:\s+#.*)?$", block, re.MULTILINE):
                if not any(re.search(pattern, line) for pattern in NOT_HERE):
                    found.setdefault(line, page.relative_to(ROOT).as_posix())
    return found


COMMANDS = documented()
SLOW = {"compare", "evaluate", "explain", "robustness"}  # they play many episodes


def test_most_commands_run():
    assert len(COMMANDS) > 70


def makes(words):
    """The path that a command writes, or None."""
    if "--out" in words:
        return words[words.index("--out") + 1]
    at = {"collect": 1, "data import": 3, "data export": 3}.get(command_of(words))
    return None if at is None else words[at]


def command_of(words):
    return " ".join(words[:2]) if words[0] in ("data", "robot") else words[0]


def reads(words):
    """Paths below outputs/ that a command reads."""
    made = {makes(words), *(words[words.index("--cache") + 1 :][:1] if "--cache" in words else ())}
    return [
        path for word in words for path in [word.partition("=")[2] or word] if path.startswith("outputs/") and path not in made
    ]


def shortened(words):
    """The same command with less of everything, by options that it has."""
    words, name = list(words), command_of(words)
    for option, most in CAPS.items():
        if option in words:
            at = words.index(option) + 1
            words[at] = str(min(int(words[at]), most))
    if "--minutes" in words:
        at = words.index("--minutes")
        words[at : at + 2] = ["--samples", "64"]
    more = {"collect": ["--episodes", "4", "--workers", "1"], "evaluate": ["--episodes", "3", "--workers", "1"]}
    more["robustness"] = ["--episodes", "2", "--workers", "1"]
    more["compare"] = ["--episodes", "2", "--samples", "64"]
    more["optimize"] = ["--scenes", "0", "--observations", "20", "--repeats", "0", "--workers", "1"]
    words += [word for pair in zip(*[iter(more.get(name, []))] * 2, strict=True) if pair[0] not in words for word in pair]
    if name == "compare":
        entries = next((i for i, word in enumerate(words) if word.startswith("--")), len(words))
        small = "".join(f"+{setting}" for setting in IMITATION[:2])
        words[1:entries] = [word if word.startswith("outputs/") else word + small for word in words[1:entries]]
    return {"train": settled, "demo": with_short_recipe}.get(name, list)(words)


def settled(words):
    """`verbot train` with a short budget and settings of a small run."""
    stage = resolve(words[1]).stages[0]
    imitation = isinstance(stage, Imitation)
    for option in ("--samples", "--steps"):
        if option in words:
            at = words.index(option)
            del words[at : at + 2]
    settings = IMITATION if imitation else (*REINFORCEMENT, *(more for more in WARM_UP if stage.reinforcement.perception_warmup))
    settings = (*settings, *OF_RECIPE.get(words[1], ()))
    if "--set" in words:
        at = words.index("--set") + 1
        end = next((i for i in range(at, len(words)) if words[i].startswith("--")), len(words))
        given = [word for word in words[at:end] if not word.startswith("steps=")]
        settings = [*given, *(more for more in settings if not any(one.split("=")[0] == more.split("=")[0] for one in given))]
        del words[at - 1 : end]
    return [*words, *(["--samples", "64"] if imitation else ["--steps", "32"]), "--set", *settings]


def with_short_recipe(words):
    """`verbot demo` by a file of its recipe, as `verbot config` writes it."""
    settings = ("samples=64", *IMITATION, "collection.episodes=6", "evaluation.episodes=3", "evaluation.conditions=[]")
    Path("short.yaml").write_text(config_text("starter", assignments(settings)))
    return [*words, "--recipe", "short.yaml"]


class Folder:
    """A scratch folder in which documented commands have been run; `commands` of its pages come first."""

    def __init__(self, commands):
        self.done, self.makers = {}, {}
        for line in [*commands, *COMMANDS]:
            if made := makes(shlex.split(line)[1:]):
                self.makers.setdefault(made, line)

    def run(self, line):
        if line not in self.done:
            words = shlex.split(line)[1:]
            if "navigation-language" in words:
                train_reward_model(RewardModelConfig(episodes=4, steps=2)).save(Path(REWARD_MODEL), {})
            for path in reads(words):
                self.make(path, line)
            self.done[line] = run(shortened(words))
        return self.done[line]

    def make(self, path, reader):
        if os.path.exists(path):
            return
        made = max((made for made in self.makers if path == made or path.startswith(f"{made}/")), key=len, default=None)
        assert made is not None, f"{path} is read by {reader!r}; no documented command makes it"
        self.run(self.makers[made])
        assert os.path.exists(path), f"{path} is read by {reader!r}; {self.makers[made]!r} does not make it"


def run(words):
    with pytest.raises(SystemExit) as stopped, warnings.catch_warnings():
        warnings.simplefilter("error", VerbotDeprecationWarning)
        cli.main(words)
    return stopped.value.code or 0


@dataclass(frozen=True)
class Recorded:
    """An episode of a robot with two joints and seven commands."""

    states: np.ndarray
    actions: np.ndarray
    images: dict[str, np.ndarray]

    def __len__(self):
        return len(self.states)


def own_files():
    """What a reader of the docs brings along."""
    Path("words.json").write_text(json.dumps({"0": ["lift the red cube"]}))
    Path("mine.yaml").write_text(
        yaml.safe_dump(
            {
                "pick": ["grab the {object}"],
                "push": ["shove the {object} {direction}"],
                "put": ["drop the {object} {preposition} the {receptacle}"],
            }
        )
    )
    Path("recordings").mkdir()
    rng = np.random.default_rng(0)
    for number in range(2):
        with h5py.File(f"recordings/episode_{number}.hdf5", "w") as file:
            file.attrs["sim"] = False
            file["action"] = file["observations/qpos"] = rng.normal(0, 0.3, (12, 14))
            file["observations/images/cam_high"] = rng.integers(0, 255, (12, 48, 64, 3), np.uint8)
    frames = rng.integers(0, 255, (12, 48, 64, 3), np.uint8)
    recorded = Recorded(rng.normal(0, 0.3, (12, 2)), rng.normal(0, 0.3, (12, 7)), {"front": frames})
    for number in range(2):
        with Log(Path(f"logs/log_{number}.mcap")) as log:
            log.episode(recorded, START, "tidy the table")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "tests" / "cases"))
        importlib.import_module("r01_own").make(Path("own_rlds"))
    for dataset in ("outputs/mine", "outputs/corrections"):  # in place of a person's
        assert run(["collect", dataset, "--episodes", "4", "--workers", "1"]) == 0


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One for the reference, whose examples stand alone, and one for the other pages, which build on each other."""
    return {}, tmp_path_factory


@pytest.fixture
def folder(request, folders, monkeypatch):
    known, factory = folders
    reference = COMMANDS[request.getfixturevalue("line")] == REFERENCE
    if reference not in known:
        known[reference] = factory.mktemp("documented"), Folder([c for c in COMMANDS if (COMMANDS[c] == REFERENCE) == reference])
        monkeypatch.chdir(known[reference][0])
        own_files()
    monkeypatch.chdir(known[reference][0])
    return known[reference][1]


def by_speed():
    slow = [line for line in COMMANDS if command_of(shlex.split(line)[1:]) in SLOW or "train starter-ppo" in line]
    return [pytest.param(line, marks=pytest.mark.soak if line in slow else (), id=line) for line in COMMANDS]


@pytest.mark.parametrize("line", by_speed())
def test_the_command_runs(folder, capsys, line):
    code = folder.run(line)
    captured = capsys.readouterr()
    assert code == 0, captured.out + captured.err


# Shortened calls: a pattern of the docs and what runs in its place.
SHORTER = {
    r"samples=\d[\d_]*": "samples=64",
    r"minutes=\d+": "samples=64",
    r"episodes=\d+": "episodes=2",
    r'"outputs/random-axes", 1600': '"outputs/random-axes", 2',
    r"port=8000": "port=0",
}


def snippets():
    found = {}
    for page in PAGES:
        blocks = re.findall(r"(<!-- runs -->\n+)?```python\n(.*?)```", page.read_text(), re.DOTALL)
        if code := [block for runs, block in blocks if not runs and "): ..." not in block]:  # signatures alone cannot run
            found[page.relative_to(ROOT).as_posix()] = code
    return found


@pytest.fixture
def line(request):
    """A command of the pages that the snippets belong to."""
    return next(line for line, page in COMMANDS.items() if page != REFERENCE)


@pytest.fixture
def names(monkeypatch):
    """What a snippet takes for granted: a policy and observations of an env, and the arrays of an episode."""
    env, policy = verbot.make_env("tabletop-starter"), verbot.load_policy("starter")
    first, second = (verbot.Observation(**env.reset(seed=seed)[0]) for seed in (0, 1))
    frames = np.zeros((4, 64, 64, 3), np.uint8)
    arrays = {"states": np.tile(first.state, (4, 1)), "actions": np.zeros((4, 7), np.float32), "front": frames, "wrist": frames}
    return {"observation": first, "later": second, "policy": policy, "spec": policy.spec, **arrays}


def pages_by_speed():
    slow = ("docs/guides/evaluation.md",)
    return [pytest.param(page, marks=pytest.mark.soak if page in slow else (), id=page) for page in snippets()]


@pytest.mark.parametrize("page", pages_by_speed())
def test_the_snippets_of_a_page_run(folder, names, monkeypatch, page):
    monkeypatch.setattr(PolicyServer, "wait", lambda server: None)
    with PolicyServer(names["policy"], port=0) as server:
        for block in snippets()[page]:
            for path in re.findall(r'"(outputs/[\w/-]+)"', block):
                if any(path == made or path.startswith(f"{made}/") for made in folder.makers):
                    folder.make(path, page)
            for pattern, shorter in SHORTER.items():
                block = re.sub(pattern, shorter, block)
            exec(compile(block.replace("ws://127.0.0.1:8000", server.url), page, "exec"), names)
