"""Tensor files of other people: fields by name, sentences per frame, ranges of float pictures, depth, and what is left out."""

import importlib
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from verbot.data import ImportConfig, import_dataset, open_dataset
from verbot.data.importers import open_source
from verbot.data.importers.fields import mapped
from verbot.data.importers.images import depth_of, float_range, frames_of
from verbot.data.importers.tensors import Tensors
from verbot.errors import DataError


@pytest.fixture
def arrays(truth):
    one = truth(0, length=6)
    return {
        "observations.front": one.images["front"],
        "observations.depth": np.full((6, 24, 32), 1500, np.uint16),
        "observations.state": one.states,
        "observations.force": np.arange(6, dtype=np.float32)[:, None],
        "arm": one.actions,
        "base": np.arange(12, dtype=np.float32).reshape(6, 2),
        "rewards": np.arange(6, dtype=np.float32),
        "dones": np.arange(6) == 5,
        "task": np.array([list(b"go")] * 6, np.uint8),
        "embedding": np.zeros((6, 512), np.float32),
    }


def raw(path, **options):
    return next(open_source("tensors", path, None, options).items()).read()


def test_fields_are_named_and_joined_and_the_rest_is_listed(tmp_path, arrays):
    save_file(arrays, tmp_path / "data.safetensors")
    words = ["observation.state=state", "action=arm,base", "images.top=front", "instruction=task", "depth.deep=depth"]
    one = raw(tmp_path, **mapped(words), depth_unit="mm")
    assert list(one.state) == ["state"] and list(one.action) == ["arm", "base"] and list(one.cameras) == ["top", "deep"]
    assert one.instructions == ("go",) and abs(one.cameras["deep"]()[0, 0, 0] - 1.5) < 1e-6
    assert one.columns["next.reward"].tolist() == list(range(6)) and one.columns["next.done"].tolist() == [False] * 5 + [True]
    left = {note.field: note.reason for note in one.notes if note.taken_as == "left out"}
    assert left == {
        "embedding": "numbers 512; taken with --map observation.state=embedding or action=embedding",
        "observations.force": "numbers 1; taken with --map observation.state=observations.force or action=observations.force",
    }
    default = raw(tmp_path, action="arm")
    assert list(default.state) == ["force", "state"] and list(default.cameras) == ["front"] and default.instructions is None
    assert {note.field for note in default.notes if note.taken_as == "left out"} == {
        "base",
        "embedding",
        "observations.depth",
        "task",
    }
    with pytest.raises(DataError, match=r"has no action field 'hand'; it has arm \(3\), base \(2\)"):
        raw(tmp_path, action="hand")


@pytest.mark.parametrize("suffix", ["safetensors", "npz", "npz compressed", "npz fortran", "pt"])
def test_sentences_per_frame_hold_for_their_frames(tmp_path, arrays, suffix):
    texts = ["reach", "reach", "grasp", "", "", "lift"]
    arrays = {"observations.front": arrays["observations.front"], "actions": arrays["arm"]}
    if suffix == "safetensors":
        save_file(arrays, tmp_path / "data.safetensors", {"language": json.dumps(texts)})
    elif suffix == "pt":
        torch = pytest.importorskip("torch")
        torch.save({**{k: torch.from_numpy(v) for k, v in arrays.items()}, "language": texts}, tmp_path / "data.pt")
    else:
        save = np.savez_compressed if suffix == "npz compressed" else np.savez
        if suffix == "npz fortran":
            arrays = {name: np.asfortranarray(array) for name, array in arrays.items()}
        save(tmp_path / "data.npz", language=np.array(texts), **arrays)
    one = raw(tmp_path)
    segments = [(s.start, s.stop, s.wordings[0]) for s in one.segments]
    assert segments == [(0, 2, "reach"), (2, 3, "grasp"), (3, 5, ""), (5, 6, "lift")] and one.instructions == ("reach",)
    np.testing.assert_array_equal(one.action["actions"], arrays["actions"])
    np.testing.assert_array_equal(one.cameras["front"](), arrays["observations.front"])


LEVELS = np.arange(40, 100, dtype=np.float64)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (LEVELS / 255, "unit"),  # bright, but on the levels of 8 bits
        (LEVELS / 255 + 0.0003 - LEVELS.min() / 255, "unit"),  # off the levels, but dark
        ((LEVELS + 128) / 127.5 - 1, "signed"),  # no negative pixel, but on the levels of −1..1
        (LEVELS / 127.5 - 1, "signed"),
        (LEVELS[1:2] / 255, None),  # one odd level
        (np.ones(9), "unit"),
        ((LEVELS / 255).astype(np.float16), "unit"),
        (LEVELS, "byte"),
        (LEVELS / 255 + 0.0013, None),  # neither dark nor on any levels
        (LEVELS / 99 * 1.5, None),
        (LEVELS * 9, None),
    ],
)
def test_the_range_of_float_pictures_needs_evidence(values, found):
    frames = np.broadcast_to(values[None, :, None, None], (2, len(values), 4, 3))
    if found is None:
        with pytest.raises(
            DataError, match=r"x has float64 pixels from .*(give the range: floats=unit, signed or byte|expected)"
        ):
            float_range(frames, "x")
        return
    assert float_range(frames, "x")[0] == found
    levels = LEVELS if values.dtype == np.float16 or found != "signed" or values.min() < 0 else LEVELS + 128
    if len(values) > 9 and (abs(values[0] * 255 - LEVELS[0]) < 1 or found != "unit"):
        np.testing.assert_array_equal(frames_of(frames, "x")[0, :, 0, 0], levels.astype(np.uint8))


def test_the_first_episode_decides_the_range_for_all(tmp_path, arrays):
    dark, bright = np.zeros((2, 8, 8, 3), np.float32), np.full((2, 8, 8, 3), 0.4, np.float32)
    dark[:, 4:] = -1
    for number, frames in enumerate((dark, bright)):
        save_file({"actions": np.ones((2, 1), np.float32), "observations": frames}, tmp_path / f"{number}.safetensors")
    source = open_source("tensors", tmp_path, None, {})
    last = list(source.items())[1].read()
    assert last.cameras["image"]()[0, 0, 0, 0] == round(1.4 * 127.5)  # not 0.4 × 255
    (note,) = (note for note in last.notes if note.taken_as == "camera image")
    assert note.conversion == "(x + 1) × 127.5" and note.reason == "floats: values from -1 to 0"


def test_depth_in_meters():
    np.testing.assert_array_equal(depth_of(np.float64([[[[1.5], [np.nan]]]]), "x", 1.0), np.float32([[[1.5, 0]]]))
    np.testing.assert_allclose(depth_of(np.uint16([[[1500]]]), "x", 0.001), 1.5)
    for values in (np.zeros((1, 2, 2, 3)), np.array([[["a"]]])):
        with pytest.raises(DataError, match="x is"):
            depth_of(values, "x", 1.0)


def test_a_pose_matrix_is_no_picture(tmp_path):
    save_file(
        {"actions": np.ones((2, 1), np.float32), "observations.pose": np.zeros((2, 4, 4), np.float32)}, tmp_path / "a.safetensors"
    )
    one = raw(tmp_path)
    assert one.cameras == {} and one.state == {}
    (note,) = one.notes
    assert note.reason == "numbers 4×4; taken with --map observation.state=observations.pose or action=observations.pose"
    assert raw(tmp_path, state="pose").state["pose"].shape == (2, 4, 4)


def test_channels_are_named(tmp_path):
    pictures = {f"observations.c{n}": np.full((2, 8, 8, n), 7, np.uint8) for n in (1, 4)}
    save_file({"actions": np.ones((2, 1), np.float32), **pictures}, tmp_path / "data.safetensors")
    notes = {note.field: note.conversion for note in raw(tmp_path).notes}
    assert notes == {"observations.c1": "one channel, repeated", "observations.c4": "the fourth channel left out"}


def test_one_recording_in_three_formats_gives_the_same_numbers(tmp_path, truth, case):
    """Formats without an exporter: one recording, written in each, is the same dataset."""
    from PIL import Image

    case("r01_own")
    formats, own = importlib.import_module("_formats"), importlib.import_module("r01_own")
    one = truth(3, cameras=("image",), length=7)
    rlds, manifest, tensors = (tmp_path / name for name in ("rlds", "manifest", "tensors"))
    steps = {
        "steps/observation/image": [formats.png(frame) for frame in one.images["image"]],
        "steps/observation/state": one.states,
        "steps/action": one.actions,
        "steps/language_instruction": [one.instruction.encode()] * 7,
    }
    described = {key: own.F[key] for key in own.F if "image" not in key} | {"steps/observation/image": formats.image((24, 32, 3))}
    described |= {"steps/observation/state": formats.tensor("float32", (4,)), "steps/action": formats.tensor("float32", (3,))}
    formats.rlds(rlds, "mine", [{**formats.flags(7), **steps}], described)
    manifest.mkdir()
    entries = []
    for t in range(7):
        Image.fromarray(one.images["image"][t]).save(manifest / f"{t}.png")
        numbers = {"action": one.actions[t].tolist(), "robot_state": one.states[t].tolist(), "reward": 0, "done": t == 6}
        entries.append({"episode_id": 0, "image_path": f"{t}.png", "instruction": one.instruction, **numbers})
    (manifest / "manifest.json").write_text(json.dumps(entries))
    tensors.mkdir()
    arrays = {"observations.image": one.images["image"], "observations.state": one.states, "actions": one.actions}
    arrays |= {"rewards": np.zeros(7, np.float32), "dones": np.arange(7) == 6}
    save_file(arrays, tensors / "data.safetensors", {"language": json.dumps(one.instruction)})
    found = []
    for source in (rlds, manifest, tensors):
        result = import_dataset(source, tmp_path / f"from-{source.name}", ImportConfig(rate_hz=10))
        assert (result.skipped, result.problems) == ((), ())
        (episode,) = open_dataset(tmp_path / f"from-{source.name}")
        found.append(
            (episode.states.tobytes(), episode.actions.tobytes(), episode.images("image").tobytes(), episode.instructions)
        )
    assert found[0] == found[1] == found[2]
    assert found[0][0] == one.states.tobytes() and found[0][1] == one.actions.tobytes()


def test_a_wrong_option_is_reported_after_a_few_episodes(tmp_path, monkeypatch):
    """Not after reading the whole source."""
    arrays = {"actions": np.ones((20, 1), np.float32), "episode_indices": np.arange(20)}
    save_file(arrays, tmp_path / "data.safetensors")
    for number in range(9):
        save_file({"actions": np.ones((1, 1), np.float32)}, tmp_path / f"more{number}.safetensors")
    opened, read = [], Tensors._opened
    monkeypatch.setattr(Tensors, "_opened", lambda self, path: opened.append(path) or read(self, path))
    with pytest.raises(DataError, match=r"no episode .* has no action field 'torque'; it has actions \(1\).* \(and 2 more\)"):
        import_dataset(tmp_path, tmp_path / "out", ImportConfig(rate_hz=1, instruction="", options={"action": "torque"}))
    assert len(opened) == 3
