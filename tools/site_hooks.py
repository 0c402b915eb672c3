"""Hooks of MkDocs: links that leave ``docs/`` point at the repository, or become plain text where it has no address."""

from __future__ import annotations

import posixpath
import re
from typing import Any

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|mailto:|#)([^)\s]+)\)")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """The page with its outward links replaced; links within ``docs/`` stay for MkDocs to check."""
    folder = posixpath.dirname(page.file.src_uri)

    def replaced(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", folder, match[2]))
        if target.startswith("docs/"):
            return match[0]
        return f"[{match[1]}]({config.repo_url}/blob/main/{target})" if config.repo_url else match[1]

    return LINK.sub(replaced, markdown)
