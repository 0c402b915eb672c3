"""The accuracy of a language reward model in scenes and wordings that it was not trained on: its ranking and its success.

Run it as ``python experiments/language_reward.py outputs/reward_model.safetensors``; without the file it is trained first.
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
from verbot.envs.navigation.language import wordings
from verbot.evaluation.protocol.intervals import proportion
from verbot.models.reward_models.matcher import TrainedRewardModel
from verbot.training.rl.rewards.train_reward_model import (
    DescribedEpisode,
    RewardModelConfig,
    contradict,
    describe_episodes,
    train_reward_model,
)


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    reward_model: tyro.conf.Positional[Path]
    episodes: int = 300
    wording: str = "seen"  # or "unseen"
    training: RewardModelConfig = field(default_factory=RewardModelConfig)


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    torch.set_num_threads(1)
    if not arguments.reward_model.is_file():
        arguments.reward_model.parent.mkdir(parents=True, exist_ok=True)
        train_reward_model(arguments.training, checkpoint=arguments.reward_model.with_suffix(".checkpoint")).save(
            arguments.reward_model, to_plain(arguments.training)
        )
    unseen = describe_episodes(replace(arguments.training, episodes=arguments.episodes), split="test")
    print(json.dumps(measure(arguments, unseen), indent=1))


def measure(arguments: Arguments, episodes: list[DescribedEpisode]) -> dict[str, Any]:
    """Shares with 95 % intervals: of episodes whose end is judged done for their own sentence; of ends judged done for a goal
    that contradicts it; of episodes whose end fits their own sentence better than any such; of states before the end judged done;
    of pairs of states of an episode, at least five steps apart, of which the later is nearer."""
    model, rng = TrainedRewardModel(str(arguments.reward_model)), np.random.default_rng(0)
    found: dict[str, list[bool]] = {}

    def note(name: str, values: list[bool]) -> None:
        found.setdefault(name, []).extend(values)

    for episode in episodes:
        others = [goal for goal, _ in episode.offered if contradict(goal, episode.goal)]
        if arm := episode.goal.get("arm"):
            others.append({**episode.goal, "arm": {"raised": "lowered", "lowered": "raised"}[arm]})
        said = []
        for goal in (episode.goal, *others):
            ways = wordings(goal, arguments.wording)
            said.append(ways[int(rng.integers(len(ways)))])
        done = model.score([episode.states[-1]] * len(said), said)[:, 1]
        note("an end is done for its own sentence", [bool(done[0] > 0.5)])
        note("an end is done for a sentence that asks for something else", (done[1:] > 0.5).tolist())
        if episode.goal.get("arm"):
            note("an end is done for its sentence with the other arm position", [bool(done[-1] > 0.5)])
        note("an end fits its own sentence best", [bool(done[0] > done[1:].max())])
        note("the state before the end is done", [bool(model.score([episode.states[-2]], said[:1])[0, 1] > 0.5)])
        if len(episode.states) > 6:
            first = int(rng.integers(len(episode.states) - 5))
            second = int(rng.integers(first + 5, len(episode.states)))
            early, late = model.score([episode.states[first], episode.states[second]], said[:1] * 2)[:, 0]
            note("the later of two states is nearer", [bool(late > early)])
    return {name: {"n": len(values), "percent": proportion(values).percent()} for name, values in found.items()}


if __name__ == "__main__":
    main()
