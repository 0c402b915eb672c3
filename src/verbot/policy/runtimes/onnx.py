"""ONNX graphs, executed by onnxruntime, which with numpy is all that a robot's computer needs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from verbot.errors import MissingDependencyError, PolicyError, install_command
from verbot.policy.runtimes import PRECISIONS, Feed, Graph, Runtime, runtimes

if TYPE_CHECKING:
    from verbot.policy.export.graphs import GraphSource


@runtimes.register("onnx", needs=("onnxruntime",))
class OnnxRuntime(Runtime):
    """onnxruntime on the CPU. In ``"bf16"`` weights are stored in bf16; its CPU kernels compute in fp32."""

    precisions = PRECISIONS

    def write(self, source: GraphSource, precision: str, feeds: Sequence[Feed]) -> dict[str, bytes]:
        from verbot.policy.export.onnx_graph import to_onnx

        return {f"{source.name}.onnx": to_onnx(source, precision, feeds)}

    def open(self, name: str, files: Mapping[str, bytes], precision: str) -> Graph:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingDependencyError(f"the policy is executed by onnxruntime: {install_command('onnxruntime')}") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = self.threads, 1, 3
        # Weights in other files than the verified ones are not read: the folder in which they would lie cannot exist.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", f"{os.devnull}/none")
        try:
            session = onnxruntime.InferenceSession(files[f"{name}.onnx"], options, providers=["CPUExecutionProvider"])
        except KeyError as error:
            raise PolicyError(f"the policy lacks {name}.onnx: without it it cannot act") from error
        except Exception as error:  # onnxruntime's errors have no common base
            raise PolicyError(f"{name}.onnx is no graph for onnxruntime: {' '.join(str(error).split())[:300]}") from error
        inputs, outputs = ([each.name for each in found] for found in (session.get_inputs(), session.get_outputs()))

        def run(feed: Feed) -> dict[str, object]:
            return dict(zip(outputs, session.run(outputs, {key: feed[key] for key in inputs}), strict=True))

        return run  # type: ignore[return-value]
