"""What verbot records of an episode beside LeRobot's files: its identity, calibration and extras."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from verbot.data.storage import layout
from verbot.data.storage.arrow_rows import Rows, TablePart
from verbot.data.storage.files import parsed, row_groups
from verbot.data.storage.info import placed
from verbot.data.storage.stored_frames import StoredFrames
from verbot.errors import CorruptFileError
from verbot.spec import Int64Array
from verbot.text import clean_names

FOLDER = "meta/verbot"
RENAMED_EXTRAS = {"engaged_frame": "first_contact_frame"}  # as verbot 0.1 recorded them


class RecordedExtras:
    """The rows of ``meta/verbot``, read when they are needed."""

    def __init__(self, stored: StoredFrames):
        self._stored, self._committed = stored, int(stored.info["total_episodes"])
        self._path = stored.root / FOLDER

    def of(self, number: int) -> Mapping[str, Any] | None:
        """The row of an episode; None for an episode of other software."""
        if "verbot" not in self._stored.info or (place := int(self._places[number])) < 0:
            return None
        return self._rows[place]

    def table(self, record: Mapping[str, Any], key: str) -> dict[str, Any]:
        """The JSON table ``"calibration"`` or ``"extras"`` of a row. Raises `CorruptFileError` if it is none."""
        try:
            table = parsed(str.encode(record[key], errors="surrogatepass"))
        except (KeyError, ValueError, TypeError, RecursionError) as error:
            raise CorruptFileError(self._path, f"holds {key} that are not JSON ({error})") from error
        if not isinstance(table, dict):
            raise CorruptFileError(self._path, f"holds {key} that are no table")
        if key == "calibration":  # of cameras, which older versions called anything
            cameras = [key.removeprefix(layout.IMAGES) for key in self._stored.info["features"] if key.startswith(layout.IMAGES)]
            clean = clean_names([*cameras, *table])  # of all cameras, as the spec's: which names clash depends on all of them
            return {clean[name]: values for name, values in table.items()}
        return table

    @functools.cached_property
    def _rows(self) -> Rows:
        paths = sorted(
            placed(self._stored.root, name) for name in self._stored.info["verbot"]["files"] if name.startswith(f"{FOLDER}/")
        )
        return Rows([TablePart(sum(row_groups(path)), functools.partial(self._stored.read, path)) for path in paths])

    @functools.cached_property
    def _places(self) -> Int64Array:
        """The row of each merged episode, the last one if there are several; −1 if there is none."""
        places = np.full(self._committed, -1, np.int64)
        try:
            numbers = self._rows.column("episode_index")
        except (KeyError, ValueError) as error:
            raise CorruptFileError(self._path, "lacks the number of an episode") from error
        known = (numbers >= 0) & (numbers < self._committed)
        places[numbers[known]] = np.flatnonzero(known)
        return places


def renamed_extras(extras: Mapping[str, Any]) -> dict[str, Any]:
    """Extras under the names of this version."""
    return {RENAMED_EXTRAS.get(key, key): value for key, value in extras.items()}
