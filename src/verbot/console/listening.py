"""Speech of a page on its way to the recognizer: collected while a person talks, recognized in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from verbot.errors import VerbotError, WireError
from verbot.spec import FloatArray

RATE_HZ, MOST_S, LEAST_S = 16_000, 15.0, 0.2
Recognize = Callable[[FloatArray, Sequence[str]], tuple[str, str]]


class Listener:
    """One utterance at a time.

    Args:
        recognize: (what was meant, what was heard), of float32 (n,) samples at 16 kHz, and the sentences that are likely.
        sentences: these sentences, at present.
    """

    def __init__(self, recognize: Recognize, sentences: Callable[[], Sequence[str]]):
        self._recognize, self._sentences = recognize, sentences
        self._lock, self._pieces, self._bytes = threading.Lock(), list[bytes](), 0
        self._busy = False

    def start(self) -> None:
        """A person begins to talk: what came before is dropped."""
        with self._lock:
            self._pieces, self._bytes = [], 0

    def hear(self, piece: bytes | None, reply: Callable[[Mapping[str, Any]], None]) -> None:
        """Take a piece of 16-bit samples, or None at the end of an utterance; `reply` gets what was heard.

        Raises `WireError` for half a sample, for more than `MOST_S` seconds, and for a second utterance before the first is read.
        """
        with self._lock:
            if piece is not None:
                if len(piece) % 2:
                    raise WireError(f"speech is 16-bit samples; got {len(piece)} bytes")
                if self._bytes + len(piece) > 2 * RATE_HZ * MOST_S:
                    raise WireError(f"an instruction takes at most {MOST_S:g} s to say")
                self._pieces.append(piece)
                self._bytes += len(piece)
                return
            content, self._pieces, self._bytes = b"".join(self._pieces), [], 0
            if len(content) < 2 * RATE_HZ * LEAST_S:
                raise WireError("nothing was said: hold the key or the button while you talk")
            if self._busy:
                raise WireError("the last instruction is still being recognized")
            self._busy = True
        samples = np.frombuffer(content, "<i2").astype(np.float32) / 32768.0
        threading.Thread(target=self._work, args=(samples, reply), name="console-speech", daemon=True).start()

    def _work(self, samples: FloatArray, reply: Callable[[Mapping[str, Any]], None]) -> None:
        try:
            text, heard = self._recognize(samples, self._sentences())
            reply({"type": "heard", "text": text, "heard": heard})
        except VerbotError as error:
            reply({"type": "error", "message": str(error)})
        finally:
            with self._lock:
                self._busy = False
