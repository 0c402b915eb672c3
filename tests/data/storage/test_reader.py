"""Reads a dataset written by LeRobot: `truth` holds the recorded values, `expected` the output of LeRobot's own reader."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from verbot.data import WindowConfig, Windows, check_dataset, open_dataset
from verbot.data.samples.image_statistics import channel_medians
from verbot.errors import CorruptFileError, DataError

FIXTURES = Path(__file__).parents[2] / "fixtures"
FIXTURE = FIXTURES / "lerobot_v3"


def test_numbers_and_sentences():
    dataset = open_dataset(FIXTURE)
    truth = np.load(FIXTURES / "lerobot_v3_truth.npz")
    states, actions = (truth[name] for name in sorted(truth.files, key=lambda name: -truth[name].shape[1]))
    assert [len(episode) for episode in dataset] == [12, 9, 17]
    assert np.array_equal(np.concatenate([episode.states for episode in dataset]), states)
    assert np.array_equal(np.concatenate([episode.actions for episode in dataset]), actions)
    sentences = ["pick up the red cube", "push the blue cylinder to the left", "pick up the red cube"]
    assert [episode.instruction for episode in dataset] == sentences
    assert dataset.statistics()["state"].mean == pytest.approx(states.mean(axis=0), abs=1e-6)


def test_channel_medians_are_those_of_the_first_images():
    dataset = open_dataset(FIXTURE)
    found = channel_medians(dataset)
    assert set(found) == {"front", "wrist"}
    for camera, color in found.items():
        first = np.stack([episode.images(camera)[0] for episode in dataset]).reshape(-1, 3)
        assert color == tuple(np.median(first, axis=0).tolist())
    some = np.stack([dataset[i].images("front")[0] for i in (0, 2)])
    assert channel_medians(dataset, 2)["front"] == tuple(np.median(some.reshape(-1, 3), axis=0).tolist())


def test_a_spec_is_derived_from_the_features():
    spec = open_dataset(FIXTURE).spec
    assert (spec.name, spec.rate_hz, spec.camera_names) == ("panda", 10.0, ("front", "wrist"))
    assert spec.action[0].axes == ("dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper")
    assert spec.state_size == 8 and spec.state[0].kind == "other"
    known = dataclasses.replace(spec, name="known")
    assert open_dataset(FIXTURE, spec=known).spec.name == "known"


def test_every_frame_of_both_cameras():
    for episode in open_dataset(FIXTURE):
        front, wrist = episode.images("front"), episode.images("wrist")
        t = np.arange(len(episode))
        assert np.abs(front[..., 0].mean(axis=(1, 2)) - (20 + 10 * t)).max() < 3
        assert np.abs(front[:, :, 40:, 1].mean(axis=(1, 2)) - (20 + 40 * episode.index)).max() < 3
        assert np.abs(wrist[..., 2].mean(axis=(1, 2)) - (20 + 10 * t)).max() < 3


def test_windows_equal_the_output_of_lerobots_reader():
    windows = Windows(open_dataset(FIXTURE), WindowConfig(chunk=4))
    for index, task, number, frame, is_pad, front, wrist in json.loads((FIXTURES / "lerobot_v3_expected.json").read_text()):
        batch = windows.batch([index], np.random.default_rng(0))
        assert batch.instructions == [task]
        assert (~batch.actions_mask[0]).tolist() == is_pad
        episode = open_dataset(FIXTURE)[number]
        assert np.array_equal(batch.state[0, 0], episode.states[frame])
        assert batch.images[0, 0].mean(axis=(1, 2)) / 255 == pytest.approx(np.array([front, wrist]), abs=0.003)


def test_an_intact_dataset_of_other_software_passes_the_check():
    assert check_dataset(FIXTURE) == []


def test_images_stored_in_parquet(tmp_path):
    root = tmp_path / "d"
    shutil.copytree(FIXTURE, root)
    key, path = "observation.images.wrist", root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    cells = []
    for number in range(len(table)):
        picture = io.BytesIO()
        Image.fromarray(np.full((64, 64, 3), number, np.uint8)).save(picture, format="PNG")
        cells.append({"bytes": picture.getvalue(), "path": None})
    pq.write_table(table.append_column(key, pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))), path)
    info = json.loads((root / "meta/info.json").read_text())
    info["features"][key]["dtype"] = "image"
    (root / "meta/info.json").write_text(json.dumps(info))
    assert open_dataset(root)[1].images("wrist")[:, 0, 0, 0].tolist() == list(range(12, 21))


def test_what_is_no_dataset_is_said_so(tmp_path):
    with pytest.raises(DataError, match="holds no dataset"):
        open_dataset(tmp_path)
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/info.json").write_text('{"codebase_version": "v1.6"}')
    with pytest.raises(DataError, match="version 'v1.6'; verbot reads v3.0, v2.1, v2.0"):
        open_dataset(tmp_path)
    (tmp_path / "meta/info.json").write_text('{"codebase_ver')
    with pytest.raises(CorruptFileError, match=r"meta/info.json: is not JSON"):
        open_dataset(tmp_path)
    (tmp_path / "meta/info.json").write_text('{"codebase_version": "v3.0"}')
    with pytest.raises(CorruptFileError, match="lacks data_path, features, fps, total_episodes, total_frames"):
        open_dataset(tmp_path)
