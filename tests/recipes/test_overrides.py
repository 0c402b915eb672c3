"""Overrides are strict: they name fields that exist and change only those. Every variant that ships can be built."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest

from verbot.configuration import build, field_types, renamed
from verbot.envs import make_env
from verbot.errors import ConfigError, UnknownNameError, VerbotDeprecationWarning, VerbotError
from verbot.models.network import NetworkConfig, Part, VLANetwork
from verbot.policy.opening import load_policy
from verbot.recipes.config import ACTING, change, resolve
from verbot.recipes.overrides import override
from verbot.recipes.variants import Variant, comparison_lists, parse_variant, read_variants, resolve_variant
from verbot.training import TrainConfig
from verbot.training.imitation.records import BudgetConfig, DataConfig
from verbot.workflows.compare_entries import digest, find_entries
from verbot.workflows.train_evaluate import train


def resolved(word, budget=None, seed=None):
    return resolve_variant(parse_variant(word), budget, seed)


def test_a_setting_finds_its_place_by_its_name_alone():
    network, training = field_types(NetworkConfig), field_types(TrainConfig)
    assert not set(network) & set(training)
    assert not set(ACTING) & {*network, *training}
    run = resolved(
        "starter+chunk=4+augment.grounding_queries=2+execute=3+learning_rate=1e-3+dagger.rounds=2", {"samples": 640}, seed=5
    )
    assert (run.training.network.chunk, run.training.augment.grounding_queries, run.evaluation.execute) == (4, 2, 3)
    assert (run.training.optimizer.learning_rate, run.training.dagger.rounds, run.training.seed) == (0.001, 2, 5)
    assert (run.training.budget.samples, run.training.budget.minutes) == (640, None)
    assert resolved("starter+seed=7+samples=99", {"samples": 640}, seed=5).training.budget.samples == 99
    assert resolved("starter+network.chunk=4").training == resolved("starter+chunk=4").training


def test_naming_a_part_takes_its_defaults_and_an_option_keeps_the_others():
    base = resolved("starter").training.network.vision
    assert base.options == {"channels": 24, "features": 48}
    assert resolved("starter+vision.channels=8").training.network.vision.options == {"channels": 8, "features": 48}
    assert resolved("starter+vision=query_conv").training.network.vision.options == {}
    film = resolved("starter+vision.channels=8+vision=film_conv").training.network.vision
    assert (film.name, film.options) == ("film_conv", {"channels": 8})
    whole = resolve_variant(Variant("x", "starter", {"head": {"name": "flow"}, "augment": {"relabel": 0.5}}))
    assert (whole.training.network.head.name, whole.training.augment.relabel) == ("flow", 0.5)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("startr+head=flow", "variant 'startr.head=flow': there is no recipe named 'startr'. Did you mean 'starter'"),
        ("starter+flow", "'flow' in 'starter.flow' is not of the form field=value"),
        ("starter+head=flow+head=flow", "sets head twice"),
        ("starter+head=flw", "there is no head named 'flw'. Did you mean 'flow'\\? Known: .*regression"),
        ("starter+vision=vit+vision.channels=3", "vision=vit has no field 'channels'. Fields: patch"),
        ("starter+vision.chanels=3", "vision=query_conv has no field 'chanels'. Did you mean 'channels'"),
        ("starter+vision.channels=many", "vision=query_conv.channels is 'many'; expected int"),
        ("act+head.decoder=deep", "head=cvae.decoder is 'deep'; expected int"),
        ("act+head.transformer=2", "head=cvae has no field 'transformer'"),
        (
            "starter+vison=vit",
            "no setting 'vison'. Did you mean 'vision'\\? Settings of imitation: .*of network: backbone, .*evaluation: execute",
        ),
        ("starter+backbone=modlar", "no backbone named 'modlar'. Did you mean 'modular'"),
        ("starter+augment.grounding_query=3", "augment has no field 'grounding_query'. Did you mean 'grounding_queries'"),
        ("starter+augment=3", "augment is a record, so it cannot be 3; set its fields, as augment.FIELD=VALUE: shift_pixels"),
        ("starter+memory.slots=3", "there is no memory to set slots of; name one of .*external"),
        ("starter+vision=", "there is no vision; name one of .*film_conv"),
        ("starter+width=wide", "imitation.network.width is 'wide'; expected int"),
        ("starter+execute=0", "execute is 0; expected at least 1"),
        ("starter+datasets=[a]", "trained on the same data, so none can set '.*imitation.data.datasets'"),
        ("starter+suite=tabletop", "played on the same episodes, so none can set 'evaluation.suite'"),
        ("starter+collection.noise=0", "trained on the same data, so none can set 'collection.noise'"),
        (
            "starter+episodes=3",
            "'episodes' could be collection.episodes, evaluation.episodes, .*dagger.episodes; give the longer",
        ),
    ],
)
def test_a_wrong_variant_raises_with_the_known_names(word, message):
    with pytest.raises(ConfigError, match=message):
        resolved(word)


def test_a_list_is_strict_too(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("recipe: tiny\nentries:\n  a: {}\n  b: {about: other, settings: {chunk: 2}}\n  c: {recipe: starter}\n")
    a, b, c = read_variants(path)
    assert (a, b) == (Variant("a", "tiny"), Variant("b", "tiny", {"chunk": 2}, "other"))
    assert c.recipe == "starter"
    assert resolve_variant(b).about == "other"
    for text, message in (
        ("entries: {}", "lists no entries"),
        ("entries: {a: {setting: {chunk: 2}}}", "mine.yaml: entries.a has no field 'setting'. Did you mean 'settings'"),
        ("recipe: tiny", "lacks the field 'entries'"),
        ("entries: [a", "cannot read the configuration"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_variants(path)
    with pytest.raises(UnknownNameError, match="no list of variants named 'al'. Did you mean 'all'"):
        read_variants("al")


@pytest.fixture(scope="module")
def robot():
    env = make_env("tabletop-starter", image_size=64)
    yield env.robot_spec
    env.close()


@pytest.mark.parametrize(
    "variant", [d for name in comparison_lists() for d in read_variants(name)], ids=lambda variant: variant.name
)
def test_every_variant_that_ships_says_what_it_is_and_can_be_built(variant, robot):
    run = resolve_variant(variant, {"samples": 1000}, 0)
    assert variant.about
    network, spec = run.training.network, robot
    chunks = np.random.default_rng(0).normal(size=(64, network.chunk, spec.action_size)).astype(np.float32)
    built = VLANetwork(network.fit(["pick up the red cube"], chunks), spec)
    assert sum(parameter.numel() for parameter in built.parameters()) < 20_000_000
    assert run.evaluation.execute <= network.chunk


@pytest.mark.parametrize("name", comparison_lists())
def test_variants_of_one_list_differ(name):
    runs = [resolve_variant(variant, {"samples": 1000}, 0) for variant in read_variants(name)]
    assert len({digest(run.training, run.evaluation) for run in runs}) == len(runs)


def test_variants_that_only_act_otherwise_share_a_training():
    runs = {d.name: resolve_variant(d, {"samples": 1000}, 0) for d in read_variants("choices")}
    acting = {name for name, run in runs.items() if run.training == runs["starter"].training}
    assert {"starter", "execute-3", "execute-8", "ensembling"} == acting


def test_a_digest_is_of_what_was_changed():
    config = resolved("starter").training
    assert digest(config) == digest(dataclasses.replace(config))
    assert digest(config) != digest(dataclasses.replace(config, seed=1))
    without = ("logging.log_every",)
    assert digest(config, without=without) == digest(override(config, {"log_every": 7}), without=without)
    plain = TrainConfig(DataConfig(("a",)), BudgetConfig(steps=1))
    assert digest(plain) == digest(override(plain, {"batch_size": 64}))
    assert digest(plain) != digest(override(plain, {"batch_size": 32}))


def test_kinds_of_entries_are_distinguished(tmp_path):
    (tmp_path / "played").mkdir()
    (tmp_path / "played" / "results.jsonl").touch()
    words = ["tiny", "tiny+chunk=2", "expert", str(tmp_path / "played"), "policy:starter"]
    found = find_entries(words, None, (), {"steps": 1}, 0)
    assert [(c.kind, c.recipe is not None, c.policy) for c in found] == [
        ("recipe", True, None),
        ("recipe", True, None),
        ("policy", False, "expert"),
        ("policy", False, None),
        ("policy", False, "starter"),
    ]
    assert find_entries(["starter"], None, (), {}, 0)[0].policy == "starter"
    assert find_entries(["starter"], None, (), {"steps": 1}, 0)[0].recipe is not None
    assert [c.name for c in find_entries(["expert"], "all", ["head-flow", "expert"], {"steps": 1}, 0)] == ["head-flow", "expert"]
    for words, variants, only, budget, message in (
        ([], None, (), {}, "nothing to compare; name recipes"),
        (["expert", "expert"], None, (), {}, "named twice: expert"),
        (["tiny", "tiny+chunk=2"], None, (), {}, "tiny, tiny.chunk=2 must be trained: give samples, minutes or steps"),
        (["tiny"], None, (), {"steps": 1, "minutes": 1.0}, "give one of samples, minutes and steps; came steps and minutes"),
        (
            ["expert"],
            "all",
            ["head-flw"],
            {"steps": 1},
            "no entry of this comparison named 'head-flw'. Did you mean 'head-flow'",
        ),
        (["exprt"], None, (), {}, "no recipe or policy named 'exprt'. Did you mean 'expert'"),
        ([str(tmp_path)], None, (), {}, "is not a policy directory"),
        (["policy:nowhere"], None, (), {}, "nowhere is not a policy directory"),
    ):
        with pytest.raises(Exception, match=message):
            find_entries(words, variants, only, budget, 0)


def test_a_variant_can_be_trained_by_itself(tmp_path):
    result = train("tiny+chunk=2+fusion=film", out=tmp_path / "run", steps=1, progress=False)
    policy = load_policy(result.policy)
    assert (policy.config.chunk, policy.config.fusion.name) == (2, "film")
    with pytest.raises(UnknownNameError, match="starter"):
        train("startr", out=tmp_path / "other", steps=1)
    with pytest.raises(ConfigError, match="chunck"):
        train("tiny+chunck=2", out=tmp_path / "other", steps=1)


def test_a_part_may_be_given_whole_and_an_old_name_warns():
    config = resolve("tiny").training
    assert override(config, {"head": {"name": "flow", "options": {"steps": 3}}}).network.head == Part("flow", {"steps": 3})
    assert override(config, {"network": {"head": "flow", "head.steps": 3}}).network.head == Part("flow", {"steps": 3})
    assert override(config, {"vision": {"channels": 6}}).network.vision.options == {"channels": 6, "heatmaps": 4}
    assert override(config, {"vision.options.channels": 6}).network.vision.options["channels"] == 6
    assert override(config, {"network": NetworkConfig(width=8)}).network == NetworkConfig(width=8)
    assert override(config, {"goal": "goal_conv"}).network.goal == Part("goal_conv")
    assert override(override(config, {"goal": "goal_conv"}), {"goal": None}).network.goal is None


def test_a_field_that_occurs_once_needs_no_prefix():
    run = change(resolve("starter"), {"shift_pixels": 1, "lora.rank": 2, "init_from": "starter", "collection.axes.lighting": 2})
    assert (run.training.augment.shift_pixels, run.training.init.lora.rank) == (1, 2)
    assert run.collection.axes == {"lighting": 2}
    with pytest.raises(ConfigError, match="minutes is set twice"):
        change(run, {"minutes": 2, "imitation.budget.minutes": 3.0})
    assert change(run, {"minutes": 2, "imitation.budget.minutes": 2}) == change(run, {"minutes": 2})


@renamed(pull="strength")
@dataclass(frozen=True)
class Rope:
    strength: float = 1.0


@dataclass(frozen=True)
class Knot:
    ropes: tuple[Rope, ...] = (Rope(), Rope())
    named: Mapping[str, Rope] = field(default_factory=dict)
    spare: Rope | None = None


def test_lists_mappings_and_missing_records_have_paths_too():
    knot = override(Knot(), {"ropes.1.strength": 2, "named.a.strength": 3, "named.b": {"strength": 4}, "spare.strength": 5})
    assert knot == Knot((Rope(), Rope(2.0)), {"a": Rope(3.0), "b": Rope(4.0)}, Rope(5.0))
    assert override(knot, {"named.a": None, "spare": None}) == Knot(knot.ropes, {"b": Rope(4.0)})
    with pytest.warns(VerbotDeprecationWarning, match="the field of Rope pull is now called strength"):
        assert override(Knot(), {"spare.pull": 5}).spare == Rope(5.0)
    for settings, message in (
        ({"ropes.2.strength": 1}, "ropes has no item '2'; it has 2, counted from 0"),
        ({"spare.strenth": 1}, "spare has no field 'strenth'. Did you mean 'strength'"),
        ({"spare.strength.x": 1}, "no setting 'spare.strength.x': spare.strength has no fields"),
        ({"spare": 1}, "spare is a record, so it cannot be 1; set its fields, as spare.FIELD=VALUE: strength"),
    ):
        with pytest.raises(ConfigError, match=message):
            override(Knot(), settings)


def test_former_names_of_fields_are_read_and_name_their_successors():
    config = resolve("tiny").training
    with pytest.warns(VerbotDeprecationWarning, match="the setting start is now called init.init_from"):
        assert override(config, {"start": "starter"}).init.init_from == "starter"
    with pytest.warns(VerbotDeprecationWarning, match="the field of AugmentConfig questions is now called grounding_queries"):
        assert override(config, {"augment.questions": 3}).augment.grounding_queries == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a former flat name that is today's last name is a short path
        changed = override(config, {"patience": 3, "minutes": 2.0, "device": "auto", "keep": "best"})
    assert (changed.budget, changed.monitor.patience) == (BudgetConfig(minutes=2.0, patience=3), 3)
    assert (changed.parallelism.device, changed.logging.keep) == ("auto", "best")


def test_a_configuration_of_flat_fields_is_read_with_a_warning():
    flat = {"datasets": ["a"], "steps": 7, "batch_size": 8, "learning_rate": 1e-4, "schedule": "step", "milestones": [0.5],
            "validation_share": 0.1, "start": "p", "lora": {"rank": 2}, "alignment": {"patience": 5}, "patience": 4,
            "augment": {"questions": 2}, "processes": 2, "log_every": 3}  # fmt: skip
    renamed = pytest.warns(VerbotDeprecationWarning, match="AugmentConfig has renamed fields: questions → grounding_queries")
    with pytest.warns(VerbotDeprecationWarning, match="learning_rate → optimizer.learning_rate"), renamed:
        config = build(TrainConfig, flat)
    assert (config.data, config.budget) == (DataConfig(("a",), batch_size=8), BudgetConfig(steps=7, patience=4))
    assert (config.schedule.name, config.schedule.milestones, config.optimizer.learning_rate) == ("step", (0.5,), 1e-4)
    assert (config.init.init_from, config.init.lora.rank, config.monitor.patience) == ("p", 2, 5)
    assert (config.augment.grounding_queries, config.parallelism.processes, config.validation.share) == (2, 2, 0.1)
    assert len(field_types(TrainConfig)) <= 15


def test_objectives_are_set_by_weight_and_option_and_left_out_with_null():
    changed = resolved("starter+objectives.value=0.1+objectives.value.discount=0.9+objectives.keypoints.weight=0.5")
    objectives = changed.training.network.objectives
    assert (objectives["value"].weight, objectives["value"].options) == (0.1, {"discount": 0.9})
    assert objectives["keypoints"].weight == 0.5
    without = resolved("starter+objectives.grounding_queries=null+augment.grounding_queries=0")
    assert list(without.training.network.objectives) == ["action", "keypoints"]
    for word, message in (
        ("starter+objectives.valu=1", "there is no objective named 'valu'. Did you mean 'value'"),
        ("starter+objectives.value.discont=1", "objectives.value=value has no field 'discont'. Did you mean 'discount'"),
        ("starter+objectives.value=-1", "the weight of an objective is at least 0"),
        ("starter+objectives.grounding_queries=null", "augment.grounding_queries is for the objective of this name"),
    ):
        with pytest.raises(VerbotError, match=message):
            resolved(word)
