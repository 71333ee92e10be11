"""Test-time augmentation: the mean over views, and its gain by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from convcraft.errors import UserError
from convcraft.evaluation.judged_images import JudgedImages
from convcraft.evaluation.moves import rotated
from convcraft.evaluation.test_time import (
    View,
    crop_views,
    flip_view,
    mean_over_views,
    rotation_views,
    shift_views,
    view_gain,
)
from convcraft.statistics import paired_difference_interval

Pixels = NDArray[np.uint8]


def by_first_column(pixels: Pixels) -> NDArray[np.float32]:
    """Probability of class 1: the mean level of the first column."""
    share = pixels[:, :, 0].mean(axis=(1, 2)) / 255
    return np.stack([1 - share, share], axis=1).astype(np.float32)


def images_of(columns: list[list[int]], targets: list[int]) -> JudgedImages:
    """Images 3 pixels high whose columns have these levels."""
    pixels = np.array(columns, np.uint8)[:, None, :, None].repeat(3, axis=1)
    return JudgedImages.of(pixels, np.array(targets))


def test_the_mean_is_of_the_plain_image_and_its_views() -> None:
    images = images_of([[51, 102, 255], [0, 0, 204]], [1, 0])
    mean = mean_over_views(by_first_column, images.pixels, [flip_view()])
    np.testing.assert_allclose(mean[:, 1], [(0.2 + 1) / 2, 0.4], atol=1e-6)
    np.testing.assert_allclose(mean.sum(axis=1), 1, atol=1e-6)
    shifts = shift_views(1)  # up and down change nothing, left shows 102, right repeats the edge
    mean = mean_over_views(by_first_column, images.pixels, shifts)
    np.testing.assert_allclose(mean[0, 1], (0.2 * 4 + 0.4) / 5, atol=1e-6)
    assert np.array_equal(mean_over_views(by_first_column, images.pixels, []), by_first_column(images.pixels))


def test_the_gain_is_paired_and_by_hand() -> None:
    """Plain: wrong, right, right, right; with the mirrored view: right, right, right, wrong."""
    images = images_of([[51, 0, 255], [255, 0, 255], [0, 9, 0], [204, 0, 0]], [1, 1, 0, 1])
    calls = []
    found = view_gain(by_first_column, images, [flip_view()], lambda *call: calls.append(call))
    assert (found.gain.before, found.gain.after, found.gain.gain) == (0.75, 0.75, 0.0)
    expected = paired_difference_interval([False, True, True, True], [True, True, True, False])
    assert found.gain.interval == expected
    assert found.gain.p_value == 1
    assert not found.gain.is_sure
    assert found.views == ("mirrored",)
    assert calls == [(1, 1, "views")]
    assert json.loads(json.dumps(found.to_dict()))["num_images"] == 4


def test_a_gain_on_many_images_is_sure() -> None:
    images = images_of([[51, 0, 255]] * 40, [1] * 40)
    found = view_gain(by_first_column, images, [flip_view()])
    assert found.gain.gain == 1
    assert found.gain.is_sure
    assert found.gain.p_value < 1e-9


def test_views_by_name_show_what_they_say() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    views = {view.name: view.change(pixels) for view in (*shift_views(2), *rotation_views(10), *crop_views(0.5))}
    assert np.array_equal(views["2 px left"][:, :, :-2], pixels[:, :, 2:])
    assert np.array_equal(views["2 px down"][:, 2:], pixels[:, :-2])
    assert np.array_equal(views["turned +10°"], rotated(pixels, 10))
    corner = views["bottom right crop"].astype(int)  # enlarged twice: its corners are the corners of the quarter
    assert np.abs(corner[:, -1, -1] - pixels[:, -1, -1]).max() <= 1
    assert np.abs(views["centre crop"].mean() - pixels[:, 4:12, 4:12].mean()) < 8
    assert len(views) == 4 + 2 + 5


def test_what_is_no_view_is_refused() -> None:
    images = images_of([[1, 2, 3]], [0])
    for change in (lambda x: x[:, :2], lambda x: x / 2):
        with pytest.raises(UserError, match="view 'odd'"):
            view_gain(by_first_column, images, [View("odd", change)])
    with pytest.raises(UserError, match="no views"):
        view_gain(by_first_column, images, [])
    for make, value in ((shift_views, 0), (rotation_views, 0), (crop_views, 1), (crop_views, 0)):
        with pytest.raises(UserError):
            make(value)
