"""The service `ortoscope.v1.Datasets`."""

import io

import grpc
from ortoscope.v1 import datasets_pb2, datasets_pb2_grpc
from PIL import Image

from ortoscope_service.api import resources
from ortoscope_service.api.components import Components, blaming
from ortoscope_service.api.pages import page_of
from ortoscope_service.datasets.dataset import Dataset, LabelledDataset
from ortoscope_service.datasets.findings import Finding
from ortoscope_service.datasets.validation import validate
from ortoscope_service.errors import Code, OrtoscopeError, invalid

DEFAULT_FINDINGS = 100
"""Findings of ValidateDataset if the request leaves it open."""

_JPEG_QUALITY = 90
_KINDS = {"broden": datasets_pb2.Dataset.KIND_BRODEN, "folder": datasets_pb2.Dataset.KIND_FOLDER}
_SEVERITIES = {"error": datasets_pb2.Finding.SEVERITY_ERROR, "warning": datasets_pb2.Finding.SEVERITY_WARNING}
_SIGNATURES = ((b"\x89PNG", "image/png"), (b"RIFF", "image/webp"))


class DatasetsServicer(datasets_pb2_grpc.DatasetsServicer):
    """Shows datasets and checks them."""

    def __init__(self, components: Components) -> None:
        self._components = components
        self._datasets = components.datasets

    def ListDatasets(
        self, request: datasets_pb2.ListDatasetsRequest, context: grpc.ServicerContext
    ) -> datasets_pb2.ListDatasetsResponse:
        """Lists the datasets by name."""
        page = self._components.page(request.page_size, request.page_token, "ListDatasets")
        shown = page_of(self._datasets.names(), page)
        response = datasets_pb2.ListDatasetsResponse(next_page_token=shown.next_page_token)
        for name in shown.items:
            try:
                response.datasets.append(dataset_message(self._datasets.get(name)))
            except OrtoscopeError:
                response.unreadable.append(str(resources.DatasetName(name)))
        return response

    def GetDataset(
        self, request: datasets_pb2.GetDatasetRequest, context: grpc.ServicerContext
    ) -> datasets_pb2.Dataset:
        """Gets a dataset."""
        return dataset_message(self._dataset(request.name, field="name"))

    def ValidateDataset(
        self, request: datasets_pb2.ValidateDatasetRequest, context: grpc.ServicerContext
    ) -> datasets_pb2.ValidateDatasetResponse:
        """Reads every file of a dataset and reports everything that is wrong with it."""
        if request.max_findings < 0:
            raise invalid(
                "INVALID_MAX_FINDINGS",
                f"max_findings is {request.max_findings}; it must be 0 (the server chooses) or more.",
                field="max_findings",
                max_findings=request.max_findings,
            )
        name = resources.parse_dataset(request.name, field="name")
        with blaming("name"):
            root = self._datasets.root_of(name.dataset)
        cancellation = self._components.cancellation(context)
        findings = validate(root, lambda _done, _total: cancellation.raise_if_cancelled())
        most = min(request.max_findings or DEFAULT_FINDINGS, self._components.limits.max_page_size)
        return datasets_pb2.ValidateDatasetResponse(
            valid=all(finding.severity != "error" for finding in findings),
            findings=[_finding_message(finding) for finding in findings[:most]],
            finding_count=len(findings),
        )

    def ListConcepts(
        self, request: datasets_pb2.ListConceptsRequest, context: grpc.ServicerContext
    ) -> datasets_pb2.ListConceptsResponse:
        """Lists the concepts of a labelled dataset by number."""
        page = self._components.page(request.page_size, request.page_token, "ListConcepts", request.parent)
        dataset = self._dataset(request.parent, field="parent")
        if not isinstance(dataset, LabelledDataset):
            raise OrtoscopeError(
                Code.FAILED_PRECONDITION,
                "DATASET_NOT_LABELLED",
                f"{request.parent} has no pixel labels, so it has no concepts.",
                field="parent",
                metadata={"dataset": dataset.name},
            )
        table = dataset.concepts
        shown = page_of(range(len(table.number)), page)
        return datasets_pb2.ListConceptsResponse(
            concepts=[
                datasets_pb2.Concept(
                    number=int(table.number[k]),
                    name=table.name[k],
                    category=table.category_name[int(table.category[k])],
                    frequency=int(table.frequency[k]),
                )
                for k in shown.items
            ],
            next_page_token=shown.next_page_token,
        )

    def ListImages(
        self, request: datasets_pb2.ListImagesRequest, context: grpc.ServicerContext
    ) -> datasets_pb2.ListImagesResponse:
        """Lists the images of a dataset by index."""
        page = self._components.page(request.page_size, request.page_token, "ListImages", request.parent)
        dataset = self._dataset(request.parent, field="parent")
        shown = page_of(range(len(dataset)), page)
        name = resources.DatasetName(dataset.name)
        return datasets_pb2.ListImagesResponse(
            images=[
                datasets_pb2.Image(
                    name=str(resources.ImageName(name, index)),
                    index=index,
                    path=dataset.path(index),
                    split=dataset.split(index),
                    class_name=dataset.class_name(index),
                )
                for index in shown.items
            ],
            next_page_token=shown.next_page_token,
        )

    def GetImage(
        self, request: datasets_pb2.GetImageRequest, context: grpc.ServicerContext
    ) -> datasets_pb2.ImageContent:
        """Gets an image as a picture, made smaller if asked."""
        if request.max_side < 0:
            raise invalid(
                "INVALID_MAX_SIDE",
                f"max_side is {request.max_side}; it must be 0 (as it is) or more.",
                field="max_side",
                max_side=request.max_side,
            )
        name = resources.parse_image(request.name, field="name")
        dataset = self._components.dataset(name.dataset, field="name")
        with blaming("name"):
            data = dataset.read_bytes(name.index)
            image = dataset.read_image(name.index)
        media_type = next((kind for signature, kind in _SIGNATURES if data.startswith(signature)), "image/jpeg")
        if request.max_side and max(image.size) > request.max_side:
            image, media_type = _reduced(image, request.max_side), _media_type_of_copy(media_type)
            data = _encoded(image, media_type)
        return datasets_pb2.ImageContent(data=data, media_type=media_type, width=image.width, height=image.height)

    def _dataset(self, name: str, *, field: str) -> Dataset:
        return self._components.dataset(resources.parse_dataset(name, field=field), field=field)


def dataset_message(dataset: Dataset) -> datasets_pb2.Dataset:
    """A dataset as a message."""
    message = datasets_pb2.Dataset(
        name=str(resources.DatasetName(dataset.name)),
        kind=_KINDS[dataset.kind],
        image_count=len(dataset),
        classes=dataset.classes,
        splits=dict(dataset.splits),
    )
    if isinstance(dataset, LabelledDataset):
        message.categories.extend(dataset.concepts.category_name)
        message.concept_count = len(dataset.concepts.number)
        message.mask_height, message.mask_width = dataset.mask_shape
    return message


def _finding_message(finding: Finding) -> datasets_pb2.Finding:
    return datasets_pb2.Finding(
        severity=_SEVERITIES[finding.severity],
        reason=finding.reason,
        path=finding.path,
        line=finding.line,
        message=finding.message,
    )


def _reduced(image: Image.Image, max_side: int) -> Image.Image:
    scale = max_side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC)


def _media_type_of_copy(media_type: str) -> str:
    """What loses nothing stays so."""
    return "image/png" if media_type == "image/png" else "image/jpeg"


def _encoded(image: Image.Image, media_type: str) -> bytes:
    stream = io.BytesIO()
    if media_type == "image/png":
        image.save(stream, "PNG")
    else:
        image.save(stream, "JPEG", quality=_JPEG_QUALITY)
    return stream.getvalue()
