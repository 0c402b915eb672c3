"""A light environment that keeps the contract: a hand on a line, three objects, and policies that follow language or not."""

from __future__ import annotations

import dataclasses
import os
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from verbot.contracts import EpisodeRequest
from verbot.spec import ActionChunk, Camera, Component, Observation, RobotSpec

COLORS = ("red", "green", "blue")
POSITIONS = Component("places", "position", ("hand", *COLORS), "m", "base", (-9.0,) * 4, (9.0,) * 4)
SPEC = RobotSpec(
    "toy",
    10.0,
    (Camera("front", 16, 16),),
    (POSITIONS,),
    (Component("step", "position_delta", ("x",), "m", "base", (-1.0,), (1.0,)),),
)
LIMIT, REACH = 30, 0.3


class ToyEnv:
    """The task is to go to a color. Scene numbers select faults: a simulator error, an exception, or death of the process."""

    robot_spec = SPEC
    tasks = ("go", "visit")

    def __init__(
        self,
        suite: str = "toy",
        broken: Sequence[int] = (),
        raises: Sequence[int] = (),
        kills: Sequence[int] = (),
        render_mode: str = "",
        light: int = 0,
    ):
        self.broken, self.raises, self.kills, self.light = broken, raises, kills, light

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        self.request = r = EpisodeRequest(**(options or {}))
        rng = np.random.default_rng([seed or 0, zlib.crc32(f"{r.task}{r.split}{r.composition}".encode()), r.index])
        self.places = rng.permutation([-6.0, -2.0, 5.0]) + rng.uniform(-0.5, 0.5, 3)
        order = rng.permutation(3)
        self.feasible = [{"verb": "go", "object": COLORS[i]} for i in order]
        self.target = int(order[r.goal])
        self.hand, self.steps, self.first_contact, self.held = 1.0, 0, None, 0
        words = {"blank": "", "unseen": f"hurry over to {COLORS[self.target]}"}
        self.words = words.get(r.wording, f"go to {COLORS[self.target]}")
        return self._observe(), self._info()

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.steps += 1
        if self.request.index in self.raises and self.steps == 2:
            raise RuntimeError("the toy fell apart")
        if self.request.index in self.kills and self.request.task == "go":
            os._exit(3)
        self.hand += float(np.clip(action[0], -1, 1))
        near = np.flatnonzero(np.abs(self.places - self.hand) < REACH)
        if self.first_contact is None and len(near):
            self.first_contact = COLORS[near[0]]
        self.held = self.held + 1 if self.target in near else 0
        success = self.held >= 2
        return self._observe(), float(success), success, self.steps >= LIMIT, self._info(success)

    def expert(self, noise: float = 0.0, seed: int = 0) -> ToyExpert:
        return ToyExpert(self)

    def render(self) -> np.ndarray:
        return np.kron(self._observe()["images"]["front"], np.ones((4, 4, 1), np.uint8))

    def close(self) -> None:
        pass

    def _observe(self) -> dict[str, Any]:
        image = np.full((16, 16, 3), 40, np.uint8)
        for place, color in zip(self.places, range(3), strict=True):
            image[6:10, int(place + 8), color] = 255
        image[2:5, int(np.clip(self.hand, -8, 7.9) + 8)] = 255
        image = np.clip(image.astype(int) + self.light, 0, 255).astype(np.uint8)
        state = np.array([self.hand, *self.places], np.float32)
        return {"images": {"front": image}, "state": state, "instruction": self.words}

    def _info(self, success: bool = False) -> dict[str, Any]:
        fault = "NaN in qpos" if self.request.index in self.broken and self.steps == 3 else None
        return {
            "instruction": self.words,
            "goal": self.feasible[self.request.goal],
            "target_object": COLORS[self.target],
            "feasible": self.feasible,
            "first_contact": self.first_contact,
            "success": success,
            "final_error_m": abs(float(self.places[self.target] - self.hand)),
            "error": fault,
        }


@dataclasses.dataclass
class ToyExpert:
    env: ToyEnv

    def reset(self, instruction: str) -> None:
        pass

    def label(self) -> np.ndarray:
        return np.array([np.clip(self.env.places[self.env.target] - self.env.hand, -1, 1)], np.float32)

    def act(self, observation: Observation) -> np.ndarray:
        return self.label()


class ToyPolicy:
    """Goes to the instructed color in half steps, or to red without one. It takes the colors in `deaf` for red."""

    spec = SPEC

    def __init__(self, deaf: Sequence[str] = ()):
        self.deaf = deaf

    def predict(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        return [ActionChunk(self._chunk(o)) for o in observations]

    def _chunk(self, o: Observation) -> np.ndarray:
        heard = [color for color in COLORS if color in o.instruction and color not in self.deaf] or ["red"]
        gap = o.state[1 + COLORS.index(heard[0])] - o.state[0]
        steps = np.clip(gap - 0.5 * np.arange(4) * np.sign(gap), -0.5, 0.5)
        return np.asarray(steps, np.float32)[:, None]


def listening() -> ToyPolicy:
    return ToyPolicy()


class SeeingPolicy(ToyPolicy):
    """Goes to the instructed color in the image; it works only under the nominal light."""

    def _chunk(self, o: Observation) -> np.ndarray:
        wanted = next((i for i, color in enumerate(COLORS) if color in o.instruction), 0)
        row = o.images["front"][8].astype(int)
        seen = np.flatnonzero((row[:, wanted] > 150) & (np.delete(row, wanted, 1) < 100).all(1))
        if not len(seen):
            return np.zeros((4, 1), np.float32)
        place = min(o.state[1:], key=lambda x: abs(float(x) - (seen[0] - 7.5)))
        steps = np.clip(place - o.state[0] - 0.5 * np.arange(4) * np.sign(place - o.state[0]), -0.5, 0.5)
        return np.asarray(steps, np.float32)[:, None]


def seeing() -> ToyPolicy:
    return SeeingPolicy()


def half_deaf() -> ToyPolicy:
    return ToyPolicy(("green",))


class TouchyPolicy(ToyPolicy):
    """Its actions depend slightly on the batch size, like the rounding of a matrix product."""

    def predict(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        return [ActionChunk(c.values + np.float32(0.001 * len(observations))) for c in super().predict(observations)]


def touchy() -> ToyPolicy:
    return TouchyPolicy()


class ShakyPolicy(ToyPolicy):
    """Shakes where it is asked to sample."""

    def _chunk(self, o: Observation) -> np.ndarray:
        shake = 0.0 if o.sample_seed is None else np.random.default_rng(o.sample_seed).uniform(-0.2, 0.2)
        return super()._chunk(o) + np.float32(shake)


def shaky() -> ToyPolicy:
    return ShakyPolicy()


class MisfitPolicy(ToyPolicy):
    spec = dataclasses.replace(SPEC, cameras=(Camera("front", 32, 32),))


def misfit() -> ToyPolicy:
    return MisfitPolicy()


def unloadable() -> ToyPolicy:
    raise ValueError("these weights are torn")
