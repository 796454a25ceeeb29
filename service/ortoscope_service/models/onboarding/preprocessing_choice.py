"""Trying the conventions on photographs, and settling on one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.models.manifest import Channels, ColorOrder, Preprocessing
from ortoscope_service.models.onboarding.conventions import Convention, conventions
from ortoscope_service.models.onboarding.evidence import SHARE_OF_PHOTO, Trial, Verdict, judge, unjudged
from ortoscope_service.models.onboarding.inputs import ImageGeometry
from ortoscope_service.models.onboarding.photos import Photos, photos_of_folder, sample_photos, shuffled
from ortoscope_service.models.onboarding.report import Prediction
from ortoscope_service.models.onboarding.serving import Served
from ortoscope_service.models.onboarding.subject import Subject
from ortoscope_service.models.onboarding.wishes import Wishes, given_convention, preprocessing_for


@dataclass(frozen=True)
class Choice:
    """The convention that is used, and what photographs showed."""

    verdict: Verdict
    """The convention, and how sure it is."""

    photos: Photos | None = None
    """The photographs; None if nothing was tried."""

    predictions: tuple[Prediction, ...] = ()
    """What the model makes of each, if it is a classifier."""


def choose_preprocessing(served: Served, wishes: Wishes) -> Choice | None:
    """Tries the conventions on photographs: those of the user, and if they do not settle it, the sample photos.

    Args:
        served: The model.
        wishes: What the user knows. A mean and std given are used whatever the photographs say.

    Returns:
        The choice; None for a model without an image input.

    Raises:
        OrtoscopeError: `NO_IMAGES` if the user's folder holds none.
    """
    images = {spec.image for spec in served.inputs if spec.image is not None}
    if not images:
        return None
    image = next(iter(images))
    given = given_convention(wishes, image.channels)
    default = conventions(image.channels, wishes.color_order)[0]
    if len(images) > 1:
        return Choice(unjudged(given, default, "the image inputs differ in size or channels; nothing was tried"))
    samples = sample_photos()
    sources = [photos_of_folder(wishes.images)] if wishes.images is not None else []
    sources += [samples] if samples is not None else []
    if not sources:
        why = "there were no pictures to try it on; give --images, or install the sample photos (ortoscope[demo])"
        return Choice(unjudged(given, default, why))
    subject_shape = preprocessing_for(image, given or default, wishes, "")
    try:
        subject = Subject(
            served.model, served.inputs, served.taps, subject_shape, served.fixed_batch, len(wishes.labels)
        )
        found = [_try_on(photos, subject, subject_shape, image, given, wishes) for photos in sources[:1]]
        if found[0].verdict.status != "verified" and len(sources) > 1:
            found.append(_try_on(sources[1], subject, subject_shape, image, given, wishes))
    except OrtoscopeError as error:
        return Choice(unjudged(given, default, f"the model does not run on photographs: {error.message}"))
    settled = next((looked for looked in found if looked.verdict.status == "verified"), found[0])
    if settled is not found[0]:
        first = found[0].photos
        origin = first.origin if first else ""
        settled = replace(
            settled, verdict=replace(settled.verdict, text=f"{settled.verdict.text} ({origin} did not settle it)")
        )
    return settled


def _try_on(
    photos: Photos,
    subject: Subject,
    shape: Preprocessing,
    image: ImageGeometry,
    given: Convention | None,
    wishes: Wishes,
) -> Choice:
    views = photos.views(shape)
    candidates = list(conventions(image.channels, wishes.color_order if given is None else None))
    if given is not None:
        others = [replace(given, color_order=order) for order in dict.fromkeys(c.color_order for c in candidates)]
        known = {_numbers(convention) for convention in others}
        candidates = [*others, *(convention for convention in candidates if _numbers(convention) not in known)]
    # One view is enough for recorded statistics, and to see that nothing is there to be seen.
    verdict = _verdict(photos, views[:, :1], subject, candidates, given)
    promising = max(trial.share for trial in verdict.trials) >= SHARE_OF_PHOTO
    if views.shape[1] > 1 and promising and not verdict.by_batch_normalization:
        verdict = _verdict(photos, views, subject, candidates, given)
    predictions: tuple[Prediction, ...] = ()
    if subject.class_output:
        whole = Trial.of(verdict.convention, subject.respond(views[:, :1], verdict.convention))
        predictions = _predictions(whole, photos, wishes.labels)
    return Choice(verdict, photos, predictions)


def _verdict(
    photos: Photos,
    views: npt.NDArray[np.uint8],
    subject: Subject,
    candidates: Sequence[Convention],
    given: Convention | None,
) -> Verdict:
    return judge(
        [Trial.of(convention, subject.respond(views, convention)) for convention in candidates],
        photos,
        lambda convention: Trial.of(convention, subject.respond(shuffled(views), convention)),
        given=given,
        classifier=bool(subject.class_output),
        batch_normalizations=subject.batch_normalizations,
    )


def _numbers(convention: Convention) -> tuple[Channels, Channels, ColorOrder]:
    return convention.mean, convention.std, convention.color_order


def _predictions(trial: Trial, photos: Photos, labels: tuple[str, ...]) -> tuple[Prediction, ...]:
    top = trial.probabilities.argmax(axis=1)
    return tuple(
        Prediction(name, int(index), labels[index] if labels else "", float(probabilities[index]))
        for name, index, probabilities in zip(photos.names, top, trial.probabilities, strict=True)
    )
