"""Names of classes: a text file with one name per line, in the order of the class indices."""

from pathlib import Path

import onnx_ir as ir

from ortoscope_service.errors import invalid, not_found
from ortoscope_service.models.onboarding.inputs import describe_outputs
from ortoscope_service.models.onboarding.subject import class_output


def read_labels(path: Path) -> tuple[str, ...]:
    """Reads a labels file (UTF-8); empty lines at its end do not count.

    Raises:
        OrtoscopeError: `LABELS_FILE_NOT_FOUND` (NOT_FOUND); `LABELS_UNREADABLE` if it is no text, or holds no name.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise not_found(
            "LABELS_FILE_NOT_FOUND", f"There is no labels file '{path.name}' that can be read.", file=path.name
        ) from error
    except UnicodeDecodeError as error:
        what = f"The labels file '{path.name}' is no UTF-8 text; save it as UTF-8."
        raise invalid("LABELS_UNREADABLE", what, file=path.name) from error
    labels = [line.strip() for line in text.splitlines()]
    while labels and not labels[-1]:
        labels.pop()
    if not labels or "\0" in text:
        raise invalid(
            "LABELS_UNREADABLE",
            f"The labels file '{path.name}' holds no names; give one line per class, in the order of the classes.",
            file=path.name,
        )
    return tuple(labels)


def check_labels(model: ir.Model, labels: tuple[str, ...]) -> None:
    """Checks that there are as many names as classes.

    The classes may be those of a classifier, (batch, classes), or of every position, (batch, classes, …) or
    (batch, …, classes).

    Raises:
        OrtoscopeError: `LABEL_COUNT`, with both numbers.
    """
    if not labels or class_output(model, len(labels)):
        return
    outputs = describe_outputs(model)
    if any(len(labels) in {spec.shape[1], spec.shape[-1]} for spec in outputs if len(spec.shape) > 1):
        return
    scores = next((spec for spec in outputs if spec.name == class_output(model)), None)
    if scores is not None:
        counted = f"output '{scores.name}' of the model has {scores.shape[1]} classes"
    else:
        shapes = ", ".join(f"'{spec.name}' {list(spec.shape)}" for spec in outputs)
        counted = f"no output of the model has so many classes: {shapes}"
    raise invalid(
        "LABEL_COUNT",
        f"There are {len(labels)} labels, but {counted}. Give one line per class, in the order of the classes.",
        labels=len(labels),
        classes=scores.shape[1] if scores else 0,
    )
