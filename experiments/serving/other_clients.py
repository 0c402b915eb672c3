"""openpi's and vla-eval's own clients against `verbot serve`, each in a virtual environment of its own.

Run it as ``python experiments/serving/other_clients.py --out other_clients.json``; a minute, and two more the first time, which
installs the clients from the package index into ``--venvs``. The server is a process with a token. Each client asks for actions,
which have to be those that `verbot.remote.RemotePolicy` gets for the same observations; provokes errors; connects without the
token, and over TLS with a certificate that it trusts. One JSON record lists what each client did, and how often it was right.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# openpi-client 0.1.2 imports typing_extensions without saying so.
PACKAGES = {"openpi": ("openpi-client==0.1.2", "typing_extensions"), "vla-eval": ("vla-eval==0.8.0",)}
CLIENTS = {name: Path(__file__).parent / f"client_of_{name.replace('-', '_')}.py" for name in PACKAGES}
TOKEN = "a-token-for-other-clients"
LIMIT_S = 240


def environment(folder: Path, name: str) -> Path:
    """The Python of a virtual environment with the client called `name`, made if there is none."""
    python = folder / name / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder / name)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES[name]]
        subprocess.run(pip, check=True)
    return python


@contextmanager
def served(place: Path, *options: str) -> Iterator[str]:
    """The address of `verbot serve starter` in a process."""
    token = place / "token"
    token.touch(0o600)
    token.write_text(f"{TOKEN}\n")
    command = [sys.executable, "-m", "verbot", "serve", "starter", "--port", "0", "--token-file", str(token), "--quiet", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines: list[str] = []
        while not lines or not lines[-1].startswith("ready"):
            lines.append(process.stdout.readline())
            if not lines[-1]:
                raise SystemExit("the server did not start")
        yield lines[0].split()[1]
    finally:
        process.terminate()
        process.wait(20)


def write_observations(place: Path, url: str, seed: int, count: int) -> None:
    """Random observations of the starter policy's robot, and the actions that verbot's own client gets for them."""
    import numpy as np

    from verbot.remote import RemotePolicy
    from verbot.spec import Observation

    rng, rows = np.random.default_rng(seed), []
    words = ("pick up the red cube", "push the blue ball to the left", "put the green cylinder on the tray")
    with RemotePolicy(url, token=TOKEN) as policy:
        low = np.concatenate([part.low for part in policy.spec.state])
        high = np.concatenate([part.high for part in policy.spec.state])
        for row in range(count):
            images = {c.name: rng.integers(0, 255, (c.height, c.width, 3), np.uint8) for c in policy.spec.cameras}
            state = rng.uniform(low, high).astype(np.float32)
            seen = Observation(images, state, words[row % len(words)])
            rows.append((seen, policy.predict([seen])[0].values))
    arrays: dict[str, Any] = {f"images.{name}": np.stack([seen.images[name] for seen, _ in rows]) for name in rows[0][0].images}
    texts = np.array([seen.instruction for seen, _ in rows])
    actions = np.stack([values for _, values in rows])
    np.savez(place / "observations.npz", **arrays, state=np.stack([seen.state for seen, _ in rows]), text=texts, actions=actions)


def run_client(python: Path, name: str, place: Path, url: str, **env: str) -> dict[str, Any]:
    command = [str(python), str(CLIENTS[name]), str(place), url, TOKEN]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, env={**os.environ, **env, "PYTHONPATH": ""})
    if done.returncode:
        return {"failed": [0, 1], "error": done.stderr[-2000:]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def certificate(place: Path) -> tuple[Path, Path]:
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    paths = place / "cert.pem", place / "key.pem"
    command = ["openssl", "req", "-x509", *kind, *names, "-out", str(paths[0]), "-keyout", str(paths[1])]
    subprocess.run(command, check=True, capture_output=True, timeout=20)
    paths[1].chmod(0o600)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the record here too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--observations", type=int, default=20, help="that each client sends")
    parser.add_argument(
        "--venvs", type=Path, help="where the clients' environments are, or are made; by default a temporary folder"
    )
    options = parser.parse_args()
    record: dict[str, Any] = {"test": "other_clients", "seed": options.seed, "packages": [each[0] for each in PACKAGES.values()]}
    with tempfile.TemporaryDirectory(prefix="verbot-clients-") as folder:
        place, venvs = Path(folder), options.venvs or Path(folder)
        pythons = {name: environment(venvs, name) for name in PACKAGES}
        with served(place) as url:
            write_observations(place, url, options.seed, options.observations)
            record |= {name: run_client(python, name, place, url) for name, python in pythons.items()}
        if shutil.which("openssl"):
            cert, key = certificate(place)
            with served(place, "--tls-cert", str(cert), "--tls-key", str(key)) as url:
                for name, python in pythons.items():
                    record[f"{name}, TLS"] = run_client(python, name, place, url, SSL_CERT_FILE=str(cert))
    counts = [each for value in record.values() if isinstance(value, dict) for each in value.values() if isinstance(each, list)]
    record["right"], record["count"] = sum(good for good, _ in counts), sum(count for _, count in counts)
    text = json.dumps(record)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
