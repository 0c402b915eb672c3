"""Detecting speech with silero-vad, on this machine, by onnxruntime."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from verbot.errors import ConfigError
from verbot.files import regular_file
from verbot.spec import FloatArray
from verbot.speech.cutting import RATE_HZ, WINDOW

MODULES = ("onnxruntime", "silero_vad")  # a dependency of the extra, and the package of the model
MODEL = Path("data", "silero_vad_16k_op15.onnx")  # in that package
SHA256 = "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49"  # of that file in silero-vad 6.2.3
CONTEXT = 64  # samples of the window before that the network sees again


class SileroDetector:
    """Implements `verbot.speech.cutting.SpeechDetector` by silero-vad (Silero Team 2024), without torch.

    Args:
        model: an ONNX file of silero-vad for 16 kHz; None takes the one of the package silero-vad, whose content is checked.

    Raises:
        ModuleNotFoundError: a package is not installed.
        ConfigError: the package's file is another one than was tried, or the file is no such model.
    """

    def __init__(self, model: Path | None = None):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        content = regular_file(model).read_bytes() if model is not None else _packaged()
        try:
            self._session: Any = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # of a module in C++, which has no type of its own for it
            raise ConfigError(f"{model or MODEL.name} is no ONNX model: {str(error).splitlines()[0]}") from error
        if [each.name for each in self._session.get_inputs()] != ["input", "state", "sr"]:
            raise ConfigError(f"{model or MODEL.name} is no model of silero-vad 5 or 6, with inputs input, state and sr")
        self.reset()

    def reset(self) -> None:
        self._state = np.zeros((2, 1, 128), np.float32)
        self._context = np.zeros(CONTEXT, np.float32)

    def probability(self, window: FloatArray) -> float:
        """See `SpeechDetector`. Raises `ConfigError` for a window of another size."""
        if window.shape != (WINDOW,):
            raise ConfigError(f"a window of speech is ({WINDOW},) samples at {RATE_HZ} Hz; got {window.shape}")
        inputs = np.concatenate([self._context, window.astype(np.float32)])[None]
        given = {"input": inputs, "state": self._state, "sr": np.array(RATE_HZ, np.int64)}
        found, self._state = self._session.run(None, given)
        self._context = inputs[0, -CONTEXT:]
        return float(found[0, 0])


def can_detect() -> bool:
    """Whether the packages of `SileroDetector` are installed."""
    return all(importlib.util.find_spec(module) is not None for module in MODULES)


def _packaged() -> bytes:
    """The model's file. The package itself imports torch, so it is not imported."""
    spec = importlib.util.find_spec("silero_vad")
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError("No module named 'silero_vad'", name="silero_vad")
    path = Path(next(iter(spec.submodule_search_locations))) / MODEL
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise ConfigError(f"{path} is not the file of silero-vad 6.2.3: pip install --no-deps silero-vad==6.2.3")
    return content
