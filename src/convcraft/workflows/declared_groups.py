"""Groups of images that somebody declares, beside which every class is judged: `deploy.compress.gate`.

They are named as for `convcraft evaluate`, and parted by the same functions: columns of the table that the images come
from (numbers fall into bins, rare categories are pooled), and groups of classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from convcraft.data.image_set import ImageSet
from convcraft.evaluation.slice_columns import class_group_column, slice_column
from convcraft.workflows.evaluate_options import Asked
from convcraft.workflows.evaluate_slices import slice_columns_of


def declared_groups(
    asked: Asked, images: ImageSet, source: str, classes: Sequence[str]
) -> dict[str, NDArray[np.bool_]]:
    """Which images belong to each group: "camera = B", or the name of a group of classes -> bool [N].

    A group of classes of which no image is there is listed all the same; classes in no group form none.

    Args:
        asked: its `slice_columns` and `class_groups`. source: where the images were read from (`DataConfig.source`).

    Raises:
        UserError: a column that the data do not have, or groups that do not fit the classes.
    """
    declared = slice_columns_of(asked, images, source)
    groups: dict[str, NDArray[np.bool_]] = {}
    for name, cells in declared.columns.items():
        column = slice_column(name, cells, declared.min_images)
        groups.update({f"{name} = {value}": column.codes == code for code, value in enumerate(column.values)})
    if declared.class_groups:
        by_class = class_group_column(declared.class_groups, classes, images.targets)
        group_of = np.array(by_class.values, dtype=object)[by_class.codes]
        groups.update({name: group_of == name for name in declared.class_groups})
    return groups
