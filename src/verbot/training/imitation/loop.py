"""The training loop: one function, read top to bottom."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from signal import SIGTERM

import torch
from torch import Tensor

from verbot.agents.grounding_monitor import ConsecutiveAlarm
from verbot.configuration import build, differences, dump_yaml, load_yaml, to_plain
from verbot.errors import ConfigError, GroundingWarning
from verbot.files import hold, read_record, write_atomic
from verbot.models.lora import count
from verbot.parallel import signals
from verbot.parallel.progress import Progress as Bar
from verbot.policy.policy import VLAPolicy
from verbot.training import checkpoint
from verbot.training.checkpoint import TrainingProgress
from verbot.training.distributed.device import find_device, generators, to_device
from verbot.training.distributed.fsdp import Sharded, check_sharding
from verbot.training.distributed.launch import join, launched
from verbot.training.distributed.optimizer import Optimizer, learning_rate
from verbot.training.distributed.process_group import ProcessGroup, open_process_group, torch_threads
from verbot.training.distributed.shards import Shard
from verbot.training.imitation import dagger
from verbot.training.imitation.augment import jitter_colors, torch_numbers
from verbot.training.imitation.config import TrainConfig
from verbot.training.imitation.cotraining import TrainedEmbodiment, embodiment_config, joint_network, tie_weights
from verbot.training.imitation.data import TrainingData
from verbot.training.imitation.finetune import card_text, init_parts, init_policy, resolved
from verbot.training.imitation.recompute import recomputed
from verbot.training.imitation.records import OptimizerConfig
from verbot.training.imitation.result import TrainResult
from verbot.training.imitation.session import CHECKPOINTS, Mean, TrainingSession
from verbot.training.imitation.skipped import ROLL_BACK_AFTER, check_skipped, roll_back
from verbot.training.imitation.text_config import check_text
from verbot.training.log import BUSY, LOG, Log

CONFIG, RESULT, POLICY = "config.yaml", "result.json", "policy"
TEXTS_PER_BATCH = 256
# Fields that may differ when a run is resumed, because no weight depends on them. The policy of init_from may have moved:
# init.sha256 identifies it.
MAY_CHANGE_ON_RESUME = (
    "parallelism.loader_threads", "data.cache", "logging.log_every", "logging.checkpoint_every", "init.init_from",
)  # fmt: skip
MAY_CHANGE_UP_TO_ROUNDING = ("parallelism.processes", "parallelism.parallel")  # the same batches


def train_policy(
    config: TrainConfig,
    out: str | Path,
    *,
    resume: bool = True,
    stop_at: int | None = None,
    progress: bool = True,
    card: str = "",
) -> TrainResult:
    """Train a policy; writes ``policy/``, ``config.yaml``, ``log.jsonl`` and ``result.json`` into `out`.

    Args:
        resume: resume an interrupted run in `out`, to the bit; False refuses a folder that contains a run.
        stop_at: stop with a checkpoint after this many steps.
        progress: show rate and remaining time.
        card: Markdown for the policy's model card.

    Raises `ConfigError` if `out` contains another run, if the initial policy does not fit, or for an unavailable device;
    `TrainingError` if the loss stays non-finite or a process dies; `DataError` if another one trains there or the disk is full.
    """
    out, launch = Path(out), launched()
    if launch is not None:
        config = dataclasses.replace(config, parallelism=dataclasses.replace(config.parallelism, processes=launch.size))
    processes = config.parallelism.processes
    local_rank = (launch.local_rank, launch.local_size) if launch else (0, processes)
    device, config = find_device(config.parallelism.device, *local_rank), resolved(config)
    robots = [config, *(embodiment_config(config, other) for other in config.cotraining)]
    if config.parallelism.sharded:
        check_sharding(device)
    random_state = torch.random.fork_rng(devices=generators(device))
    with ExitStack() as joined:
        if launch is None or launch.rank == 0:
            joined.enter_context(hold(out, BUSY))
            _claim(config, out, resume)
        joined.enter_context(torch_threads(config.parallelism.threads))
        joined.enter_context(random_state)
        process_group = joined.enter_context(join(launch, device)) if launch else ProcessGroup(0, 1)
        if process_group.broadcast((out / RESULT).exists()):
            return build(TrainResult, read_record(out / RESULT))
        if local_rank[0] == 0:  # once on each machine; other processes then find the caches
            for robot in robots:
                TrainingData.prepare(robot, device, progress and process_group.is_main)
        process_group.broadcast()
        if launch is None:
            setup = {"config": to_plain(config), "out": str(out), "stop_at": stop_at}
            opened = open_process_group(processes, setup, device, config.parallelism.sharded)
            process_group = joined.enter_context(opened)
        return run(config, out, process_group, stop_at=stop_at, show_progress=progress, card=card)


def run(
    config: TrainConfig,
    out: Path,
    process_group: ProcessGroup,
    stop_at: int | None = None,
    show_progress: bool = False,
    card: str = "",
) -> TrainResult:
    """`train_policy` in one process of the process group."""
    shard = Shard(process_group.rank, process_group.size) if config.parallelism.sharded else None
    passed_over = list[str]()
    latest = checkpoint.load_latest(out / CHECKPOINTS, shard, process_group, passed_over)
    state, tensors = latest or (TrainingProgress(total=config.total_steps), {})
    device = find_device(config.parallelism.device, *process_group.local_rank)
    embodiments = _embodiments(config, out, state.rounds, process_group, device, show_progress)
    for embodiment in embodiments:
        to_device(embodiment.policy.network, device)
        _cache_instructions(embodiment.policy, embodiment.training_data.instructions, process_group, show_progress)
    network, first = joint_network(embodiments), embodiments[0].training_data
    optimizer = Optimizer(network, config.optimizer, Sharded(network, process_group) if shard else None)
    make_policy = partial(_new_policy, config, first, first.instructions)
    session = TrainingSession(config.budget, out, process_group, embodiments, optimizer, state, make_policy)
    if "best" in tensors:
        session.best = tensors["best"].to(device)  # files have no device
    if latest:
        optimizer.restore(tensors, state.layout)
    state.layout = optimizer.layout
    with ExitStack() as stack, Log(out if process_group.is_main else None, state.step, state.total, show_progress) as log:
        for text in passed_over:
            log.record("damaged checkpoint", state.step, text=text)
        for embodiment in embodiments:
            stack.enter_context(embodiment.training_data)
            if latest is None:
                embodiment.record_notes(log, show_progress and process_group.is_main)
        with signals.deferred() as request:
            last = _loop(config, session, log, stop_at, request)
    return _finish(config, session, last, card)


def _embodiments(
    config: TrainConfig, out: Path, rounds: int, process_group: ProcessGroup, device: torch.device, show_progress: bool
) -> list[TrainedEmbodiment]:
    """The first robot and the co-training embodiments, with their shared weights."""
    configs = [config, *(embodiment_config(config, other) for other in config.cotraining)]
    data = [
        TrainingData(each, out, rounds, process_group.rank, device, show_progress and process_group.is_main) for each in configs
    ]
    for each in configs:
        check_text(each.data.text, each.network)
    instructions = sorted({words for each in data for words in each.instructions})  # so that vocabularies are the same
    policies = [_new_policy(each, of, instructions) for each, of in zip(configs, data, strict=True)]
    for other, policy in zip(config.cotraining, policies[1:], strict=True):
        tie_weights(policies[0].network, policy.network, other.shared)
    names = ["", *(other.robot for other in config.cotraining)]
    return [TrainedEmbodiment(*each) for each in zip(names, policies, data, strict=True)]


def _new_policy(config: TrainConfig, training_data: TrainingData, instructions: Sequence[str]) -> VLAPolicy:
    """An untrained policy, or the initial policy of `config`."""
    spec, statistics, network = training_data.spec, training_data.statistics, training_data.network
    if config.init.keeps_network:
        return init_policy(config.init, config.network, spec, statistics, instructions, config.seed)
    texts = [*instructions, *training_data.corpus()] if any(config.data.text.shares) else instructions
    fresh = VLAPolicy.create(
        network, spec, statistics, texts, config.preprocessing, config.seed, training_data.chunks(), training_data.forward()
    )
    return fresh if config.init.parts is None else init_parts(config.init, fresh, instructions, config.seed)


def _cache_instructions(policy: VLAPolicy, instructions: Sequence[str], process_group: ProcessGroup, show_progress: bool) -> None:
    """Encode every instruction once, shared by all processes, to fill caches before the training speed is measured."""
    mine = instructions[process_group.rank :: process_group.size]
    with Bar("read", len(mine), "instructions", enabled=show_progress and process_group.is_main) as bar:
        for start in range(0, len(mine), TEXTS_PER_BATCH):
            policy.network.backbone.prepare(mine[start : start + TEXTS_PER_BATCH])
            bar.update(min(start + TEXTS_PER_BATCH, len(mine)))
    process_group.broadcast()


def _loop(
    config: TrainConfig, session: TrainingSession, log: Log, stop_at: int | None, request: signals.StopRequest
) -> dict[str, float]:
    """Steps until the run is over; returns the last mean losses. Every random number is a function of (seed, step, rank)."""
    state, optimizer, process_group, logging = session.state, session.optimizer, session.process_group, config.logging
    recent, last = Mean(config.samples_per_step), {}
    alarm = ConsecutiveAlarm(config.monitor.threshold, config.monitor.patience)
    while not session.is_finished(stop_at):
        if dagger.due(config.dagger, state):
            session.save()  # a round takes minutes, in which a signal ends the run
            if not process_group.all(not request.number):
                raise signals.Stopped(request.number or SIGTERM, f" after step {state.step}, with a checkpoint")
            stopped = signals.raising if process_group.is_main else signals.ending  # the others wait for rank 0
            with stopped(), optimizer.averaged(), session.gathered_policy() as policy:
                workers = config.dagger.workers or config.parallelism.processes
                dagger.collect_dagger_round(
                    config.dagger, policy, session.out, state, process_group, log, seed=config.seed, workers=workers
                )
            state.rounds += 1
            session.training_data.add_correction_rounds(state.rounds)
            session.save()

        losses = _compute_gradients(session, config.optimizer, config.seed, request)
        stopping = losses.pop("stop")  # of any process
        stop = stopping if process_group.size > 1 else request.number
        rate = learning_rate(config.optimizer.learning_rate, config.schedule, state.step, state.done)
        norm = optimizer.step(rate) if math.isfinite(losses["loss"]) else math.nan
        state.advance()
        if math.isfinite(norm):
            state.skipped_in_a_row = 0
            check_skipped(session, log, config.optimizer, state.total)
            recent.add({**losses, "norm": norm})
        else:
            state.skipped, state.skipped_in_a_row = state.skipped + 1, state.skipped_in_a_row + 1
            if state.skipped_in_a_row == ROLL_BACK_AFTER:
                roll_back(session, log, config.optimizer)

        if state.total is None and session.update_total_steps():
            session.save()
        if state.step % logging.log_every == 0:
            last = recent.pop_means()
            log.record("train", state.step, **last, rate=rate, skipped=state.skipped)
            log.advance(state.step, state.total, _progress_text(last))
        if session.training_data.validates and state.step % config.validation.every == 0:
            _record_validation(session, log, alarm, _validate(session, config.seed), keep_best=logging.keep == "best")
        if state.step % logging.checkpoint_every == 0 or stop:
            session.update_total_steps()
            session.save()
        if stop:
            raise signals.Stopped(request.number or SIGTERM, f" after step {state.step}, with a checkpoint")
    session.save()
    check_skipped(session, log, config.optimizer, state.step if session.is_finished(None) else None)
    last = recent.pop_means() or last
    log.advance(state.step, state.total, _progress_text(last))
    return last


def _progress_text(losses: Mapping[str, float]) -> str:
    return "loss {loss:.4f}, {samples_per_s:.0f} samples/s".format(**losses) if losses else "no loss"


def _record_validation(
    session: TrainingSession, log: Log, alarm: ConsecutiveAlarm, measured: dict[str, float], *, keep_best: bool
) -> None:
    """Log a validation, warn if images and captions do not match, and keep the best weights."""
    state = session.state
    log.record("validation", state.step, **measured)
    if "matching" in measured and alarm.update(measured["matching"]):
        _warn_mismatch(session, log, alarm, measured["matching"])
    if state.best is None or measured["loss"] < state.best:
        state.best, state.since_best = measured["loss"], 0
        session.best = session.optimizer.average.clone() if keep_best else None
    else:
        state.since_best += 1


def _warn_mismatch(session: TrainingSession, log: Log, alarm: ConsecutiveAlarm, cosine: float) -> None:
    step = session.state.step
    log.record("image_text_mismatch", step, matching=cosine, threshold=alarm.threshold, validations=alarm.below)
    if session.process_group.is_main:
        warnings.warn(
            f"step {step}: images and true captions have not matched for {alarm.below} validations: their mean similarity "
            f"is {cosine:.2f}, below {alarm.threshold:g}",
            GroundingWarning,
            stacklevel=2,
        )


def _compute_gradients(
    session: TrainingSession, config: OptimizerConfig, seed: int, request: signals.StopRequest
) -> dict[str, float]:
    """Compute the gradient of one global batch, averaged over all processes, in `optimizer.gradient`.

    Returns the losses, and under ``"stop"`` the share of processes that a signal asked to stop.
    """
    state, process_group = session.state, session.process_group
    session.optimizer.held.zero_grad()
    losses: dict[str, Tensor] = {}
    for embodiment, micro in itertools.product(session.embodiments, range(config.accumulation)):
        embodiment.policy.network.train()
        colors = torch_numbers(seed, 4, state.step, micro)
        generator = torch_numbers(seed, 5, state.step, micro, process_group.rank)
        torch.manual_seed(generator.initial_seed())  # for dropout, which uses the global generator
        batch = embodiment.policy.collate(embodiment.training_data.batch(state.step, micro))
        sequence = embodiment.policy.config.sequence
        images = jitter_colors(
            batch.images, embodiment.training_data.augment, colors, process_group.rank, process_group.size, sequence
        )
        batch = dataclasses.replace(batch, images=images)
        network, half = embodiment.policy.network, torch.autocast(batch.images.device.type, torch.bfloat16, enabled=config.bf16)
        with half, recomputed(network, config.checkpointing):
            parts = network.losses(batch, generator)
        (parts["loss"] / config.accumulation).backward()
        for name, value in embodiment.named(parts).items():
            losses[name] = losses.get(name, 0) + value.detach().float() / config.accumulation
    losses["loss"] = _total(session, losses)
    losses["stop"] = losses["loss"].new_tensor(float(request.number > 0))
    numbers = torch.stack(list(losses.values()))
    session.optimizer.held.all_reduce(process_group, numbers)
    return dict(zip(losses, numbers.tolist(), strict=True))


def _total(session: TrainingSession, losses: dict[str, Tensor]) -> Tensor:
    """The sum of the losses of all robots."""
    names = [name for embodiment in session.embodiments for name in embodiment.named({"loss": losses["loss"]})]
    return torch.stack([losses[name] for name in names if name in losses]).sum()


@torch.no_grad()
def _validate(session: TrainingSession, seed: int) -> dict[str, float]:
    """Mean losses of the averaged weights on held-out episodes, averaged over all processes."""
    sums: dict[str, Tensor] = {}
    with session.optimizer.averaged():
        for embodiment in session.embodiments:
            network = embodiment.policy.network.eval()
            for number, window in enumerate(embodiment.training_data.held_out() if embodiment.training_data.validates else ()):
                parts = network.losses(embodiment.policy.collate(window), torch_numbers(seed, 6, number))
                for name, value in embodiment.named(parts).items():
                    sums[name] = sums.get(name, 0) + value.float() / embodiment.training_data.validation_batches
    sums["loss"] = _total(session, sums)
    numbers = torch.stack(list(sums.values()))
    session.process_group.average(numbers)
    return dict(zip(sums, numbers.tolist(), strict=True))


def _finish(config: TrainConfig, session: TrainingSession, last: dict[str, float], card: str) -> TrainResult:
    state, out = session.state, session.out
    finished = session.is_finished(stop_at=None)
    validation_loss = _validate(session, config.seed)["loss"] if finished and session.training_data.validates else None
    trained, parameters = count(joint_network(session.embodiments))
    result = TrainResult(
        policy=str(out / POLICY),
        steps=state.step,
        samples=state.step * config.samples_per_step,
        seconds=session.seconds(),
        loss=last.get("loss"),
        validation_loss=validation_loss if session.best is None else state.best,
        skipped=state.skipped,
        corrections=state.rounds,
        finished=finished,
        trained=trained,
        parameters=parameters,
    )
    if finished:
        best = session.optimizer.average if session.best is None else session.best
        with session.optimizer.use_weights(best), session.gathered_policy() as policy:
            if session.process_group.is_main:
                for name, each in [
                    ("", policy),
                    *((embodiment.name, embodiment.policy) for embodiment in session.embodiments[1:]),
                ]:
                    each.network.eval()
                    folder = out / (f"{POLICY}-{name}" if name else POLICY)
                    each.save(folder, card=card + card_text(config.init, trained, parameters))
                write_atomic(out / RESULT, json.dumps(asdict(result), indent=1))
    return result


def _claim(config: TrainConfig, out: Path, resume: bool) -> None:
    """Make `out` the folder of this run. Raises `ConfigError` if it contains another run."""
    path = out / CONFIG
    started = any((out / name).exists() for name in (LOG, CHECKPOINTS, RESULT))  # else its data were refused
    if path.exists() and started:
        if not resume:
            raise ConfigError(f"{out} contains a training run already; choose another folder, or resume it")
        recorded = load_yaml(TrainConfig, path)
        if recorded.init.sha256 != config.init.sha256:
            raise ConfigError(
                f"{out} contains a run that started from a policy with sha256 {recorded.init.sha256}, and "
                f"{config.init.init_from} is {config.init.sha256 or 'none'}: restore that policy, or start a new run in another "
                f"folder"
            )
        free = (*MAY_CHANGE_ON_RESUME, *MAY_CHANGE_UP_TO_ROUNDING)
        if differing := [name for name in differences(recorded, config) if name not in free]:
            raise ConfigError(
                f"{out} contains a run with another {', '.join(differing)}; resuming needs the same configuration "
                f"(only {', '.join(free)} may change), a new one needs another folder"
            )
    out.mkdir(parents=True, exist_ok=True)
    dump_yaml(config, path)
