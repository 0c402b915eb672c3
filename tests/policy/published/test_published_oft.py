"""OpenVLA-OFT by its files, against a slow reference over transformers' Llama without a causal mask."""

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from openvla_checkpoints import (
    ACTION,
    CHUNK,
    HEAD_WEIGHTS,
    PROPRIO_WEIGHTS,
    SIDE,
    STATE,
    WEIGHTS,
    WIDTH,
    prompt_ids,
    statistics,
    write_oft,
)  # fmt: skip
from PIL import Image
from published_checkpoints import observation

import verbot
from verbot.errors import ConfigError, CorruptFileError, SpecError
from verbot.policy.published.tensorflow_images import center_crop, lanczos

transformers = pytest.importorskip("transformers")
pytest.importorskip("tokenizers")
CAMERAS = ("full_image", "wrist_image")
SEEN = observation(CAMERAS, STATE, instruction="Pick up the CUBE")
OTHER = observation(CAMERAS, STATE, seed=3, instruction="push", size=(SIDE, SIDE))
SLOTS = CHUNK * ACTION


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return verbot.load_policy(f"hf:{write_oft(tmp_path_factory.mktemp('oft'))}")


def lanczos3(x):
    return 1.0 if x == 0 else 0.0 if abs(x) >= 3 else 3 * np.sin(np.pi * x) * np.sin(np.pi * x / 3) / (np.pi * x) ** 2


def slow_lanczos(image, height, width):
    """Each output pixel by its own sum, as ScaleAndTranslate of TensorFlow."""
    axes = []
    for size, out in ((image.shape[0], height), (image.shape[1], width)):
        scale = size / out
        widened, rows = max(scale, 1), []
        for i in range(out):
            weights = np.array([lanczos3((j + 0.5 - (i + 0.5) * scale) / widened) for j in range(size)])
            rows.append(weights / weights.sum())
        axes.append(rows)
    return np.array([[sum(r[y] * c[x] * image[y, x].astype(float) for y in range(image.shape[0]) for x in range(image.shape[1]))
                      for c in axes[1]] for r in axes[0]])  # fmt: skip


def slow_crop(image, side):
    """As CropAndResize of TensorFlow, from [0, 1] and back to uint8."""
    out, share = np.zeros((side, side, 3), np.uint8), np.sqrt(0.9)
    for y in range(side):
        for x in range(side):
            v = [
                (1 - share) / 2 * (n - 1) + i * share * (n - 1) / (side - 1)
                for i, n in ((y, image.shape[0]), (x, image.shape[1]))
            ]
            (top, left), (fy, fx) = np.floor(v).astype(int), np.mod(v, 1)
            bottom, right = np.ceil(v).astype(int)
            rows = [image[a, left] * (1 - fx) + image[a, right] * fx for a in (top, bottom)]
            value = np.clip((rows[0] * (1 - fy) + rows[1] * fy) / 255, 0, 1)
            out[y, x] = np.floor(value * 255.5)
    return out


def reference_pixels(image):
    if image.shape[:2] != (SIDE, SIDE):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=95)
        resized = slow_lanczos(np.asarray(Image.open(buffer)), SIDE, SIDE)
        image = np.clip(np.round(resized), 0, 255).astype(np.uint8)
    x = slow_crop(image, SIDE).astype(np.float32) / 255
    scaled = [(x - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225]), (x - 0.5) / 0.5]
    return torch.from_numpy(np.concatenate([each.transpose(2, 0, 1) for each in scaled]).astype(np.float32))


def linear(weights, name, x):
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def norm(weights, name, x):
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])


@torch.no_grad()
def reference_action(policy, seen):
    """Normalized actions (k, a) of one observation; the patches are those of the network, which OpenVLA's test checks."""
    config = transformers.LlamaConfig(
        vocab_size=32064, hidden_size=WIDTH, intermediate_size=28, num_attention_heads=4, num_key_value_heads=4,
        num_hidden_layers=2, rms_norm_eps=1e-6, tie_word_embeddings=False, attn_implementation="eager",
    )  # fmt: skip
    llama = transformers.LlamaForCausalLM(config).eval()
    llama.load_state_dict({n.removeprefix("language_model."): v for n, v in WEIGHTS.items() if n.startswith("language_model.")})
    pixels = torch.cat([reference_pixels(seen.images[name]) for name in CAMERAS])
    patches = policy.network.patches(pixels[None])[0]
    table = statistics(5)["proprio"]
    low, high = np.array(table["q01"]), np.array(table["q99"])
    state = torch.tensor(np.clip(2 * (seen.state - low) / (high - low + 1e-8) - 1, -1, 1), dtype=torch.float32)
    state = linear(PROPRIO_WEIGHTS, "module.fc2", F.gelu(linear(PROPRIO_WEIGHTS, "module.fc1", state)))
    prompt = prompt_ids(f"In: What action should the robot take to {seen.instruction.lower()}?\nOut:")
    words = llama.get_input_embeddings()(torch.tensor([*prompt, 2]))
    sequence = torch.cat([words[:1], patches, state[None], words[1:-1], torch.zeros(SLOTS, WIDTH), words[-1:]])
    n = len(sequence)
    hidden = llama.model(inputs_embeds=sequence[None], attention_mask=torch.zeros(1, 1, n, n)).last_hidden_state[0]
    first = n - 1 - SLOTS - 1  # one before the first placeholder
    x = hidden[first : first + SLOTS].reshape(CHUNK, ACTION * WIDTH)
    x = F.relu(linear(HEAD_WEIGHTS, "module.model.fc1", norm(HEAD_WEIGHTS, "module.model.layer_norm1", x)))
    for i in range(2):
        block = f"module.model.mlp_resnet_blocks.{i}.ffn."
        x = x + F.relu(linear(HEAD_WEIGHTS, f"{block}1", norm(HEAD_WEIGHTS, f"{block}0", x)))
    return linear(HEAD_WEIGHTS, "module.model.fc2", norm(HEAD_WEIGHTS, "module.model.layer_norm2", x))


def test_every_weight_of_the_parts_is_in_its_place(policy):
    state = policy.network.state_dict()
    wanted = {f"action_head.{name.removeprefix('module.model.')}": value for name, value in HEAD_WEIGHTS.items()}
    wanted |= {f"proprio_projector.{name.removeprefix('module.')}": value for name, value in PROPRIO_WEIGHTS.items()}
    assert {name for name in state if name.startswith(("action_head", "proprio"))} == set(wanted)
    assert all(torch.equal(state[name], value) for name, value in wanted.items())


def test_observations_become_the_actions_of_the_reference(policy):
    chunks = policy.predict([SEEN, OTHER])  # prompts of different lengths
    table = statistics(5)["action"]
    low, high, mask = (np.array(table[name]) for name in ("q01", "q99", "mask"))
    for chunk, seen in zip(chunks, (SEEN, OTHER), strict=True):
        normal = reference_action(policy, seen).numpy()
        assert np.allclose(chunk.values, np.where(mask, 0.5 * (normal + 1) * (high - low + 1e-8) + low, normal), atol=1e-5)


def test_every_token_reads_the_ones_after_it(policy):
    inputs = policy.parts.processing.inputs([(SEEN,)])
    changed = {**inputs, "tokens": inputs["tokens"].clone()}
    changed["tokens"][0, -1] = 7  # the end of the text, after all that is read
    with torch.no_grad():
        assert (policy.network.act(inputs, []) - policy.network.act(changed, [])).abs().max() > 1e-6


def test_images_are_resized_as_by_tensorflow():
    image = SEEN.images["full_image"]
    for size in ((SIDE, SIDE), (4, 3), (11, 9)):
        assert np.allclose(lanczos(image, *size), slow_lanczos(image, *size), atol=1e-3)
    assert np.array_equal(center_crop(image, 0.9, SIDE), slow_crop(image, SIDE))


def test_its_loss_reaches_the_state(tmp_path):
    own = verbot.load_policy(f"hf:{write_oft(tmp_path)}")
    inputs = own.parts.processing.inputs([(SEEN,)])
    own.network.losses(inputs, torch.zeros(1, CHUNK, ACTION), torch.ones(1, CHUNK), None)["action"].backward()
    assert own.network.proprio_projector.fc1.weight.grad.abs().sum() > 0


def test_without_a_state_it_reads_none(tmp_path):
    own = verbot.load_policy(f"hf:{write_oft(tmp_path, proprio=False)}")
    assert own.spec.state_size == 0
    assert own.predict([observation(CAMERAS, 0)])[0].values.shape == (CHUNK, ACTION)


def test_a_missing_camera_is_named(policy):
    with pytest.raises(SpecError, match="needs camera 'wrist_image'"):
        policy.predict([observation(("full_image",), STATE)])


FC1 = "module.model.fc1.bias"


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ({**HEAD_WEIGHTS, "module.model.fc3.bias": torch.ones(1)}, "holds action_head:module.model.fc3.bias, which this model"),
        ({n: v for n, v in HEAD_WEIGHTS.items() if n != FC1}, "among them action_head.fc1.bias"),
        ({**HEAD_WEIGHTS, FC1: torch.ones(3)}, r"action_head:module.model.fc1.bias has shape \(3,\)"),
        ({**HEAD_WEIGHTS, "model.fc1.bias": HEAD_WEIGHTS[FC1]}, "which is the same weight as"),
        ({"a": {"b": torch.ones(1)}}, "holds no table of tensors"),
    ],
)
def test_other_parts_are_refused_by_name(tmp_path, head, said):
    with pytest.raises(CorruptFileError, match=said):
        verbot.load_policy(f"hf:{write_oft(tmp_path, head)}")


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def test_code_in_a_part_is_not_run(tmp_path, capsys):
    write_oft(tmp_path)
    torch.save({"a": Evil()}, tmp_path / "action_head--150000_checkpoint.pt")
    with pytest.raises(CorruptFileError, match="cannot be read as tensors"):
        verbot.load_policy(f"hf:{tmp_path}")
    assert "run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("vision_backbone--1_checkpoint.pt", "with FiLM, which verbot does not compute"),
        ("noisy_action_projector--1_checkpoint.pt", "with a diffusion head"),
        ("action_head--2_checkpoint.pt", "expected one action_head"),
    ],
)
def test_other_parts_of_the_training_are_refused(tmp_path, file, said):
    write_oft(tmp_path)
    torch.save({"a": torch.ones(1)}, tmp_path / file)
    with pytest.raises(ConfigError, match=said):
        verbot.load_policy(f"hf:{tmp_path}")


def test_what_the_files_do_not_say_is_asked_for(tmp_path):
    head = {name: value for name, value in HEAD_WEIGHTS.items() if "fc2" not in name}
    head |= {"module.model.fc2.weight": torch.ones(6, 12), "module.model.fc2.bias": torch.ones(6)}
    with pytest.raises(
        ConfigError, match="6 numbers of an action and 8 of a state, of no published robot; write num_actions_chunk"
    ):
        verbot.load_policy(f"hf:{write_oft(tmp_path / 'a', head)}")
    with pytest.raises(ConfigError, match="num_images_in_input is 4"):
        verbot.load_policy(f"hf:{write_oft(tmp_path / 'b', num_images_in_input=4)}")
    own = verbot.load_policy(f"hf:{write_oft(tmp_path / 'c', num_actions_chunk=3, num_images_in_input=1)}")
    assert own.predict([observation(("full_image",), STATE)])[0].values.shape == (3, ACTION)


def test_saved_and_loaded_it_answers_the_same_bits(tmp_path):
    own = verbot.load_policy(f"hf:{write_oft(tmp_path / 'a')}")
    own.save(tmp_path / "b")
    assert np.array_equal(own.predict([SEEN])[0].values, verbot.load_policy(f"hf:{tmp_path / 'b'}").predict([SEEN])[0].values)
    with torch.no_grad():
        own.network.action_head.fc2.bias.add_(1)
    own.save(tmp_path / "c")
    assert np.array_equal(own.predict([SEEN])[0].values, verbot.load_policy(f"hf:{tmp_path / 'c'}").predict([SEEN])[0].values)
