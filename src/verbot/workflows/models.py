"""The known models and what is there of each, as lines and as JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from verbot.model_store import fetched_folder, fetched_record, store_folder
from verbot.models.known import CheckedModel, check_model, known_models
from verbot.registry import installed

FETCHED, OUTDATED, PACKAGE, ABSENT = "fetched", "outdated: fetch again", "package installed", "no"


def model_records() -> list[dict[str, Any]]:
    """Each known model, with whether it is there."""
    found = []
    for name in known_models.names():
        model, folder = known_models.get(name)(), fetched_folder(name)
        if folder is not None:
            present = FETCHED if model.is_made_by(fetched_record(folder)) else OUTDATED
        else:
            present = PACKAGE if model.module and installed(model.module) else ABSENT
        found.append({
            "name": name, "license": model.license, "download_bytes": model.wheel_bytes, "present": present, "use": model.use,
            "package": model.requirement, "wheel_sha256": model.wheel,
            "files": {file.entry: file.sha256 for file in model.files}, "folder": None if folder is None else str(folder),
        })  # fmt: skip
    return found


def model_table(records: Sequence[dict[str, Any]]) -> list[str]:
    """The table of `model_records`, and where fetched models lie."""
    rows = [("model", "license", "download", "there", "use")]
    for each in records:
        rows.append((each["name"], each["license"], f"{each['download_bytes'] / 1e6:.0f} MB", each["present"], each["use"]))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    lines = ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows]
    return [*lines, "", f"verbot models fetch NAME downloads one to {store_folder()}"]


def check_models(name: str | None = None) -> list[CheckedModel]:
    """Check one model, or every one that was fetched. Raises `UnknownNameError`."""
    names = known_models.names() if name is None else (name,)
    return [check_model(each) for each in names if name is not None or fetched_folder(each) is not None]


def check_line(checked: CheckedModel) -> str:
    if checked.problem:
        return f"wrong  {checked.name}: {checked.problem}"
    return f"ok     {checked.name}: {checked.files} files as noted; {checked.answer}"
