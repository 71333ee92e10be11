"""Frames of a video file or a camera as pictures, by PyAV (the extra `video`)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcraft.errors import UserError

VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
CAMERA = "camera:"
INSTALL = 'Install it with: pip install "convcraft[video]"'


def is_camera(name: str) -> bool:
    """ "camera:0" and so on."""
    return name.startswith(CAMERA)


def is_video(name: str) -> bool:
    """By its ending, or a camera."""
    return is_camera(name) or Path(name).suffix.lower() in VIDEOS


def refuse_absent(videos: Sequence[str]) -> None:
    """Before the work: raises UserError where PyAV is missing, a video is no file here, or a camera is not there.

    A video is never fetched from elsewhere, whatever its name looks like.
    """
    if videos:
        _pyav()
    for name in videos:
        if is_camera(name):
            _device_of(name)
        elif not os.path.isfile(name):  # noqa: PTH113  (Path.is_file raises where a name is too long)
            raise UserError(f"no file {_shown(name)}", "a video file on this machine", "Check the path.")


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
                raise UserError(f"{_shown(name)} without pictures", "a video file", "Check the path.")
            stream = container.streams.video[0]
            if not is_camera(name):
                stream.thread_type = "AUTO"  # quicker, but each thread holds back a frame
            for number, frame in enumerate(container.decode(stream)):
                if number % every == 0:
                    seconds = frame.time if frame.time is not None else 0.0
                    yield f"{_shown(name)} {seconds:.2f} s", _upright(frame)
    except (av.FFmpegError, OSError) as error:
        if is_camera(name):
            fix = "Check that it is plugged in, and that no other program uses it."
            raise UserError(f"{name}: {error}", "a camera that can be opened", fix) from error
        received = f"{_shown(name)}: {error.strerror or error}"
        raise UserError(received, "a video that can be decoded", "Play it to see what it is.") from error


def _pyav() -> Any:
    try:
        import av
    except ModuleNotFoundError as error:
        raise UserError("a video, and the package av is not installed", "PyAV, which decodes it", INSTALL) from error
    return av


def _opened(av: Any, name: str) -> Any:
    """A camera, or a file and nothing that it may refer to elsewhere (an absolute path is never taken for a URL)."""
    if is_camera(name):
        return av.open(_device_of(name), format="v4l2")
    return av.open(os.path.abspath(name), options={"protocol_whitelist": "file"})  # noqa: PTH100


def _device_of(name: str) -> str:
    number = name.removeprefix(CAMERA)
    if not sys.platform.startswith("linux") or not (number.isascii() and number.isdigit()):
        raise UserError(_shown(name), "camera:0 and so on, on Linux", "Record a video file and give that instead.")
    device = f"/dev/video{number}"
    if not os.path.exists(device):  # noqa: PTH110  (Path.exists raises where a name is too long)
        raise UserError(f"{_shown(name)}, and no {device}", "a camera that is there", "Check that it is plugged in.")
    return device


def _shown(name: str) -> str:
    """As it can be printed and saved: bytes that are no UTF-8 become the sign for what is unknown."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _upright(frame: Any) -> NDArray[np.uint8]:
    """Phones store a video sideways, with a note how to turn it."""
    pixels: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels
