"""Counts the pixels that units and concepts share, image by image."""

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.dissection.kernels import tally_image
from ortoscope_service.analysis.dissection.upsampling import LinearAxis
from ortoscope_service.datasets.dataset import ConceptTable, ImageLabels

Int64Array = NDArray[np.int64]


class Tally:
    """The counts of a dissection (Bau, Zhou et al. 2017, section 2.3), in 64-bit integers.

    Args:
        thresholds: (U,) float64; a pixel belongs to a unit's mask if its value is strictly greater.
        site_shape: Rows and columns of a map.
        mask_shape: Rows and columns of a label plane.
        concepts: The concepts and their categories.
        example_image: (U, E) int64, the images whose masks are kept.

    Attributes:
        intersection: (U, K) int64, pixels with both the unit's mask and the concept.
        activation_pixels: (U, C) int64, pixels of the unit's mask in images that carry a label of the category.
        concept_pixels: (K,) int64, pixels with the concept.
        example_mask: (U, E, bytes) uint8, the kept masks, packed eight to a byte.
    """

    def __init__(
        self,
        thresholds: NDArray[np.float64],
        site_shape: tuple[int, int],
        mask_shape: tuple[int, int],
        concepts: ConceptTable,
        example_image: Int64Array,
    ) -> None:
        units, concept_count = len(thresholds), len(concepts.number)
        self._thresholds = thresholds
        self._rows = LinearAxis.of(site_shape[0], mask_shape[0])
        self._columns = LinearAxis.of(site_shape[1], mask_shape[1])
        self._mask_shape = mask_shape
        self._concepts = concepts
        # Label planes hold the dataset's numbers; the kernels want 1 + index, so that 0 still means none.
        self._place = np.zeros(int(concepts.number.max(initial=0)) + 1, np.int32)
        self._place[concepts.number] = np.arange(1, concept_count + 1)
        self._example_image = example_image
        self.intersection: Int64Array = np.zeros((units, concept_count), np.int64)
        self.activation_pixels: Int64Array = np.zeros((units, len(concepts.category_name)), np.int64)
        self.concept_pixels: Int64Array = np.zeros(concept_count, np.int64)
        mask_bytes = -(-mask_shape[0] * mask_shape[1] // 8)
        self.example_mask: NDArray[np.uint8] = np.zeros((*example_image.shape, mask_bytes), np.uint8)

    def add(self, image: int, labels: ImageLabels, units: Int64Array, maps: NDArray[np.float32]) -> None:
        """Adds an image.

        Args:
            image: Its index.
            labels: Its labels.
            units: (n,) int64, the units with a value above their threshold; others may be left out.
            maps: (n, rows, columns) float32, their maps.
        """
        planes = self._place[labels.planes]
        image_concepts = self._place[labels.image_level].astype(np.int64) - 1
        in_planes = np.bincount(planes.ravel(), minlength=len(self.concept_pixels) + 1)[1:]
        self.concept_pixels += in_planes
        self.concept_pixels[image_concepts] += self._mask_shape[0] * self._mask_shape[1]
        present = np.concatenate((np.flatnonzero(in_planes), image_concepts))
        categories = np.unique(self._concepts.category[present])
        tally_image(
            maps, units, self._thresholds, _arrays(self._rows), _arrays(self._columns), planes, image_concepts,
            categories, image, self._example_image, self.example_mask, self.intersection, self.activation_pixels,
        )  # fmt: skip


def _arrays(axis: LinearAxis) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """The axis as the kernels take it."""
    return axis.lower, axis.upper, axis.weight, axis.start
