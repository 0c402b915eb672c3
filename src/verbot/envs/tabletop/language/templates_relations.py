"""Noun phrases that single an object out among others like it: for `relations`, whose keys these tables share.

The first phrase is the canonical one. `UNSEEN` is kept for testing, as are `phrases`' own.
"""

from __future__ import annotations

SEEN: dict[str, tuple[str, ...]] = {
    "left of": (
        "{noun} left of the {anchor}",
        "{noun} to the left of the {anchor}",
        "{noun} that is left of the {anchor}",
        "{noun} on the left side of the {anchor}",
        "{noun} on the left of the {anchor}",
    ),
    "right of": (
        "{noun} right of the {anchor}",
        "{noun} to the right of the {anchor}",
        "{noun} that is right of the {anchor}",
        "{noun} on the right side of the {anchor}",
        "{noun} on the right of the {anchor}",
    ),
    "in front of": (
        "{noun} in front of the {anchor}",
        "{noun} that is in front of the {anchor}",
        "{noun} that is nearer to the front than the {anchor}",
        "{noun} on the front side of the {anchor}",
    ),
    "behind": (
        "{noun} behind the {anchor}",
        "{noun} that is behind the {anchor}",
        "{noun} that is nearer to the back than the {anchor}",
        "{noun} on the back side of the {anchor}",
    ),
    "between": (
        "{noun} between the {anchor} and the {other}",
        "{noun} that is between the {anchor} and the {other}",
        "{noun} in between the {other} and the {anchor}",
        "{noun} in the middle between the {other} and the {anchor}",
    ),
    "closest to": (
        "{noun} closest to the {anchor}",
        "{noun} that is closest to the {anchor}",
        "{noun} nearest to the {anchor}",
        "{noun} nearest the {anchor}",
    ),
    "farthest from": (
        "{noun} farthest from the {anchor}",
        "{noun} that is farthest from the {anchor}",
        "{noun} farthest away from the {anchor}",
        "{noun} furthest from the {anchor}",
    ),
    "leftmost": ("leftmost {noun}", "{noun} farthest to the left", "{noun} on the far left", "{noun} that is most to the left"),
    "rightmost": (
        "rightmost {noun}",
        "{noun} farthest to the right",
        "{noun} on the far right",
        "{noun} that is most to the right",
    ),
    "frontmost": (
        "frontmost {noun}",
        "{noun} farthest to the front",
        "{noun} closest to the camera",
        "{noun} that is most to the front",
    ),
    "rearmost": (
        "rearmost {noun}",
        "{noun} farthest to the back",
        "{noun} closest to the robot",
        "{noun} that is most to the back",
    ),
}

UNSEEN: dict[str, tuple[str, ...]] = {
    "left of": ("{noun} standing to the left of the {anchor}", "{noun} you see left of the {anchor}"),
    "right of": ("{noun} standing to the right of the {anchor}", "{noun} you see right of the {anchor}"),
    "in front of": ("{noun} standing in front of the {anchor}", "{noun} you see in front of the {anchor}"),
    "behind": ("{noun} standing behind the {anchor}", "{noun} you see behind the {anchor}"),
    "between": ("{noun} standing between the {anchor} and the {other}", "{noun} with the {anchor} and the {other} on both sides"),
    "closest to": ("{noun} that stands closest to the {anchor}", "{noun} with the shortest way to the {anchor}"),
    "farthest from": ("{noun} that stands farthest from the {anchor}", "{noun} with the longest way to the {anchor}"),
    "leftmost": ("{noun} at the left end", "{noun} that has no other on its left"),
    "rightmost": ("{noun} at the right end", "{noun} that has no other on its right"),
    "frontmost": ("{noun} at the front end", "{noun} that has no other in front of it"),
    "rearmost": ("{noun} at the back end", "{noun} that has no other behind it"),
}
