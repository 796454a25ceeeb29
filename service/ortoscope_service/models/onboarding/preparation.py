"""`ortoscope-server prepare`: from a bare ONNX file to a version in the repository; every guess verified, and told."""

import dataclasses
import datetime
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.graph.loading import load_model
from ortoscope_service.models import zoo
from ortoscope_service.models.manifest import Channels, ColorOrder, InputSpec, Manifest, PixelLayout, SizePolicy
from ortoscope_service.models.onboarding.activity import Activity, measure_activity
from ortoscope_service.models.onboarding.backward_graphs import check_graphs, unverified, wanted_graphs
from ortoscope_service.models.onboarding.batch_check import ITEMS, check_batch
from ortoscope_service.models.onboarding.conventions import Convention
from ortoscope_service.models.onboarding.inputs import InputShape, describe_outputs, random_feeds
from ortoscope_service.models.onboarding.labels import check_labels, read_labels
from ortoscope_service.models.onboarding.photos import Photos
from ortoscope_service.models.onboarding.preprocessing_choice import Choice, choose_preprocessing
from ortoscope_service.models.onboarding.report import OnboardingReport
from ortoscope_service.models.onboarding.running import Arrays
from ortoscope_service.models.onboarding.serving import Served, serve, serve_bound, with_states
from ortoscope_service.models.onboarding.wishes import Wishes, convention_for, looks_scaled, preprocessing_for
from ortoscope_service.models.preprocessing import normalize
from ortoscope_service.models.repository import ModelRepository, digest_of, model_id_of

Progress = Callable[[str], None]
"""Told, in words, what is being done."""

_MANY = 0.5
"""Share of units that never change, from which on something is likely to be wrong."""


def prepare(
    source: Path,
    repository: ModelRepository,
    *,
    name: str | None = None,
    labels: Path | Sequence[str] | None = None,
    mean: Channels | None = None,
    std: Channels | None = None,
    color_order: ColorOrder | None = None,
    size_policy: SizePolicy = "squash",
    resize_short_side: int | None = None,
    layout: PixelLayout | None = None,
    size: tuple[int, int] | None = None,
    images: Path | None = None,
    backward: Sequence[str] = (),
    backward_graphs: Sequence[tuple[str, Path]] = (),
    progress: Progress = lambda _: None,
) -> OnboardingReport:
    """Adds a bare ONNX file to the repository.

    1. The file is validated and a fixed batch made free. That is verified: random inputs, later photographs, are run
       as a batch of 3 and one by one, and all outputs and taps compared per item. A model that does not pass is
       served at its own batch.
    2. The preprocessing is taken as given, or guessed from the common conventions; either is tried on photographs.
    3. The states of recurrent layers after every step become taps, where the batch is free in the file.
    4. Backward graphs that were asked for are built, or read, and compared with finite differences of the model.
    5. The version is written with all that was found out.

    Args:
        source: The file.
        repository: Where it goes.
        name: Id in the repository; made of the file name if None.
        labels: Names of the classes, or the file that holds them, one per line.
        mean: Subtracted, on RGB pixels 0..255. None: 0 if `std` is given, else the conventions are tried.
        std: Divides. None: 1 if `mean` is given.
        color_order: Order of the colours. None: RGB if `mean` or `std` is given, else both are tried.
        size_policy: How a picture of another size is made to fit.
        resize_short_side: For "crop"; 256/224 of the input's side if None.
        layout: Axes of the image input; guessed from where the channels are if None.
        size: Height and width where the model leaves them free; 224 x 224 if None.
        images: Folder of pictures to verify on; the sample photos if None.
        backward: Taps whose backward graphs are built and kept; an empty name stands for all outputs that are taps.
        backward_graphs: Taps and the user's own backward graphs of them.
        progress: Told what is being done.

    Raises:
        OrtoscopeError: As `load_model`, `read_labels`, `describe_inputs`, `photos_of_folder`, `Session`,
            `wanted_graphs`, `check_graphs` and `ModelRepository.add` raise; `NO_TAPS`, `LABEL_COUNT`,
            `PREPROCESSING_WITHOUT_IMAGE`, `INVALID_MEAN`, `INVALID_STD`, `INVALID_COLOR_ORDER`, `INVALID_SIZE`.
    """
    wishes = Wishes(
        labels=read_labels(labels) if isinstance(labels, Path) else tuple(labels or ()),
        mean=mean,
        std=std,
        color_order=color_order,
        size_policy=size_policy,
        resize_short_side=resize_short_side,
        layout=layout,
        size=size,
        images=images,
        backward=tuple(backward),
        backward_graphs=tuple(backward_graphs),
    )
    progress("reading the model")
    model, content = with_states(load_model(source), source.read_bytes())
    return _onboard(model, content, name or model_id_of(source.name), repository, wishes, progress)


def prepare_zoo(name: str, repository: ModelRepository, *, progress: Progress = lambda _: None) -> OnboardingReport:
    """Builds a model of the zoo and adds it to the repository under its own name.

    Raises:
        OrtoscopeError: As `zoo.build` and `ModelRepository.add` raise.
    """
    progress("building the model")
    built = zoo.build(name)
    model, content = with_states(load_model(built.model), built.model)
    digest = digest_of(content)
    for number in repository.versions(name) if name in repository.names() else ():
        version = repository.get(name, number)
        if version.manifest.digest == digest:
            return OnboardingReport(version, False, digest, "free, as in the file", None, (), None)
    wishes = Wishes(labels=built.labels)
    if (known := built.preprocessing) is not None:
        wishes = dataclasses.replace(
            wishes,
            mean=known.mean,
            std=known.std,
            color_order=known.color_order,
            size_policy=known.size_policy,
            resize_short_side=known.resize_short_side,
        )
    return _onboard(model, content, name, repository, wishes, progress)


def _onboard(
    original: ir.Model, content: bytes, name: str, repository: ModelRepository, wishes: Wishes, progress: Progress
) -> OnboardingReport:
    check_labels(original, wishes.labels)
    progress("verifying the batch on random inputs")
    served = serve(original, content, wishes)
    wanted = wanted_graphs(served, wishes)
    progress("verifying the preprocessing on photographs")
    choice = choose_preprocessing(served, wishes)
    activity = None
    if choice is not None and choice.photos is not None:
        progress("looking at all taps on photographs")
        served, activity = _look_at_taps(served, choice, wishes)
    graphs = check_graphs(served, wanted, _feeds(served, choice, wishes), progress) if wanted else ()
    warnings = [*_warnings(served, choice, activity, wishes), *unverified(graphs)]
    progress("writing the version")
    manifest = Manifest(
        digest=digest_of(served.content),
        create_time=datetime.datetime.now(datetime.UTC).replace(microsecond=0),
        size_bytes=len(served.content),
        opset=original.opset_imports.get("", 0),
        inputs=tuple(_input_spec(spec, choice, wishes) for spec in served.inputs),
        outputs=describe_outputs(served.model),
        fixed_batch=served.fixed_batch,
        taps=served.taps,
        class_labels=wishes.labels,
        notes=(*warnings, *_remarks(served, choice)),
        backward=tuple(graph.entry for graph in graphs),
    )
    before = repository.versions(name) if name in repository.names() else []
    version = repository.add(name, served.content, manifest, {graph.entry.tap: graph.content for graph in graphs})
    return OnboardingReport(
        version,
        version.version not in before,
        digest_of(content),
        served.batch,
        choice.verdict if choice else None,
        choice.predictions if choice else (),
        activity,
        tuple(warnings),
    )


def _input_spec(spec: InputShape, choice: Choice | None, wishes: Wishes) -> InputSpec:
    if spec.image is None or choice is None:
        return InputSpec(spec.name, "tensor", spec.data_type, spec.shape, None)
    verdict = choice.verdict
    convention = convention_for(spec.image, verdict.convention, wishes)
    preprocessing = preprocessing_for(spec.image, convention, wishes, verdict.text)
    return InputSpec(spec.name, "image", spec.data_type, spec.shape, preprocessing)


def _look_at_taps(served: Served, choice: Choice, wishes: Wishes) -> tuple[Served, Activity | None]:
    """Runs photographs through all taps: the check of the batch once more, and how alive the units are."""
    assert choice.photos is not None
    photos, convention = choice.photos, choice.verdict.convention
    feeds = _photo_feeds(served, photos, convention, wishes)
    if served.fixed_batch == 0:
        check = check_batch(served.model, served.taps, feeds)
        if not check.passed:
            served = serve_bound(served.original, served.original_content, wishes, f"on photographs, {check.detail}")
            feeds = _photo_feeds(served, photos, convention, wishes)
    try:
        return served, measure_activity(served.model, served.taps, feeds, served.fixed_batch or ITEMS)
    except OrtoscopeError:
        return served, None


def _feeds(served: Served, choice: Choice | None, wishes: Wishes) -> Arrays:
    """A batch of photographs for the image inputs where there are any, random numbers for all others."""
    if choice is not None and choice.photos is not None:
        return _photo_feeds(served, choice.photos, choice.verdict.convention, wishes)
    return random_feeds(served.model, served.inputs, served.fixed_batch or ITEMS)


def _photo_feeds(served: Served, photos: Photos, convention: Convention, wishes: Wishes) -> Arrays:
    """A batch of photographs for the image inputs, random numbers for the others."""
    items = served.fixed_batch or ITEMS
    feeds = random_feeds(served.model, served.inputs, items)
    for spec in served.inputs:
        if spec.image is not None:
            preprocessing = preprocessing_for(spec.image, convention, wishes, "")
            views = photos.views(preprocessing)[:, 0]
            pictures = normalize(views[np.arange(items) % len(views)], preprocessing)
            feeds[spec.name] = _shifted(pictures, len(views))
    return feeds


def _shifted(pictures: npt.NDArray[np.float32], different: int) -> npt.NDArray[np.float32]:
    """Shifts pictures that come a second time, by one more pixel each time, so that mixed-up items show."""
    return np.stack([np.roll(picture, i // different, axis=1) for i, picture in enumerate(pictures)])


def _warnings(served: Served, choice: Choice | None, activity: Activity | None, wishes: Wishes) -> list[str]:
    """What must not be overlooked."""
    warnings = list(choice.verdict.warnings) if choice else []
    if looks_scaled(wishes):
        warnings.append(
            "MEAN AND STD LOOK LIKE NUMBERS FOR PIXELS 0..1; they apply to pixels 0..255: multiply both by 255 if so."
        )
    if served.fixed_batch:
        warnings.append(served.note)
    if activity is not None and activity.not_finite:
        first = ", ".join(f"'{name}'" for name in activity.not_finite[:3])
        count = len(activity.not_finite)
        warnings.append(f"{count} TAPS HAVE INFINITE VALUES OR NaN ON PHOTOGRAPHS, the first: {first}.")
    if activity is not None and activity.constant > _MANY * activity.units:
        share = activity.constant / activity.units
        warnings.append(f"{share:.0%} OF ALL UNITS NEVER CHANGE ON PHOTOGRAPHS: the input range may be wrong.")
    return warnings


def _remarks(served: Served, choice: Choice | None) -> list[str]:
    """What else a user of the model should know."""
    remarks = [served.note] if served.note and not served.fixed_batch else []
    if choice is not None and choice.photos is not None and choice.photos.skipped:
        remarks.append(f"Pictures that could not be read were left out: {', '.join(choice.photos.skipped[:10])}.")
    remarks += [
        f"Input '{spec.name}' looks like an image of {spec.data_type}; pictures are made into float32 only, so it is "
        "served as a tensor."
        for spec in served.inputs
        if spec.data_type in {"uint8", "float16", "float64"}
        and len(spec.shape) == 4
        and {1, 3} & {spec.shape[1], spec.shape[-1]}
    ]
    return remarks
