"""Which topics of a ROS 2 recording are the cameras, the state, the action and the instruction."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from verbot.data.importers import listed
from verbot.data.importers.bag_reader import Bag
from verbot.data.importers.bag_records import BagTopic
from verbot.data.importers.ros_images import encoding_of, is_depth
from verbot.data.importers.ros_messages import topic_of
from verbot.errors import ConfigError, DataError

PICTURES = ("CompressedImage", "Image", "RawImage")
NUMBERS = {"state": ("JointState",), "action": ("Float64MultiArray", "Float32MultiArray")}
GENERAL = ("compressed", "image_raw", "image", "color", "camera", "cameras", "rgb")


@dataclass(frozen=True)
class Topics:
    """Where an episode is in a recording; see `verbot.data.importers.mcap`. None finds a topic by its message type.

    Args:
        images: a topic by camera, or topics, whose cameras are called after them; False for none.
        depth: a topic of depth images by camera.
        state, action: names ``topic`` or ``topic:field``, joined in this order; False for none.
        joints: the joints to take from JointState messages, in this order; None takes all.
        latched: topics whose last message holds until the next, however old: those known as transient local are known already.
    """

    images: Any = None
    depth: Any = None
    state: Any = None
    action: Any = None
    instruction: Any = None
    split: str | None = None
    joints: Any = None
    latched: Any = None

    def __post_init__(self) -> None:
        for label in ("state", "action", "joints", "latched"):
            _names(label, getattr(self, label))
        for label in ("images", "depth"):
            _cameras(label, getattr(self, label))
        for label in ("instruction", "split"):
            value = getattr(self, label)
            if not (value is None or (label == "instruction" and value is False) or isinstance(value, str)):
                raise ConfigError(f"{label} is {value!r}; expected a topic, as {label}=/task")


@dataclass(frozen=True)
class ChosenTopics:
    """Names ``topic`` or ``topic:field`` of what is imported, with the evidence for those that were found.

    Args:
        evidence: why a topic was taken, by its name.
        left: why a topic was not taken, with the option that takes it.
    """

    images: Mapping[str, str]
    depth: Mapping[str, str]
    state: tuple[str, ...]
    action: tuple[str, ...]
    instruction: str | None
    joints: tuple[str, ...] = ()
    latched: frozenset[str] = frozenset()
    evidence: Mapping[str, str] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)

    @property
    def numbers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.state, *self.action)))

    @property
    def pictures(self) -> dict[str, str]:
        return {**self.images, **self.depth}

    def label(self, name: str) -> str:
        """What `name` is taken as, in the words of `FieldNote`."""
        cameras = [camera for camera, taken in self.pictures.items() if taken == name]
        numbers = [label for label in ("state", "action") if name in getattr(self, label)]
        return ", ".join([*(f"camera {camera}" for camera in cameras), *numbers]) or "instruction"


def _names(label: str, value: Any) -> tuple[str, ...] | None:
    if value is None or value is False:
        return None if value is None else ()
    if not isinstance(value, str | list | tuple) or (not isinstance(value, str) and not all(isinstance(v, str) for v in value)):
        raise ConfigError(f"{label} is {value!r}; expected names separated by commas, as {label}=/one,/two")
    return listed(value)


def _cameras(label: str, value: Any) -> dict[str, str] | None:
    if value is None or value is False:
        return None if value is None else {}
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) and isinstance(topic, str) and name and topic for name, topic in value.items()):
            raise ConfigError(f"{label} is {dict(value)!r}; expected a topic for each camera, as {label}.front=/camera")
        return dict(value)
    if isinstance(value, str | list | tuple) and label == "images":
        return named(_names(label, value) or ())
    raise ConfigError(f"{label} name a topic for each camera, as {label}.front=/camera, not {value!r}")


def named(topics: tuple[str, ...]) -> dict[str, str]:
    """A camera's name for each topic: ``/camera/front/image_raw/compressed`` is camera ``front``; unlike topics, unlike names.

    Example:
        >>> named(("/front/image_raw", "/front/color/image_raw", "/top/image_raw"))
        {'front_image_raw': '/front/image_raw', 'front_color_image_raw': '/front/color/image_raw', 'top': '/top/image_raw'}
    """
    short = {topic: _short(topic) for topic in topics}
    alike = {name for name in short.values() if list(short.values()).count(name) > 1}
    return {(_whole(topic) if name in alike else name): topic for topic, name in short.items()}


def _short(topic: str) -> str:
    words = [word for word in re.split(r"[/:]", topic) if word and word not in GENERAL]
    return "_".join(words).replace(".", "_") or _whole(topic)


def _whole(topic: str) -> str:
    return re.sub(r"[/:.]", "_", topic.strip("/"))


def choose(topics: Topics, bag: Bag | None) -> ChosenTopics:
    """What `topics` name, and for those that they do not name, what the first recording `bag` has of the fitting type.

    Raises `ConfigError` if no topic, or more than one, can be the action or the state.
    """
    known = {} if bag is None else {name: topic for name, topic in sorted(bag.topics.items()) if name != topics.split}
    evidence: dict[str, str] = {}
    left: dict[str, str] = {}
    images, depth = _cameras("images", topics.images), _cameras("depth", topics.depth) or {}
    if images is None:
        images = _guessed_images(bag, known, depth, evidence, left)
    numbers: dict[str, tuple[str, ...]] = {}
    for label, kinds in NUMBERS.items():
        given = _names(label, getattr(topics, label))
        if given is None:
            taken = (*(_names("state", topics.state) or ()), *(_names("action", topics.action) or ()))
            given = _guessed_numbers(label, kinds, known, {topic_of(name) for name in taken}, evidence)
        numbers[label] = given
    if not numbers["action"]:
        where = bag.files.key if bag is not None else "the recording"
        listing = ", ".join(f"{name} ({topic})" for name, topic in known.items())
        raise ConfigError(f"the action topic of {where} is ambiguous; give --set action=TOPIC; it has {listing or 'none'}")
    instruction = topics.instruction or None
    if topics.instruction is None:
        texts = [name for name, topic in known.items() if topic.short == "String" and not topic.unreadable]
        if len(texts) == 1:
            instruction = texts[0]
            evidence[instruction] = f"the only topic of type {known[instruction].type}"
        left |= {
            name: f"one of {len(texts)} topics of type String; --set instruction={name} takes it" for name in texts[1:] and texts
        }
    joints, latched = _names("joints", topics.joints) or (), frozenset(_names("latched", topics.latched) or ())
    chosen = ChosenTopics(images, depth, numbers["state"], numbers["action"], instruction, joints, latched, evidence, left)
    twice = sorted(set(images) & set(depth))
    if twice:
        raise ConfigError(
            f"the camera {twice[0]} has both color and depth; give the depth another name, as depth.{twice[0]}_depth"
        )
    return chosen


def _guessed_numbers(
    label: str, kinds: tuple[str, ...], known: Mapping[str, BagTopic], taken: set[str], evidence: dict[str, str]
) -> tuple[str, ...]:
    fitting = [name for name, topic in known.items() if topic.short in kinds and not topic.unreadable]
    if len(fitting) > 1:
        fitting = [name for name in fitting if name not in taken]
    if len(fitting) > 1 and label == "state":
        raise ConfigError(
            f"the state topic is ambiguous: {', '.join(fitting)} are of type {' or '.join(kinds)}; "
            "give --set state=TOPIC, or several separated by commas, or state=false for none"
        )
    if len(fitting) != 1:
        return ()
    evidence[fitting[0]] = f"the only topic of type {known[fitting[0]].type}"
    return (fitting[0],)


def _guessed_images(
    bag: Bag | None, known: Mapping[str, BagTopic], depth: Mapping[str, str], evidence: dict[str, str], left: dict[str, str]
) -> dict[str, str]:
    """Every topic of color images. Depth, and compressed copies of a topic that is there too, are left out."""
    pictures = [name for name, topic in known.items() if topic.short in PICTURES and not topic.unreadable]
    pictures = [name for name in pictures if name not in {topic_of(taken) for taken in depth.values()}]
    encodings = _encodings(bag, [name for name in pictures if known[name].count])
    found = []
    for name in pictures:
        if name not in encodings:
            left[name] = "it has no message in the first recording"
        elif is_depth(name, encodings[name]):
            left[name] = f"depth ({encodings[name]!r}); --set depth.NAME={name} takes it as a depth camera"
        elif name.rpartition("/")[0] in pictures and name.rpartition("/")[2] in ("compressed", "theora", "zstd"):
            left[name] = f"the images of {name.rpartition('/')[0]}, compressed; --set images.NAME={name} takes it"
        else:
            found.append(name)
            evidence[name] = f"a topic of type {known[name].type}"
    return named(tuple(found))


def _encodings(bag: Bag | None, topics: list[str]) -> dict[str, str]:
    """The encoding of the first message of each topic that can be read; "" if it states none."""
    found: dict[str, str] = {}
    if bag is None:
        return found
    messages = bag.messages(topics)
    try:
        for message in messages:
            if message.topic in found:
                continue
            found[message.topic] = encoding_of(message.value)
            if len(found) == len(topics):
                break
    except DataError:  # reading the episode reports it
        found |= {topic: "" for topic in topics if topic not in found}
    return found
