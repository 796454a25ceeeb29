"""Which convention a model was trained with, told from how it responds to real photographs.

Three kinds of evidence, the strongest first:

1. *Batch normalization.* The statistics recorded in training are those of the layer's input; under the right convention
   photographs reproduce them. On EfficientNet-Lite0 (unfolded) the divergence is 0.02 to 0.07 under the right one
   and at least 0.35 under any of another range.
2. *Class confidence.* Under the right convention a trained classifier singles out one class per photograph, another
   for another photograph, and less so once the photograph's patches are shuffled. Softmax probabilities grow with
   the scale of the input whether or not it makes sense, so candidates are ranked by a number that does not: the peak,
   by how many standard deviations the top logit stands above the mean of the logits.
3. *Activation statistics.* How much of the variation of a late tap is due to the photograph, rather than common to
   all or due to the view. It ranks conventions; it proves none. (A vision transformer trained with ImageNet's mean and
   std: 0.68 under these, 0.62 to 0.66 under 0..1 and -1..1, at most 0.53 in BGR, at most 0.29 not scaled.)

Random weights pass none of these: nearly all of the variation of their logits (over 0.9 in deep networks) is common to
all photographs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from ortoscope_service.models.onboarding.conventions import Convention, conventions
from ortoscope_service.models.onboarding.photos import Photos
from ortoscope_service.models.onboarding.subject import Response, chance_peak

Status = Literal["verified", "ambiguous", "not verified"]

FITTING_DIVERGENCE = 0.25
"""Batch normalization: largest divergence of a convention that fits."""

OTHER_RANGE_FACTOR = 3.0
"""Batch normalization: how many times further off every other range must be."""

OTHER_COLORS_FACTOR = 1.3
"""Batch normalization: how many times further off the other order of colours is if it is wrong (1.5 to 2)."""

OWN_CHANNEL_FACTOR = 3.0
"""Batch normalization: how many times nearer a channel must be to its own statistics than to those of others (trained:
over 50; random weights or statistics: about 1)."""

SHARE_OF_PHOTO = 0.4
"""Smallest share of the variation of standardized logits that the photograph must account for (trained and well
fed: 0.77; badly fed: 0.4; random weights: 0.00 to 0.06, shallow ones up to 0.45)."""

PEAK_OVER_CHANCE = 1.5
"""Smallest ratio of the peak to that of random numbers (trained and well fed: 2.5; random weights: 0.9 to 1.35)."""

SHUFFLED_PEAK = 0.9
"""Largest ratio of the peak on shuffled patches to that on whole photographs (trained: 0.7; random weights: 1.0)."""

SAME_RESULTS = 0.35
"""Largest mean total variation distance between class probabilities that are nearly the same results."""

FEWEST_PHOTOS = 4
"""Below this, no difference between conventions is sure."""

FEWEST_CLASSES = 5
"""Below this, the peak says nothing."""


@dataclass(frozen=True)
class Trial:
    """How a model responds to photographs under one convention."""

    convention: Convention
    """The convention."""

    share: float
    """Share of the variation of the standardized scores that the photograph accounts for, 0 to 1; -1 if a score is
    infinite or not a number."""

    peaks: npt.NDArray[np.float64]
    """(photos,): standard deviations of the top logit above the mean logit, mean over views."""

    probabilities: npt.NDArray[np.float64]
    """(photos, classes): mean over views."""

    confidence: float
    """Mean top-1 probability."""

    margin: float
    """Mean difference between the two largest probabilities."""

    divergence: float | None
    """See `Response.divergence`."""

    permuted_divergence: float | None
    """See `Response.permuted_divergence`."""

    @property
    def peak(self) -> float:
        """Mean over the photographs."""
        return float(self.peaks.mean())

    @classmethod
    def of(cls, convention: Convention, response: Response) -> "Trial":
        """Measures a response."""
        scores = response.scores
        if not np.isfinite(scores).all():
            photos, _, classes = scores.shape
            none = np.full((photos, classes), 1 / classes)
            divergences = (response.divergence, response.permuted_divergence)
            return cls(convention, -1.0, np.zeros(photos), none, 0.0, 0.0, *divergences)
        centred = scores - scores.mean(axis=2, keepdims=True)
        spread = centred.std(axis=2, keepdims=True)
        standardized = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)
        by_photo = standardized.mean(axis=1)
        share = float(np.square(by_photo - by_photo.mean(axis=0)).mean())
        exponentials = np.exp(scores - scores.max(axis=2, keepdims=True))
        probabilities = exponentials / exponentials.sum(axis=2, keepdims=True)
        two = np.sort(probabilities, axis=2)[:, :, -2:]
        return cls(
            convention,
            share,
            standardized.max(axis=2).mean(axis=1),
            probabilities.mean(axis=1),
            float(two[:, :, -1].mean()),
            float((two[:, :, -1] - two[:, :, 0]).mean()),
            response.divergence,
            response.permuted_divergence,
        )

    def distance(self, other: "Trial") -> float:
        """Mean total variation distance between the class probabilities, 0 to 1."""
        return float(0.5 * np.abs(self.probabilities - other.probabilities).sum(axis=1).mean())

    def clearly_beats(self, other: "Trial") -> bool:
        """Whether the peak is larger by more than twice the standard error of the difference over photographs.

        Never with fewer than `FEWEST_PHOTOS`.
        """
        difference = self.peaks - other.peaks
        if len(difference) < FEWEST_PHOTOS:
            return False
        return bool(difference.mean() > 2 * difference.std(ddof=1) / math.sqrt(len(difference)))


@dataclass(frozen=True)
class Verdict:
    """Which convention is used, and how sure that is."""

    status: Status
    """How sure."""

    convention: Convention
    """The convention that is used."""

    text: str
    """Why, with the figures; begins with the status."""

    warnings: tuple[str, ...] = ()
    """What must not be overlooked."""

    trials: tuple[Trial, ...] = ()
    """Every convention that was tried; the best first."""

    by_batch_normalization: bool = False
    """Whether recorded statistics settled it."""


def judge(
    trials: Sequence[Trial],
    photos: Photos,
    shuffled: Callable[[Convention], Trial],
    *,
    given: Convention | None = None,
    classifier: bool = True,
    batch_normalizations: int = 0,
) -> Verdict:
    """Weighs the evidence.

    Args:
        trials: One for every convention, the given one among them.
        photos: The photographs.
        shuffled: Tries a convention on the photographs with their patches shuffled.
        given: The convention that the user gave, which is used whatever the evidence says about it.
        classifier: Whether the scores are class scores.
        batch_normalizations: How many layers the divergences are means over.
    """
    chosen = next((trial for trial in trials if trial.convention == given), None)
    verdict = None
    if batch_normalizations:
        verdict = _by_batch_normalization(trials, chosen, photos, batch_normalizations)
    if verdict is not None:
        verdict = replace(verdict, by_batch_normalization=True)
    elif classifier:
        verdict = _by_classes(trials, chosen, photos, shuffled)
    else:
        verdict = _by_activations(trials, chosen, photos)
    return verdict


def unjudged(given: Convention | None, default: Convention, why: str) -> Verdict:
    """The verdict where nothing could be tried."""
    if given is not None:
        return Verdict("not verified", given, f"not verified, as given: {why}")
    text = f"not verified, the most common convention ({default}): {why}"
    return Verdict("not verified", default, text, (_unsure(default),))


def _by_batch_normalization(
    trials: Sequence[Trial], chosen: Trial | None, photos: Photos, layers: int
) -> Verdict | None:
    """The verdict of the recorded statistics; None if they fit no convention, or several."""
    ranked = sorted(trials, key=lambda trial: trial.divergence if trial.divergence is not None else math.inf)
    best = ranked[0]
    assert best.divergence is not None
    others = [trial for trial in ranked if not trial.convention.has_range_of(best.convention)]
    limit = OTHER_RANGE_FACTOR * best.divergence
    if (
        best.divergence > FITTING_DIVERGENCE
        or (best.permuted_divergence or 0) < OWN_CHANNEL_FACTOR * best.divergence
        or any((trial.divergence or 0) < limit for trial in others)
    ):
        return None
    rival = f"; next best: {others[0].convention}, {others[0].divergence:.2g}" if others else ""
    where = f"the first {layers} batch normalizations" if layers > 1 else "the first batch normalization"
    ground = f"{photos.origin}, by the statistics that {where} recorded in training"
    if chosen is None:
        text = f"verified on {ground}: divergence {best.divergence:.2g}{rival}"
        return Verdict("verified", best.convention, text, (), tuple(ranked))
    figures = f"divergence {chosen.divergence:.2g} (of {best.convention}: {best.divergence:.2g})"
    if chosen.convention.has_range_of(best.convention):
        recolor = (
            chosen.convention.color_order != best.convention.color_order
            and (chosen.divergence or 0) > OTHER_COLORS_FACTOR * best.divergence
        )
        warnings = (_color_warning(best.convention),) if recolor else ()
        text = f"verified, as given, on {ground}: {figures}"
        return Verdict("verified", chosen.convention, text, warnings, tuple(ranked))
    return _misfit(chosen, best, ground, figures, ranked)


def _by_classes(
    trials: Sequence[Trial], chosen: Trial | None, photos: Photos, shuffled: Callable[[Convention], Trial]
) -> Verdict:
    """The verdict of class confidence."""
    classes = trials[0].probabilities.shape[1]
    by_peak = classes >= FEWEST_CLASSES
    ranked = sorted(
        trials,
        key=lambda trial: (trial.share >= SHARE_OF_PHOTO, trial.peak if by_peak else trial.confidence),
        reverse=True,
    )
    best = ranked[0]
    ground = f"{photos.origin}, by class confidence"
    chance = chance_peak(classes)
    refusal = ""
    if best.share < SHARE_OF_PHOTO:
        refusal = (
            f"under no convention does the model tell the photos apart as a trained classifier does (at most "
            f"{max(best.share, 0):.0%} of the variation of its scores is due to the photo)"
        )
    elif by_peak and best.peak < PEAK_OVER_CHANCE * chance:
        refusal = (
            f"under no convention does the model single out a class (its top logit is {best.peak:.1f} standard "
            f"deviations above the mean; of random numbers: {chance:.1f})"
        )
    elif by_peak:
        ratio = shuffled(best.convention).peak / best.peak
        if ratio > SHUFFLED_PEAK:
            refusal = f"the model is as sure of its class when the photo's patches are shuffled ({ratio:.0%})"
    if refusal:
        return _unconvinced(chosen, ground, refusal, ranked)
    subject = chosen or best
    figures = _figures(subject, chance)
    runner_up = _runner_up(subject, ranked)
    if chosen is not None:
        if chosen.share < SHARE_OF_PHOTO or (best.clearly_beats(chosen) and best.distance(chosen) > SAME_RESULTS):
            compared = f"{_figures(best, chance)}; the given ones: {figures}"
            return _misfit(chosen, best, ground, compared, ranked)
        status: Status = "verified" if by_peak else "ambiguous"
        return Verdict(
            status, chosen.convention, f"{status}, as given, on {ground}: {figures}{runner_up}", (), tuple(ranked)
        )
    rivals = [
        trial
        for trial in ranked[1:]
        if trial.share >= SHARE_OF_PHOTO and best.distance(trial) > SAME_RESULTS and not best.clearly_beats(trial)
    ]
    if by_peak and not rivals:
        return Verdict("verified", best.convention, f"verified on {ground}: {figures}{runner_up}", (), tuple(ranked))
    why = (
        f"{rivals[0].convention} gives other results and fits about as well"
        if rivals
        else f"{classes} classes are too few to tell"
    )
    text = f"ambiguous on {ground}: {best.convention}: {figures}{runner_up}; {why}. {_REMEDY}"
    return Verdict("ambiguous", best.convention, text, (_unsure(best.convention),), tuple(ranked))


def _by_activations(trials: Sequence[Trial], chosen: Trial | None, photos: Photos) -> Verdict:
    """The verdict of activation statistics, never "verified"."""
    ranked = sorted(trials, key=lambda trial: trial.share, reverse=True)
    best = ranked[0]
    ground = f"{photos.origin}, by activation statistics"
    if best.share < SHARE_OF_PHOTO:
        why = f"a late tap hardly tells the photos apart (share of its variation: {max(best.share, 0):.0%})"
        return _unconvinced(chosen, ground, why, ranked)
    subject = chosen or best
    shares = ", ".join(f"{trial.convention} {trial.share:.0%}" for trial in ranked[:3])
    text = (
        f"ambiguous{', as given,' if chosen else ''} on {ground}: share of a late tap's variation that is due to the "
        f"photo: {subject.share:.0%} (highest: {shares}). The model has no class output, so "
        f"nothing proves a convention. {_REMEDY}"
    )
    return Verdict("ambiguous", subject.convention, text, () if chosen else (_unsure(best.convention),), tuple(ranked))


def _unconvinced(chosen: Trial | None, ground: str, why: str, ranked: Sequence[Trial]) -> Verdict:
    given = ", as given," if chosen else ""
    convention = chosen.convention if chosen else _most_common(ranked)
    text = f"not verified{given} on {ground}: {why}. {_REMEDY}"
    return Verdict("not verified", convention, text, () if chosen else (_unsure(convention),), tuple(ranked))


def _misfit(chosen: Trial, best: Trial, ground: str, figures: str, ranked: Sequence[Trial]) -> Verdict:
    better = best.convention
    if chosen.convention.has_range_of(better):
        text = f"not verified, as given: on {ground}, the order {better.color_order.upper()} fits far better: {figures}"
        return Verdict("not verified", chosen.convention, text, (_color_warning(better),), tuple(ranked))
    warning = (
        f"THE GIVEN MEAN AND STD FIT FAR WORSE THAN {better}: --mean {_option(better.mean)} --std "
        f"{_option(better.std)} (in {better.color_order.upper()}). Results will be silent nonsense if the given ones "
        "are wrong."
    )
    text = f"not verified, as given: on {ground}, {better} fits far better: {figures}"
    return Verdict("not verified", chosen.convention, text, (warning,), tuple(ranked))


def _color_warning(better: Convention) -> str:
    order = better.color_order
    return f"THE COLOURS FIT BETTER IN THE ORDER {order.upper()}: consider --color-order {order}."


def _unsure(convention: Convention) -> str:
    return (
        f"THE PREPROCESSING IS A GUESS ({convention}): a wrong input range gives nonsense without an error. {_REMEDY}."
    )


_REMEDY = "Give --mean and --std, or --images with pictures of the kind that the model was trained on"


def _figures(trial: Trial, chance: float) -> str:
    return (
        f"top-1 probability {trial.confidence:.2f} (margin {trial.margin:.2f}), top logit {trial.peak:.1f} standard "
        f"deviations above the mean (chance {chance:.1f})"
    )


def _runner_up(subject: Trial, ranked: Sequence[Trial]) -> str:
    """The next best of another range, in words."""
    for trial in ranked:
        if trial.convention != subject.convention and not trial.convention.has_range_of(subject.convention):
            distance = subject.distance(trial)
            alike = "nearly the same results" if distance <= SAME_RESULTS else "other results"
            return f"; next: {trial.convention}, {trial.confidence:.2f}, {trial.peak:.1f} ({alike})"
    return ""


def _most_common(trials: Sequence[Trial]) -> Convention:
    """What to fall back on: ImageNet's mean and std in RGB, or the first for gray."""
    known = [trial.convention for trial in trials]
    channels = 1 if known[0].color_order == "gray" else 3
    return next(convention for convention in conventions(channels) if convention in known)


def _option(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in (values[:1] if len(set(values)) == 1 else values))
