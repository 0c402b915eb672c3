"""ONNX graphs and their precision: weights in bf16 or int8, dynamic and static int8. Needs onnx, onnxscript, onnxruntime."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from verbot.errors import MissingDependencyError, install_command
from verbot.policy.export.graphs import GraphSource, quiet
from verbot.policy.runtimes import Feed

OPSET = 18
FEWEST = 1024  # numbers of a weight that is worth storing in another type
PRODUCTS = ("Conv", "MatMul", "Gemm")
FIRST, LAST = "images", ("actions", "next")  # the input and the outputs next to which layers stay in fp32


def to_onnx(source: GraphSource, precision: str, feeds: Sequence[Feed]) -> bytes:
    """The graph of a module, as one file. Raises `PolicyError` if it cannot be expressed, `MissingDependencyError`."""
    try:
        import onnx
        import onnxscript  # noqa: F401
        import torch
    except ImportError as error:
        raise MissingDependencyError(f"an export to ONNX needs onnx and onnxscript: {install_command('onnx')}") from error
    program = source.traced()
    with quiet(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        found = torch.onnx.export(
            program, (), dynamo=True, opset_version=OPSET, input_names=list(source.inputs), output_names=list(source.outputs)
        )  # fmt: skip
    assert found is not None
    model = found.model_proto
    del model.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]  # traces with the paths of source files
    data: bytes = in_precision(onnx.shape_inference.infer_shapes(model), precision, feeds).SerializeToString()
    return data


def in_precision(model: Any, precision: str, feeds: Sequence[Feed]) -> Any:
    """The same graph in another of `verbot.policy.runtimes.PRECISIONS`."""
    if precision == "fp32":
        return model
    if precision in ("bf16", "int8-weights"):
        return _stored(model, _as_bf16 if precision == "bf16" else _as_int8)
    return _quantized(model, precision, feeds)


def kept_in_fp32(model: Any) -> list[str]:
    """The nodes that stay in fp32: the first convolutions and the last product before the actions, which are most sensitive."""
    makers = {output: node for node in model.graph.node for output in node.output}
    readers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    first = _nearest([FIRST], lambda name: readers.get(name, []), lambda node: node.output)
    last = _nearest(LAST, lambda name: [makers[name]] if name in makers else [], lambda node: node.input)
    return sorted(first | last)


def _nearest(start: Sequence[str], follow: Callable[[str], list[Any]], values: Callable[[Any], Sequence[str]]) -> set[str]:
    """The names of the products that are reached from values without passing another."""
    found, seen, waiting = set[str](), set[str](), list(start)
    while waiting:
        name = waiting.pop()
        for node in follow(name):
            if node.name in seen:
                continue
            seen.add(node.name)
            if node.op_type in PRODUCTS:
                found.add(node.name)
            else:
                waiting += values(node)
    return found


def _weights(model: Any) -> Iterator[tuple[Any, npt.NDArray[np.float32], int]]:
    """The stored weights of products that may lose precision, each with its values and the axis of its outputs."""
    import onnx

    stored, kept = {each.name: each for each in model.graph.initializer}, set(kept_in_fp32(model))
    done = set[str]()
    for node in model.graph.node:
        weight = stored.get(node.input[1]) if node.op_type in PRODUCTS and len(node.input) > 1 else None
        if weight is None or node.name in kept or weight.name in done or weight.data_type != onnx.TensorProto.FLOAT:
            continue
        values = onnx.numpy_helper.to_array(weight)
        if values.size >= FEWEST and values.ndim >= 2:
            done.add(weight.name)
            yield weight, values, 0 if node.op_type == "Conv" or _is_transposed(node) else values.ndim - 1


def _is_transposed(node: Any) -> bool:
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)


def _stored(model: Any, convert: Callable[..., tuple[list[Any], Any]]) -> Any:
    """The graph with its weights stored in another type and turned back into fp32 where they are used."""
    nodes = []
    for weight, values, axis in list(_weights(model)):
        added, node = convert(weight.name, values, axis)
        model.graph.initializer.remove(weight)
        model.graph.initializer.extend(added)
        nodes.append(node)
    for number, node in enumerate(nodes):
        model.graph.node.insert(number, node)
    return model


def _as_bf16(name: str, values: npt.NDArray[np.float32], axis: int) -> tuple[list[Any], Any]:
    import onnx

    bits = np.ascontiguousarray(values).view(np.uint32)
    half = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)  # rounded to the nearest, ties to even
    tensor = onnx.helper.make_tensor(f"{name}_bf16", onnx.TensorProto.BFLOAT16, values.shape, half.tobytes(), raw=True)
    return [tensor], onnx.helper.make_node("Cast", [tensor.name], [name], f"{name}_cast", to=onnx.TensorProto.FLOAT)


def _as_int8(name: str, values: npt.NDArray[np.float32], axis: int) -> tuple[list[Any], Any]:
    import onnx

    others = tuple(number for number in range(values.ndim) if number != axis)
    scale = np.maximum(np.abs(values).max(others, keepdims=True) / 127, 1e-12).astype(np.float32)
    whole = onnx.numpy_helper.from_array(np.rint(values / scale).clip(-127, 127).astype(np.int8), f"{name}_int8")
    scales = onnx.numpy_helper.from_array(scale.reshape(-1), f"{name}_scale")
    node = onnx.helper.make_node("DequantizeLinear", [whole.name, scales.name], [name], f"{name}_dequantize", axis=axis)
    return [whole, scales], node


def _quantized(model: Any, precision: str, feeds: Sequence[Feed]) -> Any:
    import onnx
    from onnxruntime import quantization

    kept = kept_in_fp32(model)
    level, root = logging.getLogger().level, logging.getLogger()
    with tempfile.TemporaryDirectory() as folder:
        plain, made = Path(folder) / "plain.onnx", Path(folder) / "made.onnx"
        onnx.save(model, str(plain))
        root.setLevel(logging.ERROR)  # it recommends a step that the exporter has done
        try:
            if precision == "int8-dynamic":
                quantization.quantize_dynamic(
                    str(plain), str(made), op_types_to_quantize=["MatMul", "Gemm"], per_channel=True, nodes_to_exclude=kept,
                    weight_type=quantization.QuantType.QInt8,
                )  # fmt: skip
            else:
                quantization.quantize_static(
                    str(plain), str(made), _reader(feeds), quantization.QuantFormat.QDQ, op_types_to_quantize=list(PRODUCTS),
                    per_channel=True, activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
                    nodes_to_exclude=kept,
                )  # fmt: skip
        finally:
            root.setLevel(level)
        return onnx.load(str(made))


def _reader(feeds: Sequence[Feed]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Recorded(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(feeds)

        def get_next(self) -> Any:
            found = next(self.left, None)
            return None if found is None else dict(found)

    return Recorded()
