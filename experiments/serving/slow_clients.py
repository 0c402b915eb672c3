"""What 50 slow or idle clients cost a good one, on each of the server's three protocols.

Run it as ``python experiments/serving/slow_clients.py --out slow_clients.json``; three minutes. `verbot serve` is a process, the
good client another, the crowd a third. The good client asks again as soon as it has its answer: alone and beside the crowd, in
turn and several times. Of the crowd half send a byte of a request now and then; of the others half say nothing at all, half
nothing after their handshake, and answer no ping. All of them speak the good client's protocol, and who is dropped comes again.
One JSON record holds the rates and latencies of each protocol, and `cost`, the share of its rate that the good client loses,
which is to be 0.2 at most. ``--crowd 20`` is a smaller crowd.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "reliability"))
import msgpack
import serving_clients as clients
from fuzzed_messages import PATHS, framed, openpi_observation, vla_eval_observation
from server_process import ServerProcess

from verbot.remote import RemotePolicy, encode
from verbot.remote.codec import observation_to_wire
from verbot.spec import RobotSpec

MOST = 0.2  # of its rate, that the crowd may cost the good client


def request_of(protocol: str, spec: RobotSpec) -> bytes:
    """A request that the server answers with actions."""
    if protocol == "verbot":
        return encode({"id": 1, "observations": [observation_to_wire(clients.observation(spec))]})
    record = openpi_observation(spec) if protocol == "openpi" else framed("observation", vla_eval_observation(spec))
    return bytes(msgpack.packb(record))


def ask(address: tuple[str, int], protocol: str, request: bytes, seconds: float) -> dict[str, float]:
    """The good client: answers a second, and latencies in milliseconds."""
    client, framed_request, found = clients.RawClient(address), clients.frame(request), list[float]()
    client.handshake(PATHS[protocol], greets=protocol != "vla-eval")
    started = time.monotonic()
    while (before := time.monotonic()) - started < seconds:
        client.socket.sendall(framed_request)
        answer = msgpack.unpackb(client.receive(), strict_map_key=False)
        if answer.get("error") or answer.get("type") == "error":
            raise SystemExit(f"the server answered {answer}")
        found.append(time.monotonic() - before)
    p50, p99 = 1000 * np.percentile(found, [50, 99])
    rate = len(found) / (time.monotonic() - started)
    return {name: round(float(value), 2) for name, value in {"rate_hz": rate, "p50_ms": p50, "p99_ms": p99}.items()}


def crowd(address: tuple[str, int], protocol: str, request: bytes, count: int) -> None:
    """The crowd, until a line is read."""
    slow, greets = count // 2, protocol != "vla-eval"
    made = clients.Crowd(address, request, slow, count - slow, 0, PATHS[protocol], greets)
    time.sleep(1.0)
    print("ready", flush=True)
    sys.stdin.readline()
    made.stop()


def one(server: ServerProcess, protocol: str, seconds: float, count: int) -> dict[str, float]:
    """What the good client gets beside so many others."""
    base = [sys.executable, __file__, "--url", server.url, "--protocol", protocol]
    others = None
    if count:
        command = [*base, "--role", "crowd", "--crowd", str(count)]
        others = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert others.stdout is not None
        others.stdout.readline()
    try:
        command = [*base, "--role", "ask", "--seconds", str(seconds)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=True)
        found: dict[str, float] = json.loads(done.stdout)
        return found
    finally:
        if others is not None:
            others.communicate("\n", timeout=30)


def compared(server: ServerProcess, protocol: str, options: argparse.Namespace) -> dict[str, Any]:
    """Alone and beside the crowd, in turn."""
    one(server, protocol, min(1.0, options.seconds), 0)
    found: dict[str, list[dict[str, float]]] = {"alone": [], "beside": []}
    for _ in range(options.repeats):
        for name, count in (("alone", 0), ("beside", options.crowd)):
            found[name].append(one(server, protocol, options.seconds, count))
    middle = {name: {key: round(float(np.median([part[key] for part in parts])), 2) for key in parts[0]}
              for name, parts in found.items()}  # fmt: skip
    rates = [(alone["rate_hz"], beside["rate_hz"]) for alone, beside in zip(found["alone"], found["beside"], strict=True)]
    cost = round(1 - middle["beside"]["rate_hz"] / middle["alone"]["rate_hz"], 3)
    return {**middle, "rates_hz": rates, "cost": cost, "within": cost <= MOST}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the record here too")
    parser.add_argument("--seed", type=int, default=0, help="recorded; nothing here is random but when bytes are sent")
    parser.add_argument("--policy", default="starter")
    parser.add_argument("--crowd", type=int, default=50, help="slow and idle clients")
    parser.add_argument("--seconds", type=float, default=8.0, help="of one measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--protocol", choices=tuple(PATHS), nargs="+", default=list(PATHS))
    parser.add_argument("--role", choices=("all", "ask", "crowd"), default="all", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role != "all":
        with RemotePolicy(options.url) as policy:
            request = request_of(options.protocol[0], policy.spec)
        address = "127.0.0.1", int(options.url.rpartition(":")[2])
        if options.role == "crowd":
            return crowd(address, options.protocol[0], request, options.crowd)
        print(json.dumps(ask(address, options.protocol[0], request, options.seconds)))
        return
    server = ServerProcess(options.policy)
    try:
        found = {protocol: compared(server, protocol, options) for protocol in options.protocol}
    finally:
        server.close()
    record = {"test": "slow_clients", "seed": options.seed, "crowd": options.crowd, "seconds": options.seconds,
              "repeats": options.repeats, "protocols": found, "cost": max(each["cost"] for each in found.values()),
              "most": MOST, "within": all(each["within"] for each in found.values())}  # fmt: skip
    text = json.dumps(record)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
