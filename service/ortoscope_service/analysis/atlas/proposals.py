"""Features with several uses: real crops that may turn pictures of one class into those of another when pasted.

Carter et al. 2019, "Activation Atlas", on the baseball that makes a great white shark of a grey whale: cells that are
labelled neither of two classes and yet push the second. There they were found by eye; here by their attribution. A
proposal is a guess: what `analysis.patches` measures, beside controls of noise, is the evidence.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.atlas.cells import Cells
from ortoscope_service.analysis.atlas.class_labels import largest_classes
from ortoscope_service.errors import Code, OrtoscopeError, invalid


@dataclass(frozen=True)
class Proposal:
    """A cell that pushes a class, and a real sample that stands for it."""

    cell: int
    """Its place among the cells."""

    sample: int
    """The sample: of the cell's nearest the first whose image no proposal before shows, else the very first."""

    push: float
    """Mean attribution of the cell to the target minus that to the source, above 0."""


def propose_patches(
    cells: Cells, source: int, target: int, count: int, *, image: NDArray[np.int64]
) -> tuple[Proposal, ...]:
    """Cells that may turn a class into another, by falling push; the lower index first at a tie.

    A cell counts if its largest mean attribution is to neither class, if it speaks for the target at all, and more than
    for the source.

    Args:
        cells: The cells of a level.
        source: Index of the class of the pictures that patches are pasted on.
        target: Index of the class that they shall be taken for.
        count: Most proposals.
        image: (N,) int64, the image of each sample.

    Raises:
        OrtoscopeError: FAILED_PRECONDITION, `NO_ATTRIBUTION`; INVALID_ARGUMENT, `SAME_CLASS`.
    """
    if cells.attribution is None:
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "NO_ATTRIBUTION",
            "The atlas does not know what its cells speak for: it was built without attribution, or of a model without "
            "classes. Build it with attribution.",
            field="atlas",
        )
    if source == target:
        raise invalid(
            "SAME_CLASS",
            f"The source and the target are both class {source}; name two classes.",
            field="target",
            **{"class": source},
        )
    label = largest_classes(cells.attribution, 1)[:, 0]
    towards = cells.attribution[:, target]
    push = towards - cells.attribution[:, source]
    eligible = (label != source) & (label != target) & (towards > 0) & (push > 0)
    order = np.argsort(-push, kind="stable")
    shown: set[int] = set()
    proposals = []
    for cell in order[eligible[order]][:count].tolist():
        samples = [sample for sample in cells.nearest[cell].tolist() if sample >= 0]
        sample = next((sample for sample in samples if int(image[sample]) not in shown), samples[0])
        shown.add(int(image[sample]))
        proposals.append(Proposal(cell, sample, float(push[cell])))
    return tuple(proposals)
