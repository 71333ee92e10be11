"""What the first convolution makes of an image."""

from __future__ import annotations

import matplotlib
import numpy as np
from numpy.typing import NDArray

from convcraft.report import html
from convcraft.report.html import Html, Section, element
from convcraft.report.run_content import ReportContent

SHOWN_MAPS = 64


def feature_maps_section(content: ReportContent) -> Section | None:
    features = content.feature_maps
    if features is None:
        return None
    num_maps = len(features.maps)
    shown = min(num_maps, SHOWN_MAPS)
    height, width = features.maps.shape[1:]
    which = f"All {num_maps}" if shown == num_maps else f"The first {shown} of {num_maps}"
    caption = (
        f"{which} maps ({height} × {width}) of layer {features.layer}, the first convolution, for the image beside "
        f"them. Before normalisation and ReLU. Each map has its own scale: blue positive, red negative, white zero."
    )
    source = element(
        "figure",
        html.pictures([(html.picture(features.image, f"Input image, class {features.class_name}"), Html())]),
        element("figcaption", f"Input: {features.class_name}"),
    )
    images = [
        (html.picture(signed_colours(channel), f"Map {number} of layer {features.layer}"), Html())
        for number, channel in enumerate(features.maps[:shown])
    ]
    grid = element("div", html.pictures(images, small=True))
    body = html.join([element("p", caption, class_="note"), element("div", source, grid, class_="maps")])
    return Section("features", "Feature maps", "特征图", body)


def signed_colours(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Signed numbers [h, w] as colours uint8 [h, w, 3]: red negative, white zero, blue positive, largest size full."""
    largest = float(np.abs(values).max(initial=0.0)) or 1.0
    colours = matplotlib.colormaps["RdBu"](0.5 + values / (2 * largest), bytes=True)
    return np.ascontiguousarray(colours[..., :3])
