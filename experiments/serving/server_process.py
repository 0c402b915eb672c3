"""`verbot serve` as a process that a script starts, watches and kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "reliability"))
import serving_clients as clients


class ServerProcess:
    """`verbot serve` with these arguments, ready when it is made. `port` is the same after a restart.

    Args:
        threads: of PyTorch, and of what else reads OMP_NUM_THREADS.
    """

    def __init__(self, policy: str, *options: str, port: int = 0, threads: int = 1):
        command = [sys.executable, "-m", "verbot", "serve", policy, "--port", str(port), "--quiet", *options]
        env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
        assert self.process.stdout is not None
        lines: list[str] = []
        while not lines or not lines[-1].startswith("ready"):
            lines.append(self.process.stdout.readline())
            if not lines[-1]:
                raise SystemExit(f"the server ended with {self.process.wait()}")
        self.url = lines[0].split()[1]
        self.port = int(self.url.rpartition(":")[2])

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def rss_mb(self) -> float:
        return clients.rss_mb(self.process.pid)

    def cpu_s(self) -> float:
        return clients.cpu_s(self.process.pid)

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(20)

    def close(self) -> int:
        """End it as a supervisor does. Returns the exit code."""
        self.process.terminate()
        return self.process.wait(20)
