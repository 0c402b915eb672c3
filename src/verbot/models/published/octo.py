"""Octo (Ghosh et al. 2024): a transformer that is causal by blocks, over words and patches, with a diffusion head."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbot.models.published.base import NetworkInputs, PublishedNetwork
from verbot.models.published.flow import drawn
from verbot.models.published.t5 import T5Config, T5Encoder

TASK, READOUT = "task_language", "readout_action"
EPSILON = 1e-6  # of flax's norms
PREFIX, OBSERVED, READ = range(3)  # kinds of tokens


@dataclass(frozen=True)
class StemConfig:
    """How images of one camera become tokens.

    Args:
        name: of the camera.
        side: of its images, in pixels.
        features: of each convolution, which halves the image.
        patch, width: side of the last convolution, and what it puts out.
        goal: a goal image is stacked onto each image; a policy that follows an instruction sees a black one.
    """

    name: str
    side: int
    features: tuple[int, ...]
    patch: int
    width: int
    goal: bool

    @property
    def tokens(self) -> int:
        return (self.side // 2 ** len(self.features) // self.patch) ** 2


@dataclass(frozen=True)
class OctoConfig:
    """The architecture of an Octo.

    Args:
        language: of the encoder of words. words: tokens of an instruction.
        stems: of the cameras.
        width, depth, heads, hidden: of the transformer.
        horizon, window: control steps of which there are positions, and that are read.
        readouts: tokens that the head reads, of each control step.
        repeated: words stand beside the images of each control step too.
        exact: which group a token is of is counted exactly; the first released policies have a mask that is off by one.
        chunk, action, used: actions, their numbers, and how many of these a robot has; the others are noise.
        time, blocks, inner: of the head: features of the diffusion step, residual blocks and their width.
        steps, largest: of the diffusion, and the largest absolute number of an action.
    """

    language: T5Config
    words: int
    stems: tuple[StemConfig, ...]
    width: int
    depth: int
    heads: int
    hidden: int
    horizon: int
    window: int
    readouts: int
    repeated: bool
    exact: bool
    chunk: int
    action: int
    used: int
    time: int
    blocks: int
    inner: int
    steps: int
    largest: float


class OctoNetwork(PublishedNetwork):
    """See `OctoConfig`. Inputs are ``tokens`` and ``tokens_mask`` (b, n), ``steps_mask`` (b, w), and of each camera
    ``images.NAME`` (b, w, 3, s, s) in 0 … 255 and ``images_mask.NAME`` (b,)."""

    def __init__(self, config: OctoConfig):
        super().__init__()
        self.config, d = config, config.width
        self.language = T5Encoder(config.language)
        self.stems = nn.ModuleDict({stem.name: SmallStem(stem) for stem in config.stems})
        given = {TASK: config.language.width, **{f"obs_{stem.name}": stem.width for stem in config.stems}}
        self.projections = nn.ModuleDict({name: nn.Linear(size, d) for name, size in given.items()})
        shapes: dict[str, tuple[int, ...]] = {TASK: (1, config.words, d), READOUT: (1, config.horizon, config.readouts, d)}
        shapes |= {f"obs_{stem.name}": (1, config.horizon, stem.tokens, d) for stem in config.stems}
        self.places = nn.ParameterDict({name: nn.Parameter(torch.zeros(shape)) for name, shape in shapes.items()})
        self.blocks = nn.ModuleList(OctoBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(d, EPSILON)
        self.score = ScoreNetwork(config)

    def act(self, inputs: NetworkInputs, generators: Sequence[torch.Generator]) -> Tensor:
        size, config = self.config.chunk * self.config.action, self.config
        noise = drawn((config.steps + 1, size), generators, inputs["tokens"].device)
        return self.denoised(self.readout(inputs), noise).unflatten(1, (config.chunk, config.action))

    def denoised(self, read: Tensor, noise: Tensor) -> Tensor:
        """Actions (b, k · a) after all diffusion steps.

        Args:
            read: what the head reads (b, d).
            noise: standard normal (b, steps + 1, k · a): the start, and what each step adds.
        """
        betas = cosine_betas(self.config.steps)
        kept = torch.arange(noise.shape[-1], device=read.device) % self.config.action < self.config.used
        alphas = 1 - betas
        products, x = alphas.cumprod(0), noise[:, 0]
        for number, step in enumerate(range(self.config.steps - 1, -1, -1)):
            beta, alpha, product, z = betas[step].item(), alphas[step].item(), products[step].item(), noise[:, number + 1]
            error = self.score(read, x, step).float()
            x = (x - (1 - alpha) / math.sqrt(1 - product) * error) / math.sqrt(alpha)
            x = (x + (step > 0) * math.sqrt(beta) * z).clamp(-self.config.largest, self.config.largest)
            x = torch.where(kept, x, math.sqrt(1 - product) * z)
        return x

    def readout(self, inputs: NetworkInputs) -> Tensor:
        """The mean of the readout tokens of the last control step, (b, d)."""
        config, window = self.config, inputs["steps_mask"].shape[1]
        tokens, mask = inputs["tokens"], inputs["steps_mask"]
        words = self.projections[TASK](self.language(tokens, inputs["tokens_mask"])) + self.places[TASK]
        groups, real, kinds = list[Tensor](), list[Tensor](), list[int]()
        for stem in config.stems:
            name = f"obs_{stem.name}"
            seen = self.projections[name](self.stems[stem.name](inputs[f"images.{stem.name}"].flatten(0, 1)))
            groups.append(seen.unflatten(0, (-1, window)) + self.places[name][:, :window])
            there = mask & inputs[f"images_mask.{stem.name}"].unsqueeze(1)
            real.append(there.unsqueeze(-1).expand(-1, -1, stem.tokens))
            kinds.append(OBSERVED)
        if config.repeated:
            groups.append(words.unsqueeze(1).expand(-1, window, -1, -1))
            real.append(mask.new_ones(len(mask), window, config.words))
            kinds.append(OBSERVED)
        groups.append(self.places[READOUT][:, :window].expand(len(mask), -1, -1, -1))
        real.append(mask.new_ones(len(mask), window, config.readouts))
        kinds.append(READ)
        x = torch.cat([words, torch.cat(groups, 2).flatten(1, 2)], 1)
        keys = torch.cat([mask.new_ones(len(mask), config.words), torch.cat(real, 2).flatten(1)], 1)
        sizes = [group.shape[2] for group in groups]
        allowed = block_mask(config.words, sizes, kinds, window, config.exact).to(x.device) & keys.unsqueeze(1)
        for block in self.blocks:
            x = block(x, allowed.unsqueeze(1))
        read: Tensor = self.norm(x)[:, -config.readouts :].mean(1)
        return read


def block_mask(words: int, sizes: Sequence[int], kinds: Sequence[int], window: int, exact: bool) -> Tensor:
    """(n, n), which tokens each token reads: words read words, images also those and the images up to their control step, and
    readouts all of these and their own.

    Args:
        words: tokens of the instruction, which come first.
        sizes, kinds: tokens of each group of a control step, and what they are.
        exact: see `OctoConfig`.
    """
    ends = torch.tensor(sizes).cumsum(0)
    group = torch.searchsorted(ends, torch.arange(sum(sizes)), right=exact)
    kind = torch.cat([torch.full((words,), PREFIX), torch.tensor(kinds)[group].repeat(window)])
    step = torch.cat([torch.full((words,), -1), torch.arange(window).repeat_interleave(sum(sizes))])
    return (step[None] <= step[:, None]) & (kind[None] <= kind[:, None])


def cosine_betas(steps: int) -> Tensor:
    """The noise of each diffusion step (Nichol & Dhariwal 2021), float32."""
    t = torch.linspace(0, steps, steps + 1) / steps
    products = torch.cos((t + 0.008) / 1.008 * torch.pi * 0.5) ** 2
    products = products / products[0]
    return (1 - products[1:] / products[:-1]).clamp(0, 0.999)


class SmallStem(nn.Module):
    """Convolutions before the patches (Xiao et al. 2021): (n, 3, s, s) in 0 … 255 -> (n, p, d)."""

    def __init__(self, config: StemConfig):
        super().__init__()
        self.goal = config.goal
        sizes = [6 if config.goal else 3, *config.features]
        self.convs = nn.ModuleList(StandardizedConv(a, b) for a, b in itertools.pairwise(sizes))
        self.norms = nn.ModuleList(nn.GroupNorm(32, size, EPSILON) for size in config.features)
        self.embedding = nn.Conv2d(sizes[-1], config.width, config.patch, config.patch)

    def forward(self, images: Tensor) -> Tensor:
        x = images.to(self.embedding.weight.dtype)
        if self.goal:
            x = torch.cat([x, torch.zeros_like(x)], 1)
        x = x / 127.5 - 1
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(conv(x)))
        patches: Tensor = self.embedding(x)
        return patches.flatten(2).transpose(1, 2)


class StandardizedConv(nn.Conv2d):
    """A convolution that halves the image, with weights of mean 0 and deviation 1 for each output (Qiao et al. 2019)."""

    def __init__(self, given: int, width: int):
        super().__init__(given, width, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        deviation = weight.square().mean((1, 2, 3), keepdim=True).sqrt()
        return F.conv2d(x, weight / (deviation + 1e-5), self.bias, self.stride, self.padding)


class OctoBlock(nn.Module):
    """A pre-norm block."""

    def __init__(self, config: OctoConfig):
        super().__init__()
        d = config.width
        self.heads = config.heads
        self.norms = nn.ModuleList(nn.LayerNorm(d, EPSILON) for _ in range(2))
        self.query, self.key, self.value, self.out = (nn.Linear(d, d) for _ in range(4))
        self.mlp = nn.ModuleList([nn.Linear(d, config.hidden), nn.Linear(config.hidden, d)])

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        normed = self.norms[0](x)
        q, k, v = (part(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))
        added: Tensor = self.mlp[1](F.gelu(self.mlp[0](self.norms[1](x)), approximate="tanh"))
        return x + added


class ScoreNetwork(nn.Module):
    """The noise in actions (b, n) at a diffusion step, of what the head reads (b, d)."""

    def __init__(self, config: OctoConfig):
        super().__init__()
        size, time, inner = config.chunk * config.action, config.time, config.inner
        self.times = nn.Parameter(torch.zeros(time // 2, 1))
        self.condition = nn.ModuleList([nn.Linear(time, 2 * time), nn.Linear(2 * time, time)])
        self.ends = nn.ModuleList([nn.Linear(time + config.width + size, inner), nn.Linear(inner, size)])
        self.blocks = nn.ModuleList(ScoreBlock(inner) for _ in range(config.blocks))

    def forward(self, read: Tensor, actions: Tensor, step: int) -> Tensor:
        angles = (2 * torch.pi * step * self.times[:, 0]).expand(len(read), -1)
        known = torch.cat([angles.cos(), angles.sin()], -1)
        known = self.condition[1](F.silu(self.condition[0](known)))
        x = self.ends[0](torch.cat([known, read, actions.to(read)], -1))
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.ends[1](F.silu(x))
        return out


class ScoreBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, EPSILON)
        self.layers = nn.ModuleList([nn.Linear(width, 4 * width), nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.layers[1](F.silu(self.layers[0](self.norm(x))))
        return x + added
