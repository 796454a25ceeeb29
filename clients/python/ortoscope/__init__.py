"""Ortoscope's client: look inside the neural networks that an Ortoscope server holds.

    import ortoscope

    with ortoscope.connect("127.0.0.1:50051") as scope:
        model = scope.model("efficientnet-lite0")
        tap = model.taps().find("blocks.10")[0]
        tap.activate("cat.jpg", reduce="max").values   # a NumPy array (images, units)
        tap.dissect("minibroden224").result(progress=True).save("report")
        tap.atlas("imagenet").result(progress=True).save("atlas")   # the whole layer as a map
        tap.unit(3).visualize().save("unit3.png")   # what the unit looks for

Names are imported when they are first used, so that whoever needs only the messages of `ortoscope.v1` pays for
nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ortoscope.activations import Activations as Activations
    from ortoscope.activations import Selection as Selection
    from ortoscope.activations import TapActivations as TapActivations
    from ortoscope.atlas_cells import Cell as Cell
    from ortoscope.atlas_changes import AtlasComparison as AtlasComparison
    from ortoscope.atlas_changes import AtlasProjection as AtlasProjection
    from ortoscope.atlas_patches import PatchSearch as PatchSearch
    from ortoscope.atlases import Atlas as Atlas
    from ortoscope.attributions import Attributions as Attributions
    from ortoscope.attributions import ClassAttribution as ClassAttribution
    from ortoscope.capabilities import Capabilities as Capabilities
    from ortoscope.channel import TLS as TLS
    from ortoscope.channel import Timeouts as Timeouts
    from ortoscope.client import Ortoscope as Ortoscope
    from ortoscope.client import connect as connect
    from ortoscope.datasets import Concept as Concept
    from ortoscope.datasets import Dataset as Dataset
    from ortoscope.datasets import Finding as Finding
    from ortoscope.datasets import ImageEntry as ImageEntry
    from ortoscope.datasets import Picture as Picture
    from ortoscope.datasets import ValidationReport as ValidationReport
    from ortoscope.dissections import Dissection as Dissection
    from ortoscope.dissections import UnitLabel as UnitLabel
    from ortoscope.errors import Aborted as Aborted
    from ortoscope.errors import AlreadyExists as AlreadyExists
    from ortoscope.errors import Cancelled as Cancelled
    from ortoscope.errors import DataLoss as DataLoss
    from ortoscope.errors import DeadlineExceeded as DeadlineExceeded
    from ortoscope.errors import FailedPrecondition as FailedPrecondition
    from ortoscope.errors import Internal as Internal
    from ortoscope.errors import InvalidArgument as InvalidArgument
    from ortoscope.errors import NotFound as NotFound
    from ortoscope.errors import OrtoscopeError as OrtoscopeError
    from ortoscope.errors import OutOfRange as OutOfRange
    from ortoscope.errors import PermissionDenied as PermissionDenied
    from ortoscope.errors import ResourceExhausted as ResourceExhausted
    from ortoscope.errors import Unauthenticated as Unauthenticated
    from ortoscope.errors import Unavailable as Unavailable
    from ortoscope.errors import Unimplemented as Unimplemented
    from ortoscope.examples import Example as Example
    from ortoscope.examples import ExampleSet as ExampleSet
    from ortoscope.examples import UnitExamples as UnitExamples
    from ortoscope.gradients import Gradients as Gradients
    from ortoscope.gradients import Objective as Objective
    from ortoscope.gradients import TensorGradient as TensorGradient
    from ortoscope.models import Model as Model
    from ortoscope.models import Tap as Tap
    from ortoscope.models import Unit as Unit
    from ortoscope.objectives import VisualizationObjective as VisualizationObjective
    from ortoscope.operation_collection import Operations as Operations
    from ortoscope.operations import Operation as Operation
    from ortoscope.patches import PatchTest as PatchTest
    from ortoscope.presets import Preset as Preset
    from ortoscope.tables import Table as Table
    from ortoscope.tabular import FeatureTable as FeatureTable
    from ortoscope.tabular import OptimalInput as OptimalInput
    from ortoscope.text import TextActivations as TextActivations
    from ortoscope.text import Vocabulary as Vocabulary
    from ortoscope.unit_sheets import UnitSheet as UnitSheet
    from ortoscope.visualization import Comparison as Comparison
    from ortoscope.visualization import Verdict as Verdict
    from ortoscope.visualization import Visualization as Visualization
    from ortoscope.visualization import VisualizedItem as VisualizedItem

_HOME = {
    "activations": ("Activations", "Selection", "TapActivations"),
    "atlas_cells": ("Cell",),
    "atlas_changes": ("AtlasComparison", "AtlasProjection"),
    "atlas_patches": ("PatchSearch",),
    "atlases": ("Atlas",),
    "attributions": ("Attributions", "ClassAttribution"),
    "capabilities": ("Capabilities",),
    "channel": ("TLS", "Timeouts"),
    "client": ("Ortoscope", "connect"),
    "datasets": ("Concept", "Dataset", "Finding", "ImageEntry", "Picture", "ValidationReport"),
    "dissections": ("Dissection", "UnitLabel"),
    "errors": (
        "Aborted",
        "AlreadyExists",
        "Cancelled",
        "DataLoss",
        "DeadlineExceeded",
        "FailedPrecondition",
        "Internal",
        "InvalidArgument",
        "NotFound",
        "OrtoscopeError",
        "OutOfRange",
        "PermissionDenied",
        "ResourceExhausted",
        "Unauthenticated",
        "Unavailable",
        "Unimplemented",
    ),
    "examples": ("Example", "ExampleSet", "UnitExamples"),
    "gradients": ("Gradients", "Objective", "TensorGradient"),
    "models": ("Model", "Tap", "Unit"),
    "objectives": ("VisualizationObjective",),
    "operation_collection": ("Operations",),
    "operations": ("Operation",),
    "patches": ("PatchTest",),
    "presets": ("Preset",),
    "tables": ("Table",),
    "tabular": ("FeatureTable", "OptimalInput"),
    "text": ("TextActivations", "Vocabulary"),
    "unit_sheets": ("UnitSheet",),
    "visualization": ("Comparison", "Verdict", "Visualization", "VisualizedItem"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULE_OF)  # noqa: PLE0605 - kept equal to the imports above by a test


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - costs more than the rest of this module

        return version("ortoscope")
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'ortoscope' has no attribute {name!r}")
    value = getattr(import_module(f"ortoscope.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
