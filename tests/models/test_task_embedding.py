"""Embeddings of tasks that sentences choose by themselves."""

import dataclasses
import itertools

import pytest
import torch

from verbot.errors import ConfigError
from verbot.models.layers.task_embedding import TaskEmbeddings
from verbot.models.network import NetworkConfig
from verbot.models.registries import Part

CONFIG = NetworkConfig(width=16, chunk=3, fusion=Part("mlp", {"hidden": 32}))
SAID = [f"{verb} the {color} {shape}" for verb in ("push", "put") for color in ("red", "blue") for shape in ("cube", "ball")]


def test_a_mixture_sums_to_one_and_is_what_is_added():
    tasks = TaskEmbeddings(3, 8)
    sentence = torch.randn(2, 1, 8)
    mixture = tasks.mixture(sentence)
    assert mixture.shape == (2, 1, 3)
    torch.testing.assert_close(mixture.sum(-1), torch.ones(2, 1))
    by_hand = sum(mixture[..., i : i + 1] * tasks.embeddings[i] for i in range(3))
    torch.testing.assert_close(tasks(sentence), sentence + by_hand)


def test_what_is_chosen_reaches_the_actions(make_network, make_batch):
    """With a classifier that is sure, another embedding is another sentence, for whatever reads sentences."""
    network = make_network(dataclasses.replace(CONFIG, task_embeddings=3)).eval()
    batch, found = make_batch(network), []
    for choice in range(3):
        torch.nn.init.zeros_(network.backbone.task_embeddings.choose.weight)
        network.backbone.task_embeddings.choose.bias.data = 50 * torch.eye(3)[choice]
        _, sentence = network.backbone.encode_text(batch.text)
        network_sentence = network.backbone.sentence(network.backbone.language(batch.text))
        torch.testing.assert_close(sentence.tokens[:, 0], network_sentence + network.backbone.task_embeddings.embeddings[choice])
        found.append(network.predict(batch).actions)
    assert all(not torch.allclose(a, b) for a, b in itertools.combinations(found, 2))


def test_gradients_of_the_actions_reach_embeddings_and_classifier(make_network, make_batch):
    network = make_network(dataclasses.replace(CONFIG, task_embeddings=3))
    network.losses(make_batch(network))["action"].backward()
    for parameter in network.backbone.task_embeddings.parameters():
        assert (parameter.grad.abs().reshape(3, -1).sum(1) > 0).all(), "all three of them"


def test_sentences_of_two_verbs_come_to_choose_differently(make_network):
    """Taught through the embeddings alone, by what is to be done; no one says which embedding is whose."""
    torch.manual_seed(0)
    network = make_network(dataclasses.replace(CONFIG, task_embeddings=4))
    text, verb = network.backbone.prepare(SAID), torch.arange(len(SAID)) // 4
    wanted = torch.tensor([[2.0], [-2.0]])[verb].expand(-1, 16)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)

    def sentences():
        return network.backbone.sentence(network.backbone.language(text))

    for _ in range(150):
        optimizer.zero_grad()
        pooled = sentences()
        (network.backbone.task_embeddings(pooled) - pooled - wanted).square().mean().backward()
        optimizer.step()
    mixture = network.backbone.task_embeddings.mixture(sentences()).detach()
    between = (mixture[verb == 0].unsqueeze(1) - mixture[verb == 1]).abs().sum(-1)
    within = torch.cat([(m.unsqueeze(1) - m).abs().sum(-1) for m in (mixture[verb == 0], mixture[verb == 1])])
    assert between.min() > 1.5, "of at most 2"
    assert within.max() < 0.3


def test_without_tasks_the_network_is_the_one_it_was(make_network, make_batch):
    record = CONFIG.to_json()
    del record["task_embeddings"]
    assert NetworkConfig.from_json(record) == CONFIG
    torch.manual_seed(3)
    before = make_network(CONFIG).eval()
    assert before.backbone.task_embeddings is None
    assert not [name for name in before.state_dict() if "task_embeddings" in name]
    chosen = make_network(dataclasses.replace(CONFIG, task_embeddings=2)).eval()
    assert set(chosen.state_dict()) - set(before.state_dict()) == {
        f"task_embeddings.{name}" for name in ("choose.weight", "choose.bias", "embeddings")
    }
    chosen.load_state_dict(before.state_dict(), strict=False)
    torch.nn.init.zeros_(chosen.backbone.task_embeddings.embeddings)
    batch = make_batch(before)
    assert torch.equal(chosen.predict(batch).actions, before.predict(batch).actions)


@pytest.mark.parametrize("tasks", [-1, 1])
def test_one_task_is_no_choice(tasks):
    with pytest.raises(ConfigError, match=f"task_embeddings is {tasks}; expected at least 2 embeddings to choose from"):
        NetworkConfig(task_embeddings=tasks)
