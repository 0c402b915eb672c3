"""A new env in one file: a hand on a plane that moves to the colored dot in the instruction.

It keeps `verbot.contracts.TaskEnv`, so collection, training, evaluation and the report work on it. For commands, whose worker
processes must find it too, install it as a package with this entry point:

    [project.entry-points."verbot.envs"]
    dots = "own_env:Dots"

Run it: python examples/own_env.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

import verbot
from verbot.contracts import EpisodeRequest
from verbot.data import DatasetWriter
from verbot.envs import envs
from verbot.rollout.collect import demonstrate

COLORS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 80, 230)}
SIZE, REACH_M, STEPS = 32, 0.05, 40
WORDS = {"seen": ("go to {}", "move to {}"), "unseen": ("head for {}",), "blank": ("",)}
PLACE = verbot.Component("hand", "position", ("x", "y"), "m", "base", (0.0, 0.0), (1.0, 1.0))
MOVE = verbot.Component("move", "position_delta", ("x", "y"), "m", "base", (-0.1, -0.1), (0.1, 0.1))
SPEC = verbot.RobotSpec("dots", 10.0, (verbot.Camera("top", SIZE, SIZE),), (PLACE,), (MOVE,))


@envs.register("dots")
class Dots:
    """One task, ``"go"``; success after three steps in a row on the named dot."""

    robot_spec, tasks = SPEC, ("go",)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        request = EpisodeRequest(**(options or {}))
        # The scene is a function of the request and the seed alone.
        rng = np.random.default_rng([seed or 0, request.split == "test", request.index])
        self.dots = dict(zip(COLORS, rng.uniform(0.1, 0.9, (3, 2)), strict=True))
        self.hand, self.steps, self.held = rng.uniform(0.1, 0.9, 2), 0, 0
        self.first_contact: str | None = None
        names = list(rng.permutation(list(COLORS)))
        self.named = names[request.goal]
        known = WORDS.get(request.wording, WORDS["seen"][:1])
        self.words = request.text or known[rng.integers(len(known))].format(self.named)
        self.feasible = [{"verb": "go", "object": name} for name in names]
        return self._observation(), self._info()

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.steps += 1
        self.hand = np.clip(self.hand + np.clip(action, SPEC.action_low(), SPEC.action_high()), 0, 1)
        reached = [name for name, dot in self.dots.items() if np.linalg.norm(dot - self.hand) < REACH_M]
        self.first_contact = self.first_contact or next(iter(reached), None)
        self.held = self.held + 1 if self.named in reached else 0
        success = self.held >= 3
        return self._observation(), float(success), success, not success and self.steps >= STEPS, self._info()

    def expert(self, noise: float = 0.0, seed: int = 0) -> DotsExpert:
        return DotsExpert(self, noise, seed)

    def render(self) -> np.ndarray:
        return self._observation()["images"]["top"].repeat(8, 0).repeat(8, 1)

    def close(self) -> None:
        pass

    def _observation(self) -> dict[str, Any]:
        image = np.full((SIZE, SIZE, 3), 30, np.uint8)
        for (x, y), color, radius in [
            *zip(self.dots.values(), COLORS.values(), (2, 2, 2), strict=True),
            (self.hand, (240,) * 3, 1),
        ]:
            row, column = int(y * (SIZE - 1)), int(x * (SIZE - 1))
            image[max(0, row - radius) : row + radius + 1, max(0, column - radius) : column + radius + 1] = color
        return {"images": {"top": image}, "state": self.hand.astype(np.float32), "instruction": self.words}

    def _info(self) -> dict[str, Any]:
        return {
            "instruction": self.words,
            "instructions": [self.words],
            "goal": {"verb": "go", "object": self.named},
            "target_object": self.named,
            "feasible": self.feasible,
            "grounding": [{"instructions": [f"go to {goal['object']}"]} for goal in self.feasible],
            "calibration": {},
            "first_contact": self.first_contact,
            "success": self.held >= 3,
            "final_error_m": float(np.linalg.norm(self.dots[self.named] - self.hand)),
            "error": None,
        }


class DotsExpert:
    """Straight to the named dot."""

    def __init__(self, env: Dots, noise: float, seed: int):
        self._env, self._noise, self._rng = env, noise, np.random.default_rng(seed)

    def reset(self, instruction: str) -> None:
        """Nothing to remember."""

    def act(self, observation: verbot.Observation) -> np.ndarray:
        return self.label() + self._rng.normal(0, 0.02 * self._noise, 2).astype(np.float32)

    def label(self) -> np.ndarray:
        way = self._env.dots[self._env.named] - self._env.hand
        return np.clip(way, SPEC.action_low(), SPEC.action_high()).astype(np.float32)


def main(folder: Path, episodes: int = 20) -> int:
    """Demonstrations of the new world, as a dataset. Returns how many there are."""
    env = verbot.make_env("dots")
    with DatasetWriter(folder, SPEC) as writer:
        for index in range(episodes):
            request = {"task": "go", "split": "train", "index": index, "wording": "seen"}
            attempt = demonstrate(env, request, noise=0.15, seed=0, index=index)
            if attempt.record is not None:
                writer.save_episode(attempt.record)
    dataset = verbot.open_dataset(folder)
    print(f"{len(dataset)} demonstrations; the first: {dataset[0].instruction!r}, {len(dataset[0].actions)} frames")
    return len(dataset)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/dots"))
