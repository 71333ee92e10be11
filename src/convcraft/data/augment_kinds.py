"""The kinds of random change, each with its settings and a strength that shows it, in the order of application."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from convcraft.config import AugmentConfig

OFF = AugmentConfig()


@dataclass(frozen=True)
class Kind:
    """One kind of change.

    name: as people call it.
    settings: the fields of `AugmentConfig` that belong to it; the first switches it on.
    example: values that show it clearly without being absurd.
    """

    name: str
    settings: tuple[str, ...]
    example: dict[str, Any]

    def is_on(self, config: AugmentConfig) -> bool:
        switch = self.settings[0]
        value = getattr(config, switch)
        return value == self.example[switch] if switch == "policy" else value != getattr(OFF, switch)

    def alone(self, config: AugmentConfig) -> AugmentConfig:
        """Only this kind, as strong as in config."""
        return dataclasses.replace(OFF, **{name: getattr(config, name) for name in self.settings})

    def shown(self, side_pixels: int) -> AugmentConfig:
        """Only this kind, at the strength that shows it on images of that (shorter) side."""
        example = dict(self.example)
        if "crop_padding_pixels" in example:
            example["crop_padding_pixels"] = max(1, side_pixels // 8)  # 4 of 32, as is usual
        return dataclasses.replace(OFF, **example)

    def describe(self, config: AugmentConfig) -> str:
        """The switch and its value; further settings only where they are not the default."""
        shown = [
            name for name in self.settings if name == self.settings[0] or getattr(config, name) != getattr(OFF, name)
        ]
        return ", ".join(f"{name} {_text(getattr(config, name))}" for name in shown)


KINDS: Sequence[Kind] = (
    Kind("resized crop", ("crop_area_range", "crop_aspect_range"), {"crop_area_range": (0.35, 1.0)}),
    Kind("padded crop", ("crop_padding_pixels",), {"crop_padding_pixels": 4}),
    Kind("translation", ("shift_fraction",), {"shift_fraction": 0.15}),
    Kind("shear", ("shear_degrees",), {"shear_degrees": 20.0}),
    Kind("rotation", ("rotation_degrees",), {"rotation_degrees": 15.0}),
    Kind("scale", ("scale_range",), {"scale_range": (0.75, 1.25)}),
    Kind("horizontal flip", ("horizontal_flip", "flip_mode"), {"horizontal_flip": True}),
    Kind("vertical flip", ("vertical_flip",), {"vertical_flip": True}),
    Kind("TrivialAugment", ("policy",), {"policy": "trivial_augment"}),
    Kind("RandAugment", ("policy", "policy_operations", "policy_strength"), {"policy": "rand_augment"}),
    Kind("brightness", ("brightness",), {"brightness": 0.4}),
    Kind("contrast", ("contrast",), {"contrast": 0.6}),
    Kind("saturation", ("saturation",), {"saturation": 0.8}),
    Kind("hue", ("hue",), {"hue": 0.1}),
    Kind("noise", ("noise_std",), {"noise_std": 0.06}),
    Kind("erasing", ("erasing_probability",), {"erasing_probability": 0.5}),
    Kind("MixUp", ("mixup_alpha",), {"mixup_alpha": 0.8}),
    Kind("CutMix", ("cutmix_alpha",), {"cutmix_alpha": 1.0}),
)
COLOUR_ONLY = ("saturation", "hue")


def kinds_that_are_on(config: AugmentConfig) -> list[Kind]:
    return [kind for kind in KINDS if kind.is_on(config)]


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return " to ".join(f"{part:g}" for part in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)
