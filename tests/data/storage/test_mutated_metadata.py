"""Whatever the metadata of a dataset say, reading and checking it work or raise one line; there is never a traceback.

Every field of every metadata file is deleted, emptied, or replaced by values that it cannot have.
"""

from __future__ import annotations

import copy
import importlib
import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from verbot.data import DatasetWriter, check_dataset, open_dataset
from verbot.errors import VerbotError

TESTS = Path(__file__).parents[2]
DELETED, DOUBLED = "deleted", "doubled"
NUMBERS = [-1, 0, 10**18, 2**70, 0.5, math.nan, math.inf]
TEXTS = ["", "text", "../../etc", "{x}", "{0}"]
VALUES = [None, True, *NUMBERS, *TEXTS, [], [1], ["a"], {}, {"a": 1}]
CHANGES = [DELETED, DOUBLED, *VALUES]
IN_CI, IN_SOAK = 150, 4000  # mutations of each dataset


def cases() -> Any:
    sys.path.insert(0, str(TESTS / "cases"))
    try:
        return tuple(map(importlib.import_module, ("_v3", "l27_v21", "l10c_depth_png16")))
    finally:
        sys.path.remove(str(TESTS / "cases"))


def v3(root: Path) -> None:
    writer, *_ = cases()
    episodes = [writer.episode(4), writer.episode(3, task="put it down")]
    writer.write(root, episodes, codec="libx264", sizes={"observation.images.front": (16, 32)})


def v3_image(root: Path) -> None:
    writer, *_ = cases()
    episodes = [writer.episode(4), writer.episode(3, task="put it down")]

    def reward(columns: dict[str, Any], features: dict[str, Any]) -> None:
        columns["next.reward"] = [0.5] * len(columns["index"])
        features["next.reward"] = {"dtype": "float32", "shape": [1], "names": None}

    writer.write(root, episodes, dtype="image", sizes={"observation.images.front": (16, 32)}, frame_hook=reward)


def v21(root: Path) -> None:
    cases()[1].make(root)
    stats = {"action": {"min": [-1.0] * 7, "max": [1.0] * 7}, "observation.state": {"min": [-1.0] * 7, "max": [1.0] * 7}}
    lines = (json.dumps({"episode_index": i, "stats": stats}) for i in range(2))
    (root / "meta/episodes_stats.jsonl").write_text("\n".join(lines))


def depth(root: Path) -> None:
    cases()[2].make(root)


BASES: dict[str, Callable[[Path], None]] = {"v3": v3, "v3_image": v3_image, "v21": v21, "depth": depth}


@pytest.fixture(scope="module")
def bases(tmp_path_factory, spec, make) -> dict[str, Path]:
    """Small datasets of every kind, to be changed and put back."""
    folder = tmp_path_factory.mktemp("bases")
    for name, write in BASES.items():
        write(folder / name)
    with DatasetWriter(folder / "ours", spec) as writer:
        for number in range(2):
            writer.save_episode(make(number))
    shutil.copytree(folder / "ours", folder / "ours_changed")  # its checksums count no more
    info = json.loads((folder / "ours_changed/meta/info.json").read_text())
    info["verbot"] |= {"episodes": 1, "seal": "of the time when there was one episode"}
    (folder / "ours_changed/meta/info.json").write_text(json.dumps(info))
    return {path.name: path for path in folder.iterdir()}


def targets(root: Path) -> list[tuple[str, tuple[Any, ...]]]:
    """Every metadata field: its file, and the keys that lead to it."""
    found = []
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.suffix == ".json":
            found += [(name, keys) for keys in fields(json.loads(path.read_text()))]
        elif path.suffix == ".jsonl":
            found += [(name, (i, *keys)) for i, record in enumerate(records(path)) for keys in fields(record)]
        elif path.suffix == ".parquet":
            table = pq.read_table(path)
            wanted = [each for each in table.column_names if not each.startswith("stats/")]
            found += [(name, (row, column)) for column in wanted for row in {0, len(table) - 1}]
    return found


def fields(value: Any) -> Iterator[tuple[Any, ...]]:
    yield ()
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from ((key, *rest) for rest in fields(value[key]))


def records(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def changed(value: Any, keys: tuple[Any, ...], change: Any) -> Any:
    if not keys:
        return change if change not in (DELETED, DOUBLED) else [value, value]
    value = copy.copy(value)
    if len(keys) == 1 and change == DELETED:
        del value[keys[0]]
    elif len(keys) == 1 and change == DOUBLED:
        value[keys[0]] = [value[keys[0]]] * 2
    else:
        value[keys[0]] = changed(value[keys[0]], keys[1:], change)
    return value


def mutate(path: Path, keys: tuple[Any, ...], change: Any) -> None:
    if path.suffix == ".json":
        path.write_text(json.dumps(changed(json.loads(path.read_text()), keys, change)))
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(record) for record in changed(records(path), keys, change)))
    else:
        pq.write_table(changed_table(pq.read_table(path), *keys, change), path)


def changed_table(table: pa.Table, row: int, column: str, change: Any) -> pa.Table:
    """Deletes or doubles the column at row 0, the row elsewhere; otherwise replaces the cell, and with it the column's type."""
    if change == DELETED:
        return table.drop_columns([column]) if row == 0 else table.slice(0, row)
    if change == DOUBLED:
        return table.append_column(column, table.column(column)) if row == 0 else pa.concat_tables([table, table.slice(row)])
    values = [*table.column(column).to_pylist()]
    values[row] = change
    try:
        array = pa.array(values)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        array = pa.array([str(value) for value in values])
    return table.set_column(table.schema.get_field_index(column), column, array)


def read_everything(root: Path) -> None:
    dataset = open_dataset(root, depth=True)
    assert len(dataset.lengths) == len(dataset)
    for episode in dataset:
        values = [episode.states, episode.actions, *episode.columns.values(), *map(episode.images, dataset.camera_names)]
        assert {len(each) for each in values} == {len(episode)}
        assert [segment.stop for segment in episode.segments][-1] == len(episode)
        assert isinstance(episode.instruction, str)
        assert isinstance(episode.identity, str)
    if len(dataset):
        dataset.statistics()


def check_everything(root: Path) -> None:
    assert all("\n" not in str(finding) for finding in check_dataset(root))


def exercise(root: Path, name: str, keys: tuple[Any, ...], change: Any) -> None:
    path = root / name
    before, said = path.read_bytes(), list[str]()
    mutate(path, keys, change)
    try:
        for use in (read_everything, check_everything):
            try:
                with np.errstate(all="ignore"):
                    use(root)
            except VerbotError as error:
                said.append(str(error))
    finally:
        path.write_bytes(before)
    assert not any("\n" in each for each in said), said


def property_of(root: Path, count: int) -> Callable[[], None]:
    @settings(max_examples=count, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(targets(root)), st.sampled_from(CHANGES))
    def holds(target: tuple[str, tuple[Any, ...]], change: Any) -> None:
        exercise(root, *target, change)

    return holds


KINDS = [*BASES, "ours", "ours_changed"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_field_is_read_or_named(bases, kind):
    read_everything(bases[kind])
    property_of(bases[kind], IN_CI)()


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_many_changed_fields_are_read_or_named(bases, kind):
    property_of(bases[kind], IN_SOAK)()
