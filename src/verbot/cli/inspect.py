"""Commands that inspect datasets, registries and the machine."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional


def data_check_command(path: Positional[Path]) -> int:
    """Verify a dataset's checksums and structure; names every broken file.

    Example: verbot data check outputs/demo/dataset

    Args:
        path: the dataset's folder.
    """
    from verbot.data import check_dataset

    problems = check_dataset(path)
    for problem in problems:
        print(problem)
    print(f"{path}: {len(problems)} problem(s)" if problems else f"{path}: all well")
    return 1 if problems else 0


def data_info_command(path: Positional[Path]) -> int:
    """Print the content of a dataset: robot, cameras, episodes, instructions, statistics.

    Example: verbot data info outputs/demo/dataset

    Args:
        path: the dataset's folder.
    """
    from verbot.workflows.inspect import describe

    print(describe(path))
    return 0


def data_view_command(path: Positional[Path], episode: int = 0, out: Path | None = None) -> int:
    """Write or show one recorded episode as a video.

    Example: verbot data view outputs/demo/dataset --episode 3 --out episode.mp4

    Args:
        path: the dataset's folder.
        episode: number of the episode.
        out: an .mp4 or .gif; without it a window opens.
    """
    from verbot.rollout import video
    from verbot.workflows.inspect import episode_frames

    frames, rate_hz, instruction = episode_frames(path, episode)
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
