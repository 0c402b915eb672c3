"""Opens video files of other people: as what they are, without what they name.

FFmpeg takes a name such as ``concat:a|b`` for a protocol, and a text file called ``0.mp4`` for a playlist, whose files it then
opens, wherever they are. Only containers that hold their own pictures are read, by an absolute path.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, cast

from verbot.files import regular_file

if TYPE_CHECKING:
    from av.container import InputContainer

FORMATS = "mov,matroska,avi,mpegts,ogg"  # mp4 is one of mov, webm one of matroska
DECODING = {"max_pixels": str(1 << 26)}  # of a frame; FFmpeg decodes one already to open a file
OPTIONS = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}


def open_video(video: Path | bytes) -> InputContainer:
    """The container of a video file, or of the content of one, to be closed by the caller.

    Raises `CorruptFileError` for what is no plain file, and the errors of FFmpeg (`av.FFmpegError`) for what is no video.
    """
    import av

    source = io.BytesIO(video) if isinstance(video, bytes) else os.path.abspath(regular_file(video))
    return cast(
        "InputContainer",
        av.open(source, options=DECODING, container_options=OPTIONS, metadata_errors="replace"),
    )
