"""Options that several envs have, as records. In `verbot.envs.make_env` the fields are options of the env."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rendering:
    """How an env draws.

    Args:
        image_size: height and width of the cameras' images.
        render_cameras: False leaves all images black, for an expert or a benchmark that needs no pictures.
        depth: whether every camera has a depth camera beside it, ``front_depth`` for ``front``.
        render_mode: ``"rgb_array"`` lets `render` return a picture for people.
    """

    image_size: int = 64
    render_cameras: bool = True
    depth: bool = False
    render_mode: str | None = None


RENDERING = Rendering()
