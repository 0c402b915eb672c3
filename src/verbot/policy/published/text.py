"""Tokenizers of published policies: a ``tokenizer.json`` in the folder, or that of the language model that they were built on."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from verbot.errors import ConfigError, MissingDependencyError

TOKENIZER = "tokenizer.json"


class PromptTokenizer:
    """Text to token ids. Text never becomes a special token.

    Args:
        path: of a ``tokenizer.json``. Raises `ConfigError` if it cannot be read.
    """

    def __init__(self, path: Path):
        try:
            library = importlib.import_module("tokenizers")
        except ImportError as error:
            raise MissingDependencyError(
                "published policies with language need tokenizers, which is not installed: pip install 'verbot[hf]'"
            ) from error
        try:
            self._tokenizer: Any = library.Tokenizer.from_file(str(path))
        except Exception as error:  # the package raises plain exceptions
            raise ConfigError(f"{path} is no tokenizer: {' '.join(str(error).split())[:200]}") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = True

    @property
    def size(self) -> int:
        """Of the vocabulary, without tokens that were added to it."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=False))

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)
        return text

    def special(self, *names: str) -> int:
        """The id of the first of these special tokens that there is. Raises `ConfigError` if there is none."""
        for name in names:
            found = self._tokenizer.token_to_id(name)
            if found is not None:
                return int(found)
        raise ConfigError(f"the tokenizer has no token {' or '.join(names)}; is it that of another language model?")


def find_tokenizer(folder: Path, given: str | None, published: str) -> Path:
    """The ``tokenizer.json`` of a policy: `given`, a folder or a name on the hub; or in `folder`; or else that of `published`.

    Raises `ConfigError` that says what to do if there is none.
    """
    places = [folder / TOKENIZER, folder / "tokenizer" / TOKENIZER]
    if given is not None:
        own = Path(given).expanduser()
        places = [own] if own.is_file() else [own / TOKENIZER]
    for place in places:
        if place.is_file():
            return place
    name = given or published
    try:
        hub = importlib.import_module("huggingface_hub")
        return Path(hub.hf_hub_download(name, TOKENIZER))
    except Exception as error:  # the hub's client, and what it speaks through, raise a dozen unrelated kinds
        raise ConfigError(
            f"{folder} has no {TOKENIZER}, and the hub did not give that of {name} ({type(error).__name__}); copy the "
            f"{TOKENIZER} of {published} into the folder"
        ) from error


def padded(rows: Sequence[Sequence[int]], length: int, pad: int = 0) -> tuple[Tensor, Tensor]:
    """Ids (b, length) int64, padded on the right and cut there, and which of them are real (b, length)."""
    ids = torch.full((len(rows), length), pad, dtype=torch.int64)
    mask = torch.zeros((len(rows), length), dtype=torch.bool)
    for row, own in enumerate(rows):
        kept = list(own[:length])
        ids[row, : len(kept)], mask[row, : len(kept)] = torch.tensor(kept, dtype=torch.int64), True
    return ids, mask
