"""The console's checks of speech: a browser that takes a file for its microphone, with synthetic voices in it."""

from __future__ import annotations

import time
import wave
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from voices import JOE, has_joe, say

from verbot.speech import can_detect
from verbot.speech.cutting import RATE_HZ

if TYPE_CHECKING:
    from browser import Check, Server
    from chromium import Chromium

RATE = 140  # words a minute


def write_microphone(path: Path, *parts: str | float) -> Path:
    """A recording that the browser takes for the microphone, again and again: texts, and seconds of silence between them."""
    voice = JOE if has_joe() else "en-gb"
    sounds = [np.zeros(RATE_HZ // 2, np.float32)]
    sounds += [say(part, voice, RATE) if isinstance(part, str) else np.zeros(round(part * RATE_HZ), np.float32) for part in parts]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes((np.concatenate(sounds) * 32767).astype("<i2").tobytes())
    return path


def spoke(check: Check, browser: Chromium, server: Server) -> None:
    """Speech from a file that the browser takes for its microphone."""
    if not check.arguments.speech:
        return
    check.tab.run("document.activeElement.blur(); at('text').value = ''")
    check.tab.mouse("at('talk')", down=True)
    check.until("talking && started && audio !== null", "speech: listens")
    time.sleep(3.5)
    check.tab.mouse("at('talk')", down=False)
    check.until("at('heard').textContent.includes('Heard')", "speech: heard")
    check.results["speech: text"] = check.tab.value("at('text').value")
    check.results["speech: message"] = check.tab.value("at('heard').textContent")
    check.results["speech: right"] = check.results["speech: text"] == check.sentence
    check.picture("8-heard")
    check.tab.run("at('text').focus()")
    check.tab.press("Enter")
    check.until("state.phase === 'moving'", "speech: obeyed")
    check.settled()


def hands_free(check: Check, browser: Chromium, server: Server) -> None:
    """Nothing is pressed after the button: an instruction is said, obeyed by voice, and stopped by voice."""
    if not check.arguments.speech or not can_detect():
        return
    check.tab.run("at('again').click(); document.activeElement.blur(); at('text').value = ''; closeMicrophone()")
    check.until("state.phase === 'ready'")
    write_microphone(server.folder / "microphone.wav", check.sentence, 6.0, "do it", 5.0, "stop", 20.0)
    check.tab.click("at('free')")
    check.until("free && at('free').getAttribute('aria-pressed') === 'true'", "hands free: on")
    check.until("at('free').classList.contains('hearing')", "hands free: shows that it hears")
    check.until("at('heard').textContent.includes('do it”, or press Enter')", "hands free: heard")
    check.results["hands free: text"] = check.tab.value("at('text').value")
    check.results["hands free: not obeyed before"] = check.tab.value("state.phase") == "ready"
    check.picture("15-hands-free")
    check.until("state.phase === 'moving'", "hands free: obeyed by voice")
    check.until("state.phase === 'stopped' && state.message.includes('you said stop')", "hands free: stopped by voice")
    check.picture("16-stopped-by-voice")
    check.tab.click("at('free')")
    check.until("!free && audio === null", "hands free: off closes the microphone")
    check.tab.run("at('again').click()")
    check.until("state.phase === 'ready'")
