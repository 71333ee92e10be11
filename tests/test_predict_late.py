"""What `predict` keeps where a source fails late, how far a camera trails, and what it never fetches."""

from __future__ import annotations

import csv
import gc
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from exported import made_of, small_network, source_of
from numpy.typing import NDArray
from PIL import Image

from convcraft.cli.app import _run
from convcraft.data.preprocess import Preprocess
from convcraft.deploy import frames
from convcraft.deploy.archive import write_zip
from convcraft.errors import UserError
from convcraft.evaluation.answers import ImagePrediction
from convcraft.workflows import predict as workflow
from convcraft.workflows.predict import Answered, predict_each

pytest.importorskip("onnxscript", reason="exporting needs the export extra")

GREY = Preprocess(height=28, width=28, channels=1, resize="pad", mean=(0.13,), std=(0.31,))
NUM_PICTURES = 20


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "bundle.zip"
    classes = tuple(f"class {label}" for label in range(7))
    write_zip(path, made_of(source_of(small_network("lenet5", 7, GREY), GREY, classes)).files)
    return path


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(NUM_PICTURES):
        Image.fromarray(rng.integers(0, 256, (28, 28), dtype=np.uint8)).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    pytest.importorskip("av", reason="videos need the video extra")
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"no video")
    return path


def test_answers_before_a_late_error_are_saved(
    bundle: Path, pictures: Path, broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.csv"
    assert _run(["predict", str(bundle), str(pictures), str(broken), "--out", str(out)]) == 2
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == NUM_PICTURES  # the last batch was not full
    assert "broken.mp4" in shown.err
    with out.open(newline="") as file:
        assert len(list(csv.DictReader(file))) == NUM_PICTURES


def test_json_tells_the_answers_and_then_the_error(
    bundle: Path, pictures: Path, broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(["predict", str(bundle), str(pictures), str(broken), "--json"]) == 2
    answers, error = capsys.readouterr().out.splitlines()
    assert len(json.loads(answers)["predictions"]) == NUM_PICTURES
    assert "broken.mp4" in json.loads(error)["error"]["received"]


def test_an_error_before_any_answer_leaves_an_older_file(bundle: Path, broken: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    out.write_text("older")
    assert _run(["predict", str(bundle), str(broken), "--out", str(out)]) == 2
    assert out.read_text() == "older"


def test_an_unplugged_camera_keeps_what_it_gave(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unplugged(name: str, every: int) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        for second in range(3):
            yield f"{name} {second} s", np.full((28, 28), 80 * second, np.uint8)
        raise UserError(f"{name}: no such device", "a camera", "Plug it in.")

    monkeypatch.setattr(workflow, "frames_of", unplugged)
    monkeypatch.setattr(workflow, "refuse_absent", lambda videos: None)
    out = tmp_path / "a.json"
    assert _run(["predict", str(bundle), "camera:0", "--out", str(out)]) == 2
    assert "no such device" in capsys.readouterr().err
    assert [row["image"] for row in json.loads(out.read_text())] == [f"camera:0 {second} s" for second in range(3)]


def test_a_camera_is_answered_frame_by_frame(bundle: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []

    def seen(name: str, every: int) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        for number in range(40):
            given.append(name)
            yield f"{name} {number}", np.zeros((28, 28), np.uint8)

    monkeypatch.setattr(workflow, "frames_of", seen)
    monkeypatch.setattr(workflow, "refuse_absent", lambda videos: None)
    answers = predict_each(bundle, [str(pictures), "camera:0"])
    for _ in range(NUM_PICTURES):
        next(answers)
    assert given == []
    for number in range(3):
        assert next(answers).image == f"camera:0 {number}"
        assert len(given) == number + 1
    next(predict_each(bundle, ["clip.mp4"]))
    assert given.count("clip.mp4") > 1  # a file may come in batches


def test_answers_that_nobody_writes_are_not_kept(
    bundle: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "broken.png").write_bytes(b"no picture")
    held: list[int] = []
    gc.collect()

    def watched(*arguments: object) -> Iterator[ImagePrediction]:
        for answer in predict_each(*arguments):  # type: ignore[arg-type]
            yield answer
            held.append(sum(type(one) is ImagePrediction for one in gc.get_objects()))

    monkeypatch.setattr(workflow, "predict_each", watched)
    assert _run(["predict", str(bundle), str(pictures)]) == 2
    assert len(capsys.readouterr().out.splitlines()) == NUM_PICTURES + 1
    assert len(held) == NUM_PICTURES + 1
    assert max(held) < NUM_PICTURES  # those of one batch


def test_a_kept_answer_has_no_more_classes_than_are_written() -> None:
    ranking = tuple((f"class {label}", 1 / 1000) for label in range(1000))
    answered = Answered(keep=True, top=3)
    answered.add(ImagePrediction("a.png", ranking, calibrated=True))
    assert answered.kept[0].ranking == ranking[:3]
    assert (answered.count, answered.unreadable, answered.calibrated) == (1, 0, True)
    answered.refuse_unreadable()


def test_only_unreadable_pictures_are_an_error() -> None:
    answered = Answered()
    answered.add(ImagePrediction("a.png", (), "no picture"))
    assert answered.kept == []
    with pytest.raises(UserError, match=r"a\.png: no picture"):
        answered.refuse_unreadable()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.3)
        yield server


def was_called(server: socket.socket) -> bool:
    try:
        server.accept()[0].close()
    except TimeoutError:
        return False
    return True


def test_a_video_elsewhere_is_not_fetched(
    bundle: Path, listener: socket.socket, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("av", reason="videos need the video extra")
    monkeypatch.setattr(workflow, "open_network", lambda *_, **__: pytest.fail("the network was loaded first"))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/a.mp4"
    assert _run(["predict", str(bundle), url]) == 2
    assert "no file" in capsys.readouterr().err
    assert not was_called(listener)


@pytest.mark.parametrize("by_name", [True, False])
def test_frames_come_from_files_alone(listener: socket.socket, tmp_path: Path, by_name: bool) -> None:
    pytest.importorskip("av", reason="videos need the video extra")
    host = f"http://127.0.0.1:{listener.getsockname()[1]}"
    playlist = tmp_path / "playlist.mpg"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{host}/a.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(UserError):
        next(frames.frames_of(f"{host}/a.mp4" if by_name else str(playlist)))
    assert not was_called(listener)


def test_a_video_may_have_a_colon_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    av = pytest.importorskip("av", reason="videos need the video extra")
    monkeypatch.chdir(tmp_path)
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    (tmp_path / "a.mp4").rename("http:a.mp4")
    frames.refuse_absent(["http:a.mp4"])
    assert [name for name, _ in frames.frames_of("http:a.mp4")] == ["http:a.mp4 0.00 s"]


@pytest.mark.parametrize("name", ["absent.mp4", "x" * 5000 + ".mp4", "camera:one", "camera:987654"])
def test_a_video_that_is_not_there_is_said_before_the_network_is_loaded(name: str) -> None:
    pytest.importorskip("av", reason="videos need the video extra")
    with pytest.raises(UserError):
        predict_each(Path("no such bundle.zip"), [name])
    with pytest.raises(UserError, match="no such bundle"):
        predict_each(Path("no such bundle.zip"), [])
