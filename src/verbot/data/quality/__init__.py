"""The quality of a dataset: what in it may spoil training, with episode and frame."""

from verbot.data.quality.config import LintConfig
from verbot.data.quality.lint import lint
from verbot.data.quality.report import FramePlace, LintFinding, LintReport

__all__ = ["FramePlace", "LintConfig", "LintFinding", "LintReport", "lint"]
