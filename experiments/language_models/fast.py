"""FAST over recorded actions: error of a round trip, tokens of a chunk against one bin for each number, and malformed chunks.

Run it as ``python experiments/language_models/fast.py --out outputs/fast.json``. For each suite the expert plays episodes; the
first three quarters train a tokenizer, the last quarter is encoded and decoded. Errors are in quantile units, where the range of
a number is −1 to 1. ``published`` is the tokenizer as published, ``complete`` the same with a token for every byte, as the head
`fast` has it. "clipped" are chunks with a coefficient below the smallest of the training, which FAST raises to it; an error above
the worst case of rounding is theirs. ``--data`` measures a dataset instead.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from verbot.contracts import expert_of
from verbot.data.storage.reader import open_dataset
from verbot.envs import envs, make_env
from verbot.errors import ConfigError
from verbot.files import write_atomic
from verbot.models.fast import FastTokenizer
from verbot.models.heads.fast import Fast
from verbot.parallel.progress import Progress
from verbot.rollout.episode import EpisodeRunner
from verbot.spec import Component, Float64Array, FloatArray

Actions = list[FloatArray]  # (n, a) of each episode
LARGEST = 16384  # vocabulary


@dataclass(frozen=True)
class Arguments:
    """What to measure.

    Args:
        suites: names of envs; all with an expert if none are given.
        data: a dataset, instead of suites.
        episodes: of each suite, or of the dataset at most.
        lengths: of chunks.
        scale, vocab_size: of the tokenizers. A vocabulary that is too small for the range of coefficients is doubled.
        noise: of the expert.
        out: a file for the JSON record.
    """

    suites: tuple[str, ...] = ()
    data: Path | None = None
    episodes: int = 40
    lengths: tuple[int, ...] = (8, 16, 50)
    scale: float = 10
    vocab_size: int = 1024
    noise: float = 0.15
    seed: int = 0
    out: Path | None = None


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    rows: list[dict[str, Any]] = []
    for name in (str(arguments.data),) if arguments.data else arguments.suites or envs.names():
        components, episodes = recorded(arguments.data, arguments) if arguments.data else played(name, arguments)
        for length in arguments.lengths:
            for kind in ("published", "complete"):
                rows.append({"suite": name, "length": length, "tokenizer": kind})
                rows[-1] |= measured(components, episodes, length, kind == "complete", arguments)
    settings = {"scale": arguments.scale, "episodes": arguments.episodes, "noise": arguments.noise, "seed": arguments.seed}
    record = json.dumps({"settings": settings, "rows": rows})
    if arguments.out:
        write_atomic(arguments.out, record + "\n")
    print(record)
    print_table(rows)


def played(suite: str, arguments: Arguments) -> tuple[tuple[Component, ...], Actions]:
    """The actions of the expert's successful episodes, task by task in turn."""
    env: Any = make_env(suite, render_cameras=False)
    found: Actions = []
    with Progress(suite, arguments.episodes, "episodes") as progress:
        for index in range(2 * arguments.episodes):
            if len(found) == arguments.episodes:
                break
            request = {"task": env.tasks[index % len(env.tasks)], "index": index // len(env.tasks)}
            episode = EpisodeRunner(env, request, arguments.seed)
            expert = expert_of(env, arguments.noise, arguments.seed + index)
            expert.reset(episode.instruction)
            transitions = list(episode.run(expert))
            if transitions and transitions[-1].info["success"]:
                found.append(np.array([t.action if t.expert_action is None else t.expert_action for t in transitions]))
                progress.update(len(found))
    return env.robot_spec.action, found


def recorded(path: Path, arguments: Arguments) -> tuple[tuple[Component, ...], Actions]:
    dataset = open_dataset(path)
    numbers = range(min(len(dataset), arguments.episodes))
    return dataset.spec.action, [dataset[number].actions for number in numbers]


def windows(episodes: Actions, length: int) -> FloatArray:
    """Chunks (n, length, a) that begin at every fourth action; the last action is repeated after the end."""
    chunks = []
    for actions in episodes:
        longer = np.concatenate([actions, np.repeat(actions[-1:], length - 1, 0)])
        chunks += [longer[start : start + length] for start in range(0, len(actions), 4)]
    return np.stack(chunks)


def measured(
    components: tuple[Component, ...], episodes: Actions, length: int, complete: bool, arguments: Arguments
) -> dict[str, Any]:
    cut = max(1, len(episodes) * 3 // 4)
    training, test = (np.asarray(windows(part, length), np.float64) for part in (episodes[:cut], episodes[cut:] or episodes))
    low, high = quantile_ranges(components, training)
    train_units, units = (2 * (x - low) / (high - low) - 1 for x in (training, test))
    tokenizer, fit_s = fitted(train_units, complete, arguments)
    answers, encode_ms, decode_ms = [], [], []
    for chunk in units:
        started = time.perf_counter()
        ids = tokenizer.encode(chunk[None])[0]
        between = time.perf_counter()
        answers.append((ids, *tokenizer.decode(ids, *chunk.shape)))
        encode_ms.append(1e3 * (between - started))
        decode_ms.append(1e3 * (time.perf_counter() - between))
    clipped = np.asarray((tokenizer.coefficients(units) < tokenizer.min_token).any((1, 2)))
    read = [(found, chunk, cut) for (_, found, _), chunk, cut in zip(answers, units, clipped, strict=True) if found is not None]
    errors = np.array([np.abs(found - chunk) for found, chunk, _ in read]) if read else np.full((1, 1, 1), np.nan)
    whole = np.array([not is_cut for _, _, is_cut in read], bool)
    counts = np.array([len(ids) for ids, _, _ in answers])
    return {
        "train_chunks": len(training), "test_chunks": len(test), "vocabulary": tokenizer.size, "min_token": tokenizer.min_token,
        "bins": int(units[0].size), "tokens_mean": float(counts.mean()), "tokens_max": int(counts.max()),
        "compression": float(units[0].size / counts.mean()),
        "error_mean": float(errors.mean()), "error_max": float(errors.max()),
        "error_max_unclipped": float(errors[whole].max()) if whole.any() else None,
        "rounding_worst_case": 0.5 / arguments.scale * length**0.5,
        "malformed": float(np.mean([found is None for _, found, _ in answers])), "clipped": float(clipped.mean()),
        "encode_ms": statistics.median(encode_ms), "decode_ms": statistics.median(decode_ms), "fit_s": fit_s,
    }  # fmt: skip


def quantile_ranges(components: tuple[Component, ...], chunks: Float64Array) -> tuple[Float64Array, Float64Array]:
    """As the head `fast` has them: percentiles, or the known range of a component's kind; a constant gets a width."""
    rows = chunks.reshape(-1, chunks.shape[-1])
    low, high = np.quantile(rows, (0.01, 0.99), axis=0)
    narrow = high - low <= 1e-6 * np.ptp(rows, 0)
    low, high = np.where(narrow, rows.min(0), low), np.where(narrow, rows.max(0), high)
    for i, known in enumerate(Fast.known_ranges(components)):
        if known is not None:
            low[i], high[i] = known
    constant = high - low < 1e-6
    return np.where(constant, low - 1, low), np.where(constant, high + 1, high)


def fitted(units: Float64Array, complete: bool, arguments: Arguments) -> tuple[FastTokenizer, float]:
    """A tokenizer, and the seconds of its training."""
    size, started = arguments.vocab_size, time.perf_counter()
    while True:
        try:
            return FastTokenizer.fit(units, arguments.scale, size, complete=complete), time.perf_counter() - started
        except ConfigError:
            if size >= LARGEST:
                raise
            size *= 2


def print_table(rows: list[dict[str, Any]]) -> None:
    print(f"{'suite':22s} {'k':>3s} {'tokenizer':10s} {'bins':>5s} {'tokens':>7s} {'×':>5s} {'mean err':>8s} {'max err':>8s} "
          f"{'malformed':>9s} {'clipped':>8s} {'enc ms':>7s} {'dec ms':>7s}")  # fmt: skip
    for row in rows:
        print(f"{row['suite'][-22:]:22s} {row['length']:3d} {row['tokenizer']:10s} {row['bins']:5d} {row['tokens_mean']:7.1f} "
              f"{row['compression']:5.1f} {row['error_mean']:8.4f} {row['error_max']:8.4f} {row['malformed']:9.2%} "
              f"{row['clipped']:8.2%} {row['encode_ms']:7.3f} {row['decode_ms']:7.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
