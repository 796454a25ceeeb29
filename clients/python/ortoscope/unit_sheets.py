"""Unit sheets: a picture of what each of many units looks for."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias
from uuid import uuid4

import numpy as np
import numpy.typing as npt
from PIL import Image

from ortoscope import blobs, resource_names
from ortoscope.arrays import Float32, Int64, load_npz
from ortoscope.durations import Duration, time_limit_message
from ortoscope.errors import InvalidArgument, NotFound
from ortoscope.examples import ExampleSet, UnitExamples
from ortoscope.files import PROVENANCE, check_result_folder, write_result
from ortoscope.messages import provenance_record
from ortoscope.operations import Operation
from ortoscope.picture_specs import recipe_of, spec_unknown
from ortoscope.presets import list_presets
from ortoscope.progress import Progress, shown
from ortoscope.rpcs import Rpcs
from ortoscope.tables import Column, Table
from ortoscope.v1 import provenance_pb2, visualization_pb2
from ortoscope.visualization import end_word, side_by_side
from ortoscope.visualizing import recipe_message

UnitNumber: TypeAlias = Literal["channel", "neuron"]
"""Which number of a unit is climbed: the mean over all sites, or the middle site."""

KINDS = {
    "channel": visualization_pb2.UnitSheetSpec.KIND_CHANNEL,
    "neuron": visualization_pb2.UnitSheetSpec.KIND_NEURON,
}

FILES = ("sheet.png", "pictures.npz", PROVENANCE, "gallery.html")
"""The files of a saved unit sheet."""

VERB = "visualize-units"
"""What the specification in a sheet's metadata says of what made it."""

KIND = "unit sheet"
"""What `provenance.json` says of the folder."""


@dataclass(frozen=True, eq=False)
class UnitSheetArrays:
    """The pictures of U units and how their climbs went."""

    unit: Int64
    """(U,) int64: the units, in the order of the request."""

    picture: npt.NDArray[np.uint8]
    """(U, height, width, channels) uint8: the pictures."""

    objective: Float32
    """(U,) float32: the objective on the clean picture."""

    end: npt.NDArray[np.uint8]
    """(U,) uint8: why the climb ended; `UnitPicture.end` has it as a word."""

    steps: Int64
    """(U,) int64: steps made in the attempt that was kept."""

    attempt: Int64
    """(U,) int64: the attempt that was kept."""

    redirected_steps: Int64
    """(U,) int64: steps in which the gradient was redirected, because there was none."""


@dataclass(frozen=True, eq=False)
class UnitPicture:
    """What a unit looks for."""

    unit: int
    """The unit, from 0."""

    pixels: npt.NDArray[np.uint8]
    """(height, width, channels) uint8."""

    objective: float
    """The objective on the clean picture."""

    end: str
    """Why the climb ended: "steps", "converged", "plateau", "budget", "dead" or "not_finite"."""

    steps: int
    """Steps made in the attempt that was kept."""

    attempt: int
    """The attempt that was kept."""

    redirected_steps: int
    """Steps in which the gradient was redirected, because there was none."""

    def image(self) -> Image.Image:
        """The picture as a PIL image."""
        pixels = self.pixels[..., 0] if self.pixels.shape[-1] == 1 else self.pixels
        return Image.fromarray(pixels)

    def _repr_png_(self) -> bytes:
        return png_of(self.image())


class UnitSheet:
    """The pictures of many units of a tap; fetched when they are first asked for.

    Attributes:
        proto: The message as the server sent it.
    """

    def __init__(self, rpcs: Rpcs, proto: visualization_pb2.UnitSheet) -> None:
        self._rpcs = rpcs
        self.proto = proto

    @property
    def name(self) -> str:
        """Resource name, `unitSheets/{unit_sheet}`."""
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
    def provenance(self) -> provenance_pb2.Provenance:
        """What it was computed from."""
        return self.proto.provenance

    @cached_property
    def arrays(self) -> UnitSheetArrays:
        """All arrays."""
        return load_npz(UnitSheetArrays, self._arrays_file)

    @property
    def pictures(self) -> npt.NDArray[np.uint8]:
        """(U, height, width, channels) uint8: all pictures, in the order of the request."""
        return self.arrays.picture

    @cached_property
    def units(self) -> Table[UnitPicture]:
        """The pictures and how their climbs went, as a table in the order of the request."""
        arrays = self.arrays
        return Table(
            (
                UnitPicture(
                    unit=int(unit),
                    pixels=arrays.picture[row],
                    objective=float(arrays.objective[row]),
                    end=end_word(int(arrays.end[row])),
                    steps=int(arrays.steps[row]),
                    attempt=int(arrays.attempt[row]),
                    redirected_steps=int(arrays.redirected_steps[row]),
                )
                for row, unit in enumerate(arrays.unit)
            ),
            (
                Column("unit", lambda entry: entry.unit, numeric=True),
                Column("objective", lambda entry: entry.objective, numeric=True),
                Column("end", lambda entry: entry.end),
                Column("steps", lambda entry: entry.steps, numeric=True),
                Column("attempt", lambda entry: entry.attempt, numeric=True),
                Column("redirected", lambda entry: entry.redirected_steps, numeric=True),
            ),
            title=f"{len(arrays.unit)} units of {self.tap}",
        )

    @cached_property
    def png(self) -> bytes:
        """All pictures side by side as a PNG whose metadata hold the whole specification.

        A sheet that is too large for the server to draw is drawn here, and has none.
        """
        return blobs.download_bytes(self._rpcs, self.proto.sheet) if self.proto.sheet else png_of(self.image())

    def picture(self, unit: int) -> UnitPicture:
        """The picture of a unit.

        Raises:
            NotFound: UNIT_NOT_ON_SHEET.
        """
        for entry in self.units:
            if entry.unit == unit:
                return entry
        raise NotFound(
            f"Unit {unit} is not on this sheet of {len(self.units)} units of {self.tap}.",
            reason="UNIT_NOT_ON_SHEET",
            field="unit",
            metadata={"unit": str(unit)},
        )

    def image(self, columns: int = 0) -> Image.Image:
        """All pictures in rows, as a PIL image.

        Args:
            columns: How many in a row; 0: as the server has them.
        """
        pictures = [entry.image() for entry in self.units]
        return side_by_side(pictures, columns or self.proto.columns)

    def save(
        self, folder: str | Path, *, examples: ExampleSet | None = None, progress: bool | Progress = False
    ) -> Path:
        """Writes the report folder: `sheet.png`, `pictures.npz`, `provenance.json` and `gallery.html`.

        `sheet.png` and `pictures.npz` are the server's files, byte for byte; `gallery.html` opens from the disk,
        without a server.

        Args:
            folder: A new or empty folder, or one that holds an older unit sheet.
            examples: Examples of the same tap, which the gallery shows beside the pictures.
            progress: True shows progress on stderr or in the notebook; a function is told of it.

        Returns:
            The path of `gallery.html`.

        Raises:
            InvalidArgument: EXAMPLES_OF_OTHER_TAP.
            OrtoscopeError: FOLDER_NOT_EMPTY, or as the calls that fetch the result and its images.
            OSError: The disk is full, or the folder cannot be written to.
        """
        if examples is not None and examples.proto.spec.tap != self.proto.spec.tap:
            raise InvalidArgument(
                f"The examples are of {examples.model} {examples.tap}, the pictures of {self.model} {self.tap}.",
                reason="EXAMPLES_OF_OTHER_TAP",
                field="examples",
                metadata={"tap": examples.proto.spec.tap},
            )
        with shown(progress, "report") as show:
            return self._save(Path(folder), examples, show)

    def delete(self) -> None:
        """Deletes it on the server."""
        request = visualization_pb2.DeleteUnitSheetRequest(name=self.name, request_id=str(uuid4()))
        self._rpcs.delete_unit_sheet(request)

    @cached_property
    def _arrays_file(self) -> bytes:
        return blobs.download_bytes(self._rpcs, self.proto.arrays)

    def _save(self, folder: Path, examples: ExampleSet | None, show: Progress) -> Path:
        # Imported here: whoever asks for pictures alone needs no template engine.
        # Only who saves a report waits for what draws it.
        from ortoscope.report.gallery import SHOWN_EXAMPLES, render_unit_sheet  # noqa: PLC0415 - templates, only for a page
        from ortoscope.report.sources import example_sources, tap_of  # noqa: PLC0415

        check_result_folder(folder, KIND, FILES)
        of_sheet = set(self.arrays.unit.tolist())
        found = () if examples is None else tuple(entry for entry in examples.units if entry.unit in of_sheet)
        drawn = [UnitExamples(entry.unit, entry.most[:SHOWN_EXAMPLES], entry.least[:SHOWN_EXAMPLES]) for entry in found]
        sources = None if examples is None else example_sources(self._rpcs, examples.proto, drawn, show)
        tap = tap_of(self._rpcs, self.proto.spec.tap)
        presets = {preset.name: preset.settings for preset in list_presets(self._rpcs)}
        page = render_unit_sheet(
            self.proto,
            self.units,
            tap,
            defaults=presets.get(self.proto.spec.recipe.preset),
            example_set=None if examples is None else examples.proto,
            examples=found,
            sources=sources,
        )
        show("writing the report", 0, 0)
        contents = {"sheet.png": self.png, "pictures.npz": self._arrays_file, "gallery.html": page.encode()}
        write_result(folder, KIND, contents, provenance_record(self.name, self.proto.spec, self.provenance))
        return folder / "gallery.html"

    def __repr__(self) -> str:
        size = f"{self.proto.width} x {self.proto.height}"
        return f"<UnitSheet {self.name}: {size} pictures of units of {self.model} {self.tap}>"

    def _repr_png_(self) -> bytes:
        return png_of(self.image())


def start_unit_sheet(
    rpcs: Rpcs,
    tap: str,
    units: Sequence[int],
    *,
    kind: UnitNumber,
    negative: bool,
    recipe: visualization_pb2.VisualizationRecipe,
    time_limit: Duration | None,
) -> Operation[UnitSheet]:
    """Starts the visualization of many units.

    Args:
        rpcs: The calls.
        tap: Resource name of the tap.
        units: The units; all if empty.
        kind: Which number of a unit is climbed.
        negative: Whether it is made small instead of large.
        recipe: How it is climbed.
        time_limit: Longest time from now to the end, waiting included; None: as long as it takes.

    Raises:
        OrtoscopeError: As Visualization.VisualizeUnits; KIND_UNKNOWN, DURATION_INVALID.
    """
    if kind not in KINDS:
        raise InvalidArgument(
            f"{kind!r} is no number of a unit: choose one of {', '.join(KINDS)}.",
            reason="KIND_UNKNOWN",
            field="kind",
            metadata={"kind": str(kind)},
        )
    spec = visualization_pb2.UnitSheetSpec(
        tap=tap, units=[int(unit) for unit in units], kind=KINDS[kind], negative=negative, recipe=recipe
    )
    request = visualization_pb2.VisualizeUnitsRequest(
        spec=spec, request_id=str(uuid4()), time_limit=time_limit_message(time_limit)
    )
    return Operation(rpcs, rpcs.visualize_units(request))


def start_again(rpcs: Rpcs, spec: Mapping[str, Any]) -> Operation[UnitSheet]:
    """Starts what made a sheet, from the specification in its metadata.

    Raises:
        InvalidArgument: SPEC_UNKNOWN: it lacks a part.
        OrtoscopeError: As Visualization.VisualizeUnits.
    """
    preset, settings, seed = recipe_of(spec)
    tap, units = str(spec.get("tap", "")), spec.get("units")
    if not tap or not isinstance(units, list) or not all(isinstance(unit, int) for unit in units):
        raise spec_unknown(spec)
    return start_unit_sheet(
        rpcs,
        resource_names.tap(str(spec.get("model", "")), tap),
        units,
        kind=spec.get("kind", "channel"),
        negative=spec.get("negative") is True,
        recipe=recipe_message(preset, settings, seed, None),
        time_limit=None,
    )


def unit_sheet_table(rpcs: Rpcs, response: visualization_pb2.ListUnitSheetsResponse) -> Table[UnitSheet]:
    """The unit sheets of a ListUnitSheetsResponse."""
    return Table(
        (UnitSheet(rpcs, entry) for entry in response.unit_sheets),
        (
            Column("unit sheet", lambda sheet: sheet.name),
            Column("model", lambda sheet: sheet.model),
            Column("tap", lambda sheet: sheet.tap),
            Column("units", lambda sheet: len(sheet.proto.spec.units), numeric=True),
            Column("preset", lambda sheet: sheet.proto.spec.recipe.preset),
        ),
        title=f"{len(response.unit_sheets)} unit sheets",
        names=lambda sheet: (sheet.name,),
    )


def png_of(picture: Image.Image) -> bytes:
    """A picture as PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
