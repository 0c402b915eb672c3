"""Commands that import and export datasets."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import Literal

from tyro.conf import Positional


def data_import(
    source: Positional[Path],
    target: Positional[Path],
    format: str | None = None,
    limit: int | None = None,
    rate_hz: float | None = None,
    robot: str | None = None,
    spec: Path | None = None,
    instruction: str | None = None,
    set: tuple[str, ...] = (),
    json: bool = False,
) -> int:
    """Import recordings of another format. An interrupted import continues; what is broken is named, and the rest imported.

    Example: verbot data import recordings outputs/imported --rate-hz 10 --set split=all

    Args:
        source: a file or folder; its format is recognized.
        target: the new dataset's folder.
        format: manifest, tensors, rlds, hdf5 or mcap, instead of the one recognized.
        limit: only the first so many episodes.
        rate_hz: how fast it was recorded, where the format does not know; for logs, what to resample to.
        robot: whose numbers these are: droid, bridge, open_x, aloha, robomimic, libero or generic; otherwise recognized.
        spec: a JSON file of the robot's spec, instead of the one found; values are then kept exactly as they are.
        instruction: for episodes without one.
        set: options of the format, each as name=value; see docs/guides/importing.md.
        json: print the result as JSON.
    """
    from verbot.configuration import assignments, nested
    from verbot.data.importers.convert import import_dataset
    from verbot.data.storage.files import read_json
    from verbot.spec import RobotSpec

    given = None if spec is None else RobotSpec.from_json(read_json(spec))
    result = import_dataset(
        source, target, format, limit=limit, rate_hz=rate_hz, robot=robot, spec=given, instruction=instruction,
        options=nested(assignments(set)), progress=True,
    )  # fmt: skip
    if json:
        print(json_module.dumps(result.to_json(), indent=1))
        return result.exit_code
    for skipped in result.skipped:
        print(f"skipped {skipped}", file=sys.stderr)
    for problem in result.problems:
        print(problem, file=sys.stderr)
    notes = [f"{result.already} were there" if result.already else ""]
    notes += [f"{result.without_instruction} without instruction" if result.without_instruction else ""]
    notes += [f"{len(result.skipped)} skipped" if result.skipped else ""]
    more = "".join(f", {note}" for note in notes if note)
    summary = f"{result.episodes} episodes, {result.frames} frames of {result.robot!r} from {result.format}{more}"
    print(f"{summary} in {result.seconds:.0f} s: {result.path}")
    return result.exit_code


def data_export(
    source: Positional[Path], target: Positional[Path], to: Literal["hdf5"] = "hdf5", limit: int | None = None
) -> int:
    """Write a dataset in another format: HDF5 as robomimic lays it out. LeRobotDataset v3.0 is what it is already.

    Example: verbot data export outputs/demo/dataset demonstrations.hdf5 --to hdf5

    Args:
        source: the dataset's folder.
        target: the new file.
        to: the format.
        limit: only the first so many episodes.
    """
    from verbot.data.importers.export_hdf5 import export_hdf5

    result = export_hdf5(source, target, limit, progress=True)
    print(f"{result.episodes} episodes, {result.frames} frames: {result.path}")
    return 0
