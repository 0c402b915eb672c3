"""A camera's thread: it opens the device, keeps the newest frame, and opens it again when it was lost."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from verbot.errors import MissingDependencyError, RobotError, missing
from verbot.robots.cameras import CameraSource, MonotonicClock
from verbot.robots.cameras.views import CameraView
from verbot.spec import UInt8Array

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 8.0  # before a lost device is opened again; doubled each time
LEAVING_S = 2.0  # for the thread to end; one that is stuck in a driver is left behind


@dataclass(frozen=True)
class CameraFrame:
    """The newest image (h, w, 3) of a camera, and when it came, on this machine's monotonic clock."""

    image: UInt8Array
    measured_s: float


class LiveCamera:
    """One camera of a robot.

    Args:
        name: for messages.
        view: what is made of its frames.
        first_wait_s: how long after a loss the device is opened again; doubled each time, up to 8 s.
        clock: seconds, monotonic. A frame's time is when it was read here: what passed before, in the device and on the way, is
            not known.
    """

    def __init__(
        self,
        name: str,
        source: CameraSource,
        view: CameraView,
        first_wait_s: float = FIRST_WAIT_S,
        clock: MonotonicClock = time.monotonic,
    ):
        self.name, self.view, self._source, self._clock = name, view, source, clock
        self._first_wait_s = first_wait_s
        self._changed, self._ending = threading.Condition(), threading.Event()
        self._thread: threading.Thread | None = None
        self._newest: CameraFrame | None = None
        self._error: Exception | None = None
        self.frames = self.losses = 0
        self.size: tuple[int, int] | None = None  # (h, w) of the device's frames

    @property
    def problem(self) -> str:
        """Why no new frame comes; ``""`` while frames come."""
        error = self._error
        return "" if error is None else " ".join(str(error).split()) or type(error).__name__

    def start(self, timeout_s: float = 10.0) -> None:
        """Start the thread, and wait for the first frame.

        Raises `RobotError` if none comes in this time, or its size may not be converted; `MissingDependencyError` if a package
        is missing.
        """
        self.open()
        self.wait(timeout_s)

    def open(self) -> None:
        """Start the thread."""
        if self._thread is None:
            self._ending.clear()
            self._newest, self._error, self.frames, self.losses = None, None, 0, 0
            self._thread = threading.Thread(target=self._run, args=(self._ending,), name=f"camera-{self.name}", daemon=True)
            self._thread.start()

    def wait(self, timeout_s: float) -> None:
        """Wait for the first frame, see `start`."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or _is_final(self._error), timeout_s)
        if self._newest is None:
            error, problem = self._error, self.problem or "it showed nothing"
            self.close()
            if isinstance(error, MissingDependencyError):
                raise error
            raise RobotError(f"camera {self.name!r} gave no image within {timeout_s:g} s: {problem}")

    def read(self) -> CameraFrame:
        """The newest frame; returns at once. Raises `RobotError` before the first."""
        newest = self._newest
        if newest is None:
            raise RobotError(f"camera {self.name!r} is not open, or showed nothing yet; call start first")
        return newest

    def age_s(self) -> float:
        """Seconds since the newest frame came. It grows while the device is lost."""
        return self._clock() - self.read().measured_s

    def close(self) -> None:
        """End the thread and close the device. Safe twice; `start` may follow."""
        thread, self._thread = self._thread, None
        self._ending.set()
        if thread is not None:
            thread.join(LEAVING_S)
        self._ending = threading.Event()
        self._newest = None

    def _run(self, ending: threading.Event) -> None:
        wait_s = self._first_wait_s
        while not ending.is_set():
            before = self.frames
            try:
                self._stream(ending)
            except Exception as error:
                self._note(ending, missing(error) if isinstance(error, ModuleNotFoundError) else error)
                if _is_final(self._error):
                    return
            wait_s = self._first_wait_s if self.frames > before else min(2 * wait_s, LONGEST_WAIT_S)
            ending.wait(wait_s)

    def _stream(self, ending: threading.Event) -> None:
        stream = self._source.open()
        try:
            while not ending.is_set():
                frame = stream.read()
                measured_s = self._clock()
                image = self.view.apply(frame)
                with self._changed:
                    if ending.is_set():
                        return
                    self._newest, self._error, self.size = CameraFrame(image, measured_s), None, frame.shape[:2]
                    self.frames += 1
                    self._changed.notify_all()
        finally:
            stream.close()

    def _note(self, ending: threading.Event, error: Exception) -> None:
        with self._changed:
            if not ending.is_set():
                self._error = EOFError("it has ended") if isinstance(error, EOFError) and not str(error) else error
                self.losses += 1
                self._changed.notify_all()


def _is_final(error: Exception | None) -> bool:
    """Whether opening the device again cannot help: a frame that may not be converted, a package that is missing."""
    return isinstance(error, RobotError | MissingDependencyError)
