"""The names of a network's weights: those of its backbone's parts are as though they were the network's own.

Files, and patterns of users (`init.parts`, adapters, co-training), say ``vision.stem.weight``, whichever module holds the part.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from verbot.errors import ConfigError

BACKBONE = "backbone"


class FlatNames(nn.Module):
    """A module whose child `backbone` does not show in the names of modules, parameters, buffers and of its state dict."""

    backbone: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self.register_state_dict_post_hook(_leave_out)
        self.register_load_state_dict_pre_hook(_put_back)

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """As of every module; the backbone itself has the name of this one."""
        hidden, start = _prefixes(prefix)
        for name, module in super().named_modules(memo, prefix, remove_duplicate):
            if name == hidden.removesuffix("."):
                name = prefix
            yield start + name.removeprefix(hidden) if name.startswith(hidden) else name, module

    def get_submodule(self, target: str) -> nn.Module:
        """By the names of `named_modules`."""
        if target and target.partition(".")[0] not in self._modules:
            return self.backbone.get_submodule(target)
        return super().get_submodule(target)

    def check_names(self) -> None:
        """Raise `ConfigError` if the backbone has a part or a weight of a name that this module has too."""
        theirs = {*self.backbone._modules, *self.backbone._parameters, *self.backbone._buffers}
        if taken := sorted(theirs & _own(self)):
            raise ConfigError(
                f"a network has its own {', '.join(taken)}, so {type(self.backbone).__name__} must call its otherwise"
            )


def holder(network: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds the submodule or parameter called `name`, and its name there.

    Example:
        >>> holder(nn.Sequential(nn.Linear(1, 1)), "0.weight")
        (Linear(in_features=1, out_features=1, bias=True), 'weight')
    """
    path, _, leaf = name.rpartition(".")
    holders = (m for at, m in network.named_modules() if at == path and (leaf in m._modules or leaf in m._parameters))
    return next(holders), leaf


def _prefixes(prefix: str) -> tuple[str, str]:
    """What names of the backbone's parts begin with, and what they are to begin with."""
    start = f"{prefix}." if prefix else ""
    return f"{start}{BACKBONE}.", start


def _own(module: nn.Module) -> set[str]:
    return {*module._modules, *module._parameters, *module._buffers} - {BACKBONE}


def _leave_out(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    hidden = f"{prefix}{BACKBONE}."
    for name in list(state):  # every one is put back, so that their order stays
        value = state.pop(name)
        state[prefix + name.removeprefix(hidden) if name.startswith(hidden) else name] = value


def _put_back(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    own = _own(module)
    for name in list(state):
        value, short = state.pop(name), name.removeprefix(prefix)
        hidden = name.startswith(prefix) and short.partition(".")[0] not in own
        state[f"{prefix}{BACKBONE}.{short}" if hidden else name] = value
