"""One part changed at a time: the same demonstrations, the same number of samples, the same unseen scenes.

Run it as ``python benchmarks/parts.py --dataset outputs/demo/dataset --out outputs/parts`` on an idle machine; interrupted, it
goes on where it was. Every row is the starter recipe with one thing changed; p is McNemar's exact test against the first row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

import verbot
from verbot.evaluation.compare import compare
from verbot.recipes.config import change, resolve


def part(kind: str, name: str, **options: Any) -> dict[str, Any]:
    return {"network": {kind: {"name": name, "options": options}}}


BASE = "starter"
TRAINING: Mapping[str, Mapping[str, Any]] = {
    BASE: {},
    "no questions": {"augment": {"questions": 0}},
    "no questions, relabel 0.3": {"augment": {"questions": 0, "relabel": 0.3}},
    "questions 8": {"augment": {"questions": 8}},
    "no keypoint loss": {"network": {"keypoint_weight": 0.0}, "augment": {"questions": 0}},
    "vision film_conv": part("vision", "film_conv", channels=24),
    "vision vit": part("vision", "vit"),
    "language words": part("language", "words"),
    "fusion concat": part("fusion", "concat"),
    "fusion cross_attention": part("fusion", "cross_attention"),
    "fusion film": part("fusion", "film"),
    "head flow": part("head", "flow"),
    "history 2": {"network": {"history": 2}},
    "dagger, 2 rounds of 200": {"dagger": {"rounds": 2, "episodes": 200}},
}
EVALUATION: Mapping[str, Mapping[str, Any]] = {  # of the first row's policy
    "execute 3 of 10": {"execute": 3},
    "temporal ensembling 0.01": {"decay": 0.01},
}


@dataclass(frozen=True)
class Arguments:
    """What to compare."""

    dataset: Path
    out: Path = Path("outputs/parts")
    samples: int = 100_000  # of each training
    episodes: int = 201
    only: tuple[str, ...] = ()  # rows; all if not given


def main() -> None:
    arguments = tyro.cli(Arguments)
    rows = {}
    for name in arguments.only or (*TRAINING, *EVALUATION):
        rows[name] = measure(arguments, name)
        print(line(name, rows[name]), flush=True)
    target = arguments.out / "table.json"
    known = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {}
    record = {"samples": arguments.samples, "rows": {**known.get("rows", {}), **rows}}
    target.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print("\n| changed | success [95 %] | strict counterfactual | unseen wordings keep | p | samples/s | parameters |")
    print("|---|---|---|---|---|---|---|")
    for name, row in record["rows"].items():
        print(line(name, row))


def measure(arguments: Arguments, name: str) -> dict[str, Any]:
    """The figures of one row."""
    run = arguments.out / (BASE if name in EVALUATION else name.replace(" ", "_"))
    settings = {"samples": arguments.samples, "minutes": None, "validation_share": 0.0, **TRAINING.get(name, {})}
    config = change(resolve(BASE), settings)
    result = verbot.train(config, out=run, data=arguments.dataset)
    played = arguments.out / "evaluations"
    summary = verbot.evaluate(
        run / "policy", config.collection.env, out=played / name.replace(" ", "_"), episodes=arguments.episodes, videos=0,
        baselines=False, conditions=("counterfactual", "paraphrase"), **EVALUATION.get(name, {}),
    )  # fmt: skip
    paired = compare(played / name.replace(" ", "_"), played / BASE).conditions
    against = next(row for row in paired if row.group == "canonical")
    policy = verbot.load_policy(run / "policy")
    return {
        "metrics": {key: value.to_json() for key, value in summary.metrics.items()},
        "p": None if name == BASE else against.p,
        "samples": result.samples,
        "samples_per_s": result.samples / result.seconds,
        "parameters": sum(p.numel() for p in policy.network.parameters()),
    }


def line(name: str, row: Mapping[str, Any]) -> str:
    metrics = row["metrics"]
    cells = [text(metrics.get(key)) for key in ("success_rate", "strict_counterfactual", "paraphrase_retention")]
    p = "" if row["p"] is None else f"{row['p']:.2g}"
    return f"| {' | '.join([name, *cells, p])} | {row['samples_per_s']:.0f} | {row['parameters'] / 1e6:.2f} M |"


def text(metric: Mapping[str, Any] | None) -> str:
    if metric is None or metric["value"] is None:
        return "–"
    return f"{metric['value']:.1%} [{metric['low']:.1%}, {metric['high']:.1%}]"


if __name__ == "__main__":
    main()
