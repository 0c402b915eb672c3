"""Octo by its files, against a slow reference in flax's own layout, with transformers' T5 for the words."""

import functools
import math

import msgpack
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from octo_checkpoints import (
    ACTION,
    BLOCKS,
    BODY,
    CHUNK,
    FEATURES,
    HEAD,
    HEADS,
    HF,
    LAYERS,
    STEMS,
    STEPS,
    T5_HEADS,
    T5_HIDDEN,
    T5_INNER,
    T5_LAYERS,
    T5_TOKENS,
    T5_WIDTH,
    TRANSFORMER,
    WEIGHTS,
    WINDOW,
    WORDS,
    D,
    module,
    packed,
    record,
    statistics,
    tree,
    write_octo,
)
from published_checkpoints import observation

import verbot
from verbot.errors import ConfigError, CorruptFileError, PolicyError
from verbot.models.published.octo import block_mask, cosine_betas
from verbot.policy.published.tensorflow_images import crop_resized, lanczos

transformers = pytest.importorskip("transformers")
pytest.importorskip("tokenizers")
SEEN = [observation(("primary", "wrist"), 0, seed=i, time_s=0.1 * i, sample_seed=3) for i in range(2)]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return verbot.load_policy(f"hf:{write_octo(tmp_path_factory.mktemp('octo'))}")


def weight(name):
    return torch.from_numpy(WEIGHTS[name])


def dense(name, x):
    return x @ weight(f"{name}/kernel") + weight(f"{name}/bias")


def layer_norm(name, x):
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt()
    return x * weight(f"{name}/scale") + weight(f"{name}/bias")


@functools.cache
def t5():
    config = transformers.T5Config(
        vocab_size=T5_TOKENS, d_model=T5_WIDTH, d_kv=T5_INNER // T5_HEADS, d_ff=T5_HIDDEN, num_layers=T5_LAYERS,
        num_heads=T5_HEADS,
    )  # fmt: skip
    model = transformers.T5EncoderModel(config).eval()
    state = {}
    for name, value in WEIGHTS.items():
        if name.startswith(HF):
            own = name.removeprefix(HF).replace("/", ".").replace(".kernel", ".weight").replace(".embedding", ".weight")
            state[own] = torch.from_numpy(value.T.copy() if name.endswith("kernel") else value)
    model.load_state_dict({**state, "encoder.embed_tokens.weight": state["shared.weight"]})
    return model


def stem(name, image):
    """(p, e) of an image (s, s, 3) in 0 … 255, by sums over windows."""
    base = f"{BODY}observation_tokenizers_{name}/SmallStem16_0/"
    x = torch.cat([image, torch.zeros_like(image)], -1) if STEMS[name][2] else image
    x = x / 127.5 - 1
    for i in range(len(FEATURES)):
        kernel = weight(f"{base}StdConv_{i}/kernel")
        kernel = kernel - kernel.mean((0, 1, 2))
        kernel = kernel / (kernel.std((0, 1, 2), unbiased=False) + 1e-5)
        padded = F.pad(x, (0, 0, 1, 1, 1, 1))
        size = x.shape[0] // 2
        x = torch.stack([
            torch.stack([(padded[2 * r : 2 * r + 3, 2 * c : 2 * c + 3, :, None] * kernel).sum((0, 1, 2)) for c in range(size)])
            for r in range(size)
        ]) + weight(f"{base}StdConv_{i}/bias")  # fmt: skip
        groups = x.unflatten(-1, (32, -1))
        mean, variance = groups.mean((0, 1, 3), keepdim=True), groups.var((0, 1, 3), keepdim=True, unbiased=False)
        x = ((groups - mean) / (variance + 1e-6).sqrt()).flatten(2)
        x = F.relu(x * weight(f"{base}GroupNorm_{i}/scale") + weight(f"{base}GroupNorm_{i}/bias"))
    return (x @ weight(f"{base}embedding/kernel")[0, 0] + weight(f"{base}embedding/bias")).flatten(0, 1)


@torch.no_grad()
def reference_readout(images, ids, real_steps, absent=()):
    """What the head reads, of images by name (w, s, s, 3) and the ids of an instruction without padding."""
    tokens = torch.tensor([[*ids, *[0] * (WORDS - len(ids))]])
    words = t5()(input_ids=tokens, attention_mask=(torch.arange(WORDS) < len(ids))[None].long()).last_hidden_state[0]
    words = dense(f"{BODY}task_language_projection", words) + weight(f"{BODY}task_language_pos_embedding")[0]
    x, about = list(words), [("task_language", -1, True)] * WORDS
    for step in range(WINDOW):
        for name, (_, tokens_of, _) in STEMS.items():
            seen = dense(f"{BODY}obs_{name}_projection", stem(name, images[name][step]))
            x += list(seen + weight(f"{BODY}obs_{name}_pos_embedding")[0, step])
            about += [(f"obs_{name}", step, real_steps[step] and name not in absent)] * tokens_of
        x, about = x + list(words), about + [("obs_task_language", step, True)] * WORDS
        x, about = [*x, weight(f"{BODY}readout_action_pos_embedding")[0, step, 0]], [*about, ("readout_action", step, True)]
    reads = {"task": ("task",), "obs": ("task", "obs"), "readout": ("task", "obs", "readout")}
    allowed = torch.tensor([
        [b in reads[a.split("_")[0]] and u <= t and real for b, u, real in [(n.split("_")[0], s, r) for n, s, r in about]]
        for a, t, _ in about
    ])  # fmt: skip
    x = torch.stack(x)
    for i in range(LAYERS):
        block = f"{TRANSFORMER}encoderblock_{i}/"
        y, attention = layer_norm(f"{block}LayerNorm_0", x), f"{block}MultiHeadDotProductAttention_0/"
        q, k, v = (
            torch.einsum("nd,dhk->hnk", y, weight(f"{attention}{name}/kernel")) + weight(f"{attention}{name}/bias")[:, None]
            for name in ("query", "key", "value")
        )
        scores = (q @ k.transpose(1, 2) / math.sqrt(D // HEADS)).masked_fill(~allowed, torch.finfo(torch.float32).min)
        x = (
            x
            + torch.einsum("hnk,hkd->nd", scores.softmax(-1) @ v, weight(f"{attention}out/kernel"))
            + weight(f"{attention}out/bias")
        )
        y = F.gelu(dense(f"{block}MlpBlock_0/Dense_0", layer_norm(f"{block}LayerNorm_1", x)), approximate="tanh")
        x = x + dense(f"{block}MlpBlock_0/Dense_1", y)
    return layer_norm(f"{TRANSFORMER}encoder_norm", x)[-1]


@torch.no_grad()
def reference_actions(read, noise, used=ACTION):
    """(k · a) of what the head reads (d,) and noise (steps + 1, k · a)."""
    t = np.arange(STEPS + 1) / STEPS
    products = np.cos((t + 0.008) / 1.008 * np.pi * 0.5) ** 2
    betas = np.clip(1 - products[1:] / products[:-1], 0, 0.999)
    x, bars = noise[0], np.cumprod(1 - betas)
    for number, step in enumerate(reversed(range(STEPS))):
        angle = 2 * np.pi * step * weight(f"{HEAD}time_preprocess/kernel")[:, 0]
        known = F.silu(dense(f"{HEAD}cond_encoder/Dense_0", torch.cat([angle.cos(), angle.sin()])))
        y = dense(f"{HEAD}reverse_network/Dense_0", torch.cat([dense(f"{HEAD}cond_encoder/Dense_1", known), read, x]))
        for i in range(BLOCKS):
            block = f"{HEAD}reverse_network/MLPResNetBlock_{i}/"
            y = y + dense(f"{block}Dense_1", F.silu(dense(f"{block}Dense_0", layer_norm(f"{block}LayerNorm_0", y))))
        error = dense(f"{HEAD}reverse_network/Dense_1", F.silu(y))
        x = (x - betas[step] / math.sqrt(1 - bars[step]) * error) / math.sqrt(1 - betas[step])
        x = (x + (step > 0) * math.sqrt(betas[step]) * noise[number + 1]).clamp(-5, 5)
        for n in range(len(x)):
            if n % ACTION >= used:
                x[n] = math.sqrt(1 - bars[step]) * noise[number + 1, n]
    return x


def reference_images(episode):
    found = {}
    for name, (side, _, _) in STEMS.items():
        rows = []
        for seen in episode:
            image = lanczos(seen.images[name], side, side)
            image = crop_resized(image, 0.9, side, side) if name == "primary" else image
            rows.append(np.clip(np.round(image), 0, 255))
        found[name] = torch.from_numpy(np.array(rows, np.float32))
    return found


def reference_ids(text):
    return [*(byte + 2 for byte in text.replace(" ", "_").encode()[: WORDS - 1]), 1]


def test_every_weight_is_in_its_place(policy):
    state = policy.network.state_dict()
    assert len(state) == len(WEIGHTS)
    total = sum(float(np.abs(value).astype(np.float64).sum()) for value in WEIGHTS.values())
    assert abs(sum(value.double().abs().sum().item() for value in state.values()) / total - 1) < 1e-9
    for own, name, layout in (
        (
            "blocks.1.query.weight",
            f"{TRANSFORMER}encoderblock_1/MultiHeadDotProductAttention_0/query/kernel",
            lambda v: v.reshape(D, D).T,
        ),
        (
            "blocks.1.out.weight",
            f"{TRANSFORMER}encoderblock_1/MultiHeadDotProductAttention_0/out/kernel",
            lambda v: v.reshape(D, D).T,
        ),
        ("blocks.0.key.bias", f"{TRANSFORMER}encoderblock_0/MultiHeadDotProductAttention_0/key/bias", lambda v: v.reshape(D)),
        (
            "stems.wrist.convs.1.weight",
            f"{BODY}observation_tokenizers_wrist/SmallStem16_0/StdConv_1/kernel",
            lambda v: v.transpose(3, 2, 0, 1),
        ),
        ("score.times", f"{HEAD}time_preprocess/kernel", lambda v: v),
        ("language.blocks.1.wi.weight", f"{HF}encoder/block/1/layer/1/DenseReluDense/wi/kernel", lambda v: v.T),
    ):
        assert np.array_equal(state[own], layout(WEIGHTS[name])), own


def test_the_words_are_those_of_transformers(policy):
    tokens = torch.randint(2, T5_TOKENS, (2, 40), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(40) < torch.tensor([[40], [25]])
    with torch.no_grad():
        found = policy.network.language(tokens, mask)
        wanted = t5()(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
    assert (found - wanted).abs().max() < 1e-5


@pytest.mark.parametrize("first", [False, True])
def test_what_the_head_reads_is_that_of_the_reference(policy, first):
    episode = (SEEN[0], SEEN[0]) if first else tuple(SEEN)  # the first observation of an episode fills the window
    inputs = policy.parts.processing.inputs([episode])
    assert inputs["steps_mask"].tolist() == [[not first, True]]
    with torch.no_grad():
        found = policy.network.readout(inputs)[0]
    ids = reference_ids(SEEN[0].instruction)
    assert (found - reference_readout(reference_images(episode), ids, [not first, True])).abs().max() < 2e-5


def test_a_camera_that_is_not_there_is_masked(policy):
    seen = tuple(observation(("primary",), 0, seed=i, time_s=0.1 * i) for i in range(2))
    with torch.no_grad():
        found = policy.network.readout(policy.parts.processing.inputs([seen]))[0]
    whole = [{**each.images, "wrist": np.zeros((6, 8, 3), np.uint8)} for each in seen]
    black = [observation(("primary",), 0, time_s=0.1 * i) for i in range(2)]
    for each, images in zip(black, whole, strict=True):
        each.images.clear()
        each.images.update(images)
    wanted = reference_readout(reference_images(black), reference_ids(seen[0].instruction), [True, True], ("wrist",))
    assert (found - wanted).abs().max() < 2e-5


def test_observations_become_the_actions_of_the_reference(policy):
    first = policy.predict([SEEN[0]])[0]
    second = policy.predict([observation(("primary", "wrist"), 0, seed=1, time_s=0.1, sample_seed=3, memory=first.memory)])[0]
    noise = torch.randn(STEPS + 1, CHUNK * ACTION, generator=torch.Generator().manual_seed(3))
    table = statistics()
    for chunk, episode, real in ((first, (SEEN[0], SEEN[0]), False), (second, SEEN, True)):
        read = reference_readout(reference_images(episode), reference_ids(SEEN[0].instruction), [real, True])
        normal = reference_actions(read, noise).reshape(CHUNK, ACTION).numpy()
        wanted = np.where(table["mask"], normal * table["std"] + table["mean"], normal)
        assert np.allclose(chunk.values, wanted, atol=2e-4)


def test_a_robot_with_fewer_numbers_gets_those(tmp_path):
    own = verbot.load_policy(f"hf:{write_octo(tmp_path, table={'action': statistics(4)})}")
    noise = torch.randn(1, STEPS + 1, CHUNK * ACTION, generator=torch.Generator().manual_seed(1))
    read = torch.randn(1, D, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        found = own.network.denoised(read, noise)
    assert (found[0] - reference_actions(read[0], noise[0], 4)).abs().max() < 1e-4
    assert own.predict([SEEN[0]])[0].values.shape == (CHUNK, 4)


def test_the_mask_of_the_first_released_policies_is_off_by_one():
    exact, first = (block_mask(2, [3, 2], [1, 2], 1, each) for each in (True, False))
    image, readout, second = 2, 5, 6  # the first readout counts as an image then: images read it, and it reads no other readout
    assert [exact[a, b].item() for a, b in ((image, readout), (readout, second))] == [False, True]
    assert [first[a, b].item() for a, b in ((image, readout), (readout, second))] == [True, False]


def test_the_noise_is_that_of_the_cosine_schedule():
    t = np.arange(21) / 20
    products = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    assert np.allclose(cosine_betas(20), np.clip(1 - products[1:] / products[:-1], 0, 0.999), atol=1e-5)


OUT = f"{HEAD}reverse_network/Dense_1/bias"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda w: {**w, f"{BODY}more/kernel": np.ones((2, 2), np.float32)},
            f"holds {BODY}more/kernel, which this model does not",
        ),
        (lambda w: {n: v for n, v in w.items() if n != OUT}, "lacks 1 of .* weights, among them score.ends.1.bias"),
        (lambda w: {**w, OUT: np.ones(3, np.float32)}, rf"{OUT} has shape \(3,\)"),
        (lambda w: {n: v for n, v in w.items() if "readout" not in n}, "lacks the weight places.readout_action"),
        (lambda w: {**w, f"{BODY}step": 3}, f"holds {BODY}step, a int; expected an array"),
        (lambda w: {**w, OUT: "PLACEHOLDER://a"}, f"has {OUT} in a folder of its own"),
        (lambda w: {**w, OUT: msgpack.ExtType(2, b"")}, "holds an extension of type 2"),
        (lambda w: {**w, OUT: msgpack.ExtType(1, b"\x93")}, "holds an array that is torn"),
        (lambda w: {**w, OUT: msgpack.ExtType(1, msgpack.packb(([2], "object", b"12")))}, "dtype 'object'"),
        (lambda w: {**w, OUT: msgpack.ExtType(1, msgpack.packb(([2**40], "float32", b"1234")))}, "with 4 bytes"),
    ],
)
def test_another_set_of_weights_is_refused_by_name(tmp_path, change, said):
    with pytest.raises(CorruptFileError, match=said):
        verbot.load_policy(f"hf:{write_octo(tmp_path, change(WEIGHTS))}")


def test_torn_and_doubled_files_are_refused(tmp_path):
    raw = msgpack.packb(tree(WEIGHTS), strict_types=True)
    pair = msgpack.packb("a") + msgpack.packb({})
    for number, (content, said) in enumerate(
        [
            (raw[:-5], "no msgpack"),
            (raw + b"1", "no msgpack"),
            (b"\x82" + pair + pair, "'a' twice in one table"),
            (b"\x01", "holds a int"),
        ]
    ):
        with pytest.raises(CorruptFileError, match=said):
            verbot.load_policy(f"hf:{write_octo(tmp_path / str(number), content=content)}")


def test_large_arrays_in_parts_and_bfloat16_are_read(tmp_path, policy):
    array = WEIGHTS[f"{HF}shared/embedding"]
    parts = {str(i): packed(part) for i, part in enumerate(np.split(array.reshape(-1), 4))}
    chunked = {"__msgpack_chunked_array__": True, "shape": {"0": array.shape[0], "1": array.shape[1]}, "chunks": parts}
    own = verbot.load_policy(f"hf:{write_octo(tmp_path / 'a', {**WEIGHTS, f'{HF}shared/embedding': chunked})}")
    assert torch.equal(own.network.language.shared.weight, policy.network.language.shared.weight)
    half = torch.from_numpy(WEIGHTS[OUT]).bfloat16()
    raw = msgpack.packb(([half.numel()], "bfloat16", half.view(torch.int16).numpy().tobytes()), use_bin_type=True)
    own = verbot.load_policy(f"hf:{write_octo(tmp_path / 'b', {**WEIGHTS, OUT: msgpack.ExtType(1, raw)})}")
    assert torch.equal(own.network.score.ends[1].bias, half)
    chunked["shape"]["0"] += 1
    with pytest.raises(CorruptFileError, match="in parts that do not make an array"):
        verbot.load_policy(f"hf:{write_octo(tmp_path / 'c', {**WEIGHTS, f'{HF}shared/embedding': chunked})}")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"heads": {"action": module("L1ActionHead")}}, "head for actions is 'L1ActionHead'; known: DiffusionActionHead"),
        (
            {"observation_tokenizers": {"proprio": module("LowdimObsTokenizer")}},
            "'proprio' of observations is 'LowdimObsTokenizer'",
        ),
        ({"task_tokenizers": {}}, "tasks are read by"),
        ({"transformer_kwargs": {"num_attention_heads": 3}}, "of width 16 cannot have 3 heads"),
    ],
)
def test_other_parts_are_refused_by_name(tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        verbot.load_policy(f"hf:{write_octo(tmp_path, config=record(**changes))}")


def test_the_statistics_of_one_of_several_datasets_are_chosen(tmp_path):
    table = {"bridge_dataset": {"action": statistics()}, "fractal": {"action": statistics()}}
    write_octo(tmp_path, table=table)
    with pytest.raises(ConfigError, match="one of bridge_dataset, fractal"):
        verbot.load_policy(f"hf:{tmp_path}")
    assert verbot.load_policy(f"hf:{tmp_path}#fractal").parts.notes[0] == "actions are those of fractal"


def test_without_weights_it_says_where_they_belong(tmp_path):
    write_octo(tmp_path)
    (tmp_path / "300000").rename(tmp_path / "latest")
    with pytest.raises(ConfigError, match="expected STEP/default/checkpoint"):
        verbot.load_policy(f"hf:{tmp_path}")
    (tmp_path / "config.json").unlink()
    with pytest.raises(PolicyError, match="known family"):
        verbot.load_policy(f"hf:{tmp_path}")


def test_saved_and_loaded_it_answers_the_same_bits(tmp_path, policy):
    policy.save(tmp_path / "b")
    assert np.array_equal(
        policy.predict([SEEN[0]])[0].values, verbot.load_policy(f"hf:{tmp_path / 'b'}").predict([SEEN[0]])[0].values
    )
