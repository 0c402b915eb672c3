"""Frames that are decoded while training runs: clips of successive frames, those that were used last held in memory.

A random read of one frame decodes all frames since the last keyframe, so single frames are not read at random. A *clip* is
`CLIP` successive frames of an episode, with the frames before it that its windows look back to. Training deals the windows of a
*block* of some hundreds of clips at a time (see `verbot.data.samples.decks`), and so uses every frame that was decoded.

Which clips are in memory changes how long a batch takes and never what is in it.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from multiprocessing.connection import wait
from typing import Any

import numpy as np

from verbot.data.samples.clip_memory import ClipMemory, ClipRequest
from verbot.data.storage.frame_cache import FrameSelection, is_depth
from verbot.data.storage.pictures import PictureReader
from verbot.data.storage.reader import Dataset
from verbot.parallel.workers import Worker, workers
from verbot.spec import Int64Array
from verbot.transforms import FitImage

CLIP = 16  # frames; a multiple of LeRobot's groups of two, and of verbot's of ten nearly enough
MEMORY = 768e6  # bytes of decoded frames
BLOCKS = 3  # the block in use, the next one, which is decoded meanwhile, and the last one, whose end is still in use
MOST, LEAST = 256, 8  # clips in a block
AHEAD = 128  # requests that one worker may have: they must fit into its pipe

ClipKey = tuple[int, int]  # episode, clip


class DecodedClips:
    """Frames of `dataset` that are decoded when they are needed; a `verbot.data.samples.frame_source.FrameSource`.

    Args:
        selection: the cameras and the size of the frames.
        reach: number of frames before its own that a window needs.
        processes: worker processes that decode; 0 decodes in this one, when a frame is taken.
        memory_bytes: for decoded frames; it determines the size of a block, and with it the order of training. A block has at
            least `LEAST` clips all the same, so large frames may take more, see `bytes`.
    """

    def __init__(
        self,
        dataset: Dataset,
        selection: FrameSelection | None = None,
        reach: int = 0,
        processes: int = 0,
        memory_bytes: float = MEMORY,
    ):
        self.dataset, self.selection, self._reach = dataset, selection or FrameSelection(), reach
        self.cameras, self.clip, span = self.selection.cameras_of(dataset), CLIP, CLIP + reach
        shapes = {camera: self.selection.row(dataset, camera) for camera in self.cameras}
        depth = [camera for camera in self.cameras if is_depth(dataset, camera)]
        size = max(1, sum(int(np.prod(shape)) * (4 if c in depth else 1) for c, shape in shapes.items()) * span)
        self.block = int(np.clip(memory_bytes // size // BLOCKS, LEAST, MOST))
        self.bytes = BLOCKS * self.block * size  # of memory for decoded frames
        self._layout = {c: (np.dtype(np.float32 if c in depth else np.uint8), (span, *shape)) for c, shape in shapes.items()}
        self._processes, self._lock, self._lengths = processes, threading.RLock(), dataset.lengths
        self._resources = ExitStack()
        self._finalize = weakref.finalize(self, self._resources.close)
        self._memory: ClipMemory | None = None

    def _opened(self) -> ClipMemory:
        """The memory and the processes, which start with their first use, also after `close`."""
        if self._memory is None:
            memory = ClipMemory.create(BLOCKS * self.block, self._layout, shared=self._processes > 0)
            self._resources.callback(memory.close)
            self._slots: OrderedDict[ClipKey, int] = OrderedDict()  # the clip that was used longest ago comes first
            self._free, self._pending = list(range(memory.slots)), dict[int, tuple[ClipKey, int]]()
            self._workers: Sequence[Worker] = ()
            if self._processes:
                running = workers("verbot.data.samples.clip_worker", self._processes, "frame decoder")
                self._workers = self._resources.enter_context(running)
                opened = {"root": self.dataset.root, **self.dataset.opened_with}
                setup = {"opened": opened, "fits": self.fits, "memory": memory.address}
                for worker in self._workers:
                    worker.send(setup)
            else:
                self._reader = self._resources.enter_context(PictureReader(self.fits))
            self._open = dict.fromkeys(range(len(self._workers)), 0)  # unanswered requests of each worker
            self._memory = memory
        return self._memory

    @property
    def fits(self) -> Mapping[str, FitImage]:
        return self.selection.fits

    def close(self) -> None:
        """End the worker processes; they start again if frames are taken afterwards."""
        with self._lock:
            self._resources.close()
            self._memory = None

    @property
    def random_access(self) -> bool:
        return False

    def shape(self, camera: str) -> tuple[int, ...]:
        return self._layout[camera][1][1:]

    def take(self, camera: str, episodes: Int64Array, rows: Int64Array, clip_rows: Int64Array) -> Any:
        """See `FrameSource`. Rows that the clip does not hold are sought in their own."""
        shape = np.broadcast_shapes(episodes.shape, rows.shape, clip_rows.shape)
        episodes, rows, clip_rows = (np.broadcast_to(each, shape).ravel() for each in (episodes, rows, clip_rows))
        clips = clip_rows // CLIP
        absent = (rows < clips * CLIP - self._reach) | (rows >= (clips + 1) * CLIP)
        clips = np.where(absent, rows // CLIP, clips)
        keys, which = np.unique(np.stack([episodes, clips], 1), axis=0, return_inverse=True)
        which, places = which.ravel(), rows - clips * CLIP + self._reach
        out = np.empty((len(rows), *self.shape(camera)), self._layout[camera][0])
        with self._lock:
            memory = self._opened()
            frames, most = memory.arrays[camera], memory.slots // 2
            for start in range(0, len(keys), most):
                part = [(int(e), int(c)) for e, c in keys[start : start + most]]
                slots = np.array(self._hold(memory, part), np.int64)
                chosen = (which >= start) & (which < start + len(part))
                out[chosen] = frames[slots[which[chosen] - start], places[chosen]]
        return out.reshape(*shape, *out.shape[1:])

    def prefetch(self, episodes: Int64Array, rows: Int64Array) -> None:
        """Ask the workers for the clips of these rows. Without workers nothing is done."""
        if self._processes:
            with self._lock:
                memory = self._opened()
                self._collect(block=False)
                for key in dict.fromkeys(zip(episodes.tolist(), (rows // CLIP).tolist(), strict=True)):
                    if key in self._slots:
                        self._slots.move_to_end(key)
                    elif min(self._open.values()) < AHEAD:
                        self._request(memory, key, keep=())

    def _hold(self, memory: ClipMemory, keys: Sequence[ClipKey]) -> list[int]:
        """The slots of these clips, all decoded."""
        for key in keys:
            if key not in self._slots:
                self._request(memory, key, keep=keys)
            self._slots.move_to_end(key)
        while any(key in keys for key, _ in self._pending.values()):
            self._collect(block=True)
        return [self._slots[key] for key in keys]

    def _request(self, memory: ClipMemory, key: ClipKey, keep: Sequence[ClipKey]) -> None:
        slot = self._free.pop() if self._free else self._evict(keep)
        if slot is None:
            return  # every slot is in use: only `prefetch` can come here
        episode, clip = key
        first = max(0, clip * CLIP - self._reach)
        stop = min((clip + 1) * CLIP, int(self._lengths[episode]))
        request = ClipRequest(slot, episode, range(first, stop), first - clip * CLIP + self._reach)
        if not self._workers:
            try:
                memory.fill(request, self._reader, self.dataset)
            except BaseException:  # an interruption too
                self._free.append(slot)
                raise
            self._slots[key] = slot
            return
        while min(self._open.values()) >= AHEAD:
            self._collect(block=True)
        self._slots[key] = slot
        idlest = min(self._open, key=lambda number: self._open[number])
        self._workers[idlest].send(request)
        self._open[idlest] += 1
        self._pending[slot] = key, idlest

    def _evict(self, keep: Sequence[ClipKey]) -> int | None:
        held = set(keep)
        while True:
            for key, slot in self._slots.items():
                if slot not in self._pending and key not in held:
                    del self._slots[key]
                    return slot
            if not keep:
                return None
            self._collect(block=True)

    def _collect(self, block: bool) -> None:
        """Take answers of the workers; wait for one if `block`. Raises `WorkerError` for a clip that cannot be decoded."""
        connections = {worker.connection: number for number, worker in enumerate(self._workers)}
        for connection in wait(list(connections), None if block else 0):
            number = connections[connection]  # type: ignore[index]
            slot = self._workers[number].receive()
            del self._pending[slot]
            self._open[number] -= 1
