"""Features of a frozen vision encoder, computed once for every frame of a run."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from verbot.data import Dataset
from verbot.data.storage.cached_rows import cache_folders
from verbot.data.storage.frame_cache import FeatureCache, FrameSelection
from verbot.errors import ConfigError
from verbot.models.config import NetworkConfig
from verbot.models.protocols import CacheableFeatures, FitsInstructions
from verbot.models.registries import vision_encoders
from verbot.policy.fitting import ImageFitter
from verbot.spec import FloatArray, RobotSpec, UInt8Array


class FrozenFeatureExtractor:
    """The frozen vision encoder of a run.

    Args:
        spec: the robot, with the cameras of the policy.
        device: computes the features.
        show: show progress.
        cache: folder of the caches, as in `DataConfig`.

    Raises `ConfigError` for an encoder that is trained, or whose features depend on the sentence, and for a backbone without one.
    """

    def __init__(
        self, config: NetworkConfig, spec: RobotSpec, device: torch.device, show: bool = False, cache: str | None = None
    ):
        if not config.is_modular:
            raise ConfigError(
                f"cache_features keeps what the vision encoder of the backbone 'modular' sees; the network's backbone is "
                f"{config.backbone.name!r}"
            )
        part, self._sizes = config.vision, config.sizes(spec)
        self._fitter = ImageFitter.of(config, self._sizes)
        kind = vision_encoders.get(part.name)
        with torch.random.fork_rng(devices=[]):  # trained parts of the encoder are not used here
            options = kind.fit(part.options, ()) if isinstance(kind, FitsInstructions) else part.options
            self._encoder: Any = vision_encoders.build(part.name, self._sizes, **options)
        if not isinstance(self._encoder, CacheableFeatures) or not self._encoder.cacheable:
            raise ConfigError(
                f"cache_features needs a frozen vision encoder that does not depend on the instruction, such as hf_vision with "
                f"mode='frozen' and film=False; the network's is {part.name!r} with {dict(part.options)}"
            )
        self._device, self._show, self._folder = device, show, cache

    def features(self, dataset: Dataset, selection: FrameSelection) -> FeatureCache:
        """The features of the selected frames; missing ones are computed from frames that are decoded for it and not kept."""
        folders = [folder / "frames" for folder in cache_folders(dataset, self._folder)]
        size = f"{self._sizes.height}x{self._sizes.width_px}"
        size += "" if self._fitter.fit == "crop" else f" {self._fitter.fit}"
        return FeatureCache(dataset, selection, folders, f"{self._encoder.key} of {size}", self._compute, self._show)

    def _compute(self, frames: UInt8Array) -> FloatArray:
        """Features (n, p, d) of frames (n, h, w, 3), resized as in `VLAPolicy.collate`."""
        fit = self._fitter.transform(*frames.shape[1:3])
        pixels = torch.from_numpy(np.array(fit.forward(frames))).movedim(-1, -3).to(self._device)
        found: FloatArray = self._encoder.features(pixels).float().cpu().numpy()
        return found
