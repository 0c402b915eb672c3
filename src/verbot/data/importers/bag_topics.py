"""Which topics of a ROS 2 recording are the cameras, the state, the action and the instruction."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from verbot.data.importers import listed
from verbot.data.importers.bag_reader import Bag
from verbot.data.importers.bag_records import BagTopic
from verbot.data.importers.fields import FieldOptions
from verbot.data.importers.ros_images import encoding_of, is_depth
from verbot.data.importers.ros_messages import topic_of
from verbot.errors import ConfigError, DataError

PICTURES = ("CompressedImage", "Image", "RawImage")
NUMBERS = {"state": ("JointState",), "action": ("Float64MultiArray", "Float32MultiArray")}
GENERAL = ("compressed", "image_raw", "image", "color", "camera", "cameras", "rgb")


@dataclass(frozen=True)
class Topics(FieldOptions):
    """Where an episode is in a recording; see `verbot.data.importers.mcap`. None finds a topic by its message type.

    Fields are names ``topic`` or ``topic:field``. Cameras without a name are called after their topics. `depth_unit` replaces the
    unit that the encoding states.

    Args:
        joints: the joints to take from JointState messages, in this order; None takes all.
        latched: topics whose last message holds until the next, however old: those known as transient local are known already.
    """

    states_unit: ClassVar[bool] = True

    split: str | None = None
    joints: Any = None
    latched: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for label in ("joints", "latched"):
            _names(label, getattr(self, label))
        if not isinstance(self.split, str | None):
            raise ConfigError(f"split is {self.split!r}; expected a topic, as split=/task")

    def pictures(self, label: str) -> dict[str, str] | None:
        """Camera to topic of ``"images"`` or ``"depth"``; None if the format decides, {} for none."""
        given = self._cameras(label)
        return given if given is None or isinstance(given, dict) else named(given)


@dataclass(frozen=True)
class ChosenTopics:
    """Names ``topic`` or ``topic:field`` of what is imported, with the evidence for those that were found.

    Args:
        instruction: alternative wordings.
        meters_per_unit: of the depth images; None if their encodings state it.
        evidence: why a topic was taken, by its name.
        left: why a topic was not taken, with the option that takes it.
    """

    images: Mapping[str, str]
    depth: Mapping[str, str]
    state: tuple[str, ...]
    action: tuple[str, ...]
    instruction: tuple[str, ...]
    joints: tuple[str, ...] = ()
    latched: frozenset[str] = frozenset()
    meters_per_unit: float | None = None
    evidence: Mapping[str, str] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)

    @property
    def numbers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.state, *self.action)))

    @property
    def pictures(self) -> dict[str, str]:
        return {**self.images, **self.depth}

    def labels(self, name: str) -> list[str]:
        """What `name` is taken as, in the words of `FieldNote`."""
        cameras = [f"camera {camera}" for camera, taken in self.pictures.items() if taken == name]
        return cameras + [label for label in ("state", "action") if name in getattr(self, label)]


def _names(label: str, value: Any) -> tuple[str, ...] | None:
    if value is None or value is False:
        return None if value is None else ()
    if not isinstance(value, str | list | tuple) or (not isinstance(value, str) and not all(isinstance(v, str) for v in value)):
        raise ConfigError(f"{label} is {value!r}; expected names separated by commas, as {label}=/one,/two")
    return listed(value)


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
    images, depth = topics.pictures("images"), topics.pictures("depth") or {}
    if images is None:
        images = _guessed_images(bag, known, depth, evidence, left)
    numbers: dict[str, tuple[str, ...]] = {}
    for label, kinds in NUMBERS.items():
        given = topics.names(label)
        if given is None:
            taken = (*(topics.names("state") or ()), *(topics.names("action") or ()))
            given = _guessed_numbers(label, kinds, known, {topic_of(name) for name in taken}, evidence)
        numbers[label] = given
    if not numbers["action"]:
        where = bag.files.key if bag is not None else "the recording"
        listing = ", ".join(f"{name} ({topic})" for name, topic in known.items())
        raise ConfigError(f"the action topic of {where} is ambiguous; give --set action=TOPIC; it has {listing or 'none'}")
    instruction = topics.names("instruction")
    if instruction is None:
        instruction = ()
        texts = [name for name, topic in known.items() if topic.short == "String" and not topic.unreadable]
        if len(texts) == 1:
            instruction = (texts[0],)
            evidence[texts[0]] = f"the only topic of type {known[texts[0]].type}"
        left |= {
            name: f"one of {len(texts)} topics of type String; --set instruction={name} takes it" for name in texts[1:] and texts
        }
    joints, latched = _names("joints", topics.joints) or (), frozenset(_names("latched", topics.latched) or ())
    scale = topics.meters_per_unit if topics.depth_unit else None
    vectors = (numbers["state"], numbers["action"])
    chosen = ChosenTopics(images, depth, *vectors, instruction, joints, latched, scale, evidence, left)
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
