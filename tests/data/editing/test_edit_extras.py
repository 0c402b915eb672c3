"""Edits of episodes whose extras are not as verbot's own recorders write them."""

from __future__ import annotations

import dataclasses

import pytest

from verbot.data import DatasetWriter, EditPlan, edit, open_dataset
from verbot.data.samples.episode_arrays import task_of
from verbot.errors import UnknownNameError


def test_the_recorded_sentence_is_replaced_whatever_the_wordings(tmp_path, spec, make):
    record = dataclasses.replace(make(0), instruction="pick it", extras={"instructions": ["lift it", "take it"]})
    with DatasetWriter(tmp_path / "d", spec) as writer:
        writer.save_episode(record)
    with pytest.raises(UnknownNameError, match="'lift it'.*pick it"):
        edit(tmp_path / "d", EditPlan(replacements={"lift it": ("hold it",)}))
    edit(tmp_path / "d", EditPlan(replacements={"pick it": ("hold it",)}))
    (episode,) = open_dataset(tmp_path / "d")
    assert episode.instruction == "hold it" and episode.instructions == ("hold it",)


@pytest.mark.parametrize("odd", ["cube", ["cube"], 3, None, True])
def test_a_goal_or_request_of_another_form_is_no_task(tmp_path, spec, make, odd):
    extras = [{"goal": odd}, {"request": odd, "goal": {"verb": "push"}}, {"request": {"task": "pick"}, "goal": odd}]
    with DatasetWriter(tmp_path / "d", spec) as writer:
        for number, more in enumerate(extras):
            writer.save_episode(dataclasses.replace(make(number), extras={"number": number, **more}))
    assert [task_of(episode) for episode in open_dataset(tmp_path / "d")] == [None, "push", "pick"]
    edit(tmp_path / "d", EditPlan(where=("task!=push",)))
    assert [episode.extras["number"] for episode in open_dataset(tmp_path / "d")] == [0, 2]
