"""Explain a policy: a video of one episode with its heatmaps, the effect of each word on them, and metrics over many scenes."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image

from verbot.agents import ChunkAgent
from verbot.contracts import EpisodeRequest, Policy
from verbot.envs import make_env
from verbot.evaluation.grounding.metrics import (
    MAPS,
    GroundingMetrics,
    SegmentedEnv,
    change,
    check_sees,
    heat_of,
    leave_one_out,
    measure_grounding,
    moved,
)
from verbot.evaluation.grounding.page import METRICS_FILE, Page, Word, write_page
from verbot.evaluation.report import overlay
from verbot.files import replacing, write_atomic
from verbot.policy.attribution import Attributed
from verbot.policy.policy import VLAPolicy
from verbot.rollout import video
from verbot.rollout.episode import final, play
from verbot.spec import ActionChunk, FloatArray, Observation, RobotSpec, UInt8Array
from verbot.workflows.load_policy import fitting, open_policy

STILLS = 6  # frames of the episode in the strip
VIEW_PX, WORD_PX = 256, 128
FIRST = EpisodeRequest()
TEXT = "the underline of a word shows how far a heatmap of the first camera moves without it"


@dataclass(frozen=True)
class Moment:
    """One control step: the observation, the predicted chunk, and the chunk predicted without each word."""

    observation: Observation
    chunk: ActionChunk
    without: list[ActionChunk]


@dataclass(frozen=True)
class Explanation:
    """The written page, the instruction and success of the episode, and the metrics if they were measured."""

    page: Path
    instruction: str
    success: bool
    metrics: GroundingMetrics | None


def explain(
    policy: str,
    suite: str = "tabletop-starter",
    *,
    out: Path,
    request: EpisodeRequest = FIRST,
    seed: int = 0,
    scenes: int = 0,
    command: str | None = None,
) -> Explanation:
    """Write ``explain.html``, ``explain.mp4``, ``strip.png`` and ``words.png`` into `out`; with `scenes` also ``grounding.json``.

    Args:
        policy: a policy's folder, ``"starter"``, or a server's address; a server gives no heatmaps, only the effect of words.
        request: the test scene of the video: its `task`, its `index`, and in `text` an instruction other than its own.
        seed: another seed is another set of scenes.
        scenes: number of scenes for the metrics, see `verbot.evaluation.grounding.metrics.measure_grounding`; 0: no metrics.

    Example:
        >>> explain("starter", out=Path("outputs/explain"), request=EpisodeRequest(index=3)).success  # doctest: +SKIP
        True
    """
    opened = open_policy(policy)
    check_sees(opened)
    attributed: Policy = Attributed(opened) if isinstance(opened, VLAPolicy) else opened
    out.mkdir(parents=True, exist_ok=True)
    with closing(cast(SegmentedEnv, make_env(suite, **fitting(policy, suite)))) as env:
        moments, success = _play(attributed, env, request, seed)
        metrics = measure_grounding(attributed, env, scenes, seed) if scenes else None
    frames = [_frame(moment, attributed.spec) for moment in moments]
    video.write(out / "explain.mp4", frames, attributed.spec.rate_hz)
    strip = overlay.sheet([[_views(moment, attributed.spec)] for moment in _stills(moments)])
    words = _words(moments[0], attributed.spec)
    for name, sheet in (("strip.png", strip), ("words.png", _sheet(words))):
        with replacing(out / name) as draft:
            Image.fromarray(sheet).save(draft, "png", optimize=True)
    if metrics is not None:
        record = {"policy": policy, "suite": suite, "command": command, **metrics.to_json()}
        write_atomic(out / METRICS_FILE, json.dumps(record, indent=2) + "\n")
    instruction = moments[0].observation.instruction
    page = Page(policy, suite, instruction, success, (out / "explain.mp4").read_bytes(), strip, words, metrics, command)
    return Explanation(write_page(page, out / "explain.html"), instruction, success, metrics)


class ExplainedAgent:
    """Predicts at every step with the whole instruction and without each of its words, and records a `Moment`."""

    def __init__(self, policy: Policy):
        self.moments: list[Moment] = []
        self._policy, self._agent = policy, ChunkAgent(policy)

    def reset(self, instruction: str) -> None:
        self.moments.clear()
        self._agent.reset(instruction)

    def act(self, observation: Observation) -> FloatArray:
        query = self._agent.next_query(observation)
        assert query is not None  # a `ChunkAgent` that executes one action of each chunk needs a prediction at every step
        chunk, without = leave_one_out(self._policy, query)
        self.moments.append(Moment(query, chunk, without))
        self._agent.receive(chunk)
        return self._agent.act(observation)


def _play(policy: Policy, env: SegmentedEnv, request: EpisodeRequest, seed: int) -> tuple[list[Moment], bool]:
    """One episode with a prediction at every step. Raises `SimulationError` on a fault of the simulator."""
    agent = ExplainedAgent(policy)
    last = final(play(env, agent, request, seed))
    return agent.moments, bool(last.info["success"])


def _stills(moments: list[Moment]) -> list[Moment]:
    return [moments[round(i)] for i in np.linspace(0, len(moments) - 1, min(STILLS, len(moments)))]


def _maps(chunk: ActionChunk, camera: str) -> dict[str, FloatArray]:
    found = {name: heat_of(chunk, camera, name) for name in MAPS}
    return {name: heat for name, heat in found.items() if heat is not None}


def _views(moment: Moment, spec: RobotSpec) -> UInt8Array:
    """The image of each camera, without and with its heatmaps, above the words."""
    pairs = []
    for camera in spec.color_names:
        if camera in moment.observation.images:
            image = moment.observation.images[camera]
            pairs += [image, overlay.overlay(image, _maps(moment.chunk, camera))]
    views = [overlay.enlarged(image, VIEW_PX) for image in pairs]
    width = sum(view.shape[1] for view in views) + video.GAP * (len(views) - 1)
    words = moment.observation.instruction.split()
    weighted = overlay.weights(width, words, _weights(moment, spec))
    return overlay.sheet([views, [weighted]])


def _frame(moment: Moment, spec: RobotSpec) -> UInt8Array:
    """A frame of the video, with the legend."""
    views = _views(moment, spec)
    return overlay.sheet([[views], [overlay.legend(views.shape[1], overlay.COLORS | {TEXT: overlay.MORE})]])


def _weights(moment: Moment, spec: RobotSpec) -> list[float]:
    """For each word, how far a heatmap of the first camera moves without it; without heatmaps, how much the chunk changes."""
    moves = _moves(moment, spec.color_names[0])
    changes = (change(moment.chunk.values, other.values, spec) for other in moment.without)
    return [max(of_maps.values()) if of_maps else changed for of_maps, changed in zip(moves, changes, strict=True)]


def _moves(moment: Moment, camera: str) -> list[dict[str, float]]:
    """For each word, how far each heatmap moves without it."""
    whole = _maps(moment.chunk, camera)
    return [{name: moved(whole[name], heat) for name, heat in _maps(other, camera).items()} for other in moment.without]


def _words(moment: Moment, spec: RobotSpec) -> list[Word]:
    """The effect of each word on the first prediction of the episode."""
    found, extras = [], moment.chunk.extras
    moves, shown = _moves(moment, spec.color_names[0]), extras.get("attention", {})
    for i, word in enumerate(moment.observation.instruction.split()):
        pictures = {}
        for camera, image in moment.observation.images.items():
            without = _maps(moment.without[i], camera)
            for name, heat in _maps(moment.chunk, camera).items():
                pictures[f"{camera} {name}"] = overlay.enlarged(overlay.difference(image, heat, without[name]), WORD_PX)
            if camera in shown and i < len(shown[camera]):
                heat = shown[camera][i]
                bright = overlay.overlay(image, {"attended": heat / max(float(heat.sum()), 1e-9)}, {"attended": overlay.MORE})
                pictures[f"{camera} attended"] = overlay.enlarged(bright, WORD_PX)
        read = extras.get("read")
        found.append(
            Word(
                word,
                moves[i],
                change(moment.chunk.values, moment.without[i].values, spec),
                float(read[i]) if read is not None and i < len(read) else None,
                pictures,
            )
        )
    return found


def _sheet(words: list[Word]) -> UInt8Array:
    """Each word's pictures in a column, a row for each map."""
    wide = max(300, len(words) * (WORD_PX + video.GAP) - video.GAP)
    rows = [[overlay.legend(wide, {"more with the word": overlay.MORE, "more without it": overlay.LESS})]]
    for kind in words[0].pictures if words else ():
        rows += [[overlay.line(wide, kind)], [overlay.captioned(word.pictures[kind], word.text) for word in words]]
    return overlay.sheet(rows)
