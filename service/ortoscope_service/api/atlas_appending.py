"""What a request that adds samples to an atlas asks for."""

from collections.abc import Iterator
from typing import Any

from ortoscope.v1 import atlases_pb2

from ortoscope_service.api import resources
from ortoscope_service.api.atlas_lookup import find_atlas, subject_of
from ortoscope_service.api.components import Components
from ortoscope_service.errors import Code, OrtoscopeError, invalid

_FIELD = "spec.base_atlas"


def appended_spec(components: Components, given: atlases_pb2.AtlasSpec) -> atlases_pb2.AtlasSpec:
    """The specification of the added samples, with all that is taken over from the base.

    Raises:
        OrtoscopeError: INVALID_ARGUMENT: INVALID_NAME, SET_BY_BASE, OTHER_TAP; NOT_FOUND; FAILED_PRECONDITION:
            ATLAS_UNFINISHED, ATLAS_OF_CLASSES, ATLAS_APPENDED.
    """
    base = _base(components, given)
    for name in _others(given, base):
        raise invalid(
            "SET_BY_BASE",
            f"{name} differs from that of the base, whose frame and cells stay as they are; leave it out, or build an "
            "atlas without a base.",
            field=f"spec.{name}",
        )
    spec = atlases_pb2.AtlasSpec()
    spec.CopyFrom(given)
    for name in ("preset", "without_icons", "without_attribution"):
        setattr(spec, name, getattr(base.spec, name))
    spec.tap = given.tap or base.spec.tap
    spec.sites_per_image = given.sites_per_image or base.spec.sites_per_image
    spec.grids[:] = base.spec.grids
    for setting, value in base.settings.items():
        spec.settings[setting] = value
    if base.spec.HasField("icons"):
        spec.icons.CopyFrom(base.spec.icons)
    return spec


def check_same_tap(components: Components, given: atlases_pb2.AtlasSpec) -> None:
    """Refuses another tap than that of the base, whichever of its names was given.

    Args:
        components: The records.
        given: The specification, its tap in full.

    Raises:
        OrtoscopeError: INVALID_ARGUMENT, OTHER_TAP.
    """
    base = _base(components, given)
    if given.tap != base.spec.tap:
        raise invalid(
            "OTHER_TAP",
            f"The base is an atlas of {base.spec.tap}, not of {given.tap}; leave the tap out, or build an atlas "
            "without a base.",
            field="spec.tap",
            tap=given.tap,
            base_tap=base.spec.tap,
        )


def base_job(components: Components, given: atlases_pb2.AtlasSpec) -> dict[str, Any]:
    """What the job is told of the base.

    Raises:
        OrtoscopeError: As `subject_of` raises.
    """
    base = _base(components, given)
    subject = subject_of(components, base, base.spec.dataset, base.spec.splits, field=_FIELD)
    digest = resources.parse_blob
    return {
        "atlas": base.name,
        "dataset": base.spec.dataset,
        "added_dataset": given.dataset,
        "dataset_digest": base.provenance.dataset_digest,
        "survey": {
            "dataset": subject.dataset_name.dataset,
            "splits": list(base.spec.splits),
            "sites_per_image": base.spec.sites_per_image,
            "seed": base.spec.seed,
        },
        "frame": digest(base.frame, field=_FIELD),
        "samples": digest(base.samples, field=_FIELD),
        "levels": [
            {
                "grid": level.grid,
                "cells": digest(level.cells, field=_FIELD),
                "icons": [digest(sheet, field=_FIELD) for sheet in level.icons],
            }
            for level in base.levels
        ],
    }


def _base(components: Components, given: atlases_pb2.AtlasSpec) -> atlases_pb2.Atlas:
    base = find_atlas(components, given.base_atlas, field=_FIELD)
    for reason, refused, why in (
        ("ATLAS_UNFINISHED", base.state != atlases_pb2.Atlas.STATE_COMPLETE, "is not complete; wait until it is"),
        (
            "ATLAS_OF_CLASSES",
            bool(base.spec.class_filter.classes) or base.spec.HasField("class_gradient"),
            "holds samples of some classes only; take an atlas of all samples",
        ),
        (
            "ATLAS_APPENDED",
            bool(base.spec.base_atlas),
            f"has samples added to it already; take its base, {base.spec.base_atlas}, and a dataset of all to be added",
        ),
    ):
        if refused:
            raise OrtoscopeError(
                Code.FAILED_PRECONDITION, reason, f"{base.name} {why}.", field=_FIELD, metadata={"atlas": base.name}
            )
    return base


def _others(given: atlases_pb2.AtlasSpec, base: atlases_pb2.Atlas) -> Iterator[str]:
    """The fields that are given and differ from what the base has."""
    own = base.spec
    if given.grids and list(given.grids) != list(own.grids):
        yield "grids"
    if given.preset and given.preset != own.preset:
        yield "preset"
    for name, text in given.settings.items():
        if base.settings.get(name) != text:
            yield f"settings.{name}"
    if given.icons.preset and given.icons.preset != own.icons.preset:
        yield "icons.preset"
    for name, text in given.icons.settings.items():
        if own.icons.settings.get(name) != text:
            yield f"icons.settings.{name}"
    for name in ("class_filter", "class_gradient"):
        if given.HasField(name):
            yield name
    for name in ("without_icons", "without_attribution"):
        if getattr(given, name) and not getattr(own, name):
            yield name
