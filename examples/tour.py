"""The public API once around: collect, look, train, predict, act, measure. Everything tiny, so the robot learns nothing.

Run it: python examples/tour.py [FOLDER]
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import verbot
from verbot.agents import ChunkAgent
from verbot.rollout.episode import EpisodeRunner


def main(folder: Path, recipe: str = "tiny") -> float | None:
    """Returns the success rate (of a policy that was trained for seconds)."""
    # Demonstrations by the scripted expert; the same call continues after an interruption.
    verbot.collect("tabletop-starter", folder / "demos", 4, workers=1, options={"image_size": 32}, progress=False)
    dataset = verbot.open_dataset(folder / "demos")
    episode = dataset[0]
    print(f"{len(dataset)} episodes; the first: {episode.instruction!r}, {episode.actions.shape[0]} frames")
    print("front camera:", episode.images("front").shape, "state:", episode.states.shape)

    result = verbot.train(recipe, out=folder / "run", data=folder / "demos", progress=False)
    policy = verbot.load_policy(result.policy)

    env = verbot.make_env("tabletop-starter", image_size=32)
    under_way, agent = EpisodeRunner(env, {"task": "pick"}), ChunkAgent(policy)
    (chunk,) = policy.predict([under_way.observation])
    print(f"{under_way.instruction!r}: it plans {len(chunk.values)} steps; the first: {chunk.values[0].round(3)}")
    agent.reset(under_way.instruction)
    for step in itertools.islice(under_way.run(agent), 5):
        print(f"at {step.observation.time_s:.1f} s it does {step.action.round(3)}")
    env.close()

    summary = verbot.evaluate(
        result.policy,
        out=folder / "evaluation",
        episodes=2,
        conditions=(),
        baselines=False,
        videos=0,
        workers=1,
        options={"image_size": 32},
        progress=False,
    )
    print(summary.table())
    return summary.metrics["success_rate"].value


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/tour"))
