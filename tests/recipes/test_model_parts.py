"""The stated parts of each recipe: by name, in the built network, and reached by its loss."""

from __future__ import annotations

import pytest
import torch
from model_networks import batch_for, learned, network_of, reached

from verbot.models.network import NetworkConfig
from verbot.models.registries import (
    fusions,
    goal_encoders,
    heads,
    language_encoders,
    memories,
    state_encoders,
    vision_encoders,
)  # fmt: skip
from verbot.recipes import recipes
from verbot.recipes.config import Imitation, resolve

REGISTRIES = {
    "vision": vision_encoders, "language": language_encoders, "state": state_encoders, "fusion": fusions, "head": heads,
    "goal": goal_encoders, "memory": memories,
}  # fmt: skip
PLAIN = ("task_embeddings", "history", "sequence")
USUAL = {"action": 1.0, "keypoints": 1.0, "grounding_queries": 1.0}
ALWAYS = {"vision", "language", "sentence", "state", "fusion", "head"}  # what every network that acts has and trains
STARTER = "query_conv minilm concat regression"

# Vision, language, fusion and head; then what else is wired in. Kills: every recipe without one of its parts.
PARTS = {
    "act": "hf_vision minilm concat cvae decay=0.01",
    "act-paper": "hf_vision minilm concat cvae decay=0.01",
    "actions": "film_conv word_embedding mlp latent head.pretrain=True no.keypoints no.grounding_queries",
    "clip-clip": "hf_vision hf_language mlp regression vision.patches=False task_embeddings=8",
    "contrastive": f"{STARTER} contrastive=1.0 no.action no.keypoints no.grounding_queries captions=2",
    "film-policy": "film_conv minilm film regression",
    "full-hour": f"{STARTER} dagger=4",
    "goal-conditioned": f"{STARTER} vision.by_place=True goal=goal_conv goal_image=0.33",
    "memory": f"{STARTER} keypoint_memory=1.0",
    "memory-vla": "vit minilm stack sequence memory=chain(external,temporal) sequence=4",
    "multi-task": "query_conv minilm concat multi_task task_classification=0.1",
    "multi-task-net": f"{STARTER} grasp_state=0.1 cotraining=navigation-rover({STARTER})",
    "navigation": "query_conv word_embedding mlp regression",
    "occluded": STARTER,
    "octo": "vit minilm readout diffusion goal=goal_conv history=2 goal_image=0.2",
    "octo-base-paper": "vit minilm readout diffusion goal=goal_conv history=2 goal_image=0.5",
    "octo-small-paper": "vit minilm readout diffusion goal=goal_conv history=2 goal_image=0.5",
    "oft": "query_conv vlm(tiny) regression head.per_number=True",
    "pi0": "vit minilm concat flow_expert head.layerwise=True",
    "pi0-lm": "query_conv vlm(tiny) flow_expert head.joint=True",
    "pi0-paper": "hf_vision word_embedding concat flow_expert head.layerwise=True",
    "relations": "query_conv word_embedding concat regression",
    "resnet-bert": "hf_vision minilm cross_attention regression value=0.1",
    "rt1": "hf_vision minilm temporal bins vision.film=True history=2",
    "rt1-paper": "hf_vision minilm temporal bins vision.film=True head.pooled=True history=6",
    "rt2": "object_graph vlm(tiny) action_tokens text=1.0",
    "sentences": STARTER,
    "starter": STARTER,
    "starter-long": STARTER,
    "starter-random": f"{STARTER} camera_dropout=0.5",
    "tiny": "film_conv word_embedding mlp regression",
    "visits": f"{STARTER} memory=external keypoint_memory=1.0 sequence=4",
    "vit-vla": "vit minilm concat regression",
    "vlm-pretrained": "query_conv vlm(hf) regression",
}
# Children of the network that the loss reaches beside those of every network, or in their place.
REACHED = {
    "actions": {"head"},
    "clip-clip": ALWAYS | {"task_embeddings"},
    "contrastive": {"vision", "language", "sentence", "objectives"},
    "goal-conditioned": ALWAYS | {"goal"},
    "memory": ALWAYS | {"objectives"},
    "memory-vla": ALWAYS | {"memory"},
    "multi-task-net": ALWAYS | {"objectives"},
    "octo": ALWAYS | {"goal"},
    "oft": ALWAYS | {"trunk"},
    "pi0-lm": ALWAYS | {"trunk"},
    "resnet-bert": ALWAYS | {"objectives"},
    "rt2": ALWAYS - {"head"} | {"trunk"},
    "visits": ALWAYS | {"memory", "objectives"},
}
# Parameters that are built and not read: the norm of a class token that is not used, and the layer after the last that is.
UNREAD = {
    "actions": ("head.tell.",),  # learns once there is something to see
    "clip-clip": ("vision.tower.model.post_layernorm.",),
    "pi0": ("fusion.blocks.2.", "fusion.norm."),
    "pi0-lm": (
        *(
            f"trunk.decoder.layers.2.{part}."
            for part in ("self_attn.q_proj", "self_attn.o_proj", "post_attention_layernorm", "mlp")
        ),
        "trunk.decoder.norm.",
    ),
}
# The last needs its language model; test_vlm_pretrained.py builds it with a small one.
BUILT = [name for name in PARTS if not name.endswith("-paper") and name != "vlm-pretrained"]


def four(network: NetworkConfig) -> str:
    if network.backbone.name == "vlm":
        return f"{network.vision.name} vlm({network.backbone.options.get('trunk', {'name': 'tiny'})['name']}) {network.head.name}"
    return " ".join(getattr(network, part).name for part in ("vision", "language", "fusion", "head"))


def stated(name: str) -> str:
    """The parts of a recipe as `PARTS` states them, from its configuration."""
    run = resolve(name)
    network, augment = run.training.network, run.training.augment
    found = [four(network)]
    assert network.state.name == "proprioception"
    for part in ("vision", "language", "fusion", "head"):
        options = getattr(network, part).options
        found += [f"{part}.{option}={value}" for option, value in options.items() if isinstance(value, bool)]
    if network.memory:
        inside = ",".join(part["name"] for part in network.memory.options.get("parts", ()))
        found.append(f"memory={network.memory.name}" + (f"({inside})" if inside else ""))
    found += [f"{part}={getattr(network, part).name}" for part in ("goal", "previous_action") if getattr(network, part)]
    plain = NetworkConfig()
    found += [f"{field}={getattr(network, field)}" for field in PLAIN if getattr(network, field) != getattr(plain, field)]
    found += [f"{name}={o.weight}" for name, o in network.objectives.items() if o.weight != USUAL.get(name)]
    found += [f"no.{name}" for name in USUAL if name not in network.objectives]
    found += [f"{field}={x}" for field in ("goal_image", "captions", "camera_dropout") if (x := getattr(augment, field))]
    found += [f"cotraining={other.robot}({four(other.network)})" for other in run.training.cotraining]
    found += [f"dagger={rounds}"] if (rounds := run.training.dagger.rounds) else []
    found += [f"decay={run.evaluation.decay}"] if run.evaluation.decay is not None else []
    return " ".join(found)


def test_every_recipe_states_its_parts():
    imitating = {name for name in recipes.names() if isinstance(resolve(name).stages[0], Imitation)}
    assert set(PARTS) == imitating


@pytest.mark.parametrize("name", PARTS)
def test_a_recipe_has_the_parts_that_it_states(name):
    assert sorted(stated(name).split()) == sorted(PARTS[name].split())


@pytest.mark.parametrize("name", BUILT)
def test_the_loss_of_a_recipe_reaches_each_of_its_parts_and_no_other(name):
    torch.set_num_threads(1)
    network = network_of(name)
    for part, registry in REGISTRIES.items():
        if part in ("language", "fusion") and network.config.backbone.name == "vlm":  # its trunk takes their place
            continue
        config, found = getattr(network.config, part), getattr(network if part == "head" else network.backbone, part)
        assert (found is None) == (config is None), part
        assert config is None or type(found) is registry.get(config.name), part
    losses = learned(network, batch_for(network))
    assert losses["loss"].isfinite()
    expected = REACHED.get(name, ALWAYS)
    children = {**dict(network.named_children()), **dict(network.backbone.named_children())}
    assert {child for child, module in children.items() if child != "backbone" and reached(module)} == expected
    missed = [p for p, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert [p for p in missed if p.partition(".")[0] in expected and not p.startswith(UNREAD.get(name, ()))] == []
