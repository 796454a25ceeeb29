import io
from collections.abc import Callable
from pathlib import Path

import pytest
from ortoscope.v1 import datasets_pb2
from ortoscope_service.config import ServerConfig
from PIL import Image
from serving import Failure, Stubs, serving

Refused = Callable[..., Failure]
ODD = "datasets/%C3%A9t%C3%A9%20100%25"


def test_datasets_are_listed_and_unreadable_ones_named(stubs: Stubs) -> None:
    response = stubs.datasets.ListDatasets(datasets_pb2.ListDatasetsRequest())
    assert [dataset.name for dataset in response.datasets] == ["datasets/labelled", "datasets/photos", ODD]
    assert list(response.unreadable) == ["datasets/broken"]
    assert stubs.datasets.GetDataset(datasets_pb2.GetDatasetRequest(name=ODD)) == response.datasets[2]


def test_a_labelled_dataset_tells_its_categories_and_splits(stubs: Stubs) -> None:
    dataset = stubs.datasets.GetDataset(datasets_pb2.GetDatasetRequest(name="datasets/labelled"))
    assert dataset.kind == datasets_pb2.Dataset.KIND_BRODEN
    assert dataset.image_count == 4
    assert list(dataset.categories) == ["color", "object", "part", "scene"]
    assert dataset.concept_count == 6
    assert (dataset.mask_height, dataset.mask_width) == (4, 6)
    assert dict(dataset.splits) == {"train": 2, "val": 2}


def test_a_folder_tells_its_classes(stubs: Stubs) -> None:
    dataset = stubs.datasets.GetDataset(datasets_pb2.GetDatasetRequest(name="datasets/photos"))
    assert dataset.kind == datasets_pb2.Dataset.KIND_FOLDER
    assert (dataset.image_count, list(dataset.classes)) == (5, ["a", "b"])
    assert (dataset.concept_count, dataset.mask_height, dict(dataset.splits)) == (0, 0, {})


def test_concepts_are_listed_by_number_in_pages(stubs: Stubs) -> None:
    request = datasets_pb2.ListConceptsRequest(parent="datasets/labelled", page_size=4)
    first = stubs.datasets.ListConcepts(request)
    request.page_token = first.next_page_token
    second = stubs.datasets.ListConcepts(request)
    concepts = [*first.concepts, *second.concepts]
    assert [(c.number, c.name, c.category, c.frequency) for c in concepts] == [
        (1, "red-c", "color", 2),
        (2, "glass", "object", 2),
        (5, "beach-s", "scene", 2),
        (6, "night-s", "scene", 1),
        (7, 'door, "oak"', "part", 2),
        (300, "wheel", "part", 1),
    ]
    assert not second.next_page_token


def test_images_are_listed_by_index_in_pages(stubs: Stubs) -> None:
    request = datasets_pb2.ListImagesRequest(parent="datasets/photos", page_size=3)
    first = stubs.datasets.ListImages(request)
    request.page_token = first.next_page_token
    second = stubs.datasets.ListImages(request)
    images = [*first.images, *second.images]
    assert [image.index for image in images] == [0, 1, 2, 3, 4]
    assert images[3].name == "datasets/photos/images/3"
    assert (images[3].path, images[3].class_name) == ("b/3.png", "b")
    labelled = stubs.datasets.ListImages(datasets_pb2.ListImagesRequest(parent="datasets/labelled"))
    assert [(image.path, image.split) for image in labelled.images] == [
        ("s/a.jpg", "train"),
        ("s/b.jpg", "train"),
        ("t/c.png", "val"),
        ("t/d.webp", "val"),
    ]


@pytest.mark.parametrize(
    ("name", "file", "media_type"),
    [
        ("datasets/labelled/images/0", "labelled/images/s/a.jpg", "image/jpeg"),
        ("datasets/labelled/images/2", "labelled/images/t/c.png", "image/png"),
        ("datasets/labelled/images/3", "labelled/images/t/d.webp", "image/webp"),
    ],
)
def test_an_image_comes_as_the_bytes_of_its_file(
    stubs: Stubs, datasets: Path, name: str, file: str, media_type: str
) -> None:
    content = stubs.datasets.GetImage(datasets_pb2.GetImageRequest(name=name))
    assert content.data == (datasets / file).read_bytes()
    assert (content.media_type, content.width, content.height) == (media_type, 12, 8)


def test_an_image_is_made_smaller_but_never_larger(stubs: Stubs) -> None:
    name = f"{ODD}/images/0"
    for max_side, size in ((150, (150, 100)), (1, (1, 1)), (300, (300, 200)), (9999, (300, 200))):
        content = stubs.datasets.GetImage(datasets_pb2.GetImageRequest(name=name, max_side=max_side))
        assert (content.width, content.height) == size
        assert content.media_type == "image/jpeg"
        assert Image.open(io.BytesIO(content.data)).size == size


def test_a_sound_dataset_is_valid(stubs: Stubs) -> None:
    response = stubs.datasets.ValidateDataset(datasets_pb2.ValidateDatasetRequest(name="datasets/photos"))
    assert response.valid
    assert response.finding_count == 0


def test_a_damaged_dataset_is_reported_not_refused(stubs: Stubs) -> None:
    request = datasets_pb2.ValidateDatasetRequest(name="datasets/broken")
    response = stubs.datasets.ValidateDataset(request)
    assert not response.valid
    assert response.finding_count == len(response.findings) > 1
    assert response.findings[0].severity == datasets_pb2.Finding.SEVERITY_ERROR
    assert response.findings[0].reason
    request.max_findings = 1
    short = stubs.datasets.ValidateDataset(request)
    assert (len(short.findings), short.finding_count) == (1, response.finding_count)


@pytest.mark.parametrize("name", ["", "photos", "datasets/", "datasets/..", "datasets/..%2Fmodels", "datasets/a/b"])
def test_what_is_no_dataset_name_is_refused(stubs: Stubs, refused: Refused, name: str) -> None:
    for rpc, request, field in (
        (stubs.datasets.GetDataset, datasets_pb2.GetDatasetRequest(name=name), "name"),
        (stubs.datasets.ValidateDataset, datasets_pb2.ValidateDatasetRequest(name=name), "name"),
        (stubs.datasets.ListConcepts, datasets_pb2.ListConceptsRequest(parent=name), "parent"),
        (stubs.datasets.ListImages, datasets_pb2.ListImagesRequest(parent=name), "parent"),
        (stubs.datasets.GetImage, datasets_pb2.GetImageRequest(name=f"{name}/images/0"), "name"),
    ):
        failure = refused(rpc, request)
        assert (failure.code, failure.reason, failure.field) == ("INVALID_ARGUMENT", "INVALID_NAME", field)


def test_an_unknown_dataset_is_not_found_and_some_are_named(stubs: Stubs, refused: Refused) -> None:
    for rpc, request in (
        (stubs.datasets.GetDataset, datasets_pb2.GetDatasetRequest(name="datasets/photo")),
        (stubs.datasets.ValidateDataset, datasets_pb2.ValidateDatasetRequest(name="datasets/photo")),
        (stubs.datasets.GetImage, datasets_pb2.GetImageRequest(name="datasets/photo/images/0")),
    ):
        failure = refused(rpc, request)
        assert (failure.code, failure.reason, failure.field) == ("NOT_FOUND", "UNKNOWN_DATASET", "name")
        assert "photos" in failure.message
        assert failure.resource == "photo"


def test_an_unreadable_dataset_is_a_failed_precondition(stubs: Stubs, refused: Refused, datasets: Path) -> None:
    for rpc, request in (
        (stubs.datasets.GetDataset, datasets_pb2.GetDatasetRequest(name="datasets/broken")),
        (stubs.datasets.ListConcepts, datasets_pb2.ListConceptsRequest(parent="datasets/broken")),
        (stubs.datasets.ListImages, datasets_pb2.ListImagesRequest(parent="datasets/broken")),
    ):
        failure = refused(rpc, request)
        assert (failure.code, failure.reason) == ("FAILED_PRECONDITION", "DATASET_UNREADABLE")
        assert str(datasets) not in failure.message


def test_a_dataset_without_labels_has_no_concepts(stubs: Stubs, refused: Refused) -> None:
    failure = refused(stubs.datasets.ListConcepts, datasets_pb2.ListConceptsRequest(parent="datasets/photos"))
    assert (failure.code, failure.reason) == ("FAILED_PRECONDITION", "DATASET_NOT_LABELLED")


def test_an_index_beyond_the_last_is_not_found(stubs: Stubs, refused: Refused) -> None:
    failure = refused(stubs.datasets.GetImage, datasets_pb2.GetImageRequest(name="datasets/photos/images/5"))
    assert (failure.code, failure.reason, failure.field) == ("NOT_FOUND", "UNKNOWN_IMAGE", "name")


def test_a_file_that_is_no_picture_is_a_failed_precondition(
    config: ServerConfig, tmp_path: Path, refused: Refused
) -> None:
    from dataclasses import replace

    (tmp_path / "datasets" / "torn").mkdir(parents=True)
    (tmp_path / "datasets" / "torn" / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0 torn")
    with serving(replace(config, datasets=tmp_path / "datasets", store=tmp_path / "store")) as (_, stubs):
        failure = refused(stubs.datasets.GetImage, datasets_pb2.GetImageRequest(name="datasets/torn/images/0"))
        assert failure.code == "FAILED_PRECONDITION"
        assert "a.jpg" in failure.message


@pytest.mark.parametrize(
    ("rpc", "request_", "field"),
    [
        ("GetImage", datasets_pb2.GetImageRequest(name="datasets/photos/images/0", max_side=-1), "max_side"),
        (
            "ValidateDataset",
            datasets_pb2.ValidateDatasetRequest(name="datasets/photos", max_findings=-1),
            "max_findings",
        ),
        ("ListDatasets", datasets_pb2.ListDatasetsRequest(page_size=-1), "page_size"),
        ("ListConcepts", datasets_pb2.ListConceptsRequest(parent="datasets/labelled", page_size=-1), "page_size"),
        ("ListImages", datasets_pb2.ListImagesRequest(parent="datasets/photos", page_token="x"), "page_token"),
    ],
)
def test_numbers_out_of_range_are_refused(
    stubs: Stubs, refused: Refused, rpc: str, request_: object, field: str
) -> None:
    failure = refused(getattr(stubs.datasets, rpc), request_)
    assert (failure.code, failure.field) == ("INVALID_ARGUMENT", field)


def test_a_server_without_datasets_has_none(config: ServerConfig, tmp_path: Path, refused: Refused) -> None:
    from dataclasses import replace

    with serving(replace(config, datasets=None, store=tmp_path)) as (_, stubs):
        assert not stubs.datasets.ListDatasets(datasets_pb2.ListDatasetsRequest()).datasets
        failure = refused(stubs.datasets.GetDataset, datasets_pb2.GetDatasetRequest(name="datasets/photos"))
        assert failure.code == "NOT_FOUND"
