"""The part of the service `ortoscope.v1.Activations` that finds and shows examples."""

from collections.abc import Mapping
from typing import Any, get_args

import grpc
import numpy as np
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2
from ortoscope.v1 import activations_pb2, activations_pb2_grpc

from ortoscope_service.analysis.examples import ExamplesReduction
from ortoscope_service.api import resources
from ortoscope_service.api.components import Components
from ortoscope_service.api.operations import repeated_request
from ortoscope_service.api.result_arrays import ResultArrays
from ortoscope_service.api.subjects import Subject, resolve_subject
from ortoscope_service.api.submissions import find_submitted, publisher, submit, time_limit_of
from ortoscope_service.errors import Code, OrtoscopeError, invalid
from ortoscope_service.jobs.runner import Publisher
from ortoscope_service.jobs.store import Store

COLLECTION = "exampleSets"
DEFAULT_COUNT = 10
MAX_COUNT = 1000

_REDUCTIONS: dict[int, ExamplesReduction] = {
    activations_pb2.ExamplesSpec.REDUCTION_MAX: "max",
    activations_pb2.ExamplesSpec.REDUCTION_MEAN: "mean",
    activations_pb2.ExamplesSpec.REDUCTION_MIN: "min",
}
assert set(_REDUCTIONS.values()) == set(get_args(ExamplesReduction))


def examples_publisher(store: Store) -> Publisher:
    """What stores finished example sets."""
    return publisher(store, COLLECTION, activations_pb2.ExampleSet, _fill)


class ExamplesServicer(activations_pb2_grpc.ActivationsServicer):
    """Finds examples, and shows them."""

    def __init__(self, components: Components) -> None:
        self._components = components
        self._records = components.store.records
        self._arrays = ResultArrays(components.store.blobs)

    def FindExamples(
        self, request: activations_pb2.FindExamplesRequest, context: grpc.ServicerContext
    ) -> operations_pb2.Operation:
        """Finds, for every unit, the images that activate it most and least, as an operation."""
        identity = repeated_request(request.request_id, request)
        submitted = find_submitted(self._components, identity)
        if submitted is not None:
            return submitted
        spec = _with_defaults(request.spec)
        limit = time_limit_of(request)
        subject = resolve_subject(self._components, spec.tap, spec.dataset, spec.splits)
        _check_units(subject)
        spec.tap, spec.dataset = str(subject.tap_name), str(subject.dataset_name)
        draft = activations_pb2.ExampleSet(spec=spec)
        wanted = {"count": spec.count, "reduction": _REDUCTIONS[spec.reduction]}
        return submit(self._components, identity, "find-examples", subject, spec.splits, wanted, draft, limit)

    def GetExampleSet(
        self, request: activations_pb2.GetExampleSetRequest, context: grpc.ServicerContext
    ) -> activations_pb2.ExampleSet:
        """Gets an example set."""
        example_set_id = resources.parse_example_set(request.name, field="name")
        return activations_pb2.ExampleSet.FromString(self._records.get(COLLECTION, example_set_id).message)

    def ListExampleSets(
        self, request: activations_pb2.ListExampleSetsRequest, context: grpc.ServicerContext
    ) -> activations_pb2.ListExampleSetsResponse:
        """Lists the example sets, newest first."""
        page = self._components.page(request.page_size, request.page_token, "ListExampleSets")
        found = self._records.list(COLLECTION, before=page.position, count=page.size + 1)
        shown = found[: page.size]
        return activations_pb2.ListExampleSetsResponse(
            example_sets=[activations_pb2.ExampleSet.FromString(message) for _, message in shown],
            next_page_token=page.token(shown[-1][0]) if len(found) > page.size else "",
        )

    def DeleteExampleSet(
        self, request: activations_pb2.DeleteExampleSetRequest, context: grpc.ServicerContext
    ) -> empty_pb2.Empty:
        """Deletes an example set."""
        identity = repeated_request(request.request_id, request)
        example_set_id = resources.parse_example_set(request.name, field="name")
        requests = self._components.store.requests
        if requests.find(identity) is None:
            self._records.delete(COLLECTION, example_set_id)
            requests.add(identity, request.name)
        return empty_pb2.Empty()

    def ListUnitExamples(
        self, request: activations_pb2.ListUnitExamplesRequest, context: grpc.ServicerContext
    ) -> activations_pb2.ListUnitExamplesResponse:
        """Lists the examples of the units of an example set, by unit."""
        page = self._components.page(request.page_size, request.page_token, "ListUnitExamples", request.parent)
        example_set_id = resources.parse_example_set(request.parent, field="parent")
        record = self._records.get(COLLECTION, example_set_id, field="parent")
        example_set = activations_pb2.ExampleSet.FromString(record.message)
        reader = _ExampleReader(
            resources.parse_dataset(example_set.spec.dataset, field="parent"),
            {**self._arrays.get(record.blobs["arrays"]), **self._arrays.get(record.blobs["places"])},
        )
        start = page.position or 0
        end = min(start + page.size, example_set.unit_count)
        return activations_pb2.ListUnitExamplesResponse(
            unit_examples=[reader.unit(unit) for unit in range(start, end)],
            next_page_token=page.token(end) if end < example_set.unit_count else "",
        )


def _fill(message: activations_pb2.ExampleSet, values: Mapping[str, Any], blobs: Mapping[str, str]) -> None:
    message.unit_count = values["units"]
    message.arrays = blobs["arrays"]


class _ExampleReader:
    """Turns the arrays of an example set into messages.

    Args:
        dataset: The images' dataset.
        arrays: The examples and their places.
    """

    def __init__(self, dataset: resources.DatasetName, arrays: dict[str, np.ndarray]) -> None:
        self._dataset = dataset
        self._arrays = arrays

    def unit(self, unit: int) -> activations_pb2.UnitExamples:
        """The examples of a unit."""
        return activations_pb2.UnitExamples(unit=unit, most=self._end("most", unit), least=self._end("least", unit))

    def _end(self, end: str, unit: int) -> list[activations_pb2.Example]:
        images = self._arrays[f"{end}_image"][unit]
        return [self._example(end, unit, rank) for rank in np.flatnonzero(images >= 0).tolist()]

    def _example(self, end: str, unit: int, rank: int) -> activations_pb2.Example:
        image = int(self._arrays[f"{end}_image"][unit, rank])
        row = int(np.searchsorted(self._arrays["image"], image))
        example = activations_pb2.Example(
            image=str(resources.ImageName(self._dataset, image)),
            path=str(self._arrays["path"][row]),
            value=self._arrays[f"{end}_value"][unit, rank],
        )
        if f"{end}_site" in self._arrays:
            site, shape = self._arrays[f"{end}_site"][unit, rank], self._arrays["site_shape"]
            example.site.extend(site.tolist())
            if len(shape) == 2:
                example.position.extend(((site + 0.5) / shape).tolist())
        return example


def _with_defaults(given: activations_pb2.ExamplesSpec) -> activations_pb2.ExamplesSpec:
    """The specification with every default filled in.

    Raises:
        OrtoscopeError: INVALID_ARGUMENT: INVALID_COUNT, INVALID_REDUCTION.
    """
    if not 0 <= given.count <= MAX_COUNT:
        raise invalid(
            "INVALID_COUNT",
            f"count is {given.count}; it must be 1 to {MAX_COUNT}, or 0 for {DEFAULT_COUNT}.",
            field="spec.count",
            count=given.count,
        )
    spec = activations_pb2.ExamplesSpec()
    spec.CopyFrom(given)
    spec.count = given.count or DEFAULT_COUNT
    spec.reduction = given.reduction or activations_pb2.ExamplesSpec.REDUCTION_MAX
    if spec.reduction not in _REDUCTIONS:
        raise invalid(
            "INVALID_REDUCTION",
            f"There is no reduction {given.reduction}.",
            field="spec.reduction",
            reduction=given.reduction,
        )
    return spec


def _check_units(subject: Subject) -> None:
    if subject.tap.unit_count < 1:
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "UNITS_UNKNOWN",
            f"The number of units of tap '{subject.tap.display_name}' is not known before the model runs; choose "
            "another tap.",
            field="spec.tap",
            metadata={"tap": subject.tap.tensor},
        )
