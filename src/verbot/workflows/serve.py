"""Serves a policy until a signal ends it: secrets from files, a warm-up before the first client, and a line of what happens."""

from __future__ import annotations

import os
import stat
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from verbot.contracts import Policy
from verbot.deploy import PolicyServer, ServingOptions
from verbot.deploy.access import Access, check_exposed, context_of
from verbot.errors import ConfigError, PolicyError, VerbotError
from verbot.parallel.signals import StopRequest
from verbot.remote.client import PATH
from verbot.spec import Observation, RobotSpec
from verbot.text import terminal
from verbot.workflows.load_policy import open_policy

SECRET_BYTES = 2**12
TERMINAL_S, LINE_S = 1.0, 60.0  # between two lines on a terminal, and elsewhere
WARM_UPS = 2  # predictions of each size


@dataclass(frozen=True)
class ServerAddress:
    """Where a policy is served, and who may connect.

    Args:
        host, port: as of `PolicyServer`.
        token_file: a file that holds the token and that only its owner can read.
        tls_cert, tls_key: PEM files; both or none.
        origins: web pages that may connect.
        insecure: serve other interfaces than the loopback without a token or without encryption.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    origins: tuple[str, ...] = ()
    insecure: bool = False

    def check(self) -> None:
        """Raise `ConfigError` where a file cannot be used, or others would reach the server, before a policy is loaded."""
        token, tls = self._token(), self._tls()
        context_of(tls)
        Access(self.host, token, self.origins)
        if not self.insecure:
            check_exposed(self.host, token, tls)

    def start(self, policy: Policy, options: ServingOptions) -> PolicyServer:
        """The running server. Raises `ConfigError` where a file cannot be used or the address cannot be served."""
        return PolicyServer(policy, self.host, self.port, self._token(), self._tls(), self.origins, self.insecure, options)

    def _token(self) -> str | None:
        return None if self.token_file is None else private_text(self.token_file, "--token-file").strip()

    def _tls(self) -> tuple[Path, Path] | None:
        if self.tls_cert is None and self.tls_key is None:
            return None
        if self.tls_cert is None or self.tls_key is None:
            raise ConfigError("--tls-cert and --tls-key belong together: a certificate and its key, two PEM files")
        private_text(self.tls_key, "--tls-key", 2**16)
        return self.tls_cert, self.tls_key


def private_text(path: Path, option: str, most: int = SECRET_BYTES) -> str:
    """The content of a file that only its owner can read. Raises `ConfigError` for any other file."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ConfigError(f"{option} is {path}, which is no file")
            if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise ConfigError(
                    f"{option} is {path}, which other users can read ({stat.filemode(found.st_mode)}): chmod 600 {path}"
                )
            data = file.read(most + 1)
    except OSError as error:
        raise ConfigError(f"{option} is {path}, which cannot be read: {error.strerror}") from error
    if len(data) > most:
        raise ConfigError(f"{option} is {path}, which has more than {most} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{option} is {path}, which is no text") from error


def open_served(name: str, device: str = "cpu", threads: int = 0) -> Policy:
    """The policy called `name` (`open_policy`), predicting with so many threads of PyTorch; 0 leaves its own number."""
    policy = open_policy(name, device)
    if threads and "torch" in sys.modules:
        import torch

        torch.set_num_threads(threads)
    return policy


def blank_observation(spec: RobotSpec) -> Observation:
    """Black images, the middle of every range of the state, and a short instruction."""
    images: dict[str, Any] = {c.name: np.zeros((c.height, c.width, 3), np.uint8) for c in spec.color_cameras}
    images |= {c.name: np.zeros((c.height, c.width), np.float32) for c in spec.depth_cameras}
    middle = [(np.array(part.low) + np.array(part.high)) / 2 for part in spec.state]
    return Observation(images, np.concatenate([*middle, np.zeros(0)]).astype(np.float32), "move")


def warm_up(policy: Policy, most: int) -> float:
    """Predict for one observation and for several, up to `most`, so that no client waits for what happens once.

    Returns the seconds of a prediction for one. Raises `PolicyError` if the policy cannot predict.
    """
    observation, count, took_s = blank_observation(policy.spec), 1, 0.0
    while count <= most:
        for _ in range(WARM_UPS):
            start = time.monotonic()
            try:
                policy.predict([observation] * count)
            except VerbotError:
                raise
            except Exception as error:
                raise PolicyError(
                    f"the policy cannot predict for {count} observations: {type(error).__name__}: {error}"
                ) from error
            took_s = time.monotonic() - start if count == 1 else took_s
        count *= 2
    return took_s


def print_line(text: str) -> None:
    """Print a line at once, also into a pipe."""
    print(text, flush=True)


def serve_policy(
    policy: Policy,
    address: ServerAddress,
    options: ServingOptions,
    request: StopRequest,
    show: Callable[[str], None] = print_line,
    quiet: bool = False,
) -> None:
    """Serve until `request` has the number of a signal. Clients can connect after the warm-up.

    Args:
        show: prints where the policy is served.
        quiet: no line of what happens.
    """
    warnings.filterwarnings("ignore", module="PIL")  # of clients' pictures, which must not fill the log
    took_s = warm_up(policy, options.batch)
    if request.number:  # while it was loaded
        return
    with address.start(policy, options) as server:
        for line in addresses(server):
            show(line)
        show(f"ready: {policy.spec.name}, {1000 * took_s:.1f} ms for an observation; Ctrl+C ends it")
        ended = threading.Event()
        watcher = threading.Thread(target=_report, args=(server, ended), name="serve-report", daemon=True)
        if not quiet:
            watcher.start()
        try:
            while not request.number:
                time.sleep(0.1)
        finally:
            ended.set()
            if not quiet:
                watcher.join(1.0)
        show(server.load.line())


def addresses(server: PolicyServer) -> list[str]:
    """Lines that say who is served where."""
    web = server.url.replace("ws", "http", 1)
    return [
        f"verbot.remote.RemotePolicy  {server.url}  (at {PATH})",
        f"openpi's clients            {server.url}",
        f"vla-eval's clients          {server.url}/vla-eval",
        f"health, metrics             {web}/healthz  {web}/metrics",
    ]


def _report(server: PolicyServer, ended: threading.Event) -> None:
    """Write what happens to stderr: one line that changes on a terminal, elsewhere a line a minute if there were requests."""
    stream = terminal(sys.stderr)
    is_terminal, seen = stream.isatty(), 0
    while not ended.wait(TERMINAL_S if is_terminal else LINE_S):
        load = server.load
        if is_terminal:
            print(f"\r\x1b[K{load.line()}", end="", file=stream, flush=True)
        elif load.requests > seen:
            print(load.line(), file=stream, flush=True)
        seen = load.requests
    if is_terminal:
        print("\r\x1b[K", end="", file=stream, flush=True)
