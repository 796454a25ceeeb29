"""Long commands: start, wait with progress, write the report, say what was found."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import typer

from ortoscope.atlas_changes import AtlasComparison, AtlasProjection
from ortoscope.atlas_files import ATLAS, COMPARISON, PROJECTION, is_page
from ortoscope.atlas_files import FILES as PAGE_FILES
from ortoscope.atlases import Atlas
from ortoscope.cli.session import INTERRUPTED, Output, Session
from ortoscope.dissections import FILES as DISSECTION_FILES
from ortoscope.dissections import KIND as DISSECTION_KIND
from ortoscope.dissections import Dissection
from ortoscope.errors import Cancelled, OrtoscopeError, Unavailable
from ortoscope.examples import FILES as EXAMPLES_FILES
from ortoscope.examples import KIND as EXAMPLES_KIND
from ortoscope.examples import ExampleSet
from ortoscope.files import check_result_folder
from ortoscope.operations import Operation
from ortoscope.patience import GIVE_UP_AFTER, Patience
from ortoscope.resource_names import short_tap
from ortoscope.unit_sheets import FILES as SHEET_FILES
from ortoscope.unit_sheets import KIND as SHEET_KIND
from ortoscope.unit_sheets import UnitSheet

_BEST_SHOWN = 5

Result: TypeAlias = Dissection | ExampleSet | UnitSheet | Atlas | AtlasProjection | AtlasComparison
"""What an operation makes."""

_RESULT_OF: dict[str, type[Result]] = {
    "dissect": Dissection,
    "find-examples": ExampleSet,
    "visualize-units": UnitSheet,
    "build-atlas": Atlas,
    "append-atlas": Atlas,
    "project-samples": AtlasProjection,
    "compare-atlases": AtlasComparison,
}
"""What operations make, by their verb."""

_FOLDERS: dict[type[Result], tuple[str, Sequence[str]]] = {
    Dissection: (DISSECTION_KIND, DISSECTION_FILES),
    ExampleSet: (EXAMPLES_KIND, EXAMPLES_FILES),
    UnitSheet: (SHEET_KIND, SHEET_FILES),
    Atlas: (ATLAS, PAGE_FILES),
    AtlasProjection: (PROJECTION, PAGE_FILES),
    AtlasComparison: (COMPARISON, PAGE_FILES),
}
"""What `provenance.json` says of the folder of a result, and the files in it."""


_PAGES = (Atlas, AtlasProjection, AtlasComparison)
"""What may be written as one file, too."""


def check_output(folder: Path | None, kind: type[Result] | None) -> None:
    """Refuses a folder that must not be written to, before any work is done; `kind` None: what comes is not known."""
    if folder is not None and kind is not None and not (kind in _PAGES and is_page(folder)):
        name, files = _FOLDERS[kind]
        check_result_folder(folder, name, files)


def finish(
    session: Session,
    operation: Operation[Any],
    folder: Path | None,
    *,
    wait: bool,
    own: bool,
    give_up_after: float = GIVE_UP_AFTER,
    examples: ExampleSet | None = None,
) -> None:
    """Waits for an operation and writes its result, or prints its name.

    Args:
        session: The command under way.
        operation: The operation.
        folder: Where the result goes; None: it is only summed up.
        wait: Whether to wait at all.
        own: Whether this command started it: an interrupt then cancels it, otherwise it goes on.
        give_up_after: Seconds for which a server that does not answer is asked again.
        examples: What the page of a unit sheet shows beside the pictures.
    """
    output = session.output
    if not wait:
        if output.as_json:
            output.json(operation.proto)
        output.text(operation.name)
        if folder is not None:
            output.note(
                f"Nothing is written without waiting; later: ortoscope operations wait {operation.name} -o {folder}"
            )
        return
    check_output(folder, _RESULT_OF.get(operation.metadata.verb))
    try:
        result = operation.result(progress=True, give_up_after=give_up_after)
    except KeyboardInterrupt:
        interrupted(output, operation, own=own)
        raise typer.Exit(INTERRUPTED) from None
    except Unavailable:
        output.note(_going_on(operation))
        raise
    try:
        if folder is not None:
            patience = Patience(session.scope.target, give_up_after)
            save = partial(result.save, folder, progress=True)
            if isinstance(result, UnitSheet):
                save = partial(result.save, folder, examples=examples, progress=True)
            page = patience.ask(save, output.outage)
    except KeyboardInterrupt:
        output.note(f"The result is kept: ortoscope operations wait {operation.name} -o {folder}")
        raise
    if output.as_json:
        output.json(result.proto)
    elif isinstance(result, Dissection):
        _sum_up_dissection(output, result)
    elif isinstance(result, UnitSheet):
        _sum_up_sheet(output, result)
    elif isinstance(result, Atlas):
        _sum_up_atlas(output, result)
    elif isinstance(result, AtlasProjection):
        _sum_up_projection(output, result)
    elif isinstance(result, AtlasComparison):
        _sum_up_comparison(output, result)
    else:
        _sum_up_examples(output, result)
    if folder is not None:
        output.text(f"Report: {page}")
    else:
        output.text(f"Write the report with: ortoscope operations wait {operation.name} -o DIR")


def interrupted(output: Output, operation: Operation[Any], *, own: bool) -> None:
    """Says what becomes of an operation after an interrupt; one that this command started is cancelled."""
    message = _going_on(operation)
    if own:
        try:
            operation.cancel()
            message = f"Interrupted; the server was asked to cancel {operation.name}."
        except (OrtoscopeError, KeyboardInterrupt):
            message = f"Interrupted; the server could not be asked to cancel. {message}"
    error = Cancelled(message, reason="INTERRUPTED", metadata={"operation": operation.name})
    if output.as_json:
        output.json({"error": error.to_dict()})
    output.note(message)


def _going_on(operation: Operation[Any]) -> str:
    return f"The operation goes on: ortoscope operations wait {operation.name} -o DIR"


def _sum_up_dissection(output: Output, dissection: Dissection) -> None:
    proto = dissection.proto
    best, per_category = proto.best_label, proto.per_category
    output.text(
        f"{best.detectors} of {proto.unit_count} units of {dissection.tap} detect {best.unique_detectors} concepts "
        f"(IoU > {proto.spec.iou_threshold:g}), each unit counted once under its best label.\n"
        f"With each category counted on its own: {per_category.detectors} detectors, "
        f"{per_category.unique_detectors} concepts."
    )
    if proto.saturated.count:
        instead = short_tap(proto.saturated.use_tap)
        advice = f"dissect the tap {instead} instead" if instead else "give --thresholds below that value"
        output.text(
            f"Saturated: {proto.saturated.count}. The threshold of such a unit is the largest value that it takes, so "
            f"it can have no label; {advice}."
        )
    output.table(dissection.labels("iou")[:_BEST_SHOWN])


def _sum_up_sheet(output: Output, sheet: UnitSheet) -> None:
    proto = sheet.proto
    output.text(
        f"{len(proto.spec.units)} units of {sheet.tap} of {sheet.model}, {proto.width} x {proto.height} pixels each, "
        f"preset {proto.spec.recipe.preset}."
    )
    if proto.dead_units:
        units = "unit has" if proto.dead_units == 1 else "units have"
        output.text(f"{proto.dead_units} {units} no gradient at all: nothing that was shown moves them.")


def _sum_up_examples(output: Output, examples: ExampleSet) -> None:
    spec = examples.proto.spec
    output.text(
        f"The {spec.count} images of {examples.dataset} that activate each of {examples.proto.unit_count} units of "
        f"{examples.tap} most and least."
    )


def _sum_up_atlas(output: Output, atlas: Atlas) -> None:
    quality = atlas.quality
    output.text(
        f"{atlas.name}: {atlas.sample_count} samples of {atlas.image_count} images of {atlas.dataset}, at {atlas.tap} "
        f"of {atlas.model}."
    )
    output.text(
        f"The layout has trustworthiness {quality.trustworthiness:.3f}; of a sample's 15 nearest neighbours "
        f"{quality.neighbourhood_recall:.0%} are near on the map, too (by {quality.queries} samples)."
    )
    output.table(atlas.levels)
    for remark in atlas.remarks:
        output.text(f"Note: {remark}")


def _sum_up_projection(output: Output, projection: AtlasProjection) -> None:
    low, high = projection.off_map_interval
    output.text(
        f"{projection.name}: {projection.proto.sample_count} samples of {projection.dataset} in {projection.atlas}.\n"
        f"{projection.off_map_rate:.1%} lie off the map (95 % interval {low:.1%} to {high:.1%}; about 1 % without "
        f"drift); the density of {projection.changed_cells} cells differs."
    )


def _sum_up_comparison(output: Output, comparison: AtlasComparison) -> None:
    output.text(
        f"{comparison.name}: {comparison.proto.sample_count} samples that both have.\n"
        f"Of a sample's 15 nearest neighbours in one, {comparison.neighbourhood_agreement:.0%} are among those in the "
        f"other; the layouts differ by a Procrustes distance of {comparison.procrustes_distance:.3f}."
    )
