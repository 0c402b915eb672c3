"""OpenVINO graphs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from verbot.errors import MissingDependencyError, PolicyError, install_command
from verbot.policy.runtimes import PRECISIONS, Feed, Graph, Runtime, runtimes

if TYPE_CHECKING:
    from verbot.policy.export.graphs import GraphSource

IR = b"<?xml"  # OpenVINO reads other formats too, which may take weights from any file of the machine


@runtimes.register("openvino", needs=("openvino",))
class OpenVino(Runtime):
    """OpenVINO on the CPU; ``"bf16"`` computes in bf16 where the processor can."""

    precisions = PRECISIONS

    def write(self, source: GraphSource, precision: str, feeds: Sequence[Feed]) -> dict[str, bytes]:
        from verbot.policy.export.onnx_graph import to_onnx

        openvino = _package()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "graph.onnx"
            path.write_bytes(to_onnx(source, precision, feeds))
            openvino.save_model(openvino.convert_model(str(path)), Path(folder) / "graph.xml", compress_to_fp16=False)
            return {f"{source.name}.{kind}": (Path(folder) / f"graph.{kind}").read_bytes() for kind in ("xml", "bin")}

    def open(self, name: str, files: Mapping[str, bytes], precision: str) -> Graph:
        openvino = _package()
        hints: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": self.threads,
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        try:
            weights = openvino.Tensor(np.frombuffer(files[f"{name}.bin"], np.uint8).copy())
            if not files[f"{name}.xml"].startswith(IR):
                raise PolicyError(f"{name}.xml is no graph of OpenVINO: it does not begin with {IR.decode()}")
            core = openvino.Core()
            model = core.compile_model(core.read_model(files[f"{name}.xml"], weights), "CPU", hints)
        except KeyError as error:
            raise PolicyError(f"the policy lacks {error.args[0]}: without it it cannot act") from error
        except RuntimeError as error:
            raise PolicyError(f"{name}.xml is no graph for OpenVINO: {' '.join(str(error).split())[:300]}") from error
        request = model.create_infer_request()
        inputs, outputs = ([port.get_any_name() for port in ports] for ports in (model.inputs, model.outputs))

        def run(feed: Feed) -> dict[str, Any]:
            found = request.infer({key: feed[key] for key in inputs}, share_inputs=True)
            return {key: found[number].copy() for number, key in enumerate(outputs)}

        return run


def _package() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise MissingDependencyError(f"the policy is executed by OpenVINO: {install_command('openvino')}") from error
    return openvino
