"""The result of a run of imitation learning."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainResult:
    """The result of a run, also written to ``result.json``.

    Args:
        policy: the directory of the trained policy.
        steps, samples: completed in total.
        seconds: training time over all sessions.
        loss: the mean over the last steps; `validation_loss` of the saved weights, None without validation.
        skipped: steps without a finite loss.
        corrections: completed rounds of expert corrections.
        finished: False if `stop_at` ended the run; there is no policy yet.
        trained: number of trained parameters; `parameters` is the number of all.
    """

    policy: str
    steps: int
    samples: int
    seconds: float
    loss: float | None
    validation_loss: float | None
    skipped: int
    corrections: int
    finished: bool
    trained: int = 0
    parameters: int = 0

    @property
    def samples_per_s(self) -> float:
        return self.samples / max(self.seconds, 1e-9)
