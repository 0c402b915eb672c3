"""Every complete model can be built, learns, predicts, and in its paper's size has its paper's number of parameters."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from verbot.data import open_dataset
from verbot.envs import make_env
from verbot.errors import ConfigError
from verbot.models.encoders.vision.vit import ViT
from verbot.models.heads.flow_expert import FlowExpert
from verbot.models.network import VLANetwork
from verbot.models.tokens import HeadInput, Sizes, TokenGroup
from verbot.policy.opening import load_policy
from verbot.recipes.config import resolve
from verbot.recipes.overrides import override
from verbot.rollout.collect import collect
from verbot.spec import Component, Observation
from verbot.training import DaggerConfig, read_log, train_policy

TINY = (
    "act", "clip-clip", "film-policy", "goal-conditioned", "memory-vla", "multi-task", "octo", "oft", "pi0", "pi0-lm",
    "resnet-bert", "rt1", "rt2", "vit-vla",
)  # fmt: skip
# Published parameters, and what of them may be missing or too many; each recipe says why.
PAPERS = {
    "act-paper": (83.9e6, 0.05),
    "octo-base-paper": (93e6, 0.05),
    "octo-small-paper": (27e6, 0.07),
    "rt1-paper": (35e6, 0.05),
}
PALIGEMMA_TABLE = 257_152 * 2048  # the words of PaliGemma, which `pi0-paper` has no table for


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipes") / "demonstrations"
    collect("tabletop-starter", path, 4, workers=1, truth=True)
    return str(path)


def on_meta(name):
    run = resolve(name)
    with closing(make_env(run.collection.env, render_cameras=False, **run.collection.options)) as env:
        spec = env.robot_spec
    assert run.evaluation.options == run.collection.options
    config = run.training.network.fit(["pick up the red cube", "push the green ball to the left"])
    with torch.device("meta"):
        return VLANetwork(config, spec)


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", TINY)
def test_a_tiny_model_learns_and_predicts(name, demonstrations, tmp_path):
    """Its own recipe, but for budget and processes: four samples a step, the same network, losses and augmentation."""
    config = resolve(name).training
    settings = {
        "datasets": (demonstrations,), "steps": 3, "batch_size": 2 * config.network.sequence, "processes": 1, "warmup_steps": 1,
        "log_every": 1, "validation": {"every": 3, "batches": 1, "share": 0.25}, "dagger": DaggerConfig(),
    }  # fmt: skip
    config = override(config, settings)
    result = train_policy(config, tmp_path, progress=False)
    logged = [line["loss"] for line in read_log(tmp_path) if "loss" in line]
    assert len(logged) >= 3
    assert all(map(math.isfinite, logged))
    policy = load_policy(result.policy)
    assert policy.config.chunk == config.network.chunk
    episode = open_dataset(demonstrations)[0]
    images = {camera: episode.images(camera)[0] for camera in policy.spec.camera_names}
    observation = Observation(images, episode.states[0], episode.instruction)
    (chunk,) = policy.predict([observation])
    assert chunk.values.shape == (config.network.chunk, 7)
    low, high = (np.concatenate([np.array(getattr(c, end)) for c in policy.spec.action]) for end in ("low", "high"))
    assert (chunk.values >= low - 1e-6).all()
    assert (chunk.values <= high + 1e-6).all()
    # Its eyes, its words and its state reach the actions; what does not change predicts the same.
    black = {camera: np.zeros_like(image) for camera, image in images.items()}
    changes = {"images": black, "instruction": "push the green ball to the left", "state": episode.states[-1]}
    np.testing.assert_array_equal(policy.predict([observation])[0].values, chunk.values)
    for field, value in changes.items():
        changed = policy.predict([dataclasses.replace(observation, **{field: value})])[0].values
        assert (changed != chunk.values).any(), f"{field} changes nothing"
    if policy.config.goal:
        untold = dataclasses.replace(observation, instruction="")
        shown = dataclasses.replace(untold, goal_image=episode.images("front")[-1])
        assert np.abs(policy.predict([shown])[0].values - policy.predict([untold])[0].values).max() > 1e-7
    if chunk.memory is not None:  # the next prediction goes on from there
        later = dataclasses.replace(observation, time_s=config.network.stride / policy.spec.rate_hz)
        other = policy.predict([dataclasses.replace(observation, images=black)])[0].memory
        one, two = (policy.predict([dataclasses.replace(later, memory=each)])[0].values for each in (chunk.memory, other))
        assert one.shape == chunk.values.shape and (one != two).any(), "the past changes nothing"


@pytest.mark.parametrize("name", PAPERS)
def test_a_paper_size_has_the_published_number_of_parameters(name):
    published, tolerance = PAPERS[name]
    assert count(on_meta(name)) == pytest.approx(published, rel=tolerance)


def test_rt1_differs_from_the_published_size_by_what_it_says():
    """Without pointing and the pooling of words and tokens, and with their wider layers, it is RT-1's 35 M."""
    network = on_meta("rt1-paper")
    own = count(network.backbone.vision.point) + count(network.backbone.sentence) + count(network.head.pool)
    layer = 4 * 512 * 1024 + 512 * 512
    narrower = sum(layer - count(block) for block in network.backbone.fusion.blocks)
    assert count(network) - own + narrower == pytest.approx(35e6, rel=0.03)
    eyes = count(network.backbone.vision) - count(network.backbone.vision.point) + count(network.backbone.fusion.film)
    assert eyes == pytest.approx(16e6, rel=0.03)
    assert len(network.backbone.vision.tower.channels) == 26  # blocks, each followed by FiLM
    assert len(network.backbone.fusion.blocks) == 8
    assert count(network.backbone.fusion.blocks) + narrower == pytest.approx(19e6, rel=0.03)


def test_the_encoder_decoder_and_style_of_act_are_those_of_the_authors_code():
    network = on_meta("act-paper")
    assert count(network.backbone.vision.tower) == pytest.approx(11.2e6, rel=0.01)  # ResNet-18 without its classifier
    feed = 2 * 512 * 3200
    assert count(network.backbone.fusion.blocks) == pytest.approx(4 * (4 * 512**2 + feed), rel=0.05)
    assert count(network.head.encoder) == pytest.approx(4 * (4 * 512**2 + feed), rel=0.05)
    assert count(network.head.decoder) == pytest.approx(7 * (8 * 512**2 + feed), rel=0.05)


def test_pi0_is_as_large_as_paligemma_and_its_expert_but_for_the_table_of_words():
    expert = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 18}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256}
    model = {**expert, **heads, "hidden_size": 2048, "intermediate_size": 16_384, "vocab_size": 257_152}
    eyes = resolve("pi0-paper").training.network.vision.options["architecture"]
    with torch.device("meta"):
        gemma = transformers.GemmaModel(transformers.GemmaConfig(**model))
        acts = transformers.GemmaModel(transformers.GemmaConfig(**expert, **heads, vocab_size=1))
        siglip = transformers.SiglipVisionModel(
            transformers.SiglipVisionConfig(**{**eyes, "vision_use_head": False})
        )  # fmt: skip
    network = on_meta("pi0-paper")
    published = count(gemma) + count(acts) + count(siglip) + 1152 * 2048
    assert published == pytest.approx(3.3e9, rel=0.02)
    assert count(gemma.embed_tokens) == PALIGEMMA_TABLE
    assert count(network) + PALIGEMMA_TABLE == pytest.approx(published, rel=0.05)
    assert count(network.head.blocks) == pytest.approx(count(acts), rel=0.05)
    assert count(network.backbone.fusion.blocks) == pytest.approx(count(gemma) - PALIGEMMA_TABLE, rel=0.05)


def test_every_paper_size_computes_what_its_tiny_one_does():
    """The same parts in the same places, but for vision; a tiny one may have a path beside them (docs/decisions/0012)."""
    for name in (*PAPERS, "pi0-paper"):
        large = resolve(name).training.network
        small = resolve(name.split("-")[0]).training.network
        for part in ("fusion", "head", "goal", "memory"):
            assert getattr(large, part) is None or getattr(large, part).name == getattr(small, part).name, (name, part)


def test_a_stem_sees_before_it_is_asked():
    """Convolutions before the patches: questions of one image are answered as if each were the instruction."""
    sizes = Sizes(width=16, views=2, height=32, width_px=32, state=4, chunk=3, action=())
    torch.manual_seed(0)
    encoder = ViT(sizes, patch=8, depth=0, stem=[8, 12]).eval()
    images, mask = torch.randn(3, 2, 3, 32, 32), torch.ones(3, 2, dtype=torch.bool)
    sentences, asked, rows = torch.randn(3, 16), torch.randn(4, 16), torch.tensor([0, 2, 2, 1])
    groups, answers = encoder.encode_with_queries(images, mask, sentences, asked, rows)
    (alone, *_), (first, *_) = encoder(images[rows], mask[rows], asked), encoder(images, mask, sentences)
    expected = alone.points.unflatten(1, (2, -1))[:, :, :3].flatten(1, 2)
    assert torch.allclose(answers.points, expected, atol=1e-6)
    assert torch.equal(groups[0].tokens, first.tokens)
    assert encoder.grid == (4, 4)
    with pytest.raises(ConfigError, match="3 convolutions that halve the image do not divide patches of 4 pixels"):
        ViT(sizes, patch=4, stem=[8, 8, 8])


def test_the_expert_reads_all_that_is_there_and_nothing_that_is_masked():
    arm = Component("arm", "position_delta", ("x", "y"), "m", "base", (-1.0,) * 2, (1.0,) * 2)
    sizes = Sizes(width=16, views=1, height=32, width_px=32, state=4, chunk=3, action=(arm,))
    torch.manual_seed(0)
    head = FlowExpert(HeadInput(sizes, 16, 0), hidden=16).eval()
    tokens, mask = torch.randn(2, 5, 16), torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    before = head.predict(TokenGroup(tokens, mask, "fused"))
    tokens[:, 4] = torch.randn(2, 16)
    after = head.predict(TokenGroup(tokens, mask, "fused"))
    assert not torch.allclose(before[0], after[0])
    assert torch.equal(before[1], after[1])
    still = FlowExpert(HeadInput(sizes, 16, 0), hidden=16, steps=4)
    still.velocity = lambda x, time, condition: torch.full_like(x, 0.5)  # for a whole unit of time
    assert torch.allclose(still.predict(TokenGroup(tokens, mask, "fused")), torch.full((2, 3, 2), 0.5))


def test_the_benchmark_of_paper_sizes_runs_on_a_processor(monkeypatch, capsys, tmp_path):
    path = Path(__file__).resolve().parents[2] / "profiling" / "paper_sizes.py"
    spec = importlib.util.spec_from_file_location("paper_sizes", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "paper_sizes", module)
    spec.loader.exec_module(module)
    out = tmp_path / "figures.json"
    monkeypatch.setattr(
        sys, "argv", ["paper_sizes.py", "--sizes", "octo", "--device", "cpu", "--steps", "1", "--batch", "2", "--out", str(out)]
    )
    module.main()
    assert "| octo |" in capsys.readouterr().out
    assert '"training_samples_per_s"' in out.read_text()
