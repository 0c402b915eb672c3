"""The command that serves a policy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM

from tyro.conf import Positional


@dataclass(frozen=True)
class ListenOptions:
    """The address of the server, and who may connect.

    Args:
        host: the interface to serve; another than the loopback needs a token and a certificate, or --insecure.
        port: the port; 0 takes a free one.
        token_file: a file with the token that clients have to send; only its owner may be able to read it.
        tls_cert: the certificate, a PEM file.
        tls_key: the key of the certificate, a PEM file that only its owner can read.
        origin: web pages that may connect, e.g. https://robot.example.
        insecure: serve other interfaces without a token or without encryption.
        max_clients: connections at once; more are answered with HTTP 503.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    origin: tuple[str, ...] = ()
    insecure: bool = False
    max_clients: int = 256


@dataclass(frozen=True)
class BatchOptions:
    """How requests are predicted together.

    Args:
        observations: of one request, at most.
        batch: observations predicted at once, at most, while several clients ask; 1 predicts for one after another.
        wait_ms: the longest that a prediction waits for clients that are about to ask.
        threads: threads of PyTorch; 0 leaves its own number.
        device: the device of the policy: cpu, cuda, cuda:N, mps or auto.
    """

    observations: int = 64
    batch: int = 16
    wait_ms: float = 4.0
    threads: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class OtherClientOptions:
    """Clients of openpi and of vla-eval.

    Args:
        map: which keys of their observations are the cameras, the state and the instruction, each as TARGET=KEY, e.g.
            images.front=observation/image state.gripper=observation/gripper_position instruction=prompt; ignored=KEY is not read.
        fit: resize images of other sizes, with black borders; otherwise they are refused.
        execute: number of actions of each chunk that a client of vla-eval gets, one for each observation.
    """

    map: tuple[str, ...] = ()
    fit: bool = False
    execute: int = 1


LISTEN, BATCHING, OTHERS = ListenOptions(), BatchOptions(), OtherClientOptions()


def serve_command(
    policy: Positional[str],
    listen: ListenOptions = LISTEN,
    batching: BatchOptions = BATCHING,
    others: OtherClientOptions = OTHERS,
    quiet: bool = False,
) -> int:
    """Serve a policy to robots, to openpi's and vla-eval's clients, and its metrics to Prometheus, at one port.

    Example: verbot serve starter --port 8000

    Args:
        policy: a policy's folder, or starter.
        quiet: print no line of clients, requests and latencies.
    """
    from verbot.deploy import ServingOptions
    from verbot.parallel.signals import Stopped, deferred
    from verbot.workflows.serve import ServerAddress, open_served, serve_policy

    address = ServerAddress(
        listen.host, listen.port, listen.token_file, listen.tls_cert, listen.tls_key, listen.origin, listen.insecure
    )
    options = ServingOptions(
        batching.observations, listen.max_clients, batching.batch, batching.wait_ms / 1000, others.execute, others.map, others.fit
    )
    address.check()
    with deferred() as request:
        serve_policy(open_served(policy, batching.device, batching.threads), address, options, request, quiet=quiet)
    if request.number not in (0, SIGTERM):  # the usual end of a service is no error
        raise Stopped(request.number)
    return 0
