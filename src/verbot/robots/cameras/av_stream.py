"""Frames by PyAV: devices, network streams and files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from verbot.spec import UInt8Array


class AVStream:
    """The video frames of anything that FFmpeg opens.

    Args:
        address: a device, an address or a path.
        format: FFmpeg's name of the input format; None recognizes it.
        options: options of the format.
        timeout_s: how long opening, and each read, may take, where the input lets itself be interrupted; None waits.

    Raises `OSError` if it cannot be opened.
    """

    def __init__(
        self, address: str, format: str | None = None, options: Mapping[str, str] | None = None, timeout_s: float | None = None
    ):
        import av

        timeout = None if timeout_s is None else (timeout_s, timeout_s)
        self._address, self._lost = address.rpartition("@")[2], av.error.FFmpegError  # without a password
        self._container: Any = None
        self._whole = False
        with self._translated():
            self._container = av.open(address, format=format, options=dict(options or {}), timeout=timeout)
        if not self._container.streams.video:
            self._container.close()
            raise OSError(f"{self._address} has no video")
        stream = self._container.streams.video[0]
        stream.thread_type = "SLICE"  # threads over frames would add frames of delay
        self._frames = self._container.decode(stream)
        self.rate_hz = float(stream.average_rate or 0)

    def read(self) -> UInt8Array:
        """The next frame, RGB (h, w, 3). Raises `OSError` when it is lost, `EOFError` at its end."""
        with self._translated():
            while True:  # a stream that is joined in its middle shows gray until a whole picture comes
                frame = next(self._frames, None)
                if frame is None:
                    raise EOFError("it has ended")
                self._whole = self._whole or bool(frame.key_frame)
                if self._whole and not frame.is_corrupt:
                    break
            return cast(UInt8Array, frame.to_ndarray(format="rgb24"))

    def close(self) -> None:
        self._container.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Errors of FFmpeg, some of which are values to PyAV and name the whole address, as errors of the system."""
        try:
            yield
        except EOFError:
            raise EOFError("it has ended") from None
        except self._lost as error:
            reason = str(error.strerror or type(error).__name__)
            raise OSError(f"{self._address}: {reason}") from None
