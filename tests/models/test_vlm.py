"""A language trunk that sees and says actions: prefix, suffix, words of actions."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from networks import SPEC, draw_batch

from verbot.contracts import TextTask
from verbot.errors import ConfigError
from verbot.models.backbones import vlm
from verbot.models.network import NetworkConfig, VLANetwork
from verbot.models.registries import Objective, Part
from verbot.models.speaking import text_targets
from verbot.models.tokens import Batch, Suffix

TEXTS = ["pick the red cube", "push the green ball to the left", "put the small blue cup into the bowl please"]
TRUNK = {"name": "tiny", "options": {"width": 32, "layers": 2, "heads": 2, "key_heads": 1, "tokens": 300, "reserved": 64}}
HEAD = Part("action_tokens", {"bins": 40, "low": -2.0, "high": 2.0})


def network(head: Part = HEAD, chunk: int = 2, seed: int = 0, **prompt: Any) -> VLANetwork:
    backbone = Part("vlm", {"trunk": TRUNK, "order": ["keypoints", "state", "text"], **prompt})
    config = NetworkConfig(backbone, head=head, width=16, chunk=chunk, objectives={"action": Objective()})
    torch.manual_seed(seed)
    return VLANetwork(config.fit(TEXTS), SPEC).eval()


def batch_for(made: VLANetwork, texts: list[str], seed: int = 0) -> Batch:
    drawn = draw_batch(made, len(texts), seed)
    return dataclasses.replace(drawn, text=made.backbone.prepare(texts))


@pytest.mark.parametrize("causal", [False, True])
def test_one_pass_over_what_is_said_gives_what_the_loop_with_its_cache_gives(causal: bool) -> None:
    made = network(causal=causal)
    batch, one_by_one = batch_for(made, TEXTS), list[torch.Tensor]()
    suffix = made.head.suffix(dataclasses.replace(batch, actions_mask=torch.ones_like(batch.actions_mask)))

    def follow(logits: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        one_by_one.append(logits)
        return suffix.ids[:, before.shape[1]]

    with torch.no_grad():
        features, _ = made.backbone.prediction_features(batch, {})
        said = made.backbone.say(features, follow, made.head.is_over, made.head.longest)
        spoken = made.backbone(batch, {}, suffix).spoken
    assert torch.equal(said, suffix.ids) and said.shape == (3, 2 * made.sizes.action_size)
    torch.testing.assert_close(torch.stack(one_by_one, 1), made.backbone.trunk.logits(spoken.hidden), rtol=0, atol=1e-5)
    assert (one_by_one[3] - one_by_one[4]).abs().max() > 1e-3


def test_a_longer_sentence_in_the_batch_changes_nothing() -> None:
    made = network(order=["text", "keypoints", "state"])  # padding stands before the others
    batch = batch_for(made, TEXTS)
    alone = dataclasses.replace(
        batch, **{name: getattr(batch, name)[:1] for name in ("images", "images_mask", "state", "state_mask")},
        text=made.backbone.prepare(TEXTS[:1]), actions=None, actions_mask=None, targets={}, grounding_queries=None, captions=None,
    )  # fmt: skip
    with torch.no_grad():
        together, single = made.backbone(batch, {}).fused, made.backbone(alone, {}).fused
        kept = together.tokens[:1][together.mask[:1]]
        torch.testing.assert_close(kept, single.tokens[single.mask], rtol=0, atol=1e-5)
        torch.testing.assert_close(made.predict(batch).actions[:1], made.predict(alone).actions, rtol=0, atol=1e-5)


def test_only_words_of_actions_are_said_and_they_mean_the_nearest_bins() -> None:
    made = network()
    batch = batch_for(made, TEXTS)
    suffix = made.head.suffix(batch)
    assert not set(suffix.ids.flatten().tolist()) & {i for text in TEXTS for i in made.backbone.tokenizer.encode(text)}
    logits = torch.zeros(3, made.backbone.tokenizer.size)
    logits[:, made.backbone.tokenizer.encode("red")[0]] = 100.0
    assert set(made.head.choose(logits, suffix.ids[:, :0]).tolist()) <= set(made.head.words.tolist())
    actions, are_valid = made.head.read(suffix.ids)
    known = batch.actions_mask
    assert bool(are_valid.all())
    plain = [
        i for i, c in enumerate(c for c in SPEC.action for _ in c.axes) if c.kind not in ("gripper", "quaternion", "discrete")
    ]
    wanted = batch.actions[known][:, plain].clamp(-2, 2)
    assert (actions[known][:, plain] - wanted).abs().max() <= 4 / 39 + 1e-6
    suffix.ids[0, 1] = made.backbone.tokenizer.encode("red")[0]
    assert made.head.read(suffix.ids)[1].tolist() == [False, True, True]


def test_openvla_counts_its_words_from_the_end_of_the_vocabulary() -> None:
    made = network(Part("action_tokens", {"convention": "openvla", "bins": 40, "low": -2.0, "high": 2.0}))
    size = made.backbone.tokenizer.size
    assert made.head.words[:3].tolist() == [size - 1, size - 2, size - 3]


def test_the_median_is_said_unless_the_head_says_the_mode() -> None:
    logits = torch.full((1, network().backbone.tokenizer.size), -50.0)
    for decode, expected in (("argmax", 0), ("median", 20)):
        made = network(Part("action_tokens", {**HEAD.options, "decode": decode}))
        logits[0, made.head.words[[0, 19, 20, 21]]] = torch.log(torch.tensor([0.31, 0.15, 0.27, 0.27]))
        assert made.head.bin_of[made.head.choose(logits, torch.empty(1, 0, dtype=torch.int64))].item() == expected


def test_masked_words_are_left_out_of_a_suffix() -> None:
    def part(ids: list[list[int]], mask: list[list[int]], is_action: bool) -> Suffix:
        known = torch.tensor(mask, dtype=torch.bool)
        return Suffix(torch.tensor(ids), known, torch.full_like(known, is_action))

    joined = Suffix.joined(
        [part([[5, 6, 0], [7, 0, 0]], [[1, 1, 0], [1, 0, 0]], False), part([[1, 2], [3, 4]], [[1, 1], [1, 0]], True)]
    )
    assert joined.ids[0, :4].tolist() == [5, 6, 1, 2] and joined.ids[1, :2].tolist() == [7, 3]
    assert joined.mask.sum(1).tolist() == [4, 2] and joined.is_action[0].tolist() == [False, False, True, True]


def test_nothing_of_the_prefix_reads_what_is_said_and_a_causal_one_nothing_later() -> None:
    for causal in (False, True):
        made = network(causal=causal, order=["text", "keypoints", "state"])
        batch = batch_for(made, TEXTS[:1] * 2)
        length = batch.text.values.shape[1]
        other = dataclasses.replace(batch, state=batch.state + 1)
        with torch.no_grad():
            plain, spoken = made.backbone(batch, {}).fused, made.backbone(batch, {}, made.head.suffix(batch)).fused
            torch.testing.assert_close(plain.tokens, spoken.tokens)
            change = made.backbone(other, {}).fused.tokens - plain.tokens
        assert bool((change[:, :length].abs() > 1e-5).any()) == (not causal) and change[:, -1].abs().max() > 1e-3


def test_a_head_reads_learned_tokens_behind_the_prefix_or_all_of_it() -> None:
    readout = network(Part("regression"), readouts=2)
    assert readout.backbone.count == 2
    assert readout.backbone(batch_for(readout, TEXTS), {}).fused.tokens.shape == (3, 2, 32)
    layered = network(Part("flow_expert", {"hidden": 16, "layers": 2, "layerwise": True}))
    batch = batch_for(layered, TEXTS)
    first = layered.predict(batch).actions
    other = layered.predict(dataclasses.replace(batch, text=layered.backbone.prepare(TEXTS[::-1]))).actions
    assert len(layered.backbone(batch, {}).fused.layers) == 2 and not torch.allclose(first, other)


def test_what_is_thought_stands_before_the_actions_and_has_a_loss_of_its_own() -> None:
    backbone = Part("vlm", {"trunk": TRUNK})
    config = NetworkConfig(backbone, head=HEAD, width=16, chunk=1, objectives={"action": Objective(), "text": Objective(2.0)})
    made = VLANetwork(config.fit(TEXTS), SPEC).eval()
    batch = batch_for(made, TEXTS)
    tasks = [TextTask(TEXTS[0], "red cube", "question"), None, TextTask(TEXTS[2], "move left", "reasoning")]
    words = text_targets(made.backbone, tasks)
    answer = [*made.backbone.tokenizer.encode("red cube"), made.backbone.tokenizer.end]
    assert words is not None and words.ids[0][words.mask[0]].tolist() == answer and not words.mask[1].any()
    mask = torch.tensor([[False], [True], [True]])  # a question has no actions
    batch = dataclasses.replace(batch, actions_mask=mask, text_targets=words)
    losses = made.losses(batch)
    torch.testing.assert_close(losses["loss"], losses["action"] + 2 * losses["text"])
    assert losses["text"] > 0
    suffix = Suffix.joined([words, made.head.suffix(batch)])
    assert suffix.is_action[2, len(made.backbone.tokenizer.encode("move left")) :].tolist()[:2] == [False, True]
    other = [TextTask(TEXTS[0], "blue ball", "question"), None, tasks[2]]
    changed = made.losses(dataclasses.replace(batch, text_targets=text_targets(made.backbone, other)))
    assert changed["text"] != losses["text"]
    torch.testing.assert_close(changed["action"], losses["action"])
    with pytest.raises(ConfigError, match="has no language trunk to say it"):
        text_targets(VLANetwork(NetworkConfig(width=16).fit(TEXTS), SPEC).backbone, tasks)


def test_it_learns_which_sentence_means_which_action() -> None:
    made = network(chunk=1).train()
    batch = batch_for(made, TEXTS)
    batch = dataclasses.replace(batch, images=batch.images * 0, state=batch.state * 0)
    wanted = torch.linspace(-1.5, 1.5, 3)[:, None, None].expand(3, 1, made.sizes.action_size).clone()
    batch = dataclasses.replace(batch, actions=wanted, actions_mask=torch.ones(3, 1, dtype=torch.bool))
    optimizer = torch.optim.Adam(made.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        losses = made.losses(batch)
        losses["loss"].backward()
        optimizer.step()
    assert losses["right_tokens"] > 0.9
    moves = made.eval().predict(batch).actions[:, 0, 0]
    torch.testing.assert_close(moves, wanted[:, 0, 0], rtol=0, atol=0.11)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"template": "do it"}, "expected a sentence with {instruction} in it once"),
        ({"trunk": {"options": {}}}, "expected a name, and options"),
        ({"trunk": "tiny"}, "expected a name, and options"),
        ({"order": ["text", "clouds"]}, "names clouds; this network has"),
        ({"longest": 3}, "expected at most 3"),
    ],
)
def test_a_prompt_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        network(**change).backbone.prepare(TEXTS)


def test_a_head_that_speaks_needs_a_backbone_with_words() -> None:
    with pytest.raises(ConfigError, match="use the backbone 'vlm'"):
        VLANetwork(NetworkConfig(head=HEAD, width=16).fit(TEXTS), SPEC)


@pytest.mark.parametrize("causal", [False, True])
def test_short_answers_beside_long_ones_are_read_as_in_one_pass(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made = network(causal=causal, readouts=0)
    batch = batch_for(made, TEXTS)
    tasks = [TextTask("it", "yes", "question"), None, TextTask("it", "put " * 20, "caption")]
    said = Suffix.joined([text_targets(made.backbone, tasks), made.head.suffix(batch)])
    calls, trunk = list[int](), made.backbone.trunk.forward

    def counted(x: torch.Tensor, *others: Any) -> Any:
        calls.append(x.shape[0] * x.shape[1])
        return trunk(x, *others)

    monkeypatch.setattr(made.backbone.trunk, "forward", counted)
    with torch.no_grad():
        apart = made.backbone(batch, {}, said)
        monkeypatch.setattr(vlm, "SHORT", -1.0)
        together = made.backbone(batch, {}, said)
    assert sum(calls[:2]) < 0.8 * calls[2] and len(calls) == 3
    torch.testing.assert_close(apart.spoken.hidden[said.mask], together.spoken.hidden[said.mask], rtol=0, atol=1e-5)
    mask = apart.fused.mask
    torch.testing.assert_close(apart.fused.tokens[mask], together.fused.tokens[mask], rtol=0, atol=1e-5)
    for ours, theirs in zip(apart.fused.layers or (), together.fused.layers or (), strict=True):
        torch.testing.assert_close(ours[mask], theirs[mask], rtol=0, atol=1e-5)
    for ours, theirs in (
        (apart.fused.cache.keys, together.fused.cache.keys),
        (apart.fused.cache.values, together.fused.cache.values),
    ):
        for one, other in zip(ours, theirs, strict=True):  # (b, g, n, h)
            torch.testing.assert_close(one.transpose(1, 2)[mask], other.transpose(1, 2)[mask], rtol=0, atol=1e-5)
    for chosen in (said.is_action, ~said.is_action, torch.zeros_like(said.mask)):
        logits, weight = together.spoken.output(together.spoken.hidden), (chosen & said.mask).float()
        entropy = torch.nn.functional.cross_entropy(logits.transpose(1, 2), said.ids, reduction="none")
        expected = (entropy * weight).sum() / weight.sum().clamp(min=1)
        torch.testing.assert_close(together.spoken.losses(chosen)[0], expected, rtol=0, atol=1e-5)
