"""Trains the corrector of a policy, which itself stays as it is: from what it predicted k steps ago to what was done now."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from verbot.configuration import dump_yaml
from verbot.data import Mixture, Windows
from verbot.data.storage.joining import spec_difference
from verbot.errors import ConfigError, TrainingError
from verbot.files import hold, write_atomic
from verbot.models.corrector import CorrectorConfig, CorrectorNetwork
from verbot.models.registries import Objective
from verbot.parallel.progress import Progress
from verbot.policy.corrector import new_corrector
from verbot.policy.policy import VLAPolicy
from verbot.ranges import FRACTION, SEED, check_ranges
from verbot.spec import Int64Array
from verbot.training.distributed.optimizer import Optimizer, learning_rate
from verbot.training.imitation.augment import augment, jitter_colors, numbers, torch_numbers
from verbot.training.imitation.config import TrainConfig
from verbot.training.imitation.data import TrainingData
from verbot.training.imitation.records import (
    AugmentConfig,
    BudgetConfig,
    DataConfig,
    InitConfig,
    OptimizerConfig,
    ScheduleConfig,
    ValidationConfig,
)
from verbot.training.log import BUSY, Log

CONFIG, RESULT, POLICY = "config.yaml", "result.json", "policy"
MINUTES = 8.0
BLOCK = 256  # frames that are predicted at once
LOG_EVERY = 100
CHECKED = 1024  # held-out frames for each lag of a validation


@dataclass(frozen=True)
class CorrectorTraining:
    """A complete training of a corrector.

    Args:
        policy: the folder of the policy, or ``"starter"``.
        data: the datasets, best those that the policy was trained on.
        budget: how long it is.
        network: the size of the corrector.
        augment: of what the robot sees now; instructions and missing cameras are left alone.
        optimizer, schedule: as in `TrainConfig`.
        validation: the share of episodes that is held out.
        blind: the first share of the training goes without pictures, whose steps cost several times less.
        seed: every random number is a function of it and the step.
    """

    policy: str
    data: DataConfig
    budget: BudgetConfig = field(default_factory=lambda: BudgetConfig(minutes=MINUTES))
    network: CorrectorConfig = field(default_factory=CorrectorConfig)
    augment: AugmentConfig = field(default_factory=lambda: AugmentConfig(blank_instruction=0.0))
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(learning_rate=2e-3))
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    blind: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        check_ranges(self, seed=SEED, blind=FRACTION)


@dataclass(frozen=True)
class CorrectorResult:
    """What a training of a corrector found, also written to ``result.json``.

    Args:
        policy: the folder of the policy with its corrector.
        steps, samples, seconds: of training.
        parameters: of the corrector.
        loss: the mean over the last steps.
        errors: by k, on held-out frames: mean errors of row k of the chunk that was predicted k steps ago, ``(as predicted,
            corrected)``; empty without held-out episodes.
    """

    policy: str
    steps: int
    samples: int
    seconds: float
    parameters: int
    loss: float
    errors: dict[str, tuple[float, float]]

    def table(self) -> str:
        lines = [f"{self.steps} steps, {self.samples} samples in {self.seconds:.0f} s, {self.parameters:,} weights"]
        if self.errors:
            lines.append(f"{'steps late':>10} {'error as predicted':>20} {'corrected':>10}")
        lines += [f"{k:>10} {before:>20.4f} {after:>10.4f}" for k, (before, after) in self.errors.items()]
        return "\n".join([*lines, self.policy])


class EarlierChunks:
    """What the policy predicts from every frame of some windows: kept in memory, (k · a + l) numbers a frame.

    Args:
        sources: windows of whole episodes.
    """

    def __init__(self, policy: VLAPolicy, sources: Sequence[Windows], seed: int, title: str, show: bool):
        self.mixture = Mixture(tuple(sources))
        count, chunks, latents = len(self.mixture), list[Tensor](), list[Tensor]()
        draws = numbers(seed, 7).random((count, 3))
        frames = [source.locate(np.arange(len(source)))[1] for source in sources]
        self._frames: Int64Array = np.concatenate(frames)
        with Progress(title, count, "frames", enabled=show) as bar, torch.inference_mode():
            for first in range(0, count, BLOCK):
                rows = np.arange(first, min(first + BLOCK, count))
                batch = policy.collate(self.mixture.gather(rows, draws[rows]))
                output = policy.network.predict(batch, torch_numbers(seed, 8, first))
                actions = policy.action_transform.inverse(output.actions.cpu().numpy())
                chunks.append(torch.from_numpy(policy.action_transform.forward(actions).astype(np.float32)))
                latents.append(policy.latents(batch, output).cpu().half())
                bar.update(int(rows[-1]) + 1)
        self.chunks, self.latents = torch.cat(chunks).clone(), torch.cat(latents).clone()

    def __len__(self) -> int:
        return len(self._frames)

    def late(self, frames: Int64Array, draws: np.ndarray) -> Int64Array:
        """How late the chunk is in each of these frames: uniform from 0 to the length of a chunk, or the begin of the episode."""
        most = np.minimum(self._frames[frames], self.chunks.shape[1] - 1)
        return (draws * (most + 1)).astype(np.int64)

    def known(self, k: int) -> Int64Array:
        """The frames that have one `k` steps before."""
        return np.flatnonzero(self._frames >= k)


def train_corrector(config: CorrectorTraining, out: Path, progress: bool = True, card: str = "") -> CorrectorResult:
    """Train a corrector for a policy; writes the policy with it into ``out/policy``, ``config.yaml``, ``log.jsonl`` and
    ``result.json``.

    Each sample is a frame t and a number k < chunk: the chunk and the latent of the frame t − k, the pictures and the state of
    the frame t, and the action that was demonstrated at t, which row k of the chunk, corrected, is compared with.

    Raises `ConfigError` for a policy without a chunk, with a memory, or of another robot than the data; `TrainingError` if the
    loss is not finite.
    """
    policy = VLAPolicy.load(config.policy)
    policy.attach(None)
    if policy.config.chunk < 2:
        raise ConfigError(f"{config.policy} predicts one action at a time, so that none is late: train it with chunk=16")
    if policy.config.ahead:
        raise ConfigError(
            f"{config.policy} already knows where the robot will be (ahead), and its chunks begin then: use the method 'ahead'"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = new_corrector(policy.network, config.network)
    with hold(out, BUSY):
        dump_yaml(config, out / CONFIG)
        shown = _reading(config, policy)
        TrainingData.prepare(shown, show_progress=progress)
        with TrainingData(shown, out, 0, 0) as data:
            if (found := spec_difference(policy.spec, data.spec, (config.policy, "the data"))) is not None:
                raise ConfigError(f"{config.policy} and the data are of different robots: {found}")
            learned = EarlierChunks(policy, data.training_windows, config.seed, "predict", progress)
            held_out = [w for w in data.validation_windows if len(w)]
            checked = EarlierChunks(policy, held_out, config.seed, "predict held-out", progress) if held_out else None
            result = _run(config, policy, network, (learned, checked), out, progress)
        policy.attach(network)
        policy.save(out / POLICY, card=card)
        write_atomic(out / RESULT, json.dumps(dataclasses.asdict(result), indent=1) + "\n")
    return result


def _reading(config: CorrectorTraining, policy: VLAPolicy) -> TrainConfig:
    """The data as the policy reads them, without what only its own objectives need."""
    network = dataclasses.replace(policy.config, objectives={"action": Objective()})
    init = InitConfig(init_from=config.policy)
    return TrainConfig(
        config.data,
        config.budget,
        network,
        policy.preprocessing,
        init,
        config.augment,
        validation=config.validation,
        seed=config.seed,
    )


def _run(
    config: CorrectorTraining,
    policy: VLAPolicy,
    network: CorrectorNetwork,
    chunks: tuple[EarlierChunks, EarlierChunks | None],
    out: Path,
    show: bool,
) -> CorrectorResult:
    learned, checked = chunks
    optimizer, budget, size = Optimizer(network, config.optimizer), config.budget, config.data.batch_size
    total = budget.steps if budget.samples is None else max(1, budget.samples // size)
    started, step, losses, last = time.monotonic(), 0, list[float](), float("nan")
    with Log(out, -1, total, show) as log:
        while (done := _done(budget, total, step, time.monotonic() - started)) < 1:
            optimizer.held.zero_grad()
            network.train()
            rng = numbers(config.seed, 9, step)
            frames = rng.integers(len(learned), size=size)
            late, sees = learned.late(frames, rng.random(size)), done >= config.blind
            loss = _errors(config, policy, network, learned, frames, late, _Augmented(step, sees))[1].mean()
            loss.backward()
            optimizer.step(learning_rate(config.optimizer.learning_rate, config.schedule, step, done))
            step += 1
            losses.append(float(loss.detach()))
            if not np.isfinite(losses[-1]):
                raise TrainingError(f"the loss of the corrector is {losses[-1]} at step {step}: choose a lower learning rate")
            if step % LOG_EVERY == 0:
                last, losses = float(np.mean(losses)), []
                log.record("train", step, loss=last)
                log.advance(step, total, f"loss {last:.4f}")
        seconds = time.monotonic() - started
        with optimizer.averaged():
            network.eval()
            errors = {} if checked is None else _validate(config, policy, network, checked)
            for k, (before, after) in errors.items():
                log.record("validation", step, late=int(k), as_predicted=before, corrected=after)
    optimizer.held.show(optimizer.average)
    weights = sum(p.numel() for p in network.parameters())
    last = float(np.mean(losses)) if losses else last
    return CorrectorResult(str(out / POLICY), step, step * size, round(seconds, 1), weights, last, errors)


def _done(budget: BudgetConfig, total: int | None, step: int, seconds: float) -> float:
    """The share of the training that is over."""
    return step / total if total is not None else seconds / (60 * (budget.minutes or 1.0))


@dataclass(frozen=True)
class _Augmented:
    """How pictures are changed in training: as a function of the step, or left out if the corrector does not see."""

    step: int
    sees: bool


def _errors(
    config: CorrectorTraining,
    policy: VLAPolicy,
    network: CorrectorNetwork,
    known: EarlierChunks,
    frames: Int64Array,
    late: Int64Array,
    augmented: _Augmented | None = None,
) -> tuple[Tensor, Tensor]:
    """Errors (b, r) of the rows that are due in `frames`, as predicted `late` steps before and corrected."""
    windows = known.mixture.gather(frames, np.zeros((len(frames), 3)))
    windows = dataclasses.replace(windows, instructions=[""] * len(windows))
    if augmented is not None and augmented.sees:
        windows = augment(windows, config.augment, numbers(config.seed, 10, augmented.step))
    batch = policy.collate(windows).to("cpu")
    images, mask = batch.images[:, -1:], batch.images_mask[:, -1]
    if augmented is not None and augmented.sees:
        images = jitter_colors(images, config.augment, torch_numbers(config.seed, 11, augmented.step))
    elif augmented is not None:
        mask = torch.zeros_like(mask)
    before, row = torch.from_numpy(frames - late), torch.from_numpy(late)
    chunks, latents = known.chunks[before], known.latents[before].float()
    assert batch.actions is not None
    true, base = batch.actions[:, 0], chunks[torch.arange(len(frames)), row]
    raw = network(images[:, 0], mask, batch.state[:, -1], chunks, row, latents)
    with torch.no_grad():
        uncorrected = network.errors(network.encode(base), true)
    return uncorrected, network.errors(raw, true)


@torch.no_grad()
def _validate(
    config: CorrectorTraining, policy: VLAPolicy, network: CorrectorNetwork, known: EarlierChunks
) -> dict[str, tuple[float, float]]:
    length, found = known.chunks.shape[1], dict[str, tuple[float, float]]()
    for k in sorted({0, 1, 2, 4, 8, 12, length - 1}):
        frames = known.known(k)[:CHECKED] if k < length else np.empty(0, np.int64)
        if len(frames):
            pairs = [
                _errors(config, policy, network, known, part, np.full(len(part), k))
                for part in np.array_split(frames, -(-len(frames) // BLOCK))
            ]
            found[str(k)] = tuple(float(torch.cat(each).mean()) for each in zip(*pairs, strict=True))  # type: ignore[assignment]
    return found
