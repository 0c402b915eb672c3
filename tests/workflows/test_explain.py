import json

import numpy as np
import pytest
import torch
from PIL import Image

from verbot.contracts import EpisodeRequest
from verbot.errors import PolicyError
from verbot.evaluation.grounding.metrics import GroundingMetrics
from verbot.workflows.explain import explain


def test_one_command_shows_the_heatmaps_and_the_effect_of_each_word(tmp_path):
    torch.set_num_threads(1)
    found = explain("starter", out=tmp_path, request=EpisodeRequest("pick", index=1), scenes=3)
    assert found.success and found.instruction in (tmp_path / "explain.html").read_text()
    assert (tmp_path / "explain.mp4").stat().st_size > 10_000
    strip, words = (np.asarray(Image.open(tmp_path / name)) for name in ("strip.png", "words.png"))
    assert strip.shape[0] > strip.shape[1] and words.std() > 10
    record = json.loads((tmp_path / "grounding.json").read_text())
    assert record["policy"] == "starter" and GroundingMetrics.from_json(record) == found.metrics
    assert found.metrics.rows["front target"]["pointing_game"].n == 3


def test_an_unknown_policy_is_refused(tmp_path):
    with pytest.raises(PolicyError):
        explain(str(tmp_path / "nothing"), out=tmp_path)
