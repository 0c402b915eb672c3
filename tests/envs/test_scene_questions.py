"""Answers agree with the simulator's own state, computed here from the words of the question; splits and balance hold."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from verbot.contracts import ObjectTruth, SceneLanguage, SceneTruth, Surveyed
from verbot.contracts.scenes import normalized
from verbot.envs import make_env
from verbot.envs.scene_languages import scene_languages
from verbot.envs.tabletop.language.templates_scene import QUESTIONS
from verbot.envs.tabletop.language.vocabulary import OBJECT_COLORS, SYNONYMS
from verbot.envs.tabletop.simulation.layout import SceneConstraints, sample
from verbot.errors import ConfigError, DataError, UnknownNameError

LANGUAGE = scene_languages.build("tabletop")
NOUNS = {noun: shape for shape, others in SYNONYMS.items() for noun in (shape, *others)}
NAME = re.compile(rf"({'|'.join(OBJECT_COLORS)}) ({'|'.join(NOUNS)})\b")
SIGHTS = {  # words of a relation to the viewer's axis and sign: y to the right, x nearer
    "left of": (1, -1), "left side of": (1, -1), "right of": (1, 1), "right side of": (1, 1), "in front of": (0, 1),
    "nearer than": (0, 1), "closer to the viewer than": (0, 1), "behind": (0, -1), "at the back of": (0, -1),
    "farther away than": (0, -1),
}  # fmt: skip


class Snapshot:
    """A second opinion: numbers from MuJoCo's bodies and contacts alone."""

    def __init__(self, env):
        data, model, layout = env.physics.data, env.physics.model, env.physics.layout
        places = {o.id: data.body(f"movable{i}").xpos[:2].copy() for i, o in enumerate(layout.movables)}
        self.height = {o.id: float(data.body(f"movable{i}").xpos[2]) for i, o in enumerate(layout.movables)}
        places |= {o.id: data.body(f"receptacle{i}").xpos[:2].copy() for i, o in enumerate(layout.receptacles)}
        self.places, self.tool = places, data.site("tool").xpos[:2].copy()
        self.truth = env.scene_truth()
        pads, touching = {model.geom("left_pad").id, model.geom("right_pad").id}, {}
        for a, b in data.contact.geom.tolist():
            for pad, other in ((a, b), (b, a)):
                if pad in pads:
                    touching.setdefault(model.geom(other).name, set()).add(pad)
        wide = data.qpos[model.joint("left_finger").qposadr[0]] > 0.015
        held = [o.id for i, o in enumerate(layout.movables) if wide and len(touching.get(f"movable{i}", ())) == 2]
        self.held = held[0] if held else None
        self.inside = {
            name: place.id for name in self.height for place in layout.receptacles
            if name != self.held and np.abs(places[name] - places[place.id]).max() < 0.05 and self.height[name] < 0.045
        }  # fmt: skip

    def stands(self, a: str, words: str, b: str) -> bool:
        axis, sign = next(SIGHTS[key] for key in sorted(SIGHTS, key=len, reverse=True) if key in words)
        offset = self.places[a] - self.places[b]
        return sign * offset[axis] >= 0.0495 and abs(offset[axis]) > abs(offset[1 - axis]) - 1e-3

    def check(self, kind: str, text: str, answer: str) -> bool:
        named = [f"{color} {NOUNS[noun]}" for color, noun in NAME.findall(text)]
        near = lambda place, names: min(names, key=lambda n: np.linalg.norm(self.places[n] - place))  # noqa: E731
        if kind in ("color_at", "object_at"):
            found = [n for n in self.places if n != named[0] and self.stands(n, text, named[0])]
            return len(found) == 1 and answer == (found[0].split()[0] if kind == "color_at" else found[0])
        if kind == "side":
            first, second = named if re.match(r"where|compared", text) and "relative" in text else named[::-1]
            return self.stands(
                first, {"left": "left of", "right": "right of", "in front": "in front of"}.get(answer, answer), second
            )
        if kind == "count":
            color = next((c for c in OBJECT_COLORS if f"{c} objects" in text), None)
            shape = next((s for s in ("cube", "cylinder", "ball", "box", "plate") if re.search(rf"\b{s}(e?s)\b", text)), None)
            number = sum((n.split()[0] == color) if color else (n.split()[1] == shape) for n in self.places)
            return answer == ("zero", "one", "two", "three", "four")[number]
        if kind == "exists":
            return (answer == "yes") == (named[0] in self.places)
        if kind == "relation":
            return (answer == "yes") == self.stands(named[0], text, named[1])
        if kind == "nearest":
            return answer == near(self.places[named[0]], [n for n in self.places if n != named[0]])
        if kind == "nearest_arm":
            return answer == near(self.tool, list(self.places))
        if kind == "holding":
            return answer == (self.held or "nothing")
        if kind == "inside":
            return answer == next((n for n, place in self.inside.items() if place == named[0]), "nothing")
        place = self.inside.get(named[0])
        on = {"box": "in", "plate": "on"}
        said = "on the table" if place is None else f"{on[place.split()[1]]} the {place}"
        return answer == ("in the gripper" if named[0] == self.held else said)


def drawn(index: int) -> SceneTruth:
    """A scene at rest, without a simulator."""
    layout = sample(SceneConstraints(), np.random.default_rng(index))
    objects = tuple(ObjectTruth(obj.id, obj.name, tuple(obj.middle_m)) for obj in layout)
    return SceneTruth("tabletop", (0, 1, 0), (1, 0, 0), (0.4, 0.0, 0.2), None, objects)


@pytest.fixture(scope="module")
def snapshots() -> list[Snapshot]:
    """Every fourth state of four episodes of the expert."""
    env, found = make_env("tabletop-starter", render_cameras=False), []
    assert isinstance(env, Surveyed) and isinstance(LANGUAGE, SceneLanguage)
    for index, task in enumerate(("put", "pick", "push", "put")):
        env.reset(seed=5, options={"task": task, "index": index, "split": "train"})
        expert, over, steps = env.expert(), False, 0
        while not over:
            if steps % 4 == 0:
                found.append(Snapshot(env))
            *_, ended, truncated, _ = env.step(expert.act())
            over, steps = ended or truncated, steps + 1
        found.append(Snapshot(env))
    env.close()
    return found


@pytest.mark.parametrize("wording", ["seen", "unseen"])
def test_answers_agree_with_the_simulator(snapshots, wording) -> None:
    counts: dict[str, Counter] = {}
    for number, each in enumerate(snapshots):
        rng = np.random.default_rng(number)
        assert each.truth.held == each.held
        for kind in LANGUAGE.kinds:
            found = LANGUAGE.question(each.truth, rng, wording, kind=kind)
            if found is not None:
                assert each.check(kind, found.text, found.answer), (kind, found, each.truth)
                assert found.answer == normalized(found.answer)
                counts.setdefault(kind, Counter())[found.answer] += 1
    assert set(counts) == set(LANGUAGE.kinds)
    assert {"in the gripper", "on the table"} < set(counts["where"]) and len(counts["where"]) > 2
    assert "nothing" in counts["inside"] and len(counts["inside"]) > 1


def test_yes_and_no_are_balanced_and_numbers_spread() -> None:
    counts = Counter()
    for index in range(250):
        truth, rng = drawn(index), np.random.default_rng(index)
        for kind in ("exists", "relation", "count"):
            found = LANGUAGE.question(truth, rng, kind=kind)
            if found is not None:
                counts[kind, found.answer] += 1
    for kind in ("exists", "relation"):
        yes, no = counts[kind, "yes"], counts[kind, "no"]
        assert yes + no > 200 and abs(yes - no) < 3 * np.sqrt(yes + no), (kind, yes, no)
    assert min(counts["count", number] for number in ("zero", "one", "two")) > 250 * 0.15, counts


@pytest.mark.parametrize("kind", ["exists", "object_at"])
def test_held_out_questions_never_occur_in_training(kind) -> None:
    """Of what is held out, each question names at least one pair; a pair of a training question is in none of those."""
    asked, kept = {"seen": [], "unseen": []}, {"seen": set(), "unseen": set()}
    for index in range(60):
        for split in ("seen", "unseen"):
            found = LANGUAGE.question(drawn(index), np.random.default_rng(index), split, split, kind)
            if found is not None:
                said = [f"{c} {NOUNS[n]}" for c, n in NAME.findall(f"{found.text} {found.answer}")]
                asked[split].append(said)
                kept[split].add(NAME.sub("x", found.text).replace(" an x", " a x"))
    trained = {name for names in asked["seen"] for name in names}
    assert len(asked["unseen"]) > 5 and all(set(names) - trained for names in asked["unseen"])
    assert kept["seen"] and not kept["seen"] & kept["unseen"]
    assert all(not set(split["seen"]) & set(split["unseen"]) and len(split["seen"]) > 2 for split in QUESTIONS.values())


def test_questions_are_a_function_of_the_seed_and_captions_are_true(snapshots) -> None:
    for number, each in enumerate(snapshots[::4]):
        pair = [LANGUAGE.question(each.truth, np.random.default_rng(number)) for _ in range(2)]
        assert pair[0] == pair[1] is not None
        said = LANGUAGE.caption(each.truth, np.random.default_rng(number)).answer
        assert {f"{color} {NOUNS[noun]}" for color, noun in NAME.findall(said)} <= set(each.places)
        assert "robot holds" not in said or each.held in said


def test_the_subtask_follows_the_demonstration(snapshots) -> None:
    order = [each.truth for each in snapshots if each.truth.task == snapshots[0].truth.task]
    stages = [truth.subtask for truth in order]
    assert stages[0] == 0 and stages[-1] == len(order[0].plan) - 1 and stages == sorted(stages)
    carried = [truth for truth in order if truth.plan[truth.subtask].startswith("carry")]
    assert carried and all(truth.held and truth.held in truth.plan[truth.subtask] for truth in carried)


def test_what_is_covered_or_unknown_is_not_asked(snapshots) -> None:
    cube = ObjectTruth("red cube", "red cube", (0.5, 0.0, 0.024))
    covered = SceneTruth("tabletop", (0, 1, 0), (1, 0, 0), (0.4, 0, 0.2), None, (cube,), covered=True)
    rng = np.random.default_rng(0)
    assert LANGUAGE.question(covered, rng) is None and LANGUAGE.caption(covered, rng) is None
    with pytest.raises(UnknownNameError, match="kind of question"):
        LANGUAGE.question(covered, rng, kind="smell")
    with pytest.raises(ConfigError, match="wording"):
        LANGUAGE.question(covered, rng, wording="loud")
    with pytest.raises(DataError, match="not the truth of a scene"):
        SceneTruth.from_json('{"language": "tabletop"}')
    assert SceneTruth.from_json(covered.to_json()) == covered
