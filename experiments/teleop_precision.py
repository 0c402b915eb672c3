"""Whether keys, or two sticks of eight bits, are enough to teach with: the expert's hands on the page's own messages.

The env's expert decides at every control step, and a script turns that into what a gamepad or a keyboard would send, over a real
websocket to the real server, in lockstep instead of real time. So this bounds the way from hand to robot; it is no person.

Run it: python experiments/teleop_precision.py --by keyboard --scenes 200
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "teleop"))
from scripted import Expert, KeyboardExpert, after, config, demonstrate, ready, teleop_session

from verbot.data import open_dataset
from verbot.evaluation.protocol.intervals import proportion
from verbot.evaluation.report.summary import format_estimate

HANDS = {"gamepad": Expert, "keyboard": KeyboardExpert}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--by", choices=HANDS, default="gamepad")
    parser.add_argument("--suite", default="tabletop-starter")
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    won: list[tuple[str, bool]] = []

    def script(page: Any, env: Any) -> None:
        state = ready(page)
        for _ in range(options.scenes):
            verb = state["goal"]["verb"]
            state = demonstrate(page, env, state, HANDS[options.by])
            won.append((verb, state["success"]))
            state = after(page, "save" if state["success"] else "discard")
        after(page, "quit")

    settings = config(
        env=options.suite, by=options.by, tasks=None, options={"image_size": 16, "max_seconds": options.seconds}, seed=1
    )
    with tempfile.TemporaryDirectory() as folder:
        with teleop_session(Path(folder) / "demos", script, settings):
            seconds = [len(episode) / 10 for episode in open_dataset(Path(folder) / "demos")]
    success = proportion([success for _, success in won])
    print(f"{options.by}, {options.suite}: {format_estimate('success_rate', success)}, n = {success.n}")
    print("failed:", dict(Counter(verb for verb, success in won if not success)) or "none")
    print(f"seconds of a success: median {np.median(seconds):.1f}, longest {max(seconds):.1f}")


if __name__ == "__main__":
    main()
