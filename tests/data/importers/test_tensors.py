import io
import json
import pickle

import numpy as np
import pytest
from safetensors.numpy import save_file

from verbot.data import ImportConfig, import_dataset, open_dataset
from verbot.errors import DataError


def columns(truths, camera="front"):
    return {
        "observations.front": np.concatenate([one.images[camera] for one in truths]),
        "observations.state": np.concatenate([one.states for one in truths]),
        "actions": np.concatenate([one.actions for one in truths]),
        "episode_indices": np.concatenate([np.full(len(one), 7 - number) for number, one in enumerate(truths)]),
    }


def utf8(sentences):
    rows = [sentence.encode() for sentence in sentences]
    return np.array([list(row.ljust(max(map(len, rows)), b"\0")) for row in rows], np.uint8)


@pytest.fixture
def truths(truth):
    return [truth(number) for number in range(3)]


KEYS = [f"data.{{}}, episode {number}" for number in (7, 6, 5)]


def keys(suffix):
    return [key.format(suffix) for key in KEYS]


@pytest.mark.parametrize("language", ["metadata", "bytes", "a frame"])
def test_safetensors(tmp_path, truths, same, language):
    sentences, metadata = [one.instruction for one in truths], None
    arrays = columns(truths)
    if language == "metadata":
        metadata = {"language": json.dumps(sentences)}
    elif language == "bytes":
        arrays["language"] = utf8(sentences)
    else:
        arrays["language"] = utf8([one.instruction for one in truths for _ in range(len(one))])
    save_file(arrays, tmp_path / "data.safetensors", metadata)
    result = import_dataset(tmp_path / "data.safetensors", tmp_path / "out", ImportConfig(rate_hz=10))
    assert result.skipped == () and result.format == "tensors"
    same(tmp_path / "out", truths, keys("safetensors"))


def test_npz_with_text_and_channels_first(tmp_path, truths, same):
    arrays = columns(truths)
    arrays["observations.front"] = np.moveaxis(arrays["observations.front"], -1, 1)
    np.savez(tmp_path / "data.npz", language=np.array([one.instruction for one in truths]), **arrays)
    import_dataset(tmp_path / "data.npz", tmp_path / "out", ImportConfig(rate_hz=10))
    same(tmp_path / "out", truths, keys("npz"))


def test_torch_without_pickled_objects(tmp_path, truths, same):
    torch = pytest.importorskip("torch")
    arrays = {name: torch.from_numpy(array) for name, array in columns(truths).items()}
    content = {
        "observations": {"front": arrays["observations.front"], "state": arrays["observations.state"]},
        "actions": arrays["actions"],
        "episode_indices": arrays["episode_indices"],
        "language": [one.instruction for one in truths],
    }
    torch.save(content, tmp_path / "data.pt")
    import_dataset(tmp_path, tmp_path / "out", ImportConfig(rate_hz=10, format="tensors"))
    same(tmp_path / "out", truths, keys("pt"))


class Payload:
    def __reduce__(self):
        return (open, (str(Payload.target), "w"))


@pytest.mark.parametrize("name", ["data.npz", "data.pt"])
def test_pickled_code_is_refused_and_never_runs(tmp_path, name):
    torch = pytest.importorskip("torch")
    Payload.target = tmp_path / "ran"
    if name == "data.npz":
        np.savez(tmp_path / name, actions=np.array([Payload()], dtype=object))
    else:
        torch.save({"actions": Payload()}, tmp_path / name, pickle_module=pickle)
    with pytest.raises(DataError, match=f"{name}: cannot be read"):
        import_dataset(tmp_path / name, tmp_path / "out", ImportConfig(rate_hz=10, instruction="x"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("floats", "low"), [("auto", 0.0), ("auto", -1.0), ("signed", -1.0), ("byte", 0.0)])
def test_pictures_of_floats(tmp_path, truths, same, floats, low):
    arrays = columns(truths)
    bytes_ = arrays["observations.front"].astype(np.float32)
    scaled = bytes_ / 255 if low == 0 else bytes_ / 127.5 - 1
    arrays["observations.front"] = bytes_ if floats == "byte" else scaled
    np.savez(tmp_path / "data.npz", language=np.array([one.instruction for one in truths]), **arrays)
    import_dataset(tmp_path / "data.npz", tmp_path / "out", ImportConfig(rate_hz=10, options={"floats": floats}))
    same(tmp_path / "out", truths)


def test_without_indices_state_or_camera_it_is_one_episode(tmp_path, truth):
    one = truth(0)
    save_file({"actions": one.actions, "observations": one.images["front"]}, tmp_path / "a.safetensors")
    import_dataset(tmp_path / "a.safetensors", tmp_path / "out", ImportConfig(rate_hz=10, instruction="push it"))
    episode = open_dataset(tmp_path / "out")[0]
    assert (episode.instruction, episode.states.shape, episode.dataset.camera_names) == ("push it", (5, 0), ("image",))
    save_file({"actions": one.actions, "observations": one.states}, tmp_path / "b.safetensors")
    import_dataset(tmp_path / "b.safetensors", tmp_path / "two", ImportConfig(rate_hz=10, instruction=""))
    dataset = open_dataset(tmp_path / "two")
    assert dataset.camera_names == () and dataset[0].states.tobytes() == one.states.tobytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"actions": None}, "has no tensor 'actions'; it has episode_indices, language"),
        ({"observations.state": np.zeros((3, 2))}, "observations.state has shape (3, 2) for 18 actions"),
        ({"episode_indices": np.zeros(18)}, "episode_indices are float64; expected integers"),
        (
            {"language": np.zeros((3, 512), np.float32)},
            "language is float32 (3, 512), such as embeddings; expected text, or UTF-8",
        ),
        ({"language": utf8(["one", "two"])}, "language has 2 sentences; expected one a frame (18), one an episode (3) or one"),
        ({"language": np.full((1, 2), 255, np.uint8)}, "language is not UTF-8"),
        ({"observations.front": np.full((18, 4, 4, 3), 300.0)}, "pixels from 300 to 300; expected 0..1, −1..1 or 0..255"),
        ({"observations.front": np.full((18, 4, 4, 3), np.nan)}, "has pixels that are not finite"),
        ({"observations.front": np.zeros((18, 5, 5, 7), np.uint8)}, "expected 1, 3 or 4 channels"),
        ({"images": np.zeros((18, 4), np.uint8)}, "has shape (5, 4); expected pictures (t, h, w, 3)"),
    ],
)
def test_tensors_that_do_not_fit_are_reported(tmp_path, truths, change, message):
    arrays = {"language": utf8([one.instruction for one in truths]), **columns(truths), **change}
    save_file({name: array for name, array in arrays.items() if array is not None}, tmp_path / "data.safetensors")
    with pytest.raises(DataError) as raised:
        import_dataset(tmp_path / "data.safetensors", tmp_path / "out", ImportConfig(rate_hz=10))
    assert message in str(raised.value)


def test_a_file_cut_short_is_named_and_the_others_imported(tmp_path, truths, same):
    source = tmp_path / "raw"
    source.mkdir()
    for number, one in enumerate(truths):
        save_file({**columns([one]), "language": utf8([one.instruction])}, source / f"{number}.safetensors")
    (source / "1.safetensors").write_bytes((source / "1.safetensors").read_bytes()[:-100])
    sink = io.BytesIO()
    np.savez(sink, **columns([truths[0]]))
    (source / "3.npz").write_bytes(sink.getvalue()[:-500])
    result = import_dataset(source, tmp_path / "out", ImportConfig(rate_hz=10))
    assert [skipped.episode for skipped in result.skipped] == ["1.safetensors", "3.npz"]
    assert all("cannot be read" in skipped.problem for skipped in result.skipped)
    same(tmp_path / "out", [truths[0], truths[2]])


def test_an_unknown_range_of_floats_is_reported(tmp_path, truths):
    np.savez(tmp_path / "data.npz", **columns(truths))
    with pytest.raises(DataError, match="floats must be one of auto, unit, signed, byte; got 'half'"):
        import_dataset(
            tmp_path / "data.npz", tmp_path / "out", ImportConfig(rate_hz=10, instruction="", options={"floats": "half"})
        )
