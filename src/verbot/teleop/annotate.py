"""Shows recorded episodes in a page and stores new instructions for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verbot.data import annotating, open_dataset
from verbot.data.storage.annotate import NOTE, Annotator
from verbot.spec import UInt8Array
from verbot.teleop.inputs import SAY, Command, Given, Inputs
from verbot.teleop.run import Pace, RealTime, greeting
from verbot.teleop.server import PageServer

SPEEDS = {"fine": 0.25, "normal": 1.0, "fast": 3.0}  # frames per control step


@dataclass(frozen=True)
class AnnotateResult:
    """The outcome of annotation: `annotated` of the `episodes` at `path` have other instructions than when recorded."""

    path: str
    episodes: int
    annotated: int


class Viewer:
    """Plays the episodes of the dataset at `root`, each in a loop. `annotator` stores each sentence immediately."""

    def __init__(self, root: Path, annotator: Annotator, episode: int = 0):
        self._root, self._annotator = root, annotator
        self.done, self._paused, self._speed, self.message = False, False, "normal", "T: type a sentence."
        self._position = 0.0
        self._open(episode)

    def tick(self, given: Given) -> None:
        for command in given.commands:
            self._execute(command)
        if not self._paused:
            self._position = (self._position + SPEEDS[self._speed]) % len(self._episode)

    def view(self) -> dict[str, Any]:
        """The state that the page shows besides the images; JSON."""
        first, *others = self._episode.instructions
        return {
            "phase": "paused" if self._paused else "playing",
            "instruction": first,
            "added": others,
            "success": self._episode.extras.get("success") is True,
            "speed": self._speed,
            "seconds": round(int(self._position) / self._dataset.spec.rate_hz, 1),
            "episode": self._episode.index,
            "episodes": len(self._dataset),
            "annotated": self.annotated,
            "message": self.message,
        }

    def pictures(self) -> Mapping[str, UInt8Array]:
        return {name: frames[int(self._position)] for name, frames in self._frames.items()}

    def _open(self, number: int) -> None:
        self._dataset = open_dataset(self._root)
        self.annotated = sum(NOTE in episode.extras for episode in self._dataset)
        self._episode = self._dataset[number % len(self._dataset)]
        self._frames = {name: self._episode.images(name) for name in self._dataset.camera_names}
        self._position = 0.0

    def _execute(self, command: Command) -> None:
        if command.name == SAY:
            known = self._episode.instructions if command.add else ()
            self._annotator.set(self._episode.index, [*known, command.text])
            self._open(self._episode.index)
            self.message = "Stored."
        elif command.name in ("next", "retake"):
            self._open(self._episode.index + (1 if command.name == "next" else -1))
            self.message = ""
        elif command.name == "gripper":
            self._paused = not self._paused
        elif command.name == "speed":
            names = list(SPEEDS)
            self._speed = names[(names.index(self._speed) + 1) % len(names)]
        elif command.name == "quit":
            self.done = True


def annotate_in_page(
    path: str | Path,
    out: str | Path | None = None,
    episode: int = 0,
    host: str = "127.0.0.1",
    port: int = 0,
    pace: Pace | None = None,
    opened: Callable[[PageServer], None] = lambda page: print(f"open {page.url} (and keep the address to yourself)"),
) -> AnnotateResult:
    """Show the episodes of the dataset at `path`, or of a copy of it at `out`, in a page, and store new instructions.

    Every sentence is stored immediately and survives a crash. Returns when the user quits.

    Args:
        episode: the first episode to show.
        pace: waits for the next control step; by default in real time, at the robot's rate.
        opened: called with the page once, before the first frame.

    Raises:
        DataError: no such dataset or episode, or one that cannot be changed in place.
        ConfigError: the page cannot be served.
    """
    open_dataset(path)[episode]
    root = Path(path if out is None else out)
    with annotating(path, out) as annotator:
        spec, inputs = open_dataset(root).spec, Inputs(gamepad=False)
        viewer = Viewer(root, annotator, episode)
        with PageServer(inputs, greeting(spec, "annotate", False), host, port) as page:
            opened(page)
            pace = pace or RealTime(spec.rate_hz)
            while not viewer.done:
                if page.connected:
                    page.show(viewer.view(), viewer.pictures())
                    pace(page)
                    viewer.tick(inputs.take())
                else:
                    time.sleep(0.02)
        return AnnotateResult(str(root), len(open_dataset(root)), viewer.annotated)
