"""The experiments of serving, shortened: what they count must be zero. They start processes, so they run with ``-m soak``."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "experiments" / "serving"
pytestmark = pytest.mark.soak


def record(tmp_path, script, *options):
    out = tmp_path / "record.json"
    subprocess.run([sys.executable, str(SCRIPTS / script), "--out", str(out), *options], check=True, timeout=600)
    return json.loads(out.read_text())


def test_fuzzed_messages_of_all_protocols_are_answered(tmp_path):
    found = record(tmp_path, "fuzz.py", "--messages", "6000")
    assert found["count"] == 6000 and found["same_actions"]
    assert (found["untyped"], found["no_answer"], found["crashes"], found["exit_code"]) == (0, 0, 0, 0)
    assert not [name for name in found["answers"] if "closed without" in name or "reset" in name]


def test_a_robot_holds_and_goes_on_when_its_server_is_killed(tmp_path):
    found = record(tmp_path, "kill_server.py", "--kills", "3")
    assert (found["stale_actions"], found["wrong_actions"], found["typed_errors"], found["untyped_errors"]) == (0, 0, 0, {})
    assert found["back_ms_max"] < 20_000


def test_robots_get_more_together_than_one_after_another(tmp_path):
    short = ("--seconds", "1", "--repeats", "1", "--robots", "4", "--threads", "1", "--predictions", "4")
    (row,) = record(tmp_path, "batching.py", *short)["rows"]
    assert all(row[arm]["rate_hz"] > 0 for arm in ("one", "batched", "batched, no wait", "alone"))
    assert {"decode", "preprocess", "network", "predict"} <= row["direct"]["shares_ms"]["4"].keys()


def test_slow_and_idle_clients_are_measured_on_every_protocol(tmp_path):
    found = record(tmp_path, "slow_clients.py", "--seconds", "1", "--repeats", "1", "--crowd", "10")
    assert found["protocols"].keys() == {"verbot", "openpi", "vla-eval"}
    assert all(each["beside"]["rate_hz"] > 0 for each in found["protocols"].values())
