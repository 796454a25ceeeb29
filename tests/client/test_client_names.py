import pytest
from hypothesis import given
from hypothesis import strategies as st
from ortoscope import resource_names
from ortoscope.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("resnet", "models/resnet"),
        ("resnet/3", "models/resnet/versions/3"),
        ("models/resnet", "models/resnet"),
        ("models/resnet/versions/3", "models/resnet/versions/3"),
    ],
)
def test_a_model_may_be_named_in_three_ways(text: str, name: str) -> None:
    assert resource_names.model_version(text) == name


@pytest.mark.parametrize("text", ["", "a/b/c", "models/", "/1", "a/", "models/a/versions/"])
def test_what_names_no_model_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="NAME/VERSION"):
        resource_names.model_version(text)


def test_a_model_is_shown_as_it_is_written() -> None:
    assert resource_names.short_model("models/resnet/versions/3") == "resnet/3"
    assert resource_names.short_model("models/resnet") == "resnet"


@given(st.text(min_size=1).filter(lambda text: not text.startswith("models/")))
def test_any_tap_name_survives_its_resource_name(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    name = resource_names.tap("models/m/versions/1", text)
    assert name.count("/") == 5
    assert resource_names.short_tap(name) == text
    assert resource_names.version_of_tap(name) == "models/m/versions/1"
    assert resource_names.tap("models/other/versions/2", name) == name


@pytest.mark.parametrize("text", ["broden", "été 100%", "a b", "a%20b"])
def test_a_dataset_is_encoded_once(text: str) -> None:
    name = resource_names.dataset(text)
    assert resource_names.dataset(name) == name
    assert resource_names.short_dataset(name) == text
    assert resource_names.short_dataset(resource_names.image(name, 7)) == text
    assert resource_names.is_image(resource_names.image(name, 7))


@pytest.mark.parametrize("text", ["", "a/b", "datasets/"])
def test_what_names_no_dataset_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="datasets/NAME"):
        resource_names.dataset(text)


@pytest.mark.parametrize("text", ["datasets/a/images/x.jpg", "datasets/a/images/-1", "datasets/a", "cat.jpg"])
def test_a_path_is_not_taken_for_an_image_of_a_dataset(text: str) -> None:
    assert not resource_names.is_image(text)
