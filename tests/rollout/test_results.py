import dataclasses
import json

import pytest

from verbot.errors import CorruptFileError
from verbot.rollout.results import EpisodeResult, read_results

RESULT = EpisodeResult(
    key="policy/pick/0", agent="policy", task="pick", index=0, goal_index=0, instruction="pick up the red cube",
    goal={"verb": "pick"}, target_object="red cube", first_contact="blue ball", outcome="failure", steps=3, final_error_m=0.1,
)  # fmt: skip


def test_results_under_the_field_names_of_an_older_version_are_read(tmp_path):
    record = dataclasses.asdict(RESULT)
    record |= {"named": record.pop("target_object"), "engaged": record.pop("first_contact"), "player": record.pop("agent")}
    (tmp_path / "results.jsonl").write_text(json.dumps(record) + "\n")
    assert read_results(tmp_path / "results.jsonl") == [RESULT]


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(EpisodeResult)])
def test_a_field_of_another_type_is_named(tmp_path, field):
    (tmp_path / "results.jsonl").write_text(json.dumps({**dataclasses.asdict(RESULT), field: [[]]}) + "\n")
    with pytest.raises(CorruptFileError, match=f"results.jsonl: line 1 is not an episode result: its {field} is "):
        read_results(tmp_path / "results.jsonl")


@pytest.mark.parametrize("line", ["[]", "3", '"a"', "{", "[" * 100_000, '{"goal":' * 100_000, "\udcff"])
def test_a_line_that_is_no_result_is_named(tmp_path, line):
    (tmp_path / "results.jsonl").write_text(line + "\n", errors="surrogateescape")
    with pytest.raises(CorruptFileError, match="results.jsonl: line 1 is not an episode result"):
        read_results(tmp_path / "results.jsonl")
