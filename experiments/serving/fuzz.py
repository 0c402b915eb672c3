"""Fuzzed messages over all three protocols of a policy server, and messages that are too large.

Run it as ``python experiments/serving/fuzz.py --out fuzz.json``; ten minutes, less with ``--messages 10000``. `verbot serve` is
a process. Some connections of each protocol send messages that follow from the seed: bits flipped, cut, noise, nested, lengths
that are declared and not there, arrays and pictures that are wrong in one way, fields of wrong types. Then messages are announced
that are longer than the server reads. One JSON record says what the answers were, how many were missing or untyped, whether the
server still gives a good client the same actions, its memory over time, and how long it took to refuse a message that is too
large.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from fuzzed_messages import PATHS, messages, send
from server_process import ServerProcess

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "reliability"))
import serving_clients as clients

from verbot.remote import RemotePolicy

LINKS = 2  # connections of each protocol
LIMIT_S = 1200.0
OVERSIZED = 20  # messages of each protocol that are too large


def oversized_ms(server: ServerProcess, protocol: str, size: int) -> float:
    """Milliseconds until the server closes a connection that announces a message of `size` bytes."""
    client = clients.RawClient(server.address)
    client.handshake(PATHS[protocol], greets=protocol != "vla-eval")
    start = time.monotonic()
    client.socket.sendall(b"\x82" + struct.pack("!BQ", 255, size) + bytes(4) + bytes(1000))
    try:
        client.receive()
        return float("inf")
    except ConnectionError as error:
        took = 1000 * (time.monotonic() - start)
        return took if "1009" in str(error) else float("inf")
    finally:
        client.close()


def watched(server: ServerProcess, done: threading.Event, found: list[tuple[float, float]]) -> None:
    """The server's memory, twice a second."""
    start = time.monotonic()
    while not done.wait(0.5) and server.is_alive:
        found.append((round(time.monotonic() - start, 1), round(server.rss_mb(), 1)))


def fuzzed(server: ServerProcess, options: argparse.Namespace, spec: Any) -> tuple[Counter[str], list[tuple[float, float]]]:
    """Send everything; what the answers were, and the memory."""
    counts, memory, done = Counter[str](), list[tuple[float, float]](), threading.Event()
    until, each, lock = time.monotonic() + LIMIT_S, options.messages // (LINKS * len(PATHS)), threading.Lock()

    def one(protocol: str, link: int) -> None:
        found = send(protocol, server.address, messages(protocol, spec, options.seed + link, each), until)
        with lock:
            counts.update(found)

    watcher = threading.Thread(target=watched, args=(server, done, memory), daemon=True)
    watcher.start()
    threads = [threading.Thread(target=one, args=(name, link), daemon=True) for name in PATHS for link in range(LINKS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S + 60)
    done.set()
    watcher.join(5)
    return counts, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the record here too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--policy", default="starter")
    options = parser.parse_args()
    server = ServerProcess(options.policy)
    try:
        with RemotePolicy(server.url) as policy:
            observation, spec = clients.observation(policy.spec), policy.spec
            before = policy.predict([observation])[0].values
            most = policy._server.limits["message_bytes"]
        counts, memory = fuzzed(server, options, spec)
        refused = [oversized_ms(server, name, max(4 * most, 2**26 + 1)) for name in PATHS for _ in range(OVERSIZED)]
        with RemotePolicy(server.url, timeout_s=30) as policy:
            after = policy.predict([observation])[0].values
        alive = server.is_alive
    finally:
        code = server.close()
    sizes = [size for _, size in memory]
    part = max(1, len(sizes) // 5)  # the first fifth warms PyTorch and the allocator up
    sent = counts.pop("sent")
    record: dict[str, Any] = {
        "test": "fuzz", "seed": options.seed, "count": sent, "answers": dict(sorted(counts.items())),
        "untyped": sum(n for name, n in counts.items() if name.endswith("untyped")),
        "no_answer": sum(n for name, n in counts.items() if name.endswith("no answer")),
        "crashes": int(not alive), "exit_code": code, "same_actions": bool(np.array_equal(before, after)),
        "oversized": len(refused), "oversized_ms_max": round(max(refused), 1),
        "oversized_ms_median": round(float(np.median(refused)), 1),
        "memory_mb": {"first fifth": max(sizes[:part]), "last fifth": max(sizes[-part:]), "most": max(sizes)},
        "seconds": memory[-1][0],
    }  # fmt: skip
    text = json.dumps(record)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
