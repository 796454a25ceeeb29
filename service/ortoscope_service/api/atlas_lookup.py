"""Published atlases as what other operations work with."""

import json
from collections.abc import Sequence
from typing import Any

from ortoscope.v1 import atlases_pb2

from ortoscope_service.api import resources
from ortoscope_service.api.components import Components
from ortoscope_service.api.subjects import Subject, resolve_subject
from ortoscope_service.errors import Code, OrtoscopeError

COLLECTION = "atlases"

_FIELDS = {"spec.tap": "", "spec.dataset": "dataset", "spec.splits": "splits"}
"""What a request on an atlas calls the fields of a specification; the tap is that of the atlas."""


def find_atlas(components: Components, name: str, *, field: str) -> atlases_pb2.Atlas:
    """The atlas of a name, with its samples laid out.

    Raises:
        OrtoscopeError: INVALID_ARGUMENT, INVALID_NAME; NOT_FOUND.
    """
    identifier = resources.parse_atlas(name, field=field)
    message = components.store.records.get(COLLECTION, identifier, field=field).message
    return atlases_pb2.Atlas.FromString(message)


def settings_of(atlas: atlases_pb2.Atlas, part: str) -> dict[str, Any]:
    """The settings of a part, such as "layout", by the names of its fields."""
    prefix = f"{part}."
    return {
        name.removeprefix(prefix): json.loads(text)
        for name, text in sorted(atlas.settings.items())
        if name.startswith(prefix)
    }


def subject_of(
    components: Components, atlas: atlases_pb2.Atlas, dataset: str, splits: Sequence[str], *, field: str
) -> Subject:
    """The layer of an atlas with images, which may be others than its own.

    Args:
        components: Models and datasets.
        atlas: The atlas.
        dataset: Resource name of the dataset.
        splits: Its splits.
        field: The request's field that names the atlas.

    Raises:
        OrtoscopeError: FAILED_PRECONDITION, MODEL_GONE; else as `resolve_subject` raises, with the request's fields.
    """
    try:
        return resolve_subject(components, atlas.spec.tap, dataset, splits)
    except OrtoscopeError as error:
        error.field = _FIELDS.get(error.field, error.field) or field
        if error.field == field and error.code is Code.NOT_FOUND:
            raise OrtoscopeError(
                Code.FAILED_PRECONDITION,
                "MODEL_GONE",
                f"The layer that {atlas.name} was built from, {atlas.spec.tap}, is no longer on this server. Put the "
                "model version back, or build an atlas of another.",
                field=field,
                metadata={"tap": atlas.spec.tap, "atlas": atlas.name},
            ) from None
        raise
