"""Fuzzed messages of openpi's and vla-eval's clients, as a function of a seed, and what a server may answer to them."""

from __future__ import annotations

import itertools
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "reliability"))
import serving_clients as clients

from verbot.spec import RobotSpec

PATHS = {"verbot": "/verbot", "openpi": "/", "vla-eval": "/vla-eval"}
KINDS = ("WireError", "SpecError", "PolicyError")
LINE = re.compile(rf"({'|'.join(KINDS)}): [^\n]{{1,2100}}")
ODD: tuple[Any, ...] = (None, -1, 2**63, float("nan"), "x" * 5000, [], {}, b"x", True, [[]] * 50, {"a": {"b": {}}}, {"": {"": 1}})
DTYPES = ("|O", "<f8", "<U4", ">f4", "f4,f4", "<M8[s]", "<c16", None, 3, "|u1", "<f2", "|V8", "|b1", "")
SHAPES: tuple[Any, ...] = ([2], [-1], [2**62, 4], [2.0], [1] * 40, "2", [0], [2**31, 2**31], [True], [], None)


def openpi_array(value: Any) -> Any:
    return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": list(value.shape)}


def vla_eval_array(value: Any) -> Any:
    return {"__ndarray__": True, "data": value.tobytes(), "dtype": value.dtype.str, "shape": list(value.shape)}


def picture(value: Any, form: str = "PNG") -> Any:
    """An image as vla-eval's clients send it."""
    import io

    from PIL import Image

    sink = io.BytesIO()
    Image.fromarray(value).save(sink, form)
    return {"__image__": True, "format": form.lower(), "data": sink.getvalue(), "shape": list(value.shape)}


def openpi_observation(spec: RobotSpec) -> dict[str, Any]:
    seen = clients.observation(spec)
    images = {f"observation/{name}": openpi_array(image) for name, image in seen.images.items()}
    return {**images, "observation/state": openpi_array(seen.state.astype(np.float64)), "prompt": seen.instruction}


def vla_eval_observation(spec: RobotSpec) -> dict[str, Any]:
    seen = clients.observation(spec)
    images = {name: picture(image) for name, image in seen.images.items()}
    return {"images": images, "state": vla_eval_array(seen.state), "task_description": seen.instruction}


def framed(kind: Any, payload: Any, seq: Any = 1) -> dict[str, Any]:
    return {"type": kind, "payload": payload, "seq": seq, "timestamp": 0.0}


def messages(protocol: str, spec: RobotSpec, seed: int, count: int) -> Iterator[tuple[bytes, int]]:
    """Messages and their opcodes."""
    if protocol == "verbot":
        yield from clients.fuzzed(spec, seed, count)
        return
    rng, is_openpi = random.Random(f"{protocol} {seed}"), protocol == "openpi"
    record = openpi_observation(spec) if is_openpi else vla_eval_observation(spec)
    whole = msgpack.packb(record if is_openpi else framed("observation", record))
    makers = (clients._flipped, clients._cut, clients._noise, clients._nested, clients._declared)
    for _ in range(count):
        if rng.random() < 0.5:
            data = rng.choice(makers)(rng, whole, None, None)
        else:
            changed = _changed(rng, record, is_openpi)
            data = msgpack.packb(changed if is_openpi else _framed(rng, changed))
        yield data, 2 if rng.random() < 0.95 else 1


def _changed(rng: random.Random, record: dict[str, Any], is_openpi: bool) -> dict[str, Any]:
    """The observation with one field that is wrong, seldom with none."""
    out = {name: dict(value) if isinstance(value, dict) else value for name, value in record.items()}
    place = rng.choice(list(out))
    holder, key = (out[place], rng.choice(list(out[place]))) if place == "images" else (out, place)
    what = rng.random()
    if what < 0.3:
        holder[key] = rng.choice(ODD)
    elif what < 0.35:
        out[rng.choice(("more", "reset", "time_s", "state", "observation/image"))] = rng.choice(ODD)
    elif what < 0.4:
        del holder[key]
    elif isinstance(holder[key], dict):
        field = rng.choice(list(holder[key]))
        value = rng.choice(
            (rng.choice(DTYPES), rng.choice(SHAPES), b"", None, rng.randbytes(rng.randrange(60)), 2**60, "jpeg", "raw")
        )
        holder[key] = {**holder[key], rng.choice((field, "x", b"y" if is_openpi else "y")): value}
        if is_openpi and rng.random() < 0.3:
            holder[key] = {b"__npgeneric__": True, b"data": rng.choice(ODD), b"dtype": rng.choice(DTYPES)}
        elif not is_openpi and rng.random() < 0.3:
            size = rng.choice((1, 64, 3000))
            holder[key] = {**picture(np.zeros((size, 64, 3), np.uint8)), "shape": [64, 64, 3]}
    return out


def _framed(rng: random.Random, payload: Any) -> dict[str, Any]:
    what = rng.random()
    if what < 0.7:
        return framed("observation", payload, rng.choice((1, 7, 2**40)))
    kind: Any = rng.choice(("hello", "observation", "action", "episode_starts", None, 3, "x" * 3000, {}))
    return framed(
        kind,
        rng.choice((payload, {}, {"protocol_version": rng.choice((1, 2, "1", None))}, *ODD)),
        rng.choice((1, None, "1", 2**70 % 2**63)),
    )


def kind_of(protocol: str, data: bytes, is_text: bool) -> str:
    """What an answer is: ``"actions"``, the kind of an error, or ``"untyped"``."""
    try:
        if protocol == "openpi":
            if is_text:
                found = LINE.fullmatch(data.decode())
                return found[1] if found else "untyped"
            return "actions" if b"actions" in data[:16] or b"chunks" in data[:16] else "untyped"
        answer = msgpack.unpackb(data, strict_map_key=False)
        if protocol == "verbot":
            fault = answer.get("error")
            return "actions" if fault is None else fault["kind"] if fault["kind"] in KINDS else "untyped"
        if answer["type"] in ("action", "hello"):
            return "actions" if answer["type"] == "action" else "hello"
        fault = re.fullmatch(rf"(\w+)_failed: ({LINE.pattern})", answer["payload"]["error"])
        return fault[3] if fault else "untyped"
    except (ValueError, LookupError, TypeError, AttributeError):
        return "untyped"


def send(protocol: str, address: tuple[str, int], parts: Iterator[tuple[bytes, int]], until: float) -> Counter[str]:
    """Send each message and take its answer; what the answers were. A closed connection is opened again."""
    clients.give_way()
    counts: Counter[str] = Counter()
    client: clients.RawClient | None = None
    for number, (data, opcode) in zip(itertools.count(), parts, strict=False):
        if time.monotonic() > until:
            counts["not sent in time"] += 1
            continue
        try:
            if client is None:
                client = clients.RawClient(address)
                client.handshake(PATHS[protocol], greets=protocol != "vla-eval")
            client.send(data, opcode)
            kind = kind_of(protocol, client.receive(), client.is_text)
            counts[f"{protocol}: {kind}"] += 1
            if protocol == "openpi" and client.is_text:  # the server closes after an error
                client.close()
                client = None
        except TimeoutError:
            counts[f"{protocol}: no answer"] += 1
            client = None
        except OSError as error:
            counts[f"{protocol}: {str(error)[:40]}"] += 1
            client = None
        counts["sent"] = number + 1
    if client is not None:
        client.close()
    return counts
