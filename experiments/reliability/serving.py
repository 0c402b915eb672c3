"""A policy server among bad clients: what a good one still gets, and what it costs.

Run it as ``python experiments/reliability/serving.py --out serving.json``; three minutes, less with ``--messages 4000``. The
server, the good client and the others are processes of their own. The good client asks again as soon as it has its answer. It is
measured alone, after sentences of 1 to 20 words (PyTorch keeps memory for each length that it meets); beside fuzzed messages,
which follow from `--seed`; and beside a crowd of slow, idle and deaf clients with one giant message. A second server, which may
open 256 files, is given more idle connections than that. One JSON record says how the latency and the rate change, what memory
grows, how often an answer was missing or untyped (`untyped`), how long idle connections live, and whether the server takes
clients again and closes in time.
"""

from __future__ import annotations

import os

os.environ.setdefault("LP_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import dataclasses
import json
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
import serving_clients as clients

FILES = 256  # of the server whose descriptors run out
LINKS = 4  # connections that send fuzzed messages
LIMIT_S = 240.0  # for all fuzzed messages
GIANT = 2600  # observations in one message


def serve() -> None:
    """The server: says its address, then obeys the lines that it reads."""
    import verbot
    from verbot.deploy import PolicyServer

    server = PolicyServer(verbot.load_policy("starter"))
    print(server.url, flush=True)
    for line in sys.stdin:
        if line.strip() == "close":
            start = time.monotonic()
            server.close()
            print(round(time.monotonic() - start, 2), flush=True)
            os._exit(0)


def ask(url: str, seconds: float) -> None:
    """The good client: latencies in milliseconds for so long, or until a line is read."""
    from verbot.remote import RemotePolicy

    stop = threading.Event()

    def listen() -> None:
        sys.stdin.readline()
        stop.set()

    threading.Thread(target=listen, daemon=True).start()
    latencies: list[float] = []
    errors: Counter[str] = Counter()
    policy, start = None, time.monotonic()
    print("ready", flush=True)
    while time.monotonic() - start < seconds and not stop.is_set():
        try:
            if policy is None:
                policy = RemotePolicy(url)
                observation = clients.observation(policy.spec)
                policy.predict([observation])
            before = time.monotonic()
            policy.predict([observation])
            latencies.append(1000 * (time.monotonic() - before))
        except Exception as error:  # the client's own errors are another measurement's
            errors[f"{type(error).__name__}: {str(error)[-60:]}"] += 1
            policy = None
            time.sleep(0.1)
    wall = time.monotonic() - start
    p50, p99 = np.percentile(latencies or [1000 * seconds], [50, 99])
    record = {
        "answers": len(latencies),
        "rate_hz": len(latencies) / wall,
        "p50_ms": p50,
        "p99_ms": p99,
        "errors": sum(errors.values()),
    }
    print(json.dumps({**{name: round(float(value), 1) for name, value in record.items()}, "kinds": dict(errors.most_common(3))}))
    os._exit(0)


@dataclass
class Server:
    """The server's process, and its memory over time."""

    process: subprocess.Popen[str]
    url: str
    most_mb: float = 0.0
    _watch: threading.Thread | None = field(default=None, repr=False)

    @staticmethod
    def start(files: int | None = None) -> Server:
        command = [sys.executable, __file__, "--role", "serve"]
        if files is not None:
            command = ["bash", "-c", f'ulimit -n {files}; exec "$@"', "bash", *command]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command, text=True, **pipes)  # type: ignore[call-overload]
        assert process.stdout is not None
        server = Server(process, process.stdout.readline().strip())
        server._watch = threading.Thread(target=server._sample, daemon=True)
        server._watch.start()
        return server

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.rpartition("//")[2].rpartition(":")
        return host, int(port)

    def rss_mb(self) -> float:
        return clients.rss_mb(self.process.pid)

    def cpu_s(self) -> float:
        return clients.cpu_s(self.process.pid)

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def close(self) -> tuple[float | None, int]:
        """Seconds that closing took, None if it did not end, and the lines that it had written to stderr."""
        assert self.process.stdin is not None and self.process.stdout is not None and self.process.stderr is not None
        answers = self.process.stdout
        took: list[float] = []
        reader = threading.Thread(target=lambda: took.extend(map(float, answers.readline().split())), daemon=True)
        reader.start()
        self.process.stdin.write("close\n")
        self.process.stdin.flush()
        reader.join(20)
        self.process.kill()
        return (took[0] if took else None), self.process.stderr.read().count("\n")

    def _sample(self) -> None:
        while self.process.poll() is None:
            try:
                self.most_mb = max(self.most_mb, self.rss_mb())
            except OSError:
                return
            time.sleep(0.05)


def good(server: Server, seconds: float, beside: Callable[[], Any] = lambda: None, whole: bool = False) -> dict[str, Any]:
    """What the good client measured, and by how much the server's memory grew. With `whole` it ends when `beside` does."""
    command = [sys.executable, __file__, "--role", "ask", "--url", server.url, "--seconds", str(LIMIT_S if whole else seconds)]
    process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdin is not None
    process.stdout.readline()
    time.sleep(1.0)
    before, server.most_mb, cpu = server.rss_mb(), server.rss_mb(), server.cpu_s()
    other = beside()
    if whole:
        process.stdin.write("\n")
        process.stdin.close()
    line = process.stdout.readline()
    process.wait(30)
    record: dict[str, Any] = json.loads(line)
    record["cpu_s"] = round(server.cpu_s() - cpu, 2)
    record["memory_mb"] = round(server.most_mb - before, 1)
    time.sleep(2.0)
    record["memory_kept_mb"] = round(server.rss_mb() - before, 1)
    record = record if other is None else {**record, "others": other}
    print(json.dumps(record), file=sys.stderr)
    return record


def warm(server: Server) -> None:
    """Ask with a sentence of each length."""
    from verbot.remote import RemotePolicy

    with RemotePolicy(server.url) as policy:
        observation = clients.observation(policy.spec)
        for words in range(1, 21):
            policy.predict([dataclasses.replace(observation, instruction=" ".join(["red"] * words))])


def beside_fuzz(server: Server, options: argparse.Namespace) -> dict[str, Any]:
    """The good client beside all fuzzed messages."""
    from verbot.remote import RemotePolicy

    with RemotePolicy(server.url) as policy:
        spec = policy.spec
    parts = [clients.fuzzed(spec, options.seed + n, options.messages // LINKS) for n in range(LINKS)]

    def send() -> dict[str, int]:
        counts: Counter[str] = Counter()
        until, rate = time.monotonic() + LIMIT_S, options.rate / LINKS

        def one(part: Iterator[tuple[bytes, int]]) -> None:
            counts.update(clients.fuzz(server.address, part, rate, until))

        threads = [threading.Thread(target=one, args=(part,), daemon=True) for part in parts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return dict(counts)

    return good(server, 0, send, whole=True)


def beside_crowd(server: Server, options: argparse.Namespace) -> dict[str, Any]:
    """The good client beside slow, idle and deaf clients, with one giant message."""
    from verbot.remote import RemotePolicy, encode
    from verbot.remote.codec import observation_to_wire

    with RemotePolicy(server.url) as policy:
        wire = observation_to_wire(clients.observation(policy.spec))
    request = encode({"id": 1, "observations": [wire]})
    crowds: list[clients.Crowd] = []
    giant = clients.frame(encode({"id": 1, "observations": [wire] * GIANT}))

    def send_giant() -> None:
        try:
            client = clients.RawClient(server.address)
            client.handshake()
            client.socket.sendall(giant)
            client.receive()
        except OSError:
            pass  # it was refused

    def start() -> None:
        crowds.append(clients.Crowd(server.address, request, slow=50, idle=50, deaf=3))
        threading.Thread(target=send_giant, daemon=True).start()

    record = good(server, options.seconds, start)
    record["threads"] = server.threads()
    seconds, lines = server.close()
    for crowd in crowds:
        crowd.stop()
    return {**record, "close_s": seconds, "stderr_lines": lines}


def without_descriptors() -> dict[str, Any]:
    """A server that may open 256 files, with 400 idle connections; then whether it answers."""
    server = Server.start(FILES)
    sockets, refused = clients.crowd_of_idle(server.address, 400)
    during = good(server, 2.0)
    for one in sockets:
        one.close()
    time.sleep(1.0)
    after = good(server, 3.0)
    _, lines = server.close()
    return {
        "connections": len(sockets), "refused": refused, "answers_during": during["answers"], "answers_after": after["answers"],
        "recovered": after["answers"] > 0, "stderr_lines": lines,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the record here too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--messages", type=int, default=40000, help="fuzzed messages")
    parser.add_argument("--rate", type=float, default=500.0, help="fuzzed messages a second at most")
    parser.add_argument("--seconds", type=float, default=15.0, help="that the good client is measured alone and beside the crowd")
    parser.add_argument("--role", choices=("all", "serve", "ask"), default="all", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role == "serve":
        return serve()
    if options.role == "ask":
        return ask(options.url, options.seconds)
    server = Server.start()
    record: dict[str, Any] = {"test": "serving", "count": options.messages, "seed": options.seed}
    warm(server)
    record["idle"] = good(server, options.seconds)
    record["silent_life_s"] = clients.life_s(server.address, handshake=False, most_s=60)
    record["half_open_life_s"] = clients.life_s(server.address, handshake=True, most_s=60)
    record["fuzz"] = beside_fuzz(server, options)
    record["crowd"] = beside_crowd(server, options)
    record["descriptors"] = without_descriptors()
    others = record["fuzz"]["others"]
    record["untyped"] = others.get("untyped", 0) + others.get("no answer", 0)
    record["p99_over_idle"] = round(record["fuzz"]["p99_ms"] / record["idle"]["p99_ms"], 2)
    record["rate_over_idle"] = round(record["crowd"]["rate_hz"] / record["idle"]["rate_hz"], 2)
    text = json.dumps(record)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
