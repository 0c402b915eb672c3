"""Questions to a policy in words: one about a picture, or an exam of many that it was never trained on."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image, UnidentifiedImageError

from verbot.contracts import (
    AnsweringPolicy,
    Env,
    EpisodeRequest,
    JudgingLanguage,
    Policy,
    Question,
    SceneLanguage,
    SceneTruth,
    Surveyed,
    expert_of,
)
from verbot.contracts.scenes import normalized
from verbot.data import open_dataset
from verbot.data.samples.episode_arrays import scenes_of
from verbot.envs import make_env
from verbot.envs.scene_languages import scene_languages
from verbot.errors import ConfigError, DataError, PolicyError
from verbot.evaluation.protocol.intervals import wilson
from verbot.rollout.episode import EpisodeRunner
from verbot.spec import Observation, RobotSpec, UInt8Array
from verbot.transforms import FitImage
from verbot.workflows.load_policy import fitting, open_policy

HELD_OUT = {"wording": ("unseen", "seen"), "composition": ("seen", "unseen")}  # wording and composition of each split
PER_SCENE = 4  # questions, each about another moment of the expert's episode
BATCH = 32
FIRST = EpisodeRequest()


@dataclass(frozen=True)
class JudgedAnswer:
    """What a policy answered to a question.

    Args:
        expected: the right answer; None if it is unknown.
        kind: of the question; empty if it is unknown. split: of an exam, one of `HELD_OUT`.
    """

    question: str
    answer: str
    expected: str | None = None
    kind: str = ""
    split: str = ""

    @property
    def is_right(self) -> bool | None:
        return None if self.expected is None else normalized(self.answer) == normalized(self.expected)

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "is_right": self.is_right}


@dataclass(frozen=True)
class Exam:
    """The answers to an exam."""

    suite: str
    answers: tuple[JudgedAnswer, ...]

    def to_json(self) -> dict[str, Any]:
        return {"suite": self.suite, "groups": self._groups(), "answers": [each.to_json() for each in self.answers]}

    def table(self) -> str:
        """Exact answers by kind and split with 95 % intervals, beside the share that the commonest answer would have."""
        lines = [f"{'':<26} {'exact':>7}  {'95 % interval':<16} {'commonest':>9} {'n':>5}"]
        for name, found in self._groups().items():
            value, low, high = (100 * found[key] for key in ("value", "low", "high"))
            interval = f"[{low:.1f}, {high:.1f}]"
            lines.append(f"{name:<26} {value:>5.1f} %  {interval:<16} {100 * found['commonest']:>7.1f} % {found['n']:>5}")
        return "\n".join(lines)

    def _groups(self) -> dict[str, dict[str, Any]]:
        kinds = sorted({each.kind for each in self.answers})
        groups = {"all": self.answers}
        groups |= {f"unseen {split}": tuple(a for a in self.answers if a.split == split) for split in HELD_OUT}
        groups |= {kind: tuple(a for a in self.answers if a.kind == kind) for kind in kinds}
        return {name: _scored(answers) for name, answers in groups.items() if answers}


def _scored(answers: Sequence[JudgedAnswer]) -> dict[str, Any]:
    likeliest = Counter(each.expected for each in answers).most_common(1)[0][1]
    return {**wilson(sum(bool(each.is_right) for each in answers), len(answers)).to_json(), "commonest": likeliest / len(answers)}


def ask_scene(
    policy: str, question: str, suite: str = "tabletop-starter", request: EpisodeRequest = FIRST, seed: int = 0
) -> JudgedAnswer:
    """The answer to a question about the first image of a scene, beside the right one if the env knows it.

    Raises `PolicyError` for a policy without words.
    """
    answering = _answering(open_policy(policy), policy)
    with closing(make_env(suite, **fitting(policy, suite))) as env:
        observation = EpisodeRunner(env, request, seed).observation
        truth = env.scene_truth() if isinstance(env, Surveyed) else None
    return _judged(question, answering.answer([observation], [question])[0], truth)


def ask_frame(policy: str, question: str, data: Path, episode: int, frame: int) -> JudgedAnswer:
    """The answer to a question about a recorded frame. Raises `DataError` if there is no such frame."""
    answering = _answering(open_policy(policy), policy)
    dataset = open_dataset(data)
    if not 0 <= episode < len(dataset):
        raise DataError(f"{data} has no episode {episode}; expected 0 to {len(dataset) - 1}")
    recorded = dataset[episode]
    if not 0 <= frame < recorded.length:
        raise DataError(f"episode {episode} of {data} has no frame {frame}; expected 0 to {recorded.length - 1}")
    missing = [camera.name for camera in answering.spec.color_cameras if camera.name not in dataset.camera_names]
    wanted = [camera for camera in answering.spec.color_cameras if camera.name not in missing]
    images = {camera.name: _sized(recorded.images(camera.name, [frame])[0], answering.spec, camera.name) for camera in wanted}
    truths = scenes_of(recorded)
    truth = SceneTruth.from_json(truths[frame]) if truths else None
    return _judged(question, answering.answer([Observation(images, recorded.states[frame])], [question])[0], truth)


def ask_picture(policy: str, question: str, path: Path, camera: str | None = None) -> JudgedAnswer:
    """The answer to a question about a picture, shown as this camera or the first; other cameras and the state are unknown.

    Raises `DataError` for a file that is no picture, `ConfigError` for a camera that the policy does not have.
    """
    opened = open_policy(policy)
    answering, spec = _answering(opened, policy), opened.spec
    names = [each.name for each in spec.color_cameras]
    if camera is not None and camera not in names:
        raise ConfigError(f"{policy} has no camera {camera!r}; expected one of {', '.join(names)}")
    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is no picture that can be read; expected a PNG or JPEG file") from error
    name = camera or names[0]
    shown = Observation({name: _sized(pixels, spec, name)}, np.zeros(spec.state_size, np.float32))
    return _judged(question, answering.answer([shown], [question], knows_state=False)[0], None)


def exam(policy: str, count: int, suite: str = "tabletop-starter", seed: int = 0) -> Exam:
    """Ask `count` held-out questions about test scenes, at moments of the expert's episodes.

    Half of them have wordings that training never has, half name pairs of color and shape that training never asks of in this
    kind of question. Scenes, moments and questions are a function of suite and seed.

    Raises `PolicyError` for a policy without words, `ConfigError` for an env without questions.
    """
    answering = _answering(open_policy(policy), policy)
    with closing(make_env(suite, **fitting(policy, suite))) as env:
        if not isinstance(env, Surveyed):
            raise ConfigError(f"{suite} does not report its scenes, so nothing can be asked; expected a tabletop suite")
        asked = list(_questions(env, count, seed))
    answers: list[JudgedAnswer] = []
    for start in range(0, len(asked), BATCH):
        part = asked[start : start + BATCH]
        said = answering.answer([observation for observation, *_ in part], [question.text for _, question, _ in part])
        rows = zip(said, part, strict=True)
        answers += [
            JudgedAnswer(question.text, each, question.answer, question.kind, split) for each, (_, question, split) in rows
        ]
    return Exam(suite, tuple(answers))


def _questions(env: Env, count: int, seed: int) -> Iterator[tuple[Observation, Question, str]]:
    found, splits = 0, list(HELD_OUT)
    for scene in range(4 * count):
        rng = np.random.default_rng((seed, scene))
        moments = list(_moments(env, scene, seed))
        for number in rng.integers(len(moments), size=PER_SCENE).tolist():
            observation, truth = moments[number]
            language = cast(SceneLanguage, scene_languages.build(truth.language))
            split = splits[found % len(splits)]
            question = language.question(truth, rng, *HELD_OUT[split])
            if question is not None:
                yield observation, question, split
                found += 1
            if found == count:
                return
    raise ConfigError(f"only {found} of {count} questions were found in {4 * count} scenes; ask for fewer")


def _moments(env: Env, scene: int, seed: int) -> Iterator[tuple[Observation, SceneTruth]]:
    """What is seen and true at each step while the expert acts."""
    surveyed = cast(Surveyed, env)
    episode, agent = EpisodeRunner(env, EpisodeRequest(index=scene), seed), expert_of(env)
    agent.reset(episode.instruction)
    yield episode.observation, surveyed.scene_truth()
    for step in episode.run(agent):
        yield step.next_observation, surveyed.scene_truth()


def _answering(policy: Policy, name: str) -> Any:
    if not isinstance(policy, AnsweringPolicy):
        raise PolicyError(
            f"{name} cannot be asked: only a policy in a folder with a language trunk answers in words, not an exported one or a "
            f"server. Train one with `verbot train rt2`"
        )
    return policy


def _judged(question: str, answer: str, truth: SceneTruth | None) -> JudgedAnswer:
    language = None if truth is None else scene_languages.build(truth.language)
    known = language.find(truth, question) if truth is not None and isinstance(language, JudgingLanguage) else None
    return JudgedAnswer(question, answer) if known is None else JudgedAnswer(question, answer, known.answer, known.kind)


def _sized(image: UInt8Array, spec: RobotSpec, name: str) -> UInt8Array:
    """The image in the size of the policy's camera, cropped at its center."""
    camera = next(each for each in spec.cameras if each.name == name)
    return FitImage(image.shape[:2], (camera.height, camera.width), "crop").forward(image)
