"""Wordings of questions about a scene and of requests for captions: seen ones to train on, unseen ones kept for testing.

``{x}`` and ``{y}`` are objects, "red cube"; ``{r}`` is a relation, "left of"; ``{s}`` is a plural, "cubes" or "red objects";
``{p}`` is *in* or *on*.
"""

from __future__ import annotations

QUESTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "color_at": {
        "seen": (
            "what color is the object {r} the {x}?",
            "what is the color of the object {r} the {x}?",
            "which color does the object {r} the {x} have?",
            "name the color of the object {r} the {x}?",
        ),
        "unseen": ("the object {r} the {x} is of which color?", "what color would you say the object {r} the {x} is?"),
    },
    "object_at": {
        "seen": (
            "what is {r} the {x}?",
            "which object is {r} the {x}?",
            "what stands {r} the {x}?",
            "what do you see {r} the {x}?",
        ),
        "unseen": ("can you name the object {r} the {x}?", "{r} the {x}, what is there?"),
    },
    "side": {
        "seen": (
            "where is the {x} relative to the {y}?",
            "on which side of the {y} is the {x}?",
            "seen from the {y}, where is the {x}?",
            "in which direction from the {y} is the {x}?",
        ),
        "unseen": ("from the {y}, which way is the {x}?", "compared to the {y}, where does the {x} stand?"),
    },
    "count": {
        "seen": (
            "how many {s} are there?",
            "how many {s} do you see?",
            "what is the number of {s}?",
            "count the {s}: how many?",
        ),
        "unseen": ("how many {s} does the table hold?", "can you tell me the number of {s}?"),
    },
    "exists": {
        "seen": ("is there a {x}?", "do you see a {x}?", "is a {x} on the table?", "does the scene have a {x}?"),
        "unseen": ("can a {x} be seen?", "would you find a {x} here?"),
    },
    "relation": {
        "seen": (
            "is the {x} {r} the {y}?",
            "does the {x} stand {r} the {y}?",
            "is it true that the {x} is {r} the {y}?",
            "do you see the {x} {r} the {y}?",
        ),
        "unseen": ("would you say the {x} is {r} the {y}?", "the {x} is {r} the {y}, right or wrong?"),
    },
    "nearest": {
        "seen": (
            "what is nearest to the {x}?",
            "which object is closest to the {x}?",
            "what is the nearest object to the {x}?",
            "what is next to the {x}?",
        ),
        "unseen": ("which object has the smallest distance to the {x}?", "what is the closest neighbor of the {x}?"),
    },
    "nearest_arm": {
        "seen": (
            "what is nearest to the arm?",
            "which object is closest to the gripper?",
            "what is the nearest object to the robot's hand?",
            "what is closest to the robot's gripper?",
        ),
        "unseen": ("which object could the hand reach first?", "what has the smallest distance to the gripper?"),
    },
    "holding": {
        "seen": (
            "what is the robot holding?",
            "what is in the gripper?",
            "which object does the robot hold?",
            "what does the gripper hold?",
        ),
        "unseen": ("what has the robot grasped?", "what does the robot have in its hand?"),
    },
    "inside": {
        "seen": (
            "what is {p} the {x}?",
            "which object is {p} the {x}?",
            "what lies {p} the {x}?",
            "what do you see {p} the {x}?",
        ),
        "unseen": ("what would one find {p} the {x}?", "name what is {p} the {x}?"),
    },
    "where": {
        "seen": ("where is the {x}?", "where do you see the {x}?", "where can the {x} be found?", "what is the {x} in or on?"),
        "unseen": ("in which place is the {x}?", "can you tell me where the {x} is?"),
    },
}  # fmt: skip

CAPTIONS: dict[str, tuple[str, ...]] = {
    "seen": ("describe the scene.", "what do you see?", "say something about the picture.", "give a caption."),
    "unseen": ("what does the picture show?", "how would you describe this?"),
}
