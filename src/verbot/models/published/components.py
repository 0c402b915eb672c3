"""Parts of a checkpoint in files of their own, as torch writes them (``.pt``), beside its safetensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import is_zipfile

import torch
from torch import Tensor

from verbot.errors import CorruptFileError
from verbot.models.trunks.weights import TensorFiles

SUFFIX = ".pt"
SEPARATOR = ":"  # between the name of a part and that of a tensor in its file


@dataclass(frozen=True)
class ComponentFiles(TensorFiles):
    """Safetensors, and the tensors of parts, which are called ``PART:NAME``.

    Args:
        dtype: of the parts' tensors; they are read as that.
    """

    dtype: torch.dtype | None = field(default=None)

    @staticmethod
    def joined(tensors: TensorFiles, parts: Mapping[str, Path], dtype: torch.dtype | None) -> ComponentFiles:
        """`tensors`, and those of `parts` by name. Raises `CorruptFileError` for a file that holds other than tensors."""
        files, shapes = dict(tensors.files), dict(tensors.shapes)
        for part, path in parts.items():
            for name, value in read_component(path).items():
                files[f"{part}{SEPARATOR}{name}"], shapes[f"{part}{SEPARATOR}{name}"] = path, tuple(value.shape)
        return ComponentFiles(tensors.folder, files, shapes, dtype)

    def read(self, names: list[str]) -> Iterator[tuple[str, Tensor]]:
        inside = [name for name in names if self.files[name].suffix == SUFFIX]
        yield from super().read([name for name in names if name not in inside])
        for path in dict.fromkeys(self.files[name] for name in inside):
            found = read_component(path)
            for name in inside:
                if self.files[name] == path:
                    value = found[name.split(SEPARATOR, 1)[1]]
                    yield name, value if self.dtype is None else value.to(self.dtype)


def read_component(path: Path) -> dict[str, Tensor]:
    """The tensors in a file of torch, memory-mapped unless it is of torch before 1.6; only tensors are read, no code is run.

    Raises `CorruptFileError` for a file that holds anything else.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except Exception as error:  # torch raises a dozen unrelated kinds for files that are none of its own
        reason = " ".join(str(error).split())[:120]
        raise CorruptFileError(path, f"cannot be read as tensors of torch ({type(error).__name__}: {reason})") from error
    if not isinstance(found, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items()):
        raise CorruptFileError(path, "holds no table of tensors by name")
    return found


def write_component(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Inverse of `read_component`, for tensors that are called ``PART:NAME``."""
    torch.save({name.split(SEPARATOR, 1)[1]: value for name, value in tensors.items()}, path)


def dtype_of(tensors: TensorFiles, name: str) -> torch.dtype:
    """The dtype of a tensor of the files."""
    return next(tensors.read([name]))[1].dtype
