"""What is left of an evaluation after an interruption is played as without one, to the bit."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import pytest
import torch

import verbot
from verbot.agents import ChunkAgent
from verbot.contracts import EpisodeRequest
from verbot.policy.batch_invariance import batch_invariant
from verbot.policy.storage import STARTER
from verbot.rollout.results import EpisodeResult, Job
from verbot.rollout.vector import EnvFactories, VectorRunner
from verbot.spec import Observation

LONG = "would you please go and take the cube that is red and lift it"
SENTENCES = ("take the red cube", LONG, "the red cube", "go")
SLOTS = 8


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def starter() -> Any:
    return batch_invariant(verbot.load_policy(STARTER))


def observations(policy: Any, count: int) -> list[Observation]:
    rng = np.random.default_rng(0)
    size = {camera.name: (camera.height, camera.width, 3) for camera in policy.spec.cameras}
    return [
        Observation(
            {name: rng.integers(0, 256, shape, np.uint8) for name, shape in size.items()},
            rng.normal(size=policy.spec.state_size).astype(np.float32),
            SENTENCES[number % len(SENTENCES)],
        )
        for number in range(count)
    ]


def test_a_prediction_depends_on_no_other_sentence_of_its_batch(starter: Any) -> None:
    seen, rng = observations(starter, 8), np.random.default_rng(1)
    alone = [starter.predict([each] * SLOTS)[0].values for each in seen]
    for _ in range(6):
        chosen = rng.integers(0, len(seen), SLOTS)
        for number, chunk in zip(chosen, starter.predict([seen[i] for i in chosen]), strict=True):
            np.testing.assert_array_equal(chunk.values, alone[number])
    plain = verbot.load_policy(STARTER).predict(seen)
    for chunk, other in zip(starter.predict(seen), plain, strict=True):
        np.testing.assert_allclose(chunk.values, other.values, atol=1e-5)


def test_a_resumed_evaluation_has_the_same_actions(starter: Any) -> None:
    """Twelve episodes in one go, and five before and seven after an interruption. The long sentence is one of the five."""
    words = [LONG if i == 1 else SENTENCES[2 * (i % 2)] for i in range(12)]
    jobs = [Job("policy", EpisodeRequest("pick", index=i, text=text)) for i, text in enumerate(words)]
    make = functools.partial(verbot.make_env, "tabletop-starter", image_size=starter.spec.cameras[0].height, max_seconds=1.0)

    def play(jobs: list[Job]) -> dict[str, EpisodeResult]:
        runner = VectorRunner(EnvFactories(make, make, make), starter, ChunkAgent, SLOTS)
        return {result.key: dataclasses.replace(result, seconds=0.0) for result in runner.play(jobs)}

    whole = play(jobs)
    done = dict(list(whole.items())[:5])
    resumed = done | play([job for job in jobs if job.key not in done])
    assert resumed == whole
    assert {result.outcome for result in whole.values()} == {"failure"} and len({r.actions for r in whole.values()}) == 12
