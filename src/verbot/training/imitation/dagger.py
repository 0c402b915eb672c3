"""Corrections by the expert on the policy's own mistakes (after Ross et al. 2011, DAgger).

The policy acts for a random number of steps, then the expert takes over and finishes the episode; its part is recorded. So
the frames begin in states that the policy itself brings about, and every label is a whole chunk that one hand really executes.
Labeling the policy's own frames one by one, as the paper does, would make chunks of answers to states that no single chunk
passes through: at a hover that never descends, ten times "down".
"""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verbot.configuration import to_plain
from verbot.data import DatasetWriter, open_dataset
from verbot.envs import make_env
from verbot.errors import TrainingError
from verbot.policy.policy import Policy
from verbot.rollout.collect import attempts, stamped
from verbot.training.imitation.records import DaggerConfig

if TYPE_CHECKING:
    from verbot.training.checkpoint import Progress
    from verbot.training.distributed.process_group import ProcessGroup
    from verbot.training.log import Log


def folder(out: Path, number: int) -> Path:
    """The dataset of a round's corrections."""
    return out / "corrections" / f"round-{number + 1}"


def due(config: DaggerConfig, now: Progress) -> bool:
    """Whether the next round happens before the next step."""
    spread = (config.last - config.first) / max(1, config.rounds - 1)
    return now.rounds < config.rounds and now.done + 1e-9 >= config.first + spread * now.rounds


def gather(
    config: DaggerConfig,
    policy: Policy,
    out: Path,
    now: Progress,
    process_group: ProcessGroup,
    log: Log,
    *,
    seed: int,
    workers: int,
) -> None:
    """Fill `folder` with the corrections of this round; an interrupted round continues where it was.

    The leader gathers with worker processes while the followers wait.
    """
    if process_group.is_main:
        policy.network.eval()
        snapshot = out / "corrections" / "policy"
        policy.save(snapshot)
        briefing = {"config": to_plain(config), "seed": seed, "policy": str(snapshot), "round": now.rounds}
        record = _gather(config, briefing, folder(out, now.rounds), workers)
        shutil.rmtree(snapshot)
        log.record("corrections", now.step, **record)
    process_group.broadcast()


def _gather(config: DaggerConfig, briefing: dict[str, Any], path: Path, workers: int) -> dict[str, int]:
    number = briefing["round"]
    with closing(make_env(config.env, **config.options)) as env:
        spec = env.robot_spec
    saved, tried, won = 0, 0, 0
    if path.exists():
        dataset = open_dataset(path)
        saved = len(dataset)
        last = dataset[saved - 1].extras["collection"] if saved else {"attempt": -1, "won": 0}
        tried, won = last["attempt"] + 1, last["won"]
    limit = 6 * config.episodes + 20  # many attempts end before the expert is asked: the policy succeeded
    indices = range(tried, limit if saved < config.episodes else tried)
    with DatasetWriter(path, spec) as writer:
        for attempt in attempts(briefing, indices, workers, "verbot.training.imitation.dagger_worker"):
            tried, won = attempt.index + 1, won + attempt.over
            if attempt.record is not None:
                writer.save_episode(stamped(attempt.record, attempt=attempt.index, won=won, round=number + 1))
                saved += 1
            if saved == config.episodes:
                break
    if not saved:
        raise TrainingError(f"round {number + 1} of corrections gathered nothing in {tried} attempts")
    return {"episodes": saved, "attempts": tried, "over_before_the_expert": won}
