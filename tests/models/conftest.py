"""One small robot, its networks and batches, for every test of networks."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from verbot.models.network import NetworkConfig, VLANetwork
from verbot.models.registries import (
    Objective,
    Part,
    action_encoders,
    contrastive_losses,
    fusions,
    goal_encoders,
    heads,
    language_encoders,
    memories,
    state_encoders,
    vision_encoders,
)  # fmt: skip
from verbot.models.tokens import Batch, Captions, Masked
from verbot.spec import Camera, Component, RobotSpec

sys.path.insert(0, str(Path(__file__).parent))

REGISTRIES = {
    "vision": vision_encoders,
    "language": language_encoders,
    "state": state_encoders,
    "goal": goal_encoders,
    "previous_action": action_encoders,
    "fusion": fusions,
    "memory": memories,
    "head": heads,
}
TEXTS = ("pick up the red cube", "push the green ball to the left", "put it in the box. stop", "stop")


def component(name: str, kind: str, size: int, low: float = -1.0) -> Component:
    return Component(name, kind, tuple(f"{name}{i}" for i in range(size)), "1", "base", (low,) * size, (1.0,) * size)


SPEC = RobotSpec(
    "tiny",
    10.0,
    (Camera("front", 16, 16), Camera("wrist", 16, 16)),
    (component("ee_position", "position", 3), component("gripper", "gripper", 1, 0.0)),
    (
        component("position_delta", "position_delta", 3),
        component("turn", "quaternion", 4),
        component("speed", "velocity", 2),
        component("gripper", "gripper", 1, 0.0),
    ),
)
FEW = {"frames": 3}
SHORT = {"temporal": FEW, "chain": {"parts": [{"name": "external"}, {"name": "temporal", "options": FEW}]}}  # sequences of four
# Options without which a part cannot be built, for images of 16×16.
NEEDED = {"multi_task": {"tasks": ["pick", "push", "put"]}, "efficientnet_lite0": {"strides": [4, 8]}}
SPEAKING = {"action_tokens", "fast"}  # heads whose actions are words
SPEAKS = Part(
    "vlm", {"trunk": {"name": "tiny", "options": {"width": 16, "layers": 1, "heads": 2, "key_heads": 1, "reserved": 1100}}}
)
BASE = NetworkConfig(width=16, chunk=3, fusion=Part("mlp", {"hidden": 32}))


def contrasting(kind: str) -> NetworkConfig:
    return BASE.with_objectives(contrastive=Objective(1.0, {"kind": kind}))


def variants() -> list[tuple[str, NetworkConfig]]:
    """The default network with every registered part in its place, and a few with other choices."""

    def changed(label: str, name: str) -> NetworkConfig:
        if label == "memory":
            return dataclasses.replace(BASE, memory=Part(name, SHORT.get(name, {})), sequence=4)
        if name == "fast":
            chunks = np.random.default_rng(0).normal(size=(40, BASE.chunk, SPEC.action_size)).astype(np.float32)
            return dataclasses.replace(BASE, backbone=SPEAKS, head=Part(name, heads.get(name).fit({"vocab_size": 400}, chunks)))
        base = BASE.with_objectives(task_classification=0.1) if name == "multi_task" else BASE
        base = dataclasses.replace(BASE, backbone=SPEAKS) if label == "head" and name in SPEAKING else base
        return dataclasses.replace(base, **{label: Part(name, NEEDED.get(name, {}))})

    found = [(f"{label}={name}", changed(label, name)) for label, registry in REGISTRIES.items() for name in registry.names()]
    past = dataclasses.replace(BASE, history=2)
    keypoint_memory = dataclasses.replace(BASE.with_objectives(keypoint_memory=1.0), sentence_norm=True)
    layerwise = dataclasses.replace(
        BASE, fusion=Part("concat", {"hidden": 0}), head=Part("flow_expert", {"hidden": 16, "layerwise": True})
    )
    overview = dataclasses.replace(layerwise, fusion=Part("concat", {"hidden": 0, "overview": 2}))
    tasks, value = dataclasses.replace(BASE, task_embeddings=3), BASE.with_objectives(value=0.5)
    grasp, contrastive = BASE.with_objectives(grasp_state=1.0), {name: contrasting(name) for name in contrastive_losses.names()}
    readings = dataclasses.replace(BASE, fusion=Part("mlp", {"hidden": 32, "readings": 2}))
    others = {
        **contrastive, "history=2": past, "keypoint_memory": keypoint_memory, "layerwise": layerwise, "overview": overview,
        "tasks": tasks, "value": value, "grasp": grasp, "readings": readings,
    }  # fmt: skip
    return [*found, *others.items()]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with an argument `variant` runs on every registered part."""
    if "variant" in metafunc.fixturenames:
        cases = variants()
        metafunc.parametrize("variant", [c for _, c in cases], ids=[label for label, _ in cases])


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("VERBOT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def spec() -> RobotSpec:
    return SPEC


@pytest.fixture
def make_network() -> Callable[[NetworkConfig], VLANetwork]:
    return lambda config=BASE: VLANetwork(config.fit(list(TEXTS)), SPEC)


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    return draw_batch


def draw_batch(network: VLANetwork, rows: int = 4, seed: int = 0) -> Batch:
    """Everything valid, everything random."""
    g = torch.Generator().manual_seed(seed)
    t, k = network.config.history, network.config.chunk
    turn = torch.nn.functional.normalize(torch.randn(rows, k, 4, generator=g), dim=-1)
    gripper = torch.randint(0, 2, (rows, k, 1), generator=g).float()
    said = torch.arange(2 * rows) % rows
    captions = Captions(said, network.backbone.prepare([TEXTS[i] for i in (3 * said + 1) % 4]), torch.arange(2 * rows) < rows)
    actions = [torch.randn(rows, k, 3, generator=g), turn, torch.randn(rows, k, 2, generator=g), gripper]
    places, everywhere = torch.rand(rows, 2, 3, 2, generator=g) * 2 - 1, torch.ones(rows, dtype=torch.bool)
    return Batch(
        images=torch.randint(0, 256, (rows, t, 2, 3, 16, 16), generator=g, dtype=torch.uint8),
        images_mask=torch.ones(rows, t, 2, dtype=torch.bool),
        state=torch.randn(rows, t, 4, generator=g),
        state_mask=torch.ones(rows, t, dtype=torch.bool),
        text=network.backbone.prepare([TEXTS[i % len(TEXTS)] for i in range(rows)]),
        actions=torch.cat(actions, -1),
        actions_mask=torch.ones(rows, k, dtype=torch.bool),
        targets={
            "keypoints": Masked(places, torch.ones(rows, 2, 3, dtype=torch.bool)),
            "known_keypoints": Masked(places, torch.ones(rows, 2, 3, dtype=torch.bool)),
            "steps_left": Masked(torch.randint(0, 40, (rows,), generator=g), everywhere.clone()),
            "task": Masked(torch.arange(rows) % 3, everywhere.clone()),
            "grasp_state": Masked(torch.randn(rows, 4, generator=g), everywhere.clone()),
        },
        goal=torch.randint(0, 256, (rows, 3, 16, 16), generator=g, dtype=torch.uint8) if network.config.goal else None,
        goal_mask=torch.ones(rows, dtype=torch.bool) if network.config.goal else None,
        captions=captions if "contrastive" in network.objectives else None,
        previous_action=Masked(torch.randn(rows, 10, generator=g), everywhere.clone())
        if network.config.previous_action
        else None,
    )
