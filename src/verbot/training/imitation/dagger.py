"""Expert corrections of the policy's own mistakes (DAgger, after Ross et al. 2011).

The policy acts for a random number of steps, then the expert takes over and completes the episode. Only the expert's part is
recorded. So training includes states that the policy reaches, and every label is a chunk that was executed as a whole. The paper
instead labels each state of the policy. That is worse for chunks: if the policy hovers above an object, all labels are "down".
"""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from verbot.data import DatasetWriter, open_dataset
from verbot.envs import make_env
from verbot.errors import TrainingError
from verbot.folders import is_blank
from verbot.policy.policy import VLAPolicy
from verbot.rollout.collect import demonstrations, stamped
from verbot.training.imitation.dagger_worker import CorrectionSetup
from verbot.training.imitation.records import DaggerConfig

if TYPE_CHECKING:
    from verbot.training.checkpoint import TrainingProgress
    from verbot.training.distributed.process_group import ProcessGroup
    from verbot.training.log import Log


def folder(out: Path, number: int) -> Path:
    """The folder of the corrections of a round."""
    return out / "corrections" / f"round-{number + 1}"


def due(config: DaggerConfig, state: TrainingProgress) -> bool:
    """Whether the next round is due before the next step."""
    spread = (config.last - config.first) / max(1, config.rounds - 1)
    return state.rounds < config.rounds and state.done + 1e-9 >= config.first + spread * state.rounds


def collect_dagger_round(
    config: DaggerConfig,
    policy: VLAPolicy,
    out: Path,
    state: TrainingProgress,
    process_group: ProcessGroup,
    log: Log,
    *,
    seed: int,
    workers: int,
) -> None:
    """Collect the corrections of this round into `folder`; an interrupted round resumes.

    The main rank collects with worker processes while the others wait.
    """
    if process_group.is_main:
        policy.network.eval()
        snapshot = out / "corrections" / "policy"
        policy.save(snapshot)
        setup = CorrectionSetup(config, seed, str(snapshot), state.rounds)
        record = _collect(config, setup, folder(out, state.rounds), workers)
        shutil.rmtree(snapshot)
        log.record("corrections", state.step, **record)
    process_group.broadcast()


def _collect(config: DaggerConfig, setup: CorrectionSetup, path: Path, workers: int) -> dict[str, int]:
    with closing(make_env(config.env, **config.options)) as env:
        spec = env.robot_spec
    saved, attempts, successes = 0, 0, 0
    if not is_blank(path):
        dataset = open_dataset(path)
        saved = len(dataset)
        last = dataset[saved - 1].extras["collection"] if saved else {"attempt": -1, "won": 0}
        attempts, successes = last["attempt"] + 1, last["won"]
    limit = 6 * config.episodes + 20  # many episodes end before the expert acts, because the policy succeeds
    indices = range(attempts, limit if saved < config.episodes else attempts)
    with DatasetWriter(path, spec) as writer, closing(demonstrations(setup, indices, workers)) as corrections:
        for correction in corrections:
            attempts, successes = correction.index + 1, successes + correction.over
            if correction.record is not None:
                writer.save_episode(stamped(correction.record, attempt=correction.index, won=successes, round=setup.round + 1))
                saved += 1
            if saved == config.episodes:
                break
    if not saved:
        raise TrainingError(f"round {setup.round + 1} of corrections collected nothing in {attempts} attempts")
    return {"episodes": saved, "attempts": attempts, "over_before_the_expert": successes}
