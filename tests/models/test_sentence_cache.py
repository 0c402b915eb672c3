"""What a constant trunk makes of a sentence is computed once, and changes nothing but the time."""

import copy
import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import SPEC, draw_batch
from published_weights import TEXTS, architecture, language_weights, write_checkpoint

from verbot.models.network import NetworkConfig, VLANetwork
from verbot.models.registries import Objective, Part, trunks
from verbot.models.tokens import Batch, TextBatch
from verbot.models.trunks.sentence_cache import SentenceCache

FIRST = {"causal": True, "order": ["text", "keypoints", "state"]}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import json

    from verbot.models.trunks.tiny import fitted_tokenizer

    folder = write_checkpoint(tmp_path_factory.mktemp("llama"), architecture("llama"), language_weights("llama"))
    (folder / "tokenizer.json").write_text(fitted_tokenizer(TEXTS, 290))
    assert json.loads((folder / "config.json").read_text())
    return folder


@pytest.fixture
def made(checkpoint: Path) -> Callable[..., VLANetwork]:
    def make(head: str = "regression", options: dict[str, Any] | None = None, **prompt: Any) -> VLANetwork:
        trunk = {"name": "hf", "options": {"checkpoint": str(checkpoint), "mode": "frozen", **prompt.pop("trunk", {})}}
        backbone = Part("vlm", {"trunk": trunk, "readouts": 2, **FIRST, **prompt})
        config = NetworkConfig(backbone, head=Part(head, options or {}), width=16, chunk=3, objectives={"action": Objective()})
        torch.manual_seed(0)
        return VLANetwork(config.fit(list(TEXTS)), SPEC).eval()

    return make


def batch_for(network: VLANetwork, texts: list[str], seed: int = 0) -> Batch:
    return dataclasses.replace(draw_batch(network, len(texts), seed), text=network.backbone.prepare(texts))


def without(network: VLANetwork) -> VLANetwork:
    other = copy.deepcopy(network)
    other.backbone.keeps_sentences = False
    return other


HEADS = [
    ("regression", {}, {}),
    ("regression", {}, {"readouts": 0}),
    ("flow_expert", {"hidden": 16, "layers": 3, "layerwise": True}, {"readouts": 0}),
    ("flow_expert", {"hidden": 16}, {}),
    ("action_tokens", {"bins": 40}, {"template": "do: {instruction}."}),
]


@pytest.mark.parametrize(("head", "options", "prompt"), HEADS)
def test_losses_gradients_and_actions_stay(made: Any, head: str, options: dict[str, Any], prompt: dict[str, Any]) -> None:
    network = made(head, options, **prompt)
    plain, batch = without(network), batch_for(network, [*TEXTS, TEXTS[0]])
    assert network.backbone.keeps_sentences
    found = []
    for each in (network, network, plain):  # the second time from the cache
        each.zero_grad()
        loss = sum(each.losses(batch, torch.Generator().manual_seed(1)).values())
        loss.backward()
        gradients = {name: p.grad.clone() for name, p in each.named_parameters() if p.grad is not None}
        actions = each.predict(batch, torch.Generator().manual_seed(2)).actions.detach()
        found.append((loss.detach(), actions, gradients))
    assert len(network.backbone._sentences) == len(TEXTS)
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    for i in (0, 1):
        torch.testing.assert_close(found[0][i], found[2][i], rtol=0, atol=2e-6)
    assert found[0][2].keys() == found[2][2].keys() and len(found[0][2]) > 10
    for name, gradient in found[0][2].items():
        torch.testing.assert_close(gradient, found[2][2][name], rtol=1e-4, atol=2e-6, msg=name)


def test_padding_and_repeated_texts_change_nothing(made: Any) -> None:
    network = made()
    batch = batch_for(network, [TEXTS[0], TEXTS[1], TEXTS[0]])
    distinct = network.backbone.prepare(list(TEXTS[:2]))
    texts = [
        distinct.equally_long(64),
        dataclasses.replace(distinct, rows=torch.tensor([0, 1, 0])),
        dataclasses.replace(distinct.equally_long(64), rows=torch.tensor([0, 1, 0])),
    ]
    texts[0] = TextBatch(texts[0].values[[0, 1, 0]], texts[0].mask[[0, 1, 0]])
    with torch.no_grad():
        expected = network.predict(batch).actions
        for text in texts:
            actual = network.predict(dataclasses.replace(batch, text=text)).actions
            torch.testing.assert_close(actual, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "prompt",
    [
        {"causal": False},
        {"order": ["keypoints", "text", "state"]},
        {"order": ["text", "keypoints"]},
        {"trunk": {"adapters": 2}},
        {"trunk": {"mode": "trained"}},
        {"trunk": {"mode": 0.1}},
    ],
)
def test_nothing_is_kept_where_something_could_change_it(made: Any, prompt: dict[str, Any]) -> None:
    network = made(**prompt)
    assert not network.backbone.keeps_sentences
    network.predict(batch_for(network, list(TEXTS)))
    assert not len(network.backbone._sentences)


def test_the_trunk_reads_each_sentence_once(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    network, calls = made(), list[tuple[int, int]]()
    trunk = network.backbone.trunk
    run = trunk.forward
    monkeypatch.setattr(trunk, "forward", lambda x, *rest: calls.append(tuple(x.shape[:2])) or run(x, *rest))
    for seed in range(3):
        with torch.no_grad():
            network.predict(batch_for(network, list(TEXTS), seed))
    others = 2 * 16 + 1 + 2  # keypoints, state, readouts
    assert [call for call in calls if call == (3, others)] == [(3, others)] * 3
    assert len(calls) <= 3 + len(TEXTS)


def test_states_are_those_of_one_pass_and_old_ones_are_dropped(checkpoint: Path) -> None:
    trunk = trunks.build("hf", checkpoint=str(checkpoint), mode="frozen")
    rows = [trunk.tokenizer.encode(text) for text in TEXTS]
    length = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (length - len(row))] for row in rows])
    mask = torch.arange(length) < torch.tensor([len(row) for row in rows])[:, None]
    cache = SentenceCache()
    found = cache.read(trunk, ids, mask)
    causal = torch.ones(3, length, length, dtype=torch.bool).tril() & mask[:, None]
    plain = trunk(trunk.embed(ids), causal, torch.arange(length).expand(3, -1))
    for one, other in zip(
        [found.hidden, *found.layers, *(x.transpose(1, 2) for x in (*found.cache.keys, *found.cache.values))],
        [plain.hidden, *plain.layers, *(x.transpose(1, 2) for x in (*plain.cache.keys, *plain.cache.values))],
        strict=True,
    ):
        torch.testing.assert_close(one[mask], other[mask], rtol=0, atol=2e-6)
        assert not one[~mask].any()
    alone = SentenceCache().read(trunk, ids[1:2, : len(rows[1])], mask[1:2, : len(rows[1])])
    assert torch.equal(alone.hidden[0], found.hidden[1, : len(rows[1])])  # to the bit, whatever the batch
    keys = SentenceCache(whole=False).read(trunk, ids, mask)
    assert keys.hidden.shape == (3, 0, trunk.width) and len(keys.layers) == trunk.depth
    assert all(torch.equal(a, b) for a, b in zip(keys.cache.keys, found.cache.keys, strict=True))
    small = SentenceCache(most_bytes=1)
    assert torch.equal(small.read(trunk, ids, mask).hidden, found.hidden) and len(small) == 1
    assert copy.deepcopy(cache) is cache and len(pickle.loads(pickle.dumps(cache))) == 0


def test_a_trunk_in_16_bits_gives_the_head_what_it_computes_with(made: Any) -> None:
    for head, options, prompt in HEADS:
        network = made(head, options, **prompt, trunk={"dtype": "bfloat16"})
        batch = batch_for(network, list(TEXTS))
        sum(network.losses(batch, torch.Generator().manual_seed(1)).values()).backward()
        assert network.predict(batch, torch.Generator().manual_seed(2)).actions.dtype == torch.float32
        with torch.no_grad():
            kept, plain = (each.backbone(batch, {}).fused for each in (network, without(network)))
        scale = plain.tokens[plain.mask].abs().max()
        assert (kept.tokens - plain.tokens)[plain.mask].abs().max() < 0.03 * scale
