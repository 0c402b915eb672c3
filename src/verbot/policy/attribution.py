"""Attribution: heatmaps and attention of a policy, in the `extras` of its chunks."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from verbot.models.layers.attention_maps import slices, watch_attention, watch_groups
from verbot.models.layers.transformer import observation_groups, text_groups
from verbot.models.objectives.keypoints import supervised
from verbot.models.protocols import ExposesAttention
from verbot.models.tokens import TextBatch, TokenGroup
from verbot.policy.fitting import ImageFitter
from verbot.policy.policy import VLAPolicy
from verbot.spec import ActionChunk, FloatArray, Observation, RobotSpec


class Attributed:
    """Implements `verbot.contracts.Policy`: the chunks of `policy`, with these `extras` where the network has them.

    - ``"heatmaps"``: {camera: float32 (3, h, w)}, from the vision encoder, for the target, the receptacle and the reference.
      Each sums to one over the pixels of the camera image; the value of a cell is spread evenly over its pixels.
    - ``"words"``: the words of the instruction, split at spaces. Empty if the tokens of the language encoder are not those of the
      text in order (``hierarchical``); then the next two are missing.
    - ``"read"``: float32 (words,), the share of each word in the attention that pools the sentence. The rest went to tokens at
      the start and end of a text, and to a goal image.
    - ``"attention"``: {camera: float32 (words, h, w)}, of a fusion in which words attend to image tokens: the mean over layers
      and heads. The weight of a patch is spread over its pixels, that of a keypoint over its heatmap. The rest went to
      other tokens, such as the state. Missing if no word attends to image tokens, as in ``mlp`` or ``readout``.

    Of a policy with another backbone than ``modular`` nothing is added, unless the backbone is a `ExposesAttention`.

    Example:
        >>> policy = Attributed(load_policy("outputs/demo/policy"))  # doctest: +SKIP
        >>> policy.predict([observation])[0].extras["heatmaps"]["front"].shape  # doctest: +SKIP
        (3, 64, 64)
    """

    def __init__(self, policy: VLAPolicy):
        self.policy = policy

    @property
    def spec(self) -> RobotSpec:
        return self.policy.spec

    def predict(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """As `VLAPolicy.predict`."""
        if not observations:
            return []
        if not isinstance(self.policy.network.backbone, ExposesAttention):
            return self.policy.predict(observations)
        language, sentence, fusion = self.policy.network.backbone.attention_modules()
        with (
            watch_groups(fusion) as given,
            watch_attention(fusion) as weights,
            watch_attention(sentence) as pooled,
            _watch_tokens(language) as is_plain,
        ):
            chunks = self.policy.predict(observations)
        groups, read = given[0], pooled["attention"][0].mean(1)[:, 0].cpu()  # (b, l)
        attended = self._attended([call for calls in weights.values() for call in calls], groups)
        points = next((group for group in groups if group.heatmaps is not None), None)
        heatmaps = None if points is None else self._heatmaps(points).cpu().numpy()
        attributed_chunks = []
        for i, (chunk, observation) in enumerate(zip(chunks, observations, strict=True)):
            extras: dict[str, Any] = {**chunk.extras, "words": ()}
            if heatmaps is not None:
                extras["heatmaps"] = self._per_camera(heatmaps[i], observation)
            if is_plain[0]:
                extras |= self._by_word(observation, read[i], None if attended is None else attended[i])
            attributed_chunks.append(dataclasses.replace(chunk, extras=extras))
        return attributed_chunks

    def _by_word(self, observation: Observation, read: Tensor, attended: Tensor | None) -> Mapping[str, Any]:
        """Sums per word of the pooling weights `read` (l,) and of the attention to the images `attended` (l, v, h, w)."""
        word_slices = [] if self.policy.blind else self._word_slices(observation.instruction)
        words = tuple(observation.instruction.split())[: len(word_slices)]
        extras: dict[str, Any] = {
            "words": words,
            "read": np.array([float(read[word_slice].sum()) for word_slice in word_slices], np.float32),
        }
        if attended is not None and words:
            means = [
                attended[word_slice].sum(0) / max(1, word_slice.stop - word_slice.start) for word_slice in word_slices
            ]  # a dash has no tokens
            by_word = torch.stack(means, 1)  # (v, words, h, w)
            extras["attention"] = self._per_camera(by_word.numpy(), observation, whole=False)
        return extras

    def _heatmaps(self, points: TokenGroup) -> Tensor:
        """The supervised heatmaps of the latest frame as distributions, (b, v, 3, h, w)."""
        assert points.heatmaps is not None
        logits = supervised(points.heatmaps, self.policy.network.sizes.views, self.policy.config.history).float()
        return logits.flatten(-2).softmax(-1).unflatten(-1, logits.shape[-2:])

    def _attended(self, calls: Sequence[Tensor], groups: Sequence[TokenGroup]) -> Tensor | None:
        """Attention of each word token to the images, (b, l, v, h, w); None if words attend to no image tokens.

        The size of a weight matrix shows which tokens attend to which, because fusions have a fixed order of groups.
        """
        words, observations = text_groups(groups), observation_groups(groups)
        count_text, count_observed = (sum(g.tokens.shape[1] for g in part) for part in (words, observations))
        if self.policy.config.history > 1:
            return None
        shares = []
        for call in calls:
            rows, columns = call.shape[-2:]
            if (rows, columns) == (count_text, count_observed):
                shares.append(call.mean(1))
            elif rows == columns and columns >= count_text + count_observed:
                shares.append(call.mean(1)[:, :count_text, count_text : count_text + count_observed])
        if not shares:
            return None
        share = torch.stack(shares).mean(0)[:, slices(words)["words"]]  # (b, l, n)
        if not share.any():
            return None
        observation_slices = slices(observations)
        pictures = [self._picture(group, share[..., observation_slices[group.kind]]) for group in observations]
        maps = [picture for picture in pictures if picture is not None]
        if not maps:
            return None
        size = max((tuple(picture.shape[-2:]) for picture in maps), key=lambda shape: shape[0] * shape[1])
        return torch.stack([_resized(picture, size) for picture in maps]).sum(0).cpu()

    def _picture(self, group: TokenGroup, share: Tensor) -> Tensor | None:
        """Weights (b, l, n) of a group's tokens as images (b, l, v, h, w); None for tokens without a place in the image."""
        views = self.policy.network.sizes.views
        if group.heatmaps is not None:
            maps = group.heatmaps.float().flatten(-2).softmax(-1).unflatten(-1, group.heatmaps.shape[-2:])
            return torch.einsum("blvp,bvphw->blvhw", share.unflatten(-1, (views, -1)), maps.unflatten(1, (views, -1)))
        if group.kind != "patches" or group.tokens.shape[1] % views:
            return None
        share = share.unflatten(-1, (views, -1))  # (b, l, v, n / v)
        side = int(share.shape[-1] ** 0.5)
        if side * side not in (share.shape[-1], share.shape[-1] - 1):  # a class token may precede the patches
            return None
        return share[..., -side * side :].unflatten(-1, (side, side))

    def _per_camera(self, maps: FloatArray, observation: Observation, whole: bool = True) -> dict[str, FloatArray]:
        """Maps (v, p, h, w) of the network's images, resampled to the pixels of each camera image; `whole`: each sums to one."""
        sizes, per_camera = self.policy.network.sizes, {}
        for camera, view in zip(self.spec.color_names, maps, strict=True):
            if camera not in observation.images:
                continue
            height, width = observation.images[camera].shape[:2]
            y, x = np.mgrid[:height, :width]
            pixels = np.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)  # (h, w, 2)
            fit = ImageFitter.of(self.policy.config, sizes).transform(height, width)
            points = fit.points(pixels)
            inside = (np.abs(points) < 1).all(-1)
            cells = np.floor((points.clip(-1, 0.999999) + 1) / 2 * view.shape[:-3:-1]).astype(int)
            spread = view[:, cells[..., 1], cells[..., 0]] * inside
            filled = math.prod(fit.inside) / math.prod(fit.target)
            pixels_a_cell = inside.sum() / (view.shape[-1] * view.shape[-2] * filled)
            per_camera[camera] = (spread / (spread.sum((1, 2), keepdims=True) if whole else pixels_a_cell)).astype(np.float32)
        return per_camera

    def _word_slices(self, instruction: str) -> list[slice]:
        """The slice of tokens of each word: the number of tokens that the sentence gains with the word."""
        words = instruction.split()
        starts = [" ".join(words[:i]) for i in range(len(words) + 1)]
        counts = self.policy.network.backbone.prepare(starts).mask.sum(1).tolist()
        begin = (counts[0] + 1) // 2  # half of the special tokens stand before the text
        return [slice(begin + a - counts[0], begin + b - counts[0]) for a, b in itertools.pairwise(counts)]


@contextmanager
def _watch_tokens(language: nn.Module) -> Iterator[list[bool]]:
    """A list with one bool for each call within the block: whether the output has the same tokens as the text."""
    found: list[bool] = []

    def record(_: nn.Module, args: tuple[TextBatch], words: TokenGroup) -> None:
        found.append(torch.equal(words.mask, args[0].mask))

    handle = language.register_forward_hook(record)
    try:
        yield found
    finally:
        handle.remove()


def _resized(pictures: Tensor, size: tuple[int, ...]) -> Tensor:
    """Maps (…, h, w) on a finer grid, with the same sums."""
    flat = pictures.flatten(0, -3).unsqueeze(1)
    fine = torch.nn.functional.interpolate(flat, size=size, mode="area" if flat.shape[-1] > size[-1] else "nearest")
    scale = pictures.shape[-1] * pictures.shape[-2] / (size[0] * size[1])
    return (fine * scale).squeeze(1).unflatten(0, pictures.shape[:-2])
