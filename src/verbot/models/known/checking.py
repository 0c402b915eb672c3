"""Checking a fetched model: its files by their sha256, and its answer to a known question."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from verbot.errors import CorruptFileError, MissingDependencyError, VerbotError
from verbot.model_store import RECORD, fetched_record
from verbot.models.known.base import known_models, resolve_model
from verbot.models.known.fetching import file_sha256


@dataclass(frozen=True)
class CheckedModel:
    """The result of a check.

    Args:
        name: of the model.
        problem: what is wrong; ``""`` if nothing is.
        files: how many files have the sha256 that was noted.
        answer: about the known answer; why it was not tested, if it was not.
    """

    name: str
    problem: str
    files: int = 0
    answer: str = ""

    @property
    def is_good(self) -> bool:
        return not self.problem


def check_model(name: str) -> CheckedModel:
    """Hash every file of the fetched model `name` again, and test a known answer. Raises `UnknownNameError`."""
    model = known_models.get(name)()
    try:
        folder = resolve_model(name)
        count = _check_files(folder)
    except VerbotError as error:
        return CheckedModel(name, str(error))
    if model.answer is None:
        return CheckedModel(name, "", count, "no known answer")
    try:
        return CheckedModel(name, "", count, model.answer(folder))
    except MissingDependencyError as error:
        return CheckedModel(name, "", count, f"not tested: {error}")
    except VerbotError as error:
        return CheckedModel(name, str(error), count)


def _check_files(folder: Path) -> int:
    """How many files there are. Raises `CorruptFileError` for one that changed, is missing, or was not there."""
    record = fetched_record(folder)
    noted = record.get("files")
    if not isinstance(noted, dict):
        raise CorruptFileError(folder / RECORD, "lists no files")
    there = {path.name for path in folder.iterdir()} - {RECORD}
    for name in sorted({*noted, *there}):
        if name not in there:
            raise CorruptFileError(folder / name, "is missing; fetch the model again")
        if name not in noted:
            raise CorruptFileError(folder / name, "was not made by verbot; remove it")
        if (found := file_sha256(folder / name)) != noted[name].get("sha256"):
            raise CorruptFileError(
                folder / name, f"has changed: sha256 {found}, noted {noted[name].get('sha256')}; fetch the model again"
            )
    return len(there)
