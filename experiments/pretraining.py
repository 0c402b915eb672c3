"""Pretraining of encoders on captioned scenes, or of action latents, for policies that learn from few demonstrations.

Run it as ``python experiments/pretraining.py outputs/demos --scenes outputs/scenes --out outputs/pretraining``, where the
demonstrations are of ``verbot collect`` and the scenes of ``verbot collect --captions 8 --max-frames 6 --seed 77``. It prints a
line of JSON per stage, then a table. A repeated call resumes. An arm is a kind of pretraining and a number of demonstrations:

- ``fresh``: none. ``siglip``, ``clip``: contrastive losses on captions. ``queries``: grounding queries. ``both``: ``siglip`` and
  ``queries``.
- ``queries+latent``: with the head ``latent``; ``queries+actions``: with its decoder pretrained on all actions.
"""

from __future__ import annotations

import os

os.environ.setdefault("LP_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import dataclasses
import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

import verbot
from verbot.contracts import observation_from_env
from verbot.envs import make_env
from verbot.evaluation.comparison.paired import compare_evaluations
from verbot.evaluation.protocol.intervals import Estimate, wilson
from verbot.evaluation.report.summary import format_estimate
from verbot.models.objectives.contrastive import similarities
from verbot.models.objectives.siglip import FITS
from verbot.policy.policy import VLAPolicy
from verbot.spec import Observation
from verbot.training import TrainResult

CONTRASTIVE = ("siglip", "clip", "both")
SEEING, ACTING = ("vision", "language", "sentence"), ("head.encode", "head.mix", "head.decode")
AMONG = 32
PLACES: dict[str, Any] = {"keypoints": {}, "grounding_queries": {}}


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    data: tyro.conf.Positional[Path]
    scenes: Path = Path("outputs/scenes")
    out: Path = Path("outputs/pretraining")
    suite: str = "tabletop-starter"
    tasks: tuple[str, ...] = ()  # demonstrated and asked for; all by default
    pretrain: tuple[str, ...] = ("siglip", "clip", "queries")
    arms: tuple[str, ...] = ("fresh-200", "siglip-200", "clip-200", "queries-200")
    pretrain_samples: int = 30_000
    action_samples: int = 100_000
    samples: int = 20_000
    seed: int = 0
    episodes: int = 150
    held_out: int = 320  # scenes of the test split, for retrieval and warnings


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    for how in arguments.pretrain:
        policy = pretrained(arguments, how)
        if how in CONTRASTIVE:
            print(json.dumps({"pretrained": how, **measure_alignment(arguments, policy)}), flush=True)
    rows: list[dict[str, Any]] = []
    for arm in arguments.arms:
        rows.append({"arm": arm, **measure(arguments, arm)})
        print(json.dumps(rows[-1]), flush=True)
    print("\n| arm | success | against the first | p |\n|---|---|---|---|")
    for row in rows:
        against = compare_evaluations(
            arguments.out / rows[0]["arm"] / "evaluation", arguments.out / row["arm"] / "evaluation"
        ).conditions[0]
        success = format_estimate("success_rate", Estimate(**row["success"]))
        print(f"| {row['arm']} | {success} | {against.only_second} won, {against.only_first} lost | {against.p:.3g} |")


def pretrained(arguments: Arguments, how: str) -> str:
    """The folder of the pretrained policy, which is trained unless it is complete."""
    seeing, _, acting = how.partition("+")
    settings = common(arguments) | {"samples": arguments.pretrain_samples, "network": {}}
    out = arguments.out / f"pretrained-{how}"
    if acting:  # pretrained on the actions of all demonstrations, without images and instructions
        cheap = {**common(arguments), "samples": arguments.action_samples, "checkpoint_every": 500}
        start = verbot.train(
            "actions", data=arguments.data, out=arguments.out / "pretrained-actions", progress=False, **cheap
        ).policy
        settings |= {"init_from": start, "init.parts": ACTING, "network": {"head": {"name": "latent"}}}
    if seeing == "clip":
        settings["network"] |= {"objectives": {"contrastive": {"options": {"kind": "clip"}}}}
    if seeing == "both":
        settings["network"] |= {"objectives": {"contrastive": {}, **PLACES}}
        settings["augment"] = {"grounding_queries": 4}
    if seeing == "queries":
        settings["network"] |= {"objectives": PLACES}
        settings["augment"] = {"captions": 0, "grounding_queries": 4}
    return verbot.train("contrastive", data=arguments.scenes, out=out, progress=False, **settings).policy


def measure(arguments: Arguments, arm: str) -> dict[str, Any]:
    """The success of one policy that is trained on few demonstrations."""
    how, _, count = arm.rpartition("-")
    seeing, _, head = how.partition("+")
    out, chosen = arguments.out / arm, {"episodes": int(count), "tasks": list(arguments.tasks) or None}
    settings = common(arguments) | {"samples": arguments.samples, "selections": [chosen]}
    options = {"tasks": list(arguments.tasks)} if arguments.tasks else {}
    if seeing != "fresh":
        parts = (*SEEING, *(ACTING if head == "actions" else ()))
        settings |= {"init_from": pretrained(arguments, how if head == "actions" else seeing), "init.parts": parts}
    recipe = "starter+head=latent" if head else "starter"
    result = verbot.train(recipe, data=arguments.data, out=out, progress=False, **settings)
    assert isinstance(result, TrainResult)
    summary = verbot.evaluate(
        result.policy, arguments.suite, out=out / "evaluation", episodes=arguments.episodes, baselines=False, videos=0,
        conditions=(), latency_calls=1, workers=1, progress=False, options=options,
    )  # fmt: skip
    return {"samples": result.samples, "loss": result.loss, "success": summary.metrics["success_rate"].to_json()}


def common(arguments: Arguments) -> dict[str, Any]:
    return {"processes": 1, "checkpoint_every": 50, "seed": arguments.seed}


def measure_alignment(arguments: Arguments, folder: str) -> dict[str, Any]:
    """Retrieval among images of unseen scenes, and how well similarities separate true from false captions."""
    policy = VLAPolicy.load(folder)
    shown, captions = scenes(arguments, policy.spec.camera_names)
    ranks, fits, blind = [], [], []
    for begin in range(0, len(shown), AMONG):
        some = shown[begin : begin + AMONG]
        batch = policy.collate_observations(some, [policy.preprocess(each) for each in some])
        said = captions[begin : begin + AMONG]
        if len(some) == AMONG:  # a caption of each picture that says where something stands, or what stands there
            texts = [next((c for c in each if c["kind"] != "instruction"), each[0])["true"] for each in said]
            found = similarities(policy.network, batch, policy.network.backbone.prepare(texts))
            ranks += (found > found.diagonal()[:, None]).sum(1).tolist()
        for row, each in enumerate(said):
            one = policy.collate_observations(some[row : row + 1], [policy.preprocess(some[row])])
            texts = [caption[side] for caption in each for side in ("true", "false")]
            text = policy.network.backbone.prepare(texts)
            pairs = similarities(policy.network, one, text).view(-1, 2).tolist()
            blind += similarities(policy.network, dataclasses.replace(one, images=one.images * 0), text).view(-1, 2).tolist()
            fits += [(caption["kind"], *pair) for caption, pair in zip(each, pairs, strict=True)]
    place = np.array(ranks)
    out: dict[str, Any] = {
        "picture_first_of_32": wilson(int((place == 0).sum()), len(place)).to_json(),
        "picture_in_first_5_of_32": wilson(int((place < 5).sum()), len(place)).to_json(),
    }
    out["auc_of_words_alone"] = area(*np.array(blind).T)  # before black pictures
    for kind in ("all", *sorted({kind for kind, _, _ in fits})):
        true, false = np.array([pair[1:] for pair in fits if kind in ("all", pair[0])]).T
        above = int((true > false).sum())
        out[kind] = {
            "above_its_hard_negative": wilson(above, len(true)).to_json(),
            "auc": area(true, false),
            "means": [float(true.mean()), float(false.mean())],
            "below_0.3": [wilson(int((x < FITS).sum()), len(x)).to_json() for x in (true, false)],
        }
    return out


def area(true: np.ndarray, false: np.ndarray) -> float:
    """The area under the ROC curve: how often something true is above something false."""
    return float(((true[:, None] > false) + 0.5 * (true[:, None] == false)).mean())


def scenes(arguments: Arguments, cameras: tuple[str, ...]) -> tuple[list[Observation], list[list[dict[str, str]]]]:
    with closing(make_env(arguments.suite, captions=8, cameras=cameras)) as env:
        found = [env.reset(seed=0, options={"split": "test", "index": 10_000 + i}) for i in range(arguments.held_out)]
    return [observation_from_env(record) for record, _ in found], [info["captions"] for _, info in found]


if __name__ == "__main__":
    main()
