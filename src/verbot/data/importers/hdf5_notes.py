"""The lines of an import's table for what an HDF5 episode leaves out, each with the option that takes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from verbot.data.importers import FieldNote
from verbot.data.importers.hdf5_file import Entry
from verbot.data.importers.hdf5_sentences import SENTENCES

# Datasets of robomimic's demonstrations that become columns.
COLUMNS = {"rewards": "next.reward", "dones": "next.done", "states": "observation.environment_state"}
READ = ("num_samples", "ep_meta", "success", *SENTENCES)  # attributes that are read; others are listed as left out
GROUPS = {
    "compress_len": "the lengths of the compressed pictures, which end by themselves",
    "next_obs": "the observation of the next frame",
    "initial_state": "the simulator's state before the first frame",
    "states": "the simulator's states by name",
}


def left_out(
    group: Any, fields: Mapping[str, Entry], taken: set[str], observed: str, action: tuple[str, ...], state: tuple[str, ...]
) -> list[FieldNote]:
    """A line for each field of an episode that is not in `taken`; a folder of which nothing was taken is one line."""
    notes, whole = [], set[str]()
    for path, entry in fields.items():
        if path in taken:
            continue
        folder = next((one for one in _folders(path, observed) if not any(name.startswith(f"{one}/") for name in taken)), None)
        if folder is None:
            notes.append(FieldNote(path, "left out", "", _reason(path, entry, observed, action, state)))
        elif folder not in whole:
            whole.add(folder)
            reason = GROUPS.get(folder) or f"a folder; its numbers are taken with --set state={_joined(state, path, observed)}"
            notes.append(
                FieldNote(folder, "left out", "", reason if entry.kind == "numbers" else GROUPS.get(folder, _kind(entry)))
            )
    others = [name for name in group.attrs if name not in READ and not name.startswith("verbot_")]
    if others:
        notes.append(FieldNote(f"attributes {', '.join(others)}", "left out", "", "no field of a dataset"))
    return notes


def _folders(path: str, observed: str) -> Iterator[str]:
    """The folders around `path`, the widest first, without that of the observation."""
    parts = path.split("/")[:-1]
    for depth in range(1, len(parts) + 1):
        folder = "/".join(parts[:depth])
        if folder != observed:
            yield folder


def _reason(path: str, entry: Entry, observed: str, action: tuple[str, ...], state: tuple[str, ...]) -> str:
    if path in GROUPS:
        return GROUPS[path]
    inside = bool(observed) and path.startswith(f"{observed}/")
    if entry.kind == "numbers":
        if path in COLUMNS:
            return f"{entry.dtype} {entry.shape}, which is no column"
        if path.rpartition("/")[2] in ("timestamp", "timestamps"):
            return "times; the rate is that of --rate-hz, or the recorded one"
        if not inside and "action" in path:
            return f"take it among the actions with --set action={','.join((*action, path))}"
        if inside and path.rpartition("/")[2] == "actions":
            return f"the last action, no measurement; take it with --set state={_joined(state, path, observed)}"
        return f"not a usual field; take it with --set state={_joined(state, path, observed)}"
    return _kind(entry)


def _kind(entry: Entry) -> str:
    name = entry.path
    return {
        "depth": f"depth, whose unit the file does not state; take it with --set depth={name} depth_unit=mm (or cm, m)",
        "labels": "labels of pixels, no color",
        "gray": f"(t, h, w) need not be pictures; take it with --set images={name}",
        "color": f"not among the chosen cameras; take it with --set images.CAMERA={name}",
        "encoded": f"not among the chosen cameras; take it with --set images.CAMERA={name}",
        "text": f"text; take it with --set instruction={name}",
        "numbers": "numbers that were not chosen",
    }.get(entry.kind, f"{entry.dtype} {entry.shape}, neither numbers, pictures nor text")


def _joined(state: tuple[str, ...], path: str, observed: str) -> str:
    name = path.removeprefix(f"{observed}/") if observed else path
    return ",".join((*state, name))
