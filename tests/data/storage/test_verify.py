from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from verbot.data import DatasetWriter, FrameCache, check_dataset, open_dataset
from verbot.errors import CorruptFileError

FIXTURE = Path(__file__).parents[2] / "fixtures/lerobot_v3"


def files(root: Path) -> list[Path]:
    found = (path for path in root.rglob("*") if path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts))


def flip(path: Path, rng: np.random.Generator) -> None:
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(content)


def cut(path: Path, rng: np.random.Generator) -> None:
    path.write_bytes(path.read_bytes()[: rng.integers(path.stat().st_size)])


def remove(path: Path, rng: np.random.Generator) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [flip, cut, remove])
def test_every_damaged_file_is_named(written, tmp_path, damage):
    """After a flipped bit, a truncation or a deletion the check names that file and no other."""
    rng = np.random.default_rng(0)
    names = [path.relative_to(written) for path in files(written)]
    assert len(names) == 18
    for name in names:
        root = tmp_path / "copy"
        shutil.copytree(written, root)
        damage(root / name, rng)
        found = check_dataset(root)
        expected = str(root) if name.name == "info.json" and damage is remove else str(root / name)
        assert [finding.path for finding in found] == [expected], (name, found)
        shutil.rmtree(root)


@pytest.mark.parametrize("damage", [flip, cut])
def test_a_damaged_journal_entry_is_named(tmp_path, spec, make, damage):
    writer = DatasetWriter(tmp_path / "d", spec)
    for number in range(3):
        writer.save_episode(make(number))
    writer._open.close()
    broken = sorted((tmp_path / "d/journal").iterdir())[1]
    damage(broken, np.random.default_rng(1))
    assert [finding.path for finding in check_dataset(tmp_path / "d")] == [str(broken)]
    with pytest.raises(CorruptFileError, match="episode-000001") as error:
        open_dataset(tmp_path / "d")
    assert error.value.path == str(broken)


@pytest.mark.parametrize(
    ("pattern", "read"),
    [
        ("data/*/file-001.parquet", lambda dataset: dataset[4].actions),
        ("videos/*wrist/*/file-001.mp4", lambda dataset: dataset[4].images("wrist")),
        ("meta/episodes/*/file-001.parquet", lambda dataset: dataset[4]),
        ("meta/verbot/*/file-001.parquet", lambda dataset: dataset[4]),
        ("meta/stats.json", lambda dataset: dataset.statistics()),
    ],
)
def test_reading_a_damaged_file_raises_with_its_name(written, tmp_path, pattern, read):
    root = tmp_path / "d"
    shutil.copytree(written, root)
    (path,) = root.glob(pattern)
    flip(path, np.random.default_rng(3))
    with pytest.raises(CorruptFileError) as error:
        read(open_dataset(root))
    assert error.value.path == str(path)


@pytest.mark.parametrize("name", ["videos/observation.images.front/chunk-000/file-000.mp4", "data/chunk-000/file-000.parquet"])
def test_a_truncated_file_of_other_software_is_named(tmp_path, name):
    """Without checksums every packet is read."""
    root = tmp_path / "d"
    shutil.copytree(FIXTURE, root)
    (root / name).write_bytes((root / name).read_bytes()[:-900])
    assert str(root / name) in [finding.path for finding in check_dataset(root)]


def test_a_truncated_cache_is_named(written, tmp_path):
    FrameCache(open_dataset(written), ["front"], folder=tmp_path)
    (frames,) = tmp_path.glob("front-*.rgb")
    frames.write_bytes(frames.read_bytes()[:-1])
    with pytest.raises(CorruptFileError, match="shorter than its"):
        FrameCache(open_dataset(written), ["front"], folder=tmp_path)
