"""Sources that are wrong by construction: pipes and links in place of files, wrong types, endless nesting, clocks that jump."""

from __future__ import annotations

import copy
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import _source_templates as templates
from _source_templates import EPISODES, LENGTH, RATE, SIDE, START, WORDS

Case = tuple[Callable[[Path], Any], tuple[str, ...], int]
CASES: dict[str, Case] = {}
SPECIAL = (
    "pipe",
    "socket",
    "folder",
    "link in a circle",
    "link to nothing",
    "zeros device",
    "terminal",
    "empty",
    "noise",
    "text",
)
MANY = RATE + WORDS
DEEP = "[" * 100_000 + "]" * 100_000
JUNK: tuple[Any, ...] = (
    None, True, -1, 0, 10**30, 1.5, float("nan"), float("inf"), "", "x", "\0", "\ud83d", "../../etc/passwd", "a" * 70_000, [], {},
    [None], [[1, 2], [3]], [[]], {"a": {"b": 1}}, [0.1] * 5000, ["\udc00"], {"\ud83d": 1},
)  # fmt: skip


def put_special(path: Path, kind: str) -> None:
    """Put something that is no whole file at `path`."""
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        here = os.getcwd()
        os.chdir(path.parent)  # the path of a socket may not be long
        try:
            socket.socket(socket.AF_UNIX).bind(path.name)
        finally:
            os.chdir(here)
    elif kind == "folder":
        path.mkdir()
    elif kind == "link in a circle":
        path.symlink_to(path.name)
    elif kind in ("link to nothing", "zeros device", "terminal"):
        path.symlink_to({"link to nothing": "/nowhere", "zeros device": "/dev/zero", "terminal": "/dev/ptmx"}[kind])
    else:
        path.write_bytes({"empty": b"", "noise": np.random.default_rng(0).bytes(5000), "text": b"hello\n"}[kind])


def case(name: str, options: tuple[str, ...] = MANY, good: int = 0) -> Callable[[Callable[[Path], Any]], Callable[[Path], Any]]:
    def add(make: Callable[[Path], Any]) -> Callable[[Path], Any]:
        CASES[name] = (make, options, good)
        return make

    return add


def entries() -> list[dict[str, Any]]:
    steps = range(LENGTH)
    return [
        {"episode_id": n, "image_path": "a.png", "instruction": "go", "action": [0.1 * s, 1.0]} for n in range(3) for s in steps
    ]


def manifest(root: Path, document: Any) -> None:
    (root / "a.png").write_bytes(templates.encoded(templates.pictures(0)[0]))
    (root / "b.png").write_bytes(templates.encoded(np.zeros((SIDE, SIDE), np.uint8)))
    (root / "manifest.json").write_text(document if isinstance(document, str) else json.dumps(document), errors="surrogatepass")


def of_manifests() -> None:
    def junk(field: str, value: Any) -> Callable[[Path], None]:
        def make(root: Path) -> None:
            found = entries()
            found[LENGTH + 2][field] = value
            manifest(root, found)

        return make

    for number, value in enumerate(JUNK):
        for field in ("image_path", "instruction", "action", "episode_id", "reward"):
            good = 2 if field in ("instruction", "image_path", "action") else 1
            case(f"manifest, {field} is junk {number}", RATE, good)(junk(field, value))
    texts = {
        "deep": DEEP, "deep objects": '{"a":' * 50_000, "an entry nested deeply": json.dumps(entries())[:-1] + "," + DEEP + "]",
        "a million digits": json.dumps(entries()).replace("0.1", "9" * 1_000_000, 1), "twice the same key": '[{"action":[1],"action":[2]}]',
        "nothing": "", "a list of nothing": "[" + "null," * 1000 + "null]", "UTF-16": json.dumps(entries()).encode("utf-16").decode("latin1"),
        "no end": json.dumps(entries())[:-1], "numbers like 1e999": json.dumps(entries()).replace("0.1", "1e999", 1),
    }  # fmt: skip
    for name, text in texts.items():
        case(f"manifest, {name}", RATE)(lambda root, text=text: manifest(root, text))
    case("manifest, many actions of one picture", RATE)(
        lambda root: manifest(root, [{"image_path": "a.png", "instruction": "", "action_sequence": [[1.0]] * 2_000}])
    )


def of_rlds() -> None:
    import _formats

    def bent(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
        def make(root: Path) -> None:
            records = [templates.record(number) for number in range(EPISODES)]
            change(records[1])
            _formats.rlds(root, "toy", records, templates.features())

        return make

    values = (
        [],
        [b""],
        [b"\xff\xd8\xff"] * 5,
        [b"\xed\xa0\xbd"] * 5,
        np.zeros(0),
        np.full(15, np.nan, np.float32),
        np.arange(10_000),
    )
    for key in (
        "steps/observation/image",
        "steps/observation/state",
        "steps/action",
        "steps/language_instruction",
        "steps/is_first",
    ):
        for number, value in enumerate(values):
            case(f"rlds, {key} is junk {number}", RATE, 2)(bent(lambda record, key=key, value=value: record.update({key: value})))
    described = {
        "deep": DEEP, "endless sequence": '{"sequence":{"feature":' * 5000 + "{}" + "}}" * 5000, "not an object": "[1]", "a number": "9" * 1_000_000,
        "huge shape": json.dumps({"featuresDict": {"features": {"steps": {"sequence": {"feature": {"featuresDict": {"features": {
            "action": {"tensor": {"shape": {"dimensions": ["9" * 40, "9" * 40]}, "dtype": "float32"}}}}}}}}}}),
        "odd dtypes": json.dumps({"featuresDict": {"features": {"steps": {"sequence": {"feature": {"featuresDict": {"features": {
            "action": {"tensor": {"shape": {"dimensions": ["3"]}, "dtype": "O", "encoding": "zlib"}}}}}}}}}}),
    }  # fmt: skip
    for name in ("features.json", "dataset_info.json"):
        for what, text in described.items():

            def write(root: Path, name: str = name, text: str = text) -> None:
                templates.rlds(root)
                (root / "toy" / "1.0.0" / name).write_text(text)

            case(f"rlds, {name}: {what}", RATE)(write)

    @case("rlds, a missing shard is a pipe", RATE, 2)
    def _(root: Path) -> None:
        templates.rlds(root)
        put_special(next(root.rglob("*-00001-of-*")), "pipe")


def of_hdf5() -> None:
    import h5py

    def bent(change: Callable[[Any], Any], layout: str = "aloha") -> Callable[[Path], None]:
        def make(root: Path) -> None:
            (templates.aloha if layout == "aloha" else templates.robomimic)(root)
            with h5py.File(root / ("episode_1.hdf5" if layout == "aloha" else "demos.hdf5"), "a") as file:
                change(file)

        return make

    def replaced(path: str, **dataset: Any) -> Callable[[Any], None]:
        def change(file: Any) -> None:
            del file[path]
            file.create_dataset(path, **dataset)

        return change

    vlen = {"data": np.array([np.arange(3 + step % 2, dtype=np.int64) for step in range(LENGTH)], dtype=object), "dtype": h5py.vlen_dtype(np.int64)}
    shapes: dict[str, dict[str, Any]] = {
        "a list of lists": {"data": np.array([np.arange(n, dtype=float) for n in range(LENGTH)], object), "dtype": h5py.vlen_dtype(float)},
        "references": {"shape": (LENGTH,), "dtype": h5py.ref_dtype}, "complex": {"data": np.zeros((LENGTH, 14), complex)},
        "a compound": {"data": np.zeros(LENGTH, [("a", float), ("b", int)])}, "text": {"data": ["x"] * LENGTH}, "empty": {"data": h5py.Empty("f")},
        "a scalar": {"data": 3.0}, "no rows": {"data": np.zeros((0, 14))}, "no columns": {"data": np.zeros((LENGTH, 0))}, "booleans": {"data": np.ones((LENGTH, 14), bool)},
        "an enum": {"data": np.zeros(LENGTH, int), "dtype": h5py.enum_dtype({"a": 0})}, "opaque": {"data": np.zeros(LENGTH, "V8")}, "not finite": {"data": np.full((LENGTH, 14), np.nan)},
        "half floats": {"data": np.zeros((LENGTH, 14), np.float16)}, "an array of lists": vlen, "32 dimensions": {"data": np.zeros((LENGTH,) + (1,) * 30)},
        "big-endian": {"data": np.zeros((LENGTH, 14), ">f8")}, "long double": {"data": np.zeros((LENGTH, 14), np.longdouble)},
    }  # fmt: skip
    for path in ("action", "observations/qpos", "observations/images/cam_high"):
        for name, dataset in shapes.items():
            case(f"hdf5, {path} is {name}", MANY, 2)(bent(replaced(path, **dataset)))

    def cycle(file: Any) -> None:
        for number in range(12):
            file[f"observations/again{number}"] = h5py.SoftLink("/")

    def hard(file: Any) -> None:
        for number in range(12):
            file[f"observations/again{number}"] = file["/"]

    def wide(file: Any) -> None:
        for number in range(20_000):
            file.create_group(f"observations/g{number}")

    def deep(file: Any) -> None:
        file.create_group("/".join("a" * 3000))

    def attributes(file: Any) -> None:
        for name in ("env_args", "problem_info", "verbot_spec", "language_instruction", "ep_meta", "fps", "num_samples"):
            file.attrs[name] = "[" * 30_000

    links: dict[str, Callable[[Any], None]] = {
        "soft links to the root": cycle, "hard links to the root": hard, "20 000 groups": wide, "3000 nested groups": deep, "deep JSON in attributes": attributes,
        "a link to nothing": lambda file: file.__setitem__("observations/x", h5py.SoftLink("/nowhere")),
        "a link to itself": lambda file: file.__setitem__("observations/x", h5py.SoftLink("/observations/x")),
        "an external link": lambda file: file.__setitem__("observations/x", h5py.ExternalLink("/dev/zero", "/")),
        "a named type": lambda file: file.__setitem__("observations/x", np.dtype("f8")),
        "attributes of half characters": lambda file: file.attrs.__setitem__("language_instruction", "a\udcff"),
    }  # fmt: skip
    for layout in ("aloha", "robomimic"):
        for name, change in links.items():
            if layout == "robomimic":

                def inside(file: Any, change: Callable[[Any], None] = change) -> None:
                    change(file["data/demo_1"])

                case(f"hdf5 robomimic, {name}")(
                    bent(lambda file, i=inside: (file["data/demo_1"].require_group("observations"), i(file)), "robomimic")
                )
            else:
                case(f"hdf5, {name}", MANY, 2)(bent(change))


def of_tensors() -> None:
    import torch

    def with_one(content: Callable[[], Any]) -> Callable[[Path], None]:
        def make(root: Path) -> None:
            templates.torch_file(root)
            torch.save(content(), root / "episode_1.pt")

        return make

    def tensors() -> dict[str, Any]:
        return {name: torch.from_numpy(array) for name, array in templates.arrays(1).items()} | {"language": "x"}

    nested: Any = {}
    for _ in range(40):
        nested = {"a": nested, "b": nested}
    long: Any = {}
    for _ in range(300):
        long = {"a": long}
    odd: dict[str, Callable[[], Any]] = {
        "gradients": lambda: tensors() | {"actions": torch.ones(LENGTH, 3, requires_grad=True)},
        "float8": lambda: tensors() | {"actions": torch.ones(LENGTH, 3).to(torch.float8_e4m3fn)},
        "bfloat16": lambda: tensors() | {"actions": torch.ones(LENGTH, 3, dtype=torch.bfloat16)},
        "a parameter": lambda: tensors() | {"actions": torch.nn.Parameter(torch.ones(LENGTH, 3))},
        "complex": lambda: tensors() | {"actions": torch.ones(LENGTH, 3, dtype=torch.complex64)},
        "sparse": lambda: tensors() | {"actions": torch.ones(LENGTH, 3).to_sparse()},
        "csr": lambda: tensors() | {"actions": torch.ones(LENGTH, 3).to_sparse_csr()},
        "quantized": lambda: tensors() | {"actions": torch.quantize_per_tensor(torch.ones(LENGTH, 3), 0.1, 0, torch.qint8)},
        "meta": lambda: tensors() | {"actions": torch.ones(LENGTH, 3, device="meta")},
        "conjugate": lambda: tensors() | {"actions": torch.ones(LENGTH, 3, dtype=torch.complex64).conj()},
        "negated": lambda: tensors() | {"actions": torch.ones(LENGTH, 3, dtype=torch.complex64).conj().imag},
        "uint32": lambda: tensors() | {"actions": torch.ones(LENGTH, 3, dtype=torch.int32).view(torch.uint32)},
        "expanded": lambda: tensors() | {"actions": torch.ones(1, 3).expand(LENGTH, 3)},
        "not contiguous": lambda: tensors() | {"actions": torch.ones(3, LENGTH).t()},
        "a list": lambda: [1, 2], "a tensor": lambda: torch.ones(3), "numbers for keys": lambda: {1: torch.ones(3), **tensors()},
        "shared dictionaries": lambda: tensors() | {"more": nested}, "a chain of dictionaries": lambda: tensors() | {"more": long},
        "half a character": lambda: tensors() | {"language": "a"} | {"language": ["go \ud83d"] * 1},
        "an empty dictionary": dict, "sentences of half characters": lambda: tensors() | {"language": ["x"] * 4 + ["\udfff"]},
        "none": lambda: tensors() | {"more": None}, "sizes": lambda: tensors() | {"more": torch.Size([3])},
        "actions of no dimension": lambda: tensors() | {"actions": torch.tensor(1.0)}, "no rows": lambda: tensors() | {"actions": torch.zeros(0, 3)},
    }  # fmt: skip
    fine = ("gradients", "float8", "bfloat16", "a parameter", "uint32", "not contiguous")
    for name, content in odd.items():
        case(f"pt, {name}", RATE, 3 if name in fine else 2)(with_one(content))

    @case("pt, the older format", RATE, 3)
    def _(root: Path) -> None:
        templates.torch_file(root)
        torch.save(tensors(), root / "episode_1.pt", _use_new_zipfile_serialization=False)

    kinds: dict[str, Any] = {
        "objects": np.array([{}] * LENGTH, object), "complex": np.ones((LENGTH, 3), complex), "times": np.zeros((LENGTH, 3), "M8[s]"), "records": np.zeros(LENGTH, [("a", "f4")]),
        "a scalar": np.float32(3), "bytes": np.array([b"x"] * LENGTH), "half": np.ones((LENGTH, 3), np.float16), "long double": np.ones((LENGTH, 3), np.longdouble),
        "big-endian": np.ones((LENGTH, 3), ">f4"), "Fortran order": np.asfortranarray(np.ones((LENGTH, 3), np.float32)), "not finite": np.full((LENGTH, 3), np.inf),
        "64 dimensions": np.ones((LENGTH,) + (1,) * 31, np.float32),
    }  # fmt: skip
    for name, array in kinds.items():

        def write(root: Path, array: Any = array) -> None:
            templates.npz(root)
            np.savez(root / "episode_1.npz", **{**templates.arrays(1), "actions": array, "language": np.array(["x"])})

        case(f"npz, actions are {name}", RATE, 2)(write)

    for name, text in {
        "half a character": '"\\ud83d"',
        "deep": DEEP,
        "a number": "9" * 1_000_000,
        "nulls": "[null]",
        "no JSON": "x",
    }.items():

        def save(root: Path, text: str = text) -> None:
            from safetensors.numpy import save_file

            templates.safetensors(root)
            save_file(templates.arrays(1), root / "episode_1.safetensors", {"language": text})

        case(f"safetensors, language is {name}", RATE, 2)(save)

    for dtype in ("F8_E4M3", "BF16", "U16", "I8", "F64", "C64", "F4"):

        def header(root: Path, dtype: str = dtype) -> None:
            templates.safetensors(root)
            content = (root / "episode_1.safetensors").read_bytes()
            size = int.from_bytes(content[:8], "little")
            (root / "episode_1.safetensors").write_bytes(
                content[:8] + content[8 : 8 + size].replace(b'"F32"', f'"{dtype}"'.encode().ljust(5)[:5]) + content[8 + size :]
            )

        case(f"safetensors, {dtype}", RATE, 2)(header)


def of_zarr() -> None:
    def bent(name: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
        def make(root: Path) -> None:
            templates.zarr(root)
            path = root / "buffer.zarr" / name
            record = json.loads(path.read_text())
            change(record)
            path.write_text(json.dumps(record))

        return make

    fields = ("shape", "chunks", "dtype", "compressor", "fill_value", "order", "filters", "zarr_format", "dimension_separator")
    values: tuple[Any, ...] = (
        None,
        -1,
        "x",
        [],
        [0],
        [-1, 4],
        [10**12, 4],
        [10**30],
        {"id": "zlib"},
        {"id": "nothing"},
        "O",
        "|O",
        "<M8[ns]",
        [["a", "<f4"]],
        {"id": "blosc", "cname": 3},
        2**63,
    )
    for array in ("data/action", "data/img", "meta/episode_ends"):
        for field in fields:
            for number, value in enumerate(values):
                if (number + len(field) + len(array)) % 3 == 0:  # a third of them
                    case(f"zarr, {field} of {array} is junk {number}")(
                        bent(f"{array}/.zarray", lambda record, f=field, v=value: record.update({f: v}))
                    )
    for kind in ("pipe", "zeros device", "folder", "empty", "noise"):
        for name in (
            "data/action/0.0",
            "data/img/3.0.0.0",
            "data/action/.zattrs",
            ".zgroup",
            "data/.zgroup",
            "meta/episode_ends/0",
        ):

            def swap(root: Path, kind: str = kind, name: str = name) -> None:
                templates.zarr(root)
                put_special(root / "buffer.zarr" / name, kind)

            case(f"zarr, {kind} for {name}")(swap)
            case(f"zarr, {kind} for {name}, absent pieces filled", (*MANY, "--set", "absent=fill"))(swap)

    @case("zarr, a folder that contains itself")
    def _(root: Path) -> None:
        templates.zarr(root)
        (root / "buffer.zarr" / "data" / "again").symlink_to("..")

    @case("zarr, ends that fall")
    def _(root: Path) -> None:
        import zarr

        templates.zarr(root)
        zarr.open_array(str(root / "buffer.zarr" / "meta" / "episode_ends"), mode="r+")[:] = [10, 5, 2**62]

    @case("zarr, deep metadata")
    def _(root: Path) -> None:
        templates.zarr(root)
        (root / "buffer.zarr" / "data" / "action" / ".zarray").write_text(DEEP)


def of_logs() -> None:
    def clock(times: Callable[[int], int]) -> Callable[[Path], None]:
        def make(root: Path) -> None:
            import _ros

            templates.mcap(root)

            def body(events: list[Any], schemas: Any, writer: Any) -> None:
                events[:] = [(times(number), *event[1:]) for number, event in enumerate(copy.deepcopy(events))]

            _ros.bag(root / "log_1.mcap", seconds=0.4, joint_hz=10, t0=START, body=body)

        return make

    year = 365 * 24 * 3600 * 10**9
    clocks: dict[str, Callable[[int], int]] = {
        "jumps by a day": lambda n: START + n * 10**8 // 4 + (n > 8) * 86_400 * 10**9, "jumps by a year": lambda n: START + n * 10**8 // 4 + (n > 8) * year,
        "a year long": lambda n: START + n * (year // 16), "forty years long": lambda n: n * (40 * year // 16), "runs backward": lambda n: START - n * 10**8,
        "from 0": lambda n: n * 10**8 if n else 0, "to the end of time": lambda n: 2**63 - 1 if n == 15 else START + n * 10**8 // 4, "stands still": lambda n: START,
        "over the end": lambda n: 2**64 - 1 - n, "begins at 0": lambda n: START + n * 10**8 // 4 if n > 3 else n,
    }  # fmt: skip
    for name, times in clocks.items():
        for rate in ("10", "1000"):
            case(f"mcap, clock {name}, {rate} Hz", ("--rate-hz", rate), 0 if rate == "1000" else 2)(clock(times))
    case("mcap, clock a year long, gaps allowed", ("--rate-hz", "100", "--set", "max_age_s=100000000"))(
        clock(clocks["a year long"])
    )
    case("mcap, clock a year long, all latched", ("--rate-hz", "100", "--set", "latched=/joint_states,/command,/task"))(
        clock(clocks["a year long"])
    )

    laughs = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghi", "bcdefghij")
    )
    yamls = {
        "billion laughs": laughs + "rosbag2_bagfile_information: {version: 9, storage_identifier: *j, relative_file_paths: *j}\n",
        "laughs for files": laughs + "rosbag2_bagfile_information:\n  version: 9\n  storage_identifier: mcap\n  relative_file_paths: *j\n",
        "deep": "rosbag2_bagfile_information: " + DEEP, "a circle": "rosbag2_bagfile_information: &a {relative_file_paths: [*a]}",
        "merges": "a: &a {b: 1}\nrosbag2_bagfile_information:\n" + "  <<: *a\n" * 3, "a Python object": "rosbag2_bagfile_information: !!python/object/apply:os.system [ls]",
        "long": "rosbag2_bagfile_information:\n" + "  - x: [1, 2, 3, 4]\n" * 300_000, "binary": "\0\x01\x02", "files of other folders": "rosbag2_bagfile_information:\n  storage_identifier: mcap\n  relative_file_paths: ['../../x.mcap', '/etc/passwd']\n",
        "a name of many digits": "rosbag2_bagfile_information: {relative_file_paths: [" + "9" * 100_000 + "]}", "a timestamp": "rosbag2_bagfile_information: 2026-99-99",
        "quality of service of laughs": "rosbag2_bagfile_information:\n  storage_identifier: mcap\n  relative_file_paths: [log_1.mcap]\n  topics_with_message_count:\n  - topic_metadata: {name: /task, offered_qos_profiles: "
        + json.dumps(laughs + "- durability: *j") + "}\n    message_count: 1\n",
    }  # fmt: skip
    for name, text in yamls.items():

        def write(root: Path, text: str = text) -> None:
            for number in range(EPISODES):
                (root / f"rec_{number}").mkdir()
                templates.log(root / f"rec_{number}" / f"log_{number}.mcap", number)
            (root / "rec_1" / "metadata.yaml").write_text(text)

        case(f"metadata.yaml, {name}", RATE, 2)(write)

    def said(value: str) -> Callable[[Path], None]:
        def make(root: Path) -> None:
            from mcap.writer import Writer

            for number in range(EPISODES):
                with open(root / f"log_{number}.mcap", "wb") as file:
                    writer = Writer(file)
                    writer.start()
                    channels = {topic: writer.register_channel(topic, "json", 0) for topic in ("/arm", "/cmd", "/task")}
                    for step in range(LENGTH):
                        messages = {"/arm": '{"name": ["a"], "position": [1.0]}', "/cmd": '{"x": 1}', "/task": '{"text": "go"}'}
                        if number == 1 and step == 2:
                            messages |= {"/cmd": value}
                        for topic, text in messages.items():
                            time = START + step * 10**8
                            writer.add_message(channels[topic], time, text.encode(errors="surrogatepass"), time)
                    writer.finish()

        return make

    topics = (*RATE, "--set", "state=/arm", "action=/cmd", "instruction=/task", "images=false")
    texts = (
        "",
        "null",
        "[]",
        "{}",
        "x",
        DEEP,
        "[" * 950 + "]" * 950,
        '{"x":' * 900 + "1" + "}" * 900,
        "9" * 1_000_000,
        '{"x": "\\ud83d"}',
        '{"x": 1e999}',
        '{"x": NaN}',
        "[" + "1," * 300_000 + "1]",
        '{"\\ud83d": 1}',
    )
    for number, text in enumerate(texts):
        case(f"mcap, a message is junk {number}", topics, 2)(said(text))

    statements = {
        "a view of endless messages": "DROP TABLE messages; CREATE VIEW messages AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i AS id, 1 AS topic_id, i AS timestamp, x'00' AS data FROM n",
        "endless topics": "ALTER TABLE topics RENAME TO t; CREATE VIEW topics AS SELECT t.* FROM t, (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n)",
        "a computed column": "DROP TABLE messages; CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, data BLOB AS (zeroblob(900000000))); INSERT INTO messages(topic_id, timestamp) SELECT 1 + (value % 4), 1700000000000000000 + value * 10000000 FROM (WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < 60) SELECT value FROM n)",
        "no messages": "DELETE FROM messages", "messages of no topic": "UPDATE messages SET topic_id = 99", "times of text": "UPDATE messages SET timestamp = 'x'",
        "data of text": "UPDATE messages SET data = 'x'", "a topic of bytes": "UPDATE topics SET name = x'ff'", "no topics": "DROP TABLE topics", "times that jump": "UPDATE messages SET timestamp = timestamp + (id % 3) * 31536000000000000",
        "deep types": "UPDATE message_definitions SET encoded_message_definition = '" + "MSG: a/b " * 5000 + "'", "a schema of text": "UPDATE schema SET schema_version = 'x'",
    }  # fmt: skip
    for name, statement in statements.items():

        def change(root: Path, statement: str = statement) -> None:
            import sqlite3

            templates.rosbag(root)
            with sqlite3.connect(next((root / "rec_1").glob("*.db3"))) as connection:
                connection.executescript(statement)
            connection.close()

        case(f"db3, {name}", RATE, 2)(change)


for add in (of_manifests, of_rlds, of_hdf5, of_tensors, of_zarr, of_logs):
    add()
