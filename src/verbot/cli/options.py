"""Options of commands that belong together. On the command line each field is an option of its own, without a prefix."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from verbot.cli.terminal import given

Mode = Literal["canonical", "paraphrase", "longer", "blank", "counterfactual", "composition", "image"]
Axis = Literal[
    "positions", "lighting", "appearance", "camera", "camera_dropout", "distractors", "robot_start", "sensor_noise", "dynamics"
]
Strength = Literal[1, 2, 3]
Storage = Literal["video", "image"]
Method = Literal["naive", "hold", "aligned", "blend", "anchored", "corrected", "guided", "trained", "ahead"]


@dataclass(frozen=True)
class RecordOptions:
    """The scenes to record, and the recorded data.

    Args:
        suite: the env; see `verbot list envs`.
        seed: seed of the scenes and of an expert's noise.
        tasks: only these tasks, in turn; otherwise all.
        axes: randomization axes, each followed by its strength, 1 to 3.
        image_size: width and height of the images, in pixels.
        cameras: only these cameras of the suite; otherwise all.
        depth: also record a depth camera beside each camera of a tabletop.
        captions: number of captions of each scene to record, each with a hard negative, for pretraining.
        images: how color images are stored: video, or image (PNG, without loss); otherwise video.
    """

    suite: str = "tabletop-starter"
    seed: int = 0
    tasks: tuple[str, ...] = ()
    axes: dict[str, int] | None = None
    image_size: int = 64
    cameras: tuple[str, ...] = ()
    depth: bool = False
    captions: int = 0
    images: Storage | None = None

    def of_env(self) -> dict[str, Any]:
        """Options of `make_env`."""
        more = given(cameras=self.cameras or None, depth=self.depth or None, captions=self.captions or None)
        return {"image_size": self.image_size, **more}


@dataclass(frozen=True)
class DemonstratedOptions:
    """What is recorded of a demonstration.

    Args:
        max_frames: record only this many frames of each episode, whether or not it succeeds: images, not demonstrations.
        truth: also record where everything is in each frame, and the expert's plan, for questions and reasoning in co-training.
    """

    max_frames: int | None = None
    truth: bool = False


@dataclass(frozen=True)
class PageOptions:
    """The address of the page.

    Args:
        host: address that serves the page; another than the loopback is neither encrypted nor private.
        port: port of the page; 0 takes a free one.
    """

    host: str = "127.0.0.1"
    port: int = 0


@dataclass(frozen=True)
class MachineOptions:
    """The processes or the cluster that run the episodes.

    Args:
        workers: number of processes; 0 takes one for each core.
        cluster: ray, or ray:ADDRESS: its cores run the episodes in place of processes here.
    """

    workers: int = 0
    cluster: str | None = None


@dataclass(frozen=True)
class SceneOptions:
    """The scenes of the episodes.

    Args:
        suite: the env; see `verbot list envs`.
        episodes: number of scenes.
        seed: another seed is another set of scenes.
    """

    suite: str = "tabletop-starter"
    episodes: int = 200
    seed: int = 0


@dataclass(frozen=True)
class ConditionOptions:
    """The condition in which a policy is evaluated.

    Args:
        instruction_mode: the condition.
        paraphrases: a YAML file of your own wording, {pick: [...], push: [...], put: [...]}, templates with {object},
            {receptacle}, {preposition} and {direction}.
        axis: a randomization axis, or all at once, without camera_dropout if the policy cannot do without a camera.
        strength: strength of the axis; 2 if not given.
        align: a dataset; images are shifted to the channel medians of its images while the policy acts.
    """

    instruction_mode: Mode = "canonical"
    paraphrases: Path | None = None
    axis: Axis | Literal["all"] | None = None
    strength: Strength | None = None
    align: Path | None = None


@dataclass(frozen=True)
class ActingOptions:
    """How a policy acts.

    Args:
        execute: number of actions of each chunk to execute.
        sample: draw the actions from the distribution of the policy's head, instead of taking the most likely ones.
        cameras: only these cameras of the suite; otherwise all.
        device: the device of the policy: cpu, cuda, cuda:N, mps or auto.
        real_time: method of real-time chunking: what is executed while the next chunk is predicted; hold stops the robot.
        delay: control steps that each answer of the policy takes, in which the robot moves on.
        delay_jitter: each answer takes so many steps more or less, at most the delay.
        drop: share of answers that are lost, 0 to 1.
        delay_estimate: control steps that the agent expects an answer to take; otherwise it measures them.
        think: the part of its reasoning that the policy says first before each action, or all; those after it follow.
        think_from: number of a test scene: the policy gets the expert's plans of the scenes from there on, in place of its own.
    """

    execute: int = 1
    sample: bool = False
    cameras: tuple[str, ...] = ()
    device: str = "cpu"
    real_time: Method | None = None
    delay: int = 0
    delay_jitter: int = 0
    drop: float = 0.0
    delay_estimate: int | None = None
    think: Literal["all", "task", "plan", "subtask", "move", "gripper", "objects"] | None = None
    think_from: int | None = None

    def of_answers(self) -> dict[str, Any]:
        """How late the policy's answers are, and what the robot does meanwhile: fields of `EvaluationConfig`."""
        names = ("real_time", "delay", "delay_jitter", "drop", "delay_estimate")
        return {name: vars(self)[name] for name in names if vars(self)[name] != vars(ACTING)[name]}


@dataclass(frozen=True)
class ReadingOptions:
    """How a dataset of other software is read.

    Args:
        map: which features are the state, the action and the cameras, where they have other names than LeRobot's, each as
            TARGET=FEATURE, e.g. observation.state=state action=actions images.front=image0.
    """

    map: tuple[str, ...] = ()

    @property
    def features(self) -> dict[str, tuple[str, ...]] | None:
        """As `verbot.open_dataset` takes them."""
        if not self.map:
            return None
        from verbot.data.storage.features import feature_map

        return feature_map(self.map)


READING = ReadingOptions()


@dataclass(frozen=True)
class DemonstrationOptions:
    """The datasets to train on.

    Args:
        data: folders of episodes; without any the recipe's own demonstrations are collected first.
        embodiments: folders of episodes of other robots, each of which gets a policy of its own that shares weights.
        map: which features are the state, the action and the cameras, where they have other names than LeRobot's, each as
            TARGET=FEATURE, e.g. observation.state=state action=actions images.front=image0.
    """

    data: tuple[Path, ...] = ()
    embodiments: tuple[Path, ...] = ()
    map: tuple[str, ...] = ()

    def settings(self) -> dict[str, Any]:
        """Arguments of `verbot.train`, but for `data`."""
        found = given(embodiments=self.embodiments or None)
        if self.map:
            from verbot.data.storage.features import feature_map

            found["data.features"] = feature_map(self.map)
        return found


@dataclass(frozen=True)
class BudgetOptions:
    """The length of training; one of these.

    Args:
        minutes: minutes of training, instead of the recipe's budget.
        samples: training samples, instead of the recipe's budget.
        steps: optimizer steps, or control steps in reinforcement learning, instead of the recipe's budget.
    """

    minutes: float | None = None
    samples: int | None = None
    steps: int | None = None

    def settings(self) -> dict[str, Any]:
        return given(samples=self.samples, minutes=self.minutes, steps=self.steps)


@dataclass(frozen=True)
class EntryOptions:
    """Further entries, and a selection of all.

    Args:
        list: a list of further entries: one that ships with verbot (see `verbot list comparisons`), or a YAML file.
        only: only the entries with these names.
        base: the entry to compare the others with; otherwise the first.
    """

    list: str | None = None
    only: tuple[str, ...] = ()
    base: str | None = None


@dataclass(frozen=True)
class ComparisonOptions:
    """The evaluation of all entries.

    Args:
        suite: the env; otherwise that of the first recipe.
        episodes: number of scenes.
        seed: the seed of the whole run.
        conditions: further conditions for all entries.
        baselines: also evaluate the expert and random actions.
        workers: number of evaluation processes; 0 takes one for each core.
    """

    suite: str | None = None
    episodes: int = 200
    seed: int = 0
    conditions: tuple[str, ...] = ("counterfactual", "paraphrase")
    baselines: bool = True
    workers: int = 0


@dataclass(frozen=True)
class ImportOptions:
    """What the format of recordings does not say: properties of them, and how they are to be stored.

    Args:
        rate_hz: the rate of recording, if the format does not contain it; for logs, the rate to resample to.
        robot: whose numbers these are: droid, bridge, open_x, aloha, robomimic, libero or generic; otherwise recognized.
        spec: a JSON file of the robot's spec, instead of the one found; values are then kept exactly as they are.
        instruction: for episodes without one.
        images: how color images are stored: video, or image (PNG, without loss); otherwise video.
        strict: stop at the first episode that cannot be imported, instead of leaving it out.
        max_episode_gb: gibibytes of decoded values that one episode may hold.
    """

    rate_hz: float | None = None
    robot: str | None = None
    spec: Path | None = None
    instruction: str | None = None
    images: Storage | None = None
    strict: bool = False
    max_episode_gb: float = 8.0


RECORDED, DEMONSTRATED = RecordOptions(), DemonstratedOptions()
PAGE, MACHINES = PageOptions(), MachineOptions()
SCENES, CONDITION, ACTING = SceneOptions(), ConditionOptions(), ActingOptions()
DEMONSTRATIONS = DemonstrationOptions()
BUDGET, LISTED, PLAYED, RECORDINGS = BudgetOptions(), EntryOptions(), ComparisonOptions(), ImportOptions()
