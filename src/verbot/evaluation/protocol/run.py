"""Runs an evaluation: plan, roll out, measure, report."""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verbot.agents import ChunkAgent, ColorAlignmentAgent, EnsembleAgent, RealTimeAgent
from verbot.configuration import to_plain
from verbot.contracts import ChunkedAgent, Compositional, Policy, TaskEnv
from verbot.errors import ConfigError
from verbot.evaluation.protocol import metrics
from verbot.evaluation.protocol.conditions import EvaluationConfig, EvaluationPlan, make_plan
from verbot.evaluation.protocol.intervals import difference, mcnemar
from verbot.evaluation.report.clips import VideoClip, choose
from verbot.evaluation.report.page import write_report
from verbot.evaluation.report.summary import Summary
from verbot.files import hold, read_record, write_atomic
from verbot.parallel.progress import Progress
from verbot.parallel.workers import cores
from verbot.rollout.baselines import POLICY_FREE_AGENTS, AgentFactory, PolicySource
from verbot.rollout.evaluation import EvaluationSetup, RecordVideo
from verbot.rollout.pool import ClusterPool, Pool, open_pool
from verbot.rollout.results import EpisodeResult, ResultsJournal
from verbot.rollout.vector import EnvFactories, MakeEnv


@dataclass(frozen=True)
class Played:
    """The output of the workers.

    Args:
        results: results of the episodes, by key.
        latencies: latencies of single predictions, in seconds.
        videos: the mp4 of each clip.
        seconds: wall-clock time of the episodes.
        count: number of episodes that were run in this call.
    """

    results: Mapping[str, EpisodeResult]
    latencies: Sequence[float]
    videos: Sequence[tuple[VideoClip, bytes]]
    seconds: float
    count: int


def make_suite(name: str, **options: Any) -> TaskEnv:
    """`verbot.envs.make_env`, imported at the call, because it loads the simulator."""
    from verbot.envs import make_env

    return make_env(name, **options)


def run_evaluation(
    policy: PolicySource | str,
    config: EvaluationConfig,
    out: Path,
    *,
    make: MakeEnv = make_suite,
    command: str | None = None,
    progress: bool = True,
    cluster: str | None = None,
) -> Summary:
    """Evaluate `policy` with `config`; write ``results.jsonl``, ``summary.json`` and ``report.html`` into `out`.

    Args:
        policy: the source from which workers load the policy, or ``"random"`` or ``"expert"``.
        make: makes an env from the suite's name and the config's options; must be picklable.
        command: the command line, for the report.
        cluster: the cluster that runs the episodes (``"ray"``, ``"ray:ADDRESS"``) instead of local processes. The results are
            the same.

    Raises:
        ConfigError: `out` holds results of another policy or of other settings.
        DataError: another process evaluates into `out` at this moment.
    """
    name = policy if isinstance(policy, str) else policy.name
    if isinstance(policy, str) and policy not in POLICY_FREE_AGENTS:
        raise ConfigError(f"there is no agent {policy!r} without a policy; known: {', '.join(POLICY_FREE_AGENTS)}")
    with hold(out, "another evaluation runs here; choose another folder, or wait for it"):
        config = _fitted(config, policy, make)
        _claim(out, policy, config)
        return _evaluate(policy, config, out, Conduct(name, make, command, progress, cluster))


@dataclass(frozen=True)
class Conduct:
    """How an evaluation is run; see `run_evaluation`. `name` is the policy's."""

    name: str
    make: MakeEnv
    command: str | None
    progress: bool
    cluster: str | None


def _evaluate(policy: PolicySource | str, config: EvaluationConfig, out: Path, conduct: Conduct) -> Summary:
    factory = functools.partial(conduct.make, config.suite, **config.options)
    factories = EnvFactories.of(factory)
    with closing(factories.without_cameras()) as env:
        compositional = env.compositional_tasks if isinstance(env, Compositional) else None
        plan = make_plan(config, env.tasks, policy if isinstance(policy, str) else "policy", compositional)
    source = None if isinstance(policy, str) else policy
    setup = EvaluationSetup(factories, source, _agents(config), config.slots, config.sample, config.delays)
    played = _play(plan, setup, config, out, conduct.progress, conduct.cluster)
    summary = summarize(conduct.name, config, plan, played, out, conduct.command)
    summary.save()
    write_report(summary, played.videos, out / "report.html")
    return summary


def _fitted(config: EvaluationConfig, policy: PolicySource | str, make: MakeEnv) -> EvaluationConfig:
    """`config` with the image size on which the policy was trained, unless its options set one."""
    if isinstance(policy, str) or policy.spec is None or "image_size" in config.options:
        return config
    from verbot.envs.fitting import fitting_options

    fitting = fitting_options(functools.partial(make, config.suite, **config.options), policy.spec)
    return dataclasses.replace(config, options={**config.options, **fitting})


def summarize(
    name: str, config: EvaluationConfig, plan: EvaluationPlan, played: Played, out: Path, command: str | None
) -> Summary:
    """The summary of all results in the plan."""
    found = {key: [played.results[job.key] for job in jobs] for key, jobs in plan.conditions.items()}
    baselines = {key: [played.results[job.key] for job in jobs] for key, jobs in plan.baselines.items()}
    main = found[config.main]
    faults = [played.results[job.key] for job in plan.jobs() if played.results[job.key].outcome == "error"]
    measured = metrics.policy_metrics(found, baselines.get("expert", ())) | metrics.latency(played.latencies)
    comparisons = {}
    for agent, results in baselines.items():
        pairs = metrics.paired(main, results)
        comparisons[agent] = {"difference": difference(pairs), "p": mcnemar(pairs)}
    return Summary(
        policy=name,
        suite=config.suite,
        condition=config.main,
        episodes=config.episodes,
        seed=config.seed,
        metrics=measured,
        conditions={key: metrics.success_rate(results) for key, results in found.items()},
        baselines={agent: metrics.agent_metrics(results) for agent, results in baselines.items()},
        comparisons=comparisons,
        by_task=metrics.by_task(main),
        errors=len(faults),
        error_messages=tuple(f"{fault.key}: {fault.error}" for fault in faults[:5]),
        config=to_plain(config),
        command=command,
        seconds=round(played.seconds, 1),
        played=played.count,
        out=str(out),
    )


def _play(
    plan: EvaluationPlan, setup: EvaluationSetup, config: EvaluationConfig, out: Path, progress: bool, cluster: str | None
) -> Played:
    """Run the episodes that ``results.jsonl`` lacks, and repeat those with errors."""
    jobs, started = plan.jobs(), time.monotonic()
    with ResultsJournal(out / "results.jsonl") as journal:
        waiting = [job for job in jobs if job.key not in journal.results or journal.results[job.key].outcome == "error"]
        count = min(config.workers or cores(), max(1, len(waiting)))
        with open_pool(setup, count, cluster) as pool:
            done = len(jobs) - len(waiting)
            with Progress("evaluate", len(jobs), "episodes", done, progress) as bar:
                for number, result in enumerate(pool.play(waiting), done + 1):
                    journal.add(result)
                    bar.update(number)
            seconds = time.monotonic() - started
            main = plan.conditions[config.main]
            latencies = pool.time_predictions(main, config.latency_calls) if setup.policy and pool.alive else []
            videos = _videos(pool, plan, config, journal.results) if pool.alive else []
    return Played(journal.results, latencies, videos, seconds, len(waiting))


def _videos(
    pool: Pool | ClusterPool, plan: EvaluationPlan, config: EvaluationConfig, results: Mapping[str, EpisodeResult]
) -> list[tuple[VideoClip, bytes]]:
    pairs = {name: [(job, results[job.key]) for job in jobs] for name, jobs in plan.conditions.items()}
    chosen = choose(pairs[config.main], pairs.get("counterfactual", []), config.videos)
    videos = pool.videos([RecordVideo(clip.job, clip.result.actions) for clip in chosen])
    return list(zip(chosen, videos, strict=True))


def _agents(config: EvaluationConfig) -> AgentFactory:
    plain: Callable[[Policy], ChunkedAgent] = functools.partial(ChunkAgent, execute=config.execute)
    if config.decay is not None:
        plain = functools.partial(EnsembleAgent, decay=config.decay)
    if config.real_time is not None:
        method, estimate = config.real_time, config.delay_estimate
        plain = functools.partial(RealTimeAgent, execute=config.execute, method=method, delay_estimate=estimate)
    if config.align is None:
        return plain
    aligned: AgentFactory = functools.partial(_aligned, plain, dict(config.align))
    return aligned


def _aligned(make: Callable[[Policy], ChunkedAgent], colors: Mapping[str, Sequence[float]], policy: Policy) -> ChunkedAgent:
    return ColorAlignmentAgent(make(policy), colors)


# Settings that earlier versions did not write into run.json, with what they did.
LATER = {"sample": False, "real_time": None, "delay": 0, "delay_jitter": 0, "drop": 0.0, "delay_estimate": None}


def _claim(out: Path, policy: PolicySource | str, config: EvaluationConfig) -> None:
    """Write the settings of every episode into ``run.json``, or check that an earlier run there had the same settings."""
    shape: dict[str, Any] = {
        "policy": policy if isinstance(policy, str) else policy.name,
        "identity": policy if isinstance(policy, str) else policy.identity,
        **{name: to_plain(getattr(config, name)) for name in ("suite", "execute", "decay", "align", "options", *LATER)},
    }
    path = out / "run.json"
    if not path.exists():
        write_atomic(path, json.dumps(shape, indent=2) + "\n")
        return
    earlier = LATER | read_record(path)
    if shape["identity"] == earlier.get("identity") != "":
        earlier["policy"] = shape["policy"]  # the same policy by another name
    other = [f"{name}: {earlier.get(name)!r}, now {value!r}" for name, value in shape.items() if earlier.get(name) != value]
    if other:
        raise ConfigError(f"{out} holds results of another evaluation ({'; '.join(other)}); choose another folder, or delete it")
