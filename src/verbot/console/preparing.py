"""Content that takes time to make, made in threads: a browser asks again until it is there."""

from __future__ import annotations

import threading
from collections.abc import Callable

from verbot.errors import VerbotError

Content = tuple[bytes, str]  # and its media type
MOST = 4  # made, or waiting to be fetched, at once


class Preparing:
    """Keeps the server's thread free for stops. Each result is given once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[str, Content | threading.Thread | None] = {}

    def get(self, key: str, make: Callable[[], Content]) -> tuple[bool, Content | None]:
        """(whether it is made, the result); None for an error of `make`. The first call begins it; old results are dropped."""
        with self._lock:
            found = self._made.get(key)
            if key in self._made and not isinstance(found, threading.Thread):
                del self._made[key]
                return True, found
            if found is None and self._has_room():
                thread = threading.Thread(target=self._work, args=(key, make), name="console-content", daemon=True)
                self._made[key] = thread
                thread.start()
        return False, None

    def _has_room(self) -> bool:
        """Drop the oldest result that nobody fetched, if there are many."""
        if len(self._made) < MOST:
            return True
        waiting = next((key for key, found in self._made.items() if not isinstance(found, threading.Thread)), None)
        if waiting is not None:
            del self._made[waiting]
        return waiting is not None

    def _work(self, key: str, make: Callable[[], Content]) -> None:
        content = None
        try:
            content = make()
        except (VerbotError, OSError):  # nothing of that name is there, or it cannot be shown
            pass
        finally:
            with self._lock:
                self._made[key] = content
