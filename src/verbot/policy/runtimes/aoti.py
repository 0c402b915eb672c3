"""Graphs compiled to machine code by AOTInductor of torch."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from verbot.errors import MissingDependencyError, PolicyError, install_command
from verbot.policy.runtimes import Feed, Graph, Runtime, runtimes
from verbot.policy.runtimes.torch_export import called, names_of, torch_names

if TYPE_CHECKING:
    from verbot.policy.export.graphs import GraphSource


@runtimes.register("aoti", needs=("torch",))
class AotInductor(Runtime):
    """Machine code for processors like the one that compiled it; opened only where it is trusted. Torch executes it."""

    precisions = ("fp32", "bf16", "int8-weights")
    runs_code = True

    def write(self, source: GraphSource, precision: str, feeds: Sequence[Feed]) -> dict[str, bytes]:
        import torch

        from verbot.policy.export.graphs import quiet
        from verbot.policy.export.layers import in_precision

        compiler = os.environ.get("CXX", "g++")
        if shutil.which(compiler) is None:
            raise MissingDependencyError(
                f"aoti compiles the policy with a C++ compiler, and there is no {compiler}: install one (apt install g++), "
                "or name yours in CXX"
            )
        program = dataclasses.replace(source, module=in_precision(source.module, precision)).traced()
        with tempfile.TemporaryDirectory() as folder, quiet(), torch.no_grad():
            path = Path(folder) / "graph.pt2"
            try:
                torch._inductor.aoti_compile_and_package(program, package_path=str(path))
            except Exception as error:  # the compiler's errors have no common base
                text = " ".join(str(error).split())[-300:]
                raise PolicyError(f"the graph {source.name!r} cannot be compiled: {text}") from error
            return {f"{source.name}.pt2": path.read_bytes(), f"{source.name}.names.json": torch_names(source)}

    def open(self, name: str, files: Mapping[str, bytes], precision: str) -> Graph:
        try:
            import torch
        except ImportError as error:
            raise MissingDependencyError(f"the policy is executed by torch: {install_command('torch')}") from error
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "graph.pt2"
                path.write_bytes(files[f"{name}.pt2"])
                module = torch._inductor.aoti_load_package(str(path))
            inputs, outputs = names_of(files[f"{name}.names.json"])
        except KeyError as error:
            raise PolicyError(f"the policy lacks {error.args[0]}: without it it cannot act") from error
        except Exception as error:
            raise PolicyError(f"{name}.pt2 is no compiled graph: {' '.join(str(error).split())[:300]}") from error
        return called(module, inputs, outputs)
