"""The console with what it needs: policies, suites, robots, speech, reports."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from verbot.agents import ChunkAgent, Guard, GuardConfig, GuardedAgent, HoldAgent
from verbot.agents.guard_events import with_max_age
from verbot.console import ConsoleChoices, ConsoleConfig, ConsoleSetup, run_console
from verbot.console.choices import Acting
from verbot.console.listening import Recognize
from verbot.console.observing import ObservedPolicy
from verbot.console.plants import Plant, RobotPlant, SimulatedPlant
from verbot.contracts import Agent, Policy, expert_of
from verbot.deploy.access import context_of
from verbot.deploy.loop import oldest_s
from verbot.deploy.matching import check_matching
from verbot.envs import envs, make_env
from verbot.errors import ConfigError, VerbotError
from verbot.evaluation.protocol.conditions import AXES
from verbot.files import regular_file
from verbot.remote.addresses import is_loopback
from verbot.robots import make_robot
from verbot.rollout.episode import EpisodeRunner
from verbot.speech import SileroDetector, UtteranceCutter, can_detect, open_recognizer
from verbot.workflows.console_outputs import Outputs, policies_below
from verbot.workflows.load_policy import fitting, open_policy
from verbot.workflows.robustness import DROPOUT
from verbot.workflows.watch import find_scene

EPISODE_S = 3600.0  # an episode in the console; an instruction has a time limit of its own
SAMPLED = 40  # scenes whose instructions a spoken one is compared with
LEAST_TOKEN = 16  # characters


@dataclasses.dataclass(frozen=True)
class ConsoleOptions:
    """What the console opens with, beside its first setup.

    Args:
        robot: drives this robot in real time, in place of a suite; ``""`` for none.
        unguarded: accept a robot without motion limits.
        execute: number of actions of each chunk to execute.
        seed: another seed is another set of scenes.
        outputs: the folder whose reports and datasets can be opened.
        speech: recognize speech, if the extra ``speech`` is installed.
    """

    robot: str = ""
    unguarded: bool = False
    execute: int = 1
    seed: int = 0
    outputs: Path = Path("outputs")
    speech: bool = True


def console(
    setup: ConsoleSetup,
    options: ConsoleOptions,
    config: ConsoleConfig,
    tls_files: tuple[Path | None, Path | None] = (None, None),
    until: threading.Event | None = None,
) -> None:
    """Serve the console until a signal ends it. Raises what `verbot.console.run_console` raises.

    Args:
        tls_files: a certificate and its key, PEM; without them the page is not encrypted.
        until: ends it when set.
    """
    certificate, key = tls_files
    if (certificate is None) != (key is None):
        raise ConfigError("--tls-cert and --tls-key go together: give both, or none")
    tls = context_of((certificate, key)) if certificate is not None and key is not None else None
    if tls is None and not is_loopback(config.host):
        print(f"{config.host} is reached by other machines, and nothing is encrypted: give --tls-cert and --tls-key")
    run_console(console_choices(setup, options), setup, config, tls, until=until)


def console_choices(setup: ConsoleSetup, options: ConsoleOptions) -> ConsoleChoices:
    """What the console offers on this machine. Raises `ConfigError` for an expert on a robot."""
    if options.robot and setup.policy == "expert":
        raise ConfigError("the expert acts in simulation only; give --policy for a robot")
    known = () if options.robot else tuple(name for name in envs.names() if not envs.missing(name))
    found = () if options.robot else ("starter", "expert", *policies_below(options.outputs))
    return ConsoleChoices(
        functools.partial(_open_plant, options), functools.partial(_open_agent, options),
        tuple(dict.fromkeys((setup.policy, *found))), known, _axes,
        _find, suite_sentences, _recognizer() if options.speech else None,
        _cutter if options.speech and can_detect() else None, Outputs(options.outputs),
    )  # fmt: skip


def read_token(path: Path | None) -> str | None:
    """The token in a file. Raises `ConfigError` if it is none."""
    if path is None:
        return None
    try:
        token = regular_file(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file {path} cannot be read: {error}") from error
    if len(token) < LEAST_TOKEN or not token.isascii() or not token.replace("-", "").replace("_", "").isalnum():
        raise ConfigError(
            f"--token-file {path} has to hold one token of at least {LEAST_TOKEN} letters, digits, - and _: "
            'python -c "import secrets; print(secrets.token_urlsafe())" makes one'
        )
    return token


def _open_plant(options: ConsoleOptions, setup: ConsoleSetup) -> Plant:
    if options.robot:
        return RobotPlant(make_robot(options.robot))
    env = make_env(setup.suite, max_seconds=EPISODE_S, **fitting(setup.policy, setup.suite))
    try:
        return SimulatedPlant(env, setup.request(), options.seed)
    except BaseException:
        env.close()
        raise


def _open_agent(options: ConsoleOptions, setup: ConsoleSetup, plant: Plant) -> Acting:
    if setup.policy == "expert":
        assert isinstance(plant, SimulatedPlant)
        return Acting(expert_of(plant.env), needs_goal=True)
    policy = _opened(setup.policy)
    observed = ObservedPolicy(policy, _attributed(policy))
    agent = ChunkAgent(observed, options.execute)
    if not isinstance(plant, RobotPlant):
        return _guarded(agent, observed, Guard(plant.spec, unguarded=True), None)
    check_matching(policy.spec, plant.spec, setup.policy)
    guard = Guard(plant.spec, with_max_age(GuardConfig(), plant.spec), options.unguarded)
    holding = HoldAgent(agent)  # bounds the time of each step, so that a stop is seen within a control period
    return _guarded(holding, observed, guard, oldest_s(plant.robot))


def _guarded(agent: Agent, observed: ObservedPolicy, guard: Guard, age_s: Callable[[], float] | None) -> Acting:
    """The agent behind the guard, with what both report."""
    guarded = GuardedAgent(agent, guard, age_s)

    def events() -> list[str]:
        held = [f"held: {agent.reason}"] if isinstance(agent, HoldAgent) and agent.reason else []
        return held + [str(event) for event in guarded.result.events]

    return Acting(guarded, observed, events=events, reset=guard.reset_latch)


@functools.lru_cache(maxsize=2)  # another scene of the same policy comes at once
def _opened(name: str) -> Policy:
    return open_policy(name)


def _attributed(policy: Policy) -> Policy | None:
    """The policy with heatmaps in its chunks; None if it has none."""
    from verbot.models.protocols import ExposesAttention
    from verbot.policy.attribution import Attributed
    from verbot.policy.policy import VLAPolicy

    if isinstance(policy, VLAPolicy) and isinstance(policy.network.backbone, ExposesAttention):
        return Attributed(policy)
    return None


@functools.lru_cache(maxsize=16)
def _axes(suite: str) -> tuple[str, ...]:
    """The randomization axes that an episode of the suite takes."""
    found = []
    if suite in envs.names():
        with closing(make_env(suite, render_cameras=False)) as env:
            for axis in AXES:
                with contextlib.suppress(VerbotError):
                    EpisodeRunner(env, {"index": 0, "axes": {axis: 1}})
                    found.append(axis)
    return tuple(axis for axis in found if axis != DROPOUT)


def _find(text: str, setup: ConsoleSetup) -> ConsoleSetup | None:
    found = find_scene(text, setup.suite)
    if found.reason:
        return None
    return dataclasses.replace(setup, scene=found.options["index"], composition=found.options["composition"], task="")


def suite_sentences(setup: ConsoleSetup) -> Sequence[str]:
    """Instructions of the present scene and of others of its suite."""
    if setup.suite not in envs.names():
        return ()
    own = _instructions(setup.suite, setup.task, (setup.scene,), setup.composition)
    return tuple(dict.fromkeys((*own, *_instructions(setup.suite, "", tuple(range(SAMPLED)), "seen"))))


@functools.lru_cache(maxsize=16)
def _instructions(suite: str, task: str, scenes: tuple[int, ...], composition: str) -> tuple[str, ...]:
    with closing(make_env(suite, render_cameras=False)) as env:
        found: list[str] = []
        for scene in scenes:
            plant = SimulatedPlant(env, ConsoleSetup(suite=suite, scene=scene, task=task, composition=composition).request())
            found += plant.sentences()
    return tuple(dict.fromkeys(found))


def _recognizer() -> Recognize | None:
    """What recognizes speech; None if the extra is not installed."""
    recognizer = open_recognizer()
    if recognizer is None:
        return None
    return lambda samples, sentences: recognizer.recognize(samples, sentences).parts()


def _cutter() -> UtteranceCutter:
    """What cuts sound into utterances, with a detector of its own."""
    return UtteranceCutter(SileroDetector())
