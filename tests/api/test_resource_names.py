import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ortoscope_service.api import resources
from ortoscope_service.api.resources import DatasetName, ImageName, ModelName, TapName
from ortoscope_service.errors import Code, OrtoscopeError

IDS = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?", fullmatch=True)
VERSIONS = st.integers(1, 999_999_999)
TAPS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
FOLDERS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\\\0"), min_size=1, max_size=60).filter(
    lambda name: name not in {".", ".."}
)


@given(IDS, VERSIONS)
def test_a_model_version_name_survives_the_round_trip(model: str, version: int) -> None:
    name = ModelName(model, version)
    assert resources.parse_model_version(str(name), field="name") == name


@given(IDS, st.none() | VERSIONS, TAPS)
def test_any_tap_survives_the_round_trip_as_one_segment(model: str, version: int | None, tap: str) -> None:
    name = TapName(ModelName(model, version), tap)
    assert resources.parse_tap(str(name), field="name") == name
    assert str(name).count("/") == str(name.model).count("/") + 2


@given(FOLDERS, st.integers(0, 10**18 - 1))
def test_any_folder_name_survives_the_round_trip(dataset: str, index: int) -> None:
    image = ImageName(DatasetName(dataset), index)
    assert resources.parse_image(str(image), field="name") == image
    assert resources.parse_dataset(str(image.dataset), field="name") == image.dataset


def test_a_slash_in_a_tap_is_percent_encoded() -> None:
    name = TapName(ModelName("lite0", 2), "/features/0/Conv_output_0")
    assert str(name) == "models/lite0/versions/2/taps/%2Ffeatures%2F0%2FConv_output_0"


@pytest.mark.parametrize(
    ("parse", "name"),
    [
        (resources.parse_model, "models/"),
        (resources.parse_model, "models/.."),
        (resources.parse_model, "models/a/versions/1"),
        (resources.parse_model, "models/Upper"),
        (resources.parse_model, "models/-a"),
        (resources.parse_model, "models/a."),
        (resources.parse_model, f"models/{'a' * 64}"),
        (resources.parse_model, "models/a\n"),
        (resources.parse_model, "models/ａ"),  # noqa: RUF001 - a full-width letter
        (resources.parse_model, "/models/a"),
        (resources.parse_model, "models/a/"),
        (resources.parse_model_version, "models/a/versions/0"),
        (resources.parse_model_version, "models/a/versions/01"),
        (resources.parse_model_version, "models/a/versions/-1"),
        (resources.parse_model_version, "models/a/versions/१"),
        (resources.parse_model_version, "models/a/versions/1234567890"),
        (resources.parse_model_version, "models/../versions/1"),
        (resources.parse_tap, "models/a/taps/"),
        (resources.parse_tap, "models/a/taps//features/0"),
        (resources.parse_tap, "models/a/taps/%zz"),
        (resources.parse_tap, "models/a/taps/%ff"),
        (resources.parse_tap, "models/a/taps/a b"),
        (resources.parse_tap, "taps/a"),
        (resources.parse_dataset, "datasets/.."),
        (resources.parse_dataset, "datasets/%2e%2e"),
        (resources.parse_dataset, "datasets/..%2Fsecret"),
        (resources.parse_dataset, "datasets/a%5Cb"),
        (resources.parse_dataset, "datasets/a%00"),
        (resources.parse_dataset, "datasets/"),
        (resources.parse_dataset, "datasets/a/b"),
        (resources.parse_image, "datasets/a/images/-1"),
        (resources.parse_image, "datasets/a/images/01"),
        (resources.parse_image, "datasets/a/images/1234567890123456789"),
        (resources.parse_image, "datasets/../images/1"),
        (resources.parse_blob, f"blobs/{'A' * 64}"),
        (resources.parse_blob, f"blobs/{'a' * 63}"),
        (resources.parse_blob, f"blobs/../{'a' * 64}"),
        (resources.parse_operation, "operations/1"),
        (resources.parse_operation, "operations/../../etc/passwd"),
        (resources.parse_dissection, f"exampleSets/{'a' * 32}"),
        (resources.parse_example_set, f"dissections/{'a' * 32}"),
    ],
)
def test_whatever_is_not_exactly_a_name_is_refused(parse: Callable[..., object], name: str) -> None:
    with pytest.raises(OrtoscopeError) as caught:
        parse(name, field="spec.name")
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert caught.value.reason == "INVALID_NAME"
    assert caught.value.field == "spec.name"


@given(st.text(max_size=80))
def test_parsers_refuse_or_accept_but_never_fail_otherwise(name: str) -> None:
    for parse in (
        resources.parse_model,
        resources.parse_model_version,
        resources.parse_tap,
        resources.parse_dataset,
        resources.parse_image,
        resources.parse_blob,
        resources.parse_operation,
    ):
        with contextlib.suppress(OrtoscopeError):
            parse(name, field="name")


def test_fresh_ids_are_ids() -> None:
    identifier = resources.new_id()
    assert resources.parse_operation(resources.operation(identifier), field="name") == identifier
    assert resources.parse_dissection(resources.dissection(identifier), field="name") == identifier
    assert resources.parse_example_set(resources.example_set(identifier), field="name") == identifier


@pytest.mark.parametrize("request_id", ["1", "x" * 36, "123e4567e89b42d3a456426614174000", "é"])
def test_a_request_id_must_be_a_uuid(request_id: str) -> None:
    with pytest.raises(OrtoscopeError) as caught:
        resources.check_request_id(request_id)
    assert caught.value.reason == "INVALID_REQUEST_ID"


def test_request_ids_compare_without_regard_to_case() -> None:
    assert resources.check_request_id("123E4567-E89B-42D3-A456-426614174000") == "123e4567-e89b-42d3-a456-426614174000"
    assert resources.check_request_id("") == ""
