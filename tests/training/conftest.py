"""A small dataset and configuration for every test of training."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from toys import toy_config, write_toy

from verbot.training import TrainConfig


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> str:
    return str(write_toy(tmp_path_factory.mktemp("data") / "toy"))


@pytest.fixture
def config(toy) -> TrainConfig:
    return toy_config(toy)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
