"""vla-eval's own client against a server that is up; `other_clients.py` runs this in the environment of vla-eval.

Its connection, its codecs, its runner of episodes with a benchmark that shows recorded observations, and its comparison of what
a server and a benchmark say of themselves. It prints what was tried, each with how often it was right and how often it was tried.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import anyio
import numpy as np
from vla_eval.benchmarks.base import StepBenchmark, StepResult
from vla_eval.connection import Connection
from vla_eval.protocol.numpy_codec import set_image_format
from vla_eval.runners.sync_runner import SyncEpisodeRunner
from vla_eval.specs import DimSpec, check_specs

WRONG: tuple[tuple[dict[str, Any], str], ...] = (
    ({"images": {}}, "images/front"),
    ({"state": np.zeros(3, np.float32)}, "state"),
    ({"more": 1}, "'more'"),
    ({"task_description": None}, "instruction"),
)


class Recorded(StepBenchmark):
    """Shows the recorded observations one after another, and compares the actions with the recorded ones."""

    def __init__(self, data: Any):
        super().__init__()
        self.data, self.row, self.right = data, 0, 0
        self.cameras = [name.partition(".")[2] for name in data.files if name.startswith("images.")]

    def get_tasks(self) -> list[dict[str, Any]]:
        return [{"name": "recorded"}]

    def reset(self, task: Any) -> int:
        self.row, self.right = 0, 0
        return 0

    def step(self, action: Any) -> Any:
        self.right += np.array_equal(action["actions"], self.data["actions"][self.row][0])
        self.row += 1
        count = len(self.data["state"])
        return StepResult(min(self.row, count - 1), 0.0, self.row == count, {})

    def make_obs(self, raw_obs: int, task: Any = None, **changes: Any) -> dict[str, Any]:
        images = {name: self.data[f"images.{name}"][raw_obs] for name in self.cameras}
        text = str(self.data["text"][raw_obs])
        return {"images": images, "state": self.data["state"][raw_obs], "task_description": text, **changes}

    def get_step_result(self, step_result: Any) -> dict[str, Any]:
        return {"success": self.right == self.row}

    def get_action_spec(self) -> dict[str, Any]:
        formats = (("position", 3, "delta_xyz"), ("rotation", 3, "axis_angle"), ("gripper", 1, "continuous_01"))
        return {name: DimSpec(name, dims, form) for name, dims, form in formats}

    def get_observation_spec(self) -> dict[str, Any]:
        images = {name: DimSpec("image", 0, "rgb_hwc_uint8") for name in self.cameras}
        state = DimSpec("state", 8, "eef_pos3_quat4_gripper1")
        return {**images, "state": state, "language": DimSpec("language", 0, "language")}

    def get_hold_action(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        return {"actions": np.zeros(7, np.float32)}


class Client:
    """Asks for what `place` holds, and counts.

    Args:
        place: the folder of observations.npz.
    """

    def __init__(self, place: Path, url: str, token: str):
        self.url, self.token, self.record = url, token, dict[str, list[int]]()
        self.benchmark = Recorded(np.load(place / "observations.npz"))

    def check(self, name: str, good: bool) -> None:
        right, count = self.record.get(name, [0, 0])
        self.record[name] = [right + bool(good), count + 1]

    def address(self, password: str) -> str:
        return f"{self.url.replace('://', f'://verbot:{password}@') if password else self.url}/vla-eval"

    async def run(self) -> None:
        async with Connection(self.address(self.token), timeout=20, max_retries=1) as connection:
            self.specs(connection.server_info)
            await self.episodes(connection)
            await self.pictures(connection)
            await self.errors(connection)
        for password in ("", "wrong"):
            try:
                await Connection(self.address(password), timeout=5, max_retries=1).connect()
                self.check("wrong token", False)
            except ConnectionError as error:
                self.check("wrong token", "401" in str(error.__cause__))

    def specs(self, about: dict[str, Any]) -> None:
        """What the server says of itself fits what the benchmark says."""
        kinds = ("action_spec", "observation_spec")
        actions, observations = ({name: DimSpec.from_dict(each) for name, each in about[kind].items()} for kind in kinds)
        made = self.benchmark
        found = check_specs(actions, made.get_action_spec(), observations, made.get_observation_spec())
        self.check("specs", about["protocol_version"] == 1 and not found)

    async def episodes(self, connection: Any) -> None:
        for _ in range(3):
            result = await SyncEpisodeRunner().run_episode(self.benchmark, {"name": "recorded"}, connection, max_steps=1000)
            self.check("episodes", bool(result["metrics"]["success"]) and result["steps"] == len(self.benchmark.data["state"]))

    async def pictures(self, connection: Any) -> None:
        for form in ("raw", "jpeg", "png"):
            set_image_format(form)
            found = (await connection.act(self.benchmark.make_obs(0)))["actions"]
            is_right = np.isfinite(found).all() if form == "jpeg" else np.array_equal(found, self.first)
            self.check(f"pictures as {form}", bool(is_right))

    async def errors(self, connection: Any) -> None:
        """Each names what is wrong, and the connection stays."""
        for wrong, says in WRONG:
            try:
                await connection.act(self.benchmark.make_obs(0, **wrong))
                self.check("errors", False)
            except RuntimeError as error:
                self.check("errors", "observation_failed: SpecError" in str(error) and says in str(error))
        answer = await connection.act(self.benchmark.make_obs(0))
        self.check("after errors", np.array_equal(answer["actions"], self.first))

    @property
    def first(self) -> Any:
        return self.benchmark.data["actions"][0][0]


def main() -> None:
    client = Client(Path(sys.argv[1]), *sys.argv[2:])
    anyio.run(client.run)
    print(json.dumps(client.record))


if __name__ == "__main__":
    main()
