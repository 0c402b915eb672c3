"""A policy server that is killed again and again while a robot acts at 20 Hz.

Run it as ``python experiments/serving/kill_server.py --out kill_server.json``; two minutes. The server is a process that is ended
by SIGKILL at random times, stays away for 0.2 to 3 s, and begins anew at the same port. The robot's loop is a `HoldAgent` around
a `ChunkAgent` with a `RemotePolicy`. Every row of a chunk holds the time that it is for, so that an action that is executed late
shows. One JSON record holds the milliseconds from each kill to the first step in which the robot was held, from the restart (the
first moment at which the port accepts) to the first action, the longest step, and the number of stale, wrong and missing actions
and of errors that are not typed.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from verbot.agents import ChunkAgent, HoldAgent
from verbot.deploy import PolicyServer
from verbot.errors import VerbotError
from verbot.remote import RemotePolicy
from verbot.spec import ActionChunk, Component, Observation, RobotSpec

RATE_HZ, ROWS, EXECUTE = 20.0, 8, 2
PERIOD_S = 1 / RATE_HZ
STEP = Component("x", "position_delta", ("x", "y", "z"), "m", "base", (-1e6,) * 3, (1e6,) * 3)
SPEC = RobotSpec("line", RATE_HZ, (), (STEP,), (STEP,))


class Dated:
    """A policy whose rows hold the times that they are for, after `took_s`.

    Args:
        took_s: of a prediction, as that of a network would be.
    """

    spec, memory_bytes, identity = SPEC, 0, "dated"

    def __init__(self, took_s: float):
        self._took_s = took_s

    def predict(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        time.sleep(self._took_s)
        times = np.arange(ROWS) * PERIOD_S
        return [ActionChunk(np.repeat((o.time_s + times).astype(np.float32)[:, None], 3, 1), o.time_s) for o in observations]


@dataclass
class Killer:
    """Starts the server, ends it and starts it again, `kills` times. Times are those of `time.monotonic`."""

    port: int
    kills: int
    rng: random.Random
    killed_s: list[float] = field(default_factory=list)
    back_s: list[float] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def start(self) -> subprocess.Popen[bytes]:
        """The server, once its port accepts."""
        process = subprocess.Popen([sys.executable, __file__, "--serve", str(self.port)])
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return process
            except OSError:
                time.sleep(0.01)
        raise SystemExit("the server did not start")

    def run(self, process: subprocess.Popen[bytes]) -> None:
        try:
            for _ in range(self.kills):
                time.sleep(self.rng.uniform(1.0, 2.0))
                process.send_signal(signal.SIGKILL)
                self.killed_s.append(time.monotonic())
                process.wait(20)
                time.sleep(self.rng.uniform(0.2, 3.0))
                process = self.start()
                self.back_s.append(time.monotonic())
            time.sleep(3.0)
        finally:
            process.kill()
            process.wait(20)
            self.done.set()


@dataclass
class Loop:
    """What the robot did: the time of each step, whether it was held, and what was wrong."""

    held: list[tuple[float, bool]] = field(default_factory=list)
    longest_s: float = 0.0
    stale: int = 0
    wrong: int = 0
    typed: int = 0
    untyped: dict[str, int] = field(default_factory=dict)

    def run(self, url: str, done: threading.Event) -> None:
        with RemotePolicy(url, timeout_s=1.0) as policy:
            agent = HoldAgent(ChunkAgent(policy, EXECUTE))
            agent.reset("go")
            start_s = time.monotonic() - 1.0  # a time of 0 would be no motion
            due_s = time.monotonic()
            while not done.is_set():
                self.step(agent, start_s)
                due_s = max(due_s + PERIOD_S, time.monotonic() - PERIOD_S)
                time.sleep(max(0.0, due_s - time.monotonic()))

    def step(self, agent: HoldAgent, start_s: float) -> None:
        began_s = time.monotonic()
        observation = Observation({}, np.zeros(3, np.float32), "go", time_s=began_s - start_s)
        try:
            action = agent.act(observation)
        except VerbotError:
            self.typed += 1
            return
        except Exception as error:  # counted: none may come
            self.untyped[type(error).__name__] = self.untyped.get(type(error).__name__, 0) + 1
            return
        ended_s = time.monotonic()
        self.longest_s = max(self.longest_s, ended_s - began_s)
        if action.shape != (3,) or not np.isfinite(action).all():
            self.wrong += 1
            return
        is_held = not action.any()
        self.held.append((ended_s, is_held))
        self.stale += not is_held and float(action.min()) < observation.time_s - 0.75 * PERIOD_S

    def first(self, since_s: float, held: bool) -> float:
        """Seconds from `since_s` to the first step that was held, or was not; infinite if there is none."""
        return next((when - since_s for when, is_held in self.held if when > since_s and is_held == held), float("inf"))


def record_of(loop: Loop, killer: Killer, options: argparse.Namespace) -> dict[str, Any]:
    held = [1000 * loop.first(when, True) for when in killer.killed_s]
    back = [1000 * loop.first(when, False) for when in killer.back_s]
    return {
        "test": "kill_server", "count": options.kills, "seed": options.seed, "rate_hz": RATE_HZ, "steps": len(loop.held),
        "held_ms_max": round(max(held), 1), "held_ms_median": round(float(np.median(held)), 1),
        "back_ms_max": round(max(back), 1), "back_ms_median": round(float(np.median(back)), 1),
        "longest_step_ms": round(1000 * loop.longest_s, 1), "stale_actions": loop.stale, "wrong_actions": loop.wrong,
        "typed_errors": loop.typed, "untyped_errors": loop.untyped,
        "held_within_150_ms": sum(each <= 150 for each in held), "back_within_2_s": sum(each <= 2000 for each in back),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the record here too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        with PolicyServer(Dated(0.01), port=options.serve) as server:
            server.wait()
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    killer, loop = Killer(port, options.kills, random.Random(options.seed)), Loop()
    thread = threading.Thread(target=killer.run, args=(killer.start(),), daemon=True)
    thread.start()
    loop.run(f"ws://127.0.0.1:{port}", killer.done)
    thread.join(30)
    text = json.dumps(record_of(loop, killer, options))
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
