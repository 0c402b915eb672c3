"""A process that plays episodes: ``python -m verbot.evaluation.worker``, started by `verbot.evaluation.pool`."""

from __future__ import annotations

from verbot.evaluation.errands import work
from verbot.processes import serve

if __name__ == "__main__":
    serve(work)
