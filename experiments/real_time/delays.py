"""What a late policy costs, and what real-time chunking gives back: success, jumps at seams and jerk, by delay and method.

Run it as ``python experiments/real_time/delays.py --regression outputs/corrected16/policy --flow outputs/flow16/policy --trained
outputs/prefix16/policy --out outputs/delays.json``. The policy of ``verbot corrector`` is that of regression with its corrector;
without one its cells of ``corrected`` are left out. Every cell (policy, method, delay, execute horizon, estimate) plays the same
scenes; the delay counts in control steps of the simulated world, so the speed of the machine changes nothing. Cells that the file
holds are not played again. It ends with a table; p is McNemar's exact test against ``naive`` of the same policy and delay. "kept"
is the success as a share of what the method has without a delay.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from verbot.agents import RealTimeAgent
from verbot.contracts import Policy
from verbot.envs import make_env
from verbot.errors import ConfigError, SimulationError
from verbot.evaluation.protocol.conditions import EvaluationConfig, make_plan
from verbot.evaluation.protocol.intervals import mcnemar, proportion
from verbot.files import write_atomic
from verbot.parallel.progress import Progress
from verbot.policy.batch_invariance import batch_invariant
from verbot.policy.opening import load_policy
from verbot.policy.policy import VLAPolicy
from verbot.rollout.delay import Delay
from verbot.rollout.results import Job
from verbot.rollout.vector import EnvFactories, VectorRunner
from verbot.spec import ActionChunk, FloatArray, Observation, RobotSpec
from verbot.workflows.load_policy import fitting

# Methods by the kind of policy; naive comes first, because the others are compared with it.
METHODS = {
    "regression": ("naive", "hold", "aligned", "blend", "anchored", "corrected"),
    "flow": ("naive", "hold", "aligned", "anchored", "guided"),
    "trained": ("naive", "hold", "trained"),
    "ahead": ("naive", "hold", "aligned", "anchored", "ahead"),
}
ESTIMATED = ("guided", "trained", "ahead")  # methods that use an estimate of the delay
NAIVE, CORRECTED = "naive", "corrected"


@dataclass(frozen=True)
class Arguments:
    """What to measure.

    Args:
        regression, flow, trained, ahead: folders of policies: any head; a generative head; a flow head with a prefix; a network
            that reads ahead. Those that are given are measured.
        out: a JSON file with all cells.
        delays: control steps that an answer takes.
        horizons: control steps between two queries, at least; not those that with the delay are longer than a chunk.
        held: the horizon of ``hold``, which stops the robot once in so many steps.
        wrong: errors of the estimate of the delay, at `wrong_at` steps of delay.
        scenes: number of scenes of each cell.
        methods: only these methods, naive among them; otherwise all.
        slots: episodes at once.
    """

    regression: Path | None = None
    flow: Path | None = None
    trained: Path | None = None
    ahead: Path | None = None
    out: Path = Path("outputs/delays.json")
    delays: tuple[int, ...] = (0, 1, 2, 4, 8)
    horizons: tuple[int, ...] = (4,)
    held: int = 8
    wrong: tuple[int, ...] = (-2, 2)
    wrong_at: tuple[int, ...] = (4,)
    scenes: int = 256
    methods: tuple[str, ...] = ()
    suite: str = "tabletop-starter"
    slots: int = 16
    seed: int = 0

    def policies(self) -> dict[str, Path]:
        given = {"regression": self.regression, "flow": self.flow, "trained": self.trained, "ahead": self.ahead}
        return {kind: path for kind, path in given.items() if path is not None}


@dataclass(frozen=True)
class Cell:
    """One way to act, on all scenes. `estimate` is the delay that the agent expects; None lets it measure."""

    kind: str
    method: str
    delay: int
    execute: int
    estimate: int | None = None

    @property
    def key(self) -> str:
        text = f"{self.kind}/{self.method}/d{self.delay}/s{self.execute}"
        return text if self.estimate is None else f"{text}/expects{self.estimate}"


class Recorded:
    """An agent whose actions and seams are kept: at a seam another chunk, or a hold, goes on."""

    def __init__(self, agent: RealTimeAgent, kept: list[Recorded]):
        self._agent, self.policy = agent, agent.policy
        self.actions, self.seams = list[FloatArray](), list[bool]()
        self._before, self._was_held = (0, 0), False
        kept.append(self)

    def reset(self, instruction: str) -> None:
        self._agent.reset(instruction)

    def interrupt(self) -> None:
        self._agent.interrupt()

    def lost(self) -> None:
        self._agent.lost()

    def next_query(self, observation: Observation) -> Observation | None:
        return self._agent.next_query(observation)

    def receive(self, chunk: ActionChunk) -> None:
        self._agent.receive(chunk)

    def act(self, observation: Observation) -> FloatArray:
        action = self._agent.act(observation)
        switches, holds = self._agent.switches, self._agent.holds
        is_held = holds != self._before[1]
        self.seams.append(switches != self._before[0] or is_held != self._was_held)
        self._before, self._was_held = (switches, holds), is_held
        self.actions.append(action.copy())
        return action

    @property
    def holds(self) -> int:
        return self._agent.holds


def main() -> None:
    """Example: python experiments/real_time/delays.py --flow outputs/flow/policy --scenes 16 --delays 0 4"""
    arguments = tyro.cli(Arguments, description=f"{__doc__}\n{main.__doc__}")
    torch.set_num_threads(1)
    if not arguments.policies():
        raise SystemExit("give a policy: --regression, --flow, --trained or --ahead FOLDER")
    settings = {"suite": arguments.suite, "scenes": arguments.scenes, "seed": arguments.seed}
    found = _earlier(arguments.out, settings)
    with Progress("delays", len(list(cells(arguments))) * arguments.scenes, "episodes") as bar:
        done = 0
        for kind, path in arguments.policies().items():
            loaded = load_policy(path)
            if not isinstance(loaded, VLAPolicy):
                raise SystemExit(f"{path} is an exported policy; give the one that it was made of")
            policy = batch_invariant(loaded)
            for cell in cells(arguments, kind, policy):
                if cell.key not in found:
                    found[cell.key] = measure(cell, policy, str(path), arguments, bar, done)
                    record = {"settings": settings, "cells": found}
                    write_atomic(arguments.out, json.dumps(record, indent=1) + "\n")
                    print(json.dumps({key: value for key, value in found[cell.key].items() if key != "won"}), flush=True)
                done += arguments.scenes
                bar.update(done)
    print(table(found))


def cells(arguments: Arguments, kind: str | None = None, policy: VLAPolicy | None = None) -> Iterator[Cell]:
    """All cells, or those of one policy."""
    chunk = None if policy is None else policy.config.chunk
    for each in arguments.policies() if kind is None else (kind,):
        for delay in arguments.delays:
            for method in METHODS[each]:
                if arguments.methods and method not in arguments.methods:
                    continue
                if method == CORRECTED and policy is not None and policy.corrector is None and not arguments.methods:
                    continue
                for execute in (arguments.held,) if method == "hold" else arguments.horizons:
                    if method != "hold" and chunk is not None and max(execute, delay) + delay > chunk:
                        continue
                    yield Cell(each, method, delay, execute)
                    if method in ESTIMATED and delay in arguments.wrong_at:
                        yield from (Cell(each, method, delay, execute, max(0, delay + error)) for error in arguments.wrong)


def measure(cell: Cell, policy: Policy, path: str, arguments: Arguments, bar: Progress, done: int) -> dict[str, Any]:
    """Play all scenes. Raises `SimulationError` for an episode that could not be played."""
    factories = EnvFactories.of(functools.partial(make_env, arguments.suite, **fitting(path, arguments.suite)))
    kept: list[Recorded] = []

    def make_agent(policy: Policy) -> Recorded:
        return Recorded(RealTimeAgent(policy, cell.execute, cell.method, cell.estimate), kept)

    runner = VectorRunner(factories, policy, make_agent, arguments.slots, delay=Delay(cell.delay))
    won: dict[str, bool] = {}
    for number, result in enumerate(runner.play(jobs(arguments)), 1):
        if result.error is not None:
            raise SimulationError(f"{cell.key}, {result.key}: {result.error}")
        won[result.key] = result.success
        bar.update(done + number, cell.key)
    success = proportion(list(won.values()))
    return {
        **dataclasses.asdict(cell),
        "n": success.n,
        "percent": success.percent(),
        **motion([(np.stack(each.actions), np.array(each.seams)) for each in kept], policy.spec),
        "held_steps": round(float(np.mean([each.holds for each in kept])), 2),
        "steps": round(float(np.mean([len(each.actions) for each in kept])), 2),
        "won": won,
    }


def jobs(arguments: Arguments) -> tuple[Job, ...]:
    config = EvaluationConfig(arguments.suite, arguments.scenes, arguments.seed, conditions=(), baselines=False)
    with_tasks = make_env(arguments.suite, render_cameras=False)
    tasks = with_tasks.tasks
    with_tasks.close()
    return make_plan(config, tasks).conditions["canonical"]


def motion(episodes: list[tuple[FloatArray, Any]], spec: RobotSpec) -> dict[str, float]:
    """Changes of the commanded velocity, in mm a step, and the worst jerk of each episode, in m/s³.

    The actions are displacements a step; jerk is their second difference times the cube of the rate.
    """
    slices = spec.action_slices()
    columns = np.r_[tuple(slices[c.name] for c in spec.action if c.kind == "position_delta")]
    at_seams, elsewhere, worst = list[float](), list[float](), list[float]()
    for actions, seams in episodes:
        change = np.linalg.norm(np.diff(actions[:, columns], axis=0), axis=1)
        at_seams += change[seams[1:]].tolist()
        elsewhere += change[~seams[1:]].tolist()
        second = np.linalg.norm(np.diff(actions[:, columns], n=2, axis=0), axis=1)
        worst.append(float(second.max(initial=0.0)) * spec.rate_hz**3)
    return {
        "seam_jump_mm": round(1000 * float(np.mean(at_seams or [0.0])), 3),
        "other_jump_mm": round(1000 * float(np.mean(elsewhere or [0.0])), 3),
        "worst_jerk_mean": round(float(np.mean(worst)), 2),
        "worst_jerk_max": round(float(np.max(worst)), 2),
    }


def table(found: dict[str, dict[str, Any]]) -> str:
    """One line a cell."""
    head = f"{'cell':34} {'success [95 %]':>22} {'kept':>6} {'p':>8} {'seam mm':>8} {'else mm':>8} {'jerk':>7} {'held':>6}"
    lines = [head]
    for key, cell in found.items():
        base = _first(found, cell, method=NAIVE, delay=cell["delay"])
        at_once = _first(found, cell, method=cell["method"], delay=0)
        p = "" if base is None or base is cell else f"{_p(cell, base):.2g}"
        kept = "" if at_once is None or not at_once["percent"][0] else f"{cell['percent'][0] / at_once['percent'][0]:.0%}"
        value, low, high = cell["percent"]
        shown = f"{value:.1f} % [{low:.1f}, {high:.1f}]"
        lines.append(
            f"{key:34} {shown:>22} {kept:>6} {p:>8} {cell['seam_jump_mm']:8.2f} {cell['other_jump_mm']:8.2f} "
            f"{cell['worst_jerk_mean']:7.1f} {cell['held_steps']:6.1f}"
        )
    return "\n".join(lines)


def _first(found: dict[str, dict[str, Any]], like: dict[str, Any], method: str, delay: int) -> dict[str, Any] | None:
    """The cell of the same policy with this method and delay: of the same horizon if there is one, without an estimate."""
    same = [
        c for c in found.values() if (c["kind"], c["method"], c["delay"], c["estimate"]) == (like["kind"], method, delay, None)
    ]
    return next((c for c in same if c["execute"] == like["execute"]), same[0] if same else None)


def _p(cell: dict[str, Any], base: dict[str, Any]) -> float:
    return mcnemar([(cell["won"][key], base["won"][key]) for key in cell["won"] if key in base["won"]])


def _earlier(path: Path, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The cells that an interrupted run left. Raises `ConfigError` for those of other scenes."""
    if not path.exists():
        return {}
    record = json.loads(path.read_text())
    if record["settings"] != settings:
        raise ConfigError(f"{path} holds cells of other scenes: {record['settings']}; choose another file")
    return dict(record["cells"])


if __name__ == "__main__":
    main()
