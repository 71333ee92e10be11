"""Frames of a video file or a camera as pictures, by PyAV (the extra `video`)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcraft.errors import UserError

VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
CAMERA = "camera:"
INSTALL = 'Install it with: pip install "convcraft[video]"'


def is_video(name: str) -> bool:
    """By its ending, or "camera:0"."""
    return name.startswith(CAMERA) or Path(name).suffix.lower() in VIDEOS


def frames_of(name: str, every: int = 1) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """(name with the second, pixels uint8 [H, W, 3]) of each `every`-th frame, upright as the file says.

    Args:
        name: a video file, or "camera:0" for the first camera (Linux).

    Raises:
        UserError: PyAV is missing, no such file, no video in it, or damage on the way.
    """
    av = _pyav()
    try:
        with _opened(av, name) as container:
            if not container.streams.video:
                raise UserError(f"{name} without pictures", "a video file", "Check the path.")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for number, frame in enumerate(container.decode(stream)):
                if number % every == 0:
                    seconds = frame.time if frame.time is not None else 0.0
                    yield f"{name} {seconds:.2f} s", _upright(frame)
    except (av.FFmpegError, OSError) as error:
        if name.startswith(CAMERA):
            fix = "Check that it is plugged in, and that no other program uses it."
            raise UserError(f"{name}: {error}", "a camera that can be opened", fix) from error
        raise UserError(f"{name}: {error}", "a video that can be decoded", "Play it to see what it is.") from error


def _pyav() -> Any:
    try:
        import av
    except ModuleNotFoundError as error:
        raise UserError("a video, and the package av is not installed", "PyAV, which decodes it", INSTALL) from error
    return av


def _opened(av: Any, name: str) -> Any:
    if not name.startswith(CAMERA):
        return av.open(name)
    number = name.removeprefix(CAMERA)
    if not sys.platform.startswith("linux") or not number.isdigit():
        raise UserError(f"{name}", "camera:0 and so on, on Linux", "Record a video file and give that instead.")
    return av.open(f"/dev/video{number}", format="v4l2")


def _upright(frame: Any) -> NDArray[np.uint8]:
    """Phones store a video sideways, with a note how to turn it."""
    pixels: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels
