"""Example sets: for each unit of a tap, the images that activate it most and least."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias
from uuid import uuid4

from ortoscope import blobs, resource_names
from ortoscope.arrays import ExampleArrays, load_npz
from ortoscope.durations import Duration, time_limit_message
from ortoscope.errors import InvalidArgument
from ortoscope.files import PROVENANCE, check_result_folder, write_result
from ortoscope.messages import provenance_record
from ortoscope.operations import Operation
from ortoscope.progress import Progress, shown
from ortoscope.rpcs import Rpcs, all_pages
from ortoscope.tables import Column, Table
from ortoscope.v1 import activations_pb2, provenance_pb2

Rank: TypeAlias = Literal["max", "mean", "min"]
"""The number that images are ranked by: a unit's largest value, mean, or smallest value over all sites."""

RANKS = {
    "max": activations_pb2.ExamplesSpec.REDUCTION_MAX,
    "mean": activations_pb2.ExamplesSpec.REDUCTION_MEAN,
    "min": activations_pb2.ExamplesSpec.REDUCTION_MIN,
}

FILES = ("examples.npz", PROVENANCE, "index.html")
"""The files of a saved example set."""

KIND = "example set"
"""What `provenance.json` says of the folder."""


@dataclass(frozen=True)
class Example:
    """An image that activates a unit."""

    image: str
    """Resource name of the image."""

    path: str
    """Its path, relative to the dataset's folder of images."""

    value: float
    """The number that it was ranked by."""

    site: tuple[int, ...]
    """Where in the map; empty for the mean and for vectors."""

    position: tuple[float, ...]
    """The centre of that site in the model's input, as fractions of height and width; empty if there is none."""

    @property
    def index(self) -> int:
        """The image's index in the dataset."""
        return int(self.image.rpartition("/")[2])


@dataclass(frozen=True)
class UnitExamples:
    """The examples of a unit."""

    unit: int
    """The unit, from 0."""

    most: tuple[Example, ...]
    """The images that activate it most, by falling value."""

    least: tuple[Example, ...]
    """The images that activate it least, by rising value."""


class ExampleSet:
    """For every unit of a tap, the images that activate it most and least.

    Attributes:
        proto: The message as the server sent it.
    """

    def __init__(self, rpcs: Rpcs, proto: activations_pb2.ExampleSet) -> None:
        self._rpcs = rpcs
        self.proto = proto

    @property
    def name(self) -> str:
        """Resource name, `exampleSets/{example_set}`."""
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
    def provenance(self) -> provenance_pb2.Provenance:
        """What it was computed from."""
        return self.proto.provenance

    @cached_property
    def arrays(self) -> ExampleArrays:
        """All arrays."""
        return load_npz(ExampleArrays, self._arrays_file)

    @cached_property
    def units(self) -> Table[UnitExamples]:
        """The examples of every unit, with the paths of the images and the positions in them."""
        request = activations_pb2.ListUnitExamplesRequest(parent=self.name)
        response = all_pages(self._rpcs.list_unit_examples, request)
        return Table(
            (
                UnitExamples(entry.unit, tuple(map(_example, entry.most)), tuple(map(_example, entry.least)))
                for entry in response.unit_examples
            ),
            (
                Column("unit", lambda unit: unit.unit, numeric=True),
                Column("largest", lambda unit: unit.most[0].value if unit.most else None, numeric=True),
                Column("image of the largest", lambda unit: unit.most[0].path if unit.most else ""),
                Column("smallest", lambda unit: unit.least[0].value if unit.least else None, numeric=True),
                Column("image of the smallest", lambda unit: unit.least[0].path if unit.least else ""),
            ),
            title=f"{len(response.unit_examples)} units of {self.tap}, with their examples",
            names=lambda unit: (example.path for example in unit.most + unit.least),
        )

    def save(self, folder: str | Path, *, progress: bool | Progress = False) -> Path:
        """Writes the report folder: `examples.npz`, `provenance.json` and `index.html`.

        `examples.npz` is the server's file, byte for byte; `index.html` opens from the disk, without a server.

        Args:
            folder: A new or empty folder, or one that holds an older example set.
            progress: True shows progress on stderr or in the notebook; a function is told of it.

        Returns:
            The path of `index.html`.

        Raises:
            OrtoscopeError: FOLDER_NOT_EMPTY, or as the calls that fetch the result and its images.
            OSError: The disk is full, or the folder cannot be written to.
        """
        with shown(progress, "report") as show:
            return self._save(Path(folder), show)

    def delete(self) -> None:
        """Deletes it on the server."""
        request = activations_pb2.DeleteExampleSetRequest(name=self.name, request_id=str(uuid4()))
        self._rpcs.delete_example_set(request)

    @cached_property
    def _arrays_file(self) -> bytes:
        return blobs.download_bytes(self._rpcs, self.proto.arrays)

    def _save(self, folder: Path, show: Progress) -> Path:
        # Imported here: whoever asks for numbers alone needs no template engine.
        # Only who saves a report waits for what draws it.
        from ortoscope.report.examples import render_examples  # noqa: PLC0415
        from ortoscope.report.sources import example_sources  # noqa: PLC0415

        check_result_folder(folder, KIND, FILES)
        sources = example_sources(self._rpcs, self.proto, self.units, show)
        page = render_examples(self.proto, self.units, sources)
        show("writing the report", 0, 0)
        contents = {"examples.npz": self._arrays_file, "index.html": page.encode()}
        write_result(folder, KIND, contents, provenance_record(self.name, self.proto.spec, self.provenance))
        return folder / "index.html"

    def __repr__(self) -> str:
        return (
            f"<ExampleSet {self.name}: {self.proto.spec.count} most and least activating images of "
            f"{self.proto.unit_count} units of {self.model} {self.tap} on {self.dataset}>"
        )

    def _repr_html_(self) -> str:
        return self.units._repr_html_()


def start_examples(
    rpcs: Rpcs,
    tap: str,
    dataset: str,
    *,
    count: int,
    rank: Rank,
    splits: Sequence[str],
    time_limit: Duration | None,
) -> Operation[ExampleSet]:
    """Starts the search for examples.

    Args:
        rpcs: The calls.
        tap: Resource name of the tap.
        dataset: Resource name of the dataset.
        count: Examples per unit at either end; 0: the server's default.
        rank: The number that images are ranked by.
        splits: Only images of these splits; all if empty.
        time_limit: Longest time from now to the end, waiting included; None: as long as it takes.

    Raises:
        OrtoscopeError: As Activations.FindExamples; RANK_UNKNOWN, DURATION_INVALID.
    """
    if rank not in RANKS:
        raise InvalidArgument(
            f"{rank!r} is nothing to rank by: choose one of {', '.join(RANKS)}.",
            reason="RANK_UNKNOWN",
            field="rank",
            metadata={"rank": str(rank)},
        )
    spec = activations_pb2.ExamplesSpec(tap=tap, dataset=dataset, count=count, reduction=RANKS[rank], splits=splits)
    request = activations_pb2.FindExamplesRequest(
        spec=spec, request_id=str(uuid4()), time_limit=time_limit_message(time_limit)
    )
    return Operation(rpcs, rpcs.find_examples(request))


def _example(proto: activations_pb2.Example) -> Example:
    return Example(proto.image, proto.path, proto.value, tuple(proto.site), tuple(proto.position))
