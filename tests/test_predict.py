"""Which pictures `predict` takes, and by which names it answers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convcraft.data.given_pictures import open_pictures
from convcraft.errors import UserError


def test_names_that_are_no_utf_8_are_read_and_can_be_printed(tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/gr\xfc\xdfe.png"
    try:
        Path(os.fsdecode(odd)).touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(os.fsdecode(odd), "PNG")
    for given in (str(tmp_path), os.fsdecode(odd)):
        [(name, path)] = open_pictures([given])
        assert name == f"{tmp_path}/gr\ufffd\ufffde.png"
        assert isinstance(path, Path)
        assert path.read_bytes().startswith(b"\x89PNG")
        name.encode("utf-8")


@pytest.mark.parametrize("name", ["absent.png", "x" * 5000, "zero\0byte.png", "gr\udcfc.png"])
def test_what_is_not_there_is_said_in_printable_words(name: str) -> None:
    with pytest.raises(UserError) as caught:
        open_pictures([name])
    assert "no file" in str(caught.value)
    str(caught.value).encode("utf-8")
