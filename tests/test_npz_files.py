"""What evaluate keeps as .npz: the same bytes each time, and a plain message where a byte has changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convcraft.errors import UserError
from convcraft.evaluation.npz_files import load_npz, npz_bytes

ARRAYS = {"logits": np.arange(12, dtype=np.float32).reshape(4, 3), "names": np.array(["ant", "bee"])}


def test_arrays_come_back_and_bytes_are_the_same(tmp_path: Path) -> None:
    content = npz_bytes(ARRAYS)
    assert content == npz_bytes(dict(ARRAYS))
    (tmp_path / "a.npz").write_bytes(content)
    back = load_npz(tmp_path / "a.npz")
    assert list(back) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].dtype == array.dtype


def test_every_changed_byte_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    content, path, refused = npz_bytes(ARRAYS), tmp_path / "a.npz", 0
    for place in range(len(content)):
        for value in (content[place] ^ 1, content[place] ^ 255):
            path.write_bytes(content[:place] + bytes([value]) + content[place + 1 :])
            try:
                back = load_npz(path)
            except UserError:
                refused += 1
            else:
                for name in back.keys() & ARRAYS.keys():
                    np.testing.assert_array_equal(back[name], ARRAYS[name])
    assert refused > len(content)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.npz(.|\n)*convcraft evaluate RUN"):
        load_npz(tmp_path / "absent.npz")
