"""What a frozen vision encoder makes of the frames of a run, computed once for all its samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from verbot.data import Dataset, FrameCache
from verbot.data.storage.frame_cache import FeatureCache
from verbot.errors import ConfigError
from verbot.models.config import NetworkConfig
from verbot.models.protocols import CacheableFeatures, FitsInstructions
from verbot.models.registries import vision_encoders
from verbot.spec import FloatArray, RobotSpec, UInt8Array
from verbot.transforms import FitImage


class FrozenFeatureExtractor:
    """The vision encoder of a run, where it is frozen.

    Args:
        spec: the robot with the cameras that the policy sees through.
        device: that computes.
        show: show rate and time left.

    Raises `ConfigError` for an encoder that learns, or whose features depend on the sentence, and for a backbone without one.
    """

    def __init__(self, config: NetworkConfig, spec: RobotSpec, device: torch.device, show: bool = False):
        if not config.is_modular:
            raise ConfigError(
                f"cache_features keeps what the vision encoder of the backbone 'modular' sees; the network's backbone is "
                f"{config.backbone.name!r}"
            )
        part, self._sizes = config.vision, config.sizes(spec)
        kind = vision_encoders.get(part.name)
        with torch.random.fork_rng(devices=[]):  # what else is in the encoder, and learns, is not used here
            options = kind.fit(part.options, ()) if isinstance(kind, FitsInstructions) else part.options
            self._encoder: Any = kind(self._sizes, **options)
        if not isinstance(self._encoder, CacheableFeatures) or not self._encoder.cacheable:
            raise ConfigError(
                f"cache_features needs a vision encoder that is frozen and sees without words, such as hf_vision with "
                f"mode='frozen' and film=False; the network's is {part.name!r} with {dict(part.options)}"
            )
        self._device, self._show = device, show

    def features(self, dataset: Dataset, cameras: tuple[str, ...]) -> FeatureCache:
        """Of those of `cameras` that the dataset has; what is missing is computed."""
        frames = FrameCache(dataset, [camera for camera in cameras if camera in dataset.camera_names])
        size = f"{self._sizes.height}x{self._sizes.width_px}"
        return FeatureCache(frames, f"{self._encoder.key} of {size}", self._compute, self._show)

    def _compute(self, frames: UInt8Array) -> FloatArray:
        """Features (n, p, d) of frames (n, h, w, 3), brought to the network's size as `Policy.collate` does."""
        fit = FitImage(frames.shape[1:3], (self._sizes.height, self._sizes.width_px))
        pixels = torch.from_numpy(np.array(fit.forward(frames))).movedim(-1, -3).to(self._device)
        found: FloatArray = self._encoder.features(pixels).float().cpu().numpy()
        return found
