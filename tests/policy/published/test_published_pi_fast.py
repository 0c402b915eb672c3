"""π0-FAST of LeRobot by its files, against transformers' Gemma; and its tokens there and back."""

import math

import numpy as np
import pytest
import torch
from published_checkpoints import (
    HIDDEN,
    PATCH,
    ROWS,
    SIDE,
    WIDTH,
    drawn,
    observation,
    pi_shapes,
    statistics_of,
    write_lerobot,
    write_tokenizer,
)
from test_published_pi import gemma, siglip

import verbot
from verbot.errors import ConfigError, CorruptFileError, PolicyError
from verbot.models.fast import FastTokenizer
from verbot.models.published.pi_fast import NOTHING

STEPS, ACTION = 5, 4
CAMERAS = {"observation.images.top": (6, 8), "observation.images.wrist": (6, 8)}
SEEN = observation(("top", "wrist"), 3)
OTHERS = ("gemma_expert", "action_in", "action_out", "state_proj", "action_time")
WEIGHTS = {name: value for name, value in drawn(pi_shapes(False)).items() if not any(other in name for other in OTHERS)}
CHUNKS = np.random.default_rng(0).uniform(-1, 1, (40, STEPS, ACTION)).astype(np.float32)


def pi_fast(folder, change=lambda weights: weights, **options):
    weights = change({f"model.{name}": value for name, value in WEIGHTS.items()})
    given = {
        "chunk_size": STEPS,
        "n_action_steps": STEPS,
        "max_decoding_steps": 6,
        "fast_skip_tokens": 2,
        "tokenizer_max_length": 40,
    }
    mapping = {"STATE": "QUANTILES", "ACTION": "QUANTILES"}
    write_lerobot(folder, "pi0_fast", weights, CAMERAS, 3, ACTION, normalization_mapping=mapping, **{**given, **options})
    write_tokenizer(folder, "<pad>", "<eos>", "<bos>")
    if not (folder / "fast").is_dir():
        FastTokenizer.fit(CHUNKS, vocab_size=100).save(folder / "fast")
    return verbot.load_policy(f"hf:{folder}")


def test_every_weight_is_in_its_place(tmp_path):
    state = pi_fast(tmp_path).network.state_dict()
    assert len(state) == len(WEIGHTS)
    assert torch.equal(state["paligemma.language.embed_tokens.weight"], WEIGHTS["paligemma_with_expert.paligemma.lm_head.weight"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda w: {**w, "model.action_in_proj.weight": torch.ones(2)},
            "holds model.action_in_proj.weight, which this model does not",
        ),
        (
            lambda w: {n: v for n, v in w.items() if "language_model.norm" not in n},
            "lacks 1 of .* paligemma.language.norm.weight",
        ),
    ],
)
def test_a_wrong_weight_is_named(tmp_path, change, said):
    with pytest.raises(CorruptFileError, match=said):
        pi_fast(tmp_path, change)


def reference(inputs, ids=None, prompt_reads_start=True):
    """Logits (b, n, v) of the whole sequence: images and prompt read each other, `ids` those before them; nothing is cached."""
    body = "paligemma_with_expert.paligemma."
    model, embedding = gemma(WEIGHTS, f"{body}model.language_model.", WIDTH, HIDDEN), WEIGHTS[f"{body}lm_head.weight"]
    project = {kind: WEIGHTS[f"{body}model.multi_modal_projector.linear.{kind}"] for kind in ("weight", "bias")}
    tower = siglip(WEIGHTS)
    seen = [torch.nn.functional.linear(tower(inputs["images"][:, v]).last_hidden_state, *project.values()) for v in range(2)]
    tokens, mask = inputs["tokens"], inputs["tokens_mask"]
    if ids is not None:
        tokens, mask = torch.cat([tokens, ids], 1), torch.cat([mask, torch.ones_like(ids, dtype=torch.bool)], 1)
    x = torch.cat([*seen, embedding[tokens] * math.sqrt(WIDTH)], 1)
    real = torch.cat([inputs["images_mask"].repeat_interleave((SIDE // PATCH) ** 2, 1), mask], 1)
    after = 0 if ids is None else ids.shape[1]
    block = torch.tensor([0] * (x.shape[1] - after) + list(range(1, after + 1)))
    allowed = (block[None] <= block[:, None]) & real[:, None] & real[:, :, None]
    bias = torch.where(allowed, 0.0, -2.3819763e38)[:, None]
    return model(inputs_embeds=x, attention_mask=bias, position_ids=real.cumsum(1) - 1).last_hidden_state @ embedding.T


def test_it_says_what_the_library_s_gemma_does(tmp_path):
    policy = pi_fast(tmp_path)
    inputs = policy.parts.processing.inputs([(SEEN,), (observation(("top",), 3, seed=1, instruction="cube up"),)])
    assert inputs["tokens"].shape == (2, 41) and inputs["tokens_mask"][:, -1].all() and not inputs["tokens_mask"][1, -2]
    said = torch.zeros(2, 0, dtype=torch.int64)
    with torch.no_grad():
        for _ in range(6):
            said = torch.cat([said, reference(inputs, said)[:, -1].argmax(-1, keepdim=True)], 1)
        found = policy.network.act(inputs, [torch.Generator()] * 2)
    stop = policy.network.config.end
    assert stop not in said and torch.equal(found, said)


def test_the_logits_are_those_of_the_library_s_gemma(tmp_path):
    policy = pi_fast(tmp_path)
    inputs, network = policy.parts.processing.inputs([(SEEN,)]), policy.network
    ids = policy.parts.processing.targets(CHUNKS[:1], [(SEEN,)])
    found = network.losses(inputs, ids, torch.ones(1, STEPS), None)["action"]
    prompt = {**inputs, "tokens": inputs["tokens"][:, :-1], "tokens_mask": inputs["tokens_mask"][:, :-1]}
    logits = reference(prompt, ids)[:, -ids.shape[1] : -1]
    assert torch.allclose(found, torch.nn.functional.cross_entropy(logits[0], ids[0, 1:]), atol=1e-5)


def test_actions_become_tokens_and_come_back(tmp_path):
    policy, statistics = pi_fast(tmp_path), statistics_of(tmp_path)
    processing = policy.parts.processing
    low, high = statistics["action.q01"], statistics["action.q99"]
    actions = low + (CHUNKS[:2] + 1) / 2 * (high - low)
    ids = processing.targets(actions, [(SEEN,)] * 2)
    tokenizer = processing.tokenizer
    start = [tokenizer.special("<bos>"), *tokenizer.encode("Action: ")]
    assert ids[0, : len(start)].tolist() == start and tokenizer.special("<eos>") in ids[0].tolist()
    fast = FastTokenizer.load(tmp_path / "fast")
    first = fast.encode(CHUNKS[:1])[0]
    assert ids[0, len(start)] == tokenizer.size - 1 - 2 - first[0]
    back = processing.actions(ids[:, 1:].float(), [(SEEN,)] * 2)
    assert np.abs((back - actions) / (high - low)).max() < 0.5 / 10 * math.sqrt(STEPS) / 2 + 1e-3


def test_what_is_said_too_shortly_is_completed_and_nothing_is_an_error(tmp_path):
    processing = pi_fast(tmp_path).parts.processing
    ids = processing.targets(CHUNKS[:1], [(SEEN,)])[:, 1:]
    whole, cut = (
        processing.decoded(each.tolist()) for each in (ids[0], ids[0, : len(processing.tokenizer.encode("Action: ")) + 3])
    )
    assert whole.shape == cut.shape == (STEPS, ACTION) and not np.allclose(whole, cut)
    with pytest.raises(PolicyError, match="said 3 tokens that mean no actions"):
        processing.actions(torch.full((1, 3), float(NOTHING)), [(SEEN,)])


def test_the_prompt(tmp_path):
    prompt = pi_fast(tmp_path).parts.processing.prompt(SEEN)
    assert (
        prompt.startswith("Task: pick up the cube, State: ")
        and prompt.endswith(";\n")
        and len(prompt.split("State: ")[1].split()) == 3
    )


def test_saved_and_loaded_it_answers_the_same_bits(tmp_path):
    policy = pi_fast(tmp_path / "a")
    policy.save(tmp_path / "b")
    assert np.array_equal(policy.predict([SEEN])[0].values, verbot.load_policy(f"hf:{tmp_path / 'b'}").predict([SEEN])[0].values)


def test_sampling_follows_the_seed(tmp_path):
    policy = pi_fast(tmp_path, temperature=5.0)
    one, two = (policy.predict([observation(("top", "wrist"), 3, sample_seed=seed)])[0].values for seed in (1, 1))
    assert np.array_equal(one, two)
    inputs = policy.parts.processing.inputs([(SEEN,)])
    said = [policy.network.act(inputs, [torch.Generator().manual_seed(seed)]).tolist() for seed in range(4)]
    assert len({str(each) for each in said}) > 1


def test_a_larger_tokenizer_is_refused(tmp_path):
    def small(weights):
        return {n: v[:20] if v.shape[0] == ROWS else v for n, v in weights.items()}

    with pytest.raises(ConfigError, match="the tokenizer has .* ids, the model 20"):
        pi_fast(tmp_path, small)


def test_fast_is_asked_for(tmp_path, monkeypatch):
    import huggingface_hub

    def offline(*given, **options):
        raise OSError

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    pi_fast(tmp_path / "a")
    (tmp_path / "a" / "fast").rename(tmp_path / "fast")
    with pytest.raises(
        ConfigError, match="has no folder fast with .* and the hub did not give those of lerobot/fast-action-tokenizer"
    ):
        verbot.load_policy(f"hf:{tmp_path / 'a'}")
