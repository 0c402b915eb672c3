"""The check of image sides that several vision encoders share."""

from __future__ import annotations

from verbot.errors import ConfigError
from verbot.models.tokens import Sizes


def check_sides(encoder: str, sizes: Sizes, multiple: int) -> None:
    """Raise `ConfigError`, with a size that works, unless both image sides are multiples of `multiple`."""
    if sizes.height % multiple or sizes.width_px % multiple:
        height, width = (max(multiple, side // multiple * multiple) for side in (sizes.height, sizes.width_px))
        raise ConfigError(
            f"{encoder} needs image sides that are multiples of {multiple}; got {sizes.height}×{sizes.width_px}: set the "
            f"network's image_size, e.g. [{height},{width}]"
        )
