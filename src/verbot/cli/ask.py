"""The command that asks a policy in words."""

from __future__ import annotations

import json as json_module
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from verbot.cli.terminal import refuse
from verbot.errors import ConfigError


@dataclass(frozen=True)
class AskedOptions:
    """What the question is about: a scene of an env, or else a picture or a recorded frame.

    Args:
        suite: the env; see `verbot list envs`.
        task: task of the scene; otherwise one is drawn.
        index: number of the test scene.
        seed: another seed is another set of scenes.
        image: a picture, in place of a scene. Other cameras and the robot's state are then unknown.
        camera: the camera that the picture is shown as; otherwise the first.
        data: a dataset, in place of a scene; with --episode and --frame.
        episode: number of the recorded episode.
        frame: number of the frame in it.
    """

    suite: str = "tabletop-starter"
    task: str | None = None
    index: int = 0
    seed: int = 0
    image: Path | None = None
    camera: str | None = None
    data: Path | None = None
    episode: int = 0
    frame: int = 0


ASKED = AskedOptions()


def ask_command(
    policy: Positional[str],
    question: Positional[str | None] = None,
    about: AskedOptions = ASKED,
    exam: int | None = None,
    json: bool = False,
) -> int:
    """Ask a policy about what it sees, in words; says whether the answer is right where that is known.

    Example: verbot ask outputs/rt2/policy "what is left of the red cube?" --index 3

    Args:
        policy: the folder of a policy with a language trunk, such as that of `verbot train rt2`.
        question: in plain words.
        exam: instead ask so many held-out questions about test scenes, and print exact answers by kind with intervals.
        json: print JSON.
    """
    from verbot.contracts import EpisodeRequest
    from verbot.workflows import ask

    if (exam is None) == (question is None):
        raise ConfigError('verbot ask needs one of a question, such as "what is left of the red cube?", and --exam N')
    if exam is not None:
        refuse("an exam asks about scenes of an env", image=about.image, data=about.data, camera=about.camera, task=about.task,
               index=about.index)  # fmt: skip
        taken = ask.exam(policy, exam, about.suite, about.seed)
        print(json_module.dumps(taken.to_json(), indent=1) if json else taken.table())
        return 0
    assert question is not None
    refuse("it concerns an --image, give one too", camera=about.camera if about.image is None else None)
    refuse("it concerns --data, give a dataset too", **{} if about.data else {"episode": about.episode, "frame": about.frame})
    refuse("a question is about --image or about --data", image=about.image if about.data else None)
    if about.image is not None:
        found = ask.ask_picture(policy, question, about.image, about.camera)
    elif about.data is not None:
        found = ask.ask_frame(policy, question, about.data, about.episode, about.frame)
    else:
        request = EpisodeRequest(about.task, index=about.index)
        found = ask.ask_scene(policy, question, about.suite, request, about.seed)
    if json:
        print(json_module.dumps(found.to_json()))
        return 0
    print(found.answer or "(no words)")
    if found.expected is None:
        print("not judged: the right answer is not known")
    else:
        print("right" if found.is_right else f"wrong: expected {found.expected!r}")
    return 0
