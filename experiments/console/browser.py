"""The console in Chromium: typing, stopping, disturbing, speech, a second tab, a server that is killed; with screenshots.

Example: ``python experiments/console/browser.py --out outputs/console-browser``. It starts a console and a headless Chromium,
drives it by the DevTools protocol, and prints one JSON record of its checks. Speech needs ``espeak-ng`` and the extra ``speech``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent))
from chromium import Chromium, Tab
from spoken import hands_free, spoke, write_microphone

TOKEN = "experiment-in-a-browser"
SENTENCE, OTHER = "pick up the yellow cube", "pick up the blue cylinder"  # of scene 0 of tabletop-starter
# A report that tries to reach its surroundings.
REPORT = """<!doctype html><title>a report</title><h1>a report</h1><script>
  const tried = [window.origin];
  try { tried.push(localStorage.length); } catch (error) { tried.push('no storage'); }
  fetch('/').then(() => document.title = 'reached', () => document.title = 'sandboxed ' + tried.join(', '));
</script>"""
PHONE, DESKTOP = (360, 740), (1280, 900)


@dataclass(frozen=True)
class Arguments:
    """What to check, and where pictures go.

    Args:
        out: folder for the screenshots.
        policy: acts.
        browser: path of Chromium.
        python: the interpreter that serves, with the extra ``speech``; by default this one.
        speech: whether speech is checked.
        wait_s: the longest wait for anything.
        seed: of the scenes.
    """

    out: Path = Path("outputs/console-browser")
    policy: str = "starter"
    browser: str = "chromium"
    python: str = sys.executable
    speech: bool = True
    wait_s: float = 120.0
    seed: int = 0


@dataclass
class Check:
    """One check after another, each with its result."""

    tab: Tab
    arguments: Arguments
    sentence: str = SENTENCE
    results: dict[str, Any] = field(default_factory=dict)

    def until(self, condition: str, name: str = "") -> bool:
        """Wait until JavaScript `condition` holds; the result is kept under `name`."""
        deadline, holds = time.monotonic() + self.arguments.wait_s, False
        while not holds and time.monotonic() < deadline:
            with suppress(RuntimeError):  # the page is still loading
                holds = bool(self.tab.value(condition))
            time.sleep(0 if holds else 0.05)
        if name:
            self.results[name] = holds
        if not holds:
            print(f"not reached: {name or condition}; {self.tab.value('at(`message`).textContent')!r}", file=sys.stderr)
        return holds

    def picture(self, name: str, size: tuple[int, int] = DESKTOP, dark: bool = False) -> None:
        """A screenshot of the whole page."""
        self.tab.resize(*size, dark=dark)
        time.sleep(0.6)
        (self.arguments.out / f"{name}.png").write_bytes(self.tab.screenshot())
        self.tab.resize(*DESKTOP)

    def type(self, text: str) -> None:
        self.tab.run("at('text').value = ''; at('text').focus()")
        self.tab.insert(text)

    def settled(self) -> bool:
        """Wait until nothing moves."""
        return self.until("state && state.phase !== 'moving'")


class Server:
    """A console in a process of its own."""

    def __init__(self, arguments: Arguments, folder: Path, port: int):
        (folder / "token").write_text(TOKEN)
        (folder / "outputs" / "run").mkdir(parents=True)
        (folder / "outputs" / "run" / "report.html").write_text(REPORT)
        self._command = [
            arguments.python, "-m", "verbot", "console", "--policy", arguments.policy, "--port", str(port),
            "--seed", str(arguments.seed), "--outputs", str(folder / "outputs"), "--token-file", str(folder / "token"),
            "--speech" if arguments.speech else "--no-speech",
        ]  # fmt: skip
        self.folder = folder
        self.url = f"http://127.0.0.1:{port}/{TOKEN}/"
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        if "open http" not in self._process.stdout.readline():
            raise RuntimeError("the console did not start")

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()


def main(arguments: Arguments) -> int:
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="verbot-browser-") as place:
        folder = Path(place)
        microphone = write_microphone(folder / "microphone.wav", SENTENCE, 3.0) if arguments.speech else None
        server = Server(arguments, folder, free_port())
        try:
            with Chromium(arguments.browser, folder / "profile", microphone) as browser:
                check = Check(browser.open(server.url), arguments)
                for part in (
                    typed,
                    stopped,
                    frozen,
                    disturbed,
                    unclear,
                    spoke,
                    hands_free,
                    chosen,
                    reported,
                    watched,
                    killed,
                    looks,
                ):
                    part(check, browser, server)
                check.results["no fault of a script"] = not check.tab.problems
                print(*check.tab.problems, sep="\n", file=sys.stderr, end="")
        finally:
            server.kill()
    record = {"passed": all(value for value in check.results.values() if isinstance(value, bool)), **check.results}
    print(json.dumps(record, indent=1))
    return 0 if record["passed"] else 1


def typed(check: Check, browser: Chromium, server: Server) -> None:
    """A person types, sees that it is understood, and the robot obeys."""
    check.until("state && state.phase === 'ready'", "opens")
    check.type(SENTENCE)
    check.until("at('preview').className === 'known'", "understood before it is obeyed")
    check.picture("1-understood")
    check.tab.run("if (!at('heat').checked) at('heat').click()")
    check.tab.press("Enter")
    check.until("state.phase === 'moving'", "typed: it moves")
    time.sleep(1.0)
    check.picture("2-moving-heat")
    check.until("state.phase === 'ended'")
    check.until("at('phase').textContent === 'success'", "typed: it succeeds")
    check.results["rate_hz"] = check.tab.value("state.rate_hz")
    check.results["prediction_ms"] = check.tab.value("state.latency_ms")
    check.picture("3-done")
    check.until("at('history').querySelector('button:not(:disabled)') !== null", "history: a replay")
    check.tab.run("at('history').querySelector('button').click()")
    check.until("at('replay').open && at('video').readyState >= 2 && at('video').duration > 1", "history: it plays")
    check.picture("4-replay")
    check.tab.run("at('replay').close()")


def stopped(check: Check, browser: Chromium, server: Server) -> None:
    """Stop is one key, also while typing, and a button."""
    for name, stop in (
        ("Escape while typing", lambda: check.tab.press("Escape")),
        ("Space", lambda: check.tab.press("Space")),
        ("button", lambda: check.tab.click("at('stop')")),
    ):
        check.type(SENTENCE)
        check.tab.press("Enter")
        check.until("state.phase === 'moving'")
        time.sleep(0.5)
        if name == "Space":
            check.tab.run("document.activeElement.blur()")
        began = time.monotonic()
        stop()
        check.until("state.phase === 'stopped'", f"stop: {name}")
        check.results[f"stop: {name} shown after ms"] = round(1000 * (time.monotonic() - began))
        before = check.tab.value("state.seconds")
        time.sleep(0.6)
        check.results[f"stop: {name} stays"] = check.tab.value("state.seconds") == before
        check.tab.run("at('again').click()")
        check.until("state.phase === 'ready'")
    check.type(SENTENCE)
    check.tab.press("Enter")
    check.until("state.phase === 'moving'")
    check.tab.press("Escape")
    check.until("state.phase === 'stopped'")
    check.picture("5-stopped")
    check.tab.run("at('resume').click()")
    check.until("state.phase === 'ended' && state.outcome === 'success'", "goes on after a stop")


def frozen(check: Check, browser: Chromium, server: Server) -> None:
    """A page that freezes holds the robot."""
    check.type(SENTENCE)
    check.tab.press("Enter")
    check.until("state.phase === 'moving'")
    check.tab.run("const end = performance.now() + 2500; while (performance.now() < end);")
    check.until("state.phase === 'stopped' && state.message.includes('frozen')", "frozen page: held")
    check.tab.run("at('again').click()")
    check.until("state.phase === 'ready'")


def disturbed(check: Check, browser: Chromium, server: Server) -> None:
    """An object is dragged while the robot moves."""
    check.type(SENTENCE)
    check.tab.press("Enter")
    check.until("state.phase === 'moving' && state.seconds > 0.3")
    found = drag_cube(check)
    check.until("state.disturbed || at('error').textContent !== ''")
    check.results["disturbed by the mouse"] = bool(check.tab.value("state.disturbed"))
    check.results["disturbed: what it says"] = (
        check.tab.value("at('message').textContent || at('error').textContent") if found else ""
    )
    check.picture("6-disturbed")
    check.settled()
    check.until("[...at('history').children].some((item) => item.textContent.includes('disturbed'))", "history: disturbed")


def drag_cube(check: Check) -> bool:
    """Find the yellow cube in the front camera's picture by its color, and drag it a little."""
    place = check.tab.value(FIND_YELLOW)
    if place is None:
        return False
    check.tab.drag((place[0], place[1]), (place[0] + place[2] * 0.07, place[1] + place[2] * 0.04))
    return True


FIND_YELLOW = """(() => {
  const image = document.querySelector('#camera-front img.camera'), canvas = document.createElement('canvas');
  canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
  const context = canvas.getContext('2d');
  context.drawImage(image, 0, 0);
  const {data} = context.getImageData(0, 0, canvas.width, canvas.height);
  let n = 0, sx = 0, sy = 0;
  for (let i = 0; i < data.length; i += 4) {
    if (data[i] < 150 || data[i + 1] < 120 || data[i + 2] > 90) continue;
    n++; sx += (i / 4) % canvas.width; sy += Math.floor(i / 4 / canvas.width);
  }
  image.scrollIntoView({block: 'center'});
  const box = image.getBoundingClientRect();
  return n < 10 ? null : [box.left + box.width * sx / n / canvas.width, box.top + box.height * sy / n / canvas.height, box.width];
})()"""


def unclear(check: Check, browser: Chromium, server: Server) -> None:
    """What is not understood is said before it is obeyed."""
    check.tab.run("at('again').click()")
    check.until("state.phase === 'ready'")
    check.type("sing a song about cubes")
    check.until("at('preview').className === 'unknown'", "not understood: said")
    check.tab.press("Enter")
    check.until("document.activeElement === at('anyway')", "not understood: asks")
    check.results["not understood: not obeyed"] = check.tab.value("state.phase") == "ready"
    check.picture("7-not-understood")


def chosen(check: Check, browser: Chromium, server: Server) -> None:
    """Another suite, a scene and a randomization; and a choice that does not exist."""
    check.tab.run("at('suite').value = 'tabletop-full'; at('suite').dispatchEvent(new Event('change')); at('scene').value = 3")
    check.tab.run("document.querySelector('#choose details').open = true; at('open').click()")
    check.until("at('place').textContent.includes('tabletop-full · scene 3')", "chosen: another suite")
    check.until("document.querySelector('[data-axis=lighting]') !== null", "chosen: randomization is offered")
    check.tab.run("document.querySelector('[data-axis=lighting]').value = '3'; at('open').click()")
    check.until("about.axes.lighting === 3", "chosen: randomized")
    check.until("state.phase === 'ready'")
    check.picture("14-randomized")
    check.tab.run("at('task').value = 'open_drawer'; at('open').click()")
    check.until("about.task === 'open_drawer' && about.examples.some((text) => text.includes('open'))", "chosen: a task")
    check.tab.run("at('policy').value = 'nowhere'; at('open').click()")
    check.until("at('error').textContent.includes('nowhere')", "chosen: a wrong policy is refused")
    check.results["chosen: what it says"] = check.tab.value("at('error').textContent")
    check.tab.run("at('policy').value = about.policy; at('suite').value = 'tabletop-starter'; at('scene').value = 0")
    check.tab.run("at('suite').dispatchEvent(new Event('change')); at('open').click()")
    check.until("at('place').textContent.includes('tabletop-starter · scene 0') && about.task === ''", "chosen: back again")


def reported(check: Check, browser: Chromium, server: Server) -> None:
    """A report opens, and reaches nothing."""
    check.until("at('outputs').querySelector('a') !== null", "reports: listed")
    page = Check(browser.open(check.tab.value("at('outputs').querySelector('a').href")), check.arguments, results=check.results)
    page.until("document.title.startsWith('sandboxed')", "reports: opens in a sandbox")
    check.results["reports: what it reached"] = page.tab.value("document.title")
    page.tab.close()
    check.tab.activate()
    check.until("drives")


def watched(check: Check, browser: Chromium, server: Server) -> None:
    """A second tab watches, may stop, and takes over."""
    second = Check(browser.open(server.url), check.arguments, results=check.results)
    second.until("at('role').textContent === 'you watch' && state", "second tab: watches")
    second.picture("9-second-tab")
    second.tab.run("at('drive').click()")
    second.until("drives", "second tab: takes over")
    check.until("at('role').textContent === 'you watch'", "first tab: watches then")
    second.tab.close()
    check.tab.activate()
    check.until("drives", "first tab: drives again")


def killed(check: Check, browser: Chromium, server: Server) -> None:
    """The server is killed: the page says so, and is there again with it."""
    server.kill()
    check.until("!at('lost').hidden && at('phase').textContent === 'not connected'", "server killed: the page says so")
    check.picture("10-server-killed")
    server.start()
    check.until("at('lost').hidden && state.phase === 'ready' && drives", "server there again: the page too")


def looks(check: Check, browser: Chromium, server: Server) -> None:
    """Light, dark and as wide as a phone; nothing sticks out."""
    check.type(OTHER)
    check.tab.press("Enter")
    check.until("state.phase === 'moving'")
    check.picture("11-dark", dark=True)
    for name, dark in (("12-phone", False), ("13-phone-dark", True)):
        check.tab.resize(*PHONE)
        time.sleep(0.3)
        check.results[f"{name}: fits"] = check.tab.value("document.documentElement.scrollWidth <= innerWidth")
        check.picture(name, PHONE, dark)
    check.results["controls without a name"] = check.tab.value(NAMELESS)
    check.results["every control has a name"] = not check.results["controls without a name"]
    check.settled()


NAMELESS = """[...document.querySelectorAll('button, input, select, a')].filter((element) => element.checkVisibility() &&
  !(element.textContent.trim() || element.getAttribute('aria-label') || (element.labels && element.labels.length)))
  .map((element) => element.outerHTML.slice(0, 80))"""


def free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


PARTS: tuple[Callable[[Check, Chromium, Server], None], ...] = (
    typed, stopped, frozen, disturbed, unclear, spoke, hands_free, chosen, reported, watched, killed, looks,
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, description=__doc__)))
