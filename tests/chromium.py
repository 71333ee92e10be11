"""Headless Chromium by its debugging protocol over a pipe: no driver, no port, no further package.

https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
TIMEOUT_SECONDS = 60.0


def find_chromium() -> str | None:
    """CHROMIUM, or the first on the path."""
    return os.environ.get("CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)


class Chromium:
    """One page. `messages`: what it said on the console and what it refused. `requests`: addresses that it asked for,
    those of data: left out."""

    def __init__(self, width: int = 1440, height: int = 900, *, phone: bool = False, dark: bool = False) -> None:
        executable = find_chromium()
        if executable is None:
            raise FileNotFoundError("chromium")
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        command = [executable, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        command += [
            "--hide-scrollbars",
            "--disable-breakpad",
            "--disable-crash-reporter",
            f"--user-data-dir={self._profile.name}",
            "about:blank",
        ]

        # Not subprocess: its preexec_fn may hang where torch has threads. High numbers first, so that 3 and 4 are free.
        far_in, far_out = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (theirs_in, theirs_out))
        actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
            *((os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_RDWR, 0) for stream in (0, 1, 2)),
            (os.POSIX_SPAWN_DUP2, far_in, 3),
            (os.POSIX_SPAWN_DUP2, far_out, 4),
        ]
        self._process = os.posix_spawn(executable, command, os.environ, file_actions=actions, setpgroup=0)
        os.close(far_in)
        os.close(far_out)
        os.close(theirs_in)
        os.close(theirs_out)
        self._read, self._write = ours_in, ours_out
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.messages: list[str] = []
        self.requests: list[str] = []
        self._loaded = False
        page = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        scale = 2 if phone else 1
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
        )
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[theme])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.killpg(self._process, signal.SIGKILL)  # it keeps nothing: the profile goes too
        os.waitpid(self._process, 0)
        os.close(self._read)
        os.close(self._write)
        self._profile.cleanup()

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method and wait for its answer; events on the way are kept."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._read], [], [], TIMEOUT_SECONDS)[0]:
                raise TimeoutError(f"chromium has said nothing for {TIMEOUT_SECONDS:g} s")
            part = os.read(self._read, 1 << 20)
            if not part:
                raise RuntimeError("chromium has ended")
            self._buffer += part
        line, self._buffer = self._buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, parameters: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Network.requestWillBeSent":
            address = parameters["request"]["url"]
            if not address.startswith("data:"):
                self.requests.append(address)
        elif method == "Runtime.exceptionThrown":
            self.messages.append(json.dumps(parameters["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            self.messages.append(f"console.{parameters['type']}: {parameters['args']}")
        elif method == "Log.entryAdded":
            self.messages.append(parameters["entry"]["text"])

    def open(self, path: Path) -> float:
        """Load a file; seconds until its load event."""
        self._loaded = False
        started = time.monotonic()
        self.send("Page.navigate", url=path.resolve().as_uri())
        while not self._loaded:
            self._next()
        return time.monotonic() - started

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(json.dumps(found["exceptionDetails"]))
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """One key, such as Enter or ArrowRight."""
        words = {"Enter": "\r"}.get(key, "")
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, text=words if kind == "keyDown" else "")
