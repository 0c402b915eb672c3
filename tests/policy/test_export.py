"""Exported policies: graphs act as the network did, without torch, and nothing else than a graph is opened or written."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import verbot
from verbot.contracts import continuation_of
from verbot.errors import ConfigError, CorruptFileError, MissingDependencyError, PolicyError
from verbot.files import sha256
from verbot.folders import write_folder
from verbot.models.exported_text import TextRecord
from verbot.models.network import NetworkConfig
from verbot.models.registries import Part
from verbot.policy.export import onnx_graph
from verbot.policy.export.exporting import ExportConfig, export, fuse_batch_norms
from verbot.policy.export.graphs import INPUTS, GraphSource, check_exportable, sources
from verbot.policy.export.layers import in_precision
from verbot.policy.export.prune import Pruning, prune
from verbot.policy.instructions import Pieces, Words
from verbot.policy.policy import VLAPolicy
from verbot.policy.runtime import TRUST, ExtraRecord, RuntimePolicy, RuntimeRecord
from verbot.policy.runtimes import Runtime, runtimes
from verbot.policy.runtimes.onnx import OnnxRuntime
from verbot.policy.runtimes.torch_export import called
from verbot.policy.storage import MANIFEST
from verbot.policy.stored import CONFIG, state_transform
from verbot.spec import Camera, Component, Observation, RobotSpec
from verbot.statistics import Statistics

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ["pick up the red cube", "push the green ball"]


def component(name, kind, size, low=-1.0):
    return Component(name, kind, tuple(f"{name}{i}" for i in range(size)), "1", "base", (low,) * size, (1.0,) * size)


SPEC = RobotSpec("tiny", 10.0, (Camera("front", 16, 16),), (component("ee", "position", 3),),
                 (component("move", "position_delta", 3), component("gripper", "gripper", 1, 0.0)))  # fmt: skip


FEELING = dataclasses.replace(SPEC, cameras=())


def make(spec=SPEC, **parts):
    config = NetworkConfig(width=16, chunk=4, fusion=Part("mlp", {"hidden": 32}), **parts)
    rng = np.random.default_rng(0)
    numbers = Statistics.of({"state": rng.normal(size=(50, 3)), "action": np.c_[rng.uniform(-1, 1, (50, 3)), np.arange(50) % 2]})
    return VLAPolicy.create(config, spec, numbers, TEXTS)


def seen(seed, text=TEXTS[0], seeing=True, **others):
    rng = np.random.default_rng(seed)
    return Observation(
        {"front": rng.integers(0, 256, (16, 16, 3), np.uint8)}, rng.normal(size=3).astype(np.float32), text, **others
    )


SAID = [TEXTS[0], "push the green ball onto an unknown zebra", "", TEXTS[1]]
MANY = [seen(number, text) for number, text in enumerate(SAID)]
FELT = [seen(number, text, False) for number, text in enumerate(SAID)]


LAYER = np.random.default_rng(5).normal(size=(3, 16)).astype(np.float32) / 9


def placed(runtime, source, precision, feeds):
    """In place of `OnnxRuntime.write`, which takes seconds for a network: the state times `LAYER` are the actions."""
    import onnx
    from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

    assert (source.name, source.inputs, source.outputs) == ("act", INPUTS, ("actions",))
    inputs = [
        make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(each.numpy().dtype), [None] * each.ndim)
        for name, each in zip(source.inputs, source.examples, strict=True)
    ]
    weights = [onnx.numpy_helper.from_array(LAYER, "layer"), onnx.numpy_helper.from_array(np.array([-1, 4, 4]), "chunk")]
    nodes = [make_node("MatMul", ["state", "layer"], ["flat"]), make_node("Reshape", ["flat", "chunk"], ["actions"])]
    outputs = [make_tensor_value_info("actions", onnx.TensorProto.FLOAT, [None, 4, 4])]
    graph = make_graph(nodes, "act", inputs, outputs, weights)
    return {"act.onnx": make_model(graph, opset_imports=[make_opsetid("", 18)], ir_version=10).SerializeToString()}


def by_hand(policy, observation):
    """The actions of `placed`."""
    state = state_transform(policy.preprocessing, policy.spec, policy.statistics).forward(observation.state)
    return policy.action_transform.inverse((state @ LAYER).reshape(4, 4))


@pytest.fixture(scope="module")
def exported():
    """A policy and its files, with the graph of `placed`."""
    policy = make(FEELING)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OnnxRuntime, "write", placed)
        return policy, export(policy, ExportConfig("onnx"))


@pytest.fixture
def folder(exported, tmp_path):
    write_folder(tmp_path / "policy", exported[1])
    return tmp_path / "policy"


def check_same(policy, other, many=MANY):
    for rows in (many, many[:1]):
        for one, two in zip(policy.predict(rows), other.predict(rows), strict=True):
            assert np.abs(one.values - two.values).max() < 1e-5
            assert one.extras.keys() == two.extras.keys()
            assert all(np.abs(values - two.extras[name]).max() < 1e-5 for name, values in one.extras.items())


def test_a_graph_gets_what_the_network_gets_whatever_the_batch(exported, folder):
    found = verbot.load_policy(folder)
    assert isinstance(found, RuntimePolicy) and set(found.graphs) == {"act"}
    assert isinstance(found, verbot.Policy) and len(found.identity) == 64 and continuation_of(found) == ""
    for rows in (FELT, FELT[:1]):
        for one, chunk in zip(rows, found.predict(rows), strict=True):
            assert np.allclose(chunk.values, by_hand(exported[0], one), atol=1e-5)
    planned = dataclasses.replace(FELT[0], planned=np.ones((4, 4), np.float32), committed=2)
    assert (found.predict([planned])[0].values == found.predict(FELT[:1])[0].values).all()  # as `continuation_of` says
    with pytest.raises(ConfigError, match="most likely"):
        found.predict([seen(0, seeing=False, sample_seed=1)])


HEADS = [
    ("regression", {}),
    ("bins", {}),
    ("flow", {"steps": 3}),
    ("flow_expert", {}),
    ("diffusion", {}),
    ("diffusion", {"predict": "noise", "steps": 3}),
]


@pytest.mark.parametrize(("head", "options"), HEADS)
def test_graphs_act_as_the_network(head, options):
    """The graphs are called as modules here; `test_every_kind_acts_as_the_network` writes them."""
    policy = make(head=Part(head, options))
    batch = policy.collate_observations(MANY[:3], [policy.preprocess(each) for each in MANY[:3]])
    made, extras, schedule = sources(policy.network, batch)
    text = policy.network.backbone.language.exported_text().record
    shown = {name: ExtraRecord(each.space, each.names) for name, each in extras.items()}
    record = RuntimeRecord("onnx", "fp32", text, (4, 4), (16, 16), extras=shown, schedule=schedule)
    graphs = {each.name: called(each.module, each.inputs, each.outputs) for each in made}
    found = RuntimePolicy(record, SPEC, policy.statistics, policy.preprocessing, graphs, Words(text))
    check_same(policy, found)
    if not schedule:
        return
    drawn = [found.predict([seen(0, sample_seed=seed)])[0].values for seed in (1, 1, 2)]
    assert (drawn[0] == drawn[1]).all() and not (drawn[0] == drawn[2]).all()


@pytest.mark.soak
@pytest.mark.parametrize("head", ["regression", "bins", "cvae", "latent", "flow", "flow_expert", "diffusion"])
@pytest.mark.parametrize("to", ["onnx", "openvino", "torch-export", "aoti"])
def test_every_kind_acts_as_the_network(to, head):
    policy = make(head=Part(head))
    check_same(policy, RuntimePolicy.of(export(policy, ExportConfig(to)), Path("p"), trusted=True))


def test_an_exported_policy_acts_where_torch_is_not_installed(exported, folder):
    code = (
        "import sys, numpy as np, verbot\n"
        f"policy = verbot.load_policy({str(folder)!r})\n"
        "seen = verbot.Observation({}, np.zeros(3, np.float32), 'pick up the red cube')\n"
        "print(policy.predict([seen])[0].values.tolist(), 'torch' in sys.modules)"
    )
    env = {**os.environ, "VERBOT_TEST_MISSING": "torch,onnx,onnxscript,openvino,tokenizers,mujoco",
           "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "tests" / "without", ROOT / "src")))}  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    values, _, loaded = done.stdout.strip().rpartition(" ")
    blank = Observation({}, np.zeros(3, np.float32), TEXTS[0])
    assert loaded == "False" and np.allclose(json.loads(values), by_hand(exported[0], blank), atol=1e-5)


def test_a_damaged_folder_is_named(folder):
    changed = bytearray((folder / "act.onnx").read_bytes())
    changed[100] ^= 1
    (folder / "act.onnx").write_bytes(changed)
    with pytest.raises(CorruptFileError, match=r"act\.onnx"):
        verbot.load_policy(folder)


def reopened(files, **runtime):
    record = json.loads(files[CONFIG])
    return RuntimePolicy.of(
        {**files, CONFIG: json.dumps({**record, "runtime": {**record["runtime"], **runtime}}).encode()}, Path("p")
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"chunk": [4, 7]}, "actions of 4"),
        ({"chunk": "four"}, "chunk"),
        ({"image_size": [99999, 99999]}, "image_size"),
        ({"schedule": [[0.0], [0.0, 1.0]]}, "equally many"),
        ({"kind": "abacus"}, "abacus"),
        ({"text": {"kind": "smoke", "most": 5}}, "smoke"),
    ],
)
def test_a_wrong_record_is_one_line(exported, wrong, said):
    with pytest.raises(verbot.VerbotError, match=said):
        reopened(exported[1], **wrong)


def test_files_that_run_as_programs_are_opened_only_where_they_are_trusted(exported, monkeypatch):
    monkeypatch.delenv(TRUST, raising=False)
    for kind in ("torch-export", "aoti"):
        with pytest.raises(PolicyError, match=TRUST):
            reopened(exported[1], kind=kind)
    monkeypatch.setenv(TRUST, "1")
    with pytest.raises(PolicyError, match=r"act\.pt2"):
        reopened(exported[1], kind="torch-export")


def test_what_cannot_be_exported_is_named_before_anything_is_made():
    policy = make(head=Part("sequence"), previous_action=Part("action"), history=2)
    with pytest.raises(PolicyError, match=r"previous_action 'action', a history of 2 frames, head 'sequence'"):
        check_exportable(policy.config, policy.network)
    policy = make(memory=Part("recurrent"), sequence=2)
    with pytest.raises(PolicyError, match=r"a policy with memory 'recurrent' cannot be exported"):
        check_exportable(policy.config, policy.network)
    with pytest.raises(ConfigError, match="has no precision 'int8-static'"):
        ExportConfig("torch-export", "int8-static")
    with pytest.raises(ConfigError, match="recorded observations"):
        export(make(), ExportConfig("onnx", "int8-static"))


def test_aoti_names_the_compiler_that_it_lacks(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    runtime: Runtime = runtimes.get("aoti")()
    with pytest.raises(MissingDependencyError, match="no-such-compiler"):
        runtime.write(GraphSource("act", nn.Identity(), (), (), ()), "fp32", ())


class Small(nn.Module):
    """Two products after the first convolution and two before the last."""

    def __init__(self):
        super().__init__()
        self.see, self.look = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3)
        self.think, self.act = nn.Linear(16, 64), nn.Linear(64, 4)

    def forward(self, images):
        return self.act(torch.relu(self.think(torch.relu(self.look(torch.relu(self.see(images)))).mean((2, 3)))))


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    source = GraphSource("act", Small().eval(), ("images",), ("actions",), (torch.rand(3, 3, 12, 12),))
    return source, onnx_graph.to_onnx(source, "fp32", ())


@pytest.mark.parametrize("precision", ["bf16", "int8-weights", "int8-dynamic", "int8-static"])
def test_a_precision_is_smaller_and_near(small, precision):
    import onnx

    _, plain = small
    feeds = [{"images": np.random.default_rng(seed).random((1, 3, 12, 12), np.float32)} for seed in range(4)]
    made = onnx_graph.in_precision(onnx.load_from_string(plain), precision, feeds).SerializeToString()
    runtime = runtimes.get("onnx")()
    graphs = [runtime.open("act", {"act.onnx": data}, precision) for data in (plain, made)]
    one, other = (graph(feeds[0])["actions"] for graph in graphs)
    assert 0 < np.abs(one - other).max() < 0.05
    stored = {each.name: each.data_type for each in onnx.load_from_string(made).graph.initializer}
    assert stored["module.see.weight" if "module.see.weight" in stored else "see.weight"] == onnx.TensorProto.FLOAT
    assert any(kind in (onnx.TensorProto.INT8, onnx.TensorProto.BFLOAT16) for kind in stored.values())


def test_the_first_and_the_last_product_stay_in_full_precision(small):
    import onnx

    model = onnx.load_from_string(small[1])
    kept = onnx_graph.kept_in_fp32(model)
    weights = sorted(node.input[1] for node in model.graph.node if node.name in kept)
    assert len(kept) == 2 and any("see" in name for name in weights) and not any("look" in name for name in weights)


@pytest.mark.parametrize("precision", ["bf16", "int8-weights"])
def test_layers_of_torch_in_another_precision(precision):
    torch.manual_seed(0)
    genuine, images = Small().eval(), torch.rand(2, 3, 12, 12)
    made = in_precision(genuine, precision)
    assert made.see.weight.dtype == torch.float32 and type(made.look) is not nn.Conv2d and type(genuine.look) is nn.Conv2d
    with torch.no_grad():
        difference = (made(images) - genuine(images)).abs().max()
        assert 0 < difference < 0.02 and torch.allclose(made.look.weight, genuine.look.weight, atol=0.01)


def test_pruning_takes_the_smallest_weights_and_says_how_many():
    torch.manual_seed(0)
    network = Small()
    before = network.think.weight.detach().clone()
    found = prune(network, Pruning.parse("l1:0.25"))
    gone = network.think.weight == 0
    assert gone.sum() == 0.25 * before.numel() and before[gone].abs().max() <= before[~gone].abs().min()
    assert not (network.see.weight == 0).any() and 0 < found["zero"] < found["weights"]
    prune(network, Pruning.parse("l1-channels:0.5"))
    assert ((network.think.weight == 0).all(1) & (network.think.bias == 0)).sum() == 32
    for wrong in ("l2:0.2", "l1:1.5", "l1", "l1:many"):
        with pytest.raises(ConfigError, match="pruning is"):
            Pruning.parse(wrong)


def test_batch_norms_become_part_of_their_convolutions():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    layers[1].running_mean.uniform_()
    layers[1].running_var.uniform_(0.5, 2)
    layers.eval()
    images = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        before = layers(images)
        assert fuse_batch_norms(layers) == 1 and isinstance(layers[1], nn.Identity)
        assert torch.allclose(layers(images), before, atol=1e-5)


def test_words_are_those_of_the_network():
    policy = make()
    own = Words(policy.network.backbone.language.exported_text().record)
    texts = [*TEXTS, "", "Zebra, PICK up!", " ".join(["cube"] * 99)]
    values, mask = own.batch(texts)
    expected = policy.network.backbone.prepare(texts)
    assert (values == expected.values.numpy()).all() and (mask == expected.mask.numpy()).all()
    assert own.batch(TEXTS, equally_long=True)[0].shape == policy.network.backbone.prepare(TEXTS).equally_long(50).values.shape


def test_pieces_are_encoded_once_and_keep_half_precision():
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "cube": 1}, "[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    calls = []

    def encode(feed):
        calls.append(feed["ids"].tolist())
        return {"states": np.repeat(feed["ids"][..., None] + np.float32(1e-5), 2, -1).astype(np.float32)}

    own = Pieces(TextRecord("pieces", 8), tokenizer.to_str().encode(), encode)
    for _ in range(2):
        values, mask = own.batch(["cube cube", "Cube!", "cube."])
    assert calls == [[[1, 1]], [[1]]]
    assert values[1].tolist() == [[1, 1], [0, 0]] and mask.tolist() == [[True, True], [True, False], [True, False]]
    with pytest.raises(PolicyError, match="no tokenizer"):
        Pieces(TextRecord("pieces", 8), b"{}", encode)


def test_a_graph_takes_no_weights_from_other_files(tmp_path, monkeypatch):
    import onnx
    from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

    monkeypatch.chdir(tmp_path)
    weight = onnx.numpy_helper.from_array(np.ones((8, 8), np.float32), "w")
    (tmp_path / "secret.bin").write_bytes(weight.raw_data)
    onnx.external_data_helper.set_external_data(weight, "secret.bin")
    weight.ClearField("raw_data")
    x, y = (make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 8]) for name in "xy")
    graph = make_graph([make_node("MatMul", ["x", "w"], ["y"])], "act", [x], [y], [weight])
    data = make_model(graph, opset_imports=[make_opsetid("", 18)], ir_version=10).SerializeToString()
    with pytest.raises(PolicyError, match=r"act\.onnx is no graph .*[Ee]xternal"):
        runtimes.get("onnx")().open("act", {"act.onnx": data}, "fp32")
    pytest.importorskip("openvino")
    with pytest.raises(PolicyError, match=r"act\.xml is no graph of OpenVINO"):  # which would read it
        runtimes.get("openvino")().open("act", {"act.xml": data, "act.bin": b"0"}, "fp32")


def test_a_prediction_that_is_not_finite_does_not_leave(exported):
    policy = RuntimePolicy.of(exported[1], Path("p"))
    act = policy.graphs["act"]
    policy.graphs["act"] = lambda feed: {name: value * np.nan for name, value in act(feed).items()}
    with pytest.raises(PolicyError, match="not finite"):
        policy.predict(FELT[:1])


def test_a_copy_is_the_same_policy(folder, tmp_path):
    policy = verbot.load_policy(folder)
    policy.save(tmp_path / "copy")
    assert verbot.load_policy(tmp_path / "copy").identity == policy.identity
    listed = json.loads((tmp_path / "copy" / MANIFEST).read_text())["sha256"]
    assert listed["act.onnx"] == sha256((folder / "act.onnx").read_bytes())
