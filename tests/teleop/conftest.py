"""Lets the tests of this folder share `scripted`."""

import functools
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def stopped_clock(monkeypatch):
    """Sessions in lockstep have no clock: a page that was heard once stays alive, however slow this machine is."""
    from verbot.teleop import annotate, run
    from verbot.teleop.inputs import Inputs

    for module in (annotate, run):
        monkeypatch.setattr(module, "Inputs", functools.partial(Inputs, clock=lambda: 0.0))
