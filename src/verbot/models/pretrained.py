"""Checkpoints of the transformers library, by folder or hub name.

They are identified by their sha256, and read without pickle and without running code that they contain.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from verbot.errors import ConfigError, CorruptFileError, MissingDependencyError
from verbot.models.allocation import uncounted
from verbot.models.known.base import known_name, resolve_model
from verbot.text import progress_bars

CONFIG, PROCESSOR, TOKENIZER = "config.json", "preprocessor_config.json", "tokenizer.json"
FILES = (CONFIG, PROCESSOR, TOKENIZER, "*.safetensors", "*.safetensors.index.json")
FROZEN, TRAINED = "frozen", "trained"


@dataclass(frozen=True)
class Checkpoint:
    """What of a pretrained model is used, and how it learns. The fields are options of the encoders.

    Args:
        checkpoint: a folder, the name of a known model (``models:smollm2-135m``), or a name on the hub.
        revision: revision of the hub's repository.
        mode: ``"frozen"``, ``"trained"``, or a factor below 1 of the learning rate (``lr_scale`` of the parameters).
        depth: layers, stages (ResNet) or blocks (EfficientNet) used, from the first; None uses all.

    Raises `ConfigError` for a mode that does not exist, or that needs a checkpoint if there is none.
    """

    checkpoint: str | None = None
    revision: str | None = None
    mode: str | float = TRAINED
    depth: int | None = None

    def __post_init__(self) -> None:
        factor = not isinstance(self.mode, str | bool) and 0 < self.mode < 1
        if self.mode not in (FROZEN, TRAINED) and not factor:
            raise ConfigError(f"mode is 'frozen', 'trained' or a factor of the learning rate between 0 and 1; got {self.mode!r}")
        if self.is_frozen and self.checkpoint is None:
            raise ConfigError("mode 'frozen' needs a checkpoint: random weights that never learn are no encoder")

    @property
    def is_frozen(self) -> bool:
        return self.mode == FROZEN

    def find(self) -> Path:
        """The folder; see `find`."""
        return find(str(self.checkpoint), self.revision)


RANDOM = Checkpoint()


def library(name: str = "transformers") -> ModuleType:
    """Import the library. Raises `MissingDependencyError` if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependencyError(
            f"pretrained encoders need {name}, which is not installed: pip install 'verbot[hf]'"
        ) from error


def find(checkpoint: str, revision: str | None = None) -> Path:
    """The folder of a checkpoint: a folder, a known model that was fetched (`verbot.models.known`), or its copy in the hub's
    cache, downloaded if needed.

    Raises `ConfigError` if there is no checkpoint, or none in safetensors; `UnknownNameError` for ``models:NAME`` of a model that
    is not known.
    """
    known = known_name(checkpoint)
    folder = Path(checkpoint).expanduser() if known is None else resolve_model(known)
    if not folder.is_dir():
        folder = _from_hub(checkpoint, revision)
    if not (folder / CONFIG).is_file():
        raise ConfigError(f"{folder} is not a checkpoint of the transformers library: it has no {CONFIG}")
    if not _weights(folder):
        raise ConfigError(
            f"{folder} has no weights in safetensors, and pickled weights are not read. Many models have them on a branch: "
            f"try revision 'refs/pr/N' of a conversion listed on the hub; or convert them with save_pretrained"
        )
    return folder


def _from_hub(checkpoint: str, revision: str | None) -> Path:
    hub = library("huggingface_hub")
    for offline in (True, False):  # a cached copy needs no network
        try:
            with progress_bars():
                folder = hub.snapshot_download(checkpoint, revision=revision, allow_patterns=FILES, local_files_only=offline)
        except Exception as error:  # the hub's client, and what it speaks through, raise a dozen unrelated kinds
            if offline:
                continue
            raise ConfigError(
                f"there is no checkpoint {checkpoint!r}: no such folder is here, and the hub did not give it "
                f"({type(error).__name__}). Without a network, name a folder that holds {CONFIG} and model.safetensors "
                f"(and {TOKENIZER} or {PROCESSOR}), or bring the hub's cache: hf download {checkpoint}"
            ) from error
        if _weights(Path(folder)) or not offline:
            return Path(folder)
    raise AssertionError


def architecture(folder: Path) -> dict[str, Any]:
    """The content of ``config.json``. Raises `CorruptFileError`."""
    return _json(folder / CONFIG)


def processor(folder: Path) -> dict[str, Any]:
    """The content of ``preprocessor_config.json``; empty if there is none. Raises `CorruptFileError`."""
    return _json(folder / PROCESSOR) if (folder / PROCESSOR).is_file() else {}


def identity(folder: Path) -> str:
    """The sha256 of weights, architecture and tokenizer."""
    files = [path for name in (CONFIG, PROCESSOR, TOKENIZER) if (path := folder / name).is_file()] + _weights(folder)
    digests = (_digest(path, path.stat().st_mtime_ns, path.stat().st_size) for path in files)
    return hashlib.sha256("".join(f"{p.name} {d}\n" for p, d in zip(files, digests, strict=True)).encode()).hexdigest()


def family(kinds: Mapping[str, Any], model_type: object, what: str) -> Any:
    """The entry of `kinds` for a ``model_type``. Raises `ConfigError`, which lists the known types."""
    if model_type not in kinds:
        raise ConfigError(f"{what} does not know models of type {model_type!r}; it knows {', '.join(kinds)}")
    return kinds[str(model_type)]


def scale_rate(model: nn.Module, mode: str | float) -> None:
    """If `mode` is a factor, set it as ``lr_scale`` of the parameters; optimizers multiply their learning rate by it."""
    for parameter in () if isinstance(mode, str) else model.parameters():
        parameter.lr_scale = float(mode)  # type: ignore[attr-defined]


def load(kind: str, config: Any, folder: Path, **options: Any) -> nn.Module:
    """The model of class `kind` with the weights in `folder`, in evaluation mode and float32.

    Raises `CorruptFileError` if weights are missing or have another shape; the library would initialize them randomly.
    """
    logging = library("transformers.utils.logging")
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with uncounted():
            model, report = getattr(library(), kind).from_pretrained(
                folder, config=config, use_safetensors=True, local_files_only=True, trust_remote_code=False,
                output_loading_info=True, dtype=torch.float32, **options,
            )  # fmt: skip
    except (OSError, ValueError, RuntimeError) as error:
        raise CorruptFileError(folder, f"its weights cannot be read as a {kind}: {error}") from error
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
    if lost := [*report["missing_keys"], *report["mismatched_keys"]]:
        raise CorruptFileError(folder, f"lacks {len(lost)} of the weights of a {kind}, among them {min(map(str, lost))}")
    return model.eval()


class Absence:
    """Records that the weights of `module` were not available, until `load_state_dict` provides them.

    A policy that trained a whole model contains its weights, so it loads without the checkpoint from which training started.
    """

    def __init__(self, module: nn.Module, reason: str | None):
        self._reason = reason
        module.register_load_state_dict_post_hook(self._loaded)

    def check(self) -> None:
        """Raise `ConfigError` while there are no weights."""
        if self._reason:
            raise ConfigError(self._reason)

    def _loaded(self, module: nn.Module, incompatible: Any) -> None:
        if not incompatible.missing_keys:
            self._reason = None


@functools.lru_cache(maxsize=64)
def _digest(path: Path, mtime_ns: int, size: int) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptFileError(path, f"is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise CorruptFileError(path, f"holds a {type(record).__name__}; expected an object")
    return record
