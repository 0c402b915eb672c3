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
TOKEN = "a-token-for-other-clients"
LIMIT_S = 240


def check(record: dict[str, Any], name: str, good: bool) -> None:
    """Count one thing that was tried."""
    record.setdefault(name, [0, 0])
    record[name][0] += bool(good)
    record[name][1] += 1


def run_openpi(place: Path, url: str) -> dict[str, Any]:
    """In the environment of openpi-client: its client and its broker of chunks."""
    import numpy as np
    from openpi_client import action_chunk_broker, websocket_client_policy

    data, record = np.load(place / "observations.npz"), {}
    made = websocket_client_policy.WebsocketClientPolicy(host=url, api_key=TOKEN)
    about = made.get_server_metadata()
    check(
        record, "metadata", about["openpi"]["actions"] == data["actions"].shape[-1] and about["spec"]["name"] == "tabletop-panda"
    )

    def observation(row: int, **changes: Any) -> dict[str, Any]:
        names = [name for name in data.files if name.startswith("images.")]
        images = {f"observation/{name.partition('.')[2]}": data[name][row] for name in names}
        return {**images, "observation/state": data["state"][row].astype(np.float64), "prompt": str(data["text"][row]), **changes}

    for row in range(len(data["state"])):
        answer = made.infer(observation(row))
        check(
            record, "actions", np.array_equal(answer["actions"], data["actions"][row]) and answer["actions"].dtype == np.float32
        )
        check(
            record,
            "timing",
            answer["policy_timing"]["infer_ms"] > 0 and ("prev_total_ms" in answer["server_timing"]) == (row > 0),
        )
    broker = action_chunk_broker.ActionChunkBroker(made, action_horizon=5)
    for step in range(10):
        expected = data["actions"][step // 5][step % 5]
        check(record, "chunk broker", np.array_equal(broker.infer(observation(step // 5))["actions"], expected))
    for wrong, says in (
        ({"observation/depth": np.zeros(3)}, "observation/depth"),
        ({"observation/front": np.zeros((3, 64, 64), np.uint8)}, "moveaxis"),
        ({"observation/state": np.zeros(3)}, "state"),
        ({"observation/state": np.full(8, np.nan)}, "finite"),
        ({"prompt": np.float32(1)}, "instruction"),
        ({"prompt": np.array(["a"])}, "dtype"),
    ):
        try:
            made.infer(observation(0, **wrong))
            check(record, "errors", False)
        except RuntimeError as error:
            text = str(error).partition("\n")[2]
            check(record, "errors", says in text and "\n" not in text and "Traceback" not in text)
        made = websocket_client_policy.WebsocketClientPolicy(host=url, api_key=TOKEN)  # an error closes the connection
    check(record, "after errors", np.array_equal(made.infer(observation(0))["actions"], data["actions"][0]))
    for key in (None, "another-token-of-that-length"):
        try:
            websocket_client_policy.WebsocketClientPolicy(host=url, api_key=key)
            check(record, "wrong token", False)
        except Exception as error:
            check(record, "wrong token", "401" in str(error))
    return record


def run_vla_eval(place: Path, url: str) -> dict[str, Any]:
    """In the environment of vla-eval: its connection, its codecs, its runner and the comparison of specs."""
    import anyio
    import numpy as np
    from vla_eval.connection import Connection
    from vla_eval.protocol.numpy_codec import set_image_format
    from vla_eval.runners.sync_runner import SyncEpisodeRunner
    from vla_eval.specs import DimSpec, check_specs

    data, record = np.load(place / "observations.npz"), {}
    address = f"{url.replace('://', f'://verbot:{TOKEN}@')}/vla-eval"
    cameras = [name.partition(".")[2] for name in data.files if name.startswith("images.")]

    def observation(row: int, **changes: Any) -> dict[str, Any]:
        images = {name: data[f"images.{name}"][row] for name in cameras}
        return {"images": images, "state": data["state"][row], "task_description": str(data["text"][row]), **changes}

    class Recorded(benchmark_class()):  # type: ignore[misc]
        """Shows the observations one after another, and judges the actions."""

        def get_tasks(self) -> list[dict[str, Any]]:
            return [{"name": "recorded"}]

        def reset(self, task: Any) -> Any:
            self.row, self.right = 0, 0
            return 0

        def step(self, action: Any) -> Any:
            from vla_eval.benchmarks.base import StepResult

            self.right += np.array_equal(action["actions"], data["actions"][self.row][0])
            self.row += 1
            return StepResult(min(self.row, len(data["state"]) - 1), 0.0, self.row == len(data["state"]), {})

        def make_obs(self, raw_obs: Any, task: Any) -> dict[str, Any]:
            return observation(raw_obs)

        def get_step_result(self, step_result: Any) -> dict[str, Any]:
            return {"success": self.right == self.row}

        def get_action_spec(self) -> dict[str, DimSpec]:
            formats = (("position", 3, "delta_xyz"), ("rotation", 3, "axis_angle"), ("gripper", 1, "continuous_01"))
            return {name: DimSpec(name, dims, form) for name, dims, form in formats}

        def get_observation_spec(self) -> dict[str, DimSpec]:
            images = {name: DimSpec("image", 0, "rgb_hwc_uint8") for name in cameras}
            state = DimSpec("state", 8, "eef_pos3_quat4_gripper1")
            return {**images, "state": state, "language": DimSpec("language", 0, "language")}

        def get_hold_action(self, *arguments: Any, **options: Any) -> dict[str, Any]:
            return {"actions": np.zeros(7, np.float32)}

    async def talk() -> None:
        async with Connection(address, timeout=20, max_retries=1) as connection:
            about, made = connection.server_info, Recorded()
            specs = [
                {name: DimSpec.from_dict(each) for name, each in about[kind].items()}
                for kind in ("action_spec", "observation_spec")
            ]
            found = check_specs(specs[0], made.get_action_spec(), specs[1], made.get_observation_spec())
            check(record, "specs", about["protocol_version"] == 1 and not found)
            for _ in range(3):
                result = await SyncEpisodeRunner().run_episode(made, {"name": "recorded"}, connection, max_steps=100)
                check(record, "episodes", bool(result["metrics"]["success"]) and result["steps"] == len(data["state"]))
            for form in ("raw", "jpeg", "png"):
                set_image_format(form)
                answer = await connection.act(observation(0))
                same = np.array_equal(answer["actions"], data["actions"][0][0])
                check(record, f"pictures as {form}", same or (form == "jpeg" and np.isfinite(answer["actions"]).all()))
            for wrong, says in (
                ({"images": {}}, "images/front"),
                ({"state": np.zeros(3, np.float32)}, "state"),
                ({"more": 1}, "'more'"),
                ({"task_description": None}, "instruction"),
            ):
                try:
                    await connection.act(observation(0, **wrong))
                    check(record, "errors", False)
                except RuntimeError as error:
                    check(record, "errors", "observation_failed: SpecError" in str(error) and says in str(error))
            answer = await connection.act(observation(0))
            check(record, "after errors", np.array_equal(answer["actions"], data["actions"][0][0]))
        for wrong_address in (f"{url}/vla-eval", f"{url.replace('://', '://verbot:wrong@')}/vla-eval"):
            try:
                await Connection(wrong_address, timeout=5, max_retries=1).connect()
                check(record, "wrong token", False)
            except ConnectionError as error:
                check(record, "wrong token", "401" in str(error.__cause__))

    anyio.run(talk)
    return record


def benchmark_class() -> Any:
    from vla_eval.benchmarks.base import StepBenchmark

    return StepBenchmark


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
        lines = []
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
    arrays = {f"images.{name}": np.stack([seen.images[name] for seen, _ in rows]) for name in rows[0][0].images}
    texts = np.array([seen.instruction for seen, _ in rows])
    actions = np.stack([values for _, values in rows])
    np.savez(place / "observations.npz", **arrays, state=np.stack([seen.state for seen, _ in rows]), text=texts, actions=actions)


def run_client(python: Path, role: str, place: Path, url: str, **env: str) -> dict[str, Any]:
    command = [str(python), __file__, "--role", role, "--place", str(place), "--url", url]
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
    parser.add_argument("--role", choices=("all", *PACKAGES), default="all", help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role != "all":
        found = run_openpi(options.place, options.url) if options.role == "openpi" else run_vla_eval(options.place, options.url)
        print(json.dumps(found))
        return
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
    found = [each for value in record.values() if isinstance(value, dict) for each in value.values() if isinstance(each, list)]
    record["right"], record["count"] = sum(good for good, _ in found), sum(count for _, count in found)
    text = json.dumps(record)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
