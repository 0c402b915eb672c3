"""HDF5 datasets of ALOHA (one file per episode), robomimic, LIBERO and Isaac Lab (``data/demo_0``, …), and own layouts.

ALOHA has ``observations/qpos``, ``action`` and ``observations/images/<camera>``. Images are pixels, or JPEG padded with zeros;
decoders ignore the padding. JPEG is read as RGB, as in openpi's converter. Recorders that passed RGB to OpenCV as BGR exchanged
red and blue (option `bgr`). If the file has no instruction, give one with ``--instruction``.

robomimic has ``data/demo_k/actions`` and ``obs/<name>``; ``env_args`` holds the control rate and the controller. LIBERO is the
same with the instruction in ``data.attrs["problem_info"]``. Images of LIBERO are upside down: it stores robosuite's frames in
OpenGL's row order (``macros_image_convention``), whereas robomimic flips them before it stores them. This importer flips the
rows only. Users report that a vertical flip agrees with the camera's pose; the half turn that some converters apply mirrors
the scene.

Other layouts are read with the option `action`, and `state` and `images` as needed: each file is an episode, or each group of a
file that has the named actions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from verbot.data.importers import Item, failing, files_of, known_robots, natural, reading, sources
from verbot.data.importers.hdf5_episode import Hdf5Options, Hdf5Place, read_episode
from verbot.data.importers.hdf5_file import BROKEN, Hdf5Pictures, entries, opened, whole_number
from verbot.data.importers.hdf5_recognition import GENERIC, Hdf5Recognition, of_aloha, of_demonstrations, recorded_rate
from verbot.data.importers.images import FloatRanges
from verbot.errors import CorruptFileError, DataError

SUFFIXES = (".hdf5", ".h5")
MOST = 12  # datasets that a message lists


@dataclasses.dataclass(frozen=True)
class _Content:
    """The episodes of one file, what it says of its robot, and what contradicts itself in it."""

    places: tuple[Hdf5Place, ...]
    found: Hdf5Recognition
    problem: DataError | None = None


@sources.register("hdf5", needs=("h5py",))
class Hdf5:
    """HDF5 files of ALOHA, robomimic, LIBERO or Isaac Lab, or of a layout whose fields are named."""

    about = ".hdf5 files of ALOHA, robomimic, LIBERO or Isaac Lab, or any with named fields"

    def __init__(self, path: Path, robot: str | None = None, fields: Hdf5Options = Hdf5Options()):  # noqa: B008
        self._paths = files_of(path, *SUFFIXES)
        if not self._paths:
            raise DataError(f"{path} has no file that ends with {' or '.join(SUFFIXES)}")
        self._options, self._named = fields, robot is not None
        self._ranges = FloatRanges(fields.floats, self._float_readers)
        self._found = self._first()
        self.robot = known_robots.known(robot) if robot else self._found.robot
        self.rate_hz = self._found.rate_hz or self.robot.rate_hz
        self.recognition = "" if robot else self._found.evidence
        self.total: int | None = None

    @staticmethod
    def recognizes(path: Path) -> bool:
        return bool(files_of(path, *SUFFIXES))

    def items(self) -> Iterator[Item]:
        for path in self._paths:
            try:
                content = _content(path, self._options)
                self._check(path, content.found)
            except DataError as error:
                yield Item(path.name, failing(error))
                continue
            for place in content.places:
                yield Item(place.key, partial(read_episode, place, self.robot, content.found, self._options, self._ranges))
            if content.problem is not None:
                yield Item(path.name, failing(content.problem))

    def _float_readers(self, field: str) -> Iterator[Callable[[], np.ndarray]]:
        for path in self._paths:
            try:
                places = _content(path, self._options).places
            except DataError:
                continue  # named when its episodes are imported
            for place in places:
                yield Hdf5Pictures(path, place.full(field)).stored

    def _first(self) -> Hdf5Recognition:
        """What the first readable file says. Raises `DataError` if no file has a known layout."""
        problems: list[DataError] = []
        for path in self._paths:
            try:
                return _content(path, self._options).found
            except CorruptFileError:
                continue
            except DataError as error:
                problems.append(error)
        if problems:
            raise problems[0]
        return GENERIC

    def _check(self, path: Path, found: Hdf5Recognition) -> None:
        """Raise `DataError` if a file is of another robot or rate than the first: its numbers would mean something else."""
        if self._named or not self._found.evidence or not found.evidence:
            same = self._named or bool(self._found.evidence) == bool(found.evidence) or self.robot.name == "aloha"
        else:
            same = found.robot == self._found.robot
        if not same:
            was, now = (one.evidence or "no evidence of a robot" for one in (self._found, found))
            raise DataError(f"{path} has {now}; the first file has {was}. Import them one by one")
        if found.rate_hz != self._found.rate_hz:
            was, now = (f"{one.rate_hz:g} Hz" if one.rate_hz else "no rate" for one in (self._found, found))
            raise DataError(f"{path} was recorded at {now}; the first file at {was}. Import them one by one")


def _content(path: Path, options: Hdf5Options) -> _Content:
    """The episodes of a file. Raises `DataError` if it has no known layout and the options name none."""
    with opened(path) as file, reading(path, *BROKEN):
        action = options.names("action") or ()
        fields = entries(file) if "data" not in file else {}
        if "data" in file and not (action and action[0] in file):
            return _demonstrations(path, file, action)
        if "action" in file and "observations" in file:
            found = of_aloha(file, fields)
            return _Content((Hdf5Place(path, "", "observations", "observations/images", ("action",)),), found)
        found = dataclasses.replace(GENERIC, rate_hz=recorded_rate(file.attrs))
        if action and action[0] in file:
            return _Content((Hdf5Place(path),), found)
        groups = [name for name in sorted(file, key=natural) if action and f"{name}/{action[0]}" in file]
        if groups:
            return _Content(tuple(Hdf5Place(path, name) for name in groups), found)
        raise DataError(_unknown(path, file, action))


def _demonstrations(path: Path, file: Any, action: tuple[str, ...]) -> _Content:
    import h5py

    data = file["data"]
    names = [name for name in data if isinstance(data.get(name), h5py.Group)] if isinstance(data, h5py.Group) else []
    demos = sorted(names, key=natural)
    if not demos:
        raise DataError(_unknown(path, file, action))
    places = tuple(Hdf5Place(path, f"data/{name}", "obs", "obs", action or ("actions",)) for name in demos)
    first = next((name for name in demos if "actions" in data[name]), demos[0])  # an incomplete one is evidence of nothing
    found = of_demonstrations(data, entries(data[first]), path)
    try:
        problem = _contradiction(path, data, demos)
    except CorruptFileError as error:
        problem = error
    return _Content(places, found, problem)


def _contradiction(path: Path, data: Any, demos: list[str]) -> DataError | None:
    """Whether the counts of the whole file disagree with its demonstrations: some may be missing."""
    frames = 0
    for name in demos:
        try:
            counted = whole_number(data[name].attrs, "num_samples", path)
        except CorruptFileError:
            return None  # reading that demonstration says so
        actions = data[name].get("actions")
        frames += counted if counted is not None else len(actions) if actions is not None and actions.shape else 0
    for attribute, count, what in (("num_demos", len(demos), "demonstrations"), ("total", frames, "frames")):
        stated = whole_number(data.attrs, attribute, path)
        if stated is not None and stated != count:
            return DataError(f"{path}, data: {attribute} is {stated}, but it has {count} {what}; some may be missing")
    return None


def _unknown(path: Path, file: Any, action: tuple[str, ...]) -> str:
    """What an unknown layout holds, and an example of the options that name its fields."""
    fields = entries(file)
    listing = ", ".join(map(str, list(fields.values())[:MOST])) or "no dataset"
    listing += f" and {len(fields) - MOST} more" if len(fields) > MOST else ""
    if action:
        return f"{path} has no dataset {action[0]!r}; it has {listing}"
    known = "expected action and observations (ALOHA) or data/demo_0 (robomimic), or the fields by name"
    numbers = [path for path, entry in fields.items() if entry.kind == "numbers"]
    pictures = [path for path, entry in fields.items() if entry.kind in ("color", "gray", "encoded")]
    if not numbers:
        return f"{path} has {listing}; {known}"
    first = next((name for name in numbers if "action" in name), numbers[0])
    state = next((f" state={name}" for name in numbers if name != first), "")
    words = pictures[0].split("/") if pictures else []
    camera = words[-2] if len(words) > 1 and words[-1] in ("rgb", "color", "image") else words[-1] if words else ""
    example = f"--set action={first}{state}" + (f" images.{camera}={pictures[0]}" if pictures else "")
    return f"{path} has {listing}; {known}, as in {example}"
