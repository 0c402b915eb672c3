"""A writer of GGUF files, written from the format's specification and not from the code that reads them."""

import struct
from pathlib import Path
from typing import Any

import numpy as np

F32, F16, Q4_0, Q4_1, Q8_0, BF16 = 0, 1, 2, 3, 8, 30
ALIGNMENT = 32


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def typed(value: Any) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    return struct.pack("<IIQ", 9, 5, len(value)) + struct.pack(f"<{len(value)}i", *value)


def packed(tensor: np.ndarray, kind: int) -> bytes:
    """The bytes of a tensor; of quantized ones the nearest that their blocks can hold."""
    if kind in (F32, F16):
        return tensor.astype("<f4" if kind == F32 else "<f2").tobytes()
    if kind == BF16:
        return (tensor.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    blocks, out = tensor.reshape(-1, 32).astype(np.float32), b""
    for block in blocks:
        low, high, most = block.min(), block.max(), np.abs(block).max()
        if kind == Q8_0:
            scale = np.float16(most / 127 or 1)
            out += scale.tobytes() + np.round(block / np.float32(scale)).clip(-127, 127).astype(np.int8).tobytes()
            continue
        scale, start = (
            (np.float16(most / 7 or 1), None) if kind == Q4_0 else (np.float16((high - low) / 15 or 1), np.float16(low))
        )
        codes = (
            np.round(block / np.float32(scale) + 8)
            if start is None
            else np.round((block - np.float32(start)) / np.float32(scale))
        )
        codes = codes.clip(0, 15).astype(np.uint8)
        out += scale.tobytes() + (b"" if start is None else start.tobytes()) + (codes[:16] | codes[16:] << 4).tobytes()
    return out


def write_gguf(path: Path, values: dict[str, Any], tensors: dict[str, tuple[np.ndarray, int]]) -> Path:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values))
    head += b"".join(text(name) + typed(value) for name, value in values.items())
    body = b""
    for name, (tensor, kind) in tensors.items():
        body += b"\0" * (-len(body) % ALIGNMENT)
        head += text(name) + struct.pack("<I", tensor.ndim) + struct.pack(f"<{tensor.ndim}Q", *reversed(tensor.shape))
        head += struct.pack("<IQ", kind, len(body))
        body += packed(tensor, kind)
    path.write_bytes(head + b"\0" * (-len(head) % ALIGNMENT) + body)
    return path
