"""What changes between images, or between models: other images in an atlas, and two atlases in one frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy.typing as npt

from ortoscope import blobs, resource_names
from ortoscope.arrays import all_arrays
from ortoscope.durations import Duration, time_limit_message
from ortoscope.errors import NotFound
from ortoscope.operations import Operation
from ortoscope.progress import Progress
from ortoscope.rpcs import Rpcs
from ortoscope.tables import Column, Table
from ortoscope.v1 import atlases_pb2, provenance_pb2


@dataclass(frozen=True)
class CellDrift:
    """How densely other images lie in a cell, against the atlas's own."""

    index: int
    """The cell's place among those of its level."""

    count: int
    """Samples of the other images in it."""

    ratio: float
    """Density here over that of the atlas: 1 is the same, 2 twice as dense."""

    low: float
    """Lower end of the 95 % interval of the ratio."""

    high: float
    """Upper end."""

    p: float
    """Probability of a difference at least as large if there were none, before any correction."""


class AtlasProjection:
    """Other images in an atlas: where they lie, and how their density differs from the atlas's own.

    Attributes:
        proto: The message as the server sent it.
    """

    def __init__(self, rpcs: Rpcs, proto: atlases_pb2.AtlasProjection) -> None:
        self._rpcs = rpcs
        self.proto = proto

    @property
    def name(self) -> str:
        """Resource name, `atlasProjections/{atlas_projection}`."""
        return self.proto.name

    @property
    def atlas(self) -> str:
        """Resource name of the atlas."""
        return self.proto.request.atlas

    @property
    def dataset(self) -> str:
        """The name of the dataset that was placed."""
        return resource_names.short_dataset(self.proto.request.dataset)

    @property
    def off_map_rate(self) -> float:
        """Share of samples that lie farther from the atlas's than all but 1 % of those do from each other.

        0.01 is what the atlas's own images have.
        """
        return self.proto.off_map_rate

    @property
    def off_map_interval(self) -> tuple[float, float]:
        """The 95 % interval of that share."""
        return self.proto.off_map_low, self.proto.off_map_high

    @property
    def changed_cells(self) -> int:
        """Cells whose density differs, after correction for their number."""
        return self.proto.changed_cells

    @property
    def provenance(self) -> provenance_pb2.Provenance:
        """What it was computed from."""
        return self.proto.provenance

    @cached_property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """All arrays by name, as the API describes them in `AtlasProjection.arrays`."""
        return all_arrays(self.file)

    @cached_property
    def file(self) -> bytes:
        """The .npz file with the arrays, as the server keeps it."""
        return blobs.download_bytes(self._rpcs, self.proto.arrays)

    @property
    def grids(self) -> tuple[int, ...]:
        """The levels that densities are told for, coarse to fine."""
        return tuple(
            sorted(
                int(name.removeprefix("cells_").removesuffix("_count"))
                for name in self.arrays
                if name.startswith("cells_") and name.endswith("_count")
            )
        )

    def cells(self, grid: int = 0) -> Table[CellDrift]:
        """How densely the images lie in each cell of a level.

        Args:
            grid: Cells along each side; 0: the finest.

        Raises:
            NotFound: LEVEL_MISSING.
        """
        grids = self.grids
        chosen = grid or (grids[-1] if grids else 0)
        if chosen not in grids:
            raise NotFound(
                f"{self.name} tells nothing of a level {grid}; there are {', '.join(map(str, grids)) or 'none'}.",
                reason="LEVEL_MISSING",
                field="grid",
                metadata={"grid": str(grid)},
            )
        parts = (self.arrays[f"cells_{chosen}_{part}"] for part in ("count", "ratio", "low", "high", "p"))
        return Table(
            (
                CellDrift(index, int(count), float(ratio), float(low), float(high), float(p))
                for index, (count, ratio, low, high, p) in enumerate(zip(*parts, strict=True))
            ),
            (
                Column("cell", lambda cell: cell.index, numeric=True),
                Column("samples", lambda cell: cell.count, numeric=True),
                Column("density ratio", lambda cell: cell.ratio, numeric=True),
                Column("from", lambda cell: cell.low, numeric=True),
                Column("to", lambda cell: cell.high, numeric=True),
                Column("p", lambda cell: cell.p, numeric=True),
            ),
            title=f"Cells of the level {chosen} x {chosen} of {self.atlas}",
        )

    def save(self, path: str | Path, *, progress: bool | Progress = False) -> Path:
        """Writes the atlas as a page that is coloured by where these images lie more or less densely.

        Args:
            path: As for `Atlas.save`; a folder also gets `arrays/projection.npz`.
            progress: As for `Atlas.save`.

        Returns:
            The file to open.

        Raises:
            OrtoscopeError: As `Atlas.save`; NotFound if the atlas was deleted.
            OSError: The disk is full, or the folder cannot be written to.
        """
        # Only who saves a page waits for what draws it.
        from ortoscope.atlas_pages import save_projection  # noqa: PLC0415

        return save_projection(self._rpcs, self, Path(path), progress)

    def __repr__(self) -> str:
        return (
            f"<AtlasProjection {self.name}: {self.proto.sample_count} samples of {self.dataset} in {self.atlas}, "
            f"{self.off_map_rate:.1%} off the map, {self.changed_cells} cells differ>"
        )


class AtlasComparison:
    """Two atlases over the same images in one frame: which cells appear, vanish and move.

    Attributes:
        proto: The message as the server sent it.
    """

    def __init__(self, rpcs: Rpcs, proto: atlases_pb2.AtlasComparison) -> None:
        self._rpcs = rpcs
        self.proto = proto

    @property
    def name(self) -> str:
        """Resource name, `atlasComparisons/{atlas_comparison}`."""
        return self.proto.name

    @property
    def left(self) -> str:
        """Resource name of the atlas at the left."""
        return self.proto.request.left

    @property
    def right(self) -> str:
        """Resource name of the atlas at the right."""
        return self.proto.request.right

    @property
    def neighbourhood_agreement(self) -> float:
        """Share of a sample's 15 nearest neighbours in one that are among those in the other."""
        return self.proto.neighbourhood_agreement

    @property
    def procrustes_distance(self) -> float:
        """What remains of the difference of the layouts after the best similarity transform, 0 to 1."""
        return self.proto.procrustes_distance

    @property
    def provenance(self) -> provenance_pb2.Provenance:
        """What it was computed from."""
        return self.proto.provenance

    @cached_property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """All arrays by name, as the API describes them in `AtlasComparison.arrays`."""
        return all_arrays(self.file)

    @cached_property
    def file(self) -> bytes:
        """The .npz file with the arrays, as the server keeps it."""
        return blobs.download_bytes(self._rpcs, self.proto.arrays)

    def save(self, path: str | Path, *, progress: bool | Progress = False) -> Path:
        """Writes a page with the joint grid, coloured by what changed, and both atlases beside it.

        Args:
            path: As for `Atlas.save`; a folder also gets `arrays/comparison.npz`.
            progress: As for `Atlas.save`.

        Returns:
            The file to open.

        Raises:
            OrtoscopeError: As `Atlas.save`; an atlas that was deleted is left out.
            OSError: The disk is full, or the folder cannot be written to.
        """
        # Only who saves a page waits for what draws it.
        from ortoscope.atlas_pages import save_comparison  # noqa: PLC0415

        return save_comparison(self._rpcs, self, Path(path), progress)

    def __repr__(self) -> str:
        return (
            f"<AtlasComparison {self.name}: {self.left} and {self.right}, {self.proto.sample_count} samples, "
            f"{self.neighbourhood_agreement:.1%} of neighbours agree>"
        )


def start_projection(
    rpcs: Rpcs,
    atlas: str,
    dataset: str,
    *,
    splits: Sequence[str],
    sites_per_image: int,
    seed: int,
    time_limit: Duration | None,
) -> Operation[AtlasProjection]:
    """Starts to place other images in an atlas; see `Atlas.project`.

    Raises:
        OrtoscopeError: As Atlases.ProjectSamples; DURATION_INVALID.
    """
    request = atlases_pb2.ProjectSamplesRequest(
        atlas=resource_names.atlas(atlas),
        dataset=dataset,
        splits=splits,
        sites_per_image=sites_per_image,
        seed=seed,
        request_id=str(uuid4()),
        time_limit=time_limit_message(time_limit),
    )
    return Operation(rpcs, rpcs.project_samples(request))


def start_comparison(
    rpcs: Rpcs, left: str, right: str, *, grid: int, seed: int, time_limit: Duration | None
) -> Operation[AtlasComparison]:
    """Starts a comparison; see `Atlas.compare`.

    Raises:
        OrtoscopeError: As Atlases.CompareAtlases; DURATION_INVALID.
    """
    request = atlases_pb2.CompareAtlasesRequest(
        left=resource_names.atlas(left),
        right=resource_names.atlas(right),
        grid=grid,
        seed=seed,
        request_id=str(uuid4()),
        time_limit=time_limit_message(time_limit),
    )
    return Operation(rpcs, rpcs.compare_atlases(request))
