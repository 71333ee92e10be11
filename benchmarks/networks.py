"""The table of docs/networks.md: parameters, multiply-adds and receptive field of every network of ours.

Counted, not timed: the same on every machine. Networks are built without values (torch's meta device), so this takes
seconds and little memory.

    python benchmarks/networks.py            prints the table in Markdown
"""

from __future__ import annotations

import torch

from convcraft.models.build import OWN_MODELS, num_parameters
from convcraft.models.summary import features_field, summarise

# Channels, side in pixels and classes of what a network was made for.
DIGITS, SMALL_PHOTOS, PHOTOS = (1, 28, 10), (3, 32, 10), (3, 224, 1000)
USUAL = {"lenet5": DIGITS, "seed_cnn": DIGITS, "keras_cnn": DIGITS, "vgg_small": DIGITS}


def usual_input(name: str) -> tuple[int, int, int]:
    if name in USUAL:
        return USUAL[name]
    return SMALL_PHOTOS if name.endswith("_cifar") or name == "resnet9" else PHOTOS


def main() -> None:
    print("| name | input | classes | parameters | multiply-adds | receptive field |")
    print("|---|---|---|---|---|---|")
    for name, constructor in OWN_MODELS.items():
        channels, side, classes = usual_input(name)
        with torch.device("meta"):
            model = constructor(classes, channels, (side, side)).eval()
        rows = summarise(model, (side, side), channels)
        field = features_field(rows)
        seen = "-" if field is None else f"{field[0]}"
        multiply_adds = sum(row.multiply_adds for row in rows) / 1e6
        print(
            f"| `{name}` | {side}x{side}x{channels} | {classes} | {num_parameters(model):,} | {multiply_adds:,.1f} M | "
            f"{seen} |"
        )


if __name__ == "__main__":
    main()
