"""The values, files and settings of `command_lines.py`."""

from __future__ import annotations

import dataclasses
import os
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HUGE = "9" * 30
LINE_BREAKERS = ("\x1b[31mred\x1b[0m", "bell\x07", "csi\x9b31m", "\u202egnp.exe", "[bold]x[/bold]", "[/x]", "a\nb", "a\rb")
SURROGATE = os.fsdecode(b"half\xed\xa0\x80\xff")
# Options that only say how much is done, where a large number is right; options whose page or window cannot be shown here.
AMOUNTS = (
    "episodes", "steps", "samples", "minutes", "seconds", "scenes", "videos", "strengths", "limit", "max_frames", "workers",
    "captions", "execute", "noise", "index", "scene",
)  # fmt: skip
NOT_TRIED = {"watch": ("window",), "demo": ("out",)}
BELOW_ZERO_IS_RIGHT = ("log_std", "threshold", "attenuation")
ABOVE_ONE_IS_WRONG = (
    "ema_decay", "gamma", "gae_lambda", "relabel", "blank_instruction", "goal_image", "camera_dropout", "share", "first", "last",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A command line; `wrong` if it must be refused."""

    command: str
    arguments: list[str]
    wrong: bool
    about: str


def prepared(root: Path) -> Path:
    """The folder of a dataset, a policy, an evaluation and hostile files; everything is imported."""
    import contextlib
    import io

    import mujoco  # noqa: F401
    import pyarrow  # noqa: F401
    import tyro  # noqa: F401

    import verbot
    import verbot.evaluation
    import verbot.recipes.config
    import verbot.training.imitation.loop
    import verbot.workflows.compare
    import verbot.workflows.explain
    import verbot.workflows.lint

    with contextlib.suppress(ImportError):
        import verbot.training.rl.ppo
    quiet: Any = {"progress": False}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        verbot.collect("tabletop-starter", root / "dataset", 2, workers=1, **quiet)
        verbot.train("tiny", out=root / "run", data=root / "dataset", steps=1, **quiet)
        lean: Any = {"episodes": 1, "videos": 0, "baselines": False, "conditions": (), "workers": 1, "latency_calls": 1}
        verbot.evaluate("expert", out=root / "evaluation", **lean, **quiet)
    (root / "work").mkdir()
    (root / "empty").mkdir()
    (root / "file").write_text("a file\n")
    (root / "loop").symlink_to(root / "loop")
    (root / "binary.bin").write_bytes(bytes(range(256)) * 8)
    for name, content in FILES.items():
        (root / name).write_bytes(content)
    (root / "own.yaml").write_text("pick: ['lift the {object}']\n")
    return root


def base_line(name: str, root: Path) -> list[str]:
    """A short line of a command to which one option is added; POSITIONAL stands for a positional argument that is tried."""
    data, policy = str(root / "dataset"), str(root / "run" / "policy")
    evaluation = ["--episodes", "1", "--workers", "1", "--out", "{out}"]
    return {
        "demo": ["--recipe", "nothing", "--out", "{out}"],
        "collect": ["{out}", "--episodes", "1", "--workers", "1"],
        "teleop": ["{out}"],
        "train": ["tiny", "--data", data, "--steps", "1", "--out", "{out}"],
        "evaluate": [policy, *evaluation, "--videos", "0", "--no-baselines"],
        "compare": ["expert", *evaluation, "--no-baselines", "--conditions", "blank"],
        "robustness": ["expert", *evaluation, "--axes", "lighting"],
        "watch": ["push the red cube", "--policy", "expert", "--scene", "0", "--out", "{out}.gif"],
        "explain": [policy, "--out", "{out}"],
        "data annotate": [data],
        "data check": ["POSITIONAL"],
        "data info": ["POSITIONAL"],
        "data lint": [data],
        "data view": [data, "--out", "{out}.gif"],
        "data edit": [data, "--out", "{out}"],
        "data import": ["POSITIONAL", "{out}"],
        "data export": ["POSITIONAL", "{out}.hdf5"],
        "list": ["POSITIONAL"],
        "config": ["tiny"],
        "doctor": [],
    }.get(name, [])


def with_option(base: list[str], flag: str, value: list[str]) -> list[str]:
    """The line with the option in place of its own."""
    line = ["starter" if word == "POSITIONAL" else word for word in base]
    if flag in line:
        start = line.index(flag)
        end = next((i for i in range(start + 1, len(line)) if line[i].startswith("--")), len(line))
        line = line[:start] + line[end:]
    return [*line, flag, *value]


def values(hint: Any, option: str, root: Path) -> Iterator[tuple[list[str], bool]]:
    """Hostile values of an option, each with whether it must be refused."""
    text = str(hint)
    if hint is bool or "bool" in text:
        yield ["maybe"], True
    elif "dict" in text:
        for strength in ("-1", "4", HUGE, "nan", "strong"):
            yield ["lighting", strength], True
        yield ["nothing", "1"], True
        yield ["lighting"], True
        yield [LINE_BREAKERS[0], "1"], True
    elif "Literal" in text:
        yield from (([word], True) for word in ("", "nothing", LINE_BREAKERS[0], SURROGATE, "-1"))
    elif "Path" in text:
        yield from ((each, False) for each in _paths(root))
    elif "float" in text:
        yield from (([word], True) for word in ("-1", "nan", "inf", "-inf", "one", "", "1e999"))
        yield ["0"], False
        yield ["1e-300"], False
        if option not in AMOUNTS:
            yield ["1e300"], False
    elif "int" in text:
        yield from (([word], True) for word in ("-1", "nan", "1.5", "one", "", "0x10", f"-{HUGE}", "1e3"))
        yield ["0"], False
        if option not in AMOUNTS:
            yield [HUGE], True
    else:
        words = ("", "nothing", "-1", "nan", "é", SURROGATE, "x" * 5000, "../../etc", "=", "a=b", *LINE_BREAKERS)
        yield from (([word], False) for word in words)


def _paths(root: Path) -> Iterator[list[str]]:
    names = ["missing", "file", "empty", "loop", "binary.bin", "file/below", "file/below/further", "x" * 300, "dataset", "é",
             SURROGATE, LINE_BREAKERS[0], LINE_BREAKERS[3], "a\nb"]  # fmt: skip
    yield from ([str(root / name)] for name in names)
    yield from ([name] for name in ("", ".", "/proc/verbot", "/proc/self/verbot/x", "/dev/null", "/dev/null/x", "/dev/full"))


FILES = {
    "deep.yaml": b"a: " + b"[" * 20000 + b"]" * 20000,
    "deep_map.yaml": b"{a: " * 5000 + b"1" + b"}" * 5000,
    "binary.yaml": bytes(range(256)),
    "null.yaml": b"a: \0",
    "latin.yaml": "name: café".encode("latin-1"),
    "utf16.yaml": "name: tiny".encode("utf-16"),
    "empty.yaml": b"",
    "comment.yaml": b"# nothing\n",
    "list.yaml": b"- 1\n- 2\n",
    "number.yaml": b"7\n",
    "text.yaml": b"tiny\n",
    "bomb.yaml": b"a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    + b"".join(b"a%d: &a%d [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 12)),
    "cycle.yaml": b"&a [*a]\n",
    "cycle_map.yaml": b"&a {name: *a, stages: *a}\n",
    "twice.yaml": b"name: a\nname: b\n",
    "python.yaml": b"name: !!python/object/apply:os.system ['true']\n",
    "tag.yaml": b"name: !own x\n",
    "documents.yaml": b"name: a\n---\nname: b\n",
    "unknown.yaml": b"nome: a\n",
    "keys.yaml": b"1: a\nnull: b\n[1, 2]: c\n{a: b}: d\n",
    "date.yaml": b"name: 2020-13-45\n",
    "int.yaml": b"name: " + b"9" * 5000 + b"\n",
    "escape.yaml": b'"\\e[31mred": 1\n',
    "escape_raw.yaml": b"na\x1b[31mme: 1\n",
    "surrogate.yaml": b'name: "\\ud800"\n',
    "merge.yaml": b"<<: 3\nname: a\n",
    "stages.yaml": b"name: a\nabout: b\ncollection: null\nstages: []\n",
    "deep.json": b"[" * 100000 + b"]" * 100000,
    "binary.json": bytes(range(256)),
    "empty.json": b"",
    "list.json": b"[1, 2]",
    "nan.json": b'{"0": [NaN]}',
    "wrong.json": b'{"zero": ["a"], "-1": ["b"], "9999": ["c"]}',
    "number.json": b'{"0": 3}',
    "int.json": b'{"0": [' + b"9" * 5000 + b"]}",
    "escape.json": b'{"\\u001b[31m": ["a"]}',
    "surrogate.json": b'{"0": ["half \\ud800 a word"]}',
    "long.json": b'{"0": ["' + b"x" * 100000 + b'"]}',
    "twice.json": b'{"0": ["a"], "0": ["b"]}',
}


def files(root: Path) -> Iterator[Case]:
    """YAML and JSON files where a command reads one."""
    data = str(root / "dataset")
    for name in FILES:
        file = str(root / name)
        if name.endswith(".yaml"):
            yield Case("config", [file], True, f"config {name}")
            yield Case("train", [file, "--out", "{out}"], True, f"train {name}")
            yield Case("demo", ["--recipe", file, "--out", "{out}"], True, f"demo {name}")
            yield Case("compare", ["--list", file, "--steps", "1", "--out", "{out}"], True, f"compare --list {name}")
            yield Case("evaluate", ["expert", "--paraphrases", file, "--episodes", "1", "--out", "{out}"], True,
                       f"evaluate --paraphrases {name}")  # fmt: skip
        else:
            yield Case("data annotate", [data, "--instructions", file, "--out", "{out}"], "long" not in name,
                       f"annotate --instructions {name}")  # fmt: skip
            yield Case("data edit", [data, "--instructions", file, "--out", "{out}"], "long" not in name,
                       f"edit --instructions {name}")  # fmt: skip
            yield Case("data import", [data, "{out}", "--spec", file], True, f"import --spec {name}")


def settings(root: Path) -> Iterator[Case]:
    """`--set` with every field of the records of a recipe."""
    from verbot.recipes.config import resolve

    for recipe in ("tiny", "starter-ppo"):
        run = resolve(recipe)
        records: list[tuple[str, Any]] = [("stages.0." + ("imitation" if recipe == "tiny" else "reinforcement"),
                    run.training if recipe == "tiny" else run.reinforcement), ("evaluation", run.evaluation)]  # fmt: skip
        records += [("collection", run.collection)] if run.collection else []
        for where, record in records:
            yield from _of_record(recipe, where, record)


def _of_record(recipe: str, where: str, record: Any) -> Iterator[Case]:
    for field in dataclasses.fields(record):
        value, path = getattr(record, field.name), f"{where}.{field.name}"
        hint = str(typing.get_type_hints(type(record))[field.name])
        if dataclasses.is_dataclass(value) and "options" not in {each.name for each in dataclasses.fields(value)}:
            if not path.endswith(".network"):
                yield from _of_record(recipe, path, value)
            continue
        numeric = not isinstance(value, bool) and ("int" in hint or "float" in hint) and "Mapping" not in hint
        for word in ("-1", ".nan", ".inf", "2", "[[[", "text", "{a: {b: c}}", "[1, [2]]", "", HUGE, "\x1b[31m", "'\\ud800'"):
            wrong = word in (".nan", ".inf") and numeric
            wrong |= word == "-1" and numeric and field.name not in BELOW_ZERO_IS_RIGHT
            wrong |= word == "2" and numeric and field.name in ABOVE_ONE_IS_WRONG
            yield Case("config", [recipe, "--set", f"{path}={word}"], wrong, f"config --set {field.name}={word!r}")


def by_hand(root: Path) -> Iterator[Case]:
    """What no signature tells: commands that are none, settings that are none, ports that are taken, folders of other runs."""
    import socket

    data = str(root / "dataset")
    taken = socket.create_server(("127.0.0.1", 0))
    KEPT.append(taken)
    yield Case("teleop", ["{out}", "--port", str(taken.getsockname()[1])], True, "teleop port taken")
    for port in ("65536", "99999"):
        yield Case("teleop", ["{out}", "--port", port], True, "teleop port out of range")
        yield Case("data annotate", [data, "--port", port], True, "annotate port out of range")
    for host in ("256.256.256.256", "no such host", "", "\x1b[31m", "8.8.8.8", "::1::"):
        yield Case("teleop", ["{out}", "--host", host], host != "", f"teleop host {host!r}")
    for address in ("ws://", "ws://127.0.0.1:1", "ws://127.0.0.1:99999", "ws://[::1", "ws://\x1b[31m", "http://127.0.0.1:1",
                    "wss://127.0.0.1:1", "ws://127.0.0.1:-1", "ws://127.0.0.1:x", "://", "ws:///x", "ws://a b:1"):  # fmt: skip
        for command in ("evaluate", "explain", "robustness"):
            yield Case(command, [address, "--out", "{out}"], True, f"{command} {address!r}")
    for word in WRONG_SETTINGS:
        unsure = word.startswith(("steps=", "vision.depth", "chunk", "width")) or word in ("network=null", "budget=null")
        line = ["tiny", "--data", data, "--steps", "1", "--out", "{out}", "--set", word]
        yield Case("train", line, not unsure, f"train --set {word!r}")
    for words in (["nothing"], ["data"], ["data", "nothing"], [""], ["\x1b[31m"], ["--"], ["-"], ["--set"], ["é"], [SURROGATE],
                  ["tiny"], ["TRAIN"], ["train" * 2000]):  # fmt: skip
        yield Case(" ".join(words[:0]), words, False, f"command {words[0][:20]!r}")
    for command, line in (("train", ["tiny", "--data", data, "--steps", "2"]), ("evaluate", ["random", "--episodes", "1"]),
                          ("demo", ["--recipe", "tiny"]), ("compare", ["random", "--episodes", "1"]),
                          ("robustness", ["random", "--episodes", "1"]), ("explain", ["starter"])):  # fmt: skip
        for out in ("file", "file/x", "/proc/verbot", "/dev/null/x", "/dev/full", "x" * 300, "loop", "\x1b[31m/" + "y" * 300):
            yield Case(
                command, [*line, "--out", out if out.startswith("/") else f"{root}/{out}"], True, f"{command} --out {out[:20]!r}"
            )


WRONG_SETTINGS = (
    "=", "=1", "a", "a=", ".=1", "a..b=1", "seed=text", "seed=1e400", "seed=[1]", "seed=-1", "seed=null", "steps=-1", "steps=0",
    "samples=-5", "minutes=-1", "minutes=.inf", "batch_size=0", "batch_size=-8", "learning_rate=-1", "learning_rate=.inf",
    "ema_decay=2", "ema_decay=1", "chunk=-1", "width=-1", "vision=nothing", "vision.depth=-1", "objectives=null", "network=null",
    "data=null", "budget=null", "stages=[]", "stages.9=1", "name=null", "\ud800=1", "a\x1b[31m=1", "loader_threads=-1",
    "processes=0", "processes=1000", "device=cuda:99", "threads=-1", f"seed={HUGE}", "validation.share=1",
    "validation.batches=-1", "validation.every=0", "patience=0", "milestones=[2]", "weights=[-1]", "cache_limit_gb=-1",
    "rate_hz=.nan", "dagger.rounds=-1", "keep=worst", "clip_norm=-1",
)  # fmt: skip
KEPT: list[Any] = []  # sockets that stay open
