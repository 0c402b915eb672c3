"""One episode in memory, and whether it fits the robot before anything of it is written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from verbot.data.storage.png import check_depth
from verbot.data.storage.segments import SEGMENTS, InstructionSegment, check_segments
from verbot.errors import DataError
from verbot.spec import FloatArray, RobotSpec
from verbot.text import check_record, check_text


@dataclass(frozen=True)
class EpisodeRecord:
    """One episode to save. Action `i` was executed at observation `i`, or is its label.

    Args:
        states, actions: float32 (t, s) and (t, a).
        images: of each camera uint8 RGB (t, h, w, 3), or float32 (t, h, w) in meters where its kind is ``"depth"``. Depth is
            stored in whole millimeters: it is rounded by at most 0.5 mm.
        calibration: ``{"intrinsics": 9 floats, "extrinsics": 16 floats, "frame": a frame of the spec}`` of each camera.
        extras: other values in JSON (goal, instructions, grounding, first_contact_frame, success, …).
        instruction: plain text of any length, with line breaks and tabs but no other control characters; may be empty.
        segments: the instruction of every frame, if it changes within the episode; `instruction` is then that of the first.
        columns: further values by feature name (``next.reward``, ``next.done``, ``observation.environment_state``), (t, …):
            numbers, bool, or one text a frame. All episodes of a dataset have the same.
    """

    instruction: str
    states: FloatArray
    actions: FloatArray
    images: Mapping[str, np.ndarray]
    calibration: Mapping[str, Any] = field(default_factory=dict)
    extras: Mapping[str, Any] = field(default_factory=dict)
    segments: tuple[InstructionSegment, ...] = ()
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)

    def check(self, spec: RobotSpec, encoded: Sequence[str] = ()) -> None:
        """Raise `DataError` unless the arrays have the shapes that `spec` requires; without images of the cameras `encoded`."""
        length = len(self.actions)
        if not length:
            raise DataError("an episode without frames cannot be saved")
        for label, array, size in (("states", self.states, spec.state_size), ("actions", self.actions, spec.action_size)):
            if array.shape != (length, size):
                raise DataError(f"{label} have shape {array.shape}; robot {spec.name!r} expects ({length}, {size})")
            if not np.isfinite(array).all():
                raise DataError(f"{label} are not finite at frame {int(np.argwhere(~np.isfinite(array))[0, 0])}")
        self._check_texts()
        _check_images(self, spec, encoded)
        for name, values in self.columns.items():
            if len(values) != length:
                raise DataError(f"column {name!r} has {len(values)} values; the episode has {length} frames")
        if self.segments:
            check_segments(self.segments, length)
            if self.instruction != self.segments[0].wordings[0]:
                raise DataError(
                    f"the episode's instruction is {self.instruction!r}; its first frames have {self.segments[0].wordings[0]!r}"
                )
        elif SEGMENTS in self.extras:
            raise DataError(f"the extras have {SEGMENTS!r}, a name of the format; pass the record's segments instead")

    def _check_texts(self) -> None:
        """Raise `DataError` for text that cannot be stored or printed, see `verbot.text`."""
        check_text(self.instruction, "the instruction")
        for wording in (wording for segment in self.segments for wording in segment.wordings):
            check_text(wording, "a wording of the instruction")
        for label, table in (("extras", self.extras), ("calibration", self.calibration)):
            try:
                halves = r"\ud" in json.dumps(table)
            except (TypeError, ValueError, RecursionError) as error:
                raise DataError(f"the {label} are no JSON ({error})") from error
            if halves:
                check_record(table, f"the {label}")
        for name, values in self.columns.items():
            check_text(name, "the name of a column")
            if np.asarray(values).dtype.kind in "UO":
                check_record(np.asarray(values).tolist(), f"the texts of column {name!r}")


def _check_images(record: EpisodeRecord, spec: RobotSpec, encoded: Sequence[str]) -> None:
    length = len(record.actions)
    if {*record.images, *encoded} != set(spec.camera_names):
        raise DataError(
            f"the episode has cameras {', '.join(sorted({*record.images, *encoded})) or 'none'}; "
            f"robot {spec.name!r} has {', '.join(spec.camera_names) or 'none'}"
        )
    for camera in (camera for camera in spec.cameras if camera.name in record.images):
        images, depth = record.images[camera.name], camera.kind == "depth"
        shape, dtype = (length, camera.height, camera.width, *(() if depth else (3,))), np.float32 if depth else np.uint8
        if images.dtype != dtype or images.shape != shape:
            unit = " in meters" if depth else ""
            expected = f"{np.dtype(dtype)} {shape}{unit}"
            raise DataError(f"camera {camera.name!r} gave {images.dtype} {images.shape}; expected {expected}")
        if depth:
            check_depth(images, camera.name)
