"""Each task has its own head; the instruction alone determines the task."""

import dataclasses

import pytest
import torch
from networks import SPEAKING

from verbot.errors import ConfigError
from verbot.models.network import NetworkConfig, VLANetwork
from verbot.models.registries import Objective, Part, heads, language_encoders
from verbot.models.tokens import Masked

TASKS = ["pick", "push", "put"]
CONFIG = NetworkConfig(
    width=16,
    chunk=3,
    fusion=Part("mlp", {"hidden": 32}),
    head=Part("multi_task", {"tasks": TASKS}),
    objectives={"action": Objective(), "task_classification": Objective(0.1)},
)
VERBS, COLORS, SHAPES = ("push", "put", "pick up"), ("red", "blue", "green"), ("cube", "ball")


def of_tasks(batch, task):
    return dataclasses.replace(batch, targets={"task": Masked(task, task >= 0)})


def test_a_demonstration_teaches_the_head_of_its_task_and_no_other(make_network, make_batch):
    network = make_network(CONFIG)
    batch = of_tasks(make_batch(network), torch.tensor([1, 1, 1, 1]))
    network.losses(batch)["action"].backward()
    trained = [any(p.grad is not None and p.grad.any() for p in head.parameters()) for head in network.head.heads]
    assert trained == [False, True, False]
    rows = network.head.embeddings.weight.grad.abs().sum(1)
    assert (rows > 0).tolist() == [False, True, False]


def test_the_loss_is_that_of_one_head_where_all_heads_are_alike(make_network, make_batch):
    """Means over all valid steps, however unevenly tasks and steps are spread over the rows."""
    network = make_network(CONFIG)
    head = network.head
    for other in head.heads[1:]:
        other.load_state_dict(head.heads[0].state_dict())
    torch.nn.init.zeros_(head.embeddings.weight)
    batch = of_tasks(make_batch(network), torch.tensor([0, 2, 2, 0]))
    batch.actions_mask[0, 1:] = False
    fused = network(batch).fused
    joined = fused.tokens + head.join(torch.cat([fused.tokens, torch.zeros_like(fused.tokens)], -1))
    joined = dataclasses.replace(fused, tokens=joined)
    torch.testing.assert_close(head.losses(fused, batch)["action"], head.heads[0].losses(joined, batch)["action"])


def test_the_classifier_alone_chooses_who_acts(make_network, make_batch):
    network = make_network(CONFIG).eval()
    fused = network(make_batch(network)).fused
    choose = network.head.choose[-1]
    torch.nn.init.zeros_(choose.weight)
    found = []
    for task in range(3):
        choose.bias.data = 50 * torch.eye(3)[task]
        found.append(network.head.predict(fused))
    assert not torch.allclose(found[0], found[1])
    network.head.classify = lambda fused: torch.eye(3)[[2, 0, 2, 1]]
    mixed = network.head.predict(fused)
    torch.testing.assert_close(mixed, torch.stack([found[2][0], found[0][1], found[2][2], found[1][3]]))


def test_rows_without_a_task_do_not_train_the_classifier(make_network, make_batch):
    network = make_network(CONFIG)
    batch = of_tasks(make_batch(network), torch.tensor([0, 1, -1, 2]))
    batch.actions_mask[3] = False  # its instruction was relabeled
    found = network.losses(batch)["task_classification"]
    logits = network.head.classify(network(batch).fused)
    by_hand = torch.nn.functional.cross_entropy(logits[:2], torch.tensor([0, 1]))
    torch.testing.assert_close(found, by_hand)
    unlabeled = network.losses(dataclasses.replace(batch, targets={}))
    assert unlabeled["task_classification"] == 0
    assert unlabeled["action"] > 0, "the likeliest head learns from it"


def test_unseen_sentences_reach_the_head_of_their_task(make_batch, spec):
    """Three tasks that ask for three movements, in pictures that tell nothing; of each task some objects are never named."""
    torch.manual_seed(0)
    said = [(v, f"{verb} the {color} {shape}") for v, verb in enumerate(VERBS) for color in COLORS for shape in SHAPES]
    kept, held = [pair for i, pair in enumerate(said) if i % 5], said[::5]
    words = Part("word_embedding", language_encoders.get("word_embedding").fit({}, [sentence for _, sentence in said]))
    eyes = Part("film_conv", {"channels": 4, "heatmaps": 3})
    network = VLANetwork(dataclasses.replace(CONFIG, language=words, vision=eyes), spec)
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)

    def batch_of(pairs, seed):
        batch = make_batch(network, rows=len(pairs), seed=seed)
        task = torch.tensor([v for v, _ in pairs])
        actions = torch.zeros_like(batch.actions)
        actions[..., 0], actions[..., 3] = (task - 1.0)[:, None], 1.0
        return of_tasks(dataclasses.replace(batch, text=network.backbone.prepare([s for _, s in pairs]), actions=actions), task)

    for step in range(80):
        optimizer.zero_grad()
        network.losses(batch_of(kept, step))["loss"].backward()
        optimizer.step()
    batch = batch_of(held, 1000)
    prediction, task = network.eval().predict(dataclasses.replace(batch, targets={})), batch.targets["task"].values
    assert prediction.extras["tasks"].values.argmax(-1).tolist() == task.tolist()
    torch.testing.assert_close(prediction.extras["tasks"].values.sum(-1), torch.ones(len(held)))
    assert (prediction.actions[..., 0] - (task - 1.0)[:, None]).abs().max() < 0.5


def test_every_task_can_have_another_kind_of_head(make_network, make_batch):
    head = Part("multi_task", {"tasks": TASKS, "head": "bins", "options": {"bins": 16}})
    network = make_network(dataclasses.replace(CONFIG, head=head))
    assert [type(each) for each in network.head.heads] == [heads.get("bins")] * 3
    batch = make_batch(network)
    network.head.classify = lambda fused: torch.eye(3)[[0, 0, 1, 2]]
    before = network.predict(batch).actions
    assert before.shape == (4, 3, 10)
    with torch.no_grad():  # of the second task's head alone
        for parameter in network.head.heads[1].parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    changed = (network.predict(batch).actions - before).abs().amax((1, 2)) > 1e-6
    assert changed.tolist() == [False, False, True, False]
    fitted = network.config.fit(["stop"], torch.randn(50, 3, 10).numpy())
    assert fitted.head.options["options"]["bins"] == 16 and "low" in fitted.head.options["options"]


@pytest.mark.parametrize("name", sorted(set(heads.names()) - {"multi_task"} - SPEAKING))
def test_every_kind_of_head_bears_a_batch_without_its_task(name, make_network, make_batch):
    network = make_network(dataclasses.replace(CONFIG, head=Part("multi_task", {"tasks": TASKS, "head": name})))
    batch = of_tasks(make_batch(network), torch.ones(4, dtype=torch.long))
    found = network.losses(batch, torch.Generator().manual_seed(0))
    found["loss"].backward()
    assert all(value.isfinite() for value in found.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
    assert [type(each) for each in network.head.heads] == [heads.get(name)] * 3
    trained = [any(p.grad is not None and p.grad.any() for p in each.parameters()) for each in network.head.heads]
    assert trained == [False, True, False], "tasks that no row has learn nothing"
    assert network.predict(batch).actions.shape == (4, 3, 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "a multi_task head needs tasks: training takes them from its data, or set its option tasks"),
        ({"tasks": ["pick", "put", "pick"]}, "tasks of a multi_task head are named twice: pick"),
        ({"tasks": TASKS, "head": "multi_task"}, "cannot use the head 'multi_task' for each task: it is itself multi-task"),
        ({"tasks": TASKS, "head": "flow_expert", "options": {"layerwise": True}}, "reads the layers of the fusion"),
    ],
)
def test_what_cannot_be_is_named(options, message, make_network):
    with pytest.raises(ConfigError, match=message):
        make_network(dataclasses.replace(CONFIG, head=Part("multi_task", options)))


def test_a_classifier_without_an_objective_is_refused_and_the_reverse(make_network):
    with pytest.raises(ConfigError, match=r"has a task classifier, .* add objectives.task_classification"):
        make_network(CONFIG.with_objectives(task_classification=None))
    with pytest.raises(ConfigError, match="task_classification trains the classifier of a head"):
        make_network(dataclasses.replace(CONFIG, head=Part("regression")))
