"""openpi's own client against a server that is up; `other_clients.py` runs this in the environment of openpi-client.

It prints what was tried, each with how often it was right and how often it was tried.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.websocket_client_policy import WebsocketClientPolicy

WRONG: tuple[tuple[dict[str, Any], str], ...] = (
    ({"observation/depth": np.zeros(3)}, "observation/depth"),
    ({"observation/front": np.zeros((3, 64, 64), np.uint8)}, "moveaxis"),
    ({"observation/state": np.zeros(3)}, "state"),
    ({"observation/state": np.full(8, np.nan)}, "finite"),
    ({"prompt": np.float32(1)}, "instruction"),
    ({"prompt": np.array(["a"])}, "dtype"),
)


class Client:
    """Asks for what `place` holds, and counts.

    Args:
        place: the folder of observations.npz.
    """

    def __init__(self, place: Path, url: str, token: str):
        self.data, self.url, self.token = np.load(place / "observations.npz"), url, token
        self.record: dict[str, list[int]] = {}

    def check(self, name: str, good: bool) -> None:
        right, count = self.record.get(name, [0, 0])
        self.record[name] = [right + bool(good), count + 1]

    def connect(self) -> Any:
        return WebsocketClientPolicy(host=self.url, api_key=self.token)

    def observation(self, row: int, **changes: Any) -> dict[str, Any]:
        names = [name for name in self.data.files if name.startswith("images.")]
        images = {f"observation/{name.partition('.')[2]}": self.data[name][row] for name in names}
        state, text = self.data["state"][row].astype(np.float64), str(self.data["text"][row])
        return {**images, "observation/state": state, "prompt": text, **changes}

    def actions(self) -> None:
        """Chunks, timing, and the broker that gives one action after another."""
        policy, expected = self.connect(), self.data["actions"]
        about = policy.get_server_metadata()
        self.check("metadata", about["openpi"]["actions"] == expected.shape[-1] and about["spec"]["name"] == "tabletop-panda")
        for row in range(len(expected)):
            answer = policy.infer(self.observation(row))
            self.check("actions", np.array_equal(answer["actions"], expected[row]) and answer["actions"].dtype == np.float32)
            self.check(
                "timing", answer["policy_timing"]["infer_ms"] > 0 and ("prev_total_ms" in answer["server_timing"]) == (row > 0)
            )
        broker = ActionChunkBroker(policy, action_horizon=5)
        for step in range(10):
            found = broker.infer(self.observation(step // 5))["actions"]
            self.check("chunk broker", np.array_equal(found, expected[step // 5][step % 5]))

    def errors(self) -> None:
        """One line of text each; the connection closes, and the next one works."""
        for wrong, says in WRONG:
            try:
                self.connect().infer(self.observation(0, **wrong))
                self.check("errors", False)
            except RuntimeError as error:
                text = str(error).partition("\n")[2]
                self.check("errors", says in text and "\n" not in text and "Traceback" not in text)
        self.check("after errors", np.array_equal(self.connect().infer(self.observation(0))["actions"], self.data["actions"][0]))

    def strangers(self) -> None:
        """Clients without the token."""
        for token in (None, "another-token-of-that-length"):
            try:
                WebsocketClientPolicy(host=self.url, api_key=token)
                self.check("wrong token", False)
            except Exception as error:  # that of whichever version of websockets there is
                self.check("wrong token", "401" in str(error))


def main() -> None:
    client = Client(Path(sys.argv[1]), *sys.argv[2:])
    client.actions()
    client.errors()
    client.strangers()
    print(json.dumps(client.record))


if __name__ == "__main__":
    main()
