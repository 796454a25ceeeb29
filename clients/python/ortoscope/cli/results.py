"""Long commands: start, wait with progress, write the report, say what was found."""

from functools import partial
from pathlib import Path
from typing import Any

import typer

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

_BEST_SHOWN = 5


_RESULT_OF: dict[str, type[Dissection | ExampleSet]] = {"dissect": Dissection, "find-examples": ExampleSet}
"""What operations make, by their verb."""


def check_output(folder: Path | None, kind: type[Dissection | ExampleSet] | None) -> None:
    """Refuses a folder that must not be written to, before any work is done; `kind` None: what comes is not known."""
    if folder is not None and kind is Dissection:
        check_result_folder(folder, DISSECTION_KIND, DISSECTION_FILES)
    elif folder is not None and kind is ExampleSet:
        check_result_folder(folder, EXAMPLES_KIND, EXAMPLES_FILES)


def finish(
    session: Session,
    operation: Operation[Any],
    folder: Path | None,
    *,
    wait: bool,
    own: bool,
    give_up_after: float = GIVE_UP_AFTER,
) -> None:
    """Waits for an operation and writes its result, or prints its name.

    Args:
        session: The command under way.
        operation: The operation.
        folder: Where the result goes; None: it is only summed up.
        wait: Whether to wait at all.
        own: Whether this command started it: an interrupt then cancels it, otherwise it goes on.
        give_up_after: Seconds for which a server that does not answer is asked again.
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
        _interrupted(output, operation, own=own)
        raise typer.Exit(INTERRUPTED) from None
    except Unavailable:
        output.note(_going_on(operation))
        raise
    try:
        if folder is not None:
            patience = Patience(session.scope.target, give_up_after)
            patience.ask(partial(result.save, folder, progress=True), output.outage)
    except KeyboardInterrupt:
        output.note(f"The result is kept: ortoscope operations wait {operation.name} -o {folder}")
        raise
    if output.as_json:
        output.json(result.proto)
    elif isinstance(result, Dissection):
        _sum_up_dissection(output, result)
    else:
        _sum_up_examples(output, result)
    if folder is not None:
        output.text(f"Report: {folder / 'index.html'}")
    else:
        output.text(f"Write the report with: ortoscope operations wait {operation.name} -o DIR")


def _interrupted(output: Output, operation: Operation[Any], *, own: bool) -> None:
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


def _sum_up_examples(output: Output, examples: ExampleSet) -> None:
    spec = examples.proto.spec
    output.text(
        f"The {spec.count} images of {examples.dataset} that activate each of {examples.proto.unit_count} units of "
        f"{examples.tap} most and least."
    )
