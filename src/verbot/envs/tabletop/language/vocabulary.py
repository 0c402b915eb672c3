"""The objects and directions that the tabletop can show and name.

Directions are those of a person who watches through the front camera, which stands at x = +1.08 m and looks back along −x at
the robot in the origin. The base frame's y axis points to the robot's own left, so it points to the *right* of the image.
``forward`` is out from the robot, nearer to the camera (the front of the picture); ``backward`` is in toward the robot.
"""

from __future__ import annotations

UnitRGB = tuple[float, float, float]

# Names to RGB in 0..1, far apart even in a 64×64 picture under colored light.
COLORS: dict[str, UnitRGB] = {
    "red": (0.85, 0.06, 0.08),
    "green": (0.08, 0.62, 0.12),
    "blue": (0.08, 0.20, 0.90),
    "yellow": (0.98, 0.88, 0.05),
    "purple": (0.52, 0.08, 0.68),
    "orange": (1.00, 0.45, 0.02),
    "white": (0.96, 0.96, 0.96),
    "black": (0.05, 0.05, 0.06),
}
OBJECT_COLORS = ("red", "green", "blue", "yellow", "purple", "orange")
RECEPTACLE_COLORS = OBJECT_COLORS

SHAPES = ("cube", "cylinder", "ball")
# Receptacle to the preposition that goes with it: an open box takes objects in, a flat plate takes them on.
RECEPTACLES = {"box": "in", "plate": "on"}

# Unit vectors in the base frame.
DIRECTIONS: dict[str, tuple[float, float, float]] = {
    "left": (0.0, -1.0, 0.0),
    "right": (0.0, 1.0, 0.0),
    "forward": (1.0, 0.0, 0.0),
    "backward": (-1.0, 0.0, 0.0),
}

STARTER_VERBS = ("pick", "push", "put")
VERBS = (
    *STARTER_VERBS,
    "stack",
    "place_next_to",
    "move_away",
    "open_drawer",
    "close_drawer",
    "press_button",
    "lift_and_hold",
    "sort_color",
    "put_back",
)

# Other nouns that a person may use, for training only.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "cube": ("block",),
    "cylinder": ("can", "tube", "barrel"),
    "ball": ("sphere", "orb"),
    "box": ("container", "bin", "tray", "crate"),
    "plate": ("dish",),
}
