"""The options that name fields mean the same in every format, whether they come from ``--map`` or from ``--set``."""

import importlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from verbot.data.importers import open_source, sources
from verbot.data.importers.fields import FieldOptions, mapped
from verbot.errors import ConfigError
from verbot.registry import options_of

CASES = Path(__file__).parents[2] / "cases"
ROWS = 21
SENTENCES = (["pick it up"] * ROWS, ["lift it"] * ROWS)
DEEP = np.full((ROWS, 16, 24), 800, np.uint16)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    color = rng.integers(0, 255, (ROWS, 16, 24, 3), np.uint8)
    return {"arm": rng.normal(size=(ROWS, 3)), "base": rng.normal(size=(ROWS, 2)), "top": color, "deep": DEEP}


def utf8(sentences):
    return np.array([list(text.encode().ljust(12, b"\0")) for text in sentences], np.uint8)


def tensors(path, arrays):
    texts = {"say": utf8(SENTENCES[0]), "say_too": utf8(SENTENCES[1])}
    save = importlib.import_module("safetensors.numpy").save_file
    pictures = {f"observations.{name}": arrays[name] for name in ("top", "deep")}
    save({**texts, **pictures, "arm": arrays["arm"], "base": arrays["base"], "actions": arrays["arm"]}, path / "a.safetensors")


def hdf5(path, arrays):
    with h5py.File(path / "a.hdf5", "w") as file:
        for name, values in arrays.items():
            file[name] = values
        for name, sentences in zip(("say", "say_too"), SENTENCES, strict=True):
            file.create_dataset(name, data=sentences, dtype=h5py.string_dtype())


def zarr(path, arrays):
    root = importlib.import_module("zarr").open_group(path / "a.zarr", mode="w", zarr_format=2)
    stored = {f"data/{name}": values for name, values in arrays.items()}
    stored |= {"data/say": utf8(SENTENCES[0]), "meta/say_too": np.array(SENTENCES[1][:1], "S12")}
    for name, values in {**stored, "data/action": arrays["arm"], "meta/episode_ends": np.array([ROWS])}.items():
        root.create_array(name, data=values)


def mcap(path, arrays):
    ros = importlib.import_module("_ros")

    def more(events, schemas, writer):
        empty = {"dim": [], "data_offset": 0}
        for row in range(ROWS):
            time = ros.T0 + row * 10**8
            for name in ("arm", "base"):
                events.append((time, f"/{name}", "array", {"layout": empty, "data": arrays[name][row].tolist()}))
            events.append((time, "/top", "image", ros.raw(arrays["top"][row], "rgb8", time)))
            events.append((time, "/deep", "image", ros.raw(DEEP[row], "16UC1", time)))
            for name, said in zip(("say", "say_too"), SENTENCES, strict=True):
                events.append((time, f"/{name}", "string", {"data": said[row]}))

    ros.bag(path / "a.mcap", body=more)


WRITERS = {"tensors": tensors, "hdf5": hdf5, "zarr": zarr, "mcap": mcap}


@pytest.fixture(params=sorted(WRITERS))
def read(request, tmp_path, arrays, monkeypatch):
    """The first episode of a source in one of the formats, whose fields are called ``arm``, ``base``, ``top``, …"""
    monkeypatch.syspath_prepend(str(CASES))
    WRITERS[request.param](tmp_path, arrays)

    def episode(**options):
        return next(open_source(request.param, tmp_path, None, options, 10).items()).read()

    episode.format, episode.prefix = request.param, "/" if request.param == "mcap" else ""
    return episode


def test_every_format_has_every_option():
    for name in sources.names():
        assert set(options_of(FieldOptions)) <= set(options_of(sources.get(name))), name


def test_fields_are_taken_by_name(read, arrays):
    p = read.prefix
    words = f"observation.state={p}base,{p}arm action={p}arm images.front={p}top depth.far={p}deep instruction={p}say,{p}say_too"
    raw = read(**mapped(words.split()), depth_unit="cm")
    assert list(raw.state) == ["base", "arm"] and list(raw.action) == ["arm"] and list(raw.cameras) == ["front", "far"]
    np.testing.assert_array_equal(raw.state["base"], arrays["base"])
    np.testing.assert_array_equal(raw.cameras["front"](), arrays["top"])
    depth = raw.cameras["far"]()
    assert depth.dtype == np.float32 and depth.shape == DEEP.shape and np.allclose(depth, 8)
    assert raw.instructions == ("pick it up", "lift it")
    taken = [note.taken_as for note in raw.notes]
    assert "camera far" in taken and "camera front" in taken, "one line a camera, called alike in every format"
    (other,) = set(read(action=f"{p}arm", images=f"{p}top", depth=f"{p}deep", depth_unit="mm").cameras) - {"top"}
    assert other == "deep"


def test_false_takes_none(read):
    action = f"{read.prefix}arm"
    raw = read(action=action, state=False, images=False, depth=False, instruction=False)
    assert (list(raw.state), list(raw.cameras), raw.instructions) == ([], [], None)
    with pytest.raises(ConfigError, match="action is False; a dataset has actions"):
        read(action=False)
    with pytest.raises(ConfigError, match="depth_unit"):
        read(action=action, depth_unit="inch")


@pytest.mark.parametrize("form", ["hdf5", "zarr"])
def test_float_pictures_have_one_range_in_all_episodes(tmp_path, form):
    """Floats of 0..255, and an episode in black and near-black alone, whose values 0 and 1 are not 0 and 255."""
    rng = np.random.default_rng(0)
    frames = np.concatenate([rng.integers(0, 256, (4, 16, 24, 1)), rng.integers(0, 2, (4, 16, 24, 1))]).astype(np.float32)
    numbers = np.zeros((4, 2))
    if form == "hdf5":
        with h5py.File(tmp_path / "a.hdf5", "w") as file:
            for demo in range(2):
                file[f"data/demo_{demo}/actions"], file[f"data/demo_{demo}/obs/position"] = numbers, numbers
                file[f"data/demo_{demo}/obs/top"] = frames[4 * demo : 4 * demo + 4]
    else:
        root = importlib.import_module("zarr").open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
        for name, values in {"action": np.ones((8, 2)), "top": frames}.items():
            root.create_array(f"data/{name}", data=values)
        root.create_array("meta/episode_ends", data=np.array([4, 8]))
    for number, item in enumerate(open_source(form, tmp_path, None, {}).items()):
        raw = item.read()
        expected = np.repeat(frames[4 * number : 4 * number + 4], 3, -1).astype(np.uint8)
        np.testing.assert_array_equal(raw.cameras["top"](), expected)
        (note,) = (note for note in raw.notes if note.taken_as == "camera top")
        assert (note.conversion, note.reason) == ("rounded, one channel, repeated", "floats: values up to 255")
    with pytest.raises(ConfigError, match="floats must be one of"):
        open_source(form, tmp_path, None, {"floats": "half"})
