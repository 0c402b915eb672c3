"""A headless Chromium, driven by the DevTools protocol: tabs, keys, the mouse, screenshots."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from websockets.sync.client import connect

KEYS = {
    "Enter": {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"},
    "Escape": {"key": "Escape", "code": "Escape", "windowsVirtualKeyCode": 27},
    "Space": {"key": " ", "code": "Space", "windowsVirtualKeyCode": 32, "text": " "},
    "Tab": {"key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9},
}


class Tab:
    """One page."""

    def __init__(self, browser: Chromium, target: dict[str, Any]):
        self._browser, self._id = browser, target["id"]
        self._open = ExitStack()
        self._socket = self._open.enter_context(
            connect(target["webSocketDebuggerUrl"], max_size=2**28, compression=None, ping_interval=None)
        )
        self._number = 0
        self.problems: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and wait for its result."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message: dict[str, Any] = json.loads(self._socket.recv(timeout=60))
            entry = message.get("params", {}).get("entry", {})
            if message.get("method") == "Runtime.exceptionThrown" or entry.get("source") == "security":
                self.problems.append(json.dumps(message["params"])[:600])
            if message.get("id") == self._number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return dict(message["result"])

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression; an exception in it is raised."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=False, userGesture=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{expression}: {json.dumps(found['exceptionDetails'])[:400]}")
        return found["result"].get("value")

    def run(self, statements: str) -> None:
        self.value(f"(() => {{ {statements} }})()")

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, **KEYS[key])

    def insert(self, text: str) -> None:
        """Type a text into what has the focus."""
        self.call("Input.insertText", text=text)

    def click(self, element: str) -> None:
        """Click in the middle of a JavaScript expression's element."""
        box = self.value(
            f"(() => {{ const b = ({element}).getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; }})()"
        )
        self.drag((box[0], box[1]), (box[0], box[1]))

    def mouse(self, element: str, down: bool) -> None:
        """Press the left button in the middle of an element, or let it go."""
        x, y = self.value(f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])(({element}).getBoundingClientRect())")
        kind = "mousePressed" if down else "mouseReleased"
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=int(down), clickCount=1)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """From one point of the window to another with the left button."""
        for kind, place in (("mouseMoved", start), ("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end)):
            buttons = 1 if kind != "mouseReleased" else 0
            self.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", buttons=buttons, clickCount=1)

    def resize(self, width: int, height: int, dark: bool = False) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def screenshot(self) -> bytes:
        """The whole page, PNG."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(found["data"])

    def activate(self) -> None:
        self.call("Page.bringToFront")

    def close(self) -> None:
        self._open.close()
        urllib.request.urlopen(f"{self._browser.address}/json/close/{self._id}", timeout=10).close()


class Chromium:
    """A browser with a fresh profile, ended with the ``with`` statement.

    Args:
        program: its path or name.
        profile: a folder for it.
        microphone: a WAV file that it takes for the microphone.
    """

    def __init__(self, program: str, profile: Path, microphone: Path | None = None):
        path = shutil.which(program)
        if path is None:
            raise SystemExit(f"there is no browser {program!r}: install Chromium, or give --browser")
        command = [
            path, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--mute-audio", "--hide-scrollbars", "--autoplay-policy=no-user-gesture-required",
            "--remote-debugging-port=0", f"--user-data-dir={profile}", "--use-fake-ui-for-media-stream",
            "--use-fake-device-for-media-stream", "about:blank",
        ]  # fmt: skip
        if microphone is not None:
            command.insert(-1, f"--use-file-for-fake-audio-capture={microphone}")
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        found = profile / "DevToolsActivePort"
        deadline = time.monotonic() + 60
        while not found.is_file() or not found.read_text().strip():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise SystemExit("Chromium did not start")
            time.sleep(0.05)
        self.address = f"http://127.0.0.1:{found.read_text().split()[0]}"

    def open(self, url: str) -> Tab:
        """A tab in the foreground."""
        request = urllib.request.Request(f"{self.address}/json/new?{url}", method="PUT")
        with urllib.request.urlopen(request, timeout=60) as answer:
            tab = Tab(self, json.load(answer))
        tab.activate()
        tab.resize(1280, 900)
        return tab

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
