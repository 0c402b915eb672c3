"""The cases of `paths`: each makes a source from the sandbox's generator and calls verbot as its commands do."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable

import numpy as np
from path_sandbox import (
    COLOR,
    ESCAPES,
    LENGTH,
    SECRET,
    SIDE,
    Sandbox,
    gray,
    import_source,
    native_source,
    png,
    read_source,
    record,
    spec_of,
    write_dataset,
    write_manifest,
)

from verbot.data import (
    DatasetWriter,
    EditPlan,
    EpisodeRecord,
    FrameCache,
    ImportConfig,
    annotate,
    edit,
    import_dataset,
    open_dataset,
)
from verbot.spec import RobotSpec


def manifest_camera(box: Sandbox) -> None:
    names = {box.rng.choice((box.name(), ESCAPES[0])): "a.png", box.name(): "a.png"}
    (box.source / "a.png").write_bytes(png((9, 9, 9)))
    write_manifest(box, names)
    import_source(box, cameras=len(names))


def manifest_path(box: Sandbox) -> None:
    prefix = box.rng.choice(("../private/", f"{box.private}/", "x/../../private/", "link/", f"file:{box.private}/"))
    (box.source / "link").symlink_to(box.private)
    write_manifest(box, box.rng.choice((prefix + "a.png", [prefix + "a.png"] * LENGTH, prefix + "v.mp4")))
    import_source(box)


def playlist(box: Sandbox) -> None:
    """A text file that is called a video and names another one; as a manifest's video and as that of a dataset."""
    entry = box.rng.choice((f"{box.private}/v.mp4", "../private/v.mp4", "v.mp4", f"file:{box.private}/v.mp4"))
    (box.source / "v.mp4").symlink_to(box.private / "v.mp4")
    text = box.rng.choice((
        f"ffconcat version 1.0\nfile '{entry}'\n",
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:1.0,\n{entry}\n#EXT-X-ENDLIST\n",
    ))  # fmt: skip
    if box.rng.random() < 0.5:
        suffix = box.rng.choice(("mp4", "mkv", "mov"))
        (box.source / f"x.{suffix}").write_text(text)
        write_manifest(box, f"x.{suffix}")
        import_source(box)
        return
    suffix = box.rng.choice(("mp4", "m3u8"))
    info = native_source(box, "v3")
    video = next(box.source.glob("videos/**/*.mp4"))
    video.unlink()
    video.with_suffix(f".{suffix}").write_text(text)
    info["video_path"] = info["video_path"].replace(".mp4", f".{suffix}")
    shutil.copy(box.source / "v.mp4", video.parent / "v.mp4")  # what a relative name finds is the dataset's own
    (box.source / "meta/info.json").write_text(json.dumps(info))
    read_source(box, own=entry == "v.mp4")


def hdf5(box: Sandbox) -> None:
    import h5py

    kind = box.rng.choice(("external", "virtual", "link", "group", "camera"))
    other = box.rng.choice((str(box.private), "../private", f"{box.source}/../private"))
    with h5py.File(box.source / "e.hdf5", "w") as file:
        qpos = np.zeros((LENGTH, 2), np.float32)
        file["action"], file["observations/qpos"] = qpos, qpos
        if kind == "external":
            del file["action"]
            file.create_dataset("action", (LENGTH, 2), "<f4", external=[(f"{other}/numbers.bin", 0, LENGTH * 8)])
        elif kind == "virtual":
            del file["action"]
            layout = h5py.VirtualLayout((LENGTH, 2), "<f4")
            layout[:] = h5py.VirtualSource(f"{other}/p.h5", "action", (LENGTH, 2))
            file.create_virtual_dataset("action", layout)
        elif kind == "link":
            del file["action"]
            file["action"] = h5py.ExternalLink(f"{other}/p.h5", "action")
        elif kind == "group":
            del file["observations"]
            file["observations"] = h5py.ExternalLink(f"{other}/p.h5", "observations")
        else:
            name = (box.name().replace("\0", "") or "x").encode(errors="replace").decode()
            file.create_group("observations/images").create_dataset(name, data=gray())
    if box.rng.random() < 0.2:
        (box.source / "f.hdf5").symlink_to(box.private / "p.h5")
    import_source(box)


def zarr(box: Sandbox) -> None:
    store = box.source / "d.zarr"
    kind = box.rng.choice(("piece", "folder", "separator", "plain"))
    for name, values in (("data/action", np.zeros((LENGTH, 2), "<f4")), ("meta/episode_ends", np.array([LENGTH], "<i8"))):
        folder = store / name
        folder.mkdir(parents=True)
        about = {"shape": values.shape, "chunks": values.shape, "dtype": values.dtype.str, "compressor": None, "fill_value": 0}
        about |= {"order": "C", "filters": None, "zarr_format": 2, "dimension_separator": "."}
        if kind == "separator" and name.startswith("data"):
            about["dimension_separator"] = f"/../../../../{box.rng.choice(('private', 'victim'))}/"
        (folder / ".zarray").write_text(json.dumps(about))
        (folder / ".".join("0" * values.ndim)).write_bytes(values.tobytes())
    (store / ".zgroup").write_text('{"zarr_format": 2}')
    piece = store / "data/action/0.0"
    if kind == "piece":
        piece.unlink()
        piece.symlink_to(box.private / "file")
        os.truncate(box.private / "file", LENGTH * 8)
    elif kind == "folder":
        os.truncate(box.private / "file", LENGTH * 8)
        (box.private / "file").rename(box.private / "0.0")
        shutil.copy(store / "data/action/.zarray", box.private)
        shutil.rmtree(store / "data/action")
        (store / "data/action").symlink_to(box.private)
    box.facts["made"] = True
    import_source(box)


def rlds(box: Sandbox) -> None:
    import google_crc32c

    def packed(number: int, content: bytes) -> bytes:
        size, out = len(content), bytes([number << 3 | 2])
        while size > 127:
            out, size = out + bytes([size & 127 | 128]), size >> 7
        return out + bytes([size]) + content

    def framed(content: bytes) -> bytes:
        def masked(data: bytes) -> bytes:
            crc = google_crc32c.value(data)
            return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

        head = struct.pack("<Q", len(content))
        return head + masked(head) + content + masked(content)

    def floats(value: float) -> bytes:
        return packed(2, packed(1, np.full(LENGTH * 2, value, "<f4").tobytes()))

    def example(value: float, camera: str) -> bytes:
        pictures = packed(1, b"".join(packed(1, png((9, 9, 9))) for _ in range(LENGTH)))
        flags = packed(3, packed(1, bytes([0] * LENGTH)))
        features = {"steps/action": floats(value), "steps/observation/state": floats(value), "steps/is_first": flags}
        features[f"steps/observation/{camera}"] = pictures
        entries = (packed(1, key.encode(errors="replace")) + packed(2, value) for key, value in features.items())
        return framed(packed(1, b"".join(packed(1, entry) for entry in entries)))

    (box.private / "s-train.tfrecord-00000-of-00002").write_bytes(example(SECRET, "image"))
    stem = box.rng.choice(("../private/s", f"{box.private}/s", "s", box.name().replace("\0", "")))
    name = box.rng.choice(("image", box.name().replace("\0", "")))
    if stem == "s":
        (box.source / "s-train.tfrecord-00001-of-00002").write_bytes(example(0.0, name))
    splits = [{"name": "train", "shardLengths": ["1", "1"]}]
    (box.source / "dataset_info.json").write_text(json.dumps({"name": stem, "splits": splits}))
    (box.source / "features.json").write_text("{}")
    import_source(box)


def template(box: Sandbox) -> None:
    """Templates and links of a dataset of other software that lead to a private dataset."""
    kind = box.rng.choice(("data_path", "video_path", "both", "link", "files", "key"))
    info = native_source(box, "v3")
    prefix = box.rng.choice(
        ("../private/dataset/", f"{box.private}/dataset/", "x/../../private/dataset/", "link/", "{video_key}/")
    )
    (box.source / "link").symlink_to(box.private / "dataset")
    for key in ("data_path", "video_path"):
        if kind in (key, "both"):
            info[key] = prefix + info[key]
    if kind == "link":
        shutil.rmtree(box.source / "videos")
        (box.source / "videos").symlink_to(box.private / "dataset/videos")
    if kind == "files":
        for path in list(box.source.glob("data/**/*.parquet")):
            path.unlink()
            path.symlink_to(box.private / "dataset" / path.relative_to(box.source))
    if kind == "key":
        info["features"][box.rng.choice(("../private/dataset/videos/observation.images.front", box.name()))] = info[
            "features"
        ].pop("observation.images.front")
    (box.source / "meta/info.json").write_text(json.dumps(info))
    read_source(box)


def spec_file(box: Sandbox) -> None:
    plain = spec_of().to_json()
    place = box.rng.choice(("cameras", "state", "action"))
    plain[place][0]["name"] = box.name()
    (box.source / "a.png").write_bytes(png((9, 9, 9)))
    write_manifest(box, {plain["cameras"][0]["name"]: "a.png"})
    import_dataset(box.source, box.target, ImportConfig(rate_hz=10.0, spec=RobotSpec.from_json(json.loads(json.dumps(plain)))))


def annotating(box: Sandbox) -> None:
    info, name = native_source(box, "v3"), box.name()
    info["features"][box.rng.choice((name, f"observation.images.{name}"))] = info["features"].pop("observation.images.front")
    (box.source / "meta/info.json").write_text(json.dumps(info))
    annotate(box.source, {0: ["go there"]}, out=box.target)


def renaming(box: Sandbox) -> None:
    write_dataset(box.source)
    edit(box.source, EditPlan(rename_cameras={"front": box.name()}), out=box.target)


def writing(box: Sandbox) -> None:
    """A dataset with links and notes in it is opened for writing: the target is what verbot may change."""
    kind, root = box.rng.choice(("videos", "data", "meta/episodes", "journal", "notes", ".lock")), box.target
    write_dataset(root)
    if kind == "notes":
        for name in ("data/chunk-000/notes.txt", "data/todo/list.md", "videos/observation.images.front/x/y.mp4"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text("a person's notes")
    elif kind == ".lock":
        (root / ".lock").unlink()
        (root / ".lock").symlink_to(box.victim / "made")
    else:
        shutil.rmtree(root / kind, ignore_errors=True)
        (root / kind).symlink_to(box.victim / ("data" if kind == "journal" else kind))
    notes = sorted(root.glob("data/**/*.*"))
    try:
        with DatasetWriter(root, spec_of()) as writer:
            writer.save_episode(record())
    finally:
        box.facts["deleted"] = kind == "notes" and any(not path.exists() for path in notes)


def editing(box: Sandbox) -> None:
    """A person's notes beside the data survive a change in place."""
    write_dataset(box.target)
    note = box.target / box.rng.choice(("data/notes.txt", "videos/readme.md", "meta/episodes/mine.csv", "notes.tmp"))
    note.write_text("a person's notes")
    edit(box.target, EditPlan(instructions={0: ("go there",)}))
    box.facts["deleted"] = not note.is_file()


def caching(box: Sandbox) -> None:
    """The cache of decoded frames of a dataset, whose folder or record leads elsewhere."""
    write_dataset(box.target)
    dataset, kind = open_dataset(box.target), box.rng.choice(("folder", "inner", "record"))
    if kind == "folder":
        (box.target / ".cache").symlink_to(box.victim / "data")
    elif kind == "inner":
        (box.target / ".cache").mkdir()
        (box.target / ".cache/frames").symlink_to(box.victim / "data")
    else:
        FrameCache(dataset)
        path = box.target / ".cache/frames/front.json"
        state = json.loads(path.read_text())
        (box.private / "x.rgb").write_bytes(bytes(COLOR) * (LENGTH * SIDE * SIDE))
        state["file"] = box.rng.choice(("../../../private/x.rgb", f"{box.private}/x.rgb"))
        path.write_text(json.dumps(state))
    os.environ["HOME"] = str(box.target / "home")
    frames = FrameCache(dataset).frames("front")
    box.facts["leaked"] = np.abs(frames[0].astype(int) - COLOR).mean() < 30


def text(box: Sandbox) -> None:
    """Halves of characters and control characters: what is saved must be merged."""
    words = "go to " + box.rng.choice(("\ud83d", "\udc4d x", "\0", "\x1b[2J", "\ud83d\ude00", "a\nb"))
    with_extras = box.rng.random() < 0.5
    writer, saved = DatasetWriter(box.target, spec_of()), False
    try:
        one = record("go" if with_extras else words)
        writer.save_episode(EpisodeRecord(one.instruction, one.states, one.actions, one.images, {}, {"note": words}))
        saved = True
        writer.close()
        str([(episode.instruction, episode.extras["note"]) for episode in open_dataset(box.target)]).encode()
        open_dataset(box.target)[0].extras["note"].encode()
    except BaseException:
        box.facts["stuck"] = saved
        raise
    finally:
        writer._open.close()


CASES: tuple[Callable[[Sandbox], None], ...] = (
    manifest_camera, manifest_path, playlist, hdf5, zarr, rlds, template, spec_file, annotating, renaming, writing, editing,
    caching, text,
)  # fmt: skip
