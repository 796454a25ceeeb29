from collections.abc import Callable

import pytest
from ortoscope.v1 import models_pb2, tensors_pb2
from ortoscope_service.graph.taps import Tap
from ortoscope_service.models.repository import ModelRepository
from serving import Failure, Stubs

Refused = Callable[..., Failure]


def test_models_are_listed_by_name_with_their_newest_version(stubs: Stubs) -> None:
    response = stubs.models.ListModels(models_pb2.ListModelsRequest())
    assert [model.name for model in response.models] == [
        "models/cnn",
        "models/fixed",
        "models/mlp",
        "models/slow",
        "models/text",
        "models/two-inputs",
    ]
    assert response.models[0].latest_version == "models/cnn/versions/2"
    assert response.models[0].version_count == 2
    assert stubs.models.GetModel(models_pb2.GetModelRequest(name="models/cnn")) == response.models[0]


def test_models_come_in_pages(stubs: Stubs) -> None:
    names: list[str] = []
    token = ""
    for _ in range(3):
        page = stubs.models.ListModels(models_pb2.ListModelsRequest(page_size=2, page_token=token))
        names += [model.name for model in page.models]
        token = page.next_page_token
    assert len(names) == len(set(names)) == 6
    assert token == ""


def test_a_version_tells_what_its_manifest_holds(stubs: Stubs, models: ModelRepository) -> None:
    version = stubs.models.GetModelVersion(models_pb2.GetModelVersionRequest(name="models/cnn"))
    manifest = models.get("cnn", 2).manifest
    assert version.name == "models/cnn/versions/2"
    assert version.digest == manifest.digest
    assert version.create_time.ToJsonString() == "2026-01-02T03:04:05Z"
    assert (version.size_bytes, version.opset, version.fixed_batch) == (manifest.size_bytes, 17, 0)
    assert version.tap_count == len(manifest.taps)
    assert list(version.class_labels) == ["zero", "one"]
    assert list(version.notes) == ["made for a test"]
    (model_input,) = version.inputs
    assert (model_input.name, model_input.kind) == ("image", models_pb2.ModelInput.KIND_IMAGE)
    assert (model_input.data_type, list(model_input.shape)) == (tensors_pb2.DATA_TYPE_FLOAT32, [-1, 3, 16, 16])
    preprocessing = model_input.preprocessing
    assert (preprocessing.layout, preprocessing.color_order) == ("nchw", "rgb")
    assert (list(preprocessing.mean), list(preprocessing.std)) == ([127.0] * 3, [128.0] * 3)
    assert preprocessing.size_policy == models_pb2.Preprocessing.SIZE_POLICY_SQUASH
    assert (preprocessing.height, preprocessing.width) == (16, 16)
    assert preprocessing.verification.startswith("not verified")
    (output,) = version.outputs
    assert (output.name, list(output.shape)) == ("logits", [-1, 10])


def test_a_tensor_input_has_no_preprocessing(stubs: Stubs) -> None:
    version = stubs.models.GetModelVersion(models_pb2.GetModelVersionRequest(name="models/text/versions/1"))
    (model_input,) = version.inputs
    assert model_input.kind == models_pb2.ModelInput.KIND_TENSOR
    assert model_input.data_type == tensors_pb2.DATA_TYPE_INT64
    assert not model_input.HasField("preprocessing")


def test_versions_are_listed_newest_first(stubs: Stubs) -> None:
    request = models_pb2.ListModelVersionsRequest(parent="models/cnn", page_size=1)
    first = stubs.models.ListModelVersions(request)
    assert [version.name for version in first.model_versions] == ["models/cnn/versions/2"]
    request.page_token = first.next_page_token
    second = stubs.models.ListModelVersions(request)
    assert [version.name for version in second.model_versions] == ["models/cnn/versions/1"]
    assert not second.next_page_token


def test_taps_are_listed_in_order_and_found_by_every_name(stubs: Stubs, models: ModelRepository) -> None:
    taps: list[models_pb2.Tap] = []
    token = ""
    while True:
        page = stubs.models.ListTaps(models_pb2.ListTapsRequest(parent="models/text", page_size=7, page_token=token))
        taps += page.taps
        token = page.next_page_token
        if not token:
            break
    expected = models.get("text").manifest.taps
    assert [tap.tensor for tap in taps] == [tap.tensor for tap in expected]
    for tap in taps:
        for name in (tap.tensor, tap.display_name, *tap.aliases):
            encoded = name.replace("%", "%25").replace("/", "%2F")
            found = stubs.models.GetTap(models_pb2.GetTapRequest(name=f"models/text/taps/{encoded}"))
            assert found == tap


def test_a_tap_tells_all_that_is_known_of_it(stubs: Stubs, models: ModelRepository) -> None:
    tap = stubs.models.GetTap(models_pb2.GetTapRequest(name="models/cnn/versions/2/taps/relu6"))
    (expected,) = [tap for tap in models.get("cnn").manifest.taps if tap.tensor == "relu6"]
    assert isinstance(expected, Tap)
    assert tap.name == "models/cnn/versions/2/taps/relu6"
    assert (tap.operator, tap.node, tap.display_name) == ("Clip", expected.node, expected.display_name)
    assert (tap.data_type, list(tap.shape)) == (tensors_pb2.DATA_TYPE_FLOAT32, [-1, 12, 8, 8])
    assert (tap.layout, tap.unit_axis) == (models_pb2.Tap.LAYOUT_CHANNELS_FIRST, 1)
    assert (list(tap.site_axes), tap.unit_count) == ([2, 3], 12)
    assert tap.pre_activation == "conv2"
    assert tap.upper_limit == 6.0
    conv = stubs.models.GetTap(models_pb2.GetTapRequest(name="models/cnn/taps/conv2"))
    assert conv.post_activation == "relu6"
    assert not conv.HasField("upper_limit")


def test_a_version_that_is_added_is_served_at_once(stubs: Stubs, models: ModelRepository) -> None:
    from serving import add_model
    from tiny_models import tiny_mlp

    before = stubs.models.GetModel(models_pb2.GetModelRequest(name="models/mlp")).version_count
    add_model(models, "mlp", tiny_mlp(seed=99))
    after = stubs.models.GetModel(models_pb2.GetModelRequest(name="models/mlp"))
    assert after.version_count == before + 1
    assert after.latest_version == f"models/mlp/versions/{before + 1}"


@pytest.mark.parametrize("name", ["", "cnn", "models/", "models/../cnn", "models/%2e%2e", "models/cnn/versions/1"])
def test_what_is_no_model_name_is_refused(stubs: Stubs, refused: Refused, name: str) -> None:
    failure = refused(stubs.models.GetModel, models_pb2.GetModelRequest(name=name))
    assert (failure.code, failure.reason, failure.field) == ("INVALID_ARGUMENT", "INVALID_NAME", "name")


def test_an_unknown_model_is_not_found_and_some_are_named(stubs: Stubs, refused: Refused) -> None:
    failure = refused(stubs.models.GetModel, models_pb2.GetModelRequest(name="models/cnm"))
    assert (failure.code, failure.reason, failure.field) == ("NOT_FOUND", "UNKNOWN_MODEL", "name")
    assert failure.resource == "cnm"
    assert "cnn" in failure.message
    versions = refused(stubs.models.ListModelVersions, models_pb2.ListModelVersionsRequest(parent="models/cnm"))
    assert (versions.code, versions.field) == ("NOT_FOUND", "parent")
    taps = refused(stubs.models.ListTaps, models_pb2.ListTapsRequest(parent="models/cnm"))
    assert (taps.code, taps.field) == ("NOT_FOUND", "parent")


def test_an_unknown_version_is_not_found(stubs: Stubs, refused: Refused) -> None:
    failure = refused(stubs.models.GetModelVersion, models_pb2.GetModelVersionRequest(name="models/cnn/versions/3"))
    assert (failure.code, failure.reason) == ("NOT_FOUND", "UNKNOWN_VERSION")


def test_an_unknown_tap_is_not_found_and_close_ones_are_named(stubs: Stubs, refused: Refused) -> None:
    failure = refused(stubs.models.GetTap, models_pb2.GetTapRequest(name="models/cnn/taps/relu7"))
    assert (failure.code, failure.reason, failure.field) == ("NOT_FOUND", "UNKNOWN_TAP", "name")
    assert "relu6" in failure.message


@pytest.mark.parametrize(("page_size", "page_token"), [(-1, ""), (1, "nonsense")])
def test_bad_pages_are_refused(stubs: Stubs, refused: Refused, page_size: int, page_token: str) -> None:
    for rpc, request in (
        (stubs.models.ListModels, models_pb2.ListModelsRequest()),
        (stubs.models.ListModelVersions, models_pb2.ListModelVersionsRequest(parent="models/cnn")),
        (stubs.models.ListTaps, models_pb2.ListTapsRequest(parent="models/cnn")),
    ):
        request.page_size, request.page_token = page_size, page_token
        failure = refused(rpc, request)
        assert failure.code == "INVALID_ARGUMENT"
        assert failure.field == ("page_size" if page_size < 0 else "page_token")
