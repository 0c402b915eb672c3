"""Graphs of torch.export, executed by torch without the source of the network."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from verbot.errors import MissingDependencyError, PolicyError, install_command
from verbot.policy.runtimes import Feed, Graph, Runtime, runtimes

if TYPE_CHECKING:
    from verbot.policy.export.graphs import GraphSource


@runtimes.register("torch-export", needs=("torch",))
class TorchExport(Runtime):
    """torch on the CPU. Its files may hold pickles, so they are opened only where they are trusted."""

    precisions = ("fp32", "bf16", "int8-weights")
    runs_code = True

    def write(self, source: GraphSource, precision: str, feeds: Sequence[Feed]) -> dict[str, bytes]:
        import torch

        from verbot.policy.export.graphs import quiet
        from verbot.policy.export.layers import in_precision

        program = dataclasses.replace(source, module=in_precision(source.module, precision)).traced()
        content = io.BytesIO()
        with quiet(), torch.no_grad():
            torch.export.save(program, content)
        names = torch_names(source)
        return {f"{source.name}.pt2": content.getvalue(), f"{source.name}.names.json": names}

    def open(self, name: str, files: Mapping[str, bytes], precision: str) -> Graph:
        try:
            import torch
        except ImportError as error:
            raise MissingDependencyError(f"the policy is executed by torch: {install_command('torch')}") from error
        try:
            module = torch.export.load(io.BytesIO(files[f"{name}.pt2"])).module()
            inputs, outputs = names_of(files[f"{name}.names.json"])
        except KeyError as error:
            raise PolicyError(f"the policy lacks {error.args[0]}: without it it cannot act") from error
        except Exception as error:  # torch's errors have no common base
            raise PolicyError(f"{name}.pt2 is no graph of torch.export: {' '.join(str(error).split())[:300]}") from error
        return called(module, inputs, outputs)


def torch_names(source: GraphSource) -> bytes:
    """The names of the inputs and outputs, which a program of torch does not keep."""
    return json.dumps({"inputs": source.inputs, "outputs": source.outputs}).encode()


def names_of(content: bytes) -> tuple[list[str], list[str]]:
    record = json.loads(content)
    return list(record["inputs"]), list(record["outputs"])


def called(module: Any, inputs: Sequence[str], outputs: Sequence[str]) -> Graph:
    """A graph that calls a module of torch."""
    import torch

    def run(feed: Feed) -> dict[str, Any]:
        with torch.inference_mode():
            found = module(*(torch.from_numpy(np.ascontiguousarray(feed[name])) for name in inputs))
        found = (found,) if isinstance(found, torch.Tensor) else found
        return {name: value.numpy() for name, value in zip(outputs, found, strict=True)}

    return run
