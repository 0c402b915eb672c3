import dataclasses
import json

from verbot.rollout.results import EpisodeResult, read_results


def test_results_under_the_field_names_of_an_older_version_are_read(tmp_path):
    result = EpisodeResult(
        key="policy/pick/0", agent="policy", task="pick", index=0, goal_index=0, instruction="pick up the red cube",
        goal={"verb": "pick"}, target_object="red cube", first_contact="blue ball", outcome="failure", steps=3, final_error_m=0.1,
    )  # fmt: skip
    record = dataclasses.asdict(result)
    record |= {"named": record.pop("target_object"), "engaged": record.pop("first_contact"), "player": record.pop("agent")}
    (tmp_path / "results.jsonl").write_text(json.dumps(record) + "\n")
    assert read_results(tmp_path / "results.jsonl") == [result]
