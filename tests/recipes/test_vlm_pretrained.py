"""The connections of `vlm-pretrained`, with a small language model in a folder of its own in place of SmolLM2."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from model_networks import TEXTS, batch_for, build, robot
from safetensors.torch import save_file

from verbot.errors import ConfigError
from verbot.models.network import VLANetwork
from verbot.models.trunks.architecture import decoder_config
from verbot.models.trunks.decoder import LanguageDecoder
from verbot.models.trunks.tiny import fitted_tokenizer
from verbot.recipes.config import resolve
from verbot.recipes.overrides import override

CONFIG = {
    "model_type": "llama", "vocab_size": 300, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 9,
    "num_attention_heads": 3, "num_key_value_heads": 1, "tie_word_embeddings": True, "eos_token_id": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> VLANetwork:
    folder = tmp_path_factory.mktemp("language-model")
    torch.manual_seed(0)
    decoder = LanguageDecoder(decoder_config(CONFIG))
    decoder.initialize()
    save_file({f"model.{name}": value for name, value in decoder.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text(fitted_tokenizer(TEXTS, 290))
    run = resolve("vlm-pretrained")
    trunk = dict(run.training.network.backbone.options["trunk"])
    own = {**trunk, "options": {**trunk["options"], "checkpoint": str(folder)}}
    training = override(run.training, {"backbone.trunk": own})
    return build(training.network, robot(run))


def test_everything_but_the_language_model_learns(network: VLANetwork) -> None:
    batch = batch_for(network)
    network.zero_grad()
    network.train()
    sum(network.losses(batch, torch.Generator().manual_seed(0)).values()).backward()  # type: ignore[union-attr]
    fusion = network.backbone.fusion
    assert all(p.grad is not None and p.grad.any() for p in fusion.parameters())
    assert {name.split(".")[0] for name, _ in fusion.named_parameters()} == {"projectors", "readouts"}
    assert all(p.grad.any() for p in network.head.parameters() if p.requires_grad)
    assert all(p.grad.any() for p in network.backbone.state.parameters())
    trunk = network.backbone.trunk
    assert (
        trunk.depth == 8 and not list(trunk.parameters()) and not [name for name in network.state_dict() if "self_attn" in name]
    )


def test_actions_follow_words_images_and_state_through_the_language_model(network: VLANetwork) -> None:
    network.eval()
    assert network.backbone.keeps_sentences
    batch = batch_for(network)
    others = {
        "text": network.backbone.prepare(list(reversed(TEXTS))),
        "images": 255 - batch.images,
        "state": batch.state + 1,
    }
    with torch.no_grad():
        first = network.predict(batch).actions
        for name, value in others.items():
            other = network.predict(dataclasses.replace(batch, **{name: value})).actions
            assert (other - first).abs().max() > 1e-4, name
        kept = [network.backbone._sentences.read(network.backbone.trunk, batch.text.values, batch.text.mask) for _ in range(2)]
        assert torch.equal(kept[0].hidden, kept[1].hidden)


def test_without_the_model_one_line_says_how_to_fetch_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERBOT_MODELS", str(tmp_path))
    run = resolve("vlm-pretrained")
    with pytest.raises(ConfigError, match="verbot models fetch smollm2-135m"):
        build(run.training.network, robot(run))
