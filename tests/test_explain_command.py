"""`convcraft explain`: its page, its picture, its JSON, its warnings, and that it leaves a run as it was."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from torch import nn

from convcraft.cli.app import _run
from convcraft.errors import UserError
from convcraft.explain import catalogue
from convcraft.explain.catalogue import METHODS, Method
from convcraft.explain.centre_blob import centre_blob
from convcraft.explain.target_layer import maps_and_gradients
from convcraft.models.layer_head import LayerHead
from convcraft.models.lenet import LeNet5
from convcraft.report.explanation_content import overlay
from convcraft.training.run_folder import read_run
from convcraft.workflows import explain as workflow
from convcraft.workflows import explain_content, explain_request
from convcraft.workflows.explain import explain, heat_maps_for
from convcraft.workflows.explain_checks import CHECKS, MethodCheck, RememberedChecks
from convcraft.workflows.load_model import load_model

QUIET = Console(quiet=True)
KEYS = {"image", "class", "probability", "method", "layer", "trusted", "warning"}
PIXEL_METHODS = {name for name, method in METHODS.items() if not method.uses_layer}


def trained(folder: Path, *settings: str) -> Path:
    arguments = ["digits", "--model", "lenet5", "--epochs", "1", "--out", str(folder), "--quiet", "--device", "cpu"]
    assert _run(["train", *arguments, *settings]) == 0
    return folder


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Images of 64 pixels are no work for two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "digits 数字")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three digits as files, with names that mean something in HTML."""
    from sklearn.datasets import load_digits

    pixels = np.round(load_digits().images * 255 / 16).astype(np.uint8)
    folder = tmp_path_factory.mktemp("digits")
    files = [folder / f"<i>{index}&.png" for index in (0, 1, 2)]
    for index, file in enumerate(files):
        Image.fromarray(pixels[index]).save(file)
    return [str(file) for file in files]


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    """The run in a folder of its own, never explained before."""
    ignored = shutil.ignore_patterns(CHECKS, "explanation.html")
    return Path(shutil.copytree(run, tmp_path / "run", ignore=ignored))


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = _run(["explain", *arguments, "--device", "cpu"])
    out, err = capsys.readouterr()
    return code, out, err


def hashes(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("this was to be remembered")


def test_the_command_draws_a_page_and_leaves_the_run_as_it_was(
    copied: Path, digits: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = hashes(copied)
    code, out, _ = call(capsys, str(copied), *digits, "--json")
    values = json.loads(out.splitlines()[-1])
    assert code == 0
    assert values.keys() == {"run", "explanations", "page", "seconds"}
    assert [Path(entry["image"]).name for entry in values["explanations"]] == [Path(name).name for name in digits]
    for entry in values["explanations"]:
        assert entry.keys() == KEYS
        assert entry["method"] == "grad-cam"
        assert isinstance(entry["trusted"], bool)
        assert (entry["warning"] is None) == entry["trusted"]
        assert 0 < entry["probability"] <= 1
    page = (copied / "explanation.html").read_text(encoding="utf-8")
    assert re.search(r"on \d\d validation images that the network classifies correctly", page)
    after = hashes(copied)
    assert Path(values["page"]) == copied / "explanation.html"
    assert after.keys() - before.keys() == {CHECKS, "explanation.html"}
    assert {name: after[name] for name in before} == before


def test_the_answers_are_those_of_predict(run: Path, digits: list[str], tmp_path: Path) -> None:
    from convcraft.workflows.predict import How, predict

    result = explain(run, digits, check=False, num_neighbours=0, out=tmp_path / "a.html", device="cpu", console=QUIET)
    raw = load_model(read_run(run))[0]
    for entry, answer in zip(result.explanations, predict(run, digits, How(device="cpu")), strict=True):
        assert entry.class_name == answer.ranking[0][0]
        image = torch.from_numpy(read_run(run).preprocess(Path(entry.image)))[None]
        expected = torch.softmax(raw(image), dim=1).max().item()
        assert entry.probability == pytest.approx(expected, abs=1e-6)


def test_the_page_loads_nothing_and_shows_everything(run: Path, digits: list[str], tmp_path: Path) -> None:
    page = tmp_path / "new" / "why.html"
    settings: dict[str, Any] = {"num_neighbours": 3, "check": False, "device": "cpu", "console": QUIET}
    result = explain(run, digits[:2], methods=["all"], out=page, **settings)
    text = page.read_text(encoding="utf-8")
    drawn = [name for name in METHODS if name != "guided-backprop"]  # LeNet-5 has no ReLU
    assert "guided-backprop is left out" in text
    without_data = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.search(r"https?:|//|@import|<script|<link|<iframe|url\(", without_data)
    assert all(target.startswith(("data:", "#")) for target in re.findall(r'(?:src|href)="([^"]*)', text))
    assert "<i>0" not in text
    assert "&lt;i&gt;0&amp;.png" in text
    for number in (1, 2):
        section = re.search(rf'<section id="image-{number}">.*?</section>', text, re.DOTALL)
        assert section is not None
        assert all(f"<b>{name}</b>" in section[0] for name in drawn)
        assert section[0].count("distance 0.") == 3
        assert "as the network saw it" in section[0]
    assert "Nearest of all 1,295 training images" in text
    assert "linear-gradient" in text
    assert "prefers-color-scheme: dark" in text
    assert 'id="kernels"' in text
    assert [entry.method for entry in result.explanations] == [*drawn, *drawn]
    assert {entry.method for entry in result.explanations if entry.layer is None} == PIXEL_METHODS & set(drawn)


def test_a_png_is_a_grid_of_pictures_and_methods(run: Path, digits: list[str], tmp_path: Path) -> None:
    sheet = tmp_path / "why.png"
    for _ in range(2):  # an earlier sheet may be replaced
        methods = ["grad-cam", "occlusion"]
        explain(run, digits, methods=methods, check=False, out=sheet, device="cpu", console=QUIET)
    with Image.open(sheet) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 400
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 50


def test_a_class_that_was_asked_for_is_explained(
    run: Path, digits: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "why.html"
    arguments = [str(run), digits[0], "--class", "7", "--no-check", "--out", str(page), "--json"]
    code, out, err = call(capsys, *arguments)
    entry = json.loads(out.splitlines()[-1])["explanations"][0]
    assert code == 0
    assert (entry["class"], entry["trusted"], entry["warning"]) == ("7", None, None)
    assert "warning" not in err
    assert "The methods were not checked on this network." in page.read_text(encoding="utf-8")
    description = read_run(run)
    image = torch.from_numpy(description.preprocess(Path(digits[0])))[None]
    expected = torch.softmax(load_model(description)[0](image), dim=1)[0, 7].item()
    assert entry["probability"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--method", "gradcam"], ["gradcam", "grad-cam"]),
        (["--method", "occlusion", "--layer", "c3"], ["occlusion", "pixels"]),
        (["--layer", "c33"], ["c33", "c3"]),
        (["--class", "77"], ["77", "7"]),
        (["--out", "why.pdf"], [".html or .png"]),
        (["--neighbours", "-1"], ["neighbours"]),
        (["--device", "abacus"], ["abacus", "cpu"]),
    ],
)
def test_wrong_names_are_answered_with_close_ones(
    run: Path, digits: list[str], capsys: pytest.CaptureFixture[str], arguments: list[str], says: list[str]
) -> None:
    code = _run(["explain", str(run), digits[0], *arguments, "--json"])
    out, err = capsys.readouterr()
    assert code == 2
    assert all(word in err for word in says), err
    assert json.loads(out.splitlines()[-1]).keys() == {"error"}


def test_pictures_that_cannot_be_read_are_named(run: Path, digits: list[str], tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"<html>")
    with pytest.raises(UserError, match=r"bad\.png"):
        explain(run, [digits[0], str(tmp_path / "bad.png")], device="cpu", console=QUIET)
    with pytest.raises(UserError, match=r"Did you mean bad\.png"):
        explain(run, [str(tmp_path / "bda.png")], device="cpu", console=QUIET)
    with pytest.raises(UserError, match="no file"):
        explain(run, ["x" * 5000], device="cpu", console=QUIET)
    for number in range(101):
        shutil.copy(digits[0], tmp_path / f"{number}.png")
    with pytest.raises(UserError, match="at most 100"):
        explain(run, [str(tmp_path)], device="cpu", console=QUIET)


@pytest.mark.parametrize("name", ["mine.html", "mine.png"])
def test_a_file_of_someone_else_is_not_overwritten(run: Path, digits: list[str], tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(UserError, match="did not write"):
        explain(run, digits, out=tmp_path / name, device="cpu", console=QUIET)
    assert (tmp_path / name).read_text() == "precious"


def test_the_second_call_remembers_what_the_checks_found(
    copied: Path, digits: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"out": tmp_path / "a.html", "num_neighbours": 0, "device": "cpu", "console": QUIET}
    first = explain(copied, digits, **settings)
    entries = json.loads((copied / CHECKS).read_text())["checks"]
    [key] = entries
    assert key.split() == [read_weights_sha256(copied), "grad-cam", "s4", "seed", "0", "steps", "10"]
    with monkeypatch.context() as patch:
        patch.setattr(workflow, "run_check", refuse)
        patch.setattr(workflow, "open_run_data", refuse)
        again = explain(copied, digits, **settings)
        with pytest.raises(AssertionError, match="remembered"):
            explain(copied, digits, seed=1, **settings)
    assert again.explanations == first.explanations
    (copied / CHECKS).write_text("{")  # damaged: checked again, and whole afterwards
    assert explain(copied, digits, **settings).explanations == first.explanations
    assert json.loads((copied / CHECKS).read_text())["checks"] == entries


def read_weights_sha256(run: Path) -> str:
    return str(json.loads((run / "summary.json").read_text())["weights_sha256"])


def test_checks_are_those_of_the_same_weights_method_layer_and_seed(tmp_path: Path) -> None:
    found = MethodCheck("trusted", "Fine.", "24 validation images", 0.9, (0.7, 0.97), 0.1)
    RememberedChecks(tmp_path, "aa").add("grad-cam", "c3", 0, found)
    RememberedChecks(tmp_path, "bb").add("grad-cam", "c3", 0, found)
    remembered = RememberedChecks(tmp_path, "aa")
    assert remembered.find("grad-cam", "c3", 0) == found
    others = [("grad-cam", None, 0), ("grad-cam", "c3", 1), ("layer-cam", "c3", 0)]
    assert [remembered.find(*other) for other in others] == [None] * 3
    assert RememberedChecks(tmp_path, "cc").find("grad-cam", "c3", 0) is None
    content = json.loads((tmp_path / CHECKS).read_text())
    (tmp_path / CHECKS).write_text(json.dumps({**content, "version": "0.0.0"}))
    assert remembered.find("grad-cam", "c3", 0) is None


def test_a_method_that_knows_nothing_of_the_network_is_shown_with_a_warning(
    copied: Path, digits: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def blob(model: nn.Module, images: torch.Tensor, targets: torch.Tensor, layer: None) -> NDArray[np.float32]:
        return centre_blob(model, images, targets)

    methods = {**METHODS, "blob": Method(blob, "the middle", False)}
    for module in (catalogue, workflow, explain_request, explain_content):
        monkeypatch.setattr(module, "METHODS", methods)
    code, out, err = call(capsys, str(copied), digits[0], "--method", "blob", "--json")
    entry = json.loads(out.splitlines()[-1])["explanations"][0]
    assert code == 0
    assert "warning: blob: Do not believe these maps" in " ".join(err.split())
    assert entry["trusted"] is False
    assert "random weights" in entry["warning"]
    page = (copied / "explanation.html").read_text(encoding="utf-8")
    assert page.count("Do not believe: it looks much the same with random weights.") == 2  # above, and under the map
    code, _, err = call(capsys, str(copied), digits[0], "--method", "blob", "--quiet")
    assert (code, err) == (0, "")


@pytest.mark.parametrize("change", ["gone", "changed"])
def test_without_its_data_methods_are_checked_on_the_given_pictures(
    copied: Path, digits: list[str], change: str
) -> None:
    if change == "gone":
        settings = (copied / "config.yaml").read_text().replace("source: digits", "source: nowhere/at/all")
        (copied / "config.yaml").write_text(settings)
        reason = "cannot be opened"
    else:
        data = json.loads((copied / "data.json").read_text())
        data["sha256"]["train"] = "0" * 64
        (copied / "data.json").write_text(json.dumps(data))
        reason = "have changed since the run was trained"
    result = explain(copied, digits, device="cpu", console=QUIET)
    page = result.page.read_text(encoding="utf-8")
    assert reason in page
    assert "on the 3 given pictures alone" in page
    assert "distance 0." not in page
    assert not result.explanations[0].trusted  # three pictures prove nothing
    assert not (copied / CHECKS).exists()


def test_a_classifier_that_reads_several_layers_is_explained(tmp_path: Path, digits: list[str]) -> None:
    tapped = ["--set", "model.tapped_layers=[s2,c3]", "--set", "model.num_tapped_features=60"]
    run = trained(tmp_path / "tapped", *tapped)
    settings: dict[str, Any] = {"num_neighbours": 2, "device": "cpu", "console": QUIET}
    result = explain(run, digits, methods=["grad-cam", "layer-cam"], layer="c3", check=False, **settings)
    assert {entry.layer for entry in result.explanations} == {"network.c3"}
    page = result.page.read_text(encoding="utf-8")
    assert "The classifier also reads network.s2, network.c3" in page
    assert page.count("distance 0.") == 2 * len(digits)


def test_the_gradient_of_a_tapped_layer_counts_what_the_classifier_reads_of_it() -> None:
    torch.manual_seed(0)
    model = LayerHead(LeNet5(10, 1, (28, 28), 0.0), ("s2",), 90, 10).eval()
    images, targets = torch.randn(2, 1, 28, 28), torch.tensor([1, 2])
    _, gradients = maps_and_gradients(model, images, targets, "network.s2")
    net: Any = model.network
    leaf = net.s2(net.act1(net.c1(images))).detach().requires_grad_()
    hidden = net.act5(net.c5(net.s4(net.act3(net.c3(leaf))).flatten(1)))
    columns = torch.cat([leaf.mean((2, 3)), net.act6(net.f6(hidden))], dim=1)
    scores = model.classifier(columns[:, :90]).gather(1, targets[:, None])
    torch.testing.assert_close(gradients, torch.autograd.grad(scores.sum(), leaf)[0], rtol=0, atol=1e-7)


def test_a_run_of_the_numpy_engine_is_explained(tmp_path: Path, digits: list[str]) -> None:
    run = tmp_path / "numpy"
    assert _run(["scratch", "train", "digits", "--epochs", "1", "--out", str(run), "--quiet"]) == 0
    methods = ["grad-cam", "occlusion"]
    result = explain(run, digits, methods=methods, num_neighbours=1, device="cpu", console=QUIET)
    assert [entry.method for entry in result.explanations] == methods * 3
    assert all(entry.trusted is not None for entry in result.explanations)


def test_all_leaves_out_what_cannot_run_here_and_a_name_is_refused(
    run: Path, digits: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Flat(nn.Module):
        """No convolution, no ReLU: neither class activation maps nor guided backpropagation can be drawn."""

        def __init__(self) -> None:
            super().__init__()
            self.classifier = nn.Linear(64, 10)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.classifier(images.flatten(1))
            return logits

    monkeypatch.setattr(workflow, "load_model", lambda run: (Flat().eval(), load_model(run)[1]))
    settings: dict[str, Any] = {"out": tmp_path / "a.html", "check": False, "device": "cpu", "console": QUIET}
    result = explain(run, digits[:1], methods=["all"], **settings)
    assert [entry.method for entry in result.explanations] == ["integrated-gradients", "smooth-grad", "occlusion"]
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "grad-cam is left out" in page
    assert 'id="kernels"' not in page
    with pytest.raises(UserError, match="map"):
        explain(run, digits[:1], methods=["grad-cam"], **settings)


@pytest.mark.parametrize("method", ["grad-cam", "smooth-grad"])
def test_heat_maps_for_many_images_are_those_of_the_method(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)]
    model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(8, 3)).train()
    images, targets = torch.randn(5, 3, 16, 16), torch.tensor([0, 1, 2, 0, 1])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    monkeypatch.setattr(workflow, "LARGEST_BATCH", 2)
    heat = heat_maps_for(model, images, targets, method, seed=5)
    settings = {"seed": 5} if method == "smooth-grad" else {}
    expected = np.concatenate(
        [METHODS[method](model, images[i : i + 2], targets[i : i + 2], **settings) for i in (0, 2, 4)]
    )
    np.testing.assert_array_equal(heat, expected)
    assert heat.dtype == np.float32
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_an_overlay_is_grey_beneath_and_coloured_by_heat() -> None:
    pixels = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    coloured = overlay(pixels, np.array([[0.0, 1.0]], np.float32)).astype(float)
    cold, hot = (255 * np.array(matplotlib.colormaps["viridis"](heat)[:3]) for heat in (0.0, 1.0))
    np.testing.assert_allclose(coloured[0, 0], 0.35 * 40 + 0.65 * cold, atol=0.51)
    np.testing.assert_allclose(coloured[0, 1], 0.35 * 215 + 0.65 * hot, atol=0.51)
