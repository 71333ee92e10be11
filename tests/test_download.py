"""Downloads against a real HTTP server that misbehaves on purpose."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from convcraft.data.download import Checksum, content_hash, download
from convcraft.errors import UserError

CONTENT = np.random.default_rng(0).integers(0, 256, 600_000, dtype=np.uint8).tobytes()
RIGHT = Checksum("sha256", hashlib.sha256(CONTENT).hexdigest())

Handler = http.server.BaseHTTPRequestHandler
Behaviour = Callable[[Handler], None]


class Server:
    """Answers each path with the behaviours given for it, one after the other, the last one for ever."""

    def __init__(self) -> None:
        self.behaviours: dict[str, list[Behaviour]] = {}
        self.requests: list[tuple[str, str | None, str | None]] = []  # path, Range, If-Range
        outer = self

        class Answer(Handler):
            def do_GET(self) -> None:
                outer.requests.append((self.path, self.headers.get("Range"), self.headers.get("If-Range")))
                behaviours = outer.behaviours[self.path]
                (behaviours.pop(0) if len(behaviours) > 1 else behaviours[0])(self)

            def log_message(self, format: str, *args: object) -> None:
                return

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def serve(self, path: str, *behaviours: Behaviour) -> str:
        self.behaviours[path] = list(behaviours)
        return f"http://127.0.0.1:{self.http.server_address[1]}{path}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def give(content: bytes = CONTENT, *, ranges: bool = True, cut: int | None = None, etag: str = '"one"') -> Behaviour:
    """The content; with cut, only so many bytes of what was announced."""

    def answer(handler: Handler) -> None:
        asked = handler.headers.get("Range") if ranges else None
        if handler.headers.get("If-Range", etag) != etag:
            asked = None
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if start >= len(content):
            handler.send_error(416)
            return
        handler.send_response(206 if asked else 200)
        if asked:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        handler.send_header("Content-Length", str(len(content) - start))
        handler.send_header("ETag", etag)
        handler.end_headers()
        handler.wfile.write(content[start : cut if cut is not None else len(content)])
        handler.close_connection = True

    return answer


def refuse(code: int, **headers: str) -> Behaviour:
    def answer(handler: Handler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def stall(seconds: float) -> Behaviour:
    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(CONTENT)))
        handler.end_headers()
        handler.wfile.write(CONTENT[:1000])
        handler.wfile.flush()
        time.sleep(seconds)

    return answer


def fetch(urls: list[str], target: Path, checksum: Checksum = RIGHT, **options: object) -> Path:
    settings: dict[str, object] = {"timeout_seconds": 5.0, "retries": 2, "backoff_seconds": 0.01, **options}
    return download(urls, target, checksum=checksum, **settings)  # type: ignore[arg-type]


def assert_only(target: Path) -> None:
    """The file is there and right, and nothing is left of its making but the lock."""
    assert target.read_bytes() == CONTENT
    assert {path.name for path in target.parent.iterdir()} == {target.name, target.name + ".lock"}


def assert_no_file(target: Path) -> None:
    assert not target.exists()


def test_good(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    target = tmp_path / "new" / "file.bin"
    url = server.serve("/good", give())
    fetch([url], target, progress=lambda done, total, what: seen.append((done, total)))
    assert_only(target)
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    fetch([url], target)
    assert len(server.requests) == 1  # what is there and right is not fetched again


def test_goes_on_where_it_was_cut(server: Server, tmp_path: Path) -> None:
    url = server.serve("/cut", give(cut=250_000), give(cut=400_000), give())
    fetch([url], tmp_path / "file")
    assert_only(tmp_path / "file")
    assert [request[1:] for request in server.requests] == [
        (None, None),
        ("bytes=250000-", '"one"'),
        ("bytes=400000-", '"one"'),
    ]


def test_goes_on_in_a_later_call(server: Server, tmp_path: Path) -> None:
    url = server.serve("/cut", give(cut=250_000), give())
    with pytest.raises(UserError, match=r"cut off after 250,000 of 600,000"):
        fetch([url], tmp_path / "file", retries=0)
    assert_no_file(tmp_path / "file")
    fetch([url], tmp_path / "file", retries=0)
    assert_only(tmp_path / "file")
    assert server.requests[1][1] == "bytes=250000-"


def test_starts_again_where_ranges_are_ignored(server: Server, tmp_path: Path) -> None:
    url = server.serve("/plain", give(ranges=False, cut=250_000), give(ranges=False))
    fetch([url], tmp_path / "file")
    assert_only(tmp_path / "file")


def test_starts_again_where_the_file_has_changed(server: Server, tmp_path: Path) -> None:
    other = bytes(len(CONTENT))
    url = server.serve("/changed", give(other, cut=250_000, etag='"old"'), give(etag='"new"'))
    fetch([url], tmp_path / "file")
    assert_only(tmp_path / "file")


def test_a_part_of_another_mirror_is_not_continued(server: Server, tmp_path: Path) -> None:
    urls = [server.serve("/a", give(bytes(len(CONTENT)), cut=250_000), refuse(404)), server.serve("/b", give())]
    fetch(urls, tmp_path / "file")
    assert_only(tmp_path / "file")
    assert [request[:2] for request in server.requests] == [("/a", None), ("/a", "bytes=250000-"), ("/b", None)]


def test_wrong_checksum_never_gets_the_name(server: Server, tmp_path: Path) -> None:
    urls = [server.serve("/wrong", give(CONTENT[:-1] + b"!")), server.serve("/also", give(CONTENT + b"!"))]
    with pytest.raises(UserError, match="has not the sha256") as caught:
        fetch(urls, tmp_path / "file")
    assert all(url in caught.value.received for url in urls)
    assert_no_file(tmp_path / "file")
    assert not (tmp_path / "file.part").exists()
    urls.append(server.serve("/right", give()))
    fetch(urls, tmp_path / "file")
    assert_only(tmp_path / "file")


def test_a_wrong_file_in_place_is_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"bad")
    fetch([server.serve("/good", give())], tmp_path / "file")
    assert_only(tmp_path / "file")


def test_a_part_that_is_too_long_is_dropped(server: Server, tmp_path: Path) -> None:
    url = server.serve("/good", give(cut=1000), give())
    with pytest.raises(UserError):
        fetch([url], tmp_path / "file", retries=0)
    (tmp_path / "file.part").write_bytes(CONTENT + b"more")
    fetch([url], tmp_path / "file")
    assert_only(tmp_path / "file")


@pytest.mark.parametrize("code", [403, 404, 410])
def test_missing_then_mirror(server: Server, tmp_path: Path, code: int) -> None:
    fetch([server.serve("/gone", refuse(code)), server.serve("/mirror", give())], tmp_path / "file")
    assert_only(tmp_path / "file")
    assert [request[0] for request in server.requests] == ["/gone", "/mirror"]  # not asked again


def test_busy_then_fine(server: Server, tmp_path: Path) -> None:
    started = time.monotonic()
    fetch([server.serve("/busy", refuse(503), refuse(429, Retry_After="1"), give())], tmp_path / "file")
    assert_only(tmp_path / "file")
    assert time.monotonic() - started >= 1.0  # as the server asked


def test_a_silent_server_times_out(server: Server, tmp_path: Path) -> None:
    started = time.monotonic()
    fetch([server.serve("/silent", stall(3), give())], tmp_path / "file", timeout_seconds=0.3)
    assert_only(tmp_path / "file")
    assert time.monotonic() - started < 2.5


def test_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(UserError, match=r"\(3 attempts\)"):
        fetch(["http://127.0.0.1:9/file"], tmp_path / "file")
    assert_no_file(tmp_path / "file")


def test_more_than_expected_is_not_taken(server: Server, tmp_path: Path) -> None:
    def endless(handler: Handler) -> None:
        handler.send_response(200)  # no length announced
        handler.end_headers()
        for _ in range(1000):
            handler.wfile.write(bytes(100_000))

    for path, behaviour in (("/announced", give()), ("/endless", endless)):
        with pytest.raises(UserError, match="more than the 500,000"):
            fetch([server.serve(path, behaviour)], tmp_path / "file", max_bytes=500_000)
        assert_no_file(tmp_path / "file")
        assert not (tmp_path / "file.part").exists() or (tmp_path / "file.part").stat().st_size <= 500_000


@pytest.mark.parametrize("address", ["file:///etc/hostname", "ftp://127.0.0.1/x", "nonsense", "http://[bad"])
def test_only_http(tmp_path: Path, address: str) -> None:
    with pytest.raises(UserError):
        fetch([address], tmp_path / "file")
    assert_no_file(tmp_path / "file")


def test_a_redirect_to_a_local_file_is_not_followed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(CONTENT)
    url = server.serve("/away", refuse(302, Location=f"file://{tmp_path / 'secret'}"))
    with pytest.raises(UserError):
        fetch([url], tmp_path / "new" / "file", retries=0)
    assert_no_file(tmp_path / "new" / "file")


def test_two_at_once_fetch_once(server: Server, tmp_path: Path) -> None:
    def slow(handler: Handler) -> None:
        time.sleep(0.5)
        give()(handler)

    url = server.serve("/slow", slow)
    threads = [threading.Thread(target=fetch, args=([url], tmp_path / "file")) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_only(tmp_path / "file")
    assert len(server.requests) == 1


def test_checksum_of_what_is_packed(server: Server, tmp_path: Path) -> None:
    checksum = Checksum("sha256", RIGHT.value, unpacked=True, max_unpacked_bytes=len(CONTENT))
    for level in (1, 9):  # mirrors pack the same content into different files
        url = server.serve("/packed", give(gzip.compress(CONTENT, level)))
        target = tmp_path / f"file{level}.gz"
        fetch([url], target, checksum)
        assert gzip.decompress(target.read_bytes()) == CONTENT
    bomb = tmp_path / "bomb.gz"
    bomb.write_bytes(gzip.compress(bytes(50_000_000), 1))
    assert content_hash(bomb, unpacked=True, max_bytes=1 << 20) == ""
    bomb.write_bytes(gzip.compress(CONTENT)[:-9])
    assert not checksum.holds(bomb)
    assert not checksum.holds(Path(__file__))


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be written"):
        fetch(["http://127.0.0.1:9/x"], tmp_path / "file" / "below" / "x")
