"""The control loop of a ROS 2 robot: its drivers are another process on the loopback, with cameras of 640×480 and joints.

The drivers publish every camera at the rate of the loop (rgb8, best effort) and the joints at 100 Hz. The loop observes, reads
the number that each picture carries, and commands the joints. Recorded: periods, the age of pictures when they are used, how many
pictures came and how many were used, how long `observe` and `act` take, the share of one core, and memory.

Run it: python experiments/robots/ros2.py --seconds 60 --out ros2.json
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from verbot.robots import make_robot
from verbot.robots.ros2 import Ros2Robot
from verbot.robots.ros2.config import ARRAY, IMAGE, JOINT_STATE
from verbot.robots.ros2.dds import DdsConnection, Endpoint
from verbot.robots.ros2.messages import encode_cdr, header, make
from verbot.robots.ros2.network import DdsNetwork

JOINTS, JOINTS_HZ, HEIGHT, WIDTH = ("shoulder", "elbow", "wrist"), 100.0, 480, 640
PATIENCE_S = 30.0


def network(domain: int) -> dict[str, Any]:
    return {"domain_id": domain, "interface": "lo", "discovery": "localhost", "peers": []}


def camera_names(count: int) -> list[str]:
    return [f"camera{number}" for number in range(count)]


def config(options: argparse.Namespace) -> dict[str, Any]:
    """The configuration of the robot."""
    limits = {"joints": list(JOINTS), "low": [-3.0] * len(JOINTS), "high": [3.0] * len(JOINTS)}
    return {
        "name": "arm",
        "rate_hz": options.rate,
        "cameras": [
            {"name": name, "topic": f"/{name}/image_raw", "height": HEIGHT, "width": WIDTH}
            for name in camera_names(options.cameras)
        ],
        "state": [{"name": "joints", "topic": "/joint_states", **limits}],
        "action": [{"name": "joints", "topic": "/commands", "type": ARRAY, **limits}],
        "network": network(options.domain),
        "connect_timeout_s": PATIENCE_S,
    }


def drive(options: argparse.Namespace) -> None:
    """The drivers, until their input ends. The last line printed says how many pictures each camera sent."""
    names = camera_names(options.cameras)
    pictures = [Endpoint(f"/{name}/image_raw", IMAGE, "best_effort", "volatile") for name in names]
    states = Endpoint("/joint_states", JOINT_STATE, "best_effort", "volatile")
    orders = Endpoint("/commands", ARRAY, "reliable", "volatile")
    connection = DdsConnection(DdsNetwork(**network(options.domain)), [orders], [*pictures, states])
    pixels = np.random.default_rng(options.seed).integers(0, 255, HEIGHT * WIDTH * 3, dtype=np.uint8)
    nothing, sent, joints_due_s, due_s = np.zeros(0), 0, time.monotonic(), time.monotonic()
    end_s = time.monotonic() + options.seconds + 3 * PATIENCE_S  # even if nobody ends them
    os.set_blocking(sys.stdin.fileno(), False)
    while time.monotonic() < end_s and sys.stdin.buffer.read(1) != b"":
        now_s, now_ns = time.monotonic(), time.time_ns()
        if now_s >= joints_due_s:
            state = {"position": np.zeros(len(JOINTS)), "velocity": nothing, "effort": nothing}
            connection.write(
                states.topic, encode_cdr(make(JOINT_STATE, header=header(now_ns), name=list(JOINTS), **state), JOINT_STATE)
            )
            joints_due_s += 1 / JOINTS_HZ
        if now_s >= due_s:
            sent += 1
            pixels[:4] = np.frombuffer(np.uint32(sent).tobytes(), np.uint8)
            size = {"height": HEIGHT, "width": WIDTH, "encoding": "rgb8", "is_bigendian": 0, "step": WIDTH * 3}
            data = encode_cdr(make(IMAGE, header=header(now_ns), **size, data=pixels), IMAGE)
            for each in pictures:
                connection.write(each.topic, data)
            due_s += 1 / options.rate
        time.sleep(max(0.0, min(joints_due_s, due_s) - time.monotonic()))
    print(json.dumps({"sent": sent, "commands": connection.heard[orders.topic]}), flush=True)
    connection.close()


def loop(robot: Ros2Robot, options: argparse.Namespace) -> dict[str, Any]:
    """What the loop measured; `robot` is connected."""
    period_s, start_s = 1 / options.rate, time.monotonic()
    starts, observing, acting, ages, state_ages, memory = [], [], [], [], [], []
    used: dict[str, list[int]] = {name: [] for name in robot.spec.camera_names}
    due_s, spent_s, before = start_s, time.process_time(), robot.received
    while (now_s := time.monotonic()) < start_s + options.seconds:
        starts.append(now_s)
        observation = robot.observe()
        observed_s = time.monotonic()
        found = robot.ages_s()
        ages += [found[name] for name in used]
        state_ages.append(found["state"])
        for name, numbers in used.items():
            numbers.append(int(np.frombuffer(observation.images[name].reshape(-1)[:4].tobytes(), np.uint32)[0]))
        begun_s = time.monotonic()
        robot.act(np.sin(len(starts) / 30 + np.arange(len(JOINTS))).astype(np.float32))
        acting.append(time.monotonic() - begun_s)
        observing.append(observed_s - now_s)
        if len(starts) % max(1, int(options.rate)) == 1:
            memory.append(resident_mb())
        due_s = max(due_s + period_s, time.monotonic())  # a missed period is not made up for
        time.sleep(max(0.0, due_s - time.monotonic()))
    seconds = time.monotonic() - start_s
    periods, after = np.diff(starts), robot.received
    return {
        "seconds": round(seconds, 2),
        "rate_hz": round(len(starts) / seconds, 3),
        "period_ms": percentiles(periods),
        "misses": int((periods > 1.5 * period_s).sum()),
        "picture_age_ms": percentiles(ages),
        "state_age_ms": percentiles(state_ages),
        "observe_ms": percentiles(observing),
        "act_ms": percentiles(acting),
        "pictures_used": {name: len(set(numbers)) for name, numbers in used.items()},
        "pictures_received": {name: after[f"/{name}/image_raw"] - before[f"/{name}/image_raw"] for name in used},
        "pictures_spanned": {name: numbers[-1] - numbers[0] + 1 for name, numbers in used.items()},
        "cpu_share": round((time.process_time() - spent_s) / seconds, 3),
        "memory_mb": {"first": memory[0], "last": memory[-1], "largest": max(memory)},
        "largest_resident_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "rejected": {topic: each.count for topic, each in robot.rejected.items()},
        "steps": len(starts),
    }


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * resource.getpagesize() / 2**20, 1)


def percentiles(seconds: Any) -> dict[str, float]:
    ranks = {"p50": 50, "p95": 95, "p99": 99, "max": 100}
    return {name: round(float(np.percentile(np.asarray(seconds) * 1e3, rank)), 3) for name, rank in ranks.items()}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Start the drivers, run the loop, and put both sides together."""
    command = [sys.executable, __file__, "--driver"]
    for name in ("seconds", "rate", "cameras", "domain", "seed"):
        command += [f"--{name}", str(vars(options)[name])]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    robot = make_robot("ros2", config=config(options))
    assert isinstance(robot, Ros2Robot)
    try:
        robot.connect()
        try:
            found = loop(robot, options)
        finally:
            robot.close()
        answer, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.wait()
    return {"experiment": "robots/ros2", "seed": options.seed, "cameras": options.cameras, **found, "drivers": json.loads(answer)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=30.0, help="Hz, of the loop and of the cameras")
    parser.add_argument("--cameras", type=int, default=2)
    parser.add_argument("--domain", type=int, default=20 + os.getpid() % 80, help="of DDS")
    parser.add_argument("--seed", type=int, default=0, help="of the pixels")
    parser.add_argument("--out", type=Path, help="file for the JSON record")
    parser.add_argument("--driver", action="store_true", help="be the drivers; the loop starts them by itself")
    options = parser.parse_args()
    if options.driver:
        drive(options)
        return
    record = json.dumps(measure(options), indent=2)
    print(record)
    if options.out:
        options.out.write_text(record + "\n")


if __name__ == "__main__":
    main()
