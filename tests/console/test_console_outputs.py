"""What can be opened from the console: reports, comparisons and datasets below one folder, and nothing else."""

from __future__ import annotations

from contextlib import closing

import pytest

from verbot.data import DatasetWriter
from verbot.envs import make_env
from verbot.errors import DataError
from verbot.rollout.collect import episode_record
from verbot.rollout.episode import EpisodeRunner
from verbot.workflows.console_outputs import BYTES, Outputs, policies_below


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("outputs")
    with closing(make_env("navigation")) as env, DatasetWriter(root / "rover", env.robot_spec) as writer:
        episode, expert = EpisodeRunner(env, {"index": 0}), env.expert()
        expert.reset(episode.instruction)
        writer.save_episode(episode_record(episode, list(episode.run(expert))))
    for name, files in {
        "run/evaluation": ("report.html",),
        "compared": ("report.html", "table.json"),
        "run/policy": ("manifest.json", "policy.json"),
        "a/b/c/d/e": ("report.html",),  # too deep
        ".hidden": ("report.html",),
    }.items():
        (root / name).mkdir(parents=True)
        for file in files:
            (root / name / file).write_text("{}")
    (root / "linked").symlink_to("/")
    (root / "run" / "explain.html").symlink_to("/etc/passwd")
    (root / "run" / "report.html").symlink_to("nowhere.html")
    return root


def test_reports_comparisons_and_datasets_are_listed(root):
    found = {entry["path"]: entry["kind"] for entry in Outputs(root).listing()}
    assert found == {
        "run/evaluation/report.html": "report", "compared/report.html": "comparison", "rover/dataset.html": "dataset",
    }  # fmt: skip
    assert policies_below(root) == (str(root / "run" / "policy"),)
    assert Outputs(root / "nowhere").listing() == [] and policies_below(root / "nowhere") == ()


def test_a_dataset_is_described_and_its_episodes_are_videos(root):
    page, kind = Outputs(root).read("rover/dataset.html")
    assert kind.startswith("text/html") and b"episode-0.mp4" in page and b"<script" not in page
    content, kind = Outputs(root).read("rover/episode-0.mp4")
    assert kind == "video/mp4" and content[4:8] == b"ftyp"


@pytest.mark.parametrize(
    "path",
    [
        "run/explain.html",
        "linked/etc/passwd",
        "../x/report.html",
        "/etc/report.html",
        "run/policy/policy.json",
        "nowhere/report.html",
    ],
)
def test_nothing_else_is_read(root, path):
    with pytest.raises((DataError, OSError)):
        Outputs(root).read(path)


def test_a_report_beyond_the_limit_is_refused(root):
    path = root / "run" / "lint.html"
    with open(path, "wb") as file:
        file.truncate(BYTES + 1)
    with pytest.raises(DataError, match=str(BYTES)):
        Outputs(root).read("run/lint.html")
    path.unlink()
