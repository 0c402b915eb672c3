"""The console from beginning to end: the session, the page, and the time between control steps."""

from __future__ import annotations

import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from verbot.console.choices import ConsoleChoices, ConsoleSetup
from verbot.console.history import History
from verbot.console.inbox import Inbox
from verbot.console.listening import Listener
from verbot.console.server import ConsoleServer, ServedPage
from verbot.console.session import ConsolePhase, ConsoleSession
from verbot.console.streams import data_urls, heat_png, jpeg
from verbot.errors import VerbotError
from verbot.ranges import COUNT_OR_NONE, DURATION_S, PORT, check_ranges

RATED = 50  # latest control steps, of which the rate is


@dataclass(frozen=True)
class ConsoleConfig:
    """Settings of the console.

    Args:
        host, port: address of the page; port 0 takes a free one.
        token: the first part of the page's address; None makes one.
        seconds: time limit of an instruction; 0 for none.
        picture_pixels: size of each view if the env can render larger images; 0 shows the policy's images.
    """

    host: str = "127.0.0.1"
    port: int = 0
    token: str | None = field(default=None, repr=False)
    seconds: float = 60.0
    picture_pixels: int = 256

    def __post_init__(self) -> None:
        check_ranges(self, port=PORT, seconds=DURATION_S, picture_pixels=COUNT_OR_NONE)


class _Pace:
    """Sleeps until the next control step is due. After a delay it continues from now: steps are late, never faster."""

    def __init__(self) -> None:
        self._due_s = time.monotonic()

    def __call__(self, server: ConsoleServer, rate_hz: float) -> None:
        now_s = time.monotonic()
        self._due_s = max(self._due_s + 1.0 / rate_hz, now_s)
        time.sleep(self._due_s - now_s)


def run_console(
    choices: ConsoleChoices,
    setup: ConsoleSetup,
    config: ConsoleConfig,
    tls: ssl.SSLContext | None = None,
    opened: Callable[[ConsoleServer], None] = lambda server: print(
        f"open {server.url} (keep the address to yourself)", flush=True
    ),
    pace: Callable[[ConsoleServer, float], None] | None = None,
    until: threading.Event | None = None,
) -> None:
    """Serve the console until `until` is set or a signal interrupts. The robot is held and let go then.

    Args:
        tls: the certificate to show; None serves without encryption.
        opened: called with the server once.
        pace: waits for the next control step, at a rate in Hz; by default in real time.

    Raises:
        ConfigError: the page cannot be served.
        VerbotError: the first setup cannot be opened.
    """
    inbox, history, until = Inbox(), History(), until or threading.Event()
    pace = pace or _Pace()
    with closing(ConsoleSession(choices, setup, inbox, history, config.seconds)) as session:
        listener = None
        if choices.recognize is not None:
            listener = Listener(choices.recognize, lambda: choices.sentences(session.setup), choices.cutter)
        served = ServedPage(_greeting(choices, session), history, choices.outputs, listener)
        with ConsoleServer(inbox, served, config.host, config.port, config.token, tls) as server:
            opened(server)
            _Loop(session, inbox, server, choices, config).run(pace, until)


class _Loop:
    """One control step after another."""

    def __init__(
        self, session: ConsoleSession, inbox: Inbox, server: ConsoleServer, choices: ConsoleChoices, config: ConsoleConfig
    ):
        self._session, self._inbox, self._server, self._choices, self._config = session, inbox, server, choices, config
        self._times: deque[float] = deque(maxlen=RATED)
        self._late = 0

    def run(self, pace: Callable[[ConsoleServer, float], None], until: threading.Event) -> None:
        number = 0
        try:
            while not until.is_set():
                for command in self._inbox.take():
                    self._obey(command)
                is_moving = self._session.phase == ConsolePhase.MOVING
                self._server.check_alive(is_moving)
                if number % self._session.steps_per_picture == 0:
                    self._show(is_moving)
                pace(self._server, self._session.plant.spec.rate_hz)
                self._time(is_moving)
                self._session.tick()
                number += 1
        finally:
            self._session.plant.hold()  # before the pages are closed, which takes a second

    def _show(self, is_moving: bool) -> None:
        """Pictures for the history while it moves, and for pages that are ready for them."""
        session, watched = self._session, self._server.watched
        if not is_moving and not watched:
            return
        pictures = {name: jpeg(image) for name, image in session.plant.pictures(self._config.picture_pixels).items()}
        session.record(pictures)
        if watched:
            heat = session.acting.policy.heat() if session.acting.policy is not None else {}
            layers = {name: heat_png(maps) for name, maps in heat.items()}
            urls = {"images": data_urls(pictures, "jpeg"), "heat": data_urls(layers, "png")}
            self._server.show(session.view() | self._timing(), session.about(), urls)

    def _obey(self, command: Mapping[str, Any]) -> None:
        session, kind = self._session, command["type"]
        try:
            if kind == "preview":
                self._server.send({"type": "preview", **session.preview(command["text"]).to_json()})
            elif kind == "obey":
                preview = session.obey(command["text"].strip(), command["anyway"], command["search"])
                asks = preview.asks and session.instruction != preview.text
                self._server.send({"type": "preview", **preview.to_json(), "obeyed": not asks})
            elif kind == "choose":
                self._server.send({"type": "busy", "what": f"opening {command['policy']} in {command['suite']}"})
                names = ("policy", "suite", "scene", "task", "axes")
                session.choose(ConsoleSetup(**{name: command[name] for name in names}))
            elif kind == "move":
                session.move(command["camera"], tuple(command["start"]), tuple(command["end"]))
            elif kind == "heat":
                session.show_heat(command["on"])
            elif kind == "resume":
                session.resume()
            elif kind == "again":
                session.again()
        except VerbotError as error:
            self._server.send({"type": "error", "message": str(error)})

    def _time(self, is_moving: bool) -> None:
        now, period = time.monotonic(), 1.0 / self._session.plant.spec.rate_hz
        if not is_moving:
            self._times.clear()
        elif self._times and now - self._times[-1] > 1.5 * period:
            self._late += 1
        if is_moving:
            self._times.append(now)

    def _timing(self) -> dict[str, Any]:
        """The rate of control steps, Hz, and how many came late."""
        times = self._times
        rate = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else None
        return {"rate_hz": rate and round(rate, 1), "late": self._late}


def _greeting(choices: ConsoleChoices, session: ConsoleSession) -> dict[str, Any]:
    """The first message to a page: what it can offer."""
    return {
        "robot": session.plant.spec.name, "is_real": session.plant.is_real, "rate_hz": session.plant.spec.rate_hz,
        "policies": list(choices.policies), "suites": list(choices.suites),
        "speech": choices.recognize is not None, "hands_free": choices.recognize is not None and choices.cutter is not None,
    }  # fmt: skip
