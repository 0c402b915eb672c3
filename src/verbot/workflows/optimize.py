"""`verbot optimize`: a policy as graphs of another runtime, compared with the original before it is written."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verbot.contracts import Policy
from verbot.envs import make_env
from verbot.errors import ConfigError, SpecError
from verbot.evaluation.comparison.paired import Comparison, compare_evaluations
from verbot.files import sha256, write_atomic
from verbot.folders import write_folder
from verbot.parallel.progress import Progress
from verbot.policy.identity import policy_identity
from verbot.policy.runtime import TRUST, RuntimePolicy, is_exported
from verbot.policy.storage import MANIFEST, notes_of, policy_folder, to_json
from verbot.policy.stored import CONFIG
from verbot.rollout.vector import check_fits
from verbot.spec import RobotSpec
from verbot.workflows.load_policy import fitting
from verbot.workflows.parity import Parity, limit_of, observations_of, parity
from verbot.workflows.timing import latencies, memory_mb, size_mb
from verbot.workflows.train_evaluate import evaluate

if TYPE_CHECKING:
    from verbot.policy.export.exporting import ExportConfig

RESULT = "optimize.json"
BEFORE, AFTER = "eager", "optimized"


@dataclass(frozen=True)
class Evidence:
    """What an optimized policy is compared on.

    Args:
        data: a dataset whose observations are compared; None records the suite's expert.
        suite: the env.
        observations: number of observations whose actions are compared.
        repeats: number of timed predictions; 0 measures neither time nor memory.
        scenes: number of scenes that both policies act in; 0 for none.
        seed: of the scenes.
        workers: number of processes that run the episodes; 0 takes one for each core.
    """

    data: Path | None = None
    suite: str = "tabletop-starter"
    observations: int = 200
    repeats: int = 200
    scenes: int = 200
    seed: int = 0
    workers: int = 0


@dataclass(frozen=True)
class OptimizeResult:
    """What was found; `refused` says why nothing was written, and is empty otherwise."""

    folder: Path
    parity: Parity
    record: Mapping[str, Any]
    refused: str = ""
    comparison: Comparison | None = field(default=None)

    def table(self) -> str:
        """The figures of both policies side by side, as lines of text."""
        lines = [f"{'':<24}{BEFORE:>12}{AFTER:>12}"]
        if latency := self.record.get("latency"):
            lines += [f"{f'latency {name[:3]} [ms]':<24}{latency[BEFORE][name]:>12.2f}{latency[AFTER][name]:>12.2f}"
                      for name in ("p50_ms", "p99_ms")]  # fmt: skip
        size = self.record["size_mb"]
        lines.append(f"{'size on disk [MB]':<24}{size[BEFORE]['all']:>12.1f}{size[AFTER]['all']:>12.1f}")
        lines.append(f"{'  of it language [MB]':<24}{size[BEFORE]['language']:>12.1f}{size[AFTER]['language']:>12.1f}")
        if memory := self.record.get("peak_memory_mb"):
            lines.append(f"{'peak memory [MB]':<24}{memory[BEFORE]:>12.0f}{memory[AFTER]:>12.0f}")
        found = self.parity
        lines.append(
            f"actions differ by {found.mean:.2g} of their range on average, p99 {found.p99:.2g}, at most {found.most:.2g}"
        )
        lines += _pruned(self.record.get("made", {}).get("pruning"))
        if self.comparison is None:
            return "\n".join([*lines, "success was not compared: --scenes is 0"])
        return "\n".join([*lines, self.comparison.table()])


def _pruned(pruning: Mapping[str, Any] | None) -> list[str]:
    if not pruning:
        return []
    share = pruning["zero"] / pruning["weights"]
    return [
        f"{100 * share:.1f} % of {pruning['weights']:,} weights are zero ({pruning['method']}). No runtime here skips zeros: "
        "they save neither time nor memory, only size where files are compressed"
    ]


def optimize(
    policy: str, out: Path, export: ExportConfig, evidence: Evidence | None = None, progress: bool = True
) -> OptimizeResult:
    """Write `policy` as graphs into `out`, if its actions stay those of the original; and compare both.

    Args:
        policy: a policy's folder, or ``"starter"``.
        out: gets the policy and ``optimize.json``; evaluations lie in the folder of its name with ``-evaluation``.

    Raises `PolicyError` that names a part which cannot be exported, `ConfigError` for a policy that is exported already,
    `SpecError` for a suite in which it cannot act.
    """
    from verbot.policy.export.exporting import export as make
    from verbot.policy.policy import VLAPolicy

    evidence, source = evidence or Evidence(), policy_folder(policy)
    if is_exported(source):
        raise ConfigError(f"{policy} is an exported policy already; optimize the one that it was made of")
    if out.resolve() == source.resolve():
        raise ConfigError(f"{out} is the policy itself; choose another folder for the optimized one")
    notes_of(out, (CONFIG, MANIFEST))  # raises, before the work begins, for a folder that is not to be replaced
    before = VLAPolicy.load(source)
    if evidence.scenes or evidence.data is None:
        check_suite(policy, before.spec, evidence.suite)
    with Progress("optimize", 4, "steps", enabled=progress) as bar:
        compared, calibration = observations_of(
            policy, evidence.data, evidence.suite, evidence.observations, evidence.seed, progress
        )  # fmt: skip
        bar.update(1, "export")
        files = make(before, export, calibration, _card(source))
        after = RuntimePolicy.of(files, out, trusted=True)
        bar.update(2, "parity")
        found = parity(before, after, compared)
        record: dict[str, Any] = {
            "policy": policy, "to": export.to, "precision": export.precision, "made": after.record.made,
            "parity": found.to_json(), "limit": dataclasses.asdict(limit_of(export.precision, export.pruning is not None)),
        }  # fmt: skip
        with tempfile.TemporaryDirectory(prefix="verbot-optimize-") as folder:
            draft = Path(folder) / "policy"
            write_folder(draft, files)
            record["size_mb"] = {BEFORE: size_mb(source), AFTER: size_mb(draft)}
            if refused := found.beyond(limit_of(export.precision, export.pruning is not None)):
                return OptimizeResult(out, found, record, f"{_named(policy, export)} acts otherwise: {refused}")
            if evidence.repeats:
                bar.update(3, "latency")
                pair: dict[str, Policy] = {BEFORE: before, AFTER: after}
                record["latency"] = latencies(pair, compared, evidence.repeats)
                record["peak_memory_mb"] = {
                    BEFORE: memory_mb(str(source), TRUST), AFTER: memory_mb(str(draft), TRUST)
                }  # fmt: skip
        write_folder(out, files | notes_of(out, files))
        write_atomic(out / RESULT, to_json(record))
        bar.update(4)
    comparison = _success(source, out, evidence, progress) if evidence.scenes else None
    if comparison is not None:
        write_atomic(out / RESULT, to_json({**record, "success": comparison.to_json()}))
    return OptimizeResult(out, found, record, comparison=comparison)


def check_suite(name: str, spec: RobotSpec, suite: str) -> None:
    """Raise `SpecError` unless the policy called `name`, made for `spec`, can act in `suite`."""
    with contextlib.closing(make_env(suite, **fitting(name, suite))) as env:
        try:
            check_fits(spec, env.robot_spec)
        except SpecError as error:
            raise SpecError(
                f"{name} cannot act in the suite {suite}: {error}; --suite names another, --data a dataset"
            ) from error


def _named(policy: str, export: ExportConfig) -> str:
    pruned = f" and pruned by {export.pruning}" if export.pruning else ""
    return f"{policy} as {export.to} in {export.precision}{pruned}"


def _success(source: Path, out: Path, evidence: Evidence, progress: bool) -> Comparison:
    """Both policies in the same scenes. An interrupted evaluation goes on."""
    settings: dict[str, Any] = {"episodes": evidence.scenes, "seed": evidence.seed, "workers": evidence.workers}
    first, second = evaluation_folder(BEFORE, source, out, evidence), evaluation_folder(AFTER, out, out, evidence)
    trusted = os.environ.get(TRUST)
    os.environ[TRUST] = "1"  # for the workers, which open what was just written
    try:
        for policy, folder in ((source, first), (out, second)):
            evaluate(
                str(policy), evidence.suite, out=folder, baselines=False, videos=0, conditions=(), progress=progress, **settings
            )
    finally:
        del os.environ[TRUST]
        os.environ |= {} if trusted is None else {TRUST: trusted}
    return compare_evaluations(first, second)


def evaluation_folder(name: str, policy: Path, out: Path, evidence: Evidence) -> Path:
    """One for each policy and each set of scenes, so that `out` can be written again from another precision."""
    what = f"{policy_identity(policy)} {evidence.suite} {evidence.scenes} {evidence.seed}"
    return Path(f"{out}-evaluation", f"{name}-{sha256(what.encode())[:12]}")


def _card(source: Path) -> str:
    """The card of the original, below that of the export."""
    try:
        return "# The policy it was made of\n\n" + (source / "README.md").read_text().replace("\n# ", "\n## ").removeprefix("# ")
    except (OSError, UnicodeDecodeError):
        return ""
