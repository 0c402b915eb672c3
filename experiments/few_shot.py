"""How many demonstrations something new needs: a policy trained on, by all its weights or by adapters, and a new network.

Run it as ``python experiments/few_shot.py outputs/full --start outputs/others/policy --tasks push``: `--tasks` are picked from
the demonstrations, so that one dataset of a suite serves every verb of it. An arm is METHOD-DEMONSTRATIONS, or
METHOD-DEMONSTRATIONS-SAMPLES where it has another budget than `--samples`. One line of JSON for each arm as it ends, then a
table and, with `--plot`, success over demonstrations. Called again it goes on. Several `--seeds` train each arm as often, each
on the same demonstrations, and count the scenes of all together.
"""

from __future__ import annotations

import os

os.environ.setdefault("LP_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

import verbot
from verbot.evaluation.protocol.intervals import Estimate, proportion
from verbot.evaluation.report.summary import format_estimate

LORA: dict[str, Any] = {"rank": 16, "alpha": 32.0}
METHODS: dict[str, tuple[str, dict[str, Any] | None]] = {
    "start": ("the start as it is", None),
    "scratch": ("a new network", None),
    "full": ("every weight of the start", {}),
    "new": ("the same, statistics of the new data", {"init.statistics": "new"}),
    "lora": ("adapters of linear layers", {"lora": LORA}),
    "conv": ("adapters of convolutions too", {"lora": {**LORA, "convolutions": True}}),
    "replay": ("every weight of the start, old samples among the new", {}),
    "trunks": ("adapters, convolutions in full", {"lora": {**LORA, "train": ["head.*", "vision.trunks.*"]}}),
}
COLORS = {
    "scratch": "#8a8f98",
    "full": "#1f6feb",
    "new": "#1f6feb",
    "lora": "#bf5af2",
    "conv": "#d9730d",
    "trunks": "#2da44e",
    "replay": "#0aa5a5",
}


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    data: tyro.conf.Positional[Path]
    start: str
    old: Path | None = None  # what the start was trained with, for the arms that replay
    known: tuple[str, ...] = ()  # the tasks of it that are replayed; all where none is named
    replayed: float = 0.5  # share of their samples that is of this
    out: Path = Path("outputs/few")
    suite: str = "tabletop-full"
    tasks: tuple[str, ...] = ("stack",)
    arms: tuple[str, ...] = ("start-0", *(f"{how}-{n}" for n in (50, 100, 200, 400) for how in ("full", "lora", "scratch")))
    samples: int = 20_000
    episodes: int = 100
    seeds: tuple[int, ...] = (0,)
    learning_rate: float = 1e-3  # of what begins with the start; from scratch the recipe's own
    plot: Path | None = None  # an SVG


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    rows = []
    for arm in arguments.arms:
        method, count, *samples = arm.split("-")
        budget = int(samples[0]) if samples else arguments.samples
        found = [measure(arguments, method, int(count), budget, seed) for seed in arguments.seeds]
        won, n = sum(row.pop("won") for row in found), sum(row.pop("n") for row in found)
        success = proportion([True] * won + [False] * (n - won))
        rows.append({"method": method, "demonstrations": int(count), **found[0], "success": success.to_json()})
        print(json.dumps(rows[-1]), flush=True)
    print("\n| method | demonstrations | samples | numbers trained | success |\n|---|---|---|---|---|")
    for row in rows:
        shown = format_estimate("success_rate", Estimate(**row["success"]))
        name = METHODS[row["method"]][0]
        print(f"| {name} | {row['demonstrations']} | {row['samples']} | {row['trained'] or row['parameters']} | {shown} |")
    if arguments.plot is not None:
        arguments.plot.write_text(drawn(rows))


def measure(arguments: Arguments, method: str, count: int, samples: int, seed: int) -> dict[str, Any]:
    """One arm, trained as far as it is not yet: how many of its scenes it won."""
    out = arguments.out / (f"{method}-{count}-{samples}" + (f"-seed-{seed}" if seed else ""))
    policy, record = arguments.start, {"samples": 0, "trained": 0, "parameters": 0}
    if method != "start":
        chosen = {"tasks": list(arguments.tasks), "episodes": count}
        settings: dict[str, Any] = {
            "selections": [chosen],
            "processes": 1,
            "samples": samples,
            "seed": seed,
            "checkpoint_every": 100,
        }
        if method != "scratch":
            settings |= {"init_from": arguments.start, "learning_rate": arguments.learning_rate, **(METHODS[method][1] or {})}
        data = [arguments.data]
        if method == "replay":
            if arguments.old is None:
                raise SystemExit(f"{method}-{count} replays what the start learned from: --old says where that is")
            data.append(arguments.old)
            known = {"tasks": list(arguments.known)} if arguments.known else {}
            settings |= {"selections": [chosen, known], "weights": [1 - arguments.replayed, arguments.replayed]}
        result = verbot.train("starter", data=data, out=out, progress=False, **settings)
        policy, record = result.policy, {name: getattr(result, name) for name in record}
    summary = verbot.evaluate(
        policy, arguments.suite, out=out / "evaluation", episodes=arguments.episodes, baselines=False, videos=0, conditions=(),
        latency_calls=1, workers=1, tasks=arguments.tasks, progress=False,
    )  # fmt: skip
    success = summary.metrics["success_rate"]
    return {**record, "won": round((success.value or 0.0) * success.n), "n": success.n}


def drawn(rows: list[dict[str, Any]]) -> str:
    """An SVG of success, with its interval, over demonstrations (logarithmic), a line for each method."""
    shown = [row for row in rows if row["demonstrations"]]
    low, high = min(r["demonstrations"] for r in shown) / 1.3, max(r["demonstrations"] for r in shown) * 1.3

    def x(count: float) -> float:
        return 60 + 560 * math.log(count / low) / math.log(high / low)

    def y(share: float) -> float:
        return 310 - 290 * share

    marks = [f'<line x1="60" x2="620" y1="{y(k / 5):.0f}" y2="{y(k / 5):.0f}" stroke="#d0d7de"/>' for k in range(6)]
    marks += [f'<text x="52" y="{y(k / 5) + 4:.0f}" text-anchor="end">{20 * k} %</text>' for k in range(6)]
    marks.append(f'<line x1="60" x2="620" y1="{y(0.8):.0f}" y2="{y(0.8):.0f}" stroke="#57606a" stroke-dasharray="5 4"/>')
    for count in sorted({row["demonstrations"] for row in shown}):
        marks.append(f'<text x="{x(count):.0f}" y="330" text-anchor="middle">{count}</text>')
    marks.append('<text x="340" y="352" text-anchor="middle">demonstrations</text>')
    for number, method in enumerate(dict.fromkeys(row["method"] for row in shown)):
        line, color = sorted((r for r in shown if r["method"] == method), key=lambda r: r["demonstrations"]), COLORS[method]
        points = [(x(row["demonstrations"]), row["success"]) for row in line]
        path = " ".join(f"{at:.1f},{y(s['value']):.1f}" for at, s in points)
        marks.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        for at, s in points:
            marks.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{y(s["low"]):.1f}" y2="{y(s["high"]):.1f}" stroke="{color}"/>')
            marks.append(f'<circle cx="{at:.1f}" cy="{y(s["value"]):.1f}" r="4" fill="{color}"/>')
        marks.append(f'<text x="640" y="{40 + 22 * number}" fill="{color}">{METHODS[method][0]}</text>')
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 860 364" font-family="sans-serif" font-size="13" fill="#57606a">'
        f'<rect width="860" height="364" fill="#ffffff"/>{"".join(marks)}</svg>\n'
    )


if __name__ == "__main__":
    main()
