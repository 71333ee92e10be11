"""Checkpoints: whole or not at all; any damage is found and the older one is used (reliability plan T2, T3)."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from convcraft.errors import UserError
from convcraft.training import checkpoint as checkpoint_module
from convcraft.training.checkpoint import (
    Checkpoint,
    DamagedCheckpoint,
    folder_name,
    load_checkpoint,
    load_newest,
    save_checkpoint,
    saved_checkpoints,
    set_aside_newer,
)


def make(step: int, best: str | None = None) -> Checkpoint:
    torch.manual_seed(step)
    tensors = {
        "model": {"weight": torch.randn(4, 3), "count": torch.tensor(step)},
        "optimizer": {"0/m": torch.randn(4)},
    }
    return Checkpoint(tensors, {"step": step, "epoch": step // 10, "best_checkpoint": best, "text": "größe 照片"})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    for step in (10, 20):
        save_checkpoint(tmp_path, make(step), keep=3)
    return tmp_path


def newest_folder(checkpoints: Path) -> Path:
    return saved_checkpoints(checkpoints)[0]


def test_what_is_saved_comes_back(saved: Path) -> None:
    loaded, problems = load_newest(saved)
    assert problems == []
    assert loaded.state == make(20).state
    for stem, tensors in make(20).tensors.items():
        for name, tensor in tensors.items():
            assert torch.equal(loaded.tensors[stem][name], tensor)
    assert json.loads((saved / "latest.json").read_text()) == {"folder": folder_name(20, 2)}


def _damage_everywhere(folder: Path) -> list[tuple[str, Callable[[], object]]]:
    """Every kind of damage of plan T2: 50 cuts, 200 bit flips, each file missing or empty."""
    files = sorted(folder.iterdir())
    draw = random.Random(0)
    damages: list[tuple[str, Callable[[], object]]] = []
    for _ in range(50):
        file = draw.choice(files)
        length = draw.randrange(file.stat().st_size)
        damages.append((f"{file.name} cut to {length}", lambda f=file, n=length: os.truncate(f, n)))
    for _ in range(200):
        file = draw.choice(files)
        place, bit = draw.randrange(file.stat().st_size), draw.randrange(8)

        def flip(f: Path = file, p: int = place, b: int = bit) -> None:
            data = bytearray(f.read_bytes())
            data[p] ^= 1 << b
            f.write_bytes(data)

        damages.append((f"{file.name} byte {place} bit {bit}", flip))
    for file in files:
        damages.append((f"{file.name} missing", file.unlink))
        damages.append((f"{file.name} empty", lambda f=file: f.write_bytes(b"")))
        damages.append((f"{file.name} longer", lambda f=file: f.write_bytes(f.read_bytes() + b"\0")))
    return damages


def test_every_damage_to_the_newest_is_found_and_the_older_one_used(saved: Path) -> None:
    newest = newest_folder(saved)
    intact = saved.parent / "intact"
    shutil.copytree(newest, intact)
    undetected = []
    for what, damage in _damage_everywhere(newest):
        damage()
        loaded, problems = load_newest(saved)
        if loaded.state["step"] != 10 or len(problems) != 1:
            undetected.append(what)
        shutil.rmtree(newest)
        shutil.copytree(intact, newest)
    assert undetected == []


@pytest.mark.parametrize("content", ["", "{", '{"folder": "step-00000099-epoch-0001"}', '{"folder": "../../etc"}'])
def test_an_empty_or_stale_latest_does_not_mislead(saved: Path, content: str) -> None:
    (saved / "latest.json").write_text(content)
    assert load_newest(saved)[0].state["step"] == 20
    (saved / "latest.json").unlink()
    assert load_newest(saved)[0].state["step"] == 20


def test_a_folder_put_under_another_name_is_refused(saved: Path) -> None:
    newest_folder(saved).rename(saved / folder_name(99, 9))
    loaded, problems = load_newest(saved)
    assert loaded.state["step"] == 10
    assert "another checkpoint" in problems[0]


def test_a_manifest_cannot_reach_out_of_its_folder(saved: Path) -> None:
    (saved / "outside.safetensors").write_bytes(b"x")
    manifest = newest_folder(saved) / "manifest.json"
    value = json.loads(manifest.read_text())
    del value["sha256"]
    value["files"]["../outside.safetensors"] = {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    manifest.write_bytes(checkpoint_module._sealed(value))
    with pytest.raises(DamagedCheckpoint, match="other files"):
        load_checkpoint(newest_folder(saved))


def test_nothing_usable_is_said(saved: Path) -> None:
    for folder in saved_checkpoints(saved):
        (folder / "state.json").unlink()
    with pytest.raises(UserError, match=r"state\.json"):
        load_newest(saved)
    with pytest.raises(UserError, match="no usable checkpoint"):
        load_newest(saved / "nowhere")


def test_old_ones_go_but_the_best_stays(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, make(10), keep=2)
    best = folder_name(10, 1)
    for step in (20, 30, 40, 50):
        save_checkpoint(tmp_path, make(step, best), keep=2)
    names = {folder.name for folder in saved_checkpoints(tmp_path)}
    assert names == {best, folder_name(40, 4), folder_name(50, 5)}


def test_damaged_ones_set_aside_do_not_push_out_good_ones(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        save_checkpoint(tmp_path, make(step), keep=4)
    for folder in saved_checkpoints(tmp_path)[:3]:
        (folder / "state.json").write_bytes(b"damaged")
    good, problems = load_newest(tmp_path)
    assert len(problems) == 3
    set_aside_newer(tmp_path, good.name)
    save_checkpoint(tmp_path, make(12), keep=1)
    assert load_newest(tmp_path)[0].name == folder_name(12, 1)
    assert len(list(tmp_path.glob("damaged-*"))) == 3


@pytest.mark.parametrize("stage", ["write", "fsync", "rename"])
def test_a_disk_that_refuses_leaves_older_ones_intact(saved: Path, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if stage == "write":
            patch.setattr(checkpoint_module, "write_durably", refuse)
        elif stage == "fsync":
            patch.setattr(os, "fsync", refuse)
        else:
            patch.setattr(Path, "rename", refuse)
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint(saved, make(30), keep=1)
    assert load_newest(saved)[0].state["step"] == 20
    save_checkpoint(saved, make(30), keep=1)
    assert [folder.name for folder in saved_checkpoints(saved)] == [folder_name(30, 3)]
    assert not list(saved.glob("*.tmp"))


def test_a_draft_left_by_a_kill_is_not_taken_for_a_checkpoint(saved: Path) -> None:
    shutil.copytree(newest_folder(saved), saved / (folder_name(30, 3) + ".tmp"))
    assert load_newest(saved)[0].state["step"] == 20
