"""The search for features with several uses: patches that an atlas proposes, tested on pictures beside noise."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ortoscope import resource_names
from ortoscope.atlas_cells import Cell
from ortoscope.errors import InvalidArgument, NotFound
from ortoscope.inputs import Inputs
from ortoscope.patches import PatchTest, PatchTrial, run_patch_test
from ortoscope.progress import Progress, shown
from ortoscope.rpcs import Rpcs, all_pages
from ortoscope.tables import Column, Table
from ortoscope.v1 import atlases_pb2, datasets_pb2, models_pb2

if TYPE_CHECKING:
    from ortoscope.atlases import Atlas

_PICTURES = 32
"""Pictures of the source class that patches are tested on, unless somebody names some."""


@dataclass(frozen=True, eq=False)
class PatchProposal:
    """A crop of a real image that may push a class."""

    cell: Cell
    """The cell that it stands for."""

    image: str
    """Resource name of the image."""

    crop: tuple[float, float, float, float]
    """The crop as fractions of the image: left, top, right, bottom."""

    png: bytes
    """The crop as a PNG."""

    push: float
    """Attribution of the cell to the target minus that to the source."""

    def picture(self) -> Image.Image:
        """The crop as a PIL image."""
        return Image.open(io.BytesIO(self.png)).convert("RGB")

    @property
    def label(self) -> str:
        """The class that the cell speaks for most; empty if it has none."""
        first = self.cell.classes[:1]
        return first[0].label or str(first[0].index) if first else ""

    def _repr_png_(self) -> bytes:
        return self.png


@dataclass(frozen=True, eq=False)
class PatchFinding:
    """A proposal and what its best trial did."""

    proposal: PatchProposal
    """The proposal."""

    test: PatchTest
    """All trials of it."""

    best: PatchTrial
    """The trial that turned the largest share of the pictures; of equal ones the smallest patch."""

    interval: tuple[float, float]
    """Interval of the share of pictures that it turned, corrected for the number of trials that were made."""

    noise_interval: tuple[float, float]
    """The same for the controls of noise, as though each picture had had one."""

    @property
    def beyond_noise(self) -> bool:
        """Whether it turns more than noise does: the intervals do not meet."""
        return self.interval[0] > self.noise_interval[1]


class PatchSearch(Table[PatchFinding]):
    """Proposals by falling share of the pictures that they turned.

    Attributes:
        trials: Trials that were made, which the intervals are corrected for.
        confidence: The confidence of each interval that makes 95 % over all trials (Bonferroni).
    """

    def __init__(self, found: Iterable[tuple[PatchProposal, PatchTest]], source: str, target: str) -> None:
        tested = [(proposal, test) for proposal, test in found if len(test)]
        self.trials = sum(len(test) for _, test in tested)
        self.confidence = 1 - 0.05 / max(self.trials, 1)
        rows = [self._finding(proposal, test) for proposal, test in tested]
        rows.sort(key=lambda row: (-row.best.flip_rate, -row.proposal.push))
        super().__init__(
            rows,
            (
                Column("cell", lambda row: f"{row.proposal.cell.row}, {row.proposal.cell.column}"),
                Column("labelled", lambda row: row.proposal.label),
                Column("push", lambda row: row.proposal.push, numeric=True),
                Column("size", lambda row: row.best.size, numeric=True),
                Column("place", lambda row: row.best.place.replace("_", " ")),
                Column("turned", lambda row: f"{row.best.flips} of {row.best.pictures}", numeric=True),
                Column("interval", lambda row: _percent(row.interval), numeric=True),
                Column("with noise", lambda row: f"{row.best.control_flip_rate:.0%}", numeric=True),
                Column("noise's interval", lambda row: _percent(row.noise_interval), numeric=True),
                Column("beyond noise", lambda row: row.beyond_noise),
            ),
            title=(
                f"Patches that turn {source} into {target}: the best of {self.trials} trials with {len(rows)} "
                f"proposals; intervals hold for all trials together (95 %)"
            ),
        )

    def _finding(self, proposal: PatchProposal, test: PatchTest) -> PatchFinding:
        best = max(test, key=lambda trial: (trial.flip_rate, -trial.size))
        noise = round(best.control_flip_rate * best.pictures)
        return PatchFinding(
            proposal=proposal,
            test=test,
            best=best,
            interval=wilson_interval(best.flips, best.pictures, self.confidence),
            noise_interval=wilson_interval(noise, best.pictures, self.confidence),
        )


def wilson_interval(successes: float, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share (Wilson 1927).

    Args:
        successes: How many of the trials.
        trials: How many; 0 gives the interval from 0 to 1.
        confidence: Its confidence, between 0 and 1.

    Returns:
        Its ends, in [0, 1].
    """
    if trials <= 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / trials
    centre = share + z**2 / (2 * trials)
    half = z * sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    scale = 1 + z**2 / trials
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def propose_patches(
    rpcs: Rpcs, atlas: str, source: int | str, target: int | str, *, grid: int, count: int
) -> Table[PatchProposal]:
    """Crops that may turn a class into another; see `Atlas.propose_patches`.

    Raises:
        OrtoscopeError: As Atlases.ProposePatches.
    """
    request = atlases_pb2.ProposePatchesRequest(
        atlas=atlas, grid=grid, source=str(source), target=str(target), count=count
    )
    return proposal_table(rpcs.propose_patches(request), str(source), str(target))


def proposal_table(response: atlases_pb2.ProposePatchesResponse, source: str, target: str) -> Table[PatchProposal]:
    """The proposals of a ProposePatchesResponse."""
    return Table(
        (_proposal(entry) for entry in response.proposals),
        (
            Column("cell", lambda entry: f"{entry.cell.row}, {entry.cell.column}"),
            Column("labelled", lambda entry: entry.label),
            Column("push", lambda entry: entry.push, numeric=True),
            Column("samples", lambda entry: entry.cell.count, numeric=True),
            Column("image", lambda entry: entry.image),
        ),
        title=f"{len(response.proposals)} crops that may turn {source} into {target}; untested",
    )


def search_patches(
    rpcs: Rpcs,
    atlas: "Atlas",
    source: int | str,
    target: int | str,
    over: Inputs,
    *,
    grid: int,
    count: int,
    sizes: Sequence[float],
    places: Sequence[str],
    controls: int,
    seed: int,
    progress: bool | Progress,
) -> PatchSearch:
    """Proposes patches and tests each; see `Atlas.search_patches`.

    Raises:
        OrtoscopeError: As Atlases.ProposePatches and Visualization.TestPatch; PICTURES_MISSING, CONTROLS_MISSING.
        OSError: A picture cannot be read.
    """
    if controls < 1:
        raise InvalidArgument(
            "A patch is told from noise by at least one control for each trial.",
            reason="CONTROLS_MISSING",
            field="controls",
        )
    model = rpcs.get_model_version(
        models_pb2.GetModelVersionRequest(name=resource_names.version_of_tap(atlas.proto.spec.tap))
    )
    proposals = propose_patches(rpcs, atlas.name, source, target, grid=grid, count=count)
    pictures = _pictures(rpcs, atlas, source, over) if proposals else []
    found = []
    with shown(progress, "search-patches") as show:
        for number, proposal in enumerate(proposals):
            show("testing", number, len(proposals))
            test = run_patch_test(
                rpcs,
                model,
                proposal.png,
                pictures,
                sizes=sizes,
                places=places,
                target=class_index(atlas, target),
                controls=controls,
                seed=seed,
            )
            found.append((proposal, test))
        show("testing", len(proposals), len(proposals))
    return PatchSearch(found, str(source), str(target))


def class_index(atlas: "Atlas", class_: int | str) -> int | str:
    """A class by its index, where text is one and no label; otherwise as it was given."""
    if isinstance(class_, str) and class_.isdecimal() and class_ not in atlas.class_labels:
        return int(class_)
    return class_


def _pictures(rpcs: Rpcs, atlas: "Atlas", source: int | str, over: Inputs) -> Inputs:
    """The pictures that were given, or images of the source class in the atlas's dataset."""
    if not _is_empty(over):
        return over
    dataset = atlas.proto.spec.dataset
    index = class_index(atlas, source)
    label = source if isinstance(index, str) else (atlas.class_labels[index] if index < len(atlas.class_labels) else "")
    images = all_pages(rpcs.list_images, datasets_pb2.ListImagesRequest(parent=dataset)).images
    names = [image.name for image in images if label and image.class_name == label]
    if not names and atlas.samples.top_class is not None and label in atlas.class_labels:
        number = atlas.class_labels.index(label)
        won = atlas.samples.image[atlas.samples.top_class == number]
        names = [resource_names.image(dataset, int(entry)) for entry in np.unique(won)]
    if not names:
        raise NotFound(
            f"The dataset of {atlas.name} has no image of the class {source}; name the pictures to paste patches on.",
            reason="PICTURES_MISSING",
            field="over",
            metadata={"class": str(source)},
        )
    return names[:_PICTURES]


def _is_empty(over: Inputs) -> bool:
    return isinstance(over, Sequence) and not isinstance(over, (str, bytes)) and not over


def _proposal(proto: atlases_pb2.PatchProposal) -> PatchProposal:
    crop = proto.crop
    return PatchProposal(
        cell=Cell.from_proto(proto.cell),
        image=proto.image,
        crop=(crop.left, crop.top, crop.right, crop.bottom),
        png=proto.png,
        push=proto.push,
    )


def _percent(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.0%} to {interval[1]:.0%}"
