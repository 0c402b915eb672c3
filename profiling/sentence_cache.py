"""Training and prediction of a policy whose frozen language model reads each sentence once, against every time.

Run it as ``python profiling/sentence_cache.py`` on one core, after ``verbot models fetch smollm2-135m``. They take turns; seconds
are of the processor, so that other processes disturb less. It prints a JSON line for each choice.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import tyro

from verbot.envs import make_env
from verbot.models.network import NetworkConfig, Part, VLANetwork
from verbot.models.registries import Objective
from verbot.models.tokens import Batch
from verbot.spec import RobotSpec

TEXTS = [
    f"{verb} the {color} {shape}"
    for verb in ("pick up", "push")
    for color in ("red", "green", "blue")
    for shape in ("cube", "ball")
]
ROWS, ROUNDS = 16, 8


def network(spec: RobotSpec, checkpoint: str, heatmaps: int, dtype: str) -> VLANetwork:
    trunk = {"name": "hf", "options": {"checkpoint": checkpoint, "mode": "frozen", "depth": 8, "dtype": dtype}}
    prompt = {"trunk": trunk, "causal": True, "order": ["text", "keypoints", "state"], "readouts": 4}
    config = NetworkConfig(
        Part("vlm", prompt), vision=Part("query_conv", {"heatmaps": heatmaps}), objectives={"action": Objective()}
    )
    torch.manual_seed(0)
    return VLANetwork(config.fit(TEXTS), spec)


def batch_for(made: VLANetwork, rows: int, padded: bool) -> Batch:
    g, sizes = torch.Generator().manual_seed(0), made.sizes
    text = made.backbone.prepare([TEXTS[i % len(TEXTS)] for i in range(rows)])
    return Batch(
        images=torch.randint(0, 256, (rows, 1, sizes.views, 3, sizes.height, sizes.width_px), generator=g, dtype=torch.uint8),
        images_mask=torch.ones(rows, 1, sizes.views, dtype=torch.bool),
        state=torch.randn(rows, 1, sizes.state, generator=g),
        state_mask=torch.ones(rows, 1, dtype=torch.bool),
        text=text.equally_long(made.backbone.most_tokens() or 64) if padded else text,
        actions=torch.randn(rows, sizes.chunk, sizes.action_size, generator=g),
        actions_mask=torch.ones(rows, sizes.chunk, dtype=torch.bool),
    )


def compared(work: Callable[[VLANetwork], None], kept: VLANetwork, plain: VLANetwork) -> dict[str, float]:
    seconds: dict[str, list[float]] = {"kept": [], "plain": []}
    for number in range(ROUNDS + 1):
        for name, made in (("kept", kept), ("plain", plain)):
            start = time.process_time()
            work(made)
            if number:
                seconds[name].append(time.process_time() - start)
    found = {name: statistics.median(values) for name, values in seconds.items()}
    return {"kept_ms": 1e3 * found["kept"], "plain_ms": 1e3 * found["plain"], "ratio": found["plain"] / found["kept"]}


def main(checkpoint: str = "models:smollm2-135m") -> None:
    torch.set_num_threads(1)
    env: Any = make_env("tabletop-starter")
    spec = env.unwrapped.robot_spec
    env.close()
    for dtype in ("float32", "bfloat16"):
        for heatmaps in (3, 16):
            kept = network(spec, checkpoint, heatmaps, dtype)
            plain = copy.deepcopy(kept)
            backbone: Any = plain.backbone
            backbone.keeps_sentences = False
            batch, one = batch_for(kept, ROWS, False), batch_for(kept, 1, True)

            def step(made: VLANetwork, batch: Batch = batch) -> None:
                made.zero_grad()
                sum(made.losses(batch, torch.Generator().manual_seed(0)).values()).backward()  # type: ignore[union-attr]

            def predict(made: VLANetwork, one: Batch = one) -> None:
                with torch.inference_mode():
                    made.predict(dataclasses.replace(one, actions=None, actions_mask=None))

            trained, predicted = compared(step, kept, plain), compared(predict, kept, plain)
            rates = {name: ROWS * 1e3 / trained[f"{name}_ms"] for name in ("kept", "plain")}
            print(json.dumps({
                "dtype": dtype, "heatmaps": heatmaps, "train_samples_per_s": rates, "train_ratio": trained["ratio"],
                "predict_ms": [predicted["kept_ms"], predicted["plain_ms"]], "predict_ratio": predicted["ratio"],
            }), flush=True)  # fmt: skip


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
