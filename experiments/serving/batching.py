"""Several robots at one server: requests predicted together against one after another, on the same cores.

Run it as ``python experiments/serving/batching.py --out batching.json``; two minutes. `verbot serve` is a process. So many robots
ask it, each again as soon as it has its answer, with one observation that never changes; their messages are made beforehand, so
that they take little from the server. The arms are ``one`` (``--batch 1``), ``batched``, and ``batched, no wait`` (``--wait-ms
0``), in turn and several times; then one robot alone. For comparison the policy predicts for one and for all robots in a process
without a server. One JSON record holds requests a second and percentiles of the latency of each arm, `ratio` (batched over one),
and `ratio_direct`, which the policy itself allows. With ``--head flow_expert`` the policy is an untrained one with the parts of
the starter policy and another head: the time of a prediction does not depend on the weights.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "reliability"))
import serving_clients as clients
from server_process import ServerProcess

from verbot.remote import RemotePolicy, encode
from verbot.remote.codec import observation_to_wire

ARMS: dict[str, tuple[str, ...]] = {"one": ("--batch", "1"), "batched": (), "batched, no wait": ("--wait-ms", "0")}


def ask(server: ServerProcess, request: bytes, seconds: float) -> list[float]:
    """The latencies of one robot, in seconds."""
    client, found = clients.RawClient(server.address), []
    client.handshake()
    until = time.monotonic() + seconds
    while (start := time.monotonic()) < until:
        client.socket.sendall(request)
        client.receive()
        found.append(time.monotonic() - start)
    client.close()
    return found


def measured(server: ServerProcess, request: bytes, robots: int, seconds: float) -> dict[str, Any]:
    """All robots at once for so long."""
    latencies: list[list[float]] = [[] for _ in range(robots)]

    def one(number: int) -> None:
        latencies[number] = ask(server, request, seconds)

    before, start = server.cpu_s(), time.monotonic()
    threads = [threading.Thread(target=one, args=(number,), daemon=True) for number in range(robots)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 30)
    wall = time.monotonic() - start
    everything = np.array([value for each in latencies for value in each])
    p50, p99 = 1000 * np.percentile(everything, [50, 99])
    cpu_ms = 1000 * (server.cpu_s() - before) / len(everything)
    found = {"rate_hz": len(everything) / wall, "p50_ms": p50, "p99_ms": p99, "cpu_ms": cpu_ms}
    return {name: round(float(value), 2) for name, value in {**found, "least_hz": min(map(len, latencies)) / wall}.items()}


def direct(policy: str, robots: int) -> dict[str, float]:
    """Milliseconds of the policy's own predictions for one and for all robots, in this process."""
    from verbot.workflows.load_policy import open_policy

    made = open_policy(policy)
    observations = [clients.observation(made.spec, number) for number in range(robots)]
    found = {}
    for count in (1, robots):
        took = []
        for _ in range(40):
            start = time.perf_counter()
            made.predict(observations[:count])
            took.append(time.perf_counter() - start)
        found[f"{count}_ms"] = round(1000 * float(np.median(took[8:])), 2)
    found["ratio"] = round(robots * found["1_ms"] / found[f"{robots}_ms"], 2)
    return found


def untrained(head: str, folder: str) -> str:
    """The folder of a policy with the starter policy's parts and another head."""
    import dataclasses

    from verbot.models.registries import Part
    from verbot.policy.opening import load_policy
    from verbot.policy.policy import VLAPolicy

    like = load_policy("starter")
    assert isinstance(like, VLAPolicy)
    config = dataclasses.replace(like.config, head=Part(head))
    made = VLAPolicy.create(config, like.spec, like.statistics, ["pick up the red cube"], like.preprocessing)
    made.save(f"{folder}/policy")
    return f"{folder}/policy"


def summary(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The medians of an arm's repetitions."""
    middle = {name: round(float(np.median([part[name] for part in parts])), 2) for name in parts[0]}
    return {**middle, "rates_hz": [part["rate_hz"] for part in parts]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the record here too")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the arms")
    parser.add_argument("--policy", default="starter")
    parser.add_argument("--head", help="the head of an untrained policy, e.g. flow; in place of --policy")
    parser.add_argument("--robots", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=8.0, help="of one measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch in the server")
    parser.add_argument("--role", choices=("all", "direct"), default="all", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role == "direct":
        print(json.dumps(direct(options.policy, options.robots)))
        return
    with tempfile.TemporaryDirectory() as folder:
        name = options.policy if options.head is None else f"untrained {options.head}"
        options.policy = options.policy if options.head is None else untrained(options.head, folder)
        record = {**measure(options), "policy": name}
    text = json.dumps(record)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The record of all arms."""
    rng, results = np.random.default_rng(options.seed), {name: list[dict[str, Any]]() for name in (*ARMS, "alone")}
    servers = {name: ServerProcess(options.policy, *extra, threads=options.threads) for name, extra in ARMS.items()}
    try:
        with RemotePolicy(servers["one"].url) as policy:
            wire = observation_to_wire(clients.observation(policy.spec))
        request = clients.frame(encode({"id": 1, "observations": [wire]}))
        for server in servers.values():
            measured(server, request, options.robots, 1.0)
        for _ in range(options.repeats):
            for name in rng.permutation(list(ARMS)):
                results[name].append(measured(servers[name], request, options.robots, options.seconds))
                time.sleep(1.2)  # until it is forgotten that these robots asked
            results["alone"].append(measured(servers["batched"], request, 1, options.seconds))
            time.sleep(1.2)
    finally:
        for server in servers.values():
            server.close()
    command = [sys.executable, __file__, "--role", "direct", "--policy", options.policy, "--robots", str(options.robots)]
    env = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout)
    arms = {name: summary(parts) for name, parts in results.items()}
    return {
        "test": "batching", "policy": options.policy, "robots": options.robots, "threads": options.threads, "seed": options.seed,
        "repeats": options.repeats, "seconds": options.seconds, **arms, "direct": found, "ratio_direct": found["ratio"],
        "ratio": round(arms["batched"]["rate_hz"] / arms["one"]["rate_hz"], 2),
        "ratio_no_wait": round(arms["batched, no wait"]["rate_hz"] / arms["one"]["rate_hz"], 2),
    }  # fmt: skip


if __name__ == "__main__":
    main()
