"""Lines in the log that clients cause: one a minute at most, with how many there were."""

from __future__ import annotations

import logging
import time

INTERVAL_S = 60.0


class Notes:
    """Warnings of one kind of source. The first is logged at once; later ones are counted until the next may be."""

    def __init__(self, logger: logging.Logger):
        self._logger, self._count, self._next = logger, 0, 0.0

    def add(self, text: str) -> None:
        self._count += 1
        if time.monotonic() >= self._next:
            more = f" ({self._count - 1} more since the last line)" if self._count > 1 else ""
            self._logger.warning("%s%s", text[:300], more)
            self._count, self._next = 0, time.monotonic() + INTERVAL_S
