"""One file from the network, whole and checked, or not at all.

A download grows in `<target>.part`, goes on where it was cut, and gets its final name only after its checksum is right.
Standard library only; proxies are taken from the environment (http_proxy, https_proxy, no_proxy) as urllib does.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from convcraft import __version__
from convcraft.data.sample import Progress
from convcraft.errors import UserError

CHUNK_BYTES = 1 << 18
MAX_BYTES = 8 << 30
MAX_WAIT_SECONDS = 30.0
TRY_AGAIN_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


class _TryAgain(Exception):
    """This attempt failed in a way that may pass; wait_seconds is what the server asked for."""

    def __init__(self, reason: str, wait_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


class _GiveUp(Exception):
    """This address will not give the file, however often it is asked."""


@dataclass(frozen=True)
class Checksum:
    """What the content must hash to; with unpacked, the content of a .gz file, as mirrors pack the same file anew."""

    algorithm: str  # sha256 or md5
    value: str
    unpacked: bool = False
    max_unpacked_bytes: int = MAX_BYTES

    def holds(self, path: Path) -> bool:
        return content_hash(path, self.algorithm, self.unpacked, self.max_unpacked_bytes) == self.value.lower()


def content_hash(path: Path, algorithm: str = "sha256", unpacked: bool = False, max_bytes: int = MAX_BYTES) -> str:
    """The hash of a file, or of what a gzip file unpacks to, as hexadecimal digits; "" if it cannot be unpacked."""
    digest = hashlib.new(algorithm)
    unpacker = zlib.decompressobj(wbits=31) if unpacked else None
    size_bytes = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            try:
                while True:
                    content = chunk if unpacker is None else unpacker.decompress(chunk, CHUNK_BYTES)
                    size_bytes += len(content)
                    digest.update(content)
                    if unpacker is None or not (chunk := unpacker.unconsumed_tail):
                        break
            except zlib.error:
                return ""
            if size_bytes > max_bytes:
                return ""
    return digest.hexdigest() if unpacker is None or unpacker.eof else ""


def download(
    urls: Sequence[str],
    target: Path,
    *,
    checksum: Checksum,
    max_bytes: int = MAX_BYTES,
    progress: Progress | None = None,
    timeout_seconds: float = 30.0,
    retries: int = 4,
    backoff_seconds: float = 1.0,
) -> Path:
    """Fetch a file to `target`, unless it is there already with the right content.

    Args:
        urls: addresses of the same file; the next one is tried when one fails.
        target: the final name; its folder is made.
        checksum: of the content. There is no way around it.
        max_bytes: stop when more arrive.
        progress: called as progress(bytes so far, bytes in all or 0, what).
        timeout_seconds: of silence, after which an attempt has failed.
        retries: further attempts per address; waits double from backoff_seconds up to 30 s.

    Returns:
        target.

    Raises:
        UserError: no address gave the file (each is named with its reason), or it cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _only_one(target.with_name(target.name + ".lock"), target.name, progress):
            if target.is_file() and checksum.holds(target):
                return target
            job = _Job(target, checksum, max_bytes, progress, timeout_seconds)
            return job.run(urls, retries, backoff_seconds)
    except OSError as error:
        fix = "Check the disk and the rights, or name another folder with --data-dir."
        raise UserError(f"{target} cannot be written: {error}", "a folder with room for it", fix) from error


class _Job:
    def __init__(
        self, target: Path, checksum: Checksum, max_bytes: int, progress: Progress | None, timeout_seconds: float
    ) -> None:
        self.target = target
        self.part = target.with_name(target.name + ".part")
        self.note = target.with_name(target.name + ".part.json")  # where the part came from, and its version there
        self.checksum = checksum
        self.max_bytes = max_bytes
        self.progress = progress
        self.timeout_seconds = timeout_seconds

    def run(self, urls: Sequence[str], retries: int, backoff_seconds: float) -> Path:
        reasons: list[str] = []
        for url in urls:
            for attempt in range(retries + 1):
                try:
                    self._fetch(url)
                    return self._finish()
                except _GiveUp as error:
                    reasons.append(f"{url}: {error}")
                    break
                except _TryAgain as error:
                    reason = f"{url}: {error} ({attempt + 1} attempts)"
                    if attempt < retries:
                        time.sleep(min(max(backoff_seconds * 2**attempt, error.wait_seconds), MAX_WAIT_SECONDS))
            else:
                reasons.append(reason)
        raise UserError(
            f"{self.target.name} could not be downloaded. {'; '.join(reasons)}",
            "a reachable server with the right file",
            f"Check the connection and the proxy settings, or put the file at {self.target} yourself.",
        )

    def _fetch(self, url: str) -> None:
        """Bring the part to its full length, going on from what there is where the server allows it."""
        have = self._resumable_bytes(url)
        try:
            request = urllib.request.Request(url, headers={"User-Agent": f"convcraft/{__version__}"})
        except ValueError as error:
            raise _GiveUp(f"not an address: {error}") from error
        request.add_header("Accept-Encoding", "identity")
        if have:
            request.add_header("Range", f"bytes={have}-")
            if validator := self._noted().get("validator"):
                request.add_header("If-Range", validator)
        with self._open(request) as response:
            start = self._start(response, have)
            total = self._total(response, start)
            self.note.write_text(json.dumps({"url": url, "validator": _validator(response)}), encoding="utf-8")
            with self.part.open("r+b" if start else "wb") as part:
                part.seek(start)
                part.truncate()
                received = self._receive(response, part, start, total)
        if total and received < total:
            raise _TryAgain(f"cut off after {received:,} of {total:,} bytes")

    def _open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        try:
            return _opener().open(request, timeout=self.timeout_seconds)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # the part is as long as the file, or longer: its checksum has failed before
                self._discard()
                raise _TryAgain("the part did not fit the file") from error
            if error.code in TRY_AGAIN_STATUS:
                raise _TryAgain(f"HTTP {error.code}", _retry_after_seconds(error)) from error
            raise _GiveUp(f"HTTP {error.code}") from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, str):  # an address of no known kind
                raise _GiveUp(str(error.reason)) from error
            raise _TryAgain(str(error.reason)) from error
        except (OSError, http.client.HTTPException) as error:
            raise _TryAgain(str(error) or type(error).__name__) from error

    def _start(self, response: http.client.HTTPResponse, have: int) -> int:
        """The position that the body starts at: `have` only if the server says just that."""
        if response.status != 206:
            return 0
        if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            self._discard()
            raise _TryAgain("the server sent another range than asked for")
        return have

    def _total(self, response: http.client.HTTPResponse, start: int) -> int:
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else 0
        if total > self.max_bytes:
            raise _GiveUp(f"{total:,} bytes, more than the {self.max_bytes:,} expected at most")
        return total

    def _receive(self, response: http.client.HTTPResponse, part: IO[bytes], have: int, total: int) -> int:
        while True:
            try:
                chunk = response.read1(CHUNK_BYTES)
            except (OSError, http.client.HTTPException) as error:
                raise _TryAgain(str(error) or type(error).__name__) from error
            if not chunk:
                part.flush()
                os.fsync(part.fileno())
                return have
            have += len(chunk)
            if have > self.max_bytes:
                self._discard()
                raise _GiveUp(f"more than the {self.max_bytes:,} bytes expected at most")
            part.write(chunk)
            if self.progress is not None:
                self.progress(have, total, f"downloading {self.target.name}")

    def _finish(self) -> Path:
        if not self.checksum.holds(self.part):
            self._discard()
            raise _GiveUp(f"the content has not the {self.checksum.algorithm} {self.checksum.value}")
        self.part.replace(self.target)
        self.note.unlink(missing_ok=True)
        return self.target

    def _resumable_bytes(self, url: str) -> int:
        """Bytes there already from this very address. Other mirrors may pack the same content otherwise."""
        if not self.part.is_file() or self._noted().get("url") != url:
            return 0
        return self.part.stat().st_size

    def _noted(self) -> dict[str, str]:
        try:
            noted = json.loads(self.note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return noted if isinstance(noted, dict) else {}

    def _discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def _opener() -> urllib.request.OpenerDirector:
    """HTTP and HTTPS alone, also after a redirect: urllib's own opener would follow file: and ftp: too."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _validator(response: http.client.HTTPResponse) -> str:
    """What If-Range may hold (RFC 9110, 13.1.5): a strong ETag, else the date of the last change."""
    etag = response.headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")


def _retry_after_seconds(error: urllib.error.HTTPError) -> float:
    value = error.headers.get("Retry-After", "") if error.headers else ""
    return float(value) if value.isdecimal() else 0.0


@contextlib.contextmanager
def _only_one(lock: Path, what: str, progress: Progress | None) -> Iterator[None]:
    """Hold a lock file that the operating system frees when the process ends, however it ends."""
    with lock.open("a+b") as file:
        while not _try_lock(file):
            if progress is not None:
                progress(0, 0, f"waiting for another download of {what}")
            time.sleep(0.2)
        yield


if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: IO[bytes]) -> bool:
        try:
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    def _try_lock(file: IO[bytes]) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
