"""What `prepare` tells the user about a model."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from ortoscope_service.graph.taps import Tap
from ortoscope_service.models.manifest import BackwardGraph, Manifest, Preprocessing
from ortoscope_service.models.onboarding.activity import Activity
from ortoscope_service.models.onboarding.evidence import Verdict
from ortoscope_service.models.repository import ModelVersion


@dataclass(frozen=True)
class Prediction:
    """What a classifier makes of a photograph under the convention that was chosen."""

    photo: str
    """File name."""

    class_index: int
    """The most probable class."""

    class_label: str
    """Its name; empty if there are no labels."""

    probability: float
    """Its probability, 0 to 1."""


@dataclass(frozen=True)
class OnboardingReport:
    """The outcome of preparing a model."""

    version: ModelVersion
    """The version in the repository."""

    added: bool
    """Whether it is new; False if the very same was there already."""

    source_digest: str
    """Digest of the file that was given, "sha256:…"."""

    batch: str
    """What was done about the batch and how it was verified, in words."""

    verdict: Verdict | None
    """What is known about the preprocessing; None without an image input, or if the version was there already."""

    predictions: tuple[Prediction, ...]
    """What the model makes of the photographs; empty if it has no class output or there were none."""

    activity: Activity | None
    """How alive the units are on the photographs; None if there were none."""

    warnings: tuple[str, ...] = ()
    """Those of the version's notes that must not be overlooked."""

    def render(self) -> str:
        """The report as plain text."""
        manifest = self.version.manifest
        lines = [
            f"{self.version.model}/{self.version.version}  "
            + ("prepared" if self.added else "was there already, the very same: nothing was added"),
            "",
            f"  file       {manifest.size_bytes:,} bytes, {manifest.digest}",
        ]
        if self.source_digest != manifest.digest:
            lines.append(f"  from       {self.source_digest}")
        lines += [f"  opset      {manifest.opset}", f"  batch      {self.batch}", ""]
        lines += [*(f"!! {warning}" for warning in self.warnings), ""] if self.warnings else []
        lines += table("inputs", [(s.name, s.data_type, shape_text(s.shape), s.kind) for s in manifest.inputs])
        lines += table("outputs", [(s.name, s.data_type, shape_text(s.shape)) for s in manifest.outputs])
        lines += self._preprocessing_lines(manifest)
        if self.activity is not None:
            lines += ["units", f"  {_activity(self.activity)}", ""]
        lines += table(f"taps ({len(manifest.taps)})", [_TAP_HEADER, *map(_tap_row, manifest.taps)])
        if manifest.backward:
            lines += table("backward graphs", [_BACKWARD_HEADER, *map(_backward_row, manifest.backward)])
        notes = [note for note in manifest.notes if note not in self.warnings]
        if notes:
            lines += ["notes", *(f"  ! {note}" for note in notes), ""]
        return "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        """The report as a JSON object, names in snake_case."""
        manifest = self.version.manifest
        return {
            "name": f"models/{self.version.model}/versions/{self.version.version}",
            "added": self.added,
            "digest": manifest.digest,
            "source_digest": self.source_digest,
            "size_bytes": manifest.size_bytes,
            "opset": manifest.opset,
            "fixed_batch": manifest.fixed_batch,
            "batch": self.batch,
            "inputs": [dataclasses.asdict(spec) for spec in manifest.inputs],
            "outputs": [dataclasses.asdict(spec) for spec in manifest.outputs],
            "class_labels": len(manifest.class_labels),
            "preprocessing_status": self.verdict.status if self.verdict else None,
            "conventions": [
                {
                    "mean": trial.convention.mean,
                    "std": trial.convention.std,
                    "color_order": trial.convention.color_order,
                    "name": trial.convention.name,
                    "confidence": trial.confidence if self.predictions else None,
                    "margin": trial.margin if self.predictions else None,
                    "peak": trial.peak if self.predictions else None,
                    "share_of_photo": trial.share,
                    "batch_normalization_divergence": trial.divergence,
                }
                for trial in (self.verdict.trials if self.verdict else ())
            ],
            "predictions": [dataclasses.asdict(prediction) for prediction in self.predictions],
            "activity": dataclasses.asdict(self.activity) if self.activity else None,
            "taps": [{**dataclasses.asdict(tap), "layout": tap.layout.value} for tap in manifest.taps],
            "backward": [dataclasses.asdict(graph) for graph in manifest.backward],
            "warnings": list(self.warnings),
            "notes": list(manifest.notes),
        }

    def _preprocessing_lines(self, manifest: Manifest) -> list[str]:
        lines = []
        for spec in manifest.inputs:
            if spec.preprocessing is not None:
                lines += [f"preprocessing of '{spec.name}'", *_preprocessing(spec.preprocessing)]
        if self.verdict is not None and self.verdict.trials:
            lines += ["", *_trials(self.verdict, classifier=bool(self.predictions))]
        if self.predictions:
            rows = [
                (p.photo, p.class_label or f"class {p.class_index}", f"{p.probability:.2f}") for p in self.predictions
            ]
            lines += ["", *table("what the model sees", rows)]
        elif lines:
            lines.append("")
        return lines


_TAP_HEADER = ("NAME", "OPERATOR", "SHAPE", "UNITS", "UNIT AXIS", "SITES", "TENSOR", "")


_BACKWARD_HEADER = ("TAP", "ORIGIN", "BYTES", "CHECK", "ALONG GRADIENT", "AT RANDOM", "VALUE", "BATCH", "DIFFERENCES")
"""The last but one are relative errors."""


def _preprocessing(preprocessing: Preprocessing) -> list[str]:
    status, _, why = preprocessing.verification.partition(" ")
    if status == "not":
        verified, _, why = why.partition(" ")
        status = f"{status} {verified}"
    return [f"  {preprocessing.describe()}", f"  {status.upper().rstrip(',:')}: {why}"]


def _trials(verdict: Verdict, *, classifier: bool) -> list[str]:
    rows = [("CONVENTION", "TOP-1", "MARGIN", "PEAK", "PHOTO'S SHARE", "DIVERGENCE")]
    rows += [
        (
            ("> " if trial.convention == verdict.convention else "  ") + str(trial.convention),
            f"{trial.confidence:.3f}" if classifier else "-",
            f"{trial.margin:.3f}" if classifier else "-",
            f"{trial.peak:.2f}" if classifier else "-",
            f"{max(trial.share, 0):.3f}",
            "-" if trial.divergence is None else f"{trial.divergence:.3g}",
        )
        for trial in verdict.trials
    ]
    return table("conventions tried", rows)[:-1]


def _activity(activity: Activity) -> str:
    constant = activity.constant / max(1, activity.units)
    text = f"{activity.units:,} in all taps; on the photos {activity.constant:,} ({constant:.1%}) never change"
    if activity.not_finite:
        text += f"; infinite or not a number: {', '.join(activity.not_finite[:5])}"
    return text


def _tap_row(tap: Tap) -> tuple[str, ...]:
    remarks = []
    if tap.post_activation:
        remarks.append(f"before activation -> {tap.post_activation}")
    if tap.pre_activation:
        remarks.append(f"activation of {tap.pre_activation}")
    if tap.upper_limit is not None:
        remarks.append(f"at most {tap.upper_limit:g}")
    return (
        tap.display_name,
        tap.operator,
        shape_text(tap.shape),
        str(tap.unit_count or "?"),
        str(tap.unit_axis),
        shape_text(tuple(tap.shape[axis] for axis in tap.site_axes)) if tap.site_axes else "-",
        tap.tensor if tap.tensor != tap.display_name else "",
        ", ".join(remarks),
    )


def _backward_row(graph: BackwardGraph) -> tuple[str, ...]:
    check = graph.check
    figures = (check.along_gradient, check.along_random, check.activation, check.batch)
    errors = ("-" if figure is None else f"{figure:.1e}" for figure in figures)
    return graph.tap, graph.origin, f"{graph.size_bytes:,}", check.outcome, *errors, check.precision


def shape_text(shape: Sequence[int]) -> str:
    """Extents as people write them: "n x 3 x 224 x 224", n where one is free."""
    return " x ".join("n" if extent < 0 else str(extent) for extent in shape) or "scalar"


def table(title: str, rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table: a title, rows in aligned columns, an empty line."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [title, *(f"  {line}" for line in lines), ""]
