"""Diffusion Policy of LeRobot by its files, against the same computation written out with functions of torch."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from published_checkpoints import drawn, observation, resnet_shapes, statistics_of, write_lerobot

import verbot
from verbot.errors import ConfigError, CorruptFileError, SpecError
from verbot.models.published.noise import NoiseSchedule

STATE, ACTION, POINTS, TIME, WIDTHS, SIDE = 3, 2, 4, 8, (8, 16), 64
HORIZON, CHUNK = 8, 4
CONDITION = TIME + 2 * (STATE + 2 * POINTS)
CAMERAS = {"observation.images.top": (SIDE, 70)}
OPTIONS = {
    "n_obs_steps": 2, "horizon": HORIZON, "n_action_steps": CHUNK, "down_dims": list(WIDTHS), "kernel_size": 3, "n_groups": 4,
    "diffusion_step_embed_dim": TIME, "spatial_softmax_num_keypoints": POINTS, "use_group_norm": True, "num_train_timesteps": 10,
    "use_separate_rgb_encoder_per_camera": False, "crop_shape": [60, 60], "noise_scheduler_type": "DDIM",
    "num_inference_steps": 5,
    "normalization_mapping": {"VISUAL": "MEAN_STD", "STATE": "MIN_MAX", "ACTION": "MIN_MAX"},
}  # fmt: skip
SEEN = observation(("top",), STATE, size=(SIDE, 70), sample_seed=3)


def block(name, given, out):
    found = {}
    for number, before in ((1, given), (2, out)):
        found |= {f"{name}.conv{number}.block.0.weight": (out, before, 3), f"{name}.conv{number}.block.0.bias": (out,)}
        found |= {f"{name}.conv{number}.block.1.weight": (out,), f"{name}.conv{number}.block.1.bias": (out,)}
    found |= {f"{name}.cond_encoder.1.weight": (2 * out, CONDITION), f"{name}.cond_encoder.1.bias": (2 * out,)}
    if given != out:
        found |= {f"{name}.residual_conv.weight": (out, given, 1), f"{name}.residual_conv.bias": (out,)}
    return found


def shapes():
    first, last = WIDTHS
    encoder = {f"rgb_encoder.backbone.{name}": shape for name, shape in resnet_shapes("group", ("0", "1"), "{}", 4).items()}
    return {
        **encoder,
        "rgb_encoder.pool.nets.weight": (POINTS, 512, 1, 1), "rgb_encoder.pool.nets.bias": (POINTS,),
        "rgb_encoder.pool.pos_grid": (4, 2),
        "rgb_encoder.out.weight": (2 * POINTS, 2 * POINTS), "rgb_encoder.out.bias": (2 * POINTS,),
        "unet.diffusion_step_encoder.1.weight": (4 * TIME, TIME), "unet.diffusion_step_encoder.1.bias": (4 * TIME,),
        "unet.diffusion_step_encoder.3.weight": (TIME, 4 * TIME), "unet.diffusion_step_encoder.3.bias": (TIME,),
        **block("unet.down_modules.0.0", ACTION, first), **block("unet.down_modules.0.1", first, first),
        "unet.down_modules.0.2.weight": (first, first, 3), "unet.down_modules.0.2.bias": (first,),
        **block("unet.down_modules.1.0", first, last), **block("unet.down_modules.1.1", last, last),
        **block("unet.mid_modules.0", last, last), **block("unet.mid_modules.1", last, last),
        **block("unet.up_modules.0.0", 2 * last, first), **block("unet.up_modules.0.1", first, first),
        "unet.up_modules.0.2.weight": (first, first, 4), "unet.up_modules.0.2.bias": (first,),
        "unet.final_conv.0.block.0.weight": (first, first, 3), "unet.final_conv.0.block.0.bias": (first,),
        "unet.final_conv.0.block.1.weight": (first,), "unet.final_conv.0.block.1.bias": (first,),
        "unet.final_conv.1.weight": (ACTION, first, 1), "unet.final_conv.1.bias": (ACTION,),
    }  # fmt: skip


WEIGHTS = drawn(shapes())
WEIGHTS["rgb_encoder.pool.pos_grid"] = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])


def diffusion(folder, change=lambda weights: weights, **options):
    weights = change({f"diffusion.{name}": value for name, value in WEIGHTS.items()})
    write_lerobot(folder, "diffusion", weights, CAMERAS, STATE, ACTION, **{**OPTIONS, **options})
    return verbot.load_policy(f"hf:{folder}")


def test_every_weight_is_in_its_place(tmp_path):
    state = diffusion(tmp_path).network.state_dict()
    assert set(state) == set(WEIGHTS) and all(torch.equal(state[name], WEIGHTS[name]) for name in state)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: {**w, "diffusion.more": torch.ones(2)}, "holds diffusion.more, which this model does not have"),
        (lambda w: {n: v for n, v in w.items() if not n.endswith("pos_grid")}, "lacks 1 of .* rgb_encoder.pool.pos_grid"),
        (lambda w: {**w, "diffusion.rgb_encoder.pool.pos_grid": torch.ones(9, 2)}, r"pos_grid has shape \(9, 2\)"),
        (lambda w: {**w, "diffusion.unet._orig_mod.final_conv.1.bias": torch.ones(2)}, "the same weight as"),
    ],
)
def test_a_wrong_weight_is_named(tmp_path, change, said):
    with pytest.raises(CorruptFileError, match=said):
        diffusion(tmp_path, change)


# The same, written out.


def conv(name, x, **options):
    return F.conv1d(x, WEIGHTS[f"{name}.weight"], WEIGHTS[f"{name}.bias"], **options)


def conv_block(name, x):
    x = F.group_norm(conv(f"{name}.block.0", x, padding=1), 4, WEIGHTS[f"{name}.block.1.weight"], WEIGHTS[f"{name}.block.1.bias"])
    return F.mish(x)


def linear(name, x):
    return F.linear(x, WEIGHTS[f"{name}.weight"], WEIGHTS[f"{name}.bias"])


def residual(name, x, known):
    scale, shift = linear(f"{name}.cond_encoder.1", F.mish(known))[:, :, None].chunk(2, 1)
    inside = conv_block(f"{name}.conv2", scale * conv_block(f"{name}.conv1", x) + shift)
    return inside + (conv(f"{name}.residual_conv", x) if f"{name}.residual_conv.weight" in WEIGHTS else x)


def unet(x, time, condition):
    rates = [10_000 ** (-i / (TIME // 2 - 1)) for i in range(TIME // 2)]
    waves = torch.tensor([[*(math.sin(time * rate) for rate in rates), *(math.cos(time * rate) for rate in rates)]])
    step = linear("unet.diffusion_step_encoder.3", F.mish(linear("unet.diffusion_step_encoder.1", waves)))
    known, x = torch.cat([step, condition], 1), x.transpose(1, 2)
    x = first = residual("unet.down_modules.0.1", residual("unet.down_modules.0.0", x, known), known)
    x = conv("unet.down_modules.0.2", x, stride=2, padding=1)
    x = second = residual("unet.down_modules.1.1", residual("unet.down_modules.1.0", x, known), known)
    x = residual("unet.mid_modules.1", residual("unet.mid_modules.0", x, known), known)
    x = residual("unet.up_modules.0.0", torch.cat([x, second], 1), known)
    x = residual("unet.up_modules.0.1", x, known)
    x = F.conv_transpose1d(x, WEIGHTS["unet.up_modules.0.2.weight"], WEIGHTS["unet.up_modules.0.2.bias"], 2, 1)
    assert x.shape == first.shape
    return conv("unet.final_conv.1", conv_block("unet.final_conv.0", x)).transpose(1, 2)


def points(image):
    def norm(name, x):
        part = WEIGHTS[f"rgb_encoder.backbone.{name}.weight"], WEIGHTS[f"rgb_encoder.backbone.{name}.bias"]
        return F.group_norm(x, len(part[0]) // 16, *part)

    def conv2(name, x, stride=1, padding=1):
        return F.conv2d(x, WEIGHTS[f"rgb_encoder.backbone.{name}.weight"], None, stride, padding)

    x = F.max_pool2d(norm("1", conv2("0", image, 2, 3)).relu(), 3, 2, 1)
    for number in range(4, 8):
        for index in range(2):
            name, stride = f"{number}.{index}", 2 if number > 4 and index == 0 else 1
            inside = norm(f"{name}.bn2", conv2(f"{name}.conv2", norm(f"{name}.bn1", conv2(f"{name}.conv1", x, stride)).relu()))
            x = norm(f"{name}.downsample.1", conv2(f"{name}.downsample.0", x, 2, 0)) if stride == 2 else x
            x = (inside + x).relu()
    logits = F.conv2d(x, WEIGHTS["rgb_encoder.pool.nets.weight"], WEIGHTS["rgb_encoder.pool.nets.bias"]).flatten(2)
    return linear("rgb_encoder.out", (logits.softmax(-1) @ WEIGHTS["rgb_encoder.pool.pos_grid"]).flatten(1)).relu()


def reference(condition, x, schedule):
    kept = torch.cumprod(1 - torch.tensor(schedule), 0).tolist()
    for time in (8, 6, 4, 2, 0):
        noise = unet(x, time, condition)
        clean = ((x - math.sqrt(1 - kept[time]) * noise) / math.sqrt(kept[time])).clamp(-1, 1)
        before = kept[time - 2] if time else 1.0
        x = math.sqrt(before) * clean + math.sqrt(1 - before) * noise
    return x[:, 1 : 1 + CHUNK]


def squared_cosine(count):
    share = [math.cos((i / count + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(count + 1)]
    return [min(1 - share[i + 1] / share[i], 0.999) for i in range(count)]


def test_it_answers_what_the_formulas_do(tmp_path):
    policy, statistics = diffusion(tmp_path), statistics_of(tmp_path)
    before = dataclasses.replace(observation(("top",), STATE, size=(SIDE, 70), seed=8), time_s=1.0)
    now = dataclasses.replace(SEEN, time_s=1.1, memory=policy.predict([before])[0].memory)
    conditions = []
    for seen in (before, now):
        low, high = statistics["observation.state.min"], statistics["observation.state.max"]
        mean, std = (torch.from_numpy(statistics[f"observation.images.top.{kind}"])[:, None, None] for kind in ("mean", "std"))
        image = ((torch.from_numpy(seen.images["top"]).permute(2, 0, 1) / 255 - mean) / (std + 1e-8))[:, 2:62, 5:65]
        conditions += [
            torch.from_numpy((2 * (seen.state - low) / (high - low) - 1).astype(np.float32))[None],
            points(image[None]),
        ]
    noise = torch.randn(HORIZON, ACTION, generator=torch.Generator().manual_seed(3))[None]
    wanted = reference(torch.cat(conditions, 1), noise, squared_cosine(10))[0].numpy()
    low, high = statistics["action.min"], statistics["action.max"]
    found = (policy.predict([now])[0].values - low) / (high - low) * 2 - 1
    assert np.abs(found - wanted).max() < 1e-5


def test_the_first_observation_of_an_episode_is_repeated(tmp_path):
    policy = diffusion(tmp_path)
    first = policy.predict([SEEN])[0]
    again = dataclasses.replace(SEEN, time_s=0.1, memory=first.memory)
    assert np.array_equal(policy.predict([again])[0].values, first.values)
    assert 0 < sum(array.nbytes for array in first.memory.values()) <= policy.memory_bytes
    with pytest.raises(SpecError, match="this memory is of another policy"):
        policy.predict([dataclasses.replace(SEEN, memory={"time_s": np.zeros(1)})])


def test_a_batch_norm_and_an_encoder_for_each_camera(tmp_path):
    plain = {name: value for name, value in WEIGHTS.items() if not name.startswith("rgb_encoder.backbone")}
    backbone = resnet_shapes("batch", ("0", "1"), "{}", 4)
    weights = {n.replace("rgb_encoder.", "rgb_encoder.0."): v for n, v in plain.items()}
    weights |= drawn({f"rgb_encoder.0.backbone.{name}": shape for name, shape in backbone.items()})
    counters = {n.replace("running_mean", "num_batches_tracked"): torch.tensor(7) for n in weights if "running_mean" in n}
    options = {"use_group_norm": False, "use_separate_rgb_encoder_per_camera": True}
    write_lerobot(tmp_path, "diffusion", {**weights, **counters}, CAMERAS, STATE, ACTION, **{**OPTIONS, **options})
    policy = verbot.load_policy(f"hf:{tmp_path}")
    assert set(policy.network.state_dict()) == set(weights) | set(counters)
    assert policy.predict([SEEN])[0].values.shape == (CHUNK, ACTION)


def test_the_loss(tmp_path):
    policy = diffusion(tmp_path, prediction_type="epsilon")
    inputs, actions = policy.parts.processing.inputs([(SEEN, SEEN)]), torch.rand(1, HORIZON, ACTION)
    found = policy.network.losses(inputs, actions, torch.ones(1, HORIZON), torch.Generator().manual_seed(2))["action"]
    generator = torch.Generator().manual_seed(2)
    noise, time = torch.randn(1, HORIZON, ACTION, generator=generator), int(torch.randint(10, (1,), generator=generator))
    kept = math.prod(1 - beta for beta in squared_cosine(10)[: time + 1])
    condition = policy.network.condition(inputs)
    wanted = (unet(math.sqrt(kept) * actions + math.sqrt(1 - kept) * noise, time, condition) - noise).square().mean()
    assert torch.allclose(found, wanted, atol=1e-5)


def published_loop(schedule, batch=False):
    """The loop of the tests of diffusers: a model that answers t / (t + 1) of the sample."""
    sample = torch.arange(4 * 3 * 8 * 8).reshape(3, 8, 8, 4).permute(3, 0, 1, 2) / (4 * 3 * 8 * 8)
    sample = sample[None] if batch else sample  # its generator draws the noise of all rows at once
    generators = [torch.Generator().manual_seed(0)] * len(sample)
    for time in schedule.times():
        sample = schedule.step(sample * time / (time + 1), time, sample, generators)
    return sample.abs().sum().item(), sample.abs().mean().item()


def test_the_schedules_give_the_known_numbers_of_diffusers():
    total, mean = published_loop(NoiseSchedule("DDPM", 1000, "linear", steps=1000), batch=True)
    assert abs(total - 258.9606) < 1e-2 and abs(mean - 0.3372) < 1e-3
    total, mean = published_loop(NoiseSchedule("DDIM", 1000, "linear", steps=10))
    assert abs(total - 172.0067) < 1e-2 and abs(mean - 0.223967) < 1e-3
    total, mean = published_loop(NoiseSchedule("DDIM", 1000, "linear", first=0.01, steps=10))
    assert abs(total - 149.8295) < 1e-2 and abs(mean - 0.1951) < 1e-3


def test_a_network_may_predict_the_clean_sample():
    schedule, clean = NoiseSchedule("DDIM", prediction="sample", steps=4), torch.rand(1, 3)
    noise = torch.randn(1, 3)
    x = schedule.noised(clean, noise, torch.tensor([75]))
    for time in schedule.times():
        x = schedule.step(clean, time, x, [])
    assert schedule.times() == [75, 50, 25, 0] and torch.allclose(x, clean, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"resize_shape": [64, 64]}, "resize_shape"),
        ({"beta_schedule": "sigmoid"}, "no noise schedule 'sigmoid'; known: squaredcos_cap_v2"),
        ({"noise_scheduler_type": "PNDM"}, "diffusion with PNDM .* is not known; known: DDPM, DDIM"),
        ({"num_inference_steps": 11}, "diffusion in 11 steps over 10 times"),
        ({"horizon": 6}, "a horizon of 6 actions is not possible"),
        ({"crop_shape": [80, 60]}, r"a crop of \(80, 60\) does not fit"),
        ({"down_dims": []}, r"down_dims is \[\]; expected whole numbers"),
    ],
)
def test_what_cannot_be_computed_is_refused(tmp_path, options, said):
    with pytest.raises(ConfigError, match=said):
        diffusion(tmp_path, **options)
