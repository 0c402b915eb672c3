"""Grounding of referring expressions among similar objects, by relation, in unseen scenes; and what graph nodes detect.

Run it as ``python experiments/referring_expressions.py outputs/graph/policy``. The policy is given the instruction of every goal
of a scene, with the scene's first image. The object nearest to the predicted target keypoint counts as its interpretation. This
does not measure success in closed loop. Goals of one scene are not independent, which makes the intervals too narrow.
"""

from __future__ import annotations

import json
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from verbot.contracts import Env, observation_from_env
from verbot.data.samples.keypoints import project, projections
from verbot.envs import make_env
from verbot.evaluation.protocol.intervals import wilson
from verbot.models.layers.attention_maps import watch_groups
from verbot.models.protocols import ExposesAttention
from verbot.policy.policy import VLAPolicy
from verbot.spec import Observation

NEAR_PX = 3.0


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    policy: tyro.conf.Positional[Path]
    env: str = "tabletop-relations"
    scenes: int = 120
    seed: int = 0
    wording: int = 0  # index into the wordings of each goal
    out: Path | None = None  # writes the figures as JSON


def main() -> None:
    arguments = tyro.cli(Arguments)
    policy = VLAPolicy.load(arguments.policy)
    found: dict[str, list[bool]] = defaultdict(list)
    with closing(make_env(arguments.env)) as env:
        for index in range(arguments.scenes):
            ask(policy, env, index, arguments, found)
    figures = {}
    for name, values in found.items():
        estimate = wilson(sum(values), len(values))
        figures[name] = estimate.to_json()
        print(f"{name:32s} {estimate.value:6.1%} [{estimate.low:.1%}, {estimate.high:.1%}], n={estimate.n}")
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def ask(policy: VLAPolicy, env: Env, index: int, arguments: Arguments, found: dict[str, list[bool]]) -> None:
    """Give the policy the instructions of all goals of one scene; add to `found`, by relation, whether it grounds them right."""
    options = {"split": "test", "index": index, "wording": "canonical"}
    record, info = env.reset(seed=arguments.seed, options=options)
    first, spec = observation_from_env(record), env.robot_spec
    width = first.images["front"].shape[1]
    matrices = projections(first.state[None], spec, info["calibration"], ("front",))
    objects = list(env.physics.layout)  # type: ignore[attr-defined]
    middles = project(matrices, np.array([[obj.middle_m for obj in objects]]))[0][0, 0]  # (n, 2)
    observations = [
        Observation(first.images, first.state, where["instructions"][arguments.wording], time_s=first.time_s)
        for where in info["grounding"]
    ]
    backbone = policy.network.backbone
    if not isinstance(backbone, ExposesAttention):
        raise SystemExit(f"{arguments.policy}: its backbone has no fusion whose groups can be watched")
    with watch_groups(backbone.attention_modules()[2]) as given:
        chunks = policy.predict(observations)
    for goal, where, chunk in zip(info["feasible"], info["grounding"], chunks, strict=True):
        target = project(matrices, np.array([[where["target_base_m"]]]))[0][0, 0, 0]
        meant = np.linalg.norm(middles - target, axis=-1).argmin()
        taken = np.linalg.norm(middles - chunk.extras["keypoints"][0, 0], axis=-1).argmin()
        for name in ("all", goal.get("relation", "named alone")):
            found[name].append(bool(meant == taken))
    nodes = next((group for group in given[0] if group.kind == "objects"), None)
    if nodes is not None and nodes.points is not None:
        points = nodes.points[0].unflatten(0, (len(spec.cameras), -1))[0].cpu().numpy()
        away = np.linalg.norm(middles[:, None] - points[None], axis=-1).min(1) * width / 2
        found[f"objects with a node in {NEAR_PX:g} px"] += (away < NEAR_PX).tolist()


if __name__ == "__main__":
    main()
