"""`verbot ask`: a question about a scene, a picture or a frame, and an exam of questions that training never asks."""

from __future__ import annotations

import json
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from verbot import cli
from verbot.contracts import EpisodeRequest
from verbot.data import DatasetWriter
from verbot.envs import make_env
from verbot.envs.tabletop.language.templates_scene import QUESTIONS
from verbot.rollout.collect import demonstrate
from verbot.rollout.episode import EpisodeRunner
from verbot.workflows import ask


class Parrot:
    """Always answers the same, and keeps what it was asked."""

    def __init__(self, spec, answer):
        self.spec, self.said, self.asked, self.shown, self.knows_state = spec, answer, [], [], []

    def predict(self, observations):
        raise AssertionError("nobody asked it to act")

    def answer(self, observations, asked, knows_state=True):
        for observation in observations:
            shown = {name: observation.images[name] for name in observation.images}
            assert all(image.shape == (64, 64, 3) and image.dtype == np.uint8 for image in shown.values())
        self.asked, self.shown = [*self.asked, *asked], [*self.shown, *observations]
        self.knows_state.append(knows_state)
        return [self.said] * len(asked)


@pytest.fixture(scope="module")
def spec():
    with closing(make_env("tabletop-starter", render_cameras=False)) as env:
        return env.robot_spec


@pytest.fixture
def parrot(spec, monkeypatch):
    made = Parrot(spec, "yes")
    monkeypatch.setattr(ask, "open_policy", lambda name: made)
    monkeypatch.setattr(ask, "fitting", lambda name, suite: {})
    return made


def run(capsys, *words):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["ask", *words])
    return stopped.value.code or 0, *capsys.readouterr()


def test_an_answer_about_a_scene_is_judged_by_its_truth(parrot, capsys):
    with closing(make_env("tabletop-starter")) as env:
        image = EpisodeRunner(env, EpisodeRequest("put", index=3), 1).observation.images["front"]
        names = [each.name for each in env.scene_truth().objects]
    scene = ("--task", "put", "--index", "3", "--seed", "1")
    code, out, _ = run(capsys, "policy", f"Is there a {names[0]}?", *scene)
    assert (code, out.splitlines()) == (0, ["yes", "right"])
    assert np.array_equal(parrot.shown[0].images["front"], image)
    parrot.said = "five"
    _, out, _ = run(capsys, "policy", "how many plates are there?", *scene, "--json")
    expected = ("zero", "one", "two")[sum(name.endswith("plate") for name in names)]
    assert json.loads(out) == {
        "question": "how many plates are there?", "answer": "five", "expected": expected, "kind": "count", "split": "",
        "is_right": False,
    }  # fmt: skip
    _, out, _ = run(capsys, "policy", "why?", *scene)
    assert out.splitlines() == ["five", "not judged: the right answer is not known"]


def test_a_picture_has_one_camera_and_no_state(parrot, capsys, tmp_path):
    Image.fromarray(np.full((90, 120, 3), 7, np.uint8)).save(tmp_path / "it.png")
    code, out, _ = run(capsys, "policy", "is there a red cube?", "--image", str(tmp_path / "it.png"), "--camera", "wrist")
    assert code == 0 and out.startswith("yes\nnot judged")
    assert list(parrot.shown[0].images) == ["wrist"] and parrot.shown[0].images["wrist"].mean() == 7
    assert parrot.knows_state == [False]
    (tmp_path / "no.png").write_text("no picture")
    for words, expected in (
        (("--image", str(tmp_path / "no.png")), "is no picture that can be read"),
        (("--image", str(tmp_path / "it.png"), "--camera", "rear"), "no camera 'rear'; expected one of front, wrist"),
        (("--image", str(tmp_path / "gone.png")), "gone.png"),
        (("--camera", "front"), "--camera does not apply: it concerns an --image"),
        (("--frame", "2"), "--frame does not apply: it concerns --data"),
        (("--exam", "3"), "needs one of a question"),
    ):
        code, _, error = run(capsys, "policy", "is there a red cube?", *words)
        assert code == 2 and expected in error and error.count("\n") == 1, error


def test_a_recorded_frame_is_judged_by_its_recorded_truth(parrot, spec, capsys, tmp_path):
    with closing(make_env("tabletop-starter")) as env, DatasetWriter(tmp_path / "data", spec, images="image") as writer:
        episode = demonstrate(env, {"task": "pick", "index": 0, "split": "train"}, 0.0, 0, 0, truth=True)
        writer.save_episode(episode.record)
    parrot.said, last = "nothing", len(episode.record.states) - 1
    _, out, _ = run(capsys, "policy", "what is the robot holding?", "--data", str(tmp_path / "data"))
    assert out.splitlines() == ["nothing", "right"]
    _, out, _ = run(capsys, "policy", "what is the robot holding?", "--data", str(tmp_path / "data"), "--frame", str(last))
    assert out.splitlines()[1].startswith("wrong: expected '")
    code, _, error = run(capsys, "policy", "why?", "--data", str(tmp_path / "data"), "--frame", str(last + 1))
    assert code == 2 and f"has no frame {last + 1}; expected 0 to {last}" in error


def test_an_exam_asks_what_training_never_asks(parrot, capsys):
    _, out, _ = run(capsys, "policy", "--exam", "24", "--json")
    found = json.loads(out)
    answers = found["answers"]
    assert len(answers) == 24 and [each["question"] for each in answers] == parrot.asked
    assert {each["split"] for each in answers} == {"wording", "composition"}
    for each in answers:
        unseen = [template.split("{")[0].rstrip() for template in QUESTIONS[each["kind"]]["unseen"]]
        seen = [template.split("{")[0].rstrip() for template in QUESTIONS[each["kind"]]["seen"]]
        assert any(each["question"].startswith(start) for start in (unseen if each["split"] == "wording" else seen))
    right = sum(each["answer"] == each["expected"] for each in answers)
    assert found["groups"]["all"]["value"] == right / 24 and 0 < right < 24
    assert found["groups"]["all"]["commonest"] >= found["groups"]["all"]["value"]
    assert len({each.state.tobytes() for each in parrot.shown}) > 12, "at several moments of an episode"
    first = parrot.asked
    parrot.asked = []
    _, out, _ = run(capsys, "policy", "--exam", "24")
    assert parrot.asked == first and out.splitlines()[1].split()[:2] == ["all", f"{100 * right / 24:.1f}"]


def test_who_cannot_be_asked_says_so(monkeypatch, capsys, spec):
    monkeypatch.setattr(ask, "open_policy", lambda name: SimpleNamespace(spec=spec, predict=None))
    code, _, error = run(capsys, "ws://there", "why?")
    assert code == 2 and "cannot be asked" in error
    code, _, error = run(capsys, "starter", "why?")
    assert code == 2 and "cannot be asked" in error
