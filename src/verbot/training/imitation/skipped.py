"""Steps without a finite loss: how many a run may skip."""

from __future__ import annotations

from verbot.errors import TrainingError
from verbot.training import checkpoint
from verbot.training.distributed.fsdp import Sharded
from verbot.training.distributed.shards import Shard
from verbot.training.imitation.records import OptimizerConfig
from verbot.training.imitation.session import CHECKPOINTS, TrainingSession
from verbot.training.log import Log

ROLL_BACK_AFTER = 10  # steps in a row without a finite loss
MOST_SKIPPED, FEW = 0.1, 2  # of all steps, or this many in a short run: a policy that learned from less is not declared trained


def roll_back(session: TrainingSession, log: Log, config: OptimizerConfig) -> None:
    """Restore the latest checkpoint and raise `TrainingError`: the loss stays non-finite."""
    sharded = isinstance(session.optimizer.held, Sharded)
    shard = Shard(session.process_group.rank, session.process_group.size) if sharded else None
    latest = checkpoint.load_latest(session.out / CHECKPOINTS, shard, session.process_group)
    step = latest[0].step if latest else 0
    if latest:
        session.optimizer.restore(latest[1], latest[0].layout)
    log.record("rolled back", session.state.step, to=step)
    raise TrainingError(
        f"the loss was not a finite number for {ROLL_BACK_AFTER} steps in a row, up to step {session.state.step}; rolled back to "
        f"the checkpoint of step {step}. {_remedy(config)}"
    )


def check_skipped(session: TrainingSession, log: Log, config: OptimizerConfig, steps: int | None) -> None:
    """Raise `TrainingError` if more than `MOST_SKIPPED` of the run's `steps` were skipped; None if they are not known yet."""
    state = session.state
    if steps is None or state.skipped <= max(MOST_SKIPPED * steps, FEW):
        return
    session.save()
    log.record("too many skipped", state.step, skipped=state.skipped)
    raise TrainingError(
        f"the loss was not a finite number in {state.skipped} of {state.step} steps, which is more than {MOST_SKIPPED:.0%} "
        f"of a run of {steps}; no policy was written. {_remedy(config)}"
    )


def _remedy(config: OptimizerConfig) -> str:
    return (
        "Look for broken samples with `verbot data check`, or restart training in another folder with a lower learning_rate "
        f"(now {config.learning_rate:g}) or clip_norm (now {config.clip_norm:g})."
    )
