"""The model card of a policy."""

from __future__ import annotations

from collections.abc import Sequence

from verbot.models.network import VLANetwork
from verbot.spec import Camera, RobotSpec


def model_card(network: VLANetwork, spec: RobotSpec, cameras: Sequence[Camera]) -> str:
    """What the policy is and how to use it, in Markdown; `cameras` are those that it sees."""
    config, count = network.config, sum(p.numel() for p in network.parameters())
    parts = [f"- {label}: `{part.name}`" for label, part in config.essential_parts.items()]
    lines = [
        f"# A verbot policy for {spec.name}",
        "",
        f"{count:,} parameters; sees {', '.join(camera.name for camera in cameras) or 'no images'}; "
        f"predicts {config.chunk} actions at {spec.rate_hz:g} Hz.",
        "",
        *parts,
        "",
        "```python",
        "import verbot",
        'policy = verbot.load_policy("this directory")',
        "chunk, = policy.predict([observation])",
        "```\n\n",
    ]
    return "\n".join(lines)
