"""Activation atlases: a whole layer on one page (Carter et al. 2019)."""

import io
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

from PIL import Image

from ortoscope import blobs, resource_names
from ortoscope.arrays import load_npz
from ortoscope.atlas_cells import Cell, CellOrder, list_cells
from ortoscope.atlas_changes import AtlasComparison, AtlasProjection, start_comparison, start_projection
from ortoscope.atlas_levels import AtlasSamples, Level
from ortoscope.atlas_patches import PatchProposal, PatchSearch, propose_patches, search_patches
from ortoscope.datasets import Dataset, name_of
from ortoscope.durations import Duration, time_limit_message
from ortoscope.errors import FailedPrecondition, NotFound
from ortoscope.inputs import Inputs
from ortoscope.operations import Operation
from ortoscope.progress import Progress
from ortoscope.rpcs import Rpcs
from ortoscope.tables import Column, Table
from ortoscope.v1 import atlases_pb2, provenance_pb2


class Atlas:
    """A layer as a map: activations laid out so that similar ones lie together, and what each cell of it looks for.

    Its arrays and pictures are fetched when they are first asked for. One that is still being built (`state` "partial")
    holds the levels that are there; what is there is final, and `refresh` asks for more.

    Attributes:
        proto: The message as the server sent it.
    """

    def __init__(self, rpcs: Rpcs, proto: atlases_pb2.Atlas) -> None:
        self._rpcs = rpcs
        self.proto = proto
        self._levels: dict[bytes, Level] = {}

    @property
    def name(self) -> str:
        """Resource name, `atlases/{atlas}`, with the id of the operation that builds it."""
        return self.proto.name

    @property
    def tap(self) -> str:
        """The tensor name of the tap."""
        return resource_names.short_tap(self.proto.spec.tap)

    @property
    def model(self) -> str:
        """The model version, as `name/version`."""
        return resource_names.short_model(resource_names.version_of_tap(self.proto.spec.tap))

    @property
    def dataset(self) -> str:
        """The name of the dataset."""
        return resource_names.short_dataset(self.proto.spec.dataset)

    @property
    def state(self) -> str:
        """How far it is: "partial" or "complete"."""
        return atlases_pb2.Atlas.State.Name(self.proto.state).removeprefix("STATE_").lower()

    @property
    def sample_count(self) -> int:
        """Number of samples that are laid out; with several sites of an image they are not independent."""
        return self.proto.sample_count

    @property
    def image_count(self) -> int:
        """Images that the samples are from."""
        return self.proto.image_count

    @property
    def class_labels(self) -> tuple[str, ...]:
        """Labels of the classes, by index; empty if the samples have no attribution."""
        return tuple(self.proto.class_labels)

    @property
    def quality(self) -> atlases_pb2.LayoutQuality:
        """How far the layout keeps neighbourhoods: `trustworthiness`, `neighbourhood_recall`, and `queries`."""
        return self.proto.quality

    @property
    def remarks(self) -> tuple[str, ...]:
        """What to know before reading too much into it."""
        return tuple(self.proto.remarks)

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting with its value."""
        return {name: json.loads(text) for name, text in sorted(self.proto.settings.items())}

    @property
    def provenance(self) -> provenance_pb2.Provenance:
        """What it was computed from."""
        return self.proto.provenance

    @property
    def levels(self) -> Table[Level]:
        """The levels that are there, coarse to fine."""
        return Table(
            (self._level(entry) for entry in self.proto.levels),
            (
                Column("grid", lambda level: f"{level.grid} x {level.grid}", numeric=True),
                Column("cells", lambda level: level.cell_count, numeric=True),
                Column("samples at most", lambda level: level.proto.largest_count, numeric=True),
                Column("icons", lambda level: level.has_icons),
            ),
            title=f"{len(self.proto.levels)} level{'' if len(self.proto.levels) == 1 else 's'} of {self.name}",
        )

    def level(self, grid: int = 0) -> Level:
        """The level with `grid` cells along each side; 0: the finest.

        Raises:
            NotFound: LEVEL_MISSING.
        """
        for entry in reversed(self.proto.levels):
            if grid in (0, entry.grid):
                return self._level(entry)
        there = ", ".join(str(entry.grid) for entry in self.proto.levels) or "none yet"
        raise NotFound(
            f"{self.name} has no level {grid or ''}; there are: {there}.".replace("  ", " "),
            reason="LEVEL_MISSING",
            field="grid",
            metadata={"grid": str(grid)},
        )

    @cached_property
    def samples(self) -> AtlasSamples:
        """The samples and where they lie."""
        return load_npz(AtlasSamples, self.samples_file)

    @cached_property
    def samples_file(self) -> bytes:
        """The .npz file with the samples, as the server keeps it."""
        return blobs.download_bytes(self._rpcs, self.proto.samples)

    @cached_property
    def frame_file(self) -> bytes:
        """The .npz file with what it takes to place further activations, as the server keeps it."""
        return blobs.download_bytes(self._rpcs, self.proto.frame)

    def refresh(self) -> "Atlas":
        """Asks the server for what has been added since."""
        self.proto = self._rpcs.get_atlas(atlases_pb2.GetAtlasRequest(name=self.name))
        return self

    def cells(
        self,
        grid: int = 0,
        *,
        region: Sequence[float] | None = None,
        class_: int | str | None = None,
        text: str = "",
        order: CellOrder | None = None,
        top_classes: int = 0,
        with_means: bool = False,
    ) -> Table[Cell]:
        """Lists the cells of a level.

        Args:
            grid: Cells along each side, which names the level; 0: the finest.
            region: Only cells whose centre is in this rectangle: left, top, right, bottom, from 0 to 1.
            class_: Only cells with a positive attribution to this class, by index or label.
            text: Only cells one of whose named classes has this in its label.
            order: "position", "attribution" (to `class_`; the default with one) or "count".
            top_classes: Classes that are named for each cell; 0 stands for 5.
            with_means: Whether the mean activations are told.

        Raises:
            OrtoscopeError: As Atlases.ListCells; ORDER_UNKNOWN, REGION_INVALID.
        """
        return list_cells(
            self._rpcs,
            self.name,
            grid=grid,
            region=region,
            class_=class_,
            text=text,
            order=order,
            top_classes=top_classes,
            with_means=with_means,
        )

    def tile(self, grid: int, row: int = 0, column: int = 0, *, cells: int = 0) -> Image.Image:
        """The icons of a square of cells as a PIL image, RGBA; transparent where there is no cell.

        Args:
            grid: Cells along each side of the level.
            row: Which tile from the top, from 0.
            column: Which tile from the left.
            cells: Cells along each side of a tile; 0 stands for 10.

        Raises:
            OrtoscopeError: As Atlases.GetTile.
        """
        request = atlases_pb2.GetTileRequest(name=self.name, grid=grid, cells=cells, row=row, column=column)
        with Image.open(io.BytesIO(self._rpcs.get_tile(request).png)) as picture:
            return picture.convert("RGBA")

    def project(
        self,
        dataset: str | Dataset,
        *,
        splits: Sequence[str] = (),
        sites_per_image: int = 0,
        seed: int = 0,
        time_limit: Duration | None = None,
    ) -> Operation[AtlasProjection]:
        """Starts to place the activations of other images in this atlas: where do they lie more or less densely?

        Args:
            dataset: The dataset or its name.
            splits: Only images of these splits; all if empty.
            sites_per_image: Sites taken of each image; 0: as many as the atlas has.
            seed: Where randomness comes from.
            time_limit: As for `Tap.atlas`.

        Returns:
            The operation; its `result()` is an `AtlasProjection`.

        Raises:
            OrtoscopeError: As Atlases.ProjectSamples.
        """
        return start_projection(
            self._rpcs,
            self.name,
            name_of(dataset),
            splits=splits,
            sites_per_image=sites_per_image,
            seed=seed,
            time_limit=time_limit,
        )

    def compare(
        self, other: "str | Atlas", *, grid: int = 0, seed: int = 0, time_limit: Duration | None = None
    ) -> Operation[AtlasComparison]:
        """Starts a comparison with an atlas over the same images and sites, of another tap, checkpoint or model.

        Args:
            other: The other one, which is at the right, or its name.
            grid: Cells along each side of the joint grid; 0 stands for 20.
            seed: Where randomness comes from.
            time_limit: As for `Tap.atlas`.

        Returns:
            The operation; its `result()` is an `AtlasComparison`.

        Raises:
            OrtoscopeError: As Atlases.CompareAtlases.
        """
        name = other.name if isinstance(other, Atlas) else other
        return start_comparison(self._rpcs, self.name, name, grid=grid, seed=seed, time_limit=time_limit)

    def propose_patches(
        self, source: int | str, target: int | str, *, grid: int = 0, count: int = 0
    ) -> Table[PatchProposal]:
        """Cells labelled neither of two classes that push the second, with crops of real images in them.

        Args:
            source: The class of the pictures that patches shall be pasted on, by index or label.
            target: The class that they shall be taken for.
            grid: Cells along each side, which names the level; 0: the finest.
            count: Most proposals; 0 stands for 10.

        Raises:
            OrtoscopeError: As Atlases.ProposePatches.
        """
        return propose_patches(self._rpcs, self.name, source, target, grid=grid, count=count)

    def search_patches(
        self,
        source: int | str,
        target: int | str,
        over: Inputs = (),
        *,
        grid: int = 0,
        count: int = 0,
        sizes: Sequence[float] = (),
        places: Sequence[str] = (),
        controls: int = 4,
        seed: int = 0,
        progress: bool | Progress = False,
    ) -> PatchSearch:
        """Proposes patches and tests each: does pasting it turn the first class into the second more than noise does?

        Args:
            source: As for `propose_patches`.
            target: As for `propose_patches`.
            over: The pictures that patches are pasted on; if there are none, up to 32 images of the atlas's dataset of
                the source class, by their folder or, failing that, by what the atlas says of them.
            grid: As for `propose_patches`.
            count: As for `propose_patches`.
            sizes: As for `Model.test_patch`.
            places: As for `Model.test_patch`.
            controls: Controls of noise for each trial; at least 1, as nothing can be said without.
            seed: Where the draws of noise come from.
            progress: True shows progress on stderr or in the notebook; a function is told of it.

        Raises:
            OrtoscopeError: As Atlases.ProposePatches and Visualization.TestPatch; PICTURES_MISSING, CONTROLS_MISSING.
            OSError: A picture cannot be read.
        """
        return search_patches(
            self._rpcs,
            self,
            source,
            target,
            over,
            grid=grid,
            count=count,
            sizes=sizes,
            places=places,
            controls=controls,
            seed=seed,
            progress=progress,
        )

    def save(self, path: str | Path, *, progress: bool | Progress = False) -> Path:
        """Writes the atlas as a page to explore, which opens from the disk and fetches nothing.

        Args:
            path: `NAME.html` for one file; any other name is that of a folder, new, empty or an older atlas's, which
                also gets the server's arrays (`arrays/samples.npz`, `arrays/cells-GRID.npz`) and `provenance.json`.
            progress: True shows progress on stderr or in the notebook; a function is told of it.

        Returns:
            The file to open.

        Raises:
            InvalidArgument: PAGE_EMPTY, PAGE_TOO_LARGE: write it into a folder.
            OrtoscopeError: FOLDER_NOT_EMPTY, or as the calls that fetch the pictures.
            OSError: The disk is full, or the folder cannot be written to.
        """
        # Only who saves a page waits for what draws it.
        from ortoscope.atlas_pages import save_atlas  # noqa: PLC0415

        return save_atlas(self._rpcs, self, Path(path), progress)

    def delete(self) -> None:
        """Deletes it on the server."""
        self._rpcs.delete_atlas(atlases_pb2.DeleteAtlasRequest(name=self.name, request_id=str(uuid4())))

    def _level(self, proto: atlases_pb2.AtlasLevel) -> Level:
        """A level; the same object, with what it has fetched, for the same message."""
        key = proto.SerializeToString(deterministic=True)
        return self._levels.setdefault(key, Level(self._rpcs, proto))

    def __repr__(self) -> str:
        grids = ", ".join(str(level.grid) for level in self.proto.levels)
        return (
            f"<Atlas {self.name}: {self.sample_count} samples of {self.model} {self.tap} on {self.dataset}, "
            f"{self.state}, levels {grids or 'none'}>"
        )

    def _repr_png_(self) -> bytes | None:
        shown = [level for level in self.levels if level.has_icons]
        return shown[-1]._repr_png_() if shown else None


def start_atlas(
    rpcs: Rpcs, spec: atlases_pb2.AtlasSpec, *, time_limit: Duration | None, request_id: str = ""
) -> Operation[Atlas]:
    """Starts an atlas.

    Args:
        rpcs: The calls.
        spec: What it is to be.
        time_limit: Longest time from now to the end, waiting included; None: as long as it takes.
        request_id: A UUID by which the server knows the request again; a new one if empty.

    Raises:
        OrtoscopeError: As Atlases.BuildAtlas; DURATION_INVALID.
    """
    request = atlases_pb2.BuildAtlasRequest(
        spec=spec, request_id=request_id or str(uuid4()), time_limit=time_limit_message(time_limit)
    )
    return Operation(rpcs, rpcs.build_atlas(request))


def get_atlas(rpcs: Rpcs, name: str) -> Atlas:
    """Gets an atlas by its name.

    Raises:
        OrtoscopeError: As Atlases.GetAtlas.
    """
    return Atlas(rpcs, rpcs.get_atlas(atlases_pb2.GetAtlasRequest(name=resource_names.atlas(name))))


def atlas_of(rpcs: Rpcs, operation: Operation[Atlas]) -> Atlas | None:
    """What there is of the atlas that an operation builds; None before its first level."""
    try:
        return get_atlas(rpcs, operation.name.removeprefix("operations/"))
    except (NotFound, FailedPrecondition):
        return None


def atlas_table(rpcs: Rpcs, response: atlases_pb2.ListAtlasesResponse) -> Table[Atlas]:
    """The atlases of a ListAtlasesResponse."""
    return Table(
        (Atlas(rpcs, entry) for entry in response.atlases),
        (
            Column("atlas", lambda atlas: atlas.name),
            Column("model", lambda atlas: atlas.model),
            Column("tap", lambda atlas: atlas.tap),
            Column("dataset", lambda atlas: atlas.dataset),
            Column("samples", lambda atlas: atlas.sample_count, numeric=True),
            Column("levels", lambda atlas: [level.grid for level in atlas.proto.levels]),
            Column("state", lambda atlas: atlas.state),
        ),
        title=f"{len(response.atlases)} atlas{'' if len(response.atlases) == 1 else 'es'}",
        names=lambda atlas: (atlas.name,),
    )
