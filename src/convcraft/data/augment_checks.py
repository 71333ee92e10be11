"""What may be wrong with the random changes for the data at hand: settings that are valid but harm or do nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from convcraft.config import AugmentConfig
from convcraft.data.preprocess import Preprocess
from convcraft.data.sample import Finding

_SIDES = ({"left", "right"}, {"clockwise", "counterclockwise"})
_ENDS = ({"up", "down"}, {"top", "bottom"}, {"above", "below"})
_TURNED = ({"6", "9"}, {"6", "09"}, {"06", "9"}, {"b", "q"}, {"d", "p"}, {"n", "u"})
_TURN_DEGREES = 90.0
TRIVIAL_SHIFT_PIXELS = 32  # its strongest translation, whatever the size of the images


def augmentation_findings(config: AugmentConfig, preprocess: Preprocess, classes: Sequence[str]) -> Iterator[Finding]:
    """Findings of kind "settings", judged by the names of the classes and the shape of the images."""
    yield from _flips(config, classes)
    yield from _turns(config, classes)
    yield from _without_effect(config, preprocess)
    yield from _mostly_black(config, preprocess)


def _warning(message: str, fix: str) -> Finding:
    return Finding("settings", "warning", (), message, fix)


def _flips(config: AugmentConfig, classes: Sequence[str]) -> Iterator[Finding]:
    names = [name.strip().casefold() for name in classes]
    words = {word for name in names for word in re.split(r"[^a-z]+", name)}
    characters = len(names) > 1 and all(len(name) == 1 and name.isalnum() for name in names)
    for setting, pairs in (("horizontal_flip", _SIDES), ("vertical_flip", _ENDS)):
        if not getattr(config, setting):
            continue
        fix = f"Set augment.{setting}=false."
        if characters:
            some = ", ".join(classes[:4])
            message = f"augment.{setting} is on, and the classes ({some} ...) are named like digits or letters"
            yield _warning(f"{message}: a mirrored one is another character, or none.", fix)
        for pair in pairs:
            if pair <= words:
                message = f"augment.{setting} turns {' into '.join(sorted(pair))} and keeps the label."
                yield _warning(message, fix)


def _turns(config: AugmentConfig, classes: Sequence[str]) -> Iterator[Finding]:
    names = {name.strip().casefold() for name in classes}
    pairs = [sorted(pair) for pair in _TURNED if pair <= names]
    if not pairs:
        return
    which = " and ".join(pairs[0])
    if config.rotation_degrees >= _TURN_DEGREES:
        message = f"augment.rotation_degrees {config.rotation_degrees:g} makes {which} the same."
        yield _warning(message, "Set augment.rotation_degrees to 30 or less.")
    if config.policy == "trivial_augment":
        message = f"augment.policy trivial_augment turns by up to 135 degrees, which makes {which} the same."
        yield _warning(message, "Set augment.policy=rand_augment (up to 30 degrees) or none.")


def _without_effect(config: AugmentConfig, preprocess: Preprocess) -> Iterator[Finding]:
    if preprocess.channels == 1:
        for setting in ("saturation", "hue"):
            if getattr(config, setting):
                fix = f"Set augment.{setting}=0."
                yield _warning(f"augment.{setting} is on, and the images are grey: it does nothing.", fix)
    if config.flip_mode == "alternate" and not config.horizontal_flip:
        message = "augment.flip_mode is alternate, and augment.horizontal_flip is off: it does nothing."
        yield _warning(message, "Set augment.horizontal_flip=true, or leave flip_mode out.")


def _mostly_black(config: AugmentConfig, preprocess: Preprocess) -> Iterator[Finding]:
    """Moves that can take most of an image out of sight."""
    shorter = min(preprocess.height, preprocess.width)
    lost = config.crop_padding_pixels / shorter + config.shift_fraction
    if lost >= 0.5:
        message = (
            f"augment.crop_padding_pixels {config.crop_padding_pixels} and augment.shift_fraction "
            f"{config.shift_fraction:g} can move {min(lost, 1):.0%} of an image of {shorter} pixels out of sight."
        )
        yield _warning(message, "Lower them; about 12 % (4 pixels of 32) is usual.")
    if config.policy == "trivial_augment" and shorter < TRIVIAL_SHIFT_PIXELS:
        message = (
            f"augment.policy trivial_augment moves by up to {TRIVIAL_SHIFT_PIXELS} pixels, "
            f"and the images have {shorter}: some are moved out of sight altogether."
        )
        yield _warning(message, "Set augment.policy=rand_augment, which moves by shares of the size, or none.")
