"""What leaves a policy whose memory or weights are damaged: nothing that is not finite, and no error without a type.

Policies of every kind of memory predict from memories that are changed at random, as a function of the seed, and with one number
of one weight that is not finite. Counted: exceptions that are no verbot error, predictions with actions that are not finite, and
changed memories that were read without an error.

Run it: python experiments/reliability/predictions.py --cases 600 --out predictions.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from verbot.errors import VerbotError
from verbot.models.network import NetworkConfig
from verbot.models.registries import Part
from verbot.policy.policy import VLAPolicy
from verbot.spec import ActionChunk, Camera, Component, Observation, RobotSpec
from verbot.statistics import Statistics

MOVE = Component("move", "position_delta", ("x", "y", "z"), "m", "base", (-0.05,) * 3, (0.05,) * 3)
SPEC = RobotSpec("tiny", 10.0, (Camera("front", 16, 16),), (dataclasses.replace(MOVE, name="x", kind="position"),), (MOVE,))
SMALL = NetworkConfig(width=16, chunk=4, fusion=Part("mlp", {"hidden": 32}))
MEMORIES = ("external", "recurrent", "temporal", "chain")
WHOLE = ("nan", "inf")  # of these an array stays one of the right shape and type
CHANGES = (*WHOLE, "longer", "empty", "scalar", "text", "objects", "complex", "a list", "whole numbers", "missing", "another")


def policies() -> list[VLAPolicy]:
    """A policy of every kind of memory; one with past frames, one that reads its previous action."""
    configs = [dataclasses.replace(SMALL, memory=Part(name), sequence=8) for name in MEMORIES]
    configs.append(dataclasses.replace(SMALL, history=3, stride=2))
    configs.append(dataclasses.replace(SMALL, previous_action=Part("action", {"hidden": 16})))
    rng = np.random.default_rng(0)
    statistics = Statistics.of({name: rng.uniform(-0.05, 0.05, (50, 3)) for name in ("state", "action")})
    return [VLAPolicy.create(config, SPEC, statistics, ["push the green ball"]) for config in configs]


def observation(time_s: float = 0.0, memory: Any = None) -> Observation:
    return Observation(
        {"front": np.full((16, 16, 3), 90, np.uint8)}, np.zeros(3, np.float32), "push", time_s=time_s, memory=memory
    )


def changed(memory: dict[str, Any], name: str, how: str) -> dict[str, Any]:
    array = memory[name]
    if how in ("missing", "another"):
        return {f"{n}s" if n == name and how == "another" else n: a for n, a in memory.items() if how == "another" or n != name}
    value: Any = {
        "nan": lambda: np.full(array.shape, np.nan, np.result_type(array.dtype, np.float32)),
        "inf": lambda: np.full(array.shape, np.inf, np.result_type(array.dtype, np.float32)),
        "longer": lambda: np.concatenate([array, array])[:, None] if array.ndim else np.zeros(2),
        "empty": lambda: array[:0] if array.ndim else np.zeros(0),
        "scalar": lambda: np.zeros(()) if array.ndim else np.zeros((1, 1)),
        "text": lambda: np.full(array.shape, "x"),
        "objects": lambda: np.full(array.shape, None),
        "complex": lambda: array.astype(np.complex64),
        "a list": lambda: array.tolist(),
        "whole numbers": lambda: array.astype(np.int64),
    }[how]()
    return {**memory, name: value}


def judge(policy: VLAPolicy, seen: Observation, label: str, tally: dict[str, Counter[str]]) -> ActionChunk | None:
    """The chunk, or None for a typed error."""
    try:
        (chunk,) = policy.predict([seen])
    except VerbotError:
        return None
    except Exception as error:
        tally["untyped"][f"{label}: {type(error).__name__}"] += 1
        return None
    tally["not_finite"][label] += not np.isfinite(chunk.values).all()
    return chunk


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=600, help="memories")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    tally: dict[str, Counter[str]] = {"untyped": Counter(), "not_finite": Counter(), "read_silently": Counter()}
    rng, made = random.Random(options.seed), policies()
    memories = [dict(policy.predict([observation()])[0].memory or {}) for policy in made]
    for _ in range(options.cases):
        number, how = rng.randrange(len(made)), rng.choice(CHANGES)
        memory = changed(memories[number], rng.choice(sorted(memories[number])), how)
        chunk = judge(made[number], observation(0.2, memory), f"memory, {how}", tally)
        tally["read_silently"][f"memory, {how}"] += chunk is not None
    weights = 0
    for policy in made:
        for parameter in policy.network.parameters():
            place = rng.randrange(parameter.numel())
            flat, weights = parameter.data.view(-1), weights + 1
            before, flat[place] = float(flat[place]), rng.choice((float("nan"), float("inf")))
            judge(policy, observation(), "weight", tally)
            flat[place] = before
    record = {
        "test": "predictions",
        "count": options.cases + weights,
        "memories": options.cases,
        "weights": weights,
        "seed": options.seed,
        **{key: sum(counter.values()) for key, counter in tally.items()},
        "where": {key: {k: v for k, v in sorted(counter.items()) if v} for key, counter in tally.items()},
    }
    text = json.dumps(record, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
