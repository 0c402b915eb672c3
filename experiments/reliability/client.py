"""A policy server that fails in every way, and a robot's loop of a remote policy and each agent that must survive it.

Each case draws a fault, when it begins and how long it lasts, as a function of the seed. A loop in real time asks the agent for
an action at every control step; every row of the server's chunks holds the time that it is for, so a late action shows. Counted:
exceptions that are no verbot error, actions that are not finite or misshapen, actions executed late, loops that did not act again
after the fault ended, and how long a step, or the closing of the connection, lasted beyond its time limit.

Run it: python experiments/reliability/client.py --cases 240 --out client.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

from verbot import agents
from verbot.agents import ChunkAgent, EnsembleAgent
from verbot.contracts import Agent, Policy
from verbot.errors import VerbotError
from verbot.remote import RemotePolicy, decode, encode
from verbot.spec import ActionChunk, Component, Observation, RobotSpec

RATE_HZ, PERIOD_S, ROWS, TIMEOUT_S, HOLD_S = 50.0, 0.02, 8, 0.3, 0.05
STEP = Component("x", "position_delta", ("x", "y", "z"), "m", "base", (-1e4,) * 3, (1e4,) * 3)
SPEC = RobotSpec("line", RATE_HZ, (), (STEP,), (STEP,))
JUMP_S = 30.0  # how long a robot waits whose loop was interrupted
AGENTS: dict[str, Callable[[Policy], Agent]] = {
    "chunk": lambda policy: ChunkAgent(policy, ROWS),
    "ensemble": lambda policy: EnsembleAgent(policy),
}
if "HoldAgent" in agents.__all__:  # older versions have none
    AGENTS |= {
        "held chunk": lambda policy: agents.HoldAgent(ChunkAgent(policy, ROWS), timeout_s=HOLD_S),
        "held ensemble": lambda policy: agents.HoldAgent(EnsembleAgent(policy), timeout_s=HOLD_S),
    }


def rows(time_s: float, count: int = ROWS, columns: int = 3) -> np.ndarray:
    """A chunk whose rows hold the times that they are for."""
    return np.repeat((time_s + np.arange(count) * PERIOD_S).astype(np.float32)[:, None], columns, 1)


def chunk(time_s: float, values: np.ndarray | None = None, **fields: Any) -> dict[str, Any]:
    values = rows(time_s) if values is None else values.astype(np.float32)
    return {"values": values, "time_s": time_s, "extras": {}, "memory": None, "value": None} | fields


def poisoned(time_s: float, value: float) -> np.ndarray:
    values = rows(time_s)
    values[len(values) // 2] = value
    return values


def answer(number: Any, *chunks: Any, **fields: Any) -> bytes:
    return encode({"id": number, "chunks": list(chunks), **fields})


# Faults in what is answered: a function of the request's number and time.
ANSWERS: dict[str, Callable[[int, float], bytes | str]] = {
    "nan": lambda n, t: answer(n, chunk(t, poisoned(t, np.nan))),
    "inf": lambda n, t: answer(n, chunk(t, poisoned(t, np.inf))),
    "columns": lambda n, t: answer(n, chunk(t, rows(t, 10, 4))),
    "no rows": lambda n, t: answer(n, chunk(t, rows(t, 0))),
    "no rows, columns": lambda n, t: answer(n, chunk(t, np.zeros((0, 7)))),
    "million rows": lambda n, t: answer(n, chunk(t, np.zeros((10**6, 3)))),
    "another number": lambda n, t: answer(n + 1, chunk(t)),
    "no number": lambda n, t: encode({"chunks": [chunk(t)]}),
    "number of text": lambda n, t: answer(str(n), chunk(t)),
    "two chunks": lambda n, t: answer(n, chunk(t), chunk(t)),
    "no chunks": lambda n, t: encode({"id": n}),
    "chunks of numbers": lambda n, t: answer(n, 3),
    "garbage": lambda n, t: bytes(range(256)),
    "empty": lambda n, t: b"",
    "text": lambda n, t: "hello",
    "truncated": lambda n, t: answer(n, chunk(t))[:-7],
    "deep": lambda n, t: b"\x91" * 5000,
    "error": lambda n, t: encode({"id": n, "error": {"kind": "PolicyError", "message": "no"}}),
    "error of numbers": lambda n, t: encode({"id": n, "error": {"kind": 3, "message": None}}),
    "memory of nan": lambda n, t: answer(n, chunk(t, memory={"m": np.full(3, np.nan)})),
    "memory of numbers": lambda n, t: answer(n, chunk(t, memory={"m": 3})),
    "nan time": lambda n, t: answer(n, chunk(float("nan"), rows(t))),
    "old": lambda n, t: answer(n, chunk(t - 30.0)),
    "nan value": lambda n, t: answer(n, chunk(t, value=float("nan"))),
    "extras": lambda n, t: answer(n, chunk(t, extras={"x": np.zeros(2**21)})),
    "float64": lambda n, t: encode({"id": n, "chunks": [{**chunk(t), "values": rows(t).astype(np.float64)}]}),
}
# Faults of the connection, the server and the robot's own loop.
OTHERS = (
    "silent",
    "slow",
    "dribble",
    "closes",
    "aborts",
    "half a frame",
    "twice",
    "unasked",
    "restart",
    "gone",
    "jump",
    "not reading",
)


@dataclass
class FakeServer:
    """Answers as `fault` says while it is active."""

    fault: str
    port: int = 0
    active: bool = False
    ended: threading.Event = field(default_factory=threading.Event)
    server: Server | None = None

    def start(self) -> None:
        self.server = serve(self._converse, "127.0.0.1", self.port, compression=None, max_size=2**27, close_timeout=0.1)
        self.port = self.server.socket.getsockname()[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        if self.server is not None:
            self.server.shutdown()

    def begin(self) -> None:
        self.active = True
        if self.fault in ("restart", "gone"):
            self.stop()
        if self.fault == "restart":
            self.start()

    def end(self) -> None:
        self.active = False
        self.ended.set()
        if self.fault == "gone":
            self.start()

    def _converse(self, connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed, OSError):
            connection.send(encode({"verbot": 1, "spec": SPEC.to_json()}))
            for data in connection:
                request = decode(data)  # type: ignore[arg-type]
                number, time_s = request["id"], request["observations"][0]["time_s"]
                if self.active:
                    self._fail(connection, number, time_s)
                else:
                    connection.send(answer(number, chunk(time_s)))

    def _fail(self, connection: ServerConnection, number: int, time_s: float) -> None:
        good = answer(number, chunk(time_s))
        if self.fault in ANSWERS:
            connection.send(ANSWERS[self.fault](number, time_s))
        elif self.fault in ("silent", "not reading"):
            self.ended.wait(5.0)
            connection.send(good)
        elif self.fault == "slow":
            time.sleep(0.15)
            connection.send(good)
        elif self.fault == "dribble":
            frame = struct.pack("!BBH", 0x82, 126, len(good)) + good
            for byte in frame:
                connection.socket.sendall(bytes([byte]))
                if self.ended.wait(0.01):
                    break
            connection.socket.shutdown(socket.SHUT_RDWR)
        elif self.fault == "closes":
            connection.close()
        elif self.fault in ("aborts", "half a frame"):
            if self.fault == "half a frame":
                connection.socket.sendall(struct.pack("!BBH", 0x82, 126, len(good)) + good[: len(good) // 2])
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.socket.shutdown(socket.SHUT_RDWR)
        else:
            connection.send(good)
            if self.fault in ("twice", "unasked"):
                connection.send(good if self.fault == "twice" else answer(number + 1, chunk(time_s - 30.0)))


@dataclass
class Tally:
    """Over all cases; seconds are the most beyond a time limit."""

    untyped: Counter[str] = field(default_factory=Counter)
    typed: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    late: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)  # loops that did not act again
    steps: int = 0
    held: int = 0
    step_s: float = -1.0
    step: str = ""  # which case that was
    close_s: float = 0.0


def connected(port: int) -> RemotePolicy:
    """Also on a machine that is too busy to connect within the time limit."""
    for _ in range(20):
        try:
            return RemotePolicy(f"ws://127.0.0.1:{port}", timeout_s=TIMEOUT_S)
        except VerbotError:
            continue
    raise SystemExit("this machine is too busy for the time limits of this script")


def run_case(case: int, fault: str, name: str, seed: int, tally: Tally) -> None:
    """One loop: acts, meets the fault, and has to act again."""
    rng = random.Random(f"{seed} {case}")
    server = FakeServer(fault)
    server.start()
    begin, length = rng.randint(2, 12), rng.randint(3, 20)
    label = f"{fault}/{name}"
    try:
        policy = connected(server.port)
        agent = AGENTS[name](policy)
        agent.reset("go")
        start, jumped = time.monotonic() - 1.0, 0.0
        for step in range(begin + length):
            if step == begin:
                server.begin()
                jumped = JUMP_S if fault == "jump" else 0.0
            act(agent, start - jumped, fault, label, tally)
        server.end()
        until = time.monotonic() + 3.0
        while not act(agent, start - jumped, "", label, tally) and time.monotonic() < until:
            pass
        tally.lost[label] += time.monotonic() >= until
        began = time.monotonic()
        policy.close()
        tally.close_s = max(tally.close_s, time.monotonic() - began)
    finally:
        server.ended.set()
        server.stop()


def act(agent: Agent, start: float, fault: str, label: str, tally: Tally) -> bool:
    """One control step. Returns whether the agent moved the robot, and on time."""
    began = time.monotonic()
    memory = {"m": np.zeros(2**20)} if fault == "not reading" else None
    observation = Observation({}, np.zeros(3, np.float32), "", time_s=began - start, memory=memory)
    moved = False
    try:
        action = agent.act(observation)
    except VerbotError:
        tally.typed += 1
    except Exception as error:
        tally.untyped[f"{label}: {type(error).__name__}"] += 1
    else:
        moved = is_good(action, observation.time_s, label, tally)
    seconds = time.monotonic() - began
    tally.steps += 1
    beyond = seconds - (HOLD_S if "held" in label else TIMEOUT_S)
    if beyond > tally.step_s:
        tally.step_s, tally.step = beyond, label
    time.sleep(max(0.0, PERIOD_S - seconds))
    return moved


def is_good(action: Any, now_s: float, label: str, tally: Tally) -> bool:
    if not isinstance(action, np.ndarray) or action.shape != (3,) or not np.isfinite(action).all():
        tally.wrong[label] += 1
        return False
    if not action.any():
        tally.held += 1
        return False
    is_late = bool(action.min() < now_s - 0.75 * PERIOD_S)
    tally.late[label] += is_late
    return not is_late


def stop_process(count: int, tally: Tally) -> None:
    """A server process that is stopped by a signal, and continued."""
    for number in range(count):
        command = [sys.executable, str(Path(__file__).resolve()), "--serve"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            policy = connected(int(process.stdout.readline()))
            agent = list(AGENTS.values())[number % len(AGENTS)](policy)
            agent.reset("go")
            start, label = time.monotonic() - 1.0, f"stopped process/{list(AGENTS)[number % len(AGENTS)]}"
            act(agent, start, "", label, tally)
            process.send_signal(signal.SIGSTOP)
            time.sleep(ROWS * PERIOD_S)
            for _ in range(3):
                act(agent, start, "", label, tally)
            process.send_signal(signal.SIGCONT)
            until = time.monotonic() + 3.0
            while not act(agent, start, "", label, tally) and time.monotonic() < until:
                pass
            tally.lost[label] += time.monotonic() >= until
            process.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            policy.close()
            tally.close_s = max(tally.close_s, time.monotonic() - began)
        finally:
            process.kill()
            process.wait()


def cases(count: int, seed: int) -> Iterator[tuple[int, str, str]]:
    """(number, fault, agent): every fault with every agent in turn, in an order of the seed."""
    pairs = [(fault, name) for fault in (*ANSWERS, *OTHERS) for name in ("chunk", "ensemble", "held chunk", "held ensemble")]
    random.Random(seed).shuffle(pairs)
    for number in range(count):
        fault, name = pairs[number % len(pairs)]
        yield number, fault, name if name in AGENTS else name.removeprefix("held ")


class Serving:
    """What the process that is stopped serves."""

    spec = SPEC

    def predict(self, observations: Any) -> list[ActionChunk]:
        return [ActionChunk(rows(o.time_s), o.time_s) for o in observations]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=240)
    parser.add_argument("--stops", type=int, default=4, help="server processes that are stopped by a signal")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    if options.serve:
        from verbot.deploy import PolicyServer

        with PolicyServer(Serving()) as server:
            print(server.url.rpartition(":")[2], flush=True)
            server.wait()
        return
    tally = Tally()
    for number, fault, name in cases(options.cases, options.seed):
        run_case(number, fault, name, options.seed, tally)
    stop_process(options.stops, tally)
    counters = {"untyped": tally.untyped, "wrong_actions": tally.wrong, "late_actions": tally.late, "not_recovered": tally.lost}
    record = {
        "test": "client",
        "count": options.cases + options.stops,
        "seed": options.seed,
        "steps": tally.steps,
        **{key: sum(counter.values()) for key, counter in counters.items()},
        "typed": tally.typed,
        "held": tally.held,
        "longest_beyond_deadline_s": round(tally.step_s, 2),
        "longest_in": tally.step,
        "longest_close_s": round(tally.close_s, 2),
        "where": {key: {k: v for k, v in sorted(counter.items()) if v} for key, counter in counters.items()},
    }
    text = json.dumps(record, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
