"""Computes what the networks of published policies need: parameters, bytes, floating-point operations, and the roofline of GPUs.

Run it as ``python profiling/published_sizes.py``. Nothing is measured: parameters are counted on networks without memory (torch's
meta device), operations follow from their sizes, and a phase takes at least the longer of its operations at the peak rate and its
bytes at the memory's bandwidth (Williams et al. 2009). ``--counted`` counts OpenVLA's operations with torch's counter too, and
``--device cuda`` measures predictions with random weights in bfloat16.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from verbot.models.encoders.vision.published_towers import OPENVLA_DINO, OPENVLA_SIGLIP, TowerConfig
from verbot.models.published.base import PublishedNetwork, Undrawn
from verbot.models.published.openvla import OpenVlaConfig, OpenVlaNetwork
from verbot.models.published.pi import PiConfig, PiNetwork
from verbot.models.trunks.architecture import DecoderConfig

BYTES = 2  # of a number in bfloat16
# Peak of dense bfloat16 with float32 sums, and bandwidth of the memory, by the makers' data sheets: operations/s, bytes/s, bytes.
GPUS = {
    "H200 SXM": (989e12, 4.8e12, 141e9), "H100 SXM": (989e12, 3.35e12, 80e9), "A100 SXM 80 GB": (312e12, 2.039e12, 80e9),
    "RTX 4090": (165e12, 1.008e12, 24e9), "L4": (121e12, 0.3e12, 24e9),
}  # fmt: skip
LLAMA = DecoderConfig(32064, 4096, 32, 32, 32, 128, 11008, tied=False)
GEMMA = DecoderConfig(257152, 2048, 18, 8, 1, 256, 16384, activation="gelu_tanh", offset_norm=True, embedding_scale=2048**0.5)
EXPERT = DecoderConfig(0, 1024, 18, 8, 1, 256, 4096, activation="gelu_tanh", offset_norm=True)
SIGLIP = TowerConfig(1152, 27, 16, 4304, 14, 224)
OPENVLA = OpenVlaConfig(OPENVLA_DINO, OPENVLA_SIGLIP, LLAMA, action=7, words=32000)
PI = PiConfig(SIGLIP, GEMMA, EXPERT, adaptive=False, chunk=50, action=32, state=32)


@dataclass(frozen=True)
class Arguments:
    """Options of the computation."""

    prompt: int = 24  # tokens of OpenVLA's prompt
    cameras: int = 3  # of π0
    words: int = 48  # of π0's prompt, padded
    counted: bool = False  # count OpenVLA's operations with torch's counter too
    device: str | None = None  # measure predictions there too
    times: int = 20  # measured predictions, after two that are not
    out: Path | None = None  # writes the figures as JSON


@dataclass(frozen=True)
class Phase:
    """A part of a prediction.

    Args:
        flops: of one time; a multiplication with addition is two.
        read: bytes of weights and of keys and values that one time reads.
        times: how often, one after another.
    """

    name: str
    flops: float
    read: float
    times: int = 1

    def seconds(self, peak: float, bandwidth: float) -> float:
        return self.times * max(self.flops / peak, self.read / bandwidth)


def main() -> None:
    arguments = tyro.cli(Arguments)
    networks: dict[str, tuple[Callable[[], PublishedNetwork], list[Phase]]] = {
        "OpenVLA-7B": (lambda: OpenVlaNetwork(OPENVLA), openvla_phases(arguments.prompt)),
        "π0": (lambda: PiNetwork(PI), pi_phases(arguments.cameras, arguments.words)),
    }
    figures: dict[str, dict[str, Any]] = {}
    for name, (build, phases) in networks.items():
        with torch.device("meta"), Undrawn():
            parameters = sum(p.numel() for p in build().parameters())
        rows = [asdict(phase) for phase in phases]
        bounds = {
            gpu: sum(phase.seconds(peak, bandwidth) for phase in phases)
            for gpu, (peak, bandwidth, memory) in GPUS.items()
            if parameters * BYTES < memory
        }
        figures[name] = {"parameters": parameters, "bytes": parameters * BYTES, "phases": rows, "at_least_s": bounds}
        show(name, parameters, phases)
        if arguments.device is not None:
            device = torch.device(arguments.device)
            inputs = openvla_inputs(arguments.prompt) if name == "OpenVLA-7B" else pi_inputs(arguments.cameras, arguments.words)
            figures[name]["measured_s"] = seconds = measured(build, inputs, device, arguments.times)
            where = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
            print(f"\n{name} on {where}, torch {torch.__version__}: {1e3 * seconds:.1f} ms a prediction (median)")
    if arguments.counted:
        print(f"\nOpenVLA-7B by torch's counter: {counted(arguments.prompt) / 1e12:.3f} TFLOP")
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def show(name: str, parameters: int, phases: list[Phase]) -> None:
    total = sum(phase.flops * phase.times for phase in phases)
    size = f"{parameters / 1e9:.3f} G parameters, {parameters * BYTES / 1e9:.2f} GB in bfloat16"
    print(f"\n{name}: {size}, {total / 1e12:.3f} TFLOP\n")
    print("| phase | times | TFLOP | GB read | " + " | ".join(f"{gpu}, ms" for gpu in GPUS) + " |\n|" + "---|" * (4 + len(GPUS)))
    for phase in phases:
        cells = [1e3 * phase.seconds(peak, bandwidth) for peak, bandwidth, _ in GPUS.values()]
        print(row(phase.name, phase.times, phase.flops * phase.times, phase.read * phase.times, cells))
    cells = [1e3 * sum(phase.seconds(peak, bandwidth) for phase in phases) for peak, bandwidth, _ in GPUS.values()]
    print(row("at least", 1, total, sum(phase.read * phase.times for phase in phases), cells))


def row(name: str, times: int, flops: float, read: float, cells: list[float]) -> str:
    return f"| {name} | {times} | {flops / 1e12:.3f} | {read / 1e9:.2f} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |"


def openvla_phases(prompt: int) -> list[Phase]:
    joined, width = OPENVLA_DINO.width + OPENVLA_SIGLIP.width, LLAMA.width
    projector = joined * 4 * joined + 4 * joined * width + width * width
    seen = sum(tower_flops(tower) for tower in (OPENVLA_DINO, OPENVLA_SIGLIP)) + 2 * projector * OPENVLA_DINO.patches
    weights = sum(tower_weights(tower) for tower in (OPENVLA_DINO, OPENVLA_SIGLIP)) + projector
    tokens, head = prompt + OPENVLA_DINO.patches, LLAMA.width * LLAMA.vocabulary
    body = decoder_weights(LLAMA) + head
    return [
        Phase("images", seen, weights * BYTES),
        Phase("prompt", decoder_flops(LLAMA, tokens, tokens) + 2 * head, body * BYTES),
        Phase("tokens", decoder_flops(LLAMA, 1, tokens + 4) + 2 * head, (body + cache_size(LLAMA, tokens + 4)) * BYTES, 6),
    ]


def pi_phases(cameras: int, words: int) -> list[Phase]:
    prefix, suffix = cameras * SIGLIP.patches + words, PI.chunk + 1
    project = SIGLIP.width * GEMMA.width
    seen = cameras * (tower_flops(SIGLIP) + 2 * project * SIGLIP.patches)
    inside = 2 * PI.action * EXPERT.width + 3 * EXPERT.width**2
    step = decoder_flops(EXPERT, suffix, prefix + suffix) + 2 * inside * PI.chunk
    read = decoder_weights(EXPERT) + inside + cache_size(GEMMA, prefix)
    return [
        Phase("images", seen, (tower_weights(SIGLIP) + project) * BYTES),
        Phase("prefix", decoder_flops(GEMMA, prefix, prefix), decoder_weights(GEMMA) * BYTES),
        Phase("steps of the flow", step, read * BYTES, PI.steps),
    ]


def tower_weights(config: TowerConfig) -> int:
    """Of the matrices."""
    d = config.width
    return (config.depth - config.skipped) * (4 * d * d + 2 * d * config.hidden) + 3 * config.patch**2 * d


def tower_flops(config: TowerConfig) -> float:
    """Of one image."""
    tokens = config.patches + (0 if config.registers is None else 1 + config.registers)
    blocks, patching = config.depth - config.skipped, 3 * config.patch**2 * config.width
    inside = tower_weights(config) - patching
    return 2 * tokens * inside + 2 * config.patches * patching + blocks * 4 * tokens**2 * config.width


def decoder_weights(config: DecoderConfig) -> int:
    """Of the matrices in the blocks."""
    d, queries, keys = config.width, config.heads * config.head_width, config.key_heads * config.head_width
    return config.depth * (2 * d * queries + 2 * d * keys + 3 * d * config.hidden)


def decoder_flops(config: DecoderConfig, tokens: int, keys: int) -> float:
    """Of the blocks; masked pairs of tokens are counted, because they are computed."""
    pairs = 4 * tokens * keys * config.heads * config.head_width
    return 2 * tokens * decoder_weights(config) + config.depth * pairs


def cache_size(config: DecoderConfig, tokens: int) -> int:
    """Numbers in the keys and values of `tokens`."""
    return 2 * config.depth * tokens * config.key_heads * config.head_width


def openvla_inputs(prompt: int) -> dict[str, Tensor]:
    side = OPENVLA_DINO.side
    return {
        "pixels": torch.zeros(1, 6, side, side),
        "tokens": torch.ones(1, prompt, dtype=torch.int64),
        "tokens_mask": torch.ones(1, prompt, dtype=torch.bool),
    }


def pi_inputs(cameras: int, words: int) -> dict[str, Tensor]:
    return {
        "images": torch.zeros(1, cameras, 3, SIGLIP.side, SIGLIP.side),
        "images_mask": torch.ones(1, cameras, dtype=torch.bool),
        "tokens": torch.ones(1, words, dtype=torch.int64),
        "tokens_mask": torch.ones(1, words, dtype=torch.bool),
        "state": torch.zeros(1, PI.state),
    }


def measured(build: Callable[[], PublishedNetwork], inputs: dict[str, Tensor], device: torch.device, times: int) -> float:
    """Seconds of a prediction of one observation with random weights in bfloat16: the median."""
    with torch.device("meta"), Undrawn():
        network = build().eval().to(torch.bfloat16)
    network = network.to_empty(device=device)
    given = {name: value.to(device) for name, value in inputs.items()}
    found = []
    with torch.inference_mode():
        for weight in network.parameters():
            weight.normal_(std=0.02)
        for _ in range(times + 2):
            start = time.perf_counter()
            network.act(given, [torch.Generator().manual_seed(0)]).cpu()
            found.append(time.perf_counter() - start)
    return statistics.median(found[2:])


def counted(prompt: int) -> int:
    """OpenVLA's operations by torch's counter, without memory."""
    with torch.device("meta"):
        with Undrawn():
            network = OpenVlaNetwork(OPENVLA).eval().to(torch.bfloat16)
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            network.written(openvla_inputs(prompt))
    return int(counter.get_total_flops())


if __name__ == "__main__":
    main()
