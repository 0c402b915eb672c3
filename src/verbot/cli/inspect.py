"""Commands that inspect datasets, registries and the machine."""

from __future__ import annotations

import json as json_module
from pathlib import Path

from tyro.conf import Positional

from verbot.cli.options import READING, ReadingOptions


def data_check_command(path: Positional[Path], reading: ReadingOptions = READING) -> int:
    """Verify a dataset's checksums and structure; names every broken file, and files that are not part of the dataset.

    Example: verbot data check outputs/demo/dataset

    Args:
        path: the dataset's folder.
    """
    from verbot.data import check_dataset

    found = check_dataset(path, reading.features)
    problems = [finding for finding in found if finding.kind != "note"]
    for finding in found:
        print(finding)
    print(f"{path}: {len(problems)} problem(s)" if problems else f"{path}: all well")
    return 1 if problems else 0


def data_lint_command(
    path: Positional[Path],
    out: Path | None = None,
    reading: ReadingOptions = READING,
    json: bool = False,
    strict: bool = False,
    set: tuple[str, ...] = (),
) -> int:
    """Look for what may spoil training: constant dimensions, jumps, frozen cameras, a wrong action space, misspelled sentences.

    Example: verbot data lint outputs/demo/dataset --out outputs/lint

    Args:
        path: the dataset's folder.
        out: folder for lint.html, a page with plots and pictures, and lint.json.
        json: print the report as JSON.
        strict: exit with 1 if there is an error or a warning.
        set: thresholds as name=value, e.g. jump_steps=10 picture_step=1; see docs/reference/configuration.md.
    """
    import shlex

    from verbot.configuration import assignments, build
    from verbot.data.quality import LintConfig
    from verbot.workflows.lint import PAGE, lint_dataset

    config = build(LintConfig, assignments(set))
    given = [*(["--map", *reading.map] if reading.map else []), *(["--set", *set] if set else [])]
    command = shlex.join(["verbot", "data", "lint", str(path), *given])
    report = lint_dataset(path, out, config, features=reading.features, command=command, progress=not json)
    if json:
        print(json_module.dumps(report.to_json(), indent=1))
    else:
        print(*report.lines(), sep="\n")
        if out is not None:
            print(out / PAGE)
    return 1 if strict and not report.clean else 0


def data_info_command(path: Positional[Path], reading: ReadingOptions = READING) -> int:
    """Print the content of a dataset: robot, cameras, episodes, instructions, statistics.

    Example: verbot data info outputs/demo/dataset

    Args:
        path: the dataset's folder.
    """
    from verbot.workflows.inspect import describe

    print(describe(path, reading.features))
    return 0


def data_view_command(
    path: Positional[Path], episode: int = 0, out: Path | None = None, reading: ReadingOptions = READING
) -> int:
    """Write or show one recorded episode as a video.

    Example: verbot data view outputs/demo/dataset --episode 3 --out episode.mp4

    Args:
        path: the dataset's folder.
        episode: number of the episode.
        out: an .mp4 or .gif; without it a window opens.
    """
    from verbot.rollout import video
    from verbot.workflows.inspect import episode_frames

    frames, rate_hz, instruction = episode_frames(path, episode, reading.features)
    if out is None:
        video.show(frames, rate_hz, instruction)
    else:
        print(video.write(out, frames, rate_hz))
    return 0


def list_command(kind: Positional[str | None] = None) -> int:
    """List envs, robots, recipes, comparison lists, dataset formats, labels and network parts.

    Example: verbot list recipes

    Args:
        kind: list only this kind.
    """
    from verbot.workflows.inspect import listing

    print(*listing(kind), sep="\n")
    return 0


def doctor_command() -> int:
    """Check that this machine has everything that verbot needs, and print what to install otherwise.

    Example: verbot doctor
    """
    from verbot.workflows.doctor import examine

    findings = examine()
    for finding in findings:
        print(f"{'ok     ' if finding.good else 'missing'}  {finding.what}: {finding.detail}")
    return 0 if all(finding.good or finding.optional for finding in findings) else 1
