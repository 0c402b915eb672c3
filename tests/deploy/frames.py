"""Messages as openpi-client 0.1.2 and vla-eval 0.8.0 send and read them, to the byte, without their packages.

`experiments/serving/other_clients.py` runs the packages themselves.
"""

import io

import msgpack
import numpy as np
from PIL import Image


def pack_openpi(value):
    return msgpack.packb(value, default=_openpi_default)


def unpack_openpi(data):
    return msgpack.unpackb(data, object_hook=_openpi_hook)


def _openpi_default(value):
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    return value


def _openpi_hook(record):
    if b"__ndarray__" in record:
        return np.ndarray(buffer=record[b"data"], dtype=np.dtype(record[b"dtype"]), shape=record[b"shape"])
    if b"__npgeneric__" in record:
        return np.dtype(record[b"dtype"]).type(record[b"data"])
    return record


def pack_vla_eval(kind, payload, seq=1, pictures="png"):
    def default(value):
        if not isinstance(value, np.ndarray):
            return value.item() if isinstance(value, np.generic) else value
        if pictures != "raw" and value.ndim == 3 and value.dtype == np.uint8 and value.shape[2] in (1, 3, 4):
            sink = io.BytesIO()
            Image.fromarray(value).save(sink, pictures.upper(), **({"quality": 95} if pictures == "jpeg" else {}))
            return {"__image__": True, "format": pictures, "data": sink.getvalue(), "shape": list(value.shape)}
        return {"__ndarray__": True, "data": value.tobytes(), "dtype": value.dtype.str, "shape": list(value.shape)}

    record = {"type": kind, "payload": payload, "seq": seq, "timestamp": 1.7e9}
    return msgpack.packb(record, default=default, use_bin_type=True)


def unpack_vla_eval(data):
    """The type, the payload and the seq."""

    def hook(record):
        if "__ndarray__" not in record:
            return record
        return np.frombuffer(record["data"], dtype=np.dtype(record["dtype"])).reshape(record["shape"]).copy()

    record = msgpack.unpackb(data, object_hook=hook, raw=False)
    assert set(record) == {"type", "payload", "seq", "timestamp"}
    return record["type"], record["payload"], record["seq"]
