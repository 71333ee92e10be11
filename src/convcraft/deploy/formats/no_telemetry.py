"""OpenVINO and NNCF are imported here without the package that reports their use to Google Analytics."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

REPORTER = "openvino_telemetry"


@contextmanager
def no_telemetry() -> Iterator[None]:
    """While it lasts, `openvino_telemetry` cannot be imported; what wants it takes a stand-in that does nothing.

    NNCF asks nobody before it reports: it writes to ~/intel as soon as it is imported, and opens sockets when it
    quantises. A program that has imported it before has made its own choice.
    """
    before = sys.modules.get(REPORTER)
    sys.modules[REPORTER] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if before is None:
            del sys.modules[REPORTER]
        else:
            sys.modules[REPORTER] = before
