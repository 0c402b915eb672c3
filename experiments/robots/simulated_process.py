"""A simulated robot in its own process: who ends when something is killed, and how old its observations are.

Kills: the process of the robot is killed by SIGKILL while a loop drives it; every further call must raise a `RobotError` with the
reason at once, and the robot must connect again. Then a parent is killed by SIGKILL, and its robot's process must end.

Ages: loops of 10, 50 and 200 Hz observe and act; each observation's age is noted when it is read, and how long both calls take.
The world steps at its own rate, so an age is spread over one period of the world.

Prints one JSON record. Needs Linux (/proc).

Example:
    python experiments/robots/simulated_process.py --kills 20 --seconds 60 --out process.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from verbot.errors import RobotError
from verbot.robots.simulated_process import SimulatedProcess
from verbot.spec import FloatArray, RobotSpec

LIMIT_S = 30.0
PARENT = """
import time
from verbot.robots.simulated_process import SimulatedProcess
robot = SimulatedProcess({env!r})
robot.connect()
print(robot.pid, flush=True)
while True:
    robot.observe()
    robot.act((robot.spec.action_low() + robot.spec.action_high()) / 2)
    time.sleep(0.02)
"""


def rest(spec: RobotSpec) -> FloatArray:
    """The middle of every range: no motion of deltas."""
    middle: FloatArray = ((spec.action_low() + spec.action_high()) / 2).astype(np.float32)
    return middle


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def seconds_until(holds: Callable[[], bool]) -> float | None:
    """None if it never holds."""
    begun_s = time.monotonic()
    while not holds():
        if time.monotonic() - begun_s > LIMIT_S:
            return None
        time.sleep(0.001)
    return time.monotonic() - begun_s


def kill_child(robot: SimulatedProcess, wait_s: float) -> dict[str, Any]:
    """Kill the robot's process in the middle of a loop."""
    robot.connect()
    action, until_s, pid = rest(robot.spec), time.monotonic() + wait_s, robot.pid
    assert pid is not None
    while time.monotonic() < until_s:
        robot.observe()
        robot.act(action)
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    reasons: list[str] = []

    def raises() -> bool:
        try:
            robot.observe()
            robot.act(action)
        except RobotError as error:
            reasons.append(str(error))
        return bool(reasons)

    passed_s = seconds_until(raises)
    robot.stop()
    robot.close()
    return {"error_after_s": passed_s, "named": bool(reasons) and "SIGKILL" in reasons[0], "ended": not alive(pid)}


def kill_parent(env: str, wait_s: float) -> dict[str, Any]:
    """Kill a process that drives a robot."""
    with subprocess.Popen([sys.executable, "-c", PARENT.format(env=env)], stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout is not None
            pid = int(parent.stdout.readline())
            time.sleep(wait_s)
        finally:
            parent.kill()
    return {"ended_after_s": seconds_until(lambda: not alive(pid))}


def ages(env: str, rate_hz: float, seconds: float) -> dict[str, Any]:
    """The loop at one rate."""
    robot, found = SimulatedProcess(env, rate_hz=rate_hz), dict[str, list[float]]()
    robot.connect()
    try:
        action, due_s, end_s, late, count = rest(robot.spec), time.monotonic(), time.monotonic() + seconds, 0, 0
        while time.monotonic() < end_s:
            begun_s = time.monotonic()
            robot.observe()
            found.setdefault("age_ms", []).append(1e3 * robot.ages_s()["state"])
            seen_s = time.monotonic()
            robot.act(action)
            found.setdefault("observe_ms", []).append(1e3 * (seen_s - begun_s))
            found.setdefault("act_ms", []).append(1e3 * (time.monotonic() - seen_s))
            due_s, count = due_s + 1 / rate_hz, count + 1
            late += time.monotonic() > due_s
            time.sleep(max(0.0, due_s - time.monotonic()))
        counts = dict(robot.counts)
    finally:
        robot.close()
    quantiles = {
        name: dict(zip(("p50", "p95", "p99", "max"), quantiles_of(values), strict=True)) for name, values in found.items()
    }
    return {"rate_hz": rate_hz, "steps": count, "late": late, **quantiles, "world": counts}


def quantiles_of(values: list[float]) -> list[float]:
    return [round(float(q), 4) for q in np.quantile(values, (0.5, 0.95, 0.99, 1.0))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="tabletop-starter")
    parser.add_argument("--kills", type=int, default=20, help="of the robot's process, and of its parent")
    parser.add_argument("--rates", type=float, nargs="*", default=[10.0, 50.0, 200.0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of each rate")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    draw, robot = random.Random(options.seed), SimulatedProcess(options.env)
    children = [kill_child(robot, draw.uniform(0.0, 0.5)) for _ in range(options.kills)]
    parents = [kill_parent(options.env, draw.uniform(0.0, 0.5)) for _ in range(options.kills)]
    record = {
        "experiment": "simulated_process", "env": options.env, "seed": options.seed,
        "child_kills": len(children), "child_errors_named": sum(each["named"] for each in children),
        "child_ended": sum(each["ended"] for each in children),
        "error_after_s": max((each["error_after_s"] or LIMIT_S for each in children), default=None),
        "parent_kills": len(parents), "parent_child_ended": sum(each["ended_after_s"] is not None for each in parents),
        "ended_after_s": max((each["ended_after_s"] or LIMIT_S for each in parents), default=None),
        "loops": [ages(options.env, rate_hz, options.seconds) for rate_hz in options.rates],
    }  # fmt: skip
    text = json.dumps(record, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
