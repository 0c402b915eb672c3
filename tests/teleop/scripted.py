"""A scripted user: it reads the page's messages over a real websocket and answers with keys and gamepad states."""

from __future__ import annotations

import _thread
import json
import queue
import threading
import time
from collections import deque
from contextlib import ExitStack, contextmanager, suppress
from urllib.parse import urlsplit

import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from verbot.envs.tabletop.simulation.physics import POSITION_UNIT_M, ROTATION_UNIT_RAD
from verbot.teleop import TeleopConfig, teleoperate
from verbot.teleop.controls import DEAD_ZONE, SPEEDS

OPTIONS = {"image_size": 32, "max_seconds": 20}
CODES = {
    "gripper": "Space", "speed": "KeyC", "end_effector": "KeyV", "save": "Enter", "keep": "KeyK", "retake": "Backspace",
    "discard": "KeyX", "next": "KeyN", "goal": "KeyG", "hand_back": "KeyH", "quit": "Escape",
}  # fmt: skip


def config(**changes) -> TeleopConfig:
    settings = {"by": "gamepad", "options": OPTIONS, "picture_pixels": 0, "tasks": ("pick", "push", "put")}
    return TeleopConfig(**{**settings, **changes})


def lockstep(page) -> None:
    """Paces without a clock: a control step is due when the page has confirmed the frame of the last one and sent its input."""
    deadline = time.monotonic() + 20
    while page.waiting:
        if time.monotonic() > deadline:
            raise TimeoutError("the page sends nothing")
        time.sleep(0.0003)


def origin_of(url: str) -> str:
    return f"http://{urlsplit(url).netloc}"


class Page:
    """The page's end of the connection."""

    def __init__(self, url: str, **settings):
        address = url.replace("http://", "ws://") + "socket"
        self._open = ExitStack()
        self.socket = self._open.enter_context(
            connect(address, origin=settings.pop("origin", origin_of(url)), compression=None, **settings)
        )
        self.hello = json.loads(self.socket.recv(timeout=10))
        assert self.hello["type"] == "hello"
        self.errors: list[str] = []
        self._states: deque[dict] = deque()
        self.frame, self.beat = -1, -1
        while self.beat < 0:
            self._take(self.socket.recv(timeout=10))

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def receive(self) -> dict | None:
        """The next state sent to the page; None when the session has ended."""
        try:
            while not self._states:
                self._take(self.socket.recv(timeout=20))
            message = self._states.popleft()
            self.frame = message["frame"]
            return message["state"]
        except ConnectionClosed:
            return None

    def send(self, **message) -> None:
        """Send a message, after a heartbeat, as the page does before each key."""
        with suppress(ConnectionClosed):  # the last key of a session ends it, and later messages have no receiver
            self.socket.send(json.dumps({"type": "alive", "at": time.monotonic() * 1000, "beat": self.beat}))
            self.socket.send(json.dumps(message))

    def _take(self, data: str) -> None:
        message = json.loads(data)
        if message["type"] == "beat":
            self.beat = message["beat"]
        elif message["type"] == "error":
            self.errors.append(message["message"])
        else:
            self._states.append(message)

    def press(self, name: str) -> None:
        self.send(type="key", code=CODES.get(name, name), down=True)

    def pad(self, axes=(), buttons=()) -> None:
        self.send(type="pad", axes=list(axes), buttons=list(buttons))

    def say(self, text: str, add: bool = False) -> None:
        self.send(type="say", text=text, add=add)

    def seen(self) -> None:
        self.send(type="seen", frame=self.frame)


@contextmanager
def teleop_session(path, script, settings=None, make_policy=None):
    """Run `teleoperate` while `script(page, env)` runs in another thread; yields the result when both have finished."""
    faults: queue.Queue = queue.Queue()
    threads = []

    def start(server, env):
        def run():
            try:
                with Page(server.url) as page:
                    script(page, env)
            except Exception as error:  # raised below, because an exception in a thread would be lost
                faults.put(error)
                _thread.interrupt_main()  # the session would wait for a page for ever

        threads.append(threading.Thread(target=run, daemon=True))
        threads[0].start()

    result = None
    try:
        result = teleoperate(settings or config(), path, make_policy, pace=lockstep, opened=start)
    finally:
        for thread in threads:
            thread.join(timeout=10)
        if not faults.empty():
            raise faults.get()
    yield result


def stick(value: float) -> float:
    """The position of an 8-bit stick for `value` in [-1, 1]: beyond its dead zone, and rounded."""
    place = np.sign(value) * (DEAD_ZONE + (1 - DEAD_ZONE) * abs(value)) if abs(value) > 1e-3 else 0.0
    return float(np.round(np.clip(place, -1, 1) * 127) / 127)


def axes_of(action) -> list[float]:
    """The tabletop's `action` (7,) on two sticks, at full speed. The front camera looks along −x: right is +y, away −x."""
    x, y, z = action[:3] / POSITION_UNIT_M
    turn = action[5] / ROTATION_UNIT_RAD
    return [stick(y), stick(x), stick(-turn), stick(-z)]


class Expert:
    """Drives with the env's expert through a gamepad; call `drive` once for each received state."""

    def __init__(self, page: Page, env):
        self.page, self.env, self.closed = page, env, False

    def begin(self) -> None:
        self.expert, self.closed = self.env.expert(), False
        self.expert.reset("")

    def drive(self) -> None:
        action = self.expert.act()
        wants_closed = action[6] < 0.5
        axes = axes_of(action)
        # A stick at rest does not start an episode; the first step must be a motion.
        self.page.pad(axes if any(axes) else [0.15, 0, 0, 0])
        if wants_closed != self.closed:
            self.page.press("gripper")
            self.closed = wants_closed

    def rest(self) -> None:
        self.page.pad([0, 0, 0, 0])


class KeyboardExpert(Expert):
    """As `Expert`, with keys only: each is down or up, at the speed of the largest motion."""

    def __init__(self, page: Page, env):
        super().__init__(page, env)
        self.held: set[str] = set()
        self.speed = "fast"  # as `ready` leaves it

    def drive(self) -> None:
        action = self.expert.act()
        x, y, z = action[:3] / POSITION_UNIT_M
        wanted = {"KeyD": y, "KeyS": x, "KeyR": z, "KeyQ": action[5] / ROTATION_UNIT_RAD}
        longest = max(map(abs, wanted.values()))
        speed = "fast" if longest > 0.75 else "normal" if longest > 0.3 else "fine"
        while self.speed != speed:
            self.page.press("speed")
            self.speed = _after(self.speed)
        opposite = {"KeyD": "KeyA", "KeyS": "KeyW", "KeyR": "KeyF", "KeyQ": "KeyE"}
        held = {key if value > 0 else opposite[key] for key, value in wanted.items() if abs(value) > SPEEDS[speed] / 2}
        for code in self.held - held:
            self.page.send(type="key", code=code, down=False)
        for code in held - self.held:
            self.page.send(type="key", code=code, down=True)
        self.held = held
        if (action[6] < 0.5) != self.closed:
            self.page.press("gripper")
            self.closed = not self.closed

    def rest(self) -> None:
        self.page.send(type="release")
        while self.speed != "fast":
            self.page.press("speed")
            self.speed = _after(self.speed)


def _after(speed: str) -> str:
    names = list(SPEEDS)
    return names[(names.index(speed) + 1) % len(names)]


def demonstrate(page: Page, env, state: dict, hands=Expert) -> dict:
    """Demonstrate a ready scene to its end; returns the state of the review."""
    expert = hands(page, env)
    expert.begin()
    while state["phase"] != "review":
        expert.drive()
        page.seen()
        state = page.receive()
    expert.rest()
    return state


def after(page: Page, *names: str) -> dict | None:
    """Press keys and return the next state."""
    for name in names:
        page.press(name)
    page.seen()
    return page.receive()


def ready(page: Page) -> dict:
    """The state of a new scene, with all keys released and at full speed."""
    state = page.receive()
    page.send(type="release")
    if page.hello["gamepad"]:
        page.pad([0, 0, 0, 0])
    while state["speed"] != "fast":
        state = after(page, "speed")
    return state
