"""The console over its websocket, as a page uses it: one drives, others watch, all can stop; and what nobody gets."""

from __future__ import annotations

import http
import json
import re
import threading
import time
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from pages import ConsolePage, console_thread
from websockets.exceptions import InvalidStatus

from verbot.console import ConsoleConfig, ConsoleSetup, server
from verbot.console.messages import COMMANDS, OTHERS
from verbot.console.streams import heat_png, pixels_of
from verbot.errors import ConfigError
from verbot.remote.heartbeat import Heartbeat
from verbot.workflows.console import ConsoleOptions, console_choices, read_token

SETUP = ConsoleSetup("expert", "navigation")


def get(url, **headers):
    try:
        while True:
            with urlopen(Request(url, headers=headers), timeout=10) as answer:
                if answer.status != http.HTTPStatus.ACCEPTED:  # otherwise it is being made
                    return answer.status, answer.read(), dict(answer.headers)
            time.sleep(0.01)
    except HTTPError as error:
        with error:
            return error.code, error.read(), dict(error.headers)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outputs")
    (folder / "run").mkdir()
    (folder / "run" / "report.html").write_text("<p>a report")
    (folder / "secret.txt").write_text("secret")
    return folder


@pytest.fixture(scope="module")
def console(outputs):
    """A console with the navigation's expert, whose clock the tests may freeze."""
    choices = console_choices(SETUP, ConsoleOptions(outputs=outputs, speech=False))
    with console_thread(choices, SETUP, pace=lambda served, rate_hz: time.sleep(0.002)) as running:
        yield running


def test_a_typed_instruction_is_understood_obeyed_and_kept(console):
    with ConsolePage(console.url) as page:
        page.ready()
        assert page.about["suite"] == "navigation" and page.about["examples"] and page.images["top"].startswith("data:image/jpeg")
        text = page.about["examples"][0]
        page.send(type="preview", text=text)
        page.until(lambda page: page.previews)
        assert page.previews[0]["goal"] and not page.previews[0]["asks"]
        page.obey(text)
        page.until(lambda page: page.state["phase"] == "ended")
        assert page.state["outcome"] == "success" and page.state["judged"] and page.state["instruction"] == text
        page.until(lambda page: page.history and page.history[0]["video"])
        status, content, headers = get(f"{console.url}history/{page.history[0]['number']}.mp4")
        assert status == 200 and headers["Content-Type"] == "video/mp4" and content[4:8] == b"ftyp"
        assert get(f"{console.url}history/999.mp4")[0] == get(f"{console.url}history/x.mp4")[0] == 404


def test_a_stop_comes_from_any_page_and_holds(console):
    with ConsolePage(console.url) as page, ConsolePage(console.url) as second:
        page.ready()
        second.until(lambda page: page.drives is not None and page.state)
        assert page.drives and not second.drives
        second.obey("go home")
        second.until(lambda page: page.errors)
        assert second.errors == ["this page only watches; take over to drive"]
        page.send(type="again")
        page.until(lambda page: page.state["phase"] == "ready")
        # The stop is sent right behind the instruction: whichever the loop sees first, nothing moves afterwards.
        page.obey(page.about["examples"][0])
        second.send(type="stop")
        page.until(lambda page: page.stops)
        page.until(lambda page: page.state["phase"] in ("ready", "stopped"))
        for _ in range(5):
            page.read()
        assert page.state["phase"] in ("ready", "stopped")


def test_another_page_takes_over_and_the_first_drives_again_when_it_leaves(console):
    with ConsolePage(console.url) as page:
        page.ready()
        with ConsolePage(console.url) as second:
            second.until(lambda page: page.drives is not None)
            second.send(type="drive")
            second.until(lambda page: page.drives)
            page.until(lambda page: page.drives is False)
        page.until(lambda page: page.drives)


def test_a_page_that_freezes_or_leaves_holds_the_robot(monkeypatch):
    """With a clock of its own: a busy machine freezes nothing."""
    now = [0.0]
    monkeypatch.setattr(server, "Heartbeat", lambda alive_s: Heartbeat(lambda: now[0], alive_s))
    choices, moving = console_choices(SETUP, ConsoleOptions(speech=False)), threading.Event()

    def pace(served, rate_hz):
        if moving.is_set():
            now[0] += 0.05  # heartbeats come no more
        time.sleep(0.002)

    with console_thread(choices, SETUP, ConsoleConfig(picture_pixels=0), pace=pace) as running, ConsolePage(running.url) as page:
        page.ready()
        page.obey(page.about["examples"][0])
        page.is_alive = False
        page.until(lambda page: page.state["phase"] == "moving")
        moving.set()
        page.until(lambda page: page.state["phase"] == "stopped")
        assert "gone, hidden or frozen" in page.state["message"]


def test_a_page_that_does_not_confirm_gets_no_more_frames(console):
    with ConsolePage(console.url) as page:
        page.confirms = False
        page.ready()
        frames = 0
        while frames < server.AHEAD + 1:
            try:
                message = json.loads(page.socket.recv(timeout=0.4))
            except TimeoutError:
                break
            frames += message["type"] == "state"
        assert frames < server.AHEAD


def test_choosing_another_scene_and_a_wrong_one(console):
    with ConsolePage(console.url) as page:
        page.ready()
        choice = {"type": "choose", "policy": "expert", "suite": "navigation", "scene": 3, "task": "", "axes": {}}
        page.send(**choice)
        page.until(lambda page: page.about["scene"] == 3)
        assert page.about["known_axes"] == []
        page.send(**{**choice, "suite": "nowhere"})
        page.until(lambda page: page.errors)
        assert "nowhere" in page.errors[0] and page.about["suite"] == "navigation"
        page.send(**{**choice, "axes": {"lighting": 1}})
        page.until(lambda page: len(page.errors) == 2)
        assert "no randomization axis 'lighting'" in page.errors[1] and page.about["axes"] == {}
        page.send(**{**choice, "scene": 0})
        page.until(lambda page: page.about["scene"] == 0)


def test_the_page_comes_whole_from_the_server_and_from_nowhere_else(console):
    status, html, headers = get(console.url)
    html = html.decode()
    assert status == 200 and "default-src 'none'" in headers["Content-Security-Policy"]
    names = re.findall(r'(?:src|href)="([\w.]+)"', html)
    assert {"page.css", "page.js", "panels.js", "speech.js"} <= set(names)
    for name in [*names, "microphone.js"]:
        status, text, headers = get(console.url + name)
        assert status == 200 and not headers["Content-Type"].startswith("text/html")
        html += text.decode()
    assert not re.search(r"https?://|//[a-z]+\.", re.sub(r"wss?://", "", html))
    assert not re.search(r"\beval\(|innerHTML|document\.write|new Function|style=|<script>", html)
    sent = set(re.findall(r'send\(\{type: "(\w+)"', html))
    assert sent == {*COMMANDS, *OTHERS}, "the page sends what the server knows, and all of it"


@pytest.mark.parametrize(
    "path", ["..%2Fsecret.txt", "../server.py", "page/../server.py", "nothing", "history/", "outputs/secret.txt"]
)
def test_nothing_else_is_served(console, path):
    assert get(console.url + path)[0] in (403, 404)


def test_only_reports_below_the_folder_are_served_and_in_a_sandbox(console):
    with ConsolePage(console.url) as page:
        base = console.url.rpartition("/")[0].rpartition("/")[0] + page.hello["outputs"]
    assert console.url.split("/")[3] not in base, "a report does not learn the address of the page"
    listed = json.loads(get(console.url + "outputs.json")[1])
    assert [(entry["kind"], entry["path"]) for entry in listed] == [("report", "run/report.html")]
    status, content, headers = get(base + "run/report.html")
    assert (status, content) == (200, b"<p>a report") and headers["Content-Security-Policy"].startswith("sandbox allow-scripts;")
    for path in ("secret.txt", "../report.html", "run/../secret.txt", "/etc/passwd", "run/dataset.html", "%2e%2e/report.html"):
        assert get(base + path)[0] == http.HTTPStatus.NOT_FOUND


def test_what_takes_time_to_make_holds_up_no_stop(console):
    """A report on a slow disk, for instance: it is made in another thread."""
    from verbot.console.preparing import MOST, Preparing

    preparing, free = Preparing(), threading.Event()

    def slow():
        free.wait(10)
        return b"made", "text/plain"

    for number in range(MOST + 2):
        assert preparing.get(str(number), slow) == (False, None)
    free.set()
    found = (False, None)
    while not found[0]:
        found = preparing.get("0", slow)
    assert found == (True, (b"made", "text/plain"))


def test_strangers_are_refused(console):
    base = console.url.rpartition("/")[0].rpartition("/")[0]
    assert get(f"{base}/wrong/")[0] == 403 and get(console.url, Host="elsewhere.example")[0] == 403
    for origin in ("https://example.com", "null"):
        with pytest.raises(InvalidStatus):
            ConsolePage(console.url, origin)


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ({"type": "obey", "text": "", "anyway": False, "search": False}, "one line"),
        ({"type": "obey", "text": "a" * 401, "anyway": False, "search": False}, "one line"),
        ({"type": "obey", "text": "go"}, "exactly the fields"),
        ({"type": "move", "camera": "front", "start": [0, 2], "end": [0, 0]}, "from 0 to 1"),
        ({"type": "choose", "policy": "a", "suite": "b", "scene": -1, "task": "", "axes": {}}, "number of a scene"),
        ({"type": "choose", "policy": "a", "suite": "b", "scene": 0, "task": "", "axes": {"x": 4}}, "strengths from 0 to 3"),
        ({"type": "talk", "on": True}, "pip install"),
        ({"type": "run"}, "whose type is one of"),
    ],
)
def test_a_wrong_message_is_answered_and_the_page_lives(console, message, problem):
    with ConsolePage(console.url) as page:
        page.ready()
        page.send(**message)
        page.until(lambda page: page.errors)
        assert problem in page.errors[0]
        page.send(type="again")
        page.until(lambda page: page.state["phase"] == "ready")


def test_heatmaps_lie_transparent_over_the_picture():
    maps = np.zeros((3, 8, 8), np.float32)
    maps[0, 2, 3] = 1.0
    picture = pixels_of(heat_png(maps))
    assert picture[2, 3].tolist() == [255, 38, 98] and picture[0, 0].tolist() == [0, 0, 0]


def test_a_token_file_is_checked(tmp_path):
    file = tmp_path / "token"
    file.write_text("abcdefghijklmnop-_123\n")
    assert read_token(file) == "abcdefghijklmnop-_123" and read_token(None) is None
    for text in ("short", "with a space in the middle", "sixteen/slashes/x"):
        file.write_text(text)
        with pytest.raises(ConfigError, match="one token of at least 16"):
            read_token(file)
