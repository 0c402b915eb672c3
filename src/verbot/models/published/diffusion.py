"""Diffusion Policy (Chi et al. 2023), as LeRobot computes it, with the names of its weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.published.base import NetworkInputs, PublishedNetwork
from verbot.models.published.flow import drawn
from verbot.models.published.noise import NoiseSchedule
from verbot.models.published.resnet import ResNet


@dataclass(frozen=True)
class DiffusionConfig:
    """The architecture of a diffusion policy.

    Args:
        cameras, state, action: how many there are.
        image: height and width of the images; crop: of their middle that is read, or None.
        history, horizon, chunk: observations that are read; actions that are predicted, from the first of these on; and those
            that are executed, from the last of these on.
        backbone, grouped: of the images, and whether its norms are of groups.
        points: of each image. separate: every camera has an encoder of its own.
        widths, kernel, groups, time, scaled: of the U-Net; its conditions scale too, not only shift.
        noise: the schedule.

    Raises `ConfigError` for sizes that do not fit.
    """

    cameras: int
    state: int
    action: int
    image: tuple[int, int]
    noise: NoiseSchedule
    crop: tuple[int, int] | None = None
    history: int = 2
    horizon: int = 64
    chunk: int = 32
    backbone: str = "resnet18"
    grouped: bool = False
    points: int = 32
    separate: bool = True
    widths: tuple[int, ...] = (512, 1024, 2048)
    kernel: int = 5
    groups: int = 8
    time: int = 128
    scaled: bool = True

    def __post_init__(self) -> None:
        if self.horizon % 2 ** len(self.widths) or self.chunk > self.horizon - self.history + 1:
            raise ConfigError(
                f"a horizon of {self.horizon} actions is not possible with {self.history} observations, {self.chunk} executed "
                f"actions and a U-Net of {len(self.widths)} widths"
            )
        if self.crop and (self.crop[0] > self.image[0] or self.crop[1] > self.image[1]):
            raise ConfigError(f"a crop of {self.crop} does not fit into images of {self.image}")

    @property
    def seen(self) -> tuple[int, int]:
        """Height and width of the part of an image that is read."""
        return self.crop or self.image


class DiffusionNetwork(PublishedNetwork):
    """See `DiffusionConfig`. Inputs are ``images`` (b, t, v, 3, h, w) and ``state`` (b, t, s), normalized."""

    def __init__(self, config: DiffusionConfig):
        super().__init__()
        self.config = config
        if config.cameras and config.separate:
            self.rgb_encoder: nn.Module = nn.ModuleList(ImageEncoder(config) for _ in range(config.cameras))
        elif config.cameras:
            self.rgb_encoder = ImageEncoder(config)
        self.unet = ConditionalUNet(config, config.history * (config.state + 2 * config.points * config.cameras))

    def act(self, inputs: NetworkInputs, generators: Sequence[torch.Generator]) -> Tensor:
        noise = drawn((self.config.horizon, self.config.action), generators, inputs["state"].device)
        return self.denoised(inputs, noise.to(self.unet.dtype), generators)

    def denoised(self, inputs: NetworkInputs, noise: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """The actions (b, k, a) to execute, of noise (b, horizon, a)."""
        condition, x = self.condition(inputs), noise
        for time in self.config.noise.times():
            predicted = self.unet(x, torch.full((len(x),), time, device=x.device), condition)
            x = self.config.noise.step(predicted, time, x, generators)
        start = self.config.history - 1
        return x[:, start : start + self.config.chunk].float()

    def losses(
        self, inputs: NetworkInputs, actions: Tensor, mask: Tensor, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """The mean squared error of what is predicted, for actions (b, horizon, a) with their mask (b, horizon).

        The first action is that of the first observation, `history` − 1 control steps ago.
        """
        schedule = self.config.noise
        noise = torch.randn(actions.shape, generator=generator).to(actions)
        times = torch.randint(schedule.count, (len(actions),), generator=generator).to(actions.device)
        predicted = self.unet(schedule.noised(actions, noise, times), times, self.condition(inputs))
        error = (predicted - (noise if schedule.prediction == "epsilon" else actions)).square().mean(-1)
        return {"action": (error * mask).sum() / mask.sum().clamp(min=1)}

    def condition(self, inputs: NetworkInputs) -> Tensor:
        """What the U-Net knows (b, c): state and points of each observation, the oldest first."""
        state = inputs["state"].to(self.unet.dtype)
        if not self.config.cameras:
            return state.flatten(1)
        images, shape = inputs["images"], inputs["images"].shape[:3]
        if isinstance(self.rgb_encoder, nn.ModuleList):
            views = [encoder(images[:, :, v].flatten(0, 1)).unflatten(0, shape[:2]) for v, encoder in enumerate(self.rgb_encoder)]
            points = torch.stack(views, 2)
        else:
            points = self.rgb_encoder(images.flatten(0, 2)).unflatten(0, shape)
        return torch.cat([state, points.flatten(2)], -1).flatten(1)


class ImageEncoder(nn.Module):
    """Images (n, 3, h, w) to the places (n, 2 · points) at which a ResNet's features are, in [−1, 1], after a linear layer."""

    def __init__(self, config: DiffusionConfig):
        super().__init__()
        self.config = config
        self.backbone = SequentialResNet(config.backbone, "group" if config.grouped else "batch")
        self.pool = SpatialSoftmax(config.points, *(-(-side // 32) for side in config.seen))
        self.out = nn.Linear(2 * config.points, 2 * config.points)

    def forward(self, images: Tensor) -> Tensor:
        height, width = self.config.seen
        # As torchvision's center crop rounds.
        top, left = (round((side - own) / 2.0) for side, own in zip(images.shape[-2:], self.config.seen, strict=True))
        seen = images[..., top : top + height, left : left + width].to(self.out.weight.dtype)
        return F.relu(self.out(self.pool(self.backbone(seen)).flatten(1)))


class SequentialResNet(nn.Sequential):
    """A ResNet whose parts are numbered: convolution, norm, ReLU, pooling and four stages."""

    def __init__(self, name: str, norm: str):
        whole = ResNet(name, norm)
        stages = [whole.get_submodule(f"layer{number}") for number in range(1, 5)]
        super().__init__(whole.conv1, whole.bn1, nn.ReLU(), nn.MaxPool2d(3, 2, 1), *stages)


class SpatialSoftmax(nn.Module):
    """Expected places (n, points, 2), x before y, of features (n, 512, h, w) (Finn et al. 2016)."""

    def __init__(self, points: int, height: int, width: int):
        super().__init__()
        self.nets = nn.Conv2d(512, points, 1)
        self.register_buffer("pos_grid", torch.empty(height * width, 2))  # in the file, row by row

    def forward(self, features: Tensor) -> Tensor:
        shares = self.nets(features).flatten(2).softmax(-1)
        places: Tensor = shares @ self.pos_grid.to(shares)
        return places


class ConditionalUNet(nn.Module):
    """Noisy actions (b, horizon, a) at times (b,) to a prediction of the same shape, under a condition (b, c)."""

    def __init__(self, config: DiffusionConfig, condition: int):
        super().__init__()
        self.width, widths = config.time, config.widths
        self.diffusion_step_encoder = nn.Sequential(
            nn.Identity(), nn.Linear(config.time, 4 * config.time), nn.Mish(), nn.Linear(4 * config.time, config.time)
        )
        whole, last = config.time + condition, len(widths) - 1

        def block(given: int, out: int) -> ConditionalBlock:
            return ConditionalBlock(given, out, whole, config)

        self.down_modules, self.up_modules = nn.ModuleList(), nn.ModuleList()
        for i, (given, out) in enumerate(zip((config.action, *widths[:-1]), widths, strict=True)):
            half = nn.Identity() if i == last else nn.Conv1d(out, out, 3, 2, 1)
            self.down_modules.append(nn.ModuleList([block(given, out), block(out, out), half]))
        self.mid_modules = nn.ModuleList([block(widths[-1], widths[-1]) for _ in range(2)])
        for out, given in zip(widths[-2::-1], widths[:0:-1], strict=True):
            twice = nn.ConvTranspose1d(out, out, 4, 2, 1)
            self.up_modules.append(nn.ModuleList([block(2 * given, out), block(out, out), twice]))
        self.final_conv = nn.Sequential(ConvBlock(widths[0], widths[0], config), nn.Conv1d(widths[0], config.action, 1))

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def forward(self, x: Tensor, times: Tensor, condition: Tensor) -> Tensor:
        known = torch.cat([self.diffusion_step_encoder(time_waves(times, self.width).to(condition)), condition], -1)
        x, kept = x.transpose(1, 2), list[Tensor]()
        for stage in self.down_modules:
            first, second, half = stage.children()
            x = second(first(x, known), known)
            kept.append(x)
            x = half(x)
        for block in self.mid_modules:
            x = block(x, known)
        for stage in self.up_modules:
            first, second, twice = stage.children()
            x = twice(second(first(torch.cat([x, kept.pop()], 1), known), known))
        x = self.final_conv(x)
        return x.transpose(1, 2)


class ConvBlock(nn.Module):
    def __init__(self, given: int, out: int, config: DiffusionConfig):
        super().__init__()
        convolution = nn.Conv1d(given, out, config.kernel, padding=config.kernel // 2)
        self.block = nn.Sequential(convolution, nn.GroupNorm(config.groups, out), nn.Mish())

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(x)
        return x


class ConditionalBlock(nn.Module):
    """Two convolutions (b, c, n), between which the condition shifts, and may scale, each channel (Perez et al. 2018)."""

    def __init__(self, given: int, out: int, condition: int, config: DiffusionConfig):
        super().__init__()
        self.scaled = config.scaled
        self.conv1, self.conv2 = ConvBlock(given, out, config), ConvBlock(out, out, config)
        self.cond_encoder = nn.Sequential(nn.Mish(), nn.Linear(condition, 2 * out if config.scaled else out))
        self.residual_conv = nn.Identity() if given == out else nn.Conv1d(given, out, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        inside, known = self.conv1(x), self.cond_encoder(condition).unsqueeze(-1)
        if self.scaled:
            scale, shift = known.chunk(2, 1)
            inside = scale * inside + shift
        else:
            inside = inside + known
        added: Tensor = self.conv2(inside) + self.residual_conv(x)
        return added


def time_waves(times: Tensor, width: int) -> Tensor:
    """Sines, then cosines (b, width) of times (b,)."""
    half = width // 2
    rates = torch.exp(torch.arange(half, device=times.device) * -(math.log(10_000) / (half - 1)))
    angles = times.unsqueeze(-1) * rates
    return torch.cat([angles.sin(), angles.cos()], -1)
