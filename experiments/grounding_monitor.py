"""How often the grounding monitor warns, for instructions that match the scene and for instructions that do not.

Run it as ``python experiments/grounding_monitor.py outputs/contrastive/policy``, where the policy has a contrastive objective.
In each scene of the test split the policy acts on an instruction that matches the scene, and on the same instruction with one
object replaced by an absent one.
"""

from __future__ import annotations

import os

os.environ.setdefault("LP_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import itertools
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import tyro

import verbot
from verbot.agents import ChunkAgent, GroundingMonitor, Misalignment
from verbot.envs import make_env
from verbot.evaluation.protocol.intervals import wilson
from verbot.evaluation.report.summary import format_estimate
from verbot.rollout.episode import EpisodeRunner, play
from verbot.spec import ActionChunk


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    policy: tyro.conf.Positional[str]
    suite: str = "tabletop-starter"
    scenes: int = 150
    seconds: float = 1.0
    patience: int = 5
    threshold: float = 0.3


class RecordingPolicy:
    """A policy that records its similarities of image and instruction."""

    def __init__(self, policy: verbot.Policy):
        self.policy, self.spec, self.cosines = policy, policy.spec, list[float]()

    def predict(self, observations: Sequence[verbot.Observation]) -> list[ActionChunk]:
        chunks = self.policy.predict(observations)
        self.cosines += [chunk.extras["alignment"] for chunk in chunks]
        return chunks


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    recording = RecordingPolicy(verbot.load_policy(arguments.policy))
    warned: dict[str, list[bool]] = {"true": [], "false": []}
    means: dict[str, list[float]] = {"true": [], "false": []}
    with closing(make_env(arguments.suite, captions=8)) as env:
        index = 20_000
        while len(warned["false"]) < arguments.scenes:
            captions = EpisodeRunner(env, {"split": "test", "index": index}).info["captions"]
            pairs = [c for c in captions if c["kind"] == "instruction"][:1]
            for pair, side in itertools.product(pairs, warned):
                events: list[Misalignment] = []
                agent = GroundingMonitor(
                    ChunkAgent(recording), arguments.threshold, arguments.patience, arguments.seconds, events.append
                )
                recording.cosines.clear()
                steps = round(arguments.seconds * env.robot_spec.rate_hz)
                for _ in itertools.islice(play(env, agent, {"split": "test", "index": index, "text": pair[side]}), steps):
                    pass
                warned[side].append(bool(events))
                means[side].append(float(np.mean(recording.cosines)))
            index += 1
    true, false = (np.array(means[side]) for side in ("true", "false"))
    result = {f"warned_when_{side}": wilson(sum(found), len(found)).to_json() for side, found in warned.items()}
    area = float(((true[:, None] > false) + 0.5 * (true[:, None] == false)).mean())
    print(json.dumps({**result, "auc_of_mean": area, "means": [float(true.mean()), float(false.mean())]}))
    print("\n| warn below | what is there | what is not |\n|---|---|---|")
    for threshold in np.arange(-0.3, 0.75, 0.1):
        rates = (wilson(int((x < threshold).sum()), len(x)) for x in (true, false))
        print(f"| {threshold:.1f} | " + " | ".join(format_estimate("success_rate", rate) for rate in rates) + " |")


if __name__ == "__main__":
    main()
