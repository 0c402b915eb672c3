"""A language reward compared with the environment's own potential, and drawn over the floor as a map.

Run it as ``python experiments/reward_map.py outputs/airl/reward.safetensors --picture outputs/reward.png``; it reads what a run
with the reward "adversarial" writes, or a language reward model (``--of language``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from PIL import Image, ImageDraw

from verbot.envs import make_env
from verbot.envs.navigation.language import wordings
from verbot.envs.navigation.tasks import describe
from verbot.envs.navigation.world import SIDE_M, STOP
from verbot.evaluation.protocol.intervals import proportion
from verbot.models.reward_models.matcher import Matcher

# Output columns of each kind of model: (of an intermediate state, of a final state).
COLUMNS = {"adversarial": (1, 0), "language": (0, 1)}  # h and g; near and done


@dataclass(frozen=True)
class Arguments:
    """What to look at."""

    file: tyro.conf.Positional[Path]
    of: Literal["adversarial", "language"] = "adversarial"
    env: str = "navigation-compass"
    task: str = "go"
    scenes: int = 100
    wording: str = "canonical"
    picture: Path | None = None
    scene: int = 3
    seed: int = 0


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    torch.set_num_threads(1)
    matcher = Matcher.load(arguments.file)
    print(json.dumps(measure(matcher, arguments), indent=1))
    if arguments.picture:
        arguments.picture.parent.mkdir(parents=True, exist_ok=True)
        draw(matcher, arguments).save(arguments.picture)


def measure(matcher: Matcher, arguments: Arguments) -> dict[str, Any]:
    """In test scenes: the rank correlation of the reward's potential with the env's, over random states, for the scene's own
    instruction and for one of another object; and how often a stop at the target object has a higher value than one at another.
    """
    way, end = COLUMNS[arguments.of]
    env: Any = make_env(arguments.env, render_cameras=False)
    rng = np.random.default_rng(arguments.seed)
    own, other, ends = list[float](), list[float](), list[bool]()
    pooled: list[tuple[float, float]] = []
    for index in range(arguments.scenes):
        request = {"task": arguments.task, "split": "test", "index": index, "wording": arguments.wording}
        _, info = env.reset(seed=arguments.seed, options=request)
        instruction = info["instruction"]
        wrong = next((g for g in info["feasible"] if g["object"] != info["target_object"] and g["verb"] == arguments.task), None)
        if wrong is None:
            continue
        states, truth = [], []
        for _ in range(30):
            _scatter(env, rng)
            states.append(describe(env.world))
            truth.append(_potential(env))
        if np.ptp(truth) == 0:
            continue
        said = matcher.forward_no_grad(states, [instruction] * len(states))[:, way].tolist()
        sentence = wordings(wrong, "seen")[0]
        misled = matcher.forward_no_grad(states, [sentence] * len(states))[:, way].tolist()
        own.append(_ranks(said, truth))
        other.append(_ranks(misled, truth))
        pooled.extend(zip(said, truth, strict=True))
        worth = [float(matcher.forward_no_grad([state], [instruction])[0, end]) for state in _stops(env, info)]
        ends.append(worth[0] > max(worth[1:]))
    found = proportion(ends)
    return {
        "rank correlation with the potential, mean of scenes": _summary(own),
        "the same, with an instruction of another object": _summary(other),
        "of all scenes together": round(_ranks(*zip(*pooled, strict=True)), 3),
        "a stop at the target object has the highest value": {
            "n": found.n,
            "percent": found.percent(),
        },
    }


def _scatter(env: Any, rng: np.random.Generator) -> None:
    """The robot somewhere free, its arm as it may be."""
    while True:
        x, y = rng.uniform(0, SIDE_M, 2)
        if env.world.is_free(x, y):
            break
    env.world.x_m, env.world.y_m, env.world.arm_raised = x, y, bool(rng.integers(2))


def _potential(env: Any) -> float:
    env._score()
    return float(env.potential())


def _stops(env: Any, info: dict[str, Any]) -> list[str]:
    """Descriptions after a stop beside each object, with the instructed arm position, the target object first."""
    found = []
    arm = info["goal"]["arm"]
    for obj in sorted(env.world.scene.objects, key=lambda obj: obj.name != info["target_object"]):
        for turn in np.linspace(0, 2 * np.pi, 16, endpoint=False):
            x, y = obj.center_m[0] + 0.5 * np.cos(turn), obj.center_m[1] + 0.5 * np.sin(turn)
            env.world.x_m, env.world.y_m, env.world.arm_raised = x, y, arm == "raised"
            if env.world.is_free(x, y) and env.world.within_reach() == obj.name:
                env.world.step(STOP)
                found.append(describe(env.world))
                env.world.stopped_at = None
                break
    return found


def _ranks(one: Any, other: Any) -> float:
    """Spearman's."""
    ranks = [np.argsort(np.argsort(values, kind="stable"), kind="stable") for values in (one, other)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _summary(values: list[float]) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    means = rng.choice(values, (2000, len(values))).mean(1)
    return {
        "n": len(values),
        "mean": round(float(np.mean(values)), 3),
        "95 %": np.quantile(means, (0.025, 0.975)).round(3).tolist(),
    }


def draw(matcher: Matcher, arguments: Arguments, cell: int = 8, scale: int = 4) -> Image.Image:
    """One scene for three sentences: above it what a place on the way is worth, below what a stop there is worth."""
    env: Any = make_env(arguments.env)
    _, info = env.reset(seed=arguments.seed, options={"task": arguments.task, "split": "test", "index": arguments.scene})
    goals = [goal for goal in info["feasible"] if goal["verb"] == arguments.task][:3]
    size = 64 * scale
    colored = np.asarray(env.picture(size=size), np.float32)
    gray = np.repeat(colored.mean(-1, keepdims=True), 3, -1)
    sheet = Image.new("RGB", (len(goals) * (size + 8) - 8, 2 * (size + 20)), "white")
    pen = ImageDraw.Draw(sheet)
    for column, goal in enumerate(goals):
        instruction = wordings({**goal, "arm": None}, "seen")[0]
        for row, (title, stop, output) in enumerate(
            ((instruction, False, COLUMNS[arguments.of][0]), ("... and stops there", True, COLUMNS[arguments.of][1]))
        ):
            values = _over(env, matcher, instruction, stop, output, size // cell)
            left, top = column * (size + 8), row * (size + 20)
            pen.text((left + 2, top + 4), title, "black")
            heat = np.asarray(_colors(values).resize((size, size), Image.Resampling.NEAREST), np.float32)
            there = np.kron(~np.isnan(values), np.ones((cell, cell), bool))[..., None]
            shown = np.where(there, 0.6 * heat + 0.4 * gray, colored)
            sheet.paste(Image.fromarray(shown.astype(np.uint8)), (left, top + 20))
    return sheet


def _over(env: Any, matcher: Matcher, instruction: str, stop: bool, output: int, cells: int) -> np.ndarray:
    """(cells, cells), row is y, NaN where the robot cannot be."""
    world = env.world
    kept = world.x_m, world.y_m
    places = [((i + 0.5) * SIDE_M / cells, (j + 0.5) * SIDE_M / cells) for j in range(cells) for i in range(cells)]
    states, free = [], []
    for x, y in places:
        world.x_m, world.y_m = x, y
        free.append(world.is_free(x, y))
        if stop:
            world.step(STOP)
        states.append(describe(world))
        world.stopped_at = None
    world.x_m, world.y_m = kept
    values = matcher.forward_no_grad(states, [instruction] * len(states))[:, output].numpy()
    return np.where(free, values, np.nan).reshape(cells, cells)


def _colors(values: np.ndarray) -> Image.Image:
    """Dark blue is the least, yellow the most."""
    low, high = np.nanmin(values), np.nanmax(values)
    share = np.nan_to_num((values - low) / max(high - low, 1e-9))[..., None]
    stops = np.array([(40, 20, 90), (30, 120, 150), (250, 230, 40)], np.float32)
    paint = np.where(
        share < 0.5, stops[0] + 2 * share * (stops[1] - stops[0]), stops[1] + (2 * share - 1) * (stops[2] - stops[1])
    )
    return Image.fromarray(paint.astype(np.uint8))


if __name__ == "__main__":
    main()
