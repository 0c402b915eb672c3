"""Running a fetched language model on a known input. Needs torch and tokenizers."""

from __future__ import annotations

from pathlib import Path

from verbot.errors import MissingDependencyError, install_command
from verbot.registry import installed


def need(*modules: str) -> None:
    """Raise `MissingDependencyError` unless all modules are installed."""
    if lacking := [module for module in modules if not installed(module)]:
        raise MissingDependencyError(f"it needs {', '.join(lacking)}: {install_command(*lacking)}")


def next_token(folder: Path, text: str) -> str:
    """The most likely token after `text`, by the whole language model in `folder`."""
    need("torch", "tokenizers")
    import torch

    from verbot.models.registries import trunks

    trunk = trunks.build("hf", checkpoint=str(folder), mode="frozen")
    ids = torch.tensor([trunk.tokenizer.encode(text)])
    causal = torch.ones(1, ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    with torch.inference_mode():
        out = trunk(trunk.embed(ids), causal, torch.arange(ids.shape[1])[None])
        best = int(trunk.logits(out.hidden[:, -1:]).argmax())
    said: str = trunk.tokenizer.decode([best])
    return said
