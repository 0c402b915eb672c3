"""Writes replay buffers as diffusion policy's ReplayBuffer does: zarr format 2, blosc, data/… and meta/episode_ends."""
from pathlib import Path
import numpy as np, zarr, numcodecs
from _v3 import picture, number

def buffer(path, data, ends, chunks=None, compressor=numcodecs.Blosc("lz4", 5, numcodecs.Blosc.BITSHUFFLE)):
    """data: name -> array (n, …); a chunk of one row for pictures, of 100 rows for numbers."""
    store = zarr.storage.ZipStore(path, mode="w") if str(path).endswith(".zip") else zarr.storage.LocalStore(path)
    root = zarr.open_group(store, mode="w", zarr_format=2)
    for name, a in {**{f"data/{k}": v for k, v in data.items()}, "meta/episode_ends": np.asarray(ends, np.int64)}.items():
        rows = (1 if a.ndim == 4 else 100, *a.shape[1:]) if chunks is None else chunks
        x = root.create_array(name, shape=a.shape, dtype=a.dtype, chunks=rows[: a.ndim], compressors=compressor, config={"write_empty_chunks": True})
        x[:] = a
    store.close()
    return path
