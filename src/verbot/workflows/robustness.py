"""Policies under domain shifts: each randomization axis alone and all at once, on the scenes of the nominal domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from verbot.errors import ConfigError, UnknownNameError
from verbot.evaluation.comparison.robustness import RobustnessReport, read_robustness, write
from verbot.evaluation.protocol.conditions import ALL, AXES
from verbot.ranges import COUNT, COUNT_OR_NONE, SEED, NumberRange, check_ranges
from verbot.rollout.baselines import POLICY_FREE_AGENTS
from verbot.workflows.compare_entries import slug
from verbot.workflows.load_policy import open_policy
from verbot.workflows.train_evaluate import evaluate

DROPOUT = "camera_dropout"


@dataclass(frozen=True)
class RobustnessConfig:
    """The domain shifts to evaluate, and the number of scenes.

    Args:
        suite: the env.
        axes: the axes to shift; otherwise all, except ``camera_dropout`` if a policy cannot do without a camera.
        strengths: strengths of the shifts, 1 to 3.
        alone: whether each axis is shifted alone too; otherwise only all of them at once.
        align: channel medians by camera (`verbot.data.samples.image_statistics`); if given, each policy is also evaluated with
            color alignment.
        episodes: number of scenes, the same in every domain.
        seed: seed of the scenes.
        workers: processes; 0 takes one for each core.
    """

    suite: str = "tabletop-starter"
    axes: Sequence[str] = ()
    strengths: Sequence[int] = (2,)
    alone: bool = True
    align: Mapping[str, tuple[float, float, float]] | None = None
    episodes: int = 120
    seed: int = 0
    workers: int = 0

    def __post_init__(self) -> None:
        check_ranges(self, strengths=NumberRange(1, 3, whole=True), episodes=COUNT, seed=SEED, workers=COUNT_OR_NONE)
        if not self.strengths:
            raise ConfigError("name at least one strength")
        for name in self.axes:
            if name not in AXES:
                raise UnknownNameError("randomization axis", name, AXES)


def robustness(
    policies: Sequence[str],
    out: str | Path,
    config: RobustnessConfig | None = None,
    *,
    command: str | None = None,
    progress: bool = True,
) -> list[RobustnessReport]:
    """Evaluate each policy in the nominal domain and under every shift; writes ``robustness.json`` and ``.png`` into `out`.

    A later call continues an interrupted one, and adds shifts of other strengths to those that were evaluated.

    Args:
        policies: names, as in `verbot.evaluate`, or folders of evaluations, which are only read.

    Raises `ConfigError` if no policy is given or two policies have the same name, and as `verbot.evaluate` does.

    Example:
        >>> import tempfile
        >>> config = RobustnessConfig(axes=["camera", "lighting"], episodes=2, workers=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = robustness(["expert"], folder, config, progress=False)
        >>> [shift.label for shift in found[0].shifts], found[0].shifts[0].gap.value
        (['lighting 2', 'camera 2', 'lighting 2, camera 2'], 0.0)
    """
    out, config, names = Path(out), config or RobustnessConfig(), [label(policy) for policy in policies]
    if not policies:
        raise ConfigError("name at least one policy")
    if len(set(names)) < len(names):
        raise ConfigError(f"two of these policies would have one name: {', '.join(names)}; put them into folders of other names")
    shifted = tuple(axis for axis in AXES if axis in config.axes) if config.axes else all_axes(policies)
    together = ALL if set(shifted) == set(AXES) else "+".join(shifted)
    single = [f"axis:{axis}:{strength}" for strength in config.strengths for axis in shifted if config.alone]
    several = [f"axes:{together}:{strength}" for strength in config.strengths if len(shifted) > 1]
    reports = []
    for policy, name in zip(policies, names, strict=True):
        if _evaluated(policy):
            reports.append(read_robustness(policy, name))
            continue
        for colors in (None, config.align) if config.align else (None,):
            called = f"{name} aligned" if colors else name
            evaluate(
                policy, config.suite, out=out / slug(called), episodes=config.episodes, side_episodes=config.episodes,
                seed=config.seed, align=colors, conditions=(*single, *several), baselines=False, videos=0, latency_calls=1,
                workers=config.workers, command=command, progress=progress,
            )  # fmt: skip
            reports.append(read_robustness(out / slug(called), called))
    write(reports, out, command)
    return reports


def label(policy: str) -> str:
    """The name of a policy in tables and figures; for the folder ``policy`` of a training, the name of the training's folder.

    Example:
        >>> label("outputs/random/policy"), label("starter")
        ('random', 'starter')
    """
    if "://" in policy:
        return policy
    path = Path(policy)
    return path.parent.name if path.name == "policy" and path.parent.name else path.name


def _evaluated(policy: str) -> bool:
    return (Path(policy) / "results.jsonl").is_file()


def all_axes(policies: Sequence[str]) -> tuple[str, ...]:
    """Every axis, without ``camera_dropout`` if one of the policies cannot do without a camera."""
    played = [policy for policy in policies if policy not in POLICY_FREE_AGENTS and not _evaluated(policy)]
    needs_all = not all(_does_without_a_camera(policy) for policy in played)
    return tuple(axis for axis in AXES if not (needs_all and axis == DROPOUT))


def _does_without_a_camera(policy: str) -> bool:
    if "://" in policy:  # a server does not say
        return False
    from verbot.policy.policy import VLAPolicy

    opened = open_policy(policy)
    return isinstance(opened, VLAPolicy) and opened.preprocessing.allow_missing_cameras and len(opened.spec.cameras) > 1
