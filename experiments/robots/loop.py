"""The control loop at several rates on a simulated robot: periods, missed deadlines, memory.

Each rate has a process of its own, one after the other. The robot is a simulated arm of 14 joints that is commanded in positions
and follows with a lag; the agent is a policy that predicts chunks of small movements, behind `HoldAgent` and guard. Reported are
the quantiles of the period and of each part of a step in ms, deadlines missed, and how much the resident memory grew after the
first tenth of the run. With --robot simulated-process, or another registered name, the robot is that one, at its own rate.

Run it: python experiments/robots/loop.py --rates 10 50 200 --seconds 600 --out loop.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from verbot.agents import ChunkAgent, Guard, GuardedAgent, HoldAgent
from verbot.contracts import Robot
from verbot.deploy.loop import ControlLoop, LoopConfig, oldest_s
from verbot.robots import make_robot
from verbot.spec import ActionChunk, Camera, Component, MotionLimits, Observation, RobotSpec

AXES, ROWS, SIZE = 14, 16, 64
JOINTS = tuple(f"j{i}" for i in range(AXES))


def arm(rate_hz: float) -> RobotSpec:
    joints = Component("joints", "joint_position", JOINTS, "rad", "base", (-3.0,) * AXES, (3.0,) * AXES)
    limits = MotionLimits("joints", (-2.8,) * AXES, (2.8,) * AXES, velocity=(2.0,) * AXES, acceleration=(20.0,) * AXES)
    return RobotSpec(
        f"arm-{rate_hz:g}", rate_hz, (Camera("front", SIZE, SIZE),), (joints,), (joints,), limits=(limits,), max_age_s=1.0
    )


class LaggingArm:
    """Joints that follow their targets with a time constant of 50 ms on the real clock."""

    def __init__(self, rate_hz: float):
        self.spec = arm(rate_hz)
        self._picture = np.zeros((SIZE, SIZE, 3), np.uint8)

    def connect(self) -> None:
        self._begun_s = self._last_s = time.monotonic()
        self._joints = self._targets = np.zeros(AXES)

    def observe(self) -> Observation:
        now_s = time.monotonic()
        self._joints = self._targets + (self._joints - self._targets) * np.exp((self._last_s - now_s) / 0.05)
        self._last_s = now_s
        return Observation({"front": self._picture}, self._joints.astype(np.float32), time_s=now_s - self._begun_s)

    def ages_s(self) -> dict[str, float]:
        return {"front": 0.0, "state": time.monotonic() - self._last_s}

    def act(self, action: np.ndarray) -> None:
        self._targets = action.astype(float)

    def stop(self) -> None:
        """The targets stay."""

    def close(self) -> None:
        """Nothing is open."""


class Swinging:
    """Chunks that swing what the spec's first component is: positions around 0, or deltas; `compute_s` is slept for each."""

    def __init__(self, spec: RobotSpec, compute_s: float):
        self.spec, self._compute_s = spec, compute_s
        self._middle = 0.5 * (spec.action_low() + spec.action_high())
        self._width = np.minimum(0.1, 0.2 * (spec.action_high() - self._middle))

    def predict(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        time.sleep(self._compute_s)
        chunks = []
        for observation in observations:
            times = observation.time_s + np.arange(ROWS) / self.spec.rate_hz
            values = self._middle + self._width * np.sin(times[:, None])
            chunks.append(ActionChunk(values.astype(np.float32), observation.time_s))
        return chunks


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def measure(rate_hz: float, seconds: float, robot_name: str | None, compute_ms: float) -> dict[str, Any]:
    robot: Robot = LaggingArm(rate_hz) if robot_name is None else make_robot(robot_name)
    held = HoldAgent(ChunkAgent(Swinging(robot.spec, compute_ms / 1000), ROWS // 2))
    agent = GuardedAgent(held, Guard(robot.spec), oldest_s(robot))
    memory: list[tuple[float, float]] = []
    begun_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        config = LoopConfig(
            "swing", seconds, Path(folder), show=lambda steps, note: memory.append((time.monotonic() - begun_s, resident_mib()))
        )
        summary = ControlLoop(robot, agent, held).run(config)
        log_bytes = (Path(folder) / "run.jsonl").stat().st_size
    late = [mib for at_s, mib in memory if at_s >= 0.1 * seconds] or [resident_mib()]
    return {
        "robot": robot.spec.name, "rate_hz": robot.spec.rate_hz, "seconds": round(summary.seconds, 2), "steps": summary.steps,
        "misses": summary.misses, "skipped": summary.skipped, "waited": summary.waited, "held": summary.held,
        "changed": summary.changed, "rules": summary.rules, "durations_ms": summary.durations,
        "resident_mib": {"first": round(late[0], 2), "last": round(late[-1], 2), "growth": round(late[-1] - late[0], 2)},
        "log_bytes": log_bytes,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="+", default=[10.0, 50.0, 200.0])
    parser.add_argument("--seconds", type=float, default=600.0, help="of each rate")
    parser.add_argument("--robot", help="a registered robot, once, at its own rate")
    parser.add_argument("--compute-ms", type=float, default=1.0, help="how long a prediction takes")
    parser.add_argument("--seed", type=int, default=0, help="nothing is random; in the record only")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(measure(options.one, options.seconds, options.robot, options.compute_ms)))
        return
    runs = []
    for rate in options.rates[:1] if options.robot else options.rates:
        command = [sys.executable, __file__, "--one", str(rate), "--seconds", str(options.seconds)]
        command += ["--compute-ms", str(options.compute_ms), *(["--robot", options.robot] if options.robot else [])]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=options.seconds + 120)
        runs.append(json.loads(done.stdout))
    text = json.dumps({"seed": options.seed, "compute_ms": options.compute_ms, "runs": runs}, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
