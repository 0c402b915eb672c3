"""Paths never leave their root, whatever names other people's data hold."""

from pathlib import Path

import pytest

from verbot.errors import DataError
from verbot.files import below


@pytest.mark.parametrize("name", ["../other/a.png", "/etc/passwd", "a/../../b", "nul\0byte", "out/a.png"])
def test_a_name_that_leads_out_of_the_root_is_refused(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "out").symlink_to(tmp_path)
    with pytest.raises(DataError, match="expected a path below this folder|a link leads out of this folder"):
        below(root, name)


def test_links_within_the_root_are_paths_below_it(tmp_path: Path) -> None:
    (tmp_path / "b").symlink_to(tmp_path)
    assert below(tmp_path, "b/c.png") == tmp_path / "b/c.png"
