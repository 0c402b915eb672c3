"""A process that plays episodes: ``python -m verbot.rollout.worker_main``, started by `verbot.rollout.pool`."""

from __future__ import annotations

from verbot.parallel.workers import serve
from verbot.rollout.worker import work

if __name__ == "__main__":
    serve(work)
