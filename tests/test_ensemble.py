"""Ensembles: the mean of probabilities, and the gain over the member that validation chose."""

from __future__ import annotations

import json

import numpy as np
import pytest

from convcraft.errors import UserError
from convcraft.evaluation.ensemble import ensemble_gain, mean_predictions
from convcraft.evaluation.predictions import Predictions
from convcraft.statistics import mcnemar_exact, paired_difference_interval

CLASSES = ("ant", "bee")


def said(of_bee: list[float], targets: list[int] | None, classes: tuple[str, ...] = CLASSES) -> Predictions:
    share = np.array(of_bee, np.float32)
    names = tuple(f"{number}.jpg" for number in range(len(of_bee)))
    return Predictions(
        classes, np.stack([1 - share, share], axis=1), None if targets is None else np.array(targets), names
    )


def test_the_mean_is_of_probabilities() -> None:
    together = mean_predictions([said([0.9, 0.2], [1, 1]), said([0.4, 0.1], [1, 1]), said([0.2, 0.9], [1, 1])])
    np.testing.assert_allclose(together.probabilities[:, 1], [0.5, 0.4], atol=1e-6)
    assert together.classes == CLASSES
    assert together.targets.tolist() == [1, 1]
    unlabelled = mean_predictions([said([0.9], None), said([0.7], None)])
    assert unlabelled.targets is None
    assert unlabelled.probabilities[0, 1] == pytest.approx(0.8)


def test_the_gain_is_over_the_member_that_validation_chose() -> None:
    """b is best on test images, a on validation images: the ensemble is compared with a."""
    targets = [1, 1, 0, 0]
    validation = {"a": said([0.9, 0.9, 0.1, 0.1], targets), "b": said([0.9, 0.1, 0.1, 0.1], targets)}
    test = {"a": said([0.9, 0.4, 0.6, 0.1], targets), "b": said([0.9, 0.9, 0.1, 0.8], targets)}
    found = ensemble_gain(validation, test)
    assert found.best == "a"
    assert found.validation_accuracy == {"a": 1.0, "b": 0.75}
    assert found.test_accuracy == {"a": 0.5, "b": 0.75}
    # The mean: 0.9, 0.65, 0.35, 0.45: all right.
    assert (found.gain.before, found.gain.after, found.gain.gain) == (0.5, 1.0, 0.5)
    right = [True, False, False, True], [True] * 4
    assert found.gain.interval == paired_difference_interval(*right)
    assert found.gain.p_value == mcnemar_exact(*right).p_value == 0.5
    assert json.loads(json.dumps(found.to_dict()))["best"] == "a"


def test_of_equal_members_the_first_is_best() -> None:
    same = {name: said([0.9, 0.2], [1, 0]) for name in ("z", "a")}
    found = ensemble_gain(same, same)
    assert found.best == "z"
    assert found.gain.gain == 0
    low, high = found.gain.interval
    assert low < 0 < high


def test_groups_count_as_one_witness() -> None:
    targets, number = [1] * 12, 12
    worse, better = said([0.4] * number, targets), said([0.9] * number, targets)
    members = {"worse": worse, "better": better}
    validation = {"worse": said([0.9], [1]), "better": said([0.1], [1])}
    alone = ensemble_gain(validation, members)
    grouped = ensemble_gain(validation, members, groups=np.repeat([0, 1], 6))
    assert alone.gain.gain == grouped.gain.gain == 1
    assert alone.gain.p_value < 0.001 < grouped.gain.p_value


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (said([0.5, 0.5], [1, 0], ("ant", "wasp")), "member 2 with classes ant, wasp"),
        (said([0.5, 0.5], [1, 1]), "other targets"),
        (said([0.5, 0.5], None), "other targets"),
        (said([0.5], [1]), "other images"),
        (
            Predictions(CLASSES, np.full((2, 2), 0.5, np.float32), np.array([1, 0]), ("0.jpg", "x.jpg")),
            "x.jpg, not 1.jpg",
        ),
    ],
)
def test_members_that_differ_are_refused(other: Predictions, message: str) -> None:
    with pytest.raises(UserError, match=message):
        mean_predictions([said([0.9, 0.1], [1, 0]), other])


def test_what_cannot_be_judged_is_refused() -> None:
    one, two = said([0.9, 0.1], [1, 0]), said([0.8, 0.1], [1, 0])
    with pytest.raises(UserError, match="two or more"):
        mean_predictions([one])
    with pytest.raises(UserError, match="same members"):
        ensemble_gain({"a": one, "b": two}, {"a": one, "c": two})
    with pytest.raises(UserError, match="without labels"):
        ensemble_gain({"a": said([0.9], None), "b": said([0.9], None)}, {"a": one, "b": two})
    other = {name: said([0.9, 0.1], [1, 0], ("bee", "ant")) for name in ("a", "b")}
    with pytest.raises(UserError, match="other classes"):
        ensemble_gain(other, {"a": one, "b": two})
