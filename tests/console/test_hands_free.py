"""Hands-free talk: sound is cut into utterances, a spoken stop stops, and what waits is bounded."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import threading
import time
import wave

import numpy as np
import pytest
from pages import ConsolePage, console_thread

from verbot.console import ConsoleSetup
from verbot.console.hands_free import BEHIND_S, HandsFree
from verbot.console.listening import Listener
from verbot.errors import ConfigError, WireError
from verbot.speech import CuttingConfig, SileroDetector, UtteranceCutter, can_detect, spoken_command
from verbot.speech.cutting import RATE_HZ, WINDOW_S
from verbot.speech.recognizing import Heard
from verbot.workflows.console import ConsoleOptions, console_choices

LOUD = 0.5


class Loud:
    """An injected detector: what is loud is speech."""

    def probability(self, window):
        return float(np.abs(window).max() > 0.1)

    def reset(self):
        pass


def sound(*parts):
    """(seconds, loudness) one after another."""
    return np.concatenate([np.full(round(seconds * RATE_HZ), loudness, np.float32) for seconds, loudness in parts])


def cut(samples, config=None, piece=1024):
    cutter = UtteranceCutter(Loud(), config)
    return [each for i in range(0, len(samples), piece) for each in cutter.cut(samples[i : i + piece])]


def test_an_utterance_ends_with_a_pause_and_not_with_a_breath():
    found = cut(sound((1, 0), (1, LOUD), (0.3, 0), (1, LOUD), (1, 0), (0.5, LOUD), (1, 0)))
    speech = [np.abs(each).max(initial=0) * (np.abs(each) > 0.1).sum() / RATE_HZ / LOUD for each in found]
    assert np.round(speech, 1).tolist() == [2.0, 0.5]
    assert all(each[: round(0.25 * RATE_HZ)].max() == 0 for each in found)  # what came before the first sound is kept


@pytest.mark.parametrize("piece", [7, 512, 1000, 50_000])
def test_cutting_does_not_depend_on_the_pieces(piece):
    samples = sound((0.4, 0), (0.3, LOUD), (0.7, 0), (0.3, LOUD), (0.7, 0))
    whole = cut(samples, piece=len(samples))
    assert len(whole) == 2
    np.testing.assert_array_equal(np.concatenate(cut(samples, piece=piece)), np.concatenate(whole))


def test_clicks_and_endless_talk_are_dropped():
    assert cut(sound((1, 0), (0.05, LOUD), (1, 0))) == []
    config = CuttingConfig(most_s=2.0)
    cutter = UtteranceCutter(Loud(), config)
    for _ in range(50):
        assert cutter.cut(sound((0.2, LOUD))) == [] and len(cutter._windows) * WINDOW_S < 2.0
    assert not cutter.hears and cutter.cut(sound((1, 0))) == []
    assert len(cutter.cut(sound((1, LOUD), (1, 0)))) == 1  # after a pause it hears again
    with pytest.raises(ConfigError, match="finite"):
        cutter.cut(np.array([np.inf], np.float32))
    with pytest.raises(ConfigError, match="above begins"):
        CuttingConfig(begins=0.2, ends=0.4)


@pytest.mark.parametrize(
    ("heard", "command", "text"),
    [
        ("Stop.", "stop", ""),
        ("Shop!", "stop", ""),
        ("please, stop now", "stop", ""),
        ("stop at the green cone", "stop", "stop at the green cone"),
        ("Do it.", "obey", ""),
        ("pick up the red cue", "", "pick up the red cube"),
        ("do it again", "", "do it again"),
    ],
)
def test_a_stop_is_taken_from_anything_like_it_and_a_consent_from_its_words_alone(heard, command, text):
    assert spoken_command(heard) == command
    assert Heard.of(heard, ["pick up the red cube"]).parts() == (text, heard, command)


def test_sound_that_waits_is_bounded():
    entered, go, messages = threading.Event(), threading.Event(), []

    class Slow:
        hears = False

        def reset(self):
            messages.append("reset")

        def cut(self, samples):
            entered.set()
            assert go.wait(10)
            return []

    free = HandsFree(Slow, lambda utterance, reply: None, messages.append)
    free.hear(bytes(200))
    assert entered.wait(10)
    for _ in range(70):
        free.hear(bytes(2 * RATE_HZ))
        assert free.waiting_s <= BEHIND_S
    go.set()
    free._thread.join(0.01)
    free.close()
    free._thread.join(10)
    assert not free._thread.is_alive() and "reset" in messages
    free.hear(bytes(2 * RATE_HZ))
    assert free.waiting_s == 0


def pcm(*parts):
    return (sound(*parts) * 32767).astype("<i2").tobytes()


SETUP = ConsoleSetup("expert", "navigation")
SAID = ((0.4, 0), (0.5, LOUD), (0.6, 0))


@pytest.fixture(scope="module")
def console():
    """A console in which loudness is speech, and half a second of it means stop, a longer one an instruction."""

    def recognize(samples, sentences):
        is_short = (np.abs(samples) > 0.1).sum() < 0.7 * RATE_HZ
        return ("", "stop", "stop") if is_short else (sentences[0], "something", "")

    choices = console_choices(SETUP, ConsoleOptions(speech=False))
    choices = dataclasses.replace(choices, recognize=recognize, cutter=lambda: UtteranceCutter(Loud()))
    with console_thread(choices, SETUP, pace=lambda served, rate_hz: time.sleep(0.002)) as running:
        yield running


def speak(page, *parts):
    content = pcm(*parts)
    for i in range(0, len(content), 2048):
        page.socket.send(content[i : i + 2048])


def hands_free_threads():
    return [thread for thread in threading.enumerate() if thread.name == "console-hands-free"]


def test_what_is_said_is_shown_and_a_spoken_stop_stops_a_robot_that_moves(console):
    with ConsolePage(console.url) as page:
        assert page.hello["hands_free"]
        page.ready()
        page.send(type="listen", on=True)
        page.until(lambda page: ("listening", True) in page.listens)
        speak(page, (0.4, 0), (0.5, LOUD))
        page.until(lambda page: ("hearing", True) in page.listens)
        speak(page, (0.5, LOUD), (0.6, 0))
        page.until(lambda page: page.heard)
        assert page.heard[0]["text"] in page.about["examples"] and page.state["phase"] == "ready"  # nothing is obeyed before
        page.obey(page.about["examples"][0])
        page.until(lambda page: page.state["phase"] == "moving")
        speak(page, *SAID)
        page.until(lambda page: page.stops)
        page.until(lambda page: page.state["phase"] == "stopped")
        assert page.state["message"] == "Held: you said stop."
        page.send(type="listen", on=False)
        page.send(type="again")
        page.until(lambda page: page.state["phase"] == "ready")
        speak(page, *SAID)
        page.send(type="preview", text="go home")
        page.until(lambda page: page.previews)
        assert len(page.heard) == 2  # off is off


def test_hands_free_talk_ends_with_the_tab_and_with_another_driver(console):
    with ConsolePage(console.url) as page:
        with ConsolePage(console.url) as second:
            page.ready()
            page.send(type="listen", on=True)
            page.until(lambda page: ("listening", True) in page.listens)
            second.until(lambda page: page.drives is not None)
            second.send(type="listen", on=True)
            second.until(lambda page: page.errors)
            assert "only watches" in second.errors[0] and len(hands_free_threads()) == 1
            second.send(type="drive")
            second.until(lambda page: page.drives)
            for thread in hands_free_threads():
                thread.join(10)
            assert not hands_free_threads()
            second.send(type="listen", on=True)
            second.until(lambda page: ("listening", True) in page.listens)
        for thread in hands_free_threads():
            thread.join(10)
        assert not hands_free_threads()


def test_a_detector_that_fails_says_so_and_ends():
    messages, over = [], threading.Event()

    def fails():
        raise ConfigError("no model")

    def reply(message):
        messages.append(message)
        if message["type"] == "listening":
            over.set()

    HandsFree(fails, lambda utterance, reply: None, reply)
    assert over.wait(10) and [message["type"] for message in messages] == ["error", "listening"] and not messages[1]["on"]


def test_without_a_detector_hands_free_says_what_to_install():
    with pytest.raises(WireError, match="pip install --no-deps silero-vad"):
        Listener(lambda samples, sentences: ("", "", ""), tuple).listen(print)


@pytest.mark.skipif(not can_detect() or shutil.which("espeak-ng") is None, reason="silero-vad or espeak-ng is not installed")
def test_silero_cuts_two_sentences_of_a_synthetic_voice_out_of_noise(tmp_path):
    samples = [sound((1, 0))]
    for text in ("pick up the red cube", "stop"):
        subprocess.run(["espeak-ng", "-v", "en-us", "-w", str(tmp_path / "said.wav"), text], check=True, timeout=20)
        with wave.open(str(tmp_path / "said.wav")) as file:
            said = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768.0
            times = np.arange(0, len(said) - 1, file.getframerate() / RATE_HZ)
        samples += [np.interp(times, np.arange(len(said)), said), sound((1, 0))]
    whole = np.concatenate(samples) + np.random.default_rng(0).normal(0, 0.003, sum(map(len, samples)))
    cutter = UtteranceCutter(SileroDetector())
    found = [len(each) / RATE_HZ for piece in np.array_split(whole.astype(np.float32), 40) for each in cutter.cut(piece)]
    assert len(found) == 2 and 1.5 < found[0] < 3.0 and found[1] < 1.6


def test_a_file_that_is_no_model_is_refused(tmp_path):
    pytest.importorskip("onnxruntime")
    (tmp_path / "no.onnx").write_bytes(b"no model")
    with pytest.raises(ConfigError, match="no.onnx is no ONNX model"):
        SileroDetector(tmp_path / "no.onnx")
