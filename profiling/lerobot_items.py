"""Measures LeRobot's own loader on one dataset, in LeRobot's environment; `data_loader_lerobot.py` calls it.

It needs nothing of verbot and prints one line of JSON: ``/tmp/lerobot/bin/python profiling/lerobot_items.py FOLDER``.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import resource
import sys
import time
import types
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("root", help="folder of the dataset, LeRobotDataset v3.0")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--chunk", type=int, default=10, help="actions in an item")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long to read")
    parser.add_argument("--backend", default="torchcodec", help="torchcodec or pyav")
    options = parser.parse_args()
    stubbed = stub_torchvision() if options.backend == "torchcodec" else False
    import torch
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    torch.set_num_threads(1)
    rate_hz = json.loads(Path(options.root, "meta/info.json").read_text())["fps"]
    times = {"action": [i / rate_hz for i in range(options.chunk)]}
    start = time.perf_counter()
    dataset = LeRobotDataset("local/profile", root=options.root, delta_timestamps=times, video_backend=options.backend)
    opened_s = time.perf_counter() - start
    generator = torch.Generator().manual_seed(0)
    loader = torch.utils.data.DataLoader(
        dataset, options.batch, shuffle=True, num_workers=options.workers, generator=generator, drop_last=True
    )
    epochs = itertools.chain.from_iterable(iter(lambda: loader, None))
    first = next(epochs)
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < options.seconds:
        count += len(next(epochs)["action"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    images = {key: list(value.shape[1:]) for key, value in first.items() if "images" in key}
    versions = {name: sys.modules[name].__version__ for name in ("torch", "lerobot", "torchcodec") if name in sys.modules}
    print(
        json.dumps(
            {
                "items_per_s": count / elapsed, "items": count, "opened_s": opened_s, "peak_mb": peak / 1024, "images": images,
                "versions": versions, "torchvision_stubbed": stubbed,
            }
        )
    )  # fmt: skip


def stub_torchvision() -> bool:
    """An empty torchvision where the real one cannot be imported.

    LeRobot imports it for image transforms and for its decoder `pyav`. With torchcodec, and pictures in videos, it calls neither:
    every attribute of the stub raises an error if it is called.
    """
    try:
        import torchvision  # noqa: F401

        return False
    except (ImportError, OSError, RuntimeError):
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]

    class Absent:
        def __init__(self, *arguments: object, **options: object):
            raise RuntimeError("this environment has no torchvision, and LeRobot's loader called it")

    class Stub(types.ModuleType):
        __version__ = "0"
        __path__: list[str] = []

        def __getattr__(self, name: str) -> type:
            if name.startswith("__"):
                raise AttributeError(name)
            return Absent

    for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.v2", "torchvision.transforms.v2.functional"):
        module = sys.modules[name] = Stub(name)
        module.__spec__ = importlib.util.spec_from_loader(name, loader=None)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    return True


if __name__ == "__main__":
    main()
