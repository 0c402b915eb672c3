"""Tests of published policies share their tiny checkpoints."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
