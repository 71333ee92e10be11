"""The doctor names what is wrong with data and settings, and draws what training sees."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from convcraft.cli.app import _run
from convcraft.config import AugmentConfig, RunConfig
from convcraft.data import folder_index
from convcraft.data.augment import Augmenter
from convcraft.data.augment_checks import augmentation_findings
from convcraft.data.augment_kinds import KINDS
from convcraft.data.dataset import prepare_training_data
from convcraft.data.preprocess import Preprocess
from convcraft.data.scan import scan_images
from convcraft.errors import UserError
from convcraft.models.cards import Card
from convcraft.models.pretrained import Pretrained
from convcraft.report.augment_sheet import SheetRow, draw_sheet, refuse_foreign_file, save_sheet
from convcraft.workflows import preview, weights_card
from convcraft.workflows.choose_config import choose_config
from convcraft.workflows.console import make_console
from convcraft.workflows.doctor import doctor

DIGITS = tuple("0123456789")
PHOTOS = ("ants", "bees")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of 20 pictures of coloured blobs, 40 x 32."""
    random = np.random.default_rng(0)
    for name in PHOTOS:
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(20):
            blobs = Image.fromarray(random.integers(0, 256, (5, 4, 3), dtype=np.uint8))
            blobs.resize((32, 40), Image.Resampling.BILINEAR).save(tmp_path / "data" / name / f"{index}.png")
    return tmp_path / "data"


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, the JSON of the last line, and everything on standard output before it."""
    code = _run(["doctor", *arguments, "--json", "--quiet"])
    lines = capsys.readouterr().out.splitlines()
    return code, json.loads(lines[-1]), "\n".join(lines[:-1])


# --- findings ---


def test_clean_data_and_settings_give_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer, text = command(capsys, str(folder))
    assert code == 0
    assert answer["findings"] == []
    assert answer["preview"] is None
    seen, counts = text.splitlines()
    assert seen.startswith("The 8 test images were opened to look for damage and for copies")
    assert counts == "data: 0 error, 0 warning, 0 info"


def test_findings_have_the_agreed_shape_and_errors_decide_the_exit_code(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(folder / "ants" / "1.png", folder / "ants" / "copy.png")
    code, answer, _ = command(capsys, str(folder))
    assert code == 0
    (finding,) = answer["findings"]
    assert set(finding) == {"kind", "severity", "files", "message", "fix"}
    assert (finding["kind"], finding["severity"]) == ("exact_duplicate", "info")
    assert finding["files"] == ["ants/1.png", "ants/copy.png"]

    for index in range(3):  # far over the 1 % that stops training: here it is a finding, not a refusal
        (folder / "bees" / f"bad{index}.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    code, answer, text = command(capsys, str(folder))
    assert code == 1
    assert [finding["severity"] for finding in answer["findings"]] == ["error", "info"]
    assert answer["findings"][0]["kind"] == "unreadable"
    assert answer["findings"][0]["files"] == ["bees/bad0.png", "bees/bad1.png", "bees/bad2.png"]
    assert text.splitlines()[0].startswith("error    unreadable")


def test_data_that_are_not_there_are_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    code, answer, _ = command(capsys, "no/such/folder")
    assert code == 2
    assert set(answer["error"]) == {"received", "expected", "fix"}
    assert command(capsys)[0] == 2
    assert command(capsys, "digits", "--out", "x.png")[0] == 2


def test_flips_of_digits_are_warned_of_and_the_digit_recipes_have_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(capsys, "digits")[1]["findings"] == []
    code, answer, _ = command(capsys, "digits", "--set", "augment.horizontal_flip=true")
    assert code == 0
    (finding,) = answer["findings"]
    assert (finding["kind"], finding["severity"]) == ("settings", "warning")
    assert "augment.horizontal_flip=false" in finding["fix"]


def checked(classes: tuple[str, ...], channels: int = 3, side: int = 64, **settings: Any) -> list[str]:
    contract = Preprocess(height=side, width=side, channels=channels)
    found = list(augmentation_findings(AugmentConfig(**settings), contract, classes))
    assert all((finding.kind, finding.severity) == ("settings", "warning") for finding in found)
    return [finding.message for finding in found]


@pytest.mark.parametrize(
    ("classes", "settings", "word"),
    [
        (DIGITS, {"horizontal_flip": True}, "digits or letters"),
        (("A", "b", "c"), {"vertical_flip": True}, "digits or letters"),
        (("Left hand", "right_hand"), {"horizontal_flip": True}, "left into right"),
        (("arrow-up", "arrow-down"), {"vertical_flip": True}, "down into up"),
        (DIGITS, {"rotation_degrees": 120.0}, "6 and 9"),
        (DIGITS, {"policy": "trivial_augment"}, "6 and 9"),
        (PHOTOS, {"flip_mode": "alternate"}, "does nothing"),
        (PHOTOS, {"crop_padding_pixels": 40}, "out of sight"),
    ],
    ids=lambda value: str(value),
)
def test_harmful_settings_are_named_once(classes: tuple[str, ...], settings: dict[str, Any], word: str) -> None:
    (message,) = checked(classes, **settings)
    assert word in message


def test_settings_that_do_nothing_or_too_much_for_these_images() -> None:
    assert len(checked(PHOTOS, channels=1, saturation=0.5, hue=0.1)) == 2
    assert len(checked(PHOTOS, channels=3, saturation=0.5, hue=0.1)) == 0
    assert len(checked(PHOTOS, side=28, policy="trivial_augment")) == 1


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_no_kind_is_warned_of_on_photos(kind: Any) -> None:
    assert checked(PHOTOS, side=224, **kind.example) == []
    assert checked(("leftover", "copyright"), horizontal_flip=True) == []  # words, not parts of words


def test_training_looks_at_no_image_that_the_doctor_has_seen(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although one was given a path relative to the working folder, and the other the whole path."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(folder_index, "WORTH_INDEXING", 1)
    looked_at: list[str] = []

    def noted(samples: Any, **options: Any) -> Any:
        looked_at.extend(sample.source for sample in samples)
        return scan_images(samples, **options)

    monkeypatch.setattr(folder_index, "scan_images", noted)
    monkeypatch.chdir(folder.parent)
    doctor(RunConfig().changed(data={"source": folder.name}), console=make_console(quiet=True))
    assert len(looked_at) == 40
    config = RunConfig().changed(data={"source": str(folder)})
    prepare_training_data(config.data, config.preprocess)
    assert len(looked_at) == 40
    assert len(list((tmp_path / "cache").rglob("*.index"))) == 1


def test_the_card_of_the_weights_counts_as_in_training(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card("lenet5", 2, {}, (1, 12, 10), (0.5,), (0.25,), "bilinear", 1.0, None)
    found = Pretrained(Path("some.safetensors"), "here", card, "lenet5")
    monkeypatch.setattr(weights_card, "resolve_pretrained", lambda network, weights: found)
    seen: list[Preprocess] = []
    monkeypatch.setattr("convcraft.workflows.doctor.CHECKS", (lambda config, data: seen.append(data.preprocess) or (),))
    config = RunConfig().changed(data={"source": str(folder)}, model={"weights": "some.safetensors"})
    doctor(config, console=make_console(quiet=True))
    (contract,) = seen
    assert (contract.height, contract.width, contract.channels) == (12, 10, 1)
    assert (contract.mean, contract.std) == ((0.5,), (0.25,))


# --- preview ---


def test_preview_shows_what_training_sees(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows as they are, per kind that is on, and all together; each the augmenter's own output for epoch 0."""
    settings = ["augment.horizontal_flip=true", "augment.brightness=0.3", "augment.shift_fraction=0.1"]
    none: dict[str, Any] = {}
    config = choose_config(
        str(folder),
        None,
        None,
        data_settings=none,
        preprocess_settings=none,
        model_settings=none,
        optim_settings=none,
        training_settings={"seed": 5},
        assignments=[*settings, "augment.contrast=0"],
    )
    sheets = []
    monkeypatch.setattr(preview, "draw_sheet", lambda *parts: sheets.append(parts) or draw_sheet(*parts))
    diagnosis = doctor(config, preview=tmp_path / "sheet.png", console=make_console(quiet=True))
    assert diagnosis.preview == tmp_path / "sheet.png"
    ((heading, columns, rows),) = sheets
    assert "seed 5" in heading
    assert columns == ["ants", "bees"] * 4
    assert [row.title for row in rows] == [
        "as they are",
        "translation",
        "horizontal flip",
        "brightness",
        "all together",
    ]
    assert rows[1].setting == "shift_fraction 0.1"

    data = prepare_training_data(config.data, config.preprocess)
    place = {data.train.pixels_of(np.array([index]))[0].tobytes(): index for index in range(len(data.train))}
    ids = np.array([place[image.tobytes()] for image in rows[0].images])
    augmenter = Augmenter(config.augment, data.preprocess, 2, 5)
    seen, _ = augmenter(torch.from_numpy(rows[0].images), torch.from_numpy(data.train.targets[ids]), ids, 0)
    contract = data.preprocess
    levels = (seen.permute(0, 2, 3, 1).numpy() * contract.std + np.array(contract.mean)) * 255
    assert np.abs(levels - rows[-1].images).max() <= 0.51


def test_preview_replays_by_seed(folder: Path, tmp_path: Path) -> None:
    made = {}
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        arguments = [str(folder), "--preview", "--out", str(tmp_path / f"{name}.png"), "--seed", seed, "--quiet"]
        assert _run(["doctor", *arguments]) == 0
        made[name] = (tmp_path / f"{name}.png").read_bytes()
    assert made["a"] == made["b"]
    assert made["a"] != made["c"]


def test_preview_of_everything_has_a_row_per_kind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    titles: dict[str, list[str]] = {}
    for name in ("digits", "colour"):
        rows: list[SheetRow] = []
        monkeypatch.setattr(
            preview, "draw_sheet", lambda _h, _c, drawn, rows=rows: rows.extend(drawn) or Image.new("RGB", (1, 1))
        )
        source = str(folder) if name == "colour" else name
        config = RunConfig().changed(augment={"noise_std": 0.1}, data={"source": source})
        data = prepare_training_data(config.data, config.preprocess)
        preview.draw_preview(config, data, every_kind=True)
        titles[name] = [row.title for row in rows]
        plain = rows[0].images.astype(int)
        for row in rows[1:]:
            assert row.images.shape == plain.shape
            assert np.abs(row.images - plain).max() > 0, row.title
            assert bool(row.captions) == row.title.startswith(("MixUp", "CutMix"))
    assert titles["colour"] == [
        "as they are",
        *(kind.name + ("" if kind.name == "noise" else " (off)") for kind in KINDS),
        "all together",
    ]
    assert set(titles["colour"]) - set(titles["digits"]) == {"saturation (off)", "hue (off)"}


def test_only_an_earlier_sheet_is_overwritten(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo, text, sheet = tmp_path / "photo.png", tmp_path / "notes.png", tmp_path / "sheet.png"
    Image.new("RGB", (4, 4)).save(photo)
    text.write_text("not a picture")
    for path in (photo, text, tmp_path / "sheet.jpg"):
        before = path.read_bytes() if path.exists() else None
        assert command(capsys, str(folder), "--preview", "--out", str(path))[0] == 2
        assert (path.read_bytes() if path.exists() else None) == before
    for _ in range(2):
        assert command(capsys, str(folder), "--preview", "--out", str(sheet))[1]["preview"] == str(sheet)
    with Image.open(sheet) as picture:
        assert picture.format == "PNG"


# --- the sheet ---


def test_sheet_shows_images_pixel_for_pixel(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 20, 1), dtype=np.uint8)
    sheet = draw_sheet("heading", ["0", "1", "2"], [SheetRow("row", "setting 1", pixels)])
    enlarged = np.repeat(np.repeat(pixels[0, ..., 0], 4, axis=0), 4, axis=1)  # 28 rows become 112
    drawn = np.asarray(sheet.convert("L"))
    windows = np.lib.stride_tricks.sliding_window_view(drawn, enlarged.shape)
    assert any((window == enlarged).all() for row in windows[60:90] for window in row[240:280])
    save_sheet(sheet, tmp_path / "new" / "sheet.png")
    refuse_foreign_file(tmp_path / "new" / "sheet.png")


def test_sheet_takes_any_text_and_size() -> None:
    photo = np.zeros((2, 300, 500, 3), dtype=np.uint8)
    row = SheetRow("MixUp", "a long setting " * 20, photo, (("60% 猫", "40% dog"), ("100% \ud800",)))
    sheet = draw_sheet("中文 \n heading" * 30, ["猫\u202e", "x" * 200], [row, row])
    assert sheet.width < 700
    assert sheet.height < 420


def test_a_sheet_is_refused_under_another_ending(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="png"):
        refuse_foreign_file(tmp_path / "sheet.txt")
