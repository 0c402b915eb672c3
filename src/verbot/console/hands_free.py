"""Hands-free talk: all that a microphone hears is cut into utterances, in a thread, while it is on."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from verbot.errors import VerbotError, WireError
from verbot.spec import FloatArray

RATE_HZ, BEHIND_S = 16_000, 30.0  # of sound that waits at most
SpeechReply = Callable[[Mapping[str, Any]], None]


class Cutter(Protocol):
    """Cuts sound into utterances."""

    @property
    def hears(self) -> bool:
        """Whether an utterance goes on."""
        ...

    def reset(self) -> None:
        """Drop what there is."""
        ...

    def cut(self, samples: FloatArray) -> list[FloatArray]:
        """Take the next float32 (n,) samples at 16 kHz; the utterances (m,) that end with them."""
        ...


class HandsFree:
    """Hears from now on, until closed.

    What waits is bounded: a machine that recognizes more slowly than is spoken drops all that waits, and says so.

    Args:
        cutter: makes what cuts; called in the thread.
        answer: recognizes an utterance, and replies.
        reply: gets whether somebody speaks, and errors.
    """

    def __init__(self, cutter: Callable[[], Cutter], answer: Callable[[FloatArray, SpeechReply], None], reply: SpeechReply):
        self._make, self._answer, self._reply = cutter, answer, reply
        self._change = threading.Condition()
        self._pieces, self._bytes = deque[bytes](), 0
        self._is_closed = self._is_behind = False
        self._thread = threading.Thread(target=self._work, name="console-hands-free", daemon=True)
        self._thread.start()

    def hear(self, piece: bytes) -> None:
        """Take a piece of 16-bit samples. Raises `WireError` for half a sample."""
        if len(piece) % 2:
            raise WireError(f"speech is 16-bit samples; got {len(piece)} bytes")
        with self._change:
            if self._is_closed:
                return
            self._pieces.append(piece)
            self._bytes += len(piece)
            if self._bytes > 2 * RATE_HZ * BEHIND_S:
                self._pieces.clear()
                self._bytes, self._is_behind = 0, True
            self._change.notify()

    def close(self) -> None:
        """Hear no more. An utterance that is being recognized may still stop the robot."""
        with self._change:
            self._is_closed = True
            self._pieces.clear()
            self._bytes = 0
            self._change.notify()

    @property
    def waiting_s(self) -> float:
        """Sound that waits."""
        with self._change:
            return self._bytes / (2 * RATE_HZ)

    def _work(self) -> None:
        try:
            cutter = self._make()
            self._reply({"type": "listening", "on": True})
            while (taken := self._next()) is not None:
                self._cut(cutter, *taken)
        except VerbotError as error:
            self._reply({"type": "error", "message": str(error)})
        finally:
            if not self._is_closed:  # by itself
                self.close()
                self._reply({"type": "listening", "on": False})

    def _next(self) -> tuple[bytes, bool] | None:
        """What came since, and whether something before it was dropped; None at the end."""
        with self._change:
            self._change.wait_for(lambda: self._is_closed or self._pieces)
            if self._is_closed:
                return None
            content, is_behind = b"".join(self._pieces), self._is_behind
            self._pieces.clear()
            self._bytes, self._is_behind = 0, False
            return content, is_behind

    def _cut(self, cutter: Cutter, content: bytes, is_behind: bool) -> None:
        if is_behind:
            cutter.reset()
            self._reply({"type": "error", "message": f"more than {BEHIND_S:g} s of speech waited: what was said was not heard"})
        heard = cutter.hears
        utterances = cutter.cut(np.frombuffer(content, "<i2").astype(np.float32) / 32768.0)
        if cutter.hears != heard:
            self._reply({"type": "hearing", "on": cutter.hears})
        for utterance in utterances:
            self._answer(utterance, self._reply)
