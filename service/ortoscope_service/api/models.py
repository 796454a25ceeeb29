"""The service `ortoscope.v1.Models`."""

import grpc
from google.protobuf import timestamp_pb2
from ortoscope.v1 import models_pb2, models_pb2_grpc

from ortoscope_service.api import resources
from ortoscope_service.api.components import Components, blaming, version_name
from ortoscope_service.api.pages import page_of
from ortoscope_service.api.tensors import data_type
from ortoscope_service.graph.taps import Layout, Tap, resolve_tap
from ortoscope_service.models.manifest import InputSpec, OutputSpec, Preprocessing
from ortoscope_service.models.repository import ModelVersion

_LAYOUTS = {
    Layout.VECTOR: models_pb2.Tap.LAYOUT_VECTOR,
    Layout.CHANNELS_FIRST: models_pb2.Tap.LAYOUT_CHANNELS_FIRST,
    Layout.CHANNELS_LAST: models_pb2.Tap.LAYOUT_CHANNELS_LAST,
    Layout.TOKENS: models_pb2.Tap.LAYOUT_TOKENS,
}
_SIZE_POLICIES = {
    "squash": models_pb2.Preprocessing.SIZE_POLICY_SQUASH,
    "crop": models_pb2.Preprocessing.SIZE_POLICY_CROP,
}
_KINDS = {"image": models_pb2.ModelInput.KIND_IMAGE, "tensor": models_pb2.ModelInput.KIND_TENSOR}


class ModelsServicer(models_pb2_grpc.ModelsServicer):
    """Shows models, their versions and taps."""

    def __init__(self, components: Components) -> None:
        self._components = components
        self._models = components.models

    def ListModels(
        self, request: models_pb2.ListModelsRequest, context: grpc.ServicerContext
    ) -> models_pb2.ListModelsResponse:
        """Lists the models by name."""
        page = self._components.page(request.page_size, request.page_token, "ListModels")
        shown = page_of(self._models.names(), page)
        return models_pb2.ListModelsResponse(
            models=[self._model(model) for model in shown.items], next_page_token=shown.next_page_token
        )

    def GetModel(self, request: models_pb2.GetModelRequest, context: grpc.ServicerContext) -> models_pb2.Model:
        """Gets a model."""
        name = resources.parse_model(request.name, field="name")
        with blaming("name"):
            return self._model(name.model)

    def ListModelVersions(
        self, request: models_pb2.ListModelVersionsRequest, context: grpc.ServicerContext
    ) -> models_pb2.ListModelVersionsResponse:
        """Lists the versions of a model, newest first."""
        page = self._components.page(request.page_size, request.page_token, "ListModelVersions", request.parent)
        name = resources.parse_model(request.parent, field="parent")
        with blaming("parent"):
            shown = page_of(self._models.versions(name.model), page)
            versions = [self._models.get(name.model, version) for version in shown.items]
        return models_pb2.ListModelVersionsResponse(
            model_versions=[version_message(version) for version in versions], next_page_token=shown.next_page_token
        )

    def GetModelVersion(
        self, request: models_pb2.GetModelVersionRequest, context: grpc.ServicerContext
    ) -> models_pb2.ModelVersion:
        """Gets a version of a model."""
        name = resources.parse_model_version(request.name, field="name")
        return version_message(self._components.model_version(name, field="name"))

    def ListTaps(
        self, request: models_pb2.ListTapsRequest, context: grpc.ServicerContext
    ) -> models_pb2.ListTapsResponse:
        """Lists the taps of a model version in the order in which the model computes them."""
        version = self._components.model_version(
            resources.parse_model_version(request.parent, field="parent"), field="parent"
        )
        # A page token of `models/{model}` must not go on in a version that came meanwhile.
        scope = ("ListTaps", request.parent, str(version.version))
        shown = page_of(version.manifest.taps, self._components.page(request.page_size, request.page_token, *scope))
        return models_pb2.ListTapsResponse(
            taps=[tap_message(version, tap) for tap in shown.items], next_page_token=shown.next_page_token
        )

    def GetTap(self, request: models_pb2.GetTapRequest, context: grpc.ServicerContext) -> models_pb2.Tap:
        """Gets a tap by any of its names."""
        name = resources.parse_tap(request.name, field="name")
        version = self._components.model_version(name.model, field="name")
        return tap_message(version, resolve_tap(version.manifest.taps, name.tap, field="name"))

    def _model(self, model: str) -> models_pb2.Model:
        versions = self._models.versions(model)
        return models_pb2.Model(
            name=str(resources.ModelName(model)),
            latest_version=str(resources.ModelName(model, versions[0])),
            version_count=len(versions),
        )


def version_message(version: ModelVersion) -> models_pb2.ModelVersion:
    """A model version as a message."""
    manifest = version.manifest
    create_time = timestamp_pb2.Timestamp()
    create_time.FromDatetime(manifest.create_time)
    return models_pb2.ModelVersion(
        name=str(version_name(version)),
        digest=manifest.digest,
        create_time=create_time,
        size_bytes=manifest.size_bytes,
        opset=manifest.opset,
        inputs=[_input_message(specification) for specification in manifest.inputs],
        outputs=[_output_message(specification) for specification in manifest.outputs],
        fixed_batch=manifest.fixed_batch,
        tap_count=len(manifest.taps),
        class_labels=manifest.class_labels,
        notes=manifest.notes,
    )


def tap_message(version: ModelVersion, tap: Tap) -> models_pb2.Tap:
    """A tap as a message."""
    return models_pb2.Tap(
        name=str(resources.TapName(version_name(version), tap.tensor)),
        tensor=tap.tensor,
        display_name=tap.display_name,
        aliases=tap.aliases,
        operator=tap.operator,
        node=tap.node,
        data_type=data_type(tap.data_type),
        shape=tap.shape,
        layout=_LAYOUTS[tap.layout],
        unit_axis=tap.unit_axis,
        site_axes=tap.site_axes,
        unit_count=tap.unit_count,
        pre_activation=tap.pre_activation,
        post_activation=tap.post_activation,
        upper_limit=tap.upper_limit,
    )


def _input_message(specification: InputSpec) -> models_pb2.ModelInput:
    preprocessing = specification.preprocessing
    return models_pb2.ModelInput(
        name=specification.name,
        kind=_KINDS[specification.kind],
        data_type=data_type(specification.data_type),
        shape=specification.shape,
        preprocessing=None if preprocessing is None else _preprocessing_message(preprocessing),
    )


def _preprocessing_message(preprocessing: Preprocessing) -> models_pb2.Preprocessing:
    return models_pb2.Preprocessing(
        layout=preprocessing.layout,
        color_order=preprocessing.color_order,
        mean=preprocessing.mean,
        std=preprocessing.std,
        size_policy=_SIZE_POLICIES[preprocessing.size_policy],
        height=preprocessing.height,
        width=preprocessing.width,
        resize_short_side=preprocessing.resize_short_side,
        verification=preprocessing.verification,
    )


def _output_message(specification: OutputSpec) -> models_pb2.ModelOutput:
    return models_pb2.ModelOutput(
        name=specification.name, data_type=data_type(specification.data_type), shape=specification.shape
    )
