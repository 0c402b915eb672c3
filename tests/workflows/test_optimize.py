"""`verbot optimize`: what fails the gate is not written, and what was found is shown and kept."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from verbot.cli import main
from verbot.errors import ConfigError
from verbot.policy.export import exporting
from verbot.policy.policy import VLAPolicy
from verbot.policy.runtime import RuntimePolicy
from verbot.spec import ActionChunk
from verbot.workflows import optimize as command
from verbot.workflows import parity as gate
from verbot.workflows.parity import LIMITS, Parity, compared_and_others, limit_of, parity, recorded_observations
from verbot.workflows.timing import latencies, peak_mb


class Shifted:
    """A policy whose actions are those of another, moved."""

    def __init__(self, policy, by):
        self.policy, self.by, self.spec = policy, by, policy.spec

    def predict(self, observations):
        spans = self.spec.action_high() - self.spec.action_low()
        return [ActionChunk((chunk.values + self.by * spans).astype(np.float32)) for chunk in self.policy.predict(observations)]


class Still:
    def __init__(self, spec):
        self.spec = spec

    def predict(self, observations):
        return [ActionChunk(np.zeros((3, self.spec.action_size), np.float32)) for _ in observations]


@pytest.fixture
def still(two_arms):
    return Still(two_arms)


def test_the_difference_is_in_parts_of_the_range(still):
    found = parity(still, Shifted(still, 0.25), [None] * 45)
    assert (found.mean, found.p99, found.most, found.observations) == (*[pytest.approx(0.25)] * 3, 45)
    assert "mean 0.25 above 0.01" in found.beyond(LIMITS["int8-static"])


@pytest.mark.parametrize("precision", LIMITS)
def test_a_limit_bites_and_a_number_that_is_none_never_passes(precision):
    limit = limit_of(precision, pruned=False)
    inside = Parity(0.9 * limit.mean, 0.9 * limit.p99, 0.9 * limit.most, 200)
    assert not inside.beyond(limit)
    for field in ("mean", "p99", "most"):
        for wrong in (1.1 * getattr(limit, field), math.nan):
            assert field in dataclasses.replace(inside, **{field: wrong}).beyond(limit)
    assert not inside.beyond(limit_of(precision, pruned=True))


def test_policies_take_turns_and_the_first_predictions_do_not_count(still):
    now = iter(range(10**6))
    order = []

    class Named(Still):
        def predict(self, observations):
            order.append(id(self))
            return super().predict(observations)

    one, two = Named(still.spec), Named(still.spec)
    found = latencies({"a": one, "b": two}, [None], 5, clock=lambda: next(now) / 1000)
    assert order[:4] == [id(one), id(two), id(one), id(two)] and len(order) == 2 * 25
    assert found["a"] == {"p50_ms": pytest.approx(1), "p99_ms": pytest.approx(1)}


class Frames:
    """A dataset of two episodes whose states count its frames."""

    lengths, camera_names, root = np.array([3, 5]), ("front",), "here"

    def __getitem__(self, index):
        first, length = (0, 3) if index == 0 else (3, 5)

        class Segment:
            start, stop, wordings = 0, length, (f"say {index}",)

        class Episode:
            states, segments = np.arange(first, first + length, dtype=np.float32)[:, None], (Segment,)

            @staticmethod
            def images(camera, rows):
                return [np.full((2, 2, 3), first + row, np.uint8) for row in rows]

        Episode.length = length
        return Episode


def test_observations_are_spread_over_all_frames():
    found = recorded_observations(Frames(), compared_and_others(8, 4)[0])
    assert [int(each.state[0]) for each in found] == [0, 2, 4, 6]
    assert [each.images["front"][0, 0, 0] for each in found] == [0, 2, 4, 6]
    assert [each.instruction for each in found] == ["say 0", "say 0", "say 1", "say 1"]


def test_what_calibrates_is_not_compared():
    for total, count in ((2, 1), (3, 2), (150, 113), (264, 200), (400, 200), (700, 200), (5000, 200)):
        compared, others = compared_and_others(total, 200)
        assert len(compared) == count and 0 < len(others) <= 64
        assert not set(compared) & set(others) and max(*compared, *others) < total
    with pytest.raises(ConfigError, match="1 frames"):
        compared_and_others(1, 200)


@pytest.fixture
def stubbed(still, tmp_path, monkeypatch):
    """The command with policies that cost nothing; returns where the written one would be, and by how much its actions differ."""
    differs = {"by": 0.0}
    policy = tmp_path / "policy"
    policy.mkdir()
    (policy / "policy.json").write_text("{}")
    monkeypatch.setattr(VLAPolicy, "load", staticmethod(lambda path: still))
    monkeypatch.setattr(exporting, "export", lambda *_: {"policy.json": b"{}", "manifest.json": b"{}", "act.onnx": b"0" * 10**6})

    def opened(*_, **__):
        found = Shifted(still, differs["by"])
        found.record = type("Record", (), {"made": {"pruning": {"method": "l1", "share": 0.2, "zero": 2, "weights": 10}}})
        return found

    monkeypatch.setattr(RuntimePolicy, "of", staticmethod(opened))
    monkeypatch.setattr(command, "observations_of", lambda *_: ([None] * 4, []))
    monkeypatch.setattr(command, "memory_mb", lambda folder, trust: 100.0)
    monkeypatch.setattr(command, "check_suite", lambda *_: None)
    assert gate.BATCH > 4
    return policy, tmp_path / "out", differs


def run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["optimize", *map(str, arguments)])
    return stopped.value.code


def test_what_acts_otherwise_is_not_written(stubbed, capsys):
    policy, out, differs = stubbed
    differs["by"] = 0.5
    assert run(policy, "--out", out, "--scenes", 0) == 1
    shown = capsys.readouterr()
    lines = [line for line in shown.err.splitlines() if line.startswith("verbot: ")]
    assert len(lines) == 1 and "acts otherwise: mean 0.5 above 0.0001" in lines[0] and "is not written" in lines[0]
    assert not out.exists()


def test_what_was_found_is_shown_and_kept(stubbed, capsys):
    policy, out, _ = stubbed
    (policy.parent / "out").mkdir()
    assert run(policy, "--out", out, "--scenes", 0, "--repeats", 3, "--prune", "l1:0.2") == 0
    shown = capsys.readouterr().out
    for text in (
        "latency p50 [ms]",
        "size on disk [MB]",
        "peak memory [MB]",
        "--scenes is 0",
        "20.0 % of 10 weights",
        "No runtime",
    ):
        assert text in shown
    record = json.loads((out / "optimize.json").read_text())
    assert record["parity"]["most"] == 0 and record["latency"].keys() == {"eager", "optimized"}
    assert record["size_mb"]["optimized"]["all"] == pytest.approx(1, abs=0.01) and (out / "act.onnx").is_file()


def test_wrong_requests_are_one_line(stubbed, capsys):
    policy, out, _ = stubbed
    for given, said in [
        (("--to", "abacus"), "abacus"),
        (("--prune", "l3:0.2"), "pruning is"),
        (("--to", "aoti", "--precision", "int8-static"), "has no precision"),
        (("--observations", 0), "--observations"),
        (("--cluster", "ray"), "--cluster"),
    ]:
        assert run(policy, "--out", out, *given) == 2
        assert said in capsys.readouterr().err
    assert run(policy, "--out", policy) == 2 and "is the policy itself" in capsys.readouterr().err
    assert run("expert", "--out", out) == 2 and "expert" in capsys.readouterr().err


def test_another_precision_goes_into_the_same_folder_and_has_an_evaluation_of_its_own(tmp_path):
    def folder(**changed):
        return command.evaluation_folder("eager", tmp_path, tmp_path / "out", dataclasses.replace(command.Evidence(), **changed))

    (tmp_path / "manifest.json").write_text('{"format": "verbot-policy/2", "sha256": {}}')
    found = [folder(), folder(workers=3), folder(seed=1), folder(scenes=3)]
    (tmp_path / "manifest.json").write_text('{"format": "verbot-policy/2", "sha256": {"act.onnx": "0"}}')
    found.append(folder())
    assert found[0] == found[1] and len(set(found)) == 4 and {each.parent for each in found} == {tmp_path / "out-evaluation"}


def test_a_folder_with_other_files_is_refused_before_the_work(stubbed, monkeypatch, capsys):
    policy, out, _ = stubbed
    out.mkdir()
    (out / "thesis.tex").touch()
    monkeypatch.setattr(command, "observations_of", None)
    assert run(policy, "--out", out) == 2 and "thesis.tex" in capsys.readouterr().err


def test_a_suite_in_which_the_policy_cannot_act_is_refused_before_the_work(stubbed, still, monkeypatch, capsys):
    policy, out, _ = stubbed
    monkeypatch.undo()
    monkeypatch.setattr(command, "fitting", lambda *_: {})
    monkeypatch.setattr(VLAPolicy, "load", staticmethod(lambda path: still))
    monkeypatch.setattr(command, "observations_of", None)
    assert run(policy, "--out", out, "--suite", "navigation") == 2
    found = capsys.readouterr().err.strip()
    assert f"verbot: {policy} cannot act in the suite navigation: the policy was trained for" in found and "\n" not in found
    assert run(policy, "--out", out, "--suite", "navigatoin") == 2 and "Did you mean 'navigation'" in capsys.readouterr().err


def test_memory_is_that_of_this_process_alone(still, monkeypatch):
    from verbot.policy import opening

    monkeypatch.setattr(opening, "load_policy", lambda policy: still)
    assert 10 < peak_mb("any") < 10**5
