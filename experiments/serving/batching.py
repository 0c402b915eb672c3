"""Several robots at one server: requests predicted together against one after another, on the same cores.

Run it as ``python experiments/serving/batching.py --policies starter flow flow_expert --out batching.json``; three minutes for
each policy and number of threads. `verbot serve` is a process. So many robots ask it, each again as soon as it has its answer,
with one observation that never changes; their messages are made beforehand, so that they take little from the server. The arms
are ``one`` (``--batch 1``), ``batched``, and ``batched, no wait`` (``--wait-ms 0``), in turn and several times; then one robot
alone. A policy is a folder, ``starter``, or the name of a head (``flow``, ``flow_expert``, ``diffusion``): an untrained policy
with the parts of the starter policy and that head, since the time of a prediction does not depend on the weights.

One JSON record holds a row for each policy and each of ``--threads``: requests a second, latencies and processor time of each
arm; `ratio` (batched over one); `direct`, what the policy alone takes for one observation and for all in a process without a
server, and the ratio that follows, which no server can exceed by much; and `shares_ms` (of a policy that is not exported): what a
request consists of at both sizes of a batch: decoding the message, preprocessing (images, state, text, the batch), the network
with the parts that take most of it, the rest of the prediction (checks, units, extras), encoding the answer. ``--only direct``
measures no server; ``taskset -c 0`` before the command keeps it on one core.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "reliability"))
import serving_clients as clients
from server_process import ServerProcess

from verbot.remote import RemotePolicy, encode
from verbot.remote.codec import WireLimits, chunk_to_wire, decode, observation_from_wire, observation_to_wire

ARMS: dict[str, tuple[str, ...]] = {"one": ("--batch", "1"), "batched": (), "batched, no wait": ("--wait-ms", "0")}
HEADS = ("flow", "flow_expert", "diffusion")
WARM = 8  # predictions before any is counted


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


class Stopwatch:
    """The seconds of calls, by name; the methods of other people's objects are wrapped."""

    def __init__(self) -> None:
        self.taken: dict[str, list[float]] = {}

    def timed(self, name: str, call: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        found = call()
        self.taken.setdefault(name, []).append(time.perf_counter() - started)
        return found

    def wrap(self, owner: Any, method: str, name: str) -> None:
        original = getattr(owner, method)
        # Not by setattr: a module would refuse it, and a bound method of the class would stay.
        owner.__dict__[method] = lambda *args, **kwargs: self.timed(name, lambda: original(*args, **kwargs))

    def quartile_ms(self, turns: int) -> dict[str, float]:
        """Of all calls of one turn, the lower quartile over turns: what else the machine does lengthens some of them."""
        sums = {name: np.array(each).reshape(turns, -1).sum(1) for name, each in self.taken.items()}
        return {name: 1000 * float(np.quantile(each[WARM:], 0.25)) for name, each in sums.items()}


def direct(policy: str, robots: int, repeats: int) -> dict[str, Any]:
    """Milliseconds of the policy's own predictions for one and for all robots, in this process, and their shares."""
    from verbot.policy.policy import VLAPolicy
    from verbot.workflows.load_policy import open_policy

    made = open_policy(policy)
    observations = [clients.observation(made.spec, number) for number in range(robots)]
    found: dict[str, Any] = {}
    taken: dict[int, list[float]] = {1: [], robots: []}
    for _ in range(WARM + repeats):  # in turn, so that what else the machine does hits both
        for count, times in taken.items():
            started = time.perf_counter()
            made.predict(observations[:count])
            times.append(time.perf_counter() - started)
    found |= {f"{count}_ms": round(1000 * float(np.median(times[WARM:])), 2) for count, times in taken.items()}
    found["ratio"] = round(robots * found["1_ms"] / found[f"{robots}_ms"], 2)
    found |= {f"{count}_least_ms": round(1000 * min(times), 2) for count, times in taken.items()}
    if isinstance(made, VLAPolicy):
        found["shares_ms"] = {str(count): shares(made, observations[:count], WARM + repeats) for count in (1, robots)}
    return found


def shares(policy: Any, observations: list[Any], turns: int) -> dict[str, float]:
    """What a prediction consists of, in milliseconds, with the messages of its requests and answers."""
    watch, network, limits = Stopwatch(), policy.network, WireLimits.of_requests(policy.spec)
    messages = [encode({"id": 1, "observations": [observation_to_wire(each)]}) for each in observations]
    chunks = policy.predict(observations)
    wrapped = [(policy, "preprocess", "preprocess"), (policy, "collate_observations", "preprocess, batch"),
               (network, "predict", "network"), (network, "_actions", "network: head")]  # fmt: skip
    wrapped += [(part, "forward", f"network: {name}") for name, part in network.backbone.named_children()]
    for owner, method, name in wrapped:
        watch.wrap(owner, method, name)
    try:
        for _ in range(turns):
            watch.timed("decode", lambda: [observation_from_wire(decode(each, limits)["observations"][0]) for each in messages])
            watch.timed("predict", lambda: policy.predict(observations))
            watch.timed("encode", lambda: [encode({"id": 1, "chunks": [chunk_to_wire(chunk)]}) for chunk in chunks])
    finally:
        for owner, method, _ in wrapped:
            del owner.__dict__[method]
    found = watch.quartile_ms(turns)
    found["rest of the prediction"] = found["predict"] - found["preprocess"] - found["preprocess, batch"] - found["network"]
    return {name: round(value, 3) for name, value in sorted(found.items(), key=lambda each: -each[1]) if value > 0.005}


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
    made.save(f"{folder}/{head}")
    return f"{folder}/{head}"


def summary(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The medians of an arm's repetitions."""
    middle = {name: round(float(np.median([part[name] for part in parts])), 2) for name in parts[0]}
    return {**middle, "rates_hz": [part["rate_hz"] for part in parts]}


def served(policy: str, threads: int, options: argparse.Namespace) -> dict[str, Any]:
    """All arms through the server."""
    rng, results = np.random.default_rng(options.seed), {name: list[dict[str, Any]]() for name in (*ARMS, "alone")}
    servers = {name: ServerProcess(policy, *extra, threads=threads) for name, extra in ARMS.items()}
    try:
        with RemotePolicy(servers["one"].url) as remote:
            wire = observation_to_wire(clients.observation(remote.spec))
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
    arms = {name: summary(parts) for name, parts in results.items()}
    one = arms["one"]["rate_hz"]
    return {**arms, "ratio": round(arms["batched"]["rate_hz"] / one, 2),
            "ratio_no_wait": round(arms["batched, no wait"]["rate_hz"] / one, 2)}  # fmt: skip


def row(name: str, policy: str, threads: int, options: argparse.Namespace) -> dict[str, Any]:
    """One policy with one number of threads."""
    found = {} if options.only == "direct" else served(policy, threads, options)
    command = [sys.executable, __file__, "--role", "direct", "--policies", policy, "--robots", str(options.robots)]
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [*command, "--predictions", str(options.predictions)], check=True, capture_output=True, text=True, env=env
    )
    record = {"policy": name, "threads": threads, **found, "direct": json.loads(done.stdout)}
    print(f"{name}, {threads} thread(s): {found.get('ratio', '-')} through the server, {record['direct']['ratio']} without",
          file=sys.stderr, flush=True)  # fmt: skip
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the record here too")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the arms")
    parser.add_argument("--policies", nargs="+", default=["starter"], help=f"folders, starter, or heads: {', '.join(HEADS)}")
    parser.add_argument("--robots", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=8.0, help="of one measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--predictions", type=int, default=60, help="of the policy alone")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of PyTorch in the server")
    parser.add_argument("--only", choices=("direct",), help="measure the policy alone")
    parser.add_argument("--role", choices=("all", "direct"), default="all", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role == "direct":
        print(json.dumps(direct(options.policies[0], options.robots, options.predictions)))
        return
    with tempfile.TemporaryDirectory() as folder:
        chosen = {name: untrained(name, folder) if name in HEADS else name for name in options.policies}
        rows = [row(name, policy, threads, options) for name, policy in chosen.items() for threads in options.threads]
    record = {"test": "batching", "robots": options.robots, "seed": options.seed, "repeats": options.repeats,
              "seconds": options.seconds, "rows": rows}  # fmt: skip
    text = json.dumps(record)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
