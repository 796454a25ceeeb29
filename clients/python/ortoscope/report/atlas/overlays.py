"""What a projection or a comparison found, as something a page can colour cells by."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ortoscope.report.atlas.page import AtlasLayer, LayerLevel, Overlay
from ortoscope.v1 import atlases_pb2

KINDS = ("in both", "vanished", "appeared")
"""The kinds of cells of a comparison, by number."""


def projection_overlays(arrays: Mapping[str, NDArray[Any]], grid: int) -> list[Overlay]:
    """Where other images lie more or less densely than an atlas's own, for the level with `grid` cells a side.

    Args:
        arrays: Those of `AtlasProjection.arrays`.
        grid: The level; the overlays are in the order of its cells.
    """
    prefix = f"cells_{grid}_"
    count, ratio, low, high = (np.asarray(arrays[prefix + name], float) for name in ("count", "ratio", "low", "high"))
    with np.errstate(divide="ignore", invalid="ignore"):
        change = np.clip(np.log2(ratio), -8, 8)
    certain = np.where((low > 1) | (high < 1), change, 0.0)
    return [
        Overlay("Density against the atlas, log2", change, True, "0: as dense as in the atlas; 1: twice, -1: half."),
        Overlay(
            "Density, where the interval excludes 1", certain, True, "0 where the 95 % interval of the cell holds 1."
        ),
        Overlay("Projected samples", count, False, "Samples of the other images in the cell."),
    ]


def comparison_layer(
    name: str, comparison: atlases_pb2.AtlasComparison, arrays: Mapping[str, NDArray[Any]], grid: int
) -> AtlasLayer:
    """The joint grid of a comparison as a layer of its own, coloured by what changed.

    Args:
        name: What people know it by.
        comparison: What was asked and found.
        arrays: Those of `AtlasComparison.arrays`.
        grid: Cells along each side of the joint grid.
    """
    left, right = (np.asarray(arrays[f"{side}_count"], np.int64) for side in ("left", "right"))
    level = LayerLevel(
        grid=grid,
        cells={"row": np.asarray(arrays["row"]), "column": np.asarray(arrays["column"]), "count": left + right},
        overlays=[
            Overlay(
                "Change, log2", np.asarray(arrays["change"]), True, "Share of the right over that of the left, log2."
            ),
            Overlay("Appeared or vanished", np.asarray(arrays["kind"]), categories=KINDS),
            Overlay("Samples at the left", left),
            Overlay("Samples at the right", right),
        ],
    )
    atlas = atlases_pb2.Atlas(sample_count=2 * comparison.sample_count, state=atlases_pb2.Atlas.STATE_COMPLETE)
    return AtlasLayer(name, atlas, [level])
