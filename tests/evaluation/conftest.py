"""Makes the toy environment importable, here and in worker processes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from verbot.rollout.results import EpisodeResult

HERE = str(Path(__file__).parent)
VOID = {"meta", "link", "br", "rect", "line", "circle"}


@pytest.fixture(autouse=True)
def toy_world_on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PYTHONPATH", HERE)
    monkeypatch.syspath_prepend(HERE)
    yield
    sys.modules.pop("toy_world", None)


@pytest.fixture
def made() -> Callable[..., EpisodeResult]:
    """Makes a result by hand. By default it is a ten-step success with the named object."""

    def make(index: int = 0, outcome: str = "success", **fields: object) -> EpisodeResult:
        defaults: dict[str, object] = {
            "key": f"policy/go/test/{index}/goal0/canonical/seen/seed0",
            "agent": "policy",
            "task": "go",
            "index": index,
            "goal_index": 0,
            "instruction": "go to red",
            "goal": {"verb": "go", "object": "red"},
            "target_object": "red",
            "first_contact": "red",
            "outcome": outcome,
            "steps": 10,
            "final_error_m": 0.0,
        }
        return EpisodeResult(**(defaults | fields))  # type: ignore[arg-type]

    return make


class Page(HTMLParser):
    """Checks that tags close in order, and collects what a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.text: list[str] = []
        self.videos: list[str | None] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.sources += [
            value or "" for name, value in attributes if name in ("src", "href", "srcset", "data", "action", "poster")
        ]
        if tag == "figure":
            self.videos.append(dict(attributes).get("class"))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """The tag closes itself."""

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="session")
def read_page() -> Callable[[str], Page]:
    def read(html: str) -> Page:
        page = Page()
        page.feed(html)
        page.close()
        return page

    return read
