"""What `convcraft evaluate` is asked for beyond the figures of all test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from convcraft.errors import UserError
from convcraft.evaluation.gate import Gate
from convcraft.evaluation.slice_columns import class_group_column

ROBUSTNESS_IMAGES = 500


@dataclass(frozen=True)
class Asked:
    """Nothing of it, where nothing is given.

    image_facts: slices by size, brightness, contrast, blur and colourfulness of the pictures.
    slice_columns: of the table that the images come from. class_groups: name -> classes.
    gate: thresholds that every slice must meet. robustness_images: how many images are changed and attacked.
    views: the mean over mirrored and shifted images. members: other runs, whose mean with this one is judged.
    """

    image_facts: bool = False
    slice_columns: tuple[str, ...] = ()
    class_groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    gate: Gate | None = None
    robustness_images: int | None = None
    views: bool = False
    members: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if self.robustness_images is not None and self.robustness_images < 1:
            raise UserError(f"{self.robustness_images} images for robustness", "1 or more", "500 is usual.")
        if len(set(self.slice_columns)) < len(self.slice_columns):
            raise UserError(f"columns {', '.join(self.slice_columns)}", "each column once", "Leave one out.")

    @property
    def slices_by_facts(self) -> bool:
        """Asked for, or the only slices that a gate could judge."""
        named = self.slice_columns or self.class_groups
        return self.image_facts or (self.gate is not None and not named)

    @property
    def has_slices(self) -> bool:
        return bool(self.slices_by_facts or self.slice_columns or self.class_groups)

    @property
    def needs_held_out(self) -> bool:
        """Whether something is chosen on validation images."""
        return self.views or bool(self.members)

    def refuse_other_classes(self, classes: Sequence[str]) -> None:
        """Raises UserError where the groups do not fit the classes of a run."""
        if self.class_groups:
            class_group_column(self.class_groups, classes, np.empty(0, np.int64))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in evaluation.json."""
        return {
            "image_facts": self.image_facts,
            "slice_columns": list(self.slice_columns),
            "class_groups": {name: list(members) for name, members in self.class_groups.items()},
            "gate": None if self.gate is None else self.gate.to_dict(),
            "robustness_images": self.robustness_images,
            "views": self.views,
            "members": [str(member) for member in self.members],
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Asked:
        return cls(
            image_facts=saved["image_facts"],
            slice_columns=tuple(saved["slice_columns"]),
            class_groups={name: tuple(members) for name, members in saved["class_groups"].items()},
            gate=None if saved["gate"] is None else Gate(**saved["gate"]),
            robustness_images=saved["robustness_images"],
            views=saved["views"],
            members=tuple(Path(member) for member in saved["members"]),
        )


def gate_of(fail_under: float | None, fail_gap: float | None, judged_on: str) -> Gate | None:
    """The gate that the options name; None where they name no threshold.

    Raises:
        UserError: thresholds outside 0..1, an unknown bound, or a bound without a threshold.
    """
    if fail_under is None and fail_gap is None:
        if judged_on != "estimate":
            raise UserError(f"--judged-on {judged_on} without a threshold", "--fail-under or --fail-gap", "Add one.")
        return None
    return Gate(fail_under, fail_gap, judged_on)


def class_groups_of(written: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """["animals=cat,dog", ...] as {"animals": ("cat", "dog"), ...}.

    Raises:
        UserError: no name, no classes, or the same name twice.
    """
    groups: dict[str, tuple[str, ...]] = {}
    for text in written:
        name, sign, members = text.partition("=")
        classes = tuple(member.strip() for member in members.split(",") if member.strip())
        if not sign or not name.strip() or not classes:
            raise UserError(f"--class-group {text}", "NAME=CLASS,CLASS", "Write it like --class-group round=0,6,8,9")
        if name.strip() in groups:
            raise UserError(f"group {name.strip()!r} twice", "each name once", "Write all its classes in one option.")
        groups[name.strip()] = classes
    return groups
