"""What a report shows besides the numbers: the tap's names, the images and their paths, fetched from the server."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest

from ortoscope import resource_names
from ortoscope.arrays import TopImages
from ortoscope.errors import FailedPrecondition, NotFound
from ortoscope.examples import UnitExamples
from ortoscope.progress import Progress
from ortoscope.report.pictures import Thumbnail, fetch_thumbnails
from ortoscope.rpcs import Rpcs, all_pages
from ortoscope.v1 import activations_pb2, datasets_pb2, dissections_pb2, models_pb2


@dataclass(frozen=True)
class Sources:
    """What a report shows besides the numbers. A result outlives its model and dataset, so all of it may be missing."""

    tap: models_pb2.Tap = field(default_factory=models_pb2.Tap)
    """The tap."""

    pictures: Mapping[int, Thumbnail] = field(default_factory=dict)
    """Pictures by the index of the image."""

    paths: Mapping[int, str] = field(default_factory=dict)
    """Paths by the index of the image."""


def dissection_sources(
    rpcs: Rpcs, dissection: dissections_pb2.Dissection, top_images: TopImages, show: Progress
) -> Sources:
    """Fetches what the report of a dissection shows."""
    spec = dissection.spec
    shown = {int(index) for index in top_images.image.ravel() if index >= 0}
    indices = top_images.image.T.ravel().tolist()  # every unit's first image comes before any unit's second
    return Sources(
        tap=tap_of(rpcs, spec.tap),
        # Labels lie on the whole image, and the masks were compared with them: nothing is cropped here.
        pictures=fetch_thumbnails(rpcs, spec.dataset, indices, None, show),
        paths=paths_of(rpcs, spec.dataset, shown),
    )


def example_sources(
    rpcs: Rpcs, example_set: activations_pb2.ExampleSet, units: Sequence[UnitExamples], show: Progress
) -> Sources:
    """Fetches what the report of an example set shows."""
    spec = example_set.spec
    # Rank by rank, most before least, so that what a page cannot carry is the least telling.
    ends = [[example.index for example in unit.most] for unit in units]
    ends += [[example.index for example in unit.least] for unit in units]
    indices = [index for index in chain.from_iterable(zip_longest(*ends)) if index is not None]
    return Sources(
        tap=tap_of(rpcs, spec.tap),
        pictures=fetch_thumbnails(rpcs, spec.dataset, indices, _preprocessing(rpcs, spec.tap), show),
        paths={example.index: example.path for unit in units for example in (*unit.most, *unit.least)},
    )


def tap_of(rpcs: Rpcs, name: str) -> models_pb2.Tap:
    """A tap by its resource name; what its name tells, if the model is gone."""
    try:
        return rpcs.get_tap(models_pb2.GetTapRequest(name=name))
    except (NotFound, FailedPrecondition):
        tensor = resource_names.short_tap(name)
        return models_pb2.Tap(name=name, tensor=tensor, display_name=tensor)


def _preprocessing(rpcs: Rpcs, tap: str) -> models_pb2.Preprocessing | None:
    try:
        version = rpcs.get_model_version(models_pb2.GetModelVersionRequest(name=resource_names.version_of_tap(tap)))
    except (NotFound, FailedPrecondition):
        return None
    return next((entry.preprocessing for entry in version.inputs if entry.HasField("preprocessing")), None)


def paths_of(rpcs: Rpcs, dataset: str, indices: set[int]) -> dict[int, str]:
    """The paths of images of a dataset by their indices; none if the dataset is gone."""
    try:
        response = all_pages(rpcs.list_images, datasets_pb2.ListImagesRequest(parent=dataset))
    except (NotFound, FailedPrecondition):
        return {}
    return {image.index: image.path for image in response.images if image.index in indices}
