"""What `conftest.py` of this folder makes, for tests that need it at import: another folder's `conftest` may come first."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_spec = importlib.util.spec_from_file_location("models_conftest", Path(__file__).parent / "conftest.py")
assert _spec is not None and _spec.loader is not None
conftest = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(conftest)
BASE, NEEDED, SPEC, TEXTS, draw_batch = conftest.BASE, conftest.NEEDED, conftest.SPEC, conftest.TEXTS, conftest.draw_batch
SPEAKING, SPEAKS = conftest.SPEAKING, conftest.SPEAKS
