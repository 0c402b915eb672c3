"""Commands that import and export datasets."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from verbot.cli.options import READING, RECORDINGS, ImportOptions, ReadingOptions


def data_import_command(
    source: Positional[Path],
    target: Positional[Path],
    format: str | None = None,
    limit: int | None = None,
    recordings: ImportOptions = RECORDINGS,
    map: tuple[str, ...] = (),
    set: tuple[str, ...] = (),
    json: bool = False,
) -> int:
    """Import recordings of another format. An interrupted import continues; what is broken is named, and the rest imported.

    It ends with a table of what each field was taken as, how it was converted and what was left out, which `verbot data info`
    prints too. The exit code is 1 if episodes were left out, and 2 if none could be imported.

    Example: verbot data import recordings outputs/imported --robot aloha --instruction "fold the shirt"

    Args:
        source: a file or folder; its format is recognized.
        target: the new dataset's folder.
        format: manifest, tensors, rlds, hdf5, zarr, mcap or rosbag, instead of the one recognized.
        limit: only the first so many episodes.
        map: fields of the source by the dataset's names, as in observation.state=state action=arm,gripper images.front=image0
            instruction=task; several vectors are joined.
        set: options of the format, each as name=value; see docs/guides/importing.md.
        json: print the result as JSON.
    """
    from verbot.configuration import assignments, nested
    from verbot.data.importers.convert import ImportConfig, import_dataset
    from verbot.data.importers.fields import mapped
    from verbot.data.storage.files import read_json
    from verbot.errors import ConfigError
    from verbot.spec import RobotSpec

    spec = None if recordings.spec is None else RobotSpec.from_json(read_json(recordings.spec))
    options, fields = nested(assignments(set)), mapped(map)
    twice = [name for name in fields if name in options]
    if twice:
        raise ConfigError(f"{twice[0]} is given by --map and by --set; give it once")
    given = (recordings.rate_hz, recordings.robot, spec, recordings.instruction)
    config = ImportConfig(
        format, limit, *given, {**options, **fields}, recordings.images, recordings.strict, recordings.max_episode_gb
    )
    result = import_dataset(source, target, config, progress=True)
    for skipped in result.skipped:
        print(f"skipped {skipped}", file=sys.stderr)
    for problem in result.problems:
        print(problem, file=sys.stderr)
    if json:
        print(json_module.dumps(result.to_json(), indent=1))
        return result.exit_code
    print(*result.table.lines(), "", sep="\n")
    notes = [f"{result.already} were there" if result.already else ""]
    notes += [f"{result.without_instruction} without instruction" if result.without_instruction else ""]
    notes += [f"{len(result.skipped)} skipped" if result.skipped else ""]
    more = "".join(f", {note}" for note in notes if note)
    summary = f"{result.episodes} episodes, {result.frames} frames of {result.robot!r} from {result.format}{more}"
    print(f"{summary} in {result.seconds:.0f} s: {result.path}")
    return result.exit_code


def data_export_command(
    source: Positional[Path],
    target: Positional[Path],
    to: Literal["hdf5"] = "hdf5",
    limit: int | None = None,
    reading: ReadingOptions = READING,
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

    result = export_hdf5(source, target, limit, progress=True, features=reading.features)
    print(f"{result.episodes} episodes, {result.frames} frames: {result.path}")
    return 0
