"""Speech of a page on its way to the recognizer: while a person holds a key, or cut where the person pauses."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np

from verbot.console.hands_free import Cutter, HandsFree, SpeechReply
from verbot.errors import VerbotError, WireError, install_command
from verbot.spec import FloatArray

RATE_HZ, MOST_S, LEAST_S = 16_000, 15.0, 0.2
Recognize = Callable[[FloatArray, Sequence[str]], tuple[str, str, str]]


class Listener:
    """One utterance at a time, of one page.

    Args:
        recognize: (what was meant, what was heard, a command to the console or ``""``), of float32 (n,) samples at 16 kHz, and
            the sentences that are likely.
        sentences: these sentences, at present.
        cutter: makes what cuts sound into utterances; None without hands-free talk.
    """

    def __init__(self, recognize: Recognize, sentences: Callable[[], Sequence[str]], cutter: Callable[[], Cutter] | None = None):
        self._recognize, self._sentences, self._cutter = recognize, sentences, cutter
        self._free: HandsFree | None = None
        self._lock, self._pieces, self._bytes = threading.Lock(), list[bytes](), 0
        self._busy = False

    @property
    def can_cut(self) -> bool:
        """Whether there is hands-free talk."""
        return self._cutter is not None

    def start(self) -> None:
        """A person begins to talk: what came before is dropped, and hands-free talk ends."""
        self.close()

    def listen(self, reply: SpeechReply) -> None:
        """Begin hands-free talk: what `hear` takes is cut into utterances. Raises `WireError` if there is none."""
        self.close()
        cutter = self._cutter
        if cutter is None:
            raise WireError(f"there is no hands-free talk here: {install_command('silero_vad')}")

        def prepared() -> Cutter:
            self._recognize(np.zeros(RATE_HZ // 2, np.float32), self._sentences())  # loads what it needs before anybody speaks
            return cutter()

        self._free = HandsFree(prepared, self._work, reply)

    def close(self) -> None:
        """Hear no more: what was not yet recognized is dropped."""
        free, self._free = self._free, None
        if free is not None:
            free.close()
        with self._lock:
            self._pieces, self._bytes = [], 0

    def hear(self, piece: bytes | None, reply: SpeechReply) -> None:
        """Take a piece of 16-bit samples, or None at the end of an utterance; `reply` gets what was heard.

        Raises `WireError` for half a sample, for more than `MOST_S` seconds, and for a second utterance before the first is read.
        """
        free = self._free
        if free is not None and piece is not None:
            free.hear(piece)
            return
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
        threading.Thread(target=self._held, args=(samples, reply), name="console-speech", daemon=True).start()

    def _held(self, samples: FloatArray, reply: SpeechReply) -> None:
        try:
            self._work(samples, reply)
        finally:
            with self._lock:
                self._busy = False

    def _work(self, samples: FloatArray, reply: SpeechReply) -> None:
        try:
            text, heard, command = self._recognize(samples, self._sentences())
            reply({"type": "heard", "text": text, "heard": heard, "command": command})
        except VerbotError as error:
            reply({"type": "error", "message": str(error)})
