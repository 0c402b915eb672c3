"""The command that changes a recorded dataset."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from tyro.conf import Positional, UseAppendAction

from verbot.cli.options import READING, ReadingOptions

Read = TypeVar("Read")


@dataclass(frozen=True)
class EpisodeOptions:
    """The episodes, by their numbers before any change.

    Args:
        merge: further datasets, whose episodes are numbered after the others.
        delete: leave these out: numbers, ranges such as 10:20, and conditions such as success=false or "length<10"; without any,
            those that satisfy --where.
        keep: keep only these.
        where: keep only those that satisfy all these conditions.
        trim: an episode, and start:stop of the frames of it that are kept; may be given several times.
        split: an episode, and the frames at which it is cut; may be given several times.
        instruction: new sentences, each as EPISODE=SENTENCE.
        instructions: a JSON file, {"0": ["pick up the cube"]} for episode 0, or {"recorded sentence": ["new sentence"]} for all.
    """

    merge: tuple[Path, ...] = ()
    delete: tuple[str, ...] | None = None
    keep: tuple[str, ...] | None = None
    where: tuple[str, ...] = ()
    trim: Annotated[tuple[tuple[str, ...], ...], UseAppendAction] = ()
    split: Annotated[tuple[tuple[str, ...], ...], UseAppendAction] = ()
    instruction: tuple[str, ...] = ()
    instructions: Path | None = None


@dataclass(frozen=True)
class ChannelOptions:
    """What every episode has.

    Args:
        rename_camera: each as old=new.
        rename_feature: further columns such as next.reward, each as old=new.
        rate_hz: the rate to resample to.
        subsample: keep every so many frames.
    """

    rename_camera: tuple[str, ...] = ()
    rename_feature: tuple[str, ...] = ()
    rate_hz: float | None = None
    subsample: int = 1


EPISODES, CHANNELS = EpisodeOptions(), ChannelOptions()


def data_edit_command(
    source: Positional[Path],
    out: Path | None = None,
    episodes: EpisodeOptions = EPISODES,
    channels: ChannelOptions = CHANNELS,
    reading: ReadingOptions = READING,
    json: bool = False,
) -> int:
    """Change a dataset, in place or as a copy: delete, trim, split, merge, rename, resample, give other instructions.

    Example: verbot data edit outputs/demo/dataset --out outputs/edited --delete success=false "length<10"

    Args:
        source: the dataset's folder.
        out: the folder of the changed dataset; without it the dataset itself is changed.
        json: print the result as JSON.
    """
    from verbot.data.editing import EditPlan, edit
    from verbot.data.editing.plan import load_replacements

    by_episode, by_sentence = load_replacements(episodes.instructions) if episodes.instructions else ({}, {})
    by_episode |= {_number("--instruction", number): (text,) for number, text in _pairs("--instruction", episodes.instruction)}
    where, delete = episodes.where, episodes.delete or ()
    if episodes.delete == () and where:
        where, delete = (), (" and ".join(where),)
    plan = EditPlan(
        merge=episodes.merge,
        delete=delete,
        keep=episodes.keep,
        where=where,
        trim=dict(_by_episode("--trim", episodes.trim, _bounds)),
        split=dict(_by_episode("--split", episodes.split, _cuts)),
        instructions=by_episode,
        replacements=by_sentence,
        rename_cameras=dict(_pairs("--rename-camera", channels.rename_camera)),
        rename_features=dict(_pairs("--rename-feature", channels.rename_feature)),
        rate_hz=channels.rate_hz,
        subsample=channels.subsample,
    )
    result = edit(source, plan, out, progress=True, features=reading.features)
    print(json_module.dumps(result.to_json(), indent=1) if json else f"{result.table()}\n{result.path}")
    return 0


def _by_episode(
    option: str, given: Iterable[Sequence[str]], read: Callable[[str, Sequence[str]], Read]
) -> Iterable[tuple[int, Read]]:
    for words in given:
        yield _number(option, words[0] if words else ""), read(option, words[1:])


def _bounds(option: str, words: Sequence[str]) -> tuple[int | None, int | None]:
    from verbot.data.editing.plan import parse_range
    from verbot.errors import ConfigError

    bounds = parse_range(words[0]) if len(words) == 1 else None
    if bounds is None:
        raise ConfigError(f"{option} has {' '.join(words)!r}; expected an episode and start:stop, as in {option} 5 10:50")
    return bounds


def _cuts(option: str, words: Sequence[str]) -> tuple[int, ...]:
    from verbot.errors import ConfigError

    if not words or not all(word.isdecimal() for word in words):
        raise ConfigError(f"{option} has {' '.join(words)!r}; expected an episode and frames, as in {option} 5 30 60")
    return tuple(map(int, words))


def _pairs(option: str, given: Iterable[str]) -> Iterable[tuple[str, str]]:
    from verbot.errors import ConfigError

    for text in given:
        old, equals, new = text.partition("=")
        if not (old and equals and new):
            raise ConfigError(f"{option} {text!r}: expected two names or values with = between them")
        yield old, new


def _number(option: str, text: str) -> int:
    from verbot.errors import ConfigError

    if not text.isdecimal():
        raise ConfigError(f"{option} has {text!r} in place of the number of an episode")
    return int(text)
