"""Language trunks: they compute what published models compute, for every mask, with and without a cache."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from networks import SPEC
from published_weights import CLASSES, LAYERS, TEXTS, WIDTH, architecture, language_weights, write_checkpoint
from torch import Tensor, nn

from verbot.errors import ConfigError, CorruptFileError
from verbot.models.network import NetworkConfig
from verbot.models.registries import Part, trunks
from verbot.models.trunks.architecture import DecoderConfig, decoder_config
from verbot.models.trunks.base import LanguageTrunk, TextTokenizer, TrunkOutput
from verbot.models.trunks.decoder import GroupedAttention, rotary
from verbot.models.trunks.tiny import Tiny
from verbot.policy.policy import VLAPolicy
from verbot.spec import Observation
from verbot.statistics import Statistics
from verbot.training.imitation.recompute import recomputed

KINDS = tuple(CLASSES)
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip


def causal(rows: int, n: int) -> Tensor:
    return torch.ones(rows, n, n, dtype=torch.bool).tril()


def whole(trunk: LanguageTrunk, ids: Tensor, allowed: Tensor | None = None) -> TrunkOutput:
    rows, n = ids.shape
    return trunk(trunk.embed(ids), causal(rows, n) if allowed is None else allowed, torch.arange(n).expand(rows, n))


def ids_of(rows: int = 2, n: int = 7) -> Tensor:
    return torch.randint(0, 270, (rows, n), generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    torch.manual_seed(0)
    return trunks.build("tiny", **Tiny.fit({"width": 32, "layers": 4, "tokens": 300, "reserved": 20}, TEXTS)).requires_grad_(
        False
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("models")
    return {kind: write_checkpoint(base / kind, architecture(kind), language_weights(kind)) for kind in KINDS}


def published(kind: str, **changes):
    """The model of transformers with the same weights."""
    import transformers

    model_class = getattr(transformers, CLASSES[kind])
    config = model_class.config_class.from_dict(architecture(kind, **changes))
    model = model_class(config).eval()
    weights = language_weights(kind)
    tied = {} if "lm_head.weight" in weights else {"lm_head.weight": weights["model.embed_tokens.weight"]}
    model.load_state_dict({**weights, **tied}, strict=True)
    return model


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_computes_what_transformers_computes(folders, kind):
    trunk = trunks.build("hf", checkpoint=str(folders[kind]), mode="frozen")
    expected = published(kind)(input_ids=ids_of(), output_hidden_states=True)
    output = whole(trunk, ids_of())
    assert (trunk.width, trunk.depth) == (WIDTH, LAYERS)
    torch.testing.assert_close(trunk.logits(output.hidden), expected.logits, atol=1e-5, rtol=1e-5)
    for layer, hidden in zip(output.layers, expected.hidden_states, strict=False):
        torch.testing.assert_close(layer, hidden, atol=1e-5, rtol=1e-5)
    assert expected.logits.std() > 0.1


@torch.no_grad()
def test_rotation_of_llama_3(folders, tmp_path):
    changes = {"rope_scaling": LLAMA3, "max_position_embeddings": 512}
    folder = write_checkpoint(tmp_path, architecture("llama", **changes), language_weights("llama"))
    ids = ids_of(1, 90)
    got = whole(trunks.build("hf", checkpoint=str(folder), mode="frozen"), ids).hidden
    model = published("llama", **changes)
    torch.testing.assert_close(got, model.model(input_ids=ids).last_hidden_state, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(
        got, whole(trunks.build("hf", checkpoint=str(folders["llama"]), mode="frozen"), ids).hidden, atol=1e-2
    )


@torch.no_grad()
def test_first_layers(folders):
    trunk = trunks.build("hf", checkpoint=str(folders["llama"]), mode="frozen", depth=2)
    model = published("llama")
    inner = model(input_ids=ids_of(), output_hidden_states=True).hidden_states[2]
    torch.testing.assert_close(whole(trunk, ids_of()).hidden, model.model.norm(inner), atol=1e-5, rtol=1e-5)
    with pytest.raises(ConfigError, match="3 layers; the first 4 are not possible"):
        trunks.build("hf", checkpoint=str(folders["llama"]), mode="frozen", depth=4)


def test_cached_decoding_is_the_full_pass(tiny):
    ids, n = ids_of(2, 9), 9
    full = whole(tiny, ids)
    x, positions, cache, parts = tiny.embed(ids), torch.arange(n).expand(2, n), None, []
    for start, end in ((0, 4), (4, 5), (5, 9)):
        output = tiny(x[:, start:end], causal(2, n)[:, start:end, :end], positions[:, start:end], cache)
        parts.append(output.hidden)
        assert output.cache.length == end
        assert cache is None or cache.length == start  # it is not changed in place
        cache = output.cache
    torch.testing.assert_close(torch.cat(parts, 1), full.hidden, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(cache.keys[-1], full.cache.keys[-1], atol=1e-5, rtol=1e-5)
    swapped = cache.select(torch.tensor([1, 0, 1]))
    assert torch.equal(swapped.values[0][2], cache.values[0][1])
    assert cache.append(swapped.select(slice(0, 2))).length == 18


def test_right_padding_changes_nothing(tiny):
    ids = ids_of(2, 8)
    mask = torch.arange(8) < torch.tensor([[5], [8]])
    allowed = causal(2, 8) & mask.unsqueeze(1) & mask.unsqueeze(2)
    hidden = whole(tiny, ids, allowed).hidden
    assert hidden.isfinite().all()
    torch.testing.assert_close(hidden[:1, :5], whole(tiny, ids[:1, :5]).hidden, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(hidden[1:], whole(tiny, ids[1:]).hidden, atol=1e-5, rtol=1e-5)


def test_attention_is_that_of_the_formula():
    torch.manual_seed(1)
    config = DecoderConfig(0, 12, 1, 4, 2, 6, 8, theta=100.0)
    attention, x, n = GroupedAttention(config).requires_grad_(False), torch.randn(1, 6, 12), 6
    places = torch.tensor([[0, 1, 2, 5, 6, 7]])
    allowed = torch.ones(1, n, n).tril().bool()
    allowed[:, :3, :3] = True  # a bidirectional prefix
    allowed[:, 4] = False  # and a token that may attend to nothing
    some = allowed.any(-1, keepdim=True)
    got, _ = attention(x, (allowed | ~some).unsqueeze(1), some, rotary(places, 6, 100.0, None, x.dtype), None)

    def turned(y: Tensor) -> Tensor:  # coordinate i and i + 3 are a complex number, which turns by position · θ^(-i/3)
        angle = places[0][:, None] * 100.0 ** (-torch.arange(3) / 3)
        z = torch.complex(y[:, :3], y[:, 3:]) * torch.polar(torch.ones_like(angle), angle)
        return torch.cat([z.real, z.imag], 1)

    heads = []
    for head in range(4):
        q = turned(x[0] @ attention.q_proj.weight[6 * head : 6 * head + 6].T)
        k, v = (x[0] @ part.weight[6 * (head // 2) : 6 * (head // 2) + 6].T for part in (attention.k_proj, attention.v_proj))
        scores = (q @ turned(k).T / math.sqrt(6)).exp() * allowed[0]
        heads.append(scores / scores.sum(1, keepdim=True).clamp(min=1e-30) @ v)
    expected = torch.cat(heads, 1) @ attention.o_proj.weight.T
    torch.testing.assert_close(got[0], expected, atol=1e-5, rtol=1e-5)
    assert not got[0, 4].any()


def test_checkpointing_gives_the_same_gradients():
    options = Tiny.fit({"width": 16, "layers": 2, "tokens": 259, "reserved": 0}, TEXTS)
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(2)
        trunk = trunks.build("tiny", **options, checkpointing=checkpointing)
        trunk.logits(whole(trunk, ids_of(n=5) % 259).hidden).square().mean().backward()
        gradients.append([p.grad for p in trunk.parameters()])
    assert all(a is not None and torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_vocabulary_of_tiny_is_fitted_and_saved():
    options = Tiny.fit({"tokens": 300, "reserved": 20}, TEXTS)
    assert options == json.loads(json.dumps(Tiny.fit({"tokens": 300, "reserved": 20}, TEXTS[::-1] * 2)))
    tokenizer = trunks.build("tiny", **options, width=16, layers=1).tokenizer
    assert isinstance(tokenizer, TextTokenizer)
    for text in ("pick up the red cube", " the  <end> \n", "größer 杯子 \U0001f916", ""):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert not {tokenizer.start, tokenizer.end, tokenizer.pad} & {*ids}  # "<end>" in a text is no end
    assert len(tokenizer.encode("the red cube")) < 6
    assert tokenizer.reserved(3) == [tokenizer.size - 1, tokenizer.size - 2, tokenizer.size - 3]
    assert tokenizer.decode([*tokenizer.encode("cube"), *tokenizer.reserved(20), tokenizer.end]) == "cube"
    with pytest.raises(ConfigError, match="20 reserved ids; 21 are needed: set reserved=21"):
        tokenizer.reserved(21)
    with pytest.raises(ConfigError, match="no vocabulary"):
        trunks.build("tiny")
    with pytest.raises(ConfigError, match="at least 259 tokens"):
        Tiny.fit({}, TEXTS) and trunks.build("tiny", tokens=100)


def test_published_tokenizer(folders):
    tokenizer = trunks.build("hf", checkpoint=str(folders["qwen2"]), mode="frozen").tokenizer
    assert isinstance(tokenizer, TextTokenizer)
    assert (tokenizer.size, tokenizer.start, tokenizer.end, tokenizer.pad) == (300, None, 2, 0)
    assert tokenizer.decode(tokenizer.encode("the <end> cube")) == "the <end> cube"
    assert 2 not in tokenizer.encode("the <end> cube")
    assert tokenizer.reserved(2) == [279, 278]  # the last merges; the rows above are of no token


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba"}, "'mamba' are not known; known: llama, qwen2, qwen3, gemma"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "type 'yarn'; known: default, llama3"),
        ({"attention_bias": True}, "has attention_bias"),
        ({"num_key_value_heads": 3}, "4 heads cannot share 3"),
        ({"hidden_act": "relu"}, "no activation 'relu'"),
        ({"hidden_size": "wide"}, "cannot be read"),
    ],
)
def test_other_architectures_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        decoder_config(architecture("llama", **changes))


def test_the_blocks_of_a_frozen_trunk_are_computed_again_in_a_training_with_checkpointing(folders):
    trunk = trunks.build("hf", checkpoint=str(folders["llama"]), mode="frozen", adapters=2)
    blocks, x = trunk.held_layers(), torch.randn(4, 16, 32)
    weights = {p.data_ptr() for module in (trunk, *blocks) for p in module.parameters()}
    found, counts = [], []
    for enabled in (False, True):
        kept: dict[int, int] = {}

        def keep(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
            if tensor.data_ptr() not in weights:
                kept[tensor.data_ptr()] = tensor.numel()
            return tensor

        leaf = x.clone().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), recomputed(nn.Sequential(trunk), enabled):
            assert all(("forward" in vars(block)) is enabled for block in blocks)
            loss = trunk(leaf, causal(4, 16), torch.arange(16).expand(4, 16)).hidden.square().mean()
        counts.append(sum(kept.values()))
        found.append(torch.autograd.grad(loss, [leaf, *trunk.parameters()]))
    assert counts[1] < counts[0] / 3
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert len(blocks) == 3 and not any("forward" in vars(block) for block in blocks)


def test_frozen_weights_are_not_saved(folders):
    options = {"checkpoint": str(folders["llama"]), "mode": "frozen", "adapters": 2}
    fitted = trunks.get("hf").fit(options, ())
    trunk = trunks.build("hf", **fitted)
    plain = trunks.build("hf", checkpoint=str(folders["llama"]), mode="frozen")
    assert {name.split(".")[0] for name in trunk.state_dict()} == {"adapters"}
    assert torch.equal(whole(trunk, ids_of()).hidden, whole(plain, ids_of()).hidden)  # adapters begin as nothing
    x = trunk.embed(ids_of()).requires_grad_()
    trunk(x, causal(2, 7), torch.arange(7).expand(2, 7)).hidden.square().sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.any() for name, p in trunk.named_parameters() if name.endswith("up"))
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.add_(0.1)
    assert not torch.allclose(whole(trunk, ids_of()).hidden, whole(plain, ids_of()).hidden, atol=1e-3)
    copied = copy.deepcopy(trunk)
    assert torch.equal(whole(copied, ids_of()).hidden, whole(trunk, ids_of()).hidden)
    with pytest.raises(CorruptFileError, match="not the weights that the policy was trained on, sha256 0a1b"):
        trunks.build("hf", **{**fitted, "sha256": "0a1b"})


def test_trained_weights_are_saved_whole(folders, tmp_path):
    folder = write_checkpoint(tmp_path / "there", architecture("gemma"), language_weights("gemma", 3))
    options = json.loads(json.dumps(trunks.get("hf").fit({"checkpoint": str(folder), "mode": 0.1, "depth": 2}, ())))
    trunk = trunks.build("hf", **options)
    assert all(p.requires_grad and p.lr_scale == 0.1 for p in trunk.parameters())
    expected = whole(trunk, ids_of()).hidden
    folder.rename(tmp_path / "gone")
    again = trunks.build("hf", **options)
    with pytest.raises(ConfigError, match="there is no checkpoint"):
        whole(again, ids_of())
    again.load_state_dict(trunk.state_dict())
    assert torch.equal(whole(again, ids_of()).hidden, expected)


def test_random_weights_of_a_published_architecture(folders):
    options = {"checkpoint": str(folders["llama"]), "random": True}
    first, second = (trunks.build("hf", **options) for _ in range(2))
    assert first.tokenizer.encode(TEXTS[0]) == trunks.build("hf", checkpoint=str(folders["llama"])).tokenizer.encode(TEXTS[0])
    assert not torch.equal(first.decoder.embed_tokens.weight, second.decoder.embed_tokens.weight)
    with pytest.raises(ConfigError, match="random weights that are frozen never learn"):
        trunks.build("hf", **options, mode="frozen")
    with pytest.raises(ConfigError, match="expected one of file, float32"):
        trunks.build("hf", **options, dtype="int8")
    with pytest.raises(ConfigError, match="hf has no checkpoint"):
        trunks.build("hf")


def test_a_saved_policy_with_a_frozen_trunk_and_adapters_predicts_the_same_bits(folders, tmp_path):
    options = {"checkpoint": str(folders["llama"]), "mode": "frozen", "adapters": 2}
    backbone = Part("vlm", {"trunk": {"name": "hf", "options": options}, "order": ["keypoints", "state", "text"]})
    head = Part("flow_expert", {"hidden": 16, "layers": LAYERS, "heads": 4, "joint": True, "steps": 2})
    rng = np.random.default_rng(0)
    statistics = Statistics.of({"state": rng.normal(size=(64, 4)), "action": rng.normal(size=(64, SPEC.action_size))})
    made = VLAPolicy.create(NetworkConfig(backbone, head=head, width=16, chunk=3), SPEC, statistics, list(TEXTS))
    with torch.no_grad():
        for parameter in made.network.backbone.trunk.parameters():  # as after training
            parameter.add_(0.05 * torch.randn_like(parameter))
    made.save(tmp_path / "policy")
    loaded = VLAPolicy.load(tmp_path / "policy")
    names = set(loaded.network.state_dict())
    assert any("adapters" in name for name in names) and not any("decoder" in name and "expert" not in name for name in names)
    seen = {name: rng.integers(0, 256, (16, 16, 3), dtype=np.uint8) for name in SPEC.camera_names}
    observation = Observation(seen, np.zeros(4, np.float32), TEXTS[0])
    before, after = (policy.predict([observation])[0].values for policy in (made, loaded))
    assert before.tobytes() == after.tobytes()
    bare = copy.deepcopy(loaded)
    with torch.no_grad():
        for parameter in bare.network.backbone.trunk.parameters():
            parameter.zero_()
    assert (bare.predict([observation])[0].values != after).any(), "the adapters matter"
