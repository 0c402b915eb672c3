"""Designs are strict: what they name exists, what they change is what they say, and every design that ships can be built."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from verbot.envs import make_env
from verbot.errors import ConfigError, UnknownNameError
from verbot.models.network import VLANetwork
from verbot.policy.policy import load_policy
from verbot.recipes.overrides import (
    ACTING,
    NETWORK,
    TRAINING,
    Design,
    design_lists,
    parse_design,
    read_designs,
    resolve_design,
)
from verbot.training import TrainConfig
from verbot.workflows.compare_entries import candidates, digest
from verbot.workflows.train_evaluate import train


def resolved(word, budget=None, seed=None):
    return resolve_design(parse_design(word), budget, seed)


def test_a_setting_finds_its_place_by_its_name_alone():
    assert not set(NETWORK) & set(TRAINING)
    assert not set(ACTING) & {*NETWORK, *TRAINING}
    run = resolved(
        "starter+chunk=4+augment.grounding_queries=2+execute=3+learning_rate=1e-3+dagger.rounds=2", {"samples": 640}, seed=5
    )
    assert (run.training.network.chunk, run.training.augment.grounding_queries, run.evaluation.execute) == (4, 2, 3)
    assert (run.training.learning_rate, run.training.dagger.rounds, run.training.seed) == (0.001, 2, 5)
    assert (run.training.samples, run.training.minutes) == (640, None)
    assert resolved("starter+seed=7+samples=99", {"samples": 640}, seed=5).training.samples == 99
    assert resolved("starter+network.chunk=4").training == resolved("starter+chunk=4").training


def test_naming_a_part_takes_its_defaults_and_an_option_keeps_the_others():
    base = resolved("starter").training.network.vision
    assert base.options == {"channels": 24, "features": 48}
    assert resolved("starter+vision.channels=8").training.network.vision.options == {"channels": 8, "features": 48}
    assert resolved("starter+vision=query_conv").training.network.vision.options == {}
    film = resolved("starter+vision.channels=8+vision=film_conv").training.network.vision
    assert (film.name, film.options) == ("film_conv", {"channels": 8})
    whole = resolve_design(Design("x", "starter", {"head": {"name": "flow"}, "augment": {"relabel": 0.5}}))
    assert (whole.training.network.head.name, whole.training.augment.relabel) == ("flow", 0.5)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("startr+head=flow", "design 'startr.head=flow': there is no recipe named 'startr'. Did you mean 'starter'"),
        ("starter+flow", "'flow' in 'starter.flow' is not of the form field=value"),
        ("starter+head=flow+head=flow", "sets head twice"),
        ("starter+head=flw", "there is no head named 'flw'. Did you mean 'flow'\\? Known: .*regression"),
        ("starter+vision=vit+vision.channels=3", "vision=vit has no field 'channels'. Fields: patch"),
        ("starter+vision.chanels=3", "vision=query_conv has no field 'chanels'. Did you mean 'channels'"),
        ("starter+vision.channels=many", "vision=query_conv.channels is 'many'; expected int"),
        ("starter+vison=vit", "there is no setting 'vison'. Did you mean 'vision'\\? Of the network: vision, .*acting: execute"),
        ("starter+augment.question=3", "training.augment has no field 'question'"),
        ("starter+augment=3", "there is no setting 'augment'.*augment.FIELD: shift_pixels"),
        ("starter+memory.slots=3", "there is no memory to set slots of; name one of .*external"),
        ("starter+vision=", "there is no vision; name one of film_conv"),
        ("starter+width=wide", "training.network.width is 'wide'; expected int"),
        ("starter+execute=0", "execute is 0; expected at least 1"),
        ("starter+datasets=[a]", "trained on the same data, so none can set 'datasets'"),
        ("starter+suite=tabletop", "there is no setting 'suite'"),
    ],
)
def test_a_wrong_design_is_told_what_there_is(word, message):
    with pytest.raises(ConfigError, match=message):
        resolved(word)


def test_a_list_is_strict_too(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("recipe: tiny\ndesigns:\n  a: {}\n  b: {about: other, settings: {chunk: 2}}\n  c: {recipe: starter}\n")
    a, b, c = read_designs(path)
    assert (a, b) == (Design("a", "tiny"), Design("b", "tiny", {"chunk": 2}, "other"))
    assert c.recipe == "starter"
    assert resolve_design(b).about == "other"
    for text, message in (
        ("designs: {}", "lists no designs"),
        ("designs: {a: {setting: {chunk: 2}}}", "mine.yaml: designs.a has no field 'setting'. Did you mean 'settings'"),
        ("recipe: tiny", "lacks the field 'designs'"),
        ("designs: [a", "cannot read the configuration"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_designs(path)
    with pytest.raises(UnknownNameError, match="no list of designs named 'al'. Did you mean 'all'"):
        read_designs("al")


@pytest.fixture(scope="module")
def robot():
    env = make_env("tabletop-starter", image_size=64)
    yield env.robot_spec
    env.close()


@pytest.mark.parametrize("design", [d for name in design_lists() for d in read_designs(name)], ids=lambda design: design.name)
def test_every_design_that_ships_says_what_it_is_and_can_be_built(design, robot):
    run = resolve_design(design, {"samples": 1000}, 0)
    assert design.about
    network, spec = run.training.network, robot
    chunks = np.random.default_rng(0).normal(size=(64, network.chunk, spec.action_size)).astype(np.float32)
    built = VLANetwork(network.fit(["pick up the red cube"], chunks), spec)
    assert sum(parameter.numel() for parameter in built.parameters()) < 20_000_000
    assert run.evaluation.execute <= network.chunk


@pytest.mark.parametrize("name", design_lists())
def test_designs_of_one_list_differ(name):
    runs = [resolve_design(design, {"samples": 1000}, 0) for design in read_designs(name)]
    assert len({digest(run.training, run.evaluation) for run in runs}) == len(runs)


def test_designs_that_only_act_otherwise_share_a_training():
    runs = {d.name: resolve_design(d, {"samples": 1000}, 0) for d in read_designs("choices")}
    acting = {name for name, run in runs.items() if run.training == runs["starter"].training}
    assert {"starter", "execute-3", "execute-8", "ensembling"} == acting


def test_a_digest_is_of_what_was_changed():
    config = resolved("starter").training
    assert digest(config) == digest(dataclasses.replace(config))
    assert digest(config) != digest(dataclasses.replace(config, seed=1))
    assert digest(config, without=("log_every",)) == digest(dataclasses.replace(config, log_every=7), without=("log_every",))
    plain = TrainConfig(datasets=("a",), steps=1)
    assert digest(plain) == digest(dataclasses.replace(plain, batch_size=TrainConfig.batch_size))


def test_candidates_are_told_apart(tmp_path):
    (tmp_path / "played").mkdir()
    (tmp_path / "played" / "results.jsonl").touch()
    words = ["tiny", "tiny+chunk=2", "expert", str(tmp_path / "played"), "policy:starter"]
    found = candidates(words, None, (), {"steps": 1}, 0)
    assert [(c.kind, c.run is not None, c.policy) for c in found] == [
        ("design", True, None),
        ("design", True, None),
        ("policy", False, "expert"),
        ("policy", False, None),
        ("policy", False, "starter"),
    ]
    assert candidates(["starter"], None, (), {}, 0)[0].policy == "starter"
    assert candidates(["starter"], None, (), {"steps": 1}, 0)[0].run is not None
    assert [c.name for c in candidates(["expert"], "all", ["head-flow", "expert"], {"steps": 1}, 0)] == ["head-flow", "expert"]
    for words, designs, only, budget, message in (
        ([], None, (), {}, "nothing to compare; name recipes"),
        (["expert", "expert"], None, (), {}, "named twice: expert"),
        (["tiny", "tiny+chunk=2"], None, (), {}, "tiny, tiny.chunk=2 must be trained: give samples, minutes or steps"),
        (["tiny"], None, (), {"steps": 1, "minutes": 1.0}, "give one of samples, minutes and steps; came steps and minutes"),
        (
            ["expert"],
            "all",
            ["head-flw"],
            {"steps": 1},
            "no design in .* named 'head-flw'. Did you mean 'head-flow'",
        ),
        (["exprt"], None, (), {}, "no recipe or policy named 'exprt'. Did you mean 'expert'"),
        ([str(tmp_path)], None, (), {}, "is not a policy directory"),
        (["policy:nowhere"], None, (), {}, "nowhere is not a policy directory"),
    ):
        with pytest.raises(Exception, match=message):
            candidates(words, designs, only, budget, 0)


def test_a_design_can_be_trained_by_itself(tmp_path):
    result = train("tiny+chunk=2+fusion=film", out=tmp_path / "run", steps=1, progress=False)
    policy = load_policy(result.policy)
    assert (policy.config.chunk, policy.config.fusion.name) == (2, "film")
    with pytest.raises(UnknownNameError, match="starter"):
        train("startr", out=tmp_path / "other", steps=1)
    with pytest.raises(ConfigError, match="chunck"):
        train("tiny+chunck=2", out=tmp_path / "other", steps=1)
