"""Runtimes: programs that execute the graphs of an exported policy, one file each. Only writing a graph needs torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy.typing as npt

from verbot.registry import Registry

if TYPE_CHECKING:
    from verbot.policy.export.graphs import GraphSource

Feed = Mapping[str, npt.NDArray[Any]]  # the inputs of a graph by name
Graph = Callable[[Feed], dict[str, npt.NDArray[Any]]]  # to its outputs by name
PRECISIONS = ("fp32", "bf16", "int8-dynamic", "int8-static", "int8-weights")


class Runtime(ABC):
    """Writes and executes graphs. Register one by name in `runtimes`.

    Attributes:
        precisions: those of `PRECISIONS` that it writes.
        runs_code: whether its files can do more than compute, so that only files one trusts may be opened.
        threads: of one graph.
    """

    precisions: ClassVar[tuple[str, ...]]
    runs_code: ClassVar[bool] = False

    def __init__(self, threads: int = 1):
        self.threads = threads

    @abstractmethod
    def write(self, source: GraphSource, precision: str, feeds: Sequence[Feed]) -> dict[str, bytes]:
        """The files of a graph, by name.

        Args:
            feeds: recorded inputs, from which ``"int8-static"`` finds the ranges of activations.

        Raises `PolicyError` for a graph that it cannot express, `MissingDependencyError` without its packages.
        """

    @abstractmethod
    def open(self, name: str, files: Mapping[str, bytes], precision: str) -> Graph:
        """The graph `name` in the files of a policy.

        Raises `PolicyError` if they are not such a graph, `MissingDependencyError` without the runtime's package.
        """


runtimes: Registry[Any] = Registry("runtime", package="verbot.policy.runtimes", group="verbot.runtimes")
