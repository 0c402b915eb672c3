"""An evaluation with reasoning: the same policy, another source, whose results are never mixed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from verbot import cli
from verbot.errors import ConfigError, PolicyError
from verbot.policy.policy import VLAPolicy
from verbot.rollout.baselines import PolicySource
from verbot.workflows import train_evaluate
from verbot.workflows.thinking import plans_of, thinking_source


def test_the_plans_of_other_scenes_are_the_experts():
    plans = plans_of("tabletop-starter", 1000)
    assert len(plans) > 10 and plans == plans_of("tabletop-starter", 1000) != plans_of("tabletop-starter", 2000)
    assert all(";" in plan and "\n" not in plan for plan in plans)
    with pytest.raises(ConfigError, match="has no plans"):
        plans_of("navigation", 0)


def test_a_source_thinks_and_has_an_identity_of_its_own(monkeypatch):
    asked = []
    policy = object.__new__(VLAPolicy)
    monkeypatch.setattr(VLAPolicy, "thinking", lambda self, first, plans: asked.append((first, plans)) or self)
    source = PolicySource("mine", lambda: policy, "abc")
    made = [thinking_source(source, "all"), thinking_source(source, "move"), thinking_source(source, "all", ("a; b",))]
    assert len({each.identity for each in (*made, source)}) == 4
    assert [each.name for each in made] == ["mine, thinking", "mine, thinking from move", "mine, thinking of other plans"]
    assert all(each.load() is policy for each in made)
    assert asked == [(None, ()), ("move", ()), (None, ("a; b",))]
    with pytest.raises(PolicyError, match="only a policy in a folder"):
        thinking_source(PolicySource("it", lambda: SimpleNamespace()), "all").load()


def test_the_command_says_how_to_think(monkeypatch, tmp_path, capsys):
    seen = []
    summary = SimpleNamespace(table=lambda: "", error_messages=(), exit_code=0)
    monkeypatch.setattr(train_evaluate, "evaluate_policy", lambda source, suite, **_: seen.append(source) or summary)
    monkeypatch.setattr(train_evaluate, "policy_source", lambda name, device: PolicySource(name, lambda: None, "abc"))

    def run(*words):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["evaluate", *words, "--out", str(tmp_path)])
        return stopped.value.code or 0

    for words in ((), ("--think", "subtask"), ("--think-from", "3")):
        assert run("mine", *words) == 0
    assert [each.name for each in seen] == ["mine", "mine, thinking from subtask", "mine, thinking of other plans"]
    assert run("expert", "--think", "all") == 2 and "--think does not apply: expert is not a policy" in capsys.readouterr().err
