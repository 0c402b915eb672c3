"""The thresholds of `verbot.data.quality.lint`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from verbot.errors import ConfigError
from verbot.ranges import COUNT, NOT_NEGATIVE, check_ranges


@dataclass(frozen=True)
class LintConfig:
    """What is compared with what. "Range" means the range between the 1 % and the 99 % quantile of a dimension in this dataset.

    Args:
        checks: only these checks; all if empty.
        episodes: lint at most so many episodes, evenly spread; 0 takes all.
        scale_episodes: number of evenly spread episodes from which ranges and typical steps are computed.
        picture_step: of every so many frames, two successive ones are looked at; the others are not.
        picture_side_px: pictures are thinned out to about this many pixels a side.
        places: number of places kept for each finding, the worst ones.
        near_constant: a dimension that leaves its most common value in less than this fraction of all frames is near-constant.
        declared_range: a dimension that uses less than this fraction of its declared range is a finding.
        saturated: fraction of all frames at one end of the data's range from which a dimension is a finding.
        gripper_uses: fraction of a task's episodes in which the gripper must move before one in which it rests is a finding.
        outlier_z: robust deviations from the median from which a number is an outlier.
        outlier_share: a dimension with more than this fraction of outliers has long tails, not outliers.
        jump_steps: how many times its dimension's 95 % quantile of steps a jump is.
        jump_range: a jump is also at least this fraction of the range.
        duplicate_run: at most so many successive equal rows are duplicates; more are idle time.
        duplicates: fraction of all frames from which duplicate rows are a finding.
        repeated_pictures: fraction of the pictures taken during motion from which repeated ones are a finding.
        dark: mean brightness, of 255, below which a picture is dark; above 255 minus this it is overexposed.
        plain: standard deviation over a picture, of 255, of every channel, below which a picture shows nothing.
        dark_share: fraction of an episode's pictures that must be dark or plain.
        pixel_change: change of a pixel, of 255, that is more than the noise of a video.
        frozen_pixels: a picture with at most this fraction of changed pixels is the same as the one before.
        frozen_motion: how far the state moves, as a fraction of its range, while a frozen camera shows the same picture.
        length_ratio: an episode this many times longer or shorter than the median is a finding.
        min_frames: an episode with fewer frames is a finding.
        idle_speed: ranges per second below which a dimension rests.
        idle_s: seconds of rest at the start, at the end or within an episode that are a finding.
        idle_share: fraction of all frames from which idle time is a warning.
        imbalance: how many times more episodes the most frequent task has than the rarest.
        action_r2: explained variance from which an action is a function of the state.
        action_margin: how much more one explanation must explain than another.
        jitter: deviation from the control period, as a fraction of it, from which a time step is irregular.
        jitter_share: fraction of irregular time steps that is a finding.
    """

    checks: tuple[str, ...] = ()
    episodes: int = 0
    scale_episodes: int = 500
    picture_step: int = 10
    picture_side_px: int = 96
    places: int = 5
    near_constant: float = 0.01
    declared_range: float = 0.005
    saturated: float = 0.3
    gripper_uses: float = 0.8
    outlier_z: float = 10.0
    outlier_share: float = 0.01
    jump_steps: float = 6.0
    jump_range: float = 0.1
    duplicate_run: int = 3
    duplicates: float = 0.05
    repeated_pictures: float = 0.05
    dark: float = 10.0
    plain: float = 3.0
    dark_share: float = 0.2
    pixel_change: float = 12.0
    frozen_pixels: float = 0.0005
    frozen_motion: float = 0.15
    length_ratio: float = 4.0
    min_frames: int = 5
    idle_speed: float = 0.02
    idle_s: float = 1.0
    idle_share: float = 0.2
    imbalance: float = 5.0
    action_r2: float = 0.5
    action_margin: float = 0.1
    jitter: float = 0.1
    jitter_share: float = 0.01

    def __post_init__(self) -> None:
        counts = ("scale_episodes", "picture_step", "picture_side_px", "places")
        thresholds = {field.name: NOT_NEGATIVE for field in dataclasses.fields(self) if field.name not in ("checks", "episodes")}
        check_ranges(self, **thresholds | dict.fromkeys(counts, COUNT))
        if self.episodes < 0:
            raise ConfigError(f"episodes is {self.episodes}; expected a number of episodes, or 0 for all")
