"""Changing recorded datasets: deleting, trimming, splitting, merging, renaming, re-timing and rewording episodes."""

from verbot.data.editing.edit import EditResult, edit
from verbot.data.editing.plan import EditPlan

__all__ = ["EditPlan", "EditResult", "edit"]
