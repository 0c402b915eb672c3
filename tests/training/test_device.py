"""Where a run computes. No GPU is needed: what is not on the CPU is checked on torch's meta device, which has no values."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from test_loop import losses, same
from toys import SMALL, toy_config

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from one_device import OneDevice
from verbot.errors import ConfigError
from verbot.models.network import Part
from verbot.training import AugmentConfig, checkpoint, train_policy
from verbot.training.distributed import device, process_group
from verbot.training.imitation import loop
from verbot.training.imitation.augment import jitter_colors, torch_numbers


def gpus(monkeypatch, count: int, nccl: bool = True) -> None:
    """As if the machine had so many."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: nccl)


def test_a_device_is_found_by_name(monkeypatch):
    gpus(monkeypatch, 2)
    names = ("cpu", "cuda", "cuda:1", "auto")
    assert [str(device.find_device(name)) for name in names] == ["cpu", "cuda:0", "cuda:1", "cuda:0"]
    assert [str(device.find_device("auto", rank, 2)) for rank in range(2)] == ["cuda:0", "cuda:1"]
    assert [str(device.find_device("cpu", rank, 4)) for rank in range(4)] == ["cpu"] * 4
    gpus(monkeypatch, 0)
    assert str(device.find_device("auto", 1, 2)) == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert str(device.find_device("auto")) == "mps"


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("cuda:2", 1, r"there is no device 'cuda:2' here; there are cpu, cuda:0, cuda:1"),
        ("mps", 1, r"there is no device 'mps' here; there are cpu, cuda:0, cuda:1"),
        ("cuda", 3, r"3 processes need a device each, and of 'cuda' there are 2 here: say processes=2"),
        ("cuda:1", 2, r"2 processes need a device each, and 'cuda:1' is one: say device='cuda', or processes=1"),
    ],
)
def test_a_device_that_is_not_here_is_said_so(monkeypatch, name, size, message):
    gpus(monkeypatch, 2)
    with pytest.raises(ConfigError, match=message):
        device.find_device(name, 0, size)


def test_gpus_without_nccl_do_not_share_a_batch(monkeypatch):
    gpus(monkeypatch, 2, nccl=False)
    with pytest.raises(ConfigError, match=r"2 processes on GPUs need a torch with nccl, and torch .* has none: say processes=1"):
        device.find_device("cuda", 0, 2)


def test_a_missing_device_is_found_missing_before_anything_is_decoded(toy, tmp_path, monkeypatch):
    gpus(monkeypatch, 0)
    monkeypatch.setattr(loop.TrainingData, "prepare", lambda *args: pytest.fail("decoded first"))
    with pytest.raises(ConfigError, match=r"there is no device 'cuda' here; there are cpu$"):
        train_policy(toy_config(toy, device="cuda"), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cpu:0", "CUDA", ""])
def test_what_is_no_device_is_refused(toy, name):
    with pytest.raises(ConfigError, match=f"device is '{name}'; expected 'cpu', 'cuda', 'cuda:N', 'mps' or 'auto'"):
        toy_config(toy, device=name)


def test_another_device_is_another_run(toy, tmp_path, monkeypatch):
    """Its sums are rounded otherwise, so that it would not continue to the bit."""
    train_policy(toy_config(toy), tmp_path, progress=False, stop_at=2)
    gpus(monkeypatch, 1)
    with pytest.raises(ConfigError, match="another parallelism.device"):
        train_policy(toy_config(toy, device="cuda"), tmp_path, progress=False)


def test_colors_are_the_same_wherever_they_are_computed():
    config = AugmentConfig()
    images = torch.randint(0, 256, (4, 1, 2, 3, 8, 8), dtype=torch.uint8)
    with OneDevice():
        there = jitter_colors(images.to("meta"), config, torch_numbers(1))
    assert there.device.type == "meta" and there.shape == images.shape


def test_factors_of_the_rate_stay_on_parameters_that_move():
    network = torch.nn.Linear(2, 2)
    network.weight.lr_scale = 0.1
    device.to_device(network, torch.device("meta"))
    assert (network.weight.device.type, network.weight.lr_scale, hasattr(network.bias, "lr_scale")) == ("meta", 0.1, False)


HEADS = ["regression", "flow", "cvae", "bins"]


@pytest.mark.parametrize("changes", [*({"head": Part(name)} for name in HEADS), {"memory": Part("recurrent"), "sequence": 2},
                                     {"goal": Part("goal_conv"), "history": 2}])  # fmt: skip
def test_a_run_elsewhere_meets_no_tensor_of_the_cpu(toy, tmp_path, monkeypatch, changes):
    """The whole loop, from the batch to the checkpoint: every tensor of two steps and a validation is where the network is."""
    monkeypatch.setattr(loop, "find_device", lambda *args: torch.device("meta"))
    kinds, kept = set(), []
    monkeypatch.setattr(torch, "autocast", lambda kind, *args, **kwargs: kinds.add(kind) or contextlib.nullcontext())
    monkeypatch.setattr(checkpoint, "save", lambda folder, now, tensors: kept.append(dict(tensors)))
    augment = AugmentConfig(goal_image=0.5 if "goal" in changes else 0.0, grounding_queries=2, camera_dropout=0.5)
    config = toy_config(
        toy, network=dataclasses.replace(SMALL, **changes), augment=augment, keep="best", batch_size=8, bf16=True, steps=3
    )
    with OneDevice():
        result = train_policy(config, tmp_path, progress=False, stop_at=2)
    assert result.steps == 2 and result.skipped == 0 and kinds == {"meta"}
    assert {"weights", "average", "first_moment", "second_moment", "best"} <= set(kept[-1])
    assert {name for name, value in kept[-1].items() if value.device.type == "cpu"} == {"updates"}


def test_a_run_on_the_cpu_by_any_name_is_the_same_run(toy, tmp_path, monkeypatch):
    gpus(monkeypatch, 0)
    for name in ("cpu", "auto"):
        train_policy(toy_config(toy, device=name), tmp_path / name, progress=False)
    assert same(tmp_path / "cpu", tmp_path / "auto")


def test_members_that_average_by_a_collective_learn_the_same(toy, tmp_path, monkeypatch):
    """Gloo on the CPU stands for nccl on GPUs: of two numbers there is but one sum."""
    train_policy(toy_config(toy, processes=2), tmp_path / "shared", progress=False)
    monkeypatch.setattr(process_group, "COLLECTIVE", {"cpu": "gloo"})
    monkeypatch.setattr(process_group.ProcessGroup, "_sum", lambda *args: pytest.fail("went through shared memory"))
    train_policy(toy_config(toy, processes=2), tmp_path / "collective", progress=False)
    assert same(tmp_path / "shared", tmp_path / "collective")
    assert losses(tmp_path / "shared") == losses(tmp_path / "collective")
    assert not torch.distributed.is_initialized()
