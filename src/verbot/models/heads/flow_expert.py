"""Flow matching with an action expert: a transformer whose tokens are the actions of a chunk."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.action_space import Continuous, start
from verbot.models.continuation import CONTINUATION, Continuation, recordable
from verbot.models.heads.denoiser import TIMES
from verbot.models.heads.flow import WITHOUT_ONE_STEP, OneStep, continued, flow_losses, integrate
from verbot.models.layers.transformer import CrossBlock, sinusoid
from verbot.models.registries import heads
from verbot.models.tokens import Batch, HeadInput, PlannedActions, TokenGroup
from verbot.models.trunks.architecture import DecoderConfig
from verbot.models.trunks.decoder import LanguageDecoder


@dataclass(frozen=True)
class ExpertBlock:
    """A block of the action expert.

    Args:
        heads, expansion: number of attention heads, and the feed-forward expansion.
        layerwise: block i attends to the input of layer i of what it reads: of the fusion ``concat`` with ``hidden=0``, or of a
            language trunk. It needs as many layers as the expert has.
        joint: as in π0: block i of the expert is a block as those of the language trunk, but `hidden` wide. In one softmax each
            action attends to the keys and values of the trunk's block i and to those of all actions. `heads` and `layers` are
            those of the trunk.
        insulated: the loss does not reach the trunk through its keys and values (Driess et al. 2025): other losses have to
            train it.
    """

    heads: int = 4
    expansion: int = 2
    layerwise: bool = False
    joint: bool = False
    insulated: bool = False


BLOCK = ExpertBlock()


class JointExpert(nn.Module):
    """The blocks of π0's action expert: those of a language trunk, with a width of their own.

    Actions (b, k, hidden) attend to the n tokens before, whose keys and values `TokenGroup.cache` holds, and to one another;
    their positions follow those of the tokens.
    """

    def __init__(self, trunk: DecoderConfig, hidden: int, block: ExpertBlock):
        super().__init__()
        own = dataclasses.replace(trunk, vocabulary=0, width=hidden, hidden=block.expansion * hidden)
        self.decoder, self.insulated = LanguageDecoder(own), block.insulated
        self.decoder.initialize()

    def condition(self, fused: TokenGroup) -> TokenGroup:
        """`fused` with the keys and values that are read, and nothing else. Raises `ConfigError` if it has none."""
        cache = fused.cache
        if cache is None:
            raise ConfigError("the joint flow_expert head reads keys and values; the fused tokens have none")
        cache = cache.changed(Tensor.detach) if self.insulated else cache
        return TokenGroup(fused.tokens[:, :, :0], fused.mask, fused.kind, cache=cache)

    def forward(self, actions: Tensor, condition: TokenGroup) -> Tensor:
        count, mask = actions.shape[1], condition.mask
        allowed = torch.cat([mask, mask.new_ones(len(mask), count)], 1).unsqueeze(1).expand(-1, count, -1)
        positions = mask.sum(1, keepdim=True) + torch.arange(count, device=mask.device)
        hidden: Tensor = self.decoder(actions, allowed, positions, condition.cache).hidden
        return hidden


@heads.register("flow_expert")
class FlowExpert(nn.Module):
    """Conditional flow matching as in `Flow`, with the action expert of π0 (Black et al. 2024, §IV).

    Each noisy action is one token, combined with the time by an MLP. `layers` blocks of cross-attention to the fused tokens,
    self-attention and feed-forward layers map each token to the velocity of its action. With `layerwise`, block i attends to the
    input of layer i of the fusion, as in π0; the output of the last fusion layer is then unused. Otherwise all blocks attend to
    the output of the fusion, which should return all its tokens. With `joint`, the expert attends to the keys and values of a
    language trunk (backbone ``vlm``) and to its actions in one softmax, as π0. In prediction the trunk runs once, and each
    integration step only the expert.

    Args:
        hidden, layers: width and number of blocks of the expert.
        block: options of each block.
        steps: number of steps of the integration; 10 in π0.
        draws: draws of noise and time per sample; the expensive encoders run once for all of them.
        continuation: options of continuing the actions of an earlier chunk.
        distilled: options of a distillation to one step.
    """

    def __init__(
        self,
        inputs: HeadInput,
        hidden: int = 64,
        layers: int = 2,
        block: ExpertBlock = BLOCK,
        steps: int = 10,
        draws: int = 2,
        continuation: Continuation = CONTINUATION,
        distilled: OneStep = WITHOUT_ONE_STEP,
    ):
        super().__init__()
        if steps < 1 or draws < 1:
            raise ConfigError(f"the flow_expert head needs steps ≥ 1 and draws ≥ 1; got {steps} and {draws}")
        if block.layerwise and layers < 1:
            raise ConfigError(f"a layerwise flow_expert head reads at least one layer; it has layers={layers}")
        sizes, width = inputs.sizes, inputs.width
        self.shape, self.steps, self.draws = (sizes.chunk, sizes.action_size), steps, draws
        self.space = Continuous(sizes.action)
        self.continuation, self.block, self.distilled = continuation, block, distilled.checked(continuation)
        continuation.check(sizes.chunk)
        self.reads_layers = layers if block.layerwise else 0
        if block.joint:
            self.expert = JointExpert(_architecture(inputs, layers, block), hidden, block)
        elif block.layerwise:
            self.reads = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden)) for _ in range(layers))
        else:
            self.read = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden))
        self.noisy, self.places = nn.Linear(sizes.action_size, hidden), nn.Parameter(torch.randn(sizes.chunk, hidden) * 0.02)
        self.mix = nn.Sequential(nn.Linear(hidden + TIMES, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        if not block.joint:
            self.blocks = nn.ModuleList(CrossBlock(hidden, block.heads, block.expansion) for _ in range(layers))
        self.out = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, sizes.action_size))

    def losses(self, fused: TokenGroup, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """``{"action": scalar}``, the mean squared error of the velocity over valid steps; zero if there are none."""
        velocity = partial(self.velocity, condition=_repeat(self.condition(fused), self.draws))
        return flow_losses(self, velocity, batch, generator)

    def condition(self, fused: TokenGroup) -> TokenGroup:
        """The keys of the cross-attention (b, n, hidden), with `layers` one for each block; computed once for all noise levels.

        Raises `ConfigError` if the number of fusion layers differs from the number of blocks.
        """
        if self.block.joint:
            return self.expert.condition(fused)
        if not self.reads_layers:
            return TokenGroup(self.read(fused.tokens), fused.mask, fused.kind)
        given = fused.layers or ()
        if len(given) != self.reads_layers:
            raise ConfigError(f"the layerwise flow_expert head reads {self.reads_layers} layers; it got {len(given) or 'none'}")
        layers = tuple(read(x) for read, x in zip(self.reads, given, strict=True))
        return TokenGroup(layers[-1], fused.mask, fused.kind, layers=layers)

    def velocity(self, x: Tensor, time: Tensor, condition: TokenGroup, clean: Tensor | None = None) -> Tensor:
        """d x / d τ (b, k, a) at x (b, k, a) and τ (b,), with clean actions, whose τ is 1, where `clean` (b, k)."""
        times = sinusoid(time * 100, TIMES).unsqueeze(1).expand(-1, x.shape[1], -1).to(x.dtype)
        if clean is not None:
            times = torch.where(clean.unsqueeze(-1), sinusoid(torch.full_like(time, 100), TIMES)[:, None].to(x.dtype), times)
        h = self.mix(torch.cat([self.noisy(x), times], -1)) + self.places  # (b, k, hidden)
        if self.block.joint:
            return self.out(self.expert(h, condition))
        everything = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        for block, keys in zip(self.blocks, condition.layers or (condition.tokens,) * len(self.blocks), strict=True):
            h = block(h, everything, keys, condition.mask)
        return self.out(h)

    def sample(self, fused: TokenGroup, generator: torch.Generator) -> Tensor:
        return self.predict(fused, generator)

    def predict(self, fused: TokenGroup, generator: torch.Generator | None = None) -> Tensor:
        """A sample if a generator is given, else the prediction from zero noise (see `verbot.models.action_space.start`)."""
        condition = self.condition(fused)
        x = start(len(fused.tokens), self.shape, generator, fused.tokens.device)
        velocity = self.distilled.field(partial(self.velocity, condition=condition), self.steps)
        return self.space.inverse(integrate(velocity, x, self.steps))

    def continued(self, fused: TokenGroup, planned: PlannedActions, generator: torch.Generator | None = None) -> Tensor:
        """As `predict`, continuing the planned actions."""
        condition = recordable(self.condition(fused))
        x = start(len(fused.tokens), self.shape, generator, fused.tokens.device)
        velocity = self.distilled.field(partial(self.velocity, condition=condition), self.steps)
        return continued(self.space, velocity, x, self.steps, planned, self.continuation)


def _repeat(group: TokenGroup, times: int) -> TokenGroup:
    """Repeat every row `times` times."""
    layers = None if group.layers is None else tuple(x.repeat_interleave(times, 0) for x in group.layers)
    tokens = group.tokens.repeat_interleave(times, 0) if layers is None else layers[-1]
    cache = None if group.cache is None else group.cache.changed(lambda x: x.repeat_interleave(times, 0))
    return TokenGroup(tokens, group.mask.repeat_interleave(times, 0), group.kind, layers=layers, cache=cache)


def _architecture(inputs: HeadInput, layers: int, block: ExpertBlock) -> DecoderConfig:
    """Of the trunk whose keys and values are read. Raises `ConfigError` if there is none, or for other heads and layers."""
    if block.layerwise:
        raise ConfigError("a flow_expert head reads the trunk's layers (layerwise) or its keys and values (joint), not both")
    trunk = inputs.trunk
    if trunk is None:
        raise ConfigError(
            "a joint flow_expert head reads the keys and values of a language trunk; use the backbone 'vlm', with readouts=0"
        )
    if (block.heads, layers) != (trunk.heads, trunk.depth):
        raise ConfigError(
            f"a joint flow_expert head has {block.heads} heads and {layers} layers, and the language trunk {trunk.heads} and "
            f"{trunk.depth}; set head.heads={trunk.heads} and head.layers={trunk.depth}"
        )
    return trunk
