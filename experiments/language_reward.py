"""What a scorer of states in words is worth: how well it ranks and judges, in scenes and wordings that it was not taught by.

Run it as ``python experiments/language_reward.py outputs/scorer.safetensors``; without the file it is trained first.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from verbot.configuration import to_plain
from verbot.envs import make_env
from verbot.evaluation.protocol.intervals import proportion
from verbot.models.reward_models.matcher import TrainedScorer
from verbot.training.rl.rewards.train_reward_model import ScorerConfig, Watched, contradict, train_scorer, watch


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    scorer: tyro.conf.Positional[Path]
    episodes: int = 300
    wording: str = "seen"  # or "unseen"
    taught: ScorerConfig = field(default_factory=ScorerConfig)


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    torch.set_num_threads(1)
    if not arguments.scorer.is_file():
        arguments.scorer.parent.mkdir(parents=True, exist_ok=True)
        train_scorer(arguments.taught, checkpoint=arguments.scorer.with_suffix(".checkpoint")).save(
            arguments.scorer, to_plain(arguments.taught)
        )
    unseen = watch(replace(arguments.taught, episodes=arguments.episodes), split="test")
    print(json.dumps(measure(arguments, unseen), indent=1))


def measure(arguments: Arguments, episodes: list[Watched]) -> dict[str, Any]:
    """Shares with 95 % intervals: of episodes whose end is judged done for their own sentence; of ends judged done for a goal
    that contradicts it; of episodes whose end fits their own sentence better than any such; of states before the end judged done;
    of pairs of states of an episode, at least five steps apart, of which the later is nearer."""
    scorer, rng = TrainedScorer(str(arguments.scorer)), np.random.default_rng(0)
    env = make_env(arguments.taught.env)
    found: dict[str, list[bool]] = {}

    def note(name: str, values: list[bool]) -> None:
        found.setdefault(name, []).extend(values)

    for episode in episodes:
        others = [goal for goal, _ in episode.offered if contradict(goal, episode.goal)]
        if arm := episode.goal.get("arm"):
            others.append({**episode.goal, "arm": {"raised": "lowered", "lowered": "raised"}[arm]})
        said = []
        for goal in (episode.goal, *others):
            ways = env.wordings(goal, arguments.wording)
            said.append(ways[int(rng.integers(len(ways)))])
        done = scorer.score([episode.states[-1]] * len(said), said)[:, 1]
        note("an end is done for its own sentence", [bool(done[0] > 0.5)])
        note("an end is done for a sentence that asks for something else", (done[1:] > 0.5).tolist())
        if episode.goal.get("arm"):
            note("an end is done for its sentence with the other arm position", [bool(done[-1] > 0.5)])
        note("an end fits its own sentence best", [bool(done[0] > done[1:].max())])
        note("the state before the end is done", [bool(scorer.score([episode.states[-2]], said[:1])[0, 1] > 0.5)])
        if len(episode.states) > 6:
            first = int(rng.integers(len(episode.states) - 5))
            second = int(rng.integers(first + 5, len(episode.states)))
            early, late = scorer.score([episode.states[first], episode.states[second]], said[:1] * 2)[:, 0]
            note("the later of two states is nearer", [bool(late > early)])
    return {
        name: {"n": len(values), "percent": [round(100 * x, 1) for x in (e.value, e.low, e.high)]}
        for name, values in found.items()
        if (e := proportion(values))
    }


if __name__ == "__main__":
    main()
