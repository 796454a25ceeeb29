"""The zoo's network equals the reference export, and its reader of checkpoints builds nothing but tensors."""

import collections
import importlib.util
import io
import pickle
import struct
from pathlib import Path

import numpy as np
import onnx
import pytest
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.graph.loading import load_model
from ortoscope_service.graph.taps import find_taps, resolve_tap
from ortoscope_service.models import zoo
from ortoscope_service.models.preprocessing import preprocess
from ortoscope_service.models.zoo import efficientnet_lite0
from ortoscope_service.models.zoo.torch_legacy import MAGIC_NUMBER, PROTOCOL_VERSION, read_state_dict
from ortoscope_service.runtime.sessions import Session
from PIL import Image

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec(efficientnet_lite0.WEIGHTS_PACKAGE) is None, reason="the extra `demo` is not installed"
)


class _Torch:
    """What a checkpoint's pickle calls by name, as in torch."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class _Storage:
    def __init__(self, key: str, array: np.ndarray) -> None:
        self.key, self.array = key, array


class _Pickler(pickle._Pickler):
    """Writes `_Torch` names and storages as torch.save does; the pure Python pickler allows that."""

    def persistent_id(self, obj):
        if not isinstance(obj, _Storage):
            return None
        name = {"f": "FloatStorage", "i": "LongStorage"}[obj.array.dtype.kind]
        return ("storage", _Torch("torch", name), obj.key, "cpu", obj.array.size, None)

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, _Torch):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, _Call):
            self.save(obj.function)
            self.save(obj.arguments)
            self.write(pickle.REDUCE)
        else:
            super().save(obj, save_persistent_id)


class _Call:
    def __init__(self, function: _Torch, *arguments: object) -> None:
        self.function, self.arguments = function, arguments


def tensor(storage: _Storage, offset: int, size: tuple, stride: tuple) -> _Call:
    rebuild = _Torch("torch._utils", "_rebuild_tensor_v2")
    return _Call(rebuild, storage, offset, size, stride, False, collections.OrderedDict())


def checkpoint(state: object, storages: list[_Storage], *, magic: int = MAGIC_NUMBER, little: bool = True) -> bytes:
    file = io.BytesIO()
    for item in (magic, PROTOCOL_VERSION, {"little_endian": little}, state, [s.key for s in storages]):
        _Pickler(file, protocol=2).dump(item)
    for storage in storages:
        file.write(struct.pack("<q", storage.array.size) + storage.array.tobytes())
    return file.getvalue()


def read(tmp_path: Path, content: bytes) -> dict[str, np.ndarray]:
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(content)
    return read_state_dict(path)


@pytest.fixture
def simple():
    storage = _Storage("7", np.arange(24, dtype=np.float32))
    return collections.OrderedDict(w=tensor(storage, 2, (2, 3), (1, 4))), [storage]


def test_tensors_are_strided_views_of_their_storages(tmp_path, simple):
    state, storages = simple
    counts = _Storage("8", np.array([5], np.int64))
    state["n"] = tensor(counts, 0, (), ())
    state["none"] = tensor(storages[0], 0, (0, 3), (3, 1))
    tensors = read(tmp_path, checkpoint(state, [*storages, counts]))
    np.testing.assert_array_equal(tensors["w"], [[2, 6, 10], [3, 7, 11]])
    assert tensors["w"].dtype == np.float32
    assert tensors["n"] == 5
    assert tensors["none"].shape == (0, 3)


@pytest.mark.parametrize(
    ("module", "name"),
    [("os", "system"), ("builtins", "eval"), ("torch", "HalfStorage"), ("numpy", "load"), ("collections", "Counter")],
)
def test_any_other_name_in_the_pickle_is_refused_before_it_is_called(tmp_path, simple, module, name):
    state, storages = simple
    state["x"] = _Call(_Torch(module, name), "touch reached")
    with pytest.raises(OrtoscopeError, match=f"{module}.{name}") as caught:
        read(tmp_path, checkpoint(state, storages))
    assert caught.value.reason == "CHECKPOINT_UNSAFE"


def test_damaged_checkpoints_are_refused(tmp_path, simple):
    state, storages = simple
    short = _Storage("7", np.arange(23, dtype=np.float32))
    cases = {
        "empty": b"",
        "garbage": b"PK\x03\x04" + bytes(100),
        "magic": checkpoint(state, storages, magic=1),
        "big endian": checkpoint(state, storages, little=False),
        "no dictionary": checkpoint([1], storages),
        "no tensor": checkpoint({"w": 1}, []),
        "storage missing": checkpoint(state, []),
        "storage short": checkpoint(state, storages)[: -4 * 24 - 8] + struct.pack("<q", 23) + short.array.tobytes(),
        "beyond the storage": checkpoint({"w": tensor(storages[0], 0, (5, 5), (5, 1))}, storages),
        "negative stride": checkpoint({"w": tensor(storages[0], 5, (2,), (-1,))}, storages),
        "negative offset": checkpoint({"w": tensor(storages[0], -1, (2,), (1,))}, storages),
        "strides missing": checkpoint({"w": tensor(storages[0], 0, (2,), ())}, storages),
    }
    for name, content in cases.items():
        with pytest.raises(OrtoscopeError) as caught:
            read(tmp_path, content)
        assert caught.value.reason == "CHECKPOINT_UNREADABLE", name


def test_a_checkpoint_cut_off_anywhere_is_refused(tmp_path, simple):
    content = checkpoint(*simple)
    for size in range(len(content)):
        with pytest.raises(OrtoscopeError) as caught:
            read(tmp_path, content[:size])
        assert caught.value.reason == "CHECKPOINT_UNREADABLE"


def test_an_unknown_model_is_refused_with_those_that_there_are():
    with pytest.raises(OrtoscopeError, match="efficientnet-lite0") as caught:
        zoo.build("resnet")
    assert caught.value.reason == "UNKNOWN_ZOO_MODEL"


def test_weights_that_are_not_installed_name_the_extra(monkeypatch):
    monkeypatch.setattr(efficientnet_lite0, "WEIGHTS_PACKAGE", "no_such_package")
    with pytest.raises(OrtoscopeError, match=r"ortoscope\[demo\]") as caught:
        efficientnet_lite0.build()
    assert caught.value.reason == "ZOO_WEIGHTS_MISSING"


@needs_weights
def test_weights_of_another_release_are_refused(monkeypatch):
    monkeypatch.setattr(efficientnet_lite0, "WEIGHTS_DIGEST", "0" * 64)
    with pytest.raises(OrtoscopeError, match=r"==0\.1\.0") as caught:
        efficientnet_lite0.build()
    assert caught.value.reason == "ZOO_WEIGHTS_UNEXPECTED"


def test_folding_a_batch_norm_gives_the_convolution_that_equals_both():
    rng = np.random.default_rng(0)
    weights = {
        "c.weight": rng.standard_normal((4, 3, 1, 1)),
        "b.weight": rng.uniform(0.5, 2, 4),
        "b.bias": rng.standard_normal(4),
        "b.running_mean": rng.standard_normal(4),
        "b.running_var": rng.uniform(0.1, 2, 4),
    }
    x = rng.standard_normal(3)
    plain = weights["c.weight"][:, :, 0, 0] @ x
    expected = (plain - weights["b.running_mean"]) / np.sqrt(weights["b.running_var"] + 1e-3)
    expected = expected * weights["b.weight"] + weights["b.bias"]
    weight, bias = efficientnet_lite0.fold_batch_norm(weights, "c", "b")
    np.testing.assert_allclose(weight[:, :, 0, 0] @ x + bias, expected)


@pytest.fixture(scope="module")
def built():
    if importlib.util.find_spec(efficientnet_lite0.WEIGHTS_PACKAGE) is None:
        pytest.skip("the extra `demo` is not installed")
    return zoo.build("efficientnet-lite0")


def test_the_network_is_valid_onnx_of_any_batch_size(built):
    model = onnx.load_from_string(built.model)
    onnx.checker.check_model(model, full_check=True)
    assert [opset.version for opset in model.opset_import] == [20]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "n"


def test_its_taps_have_the_names_of_its_modules(built):
    taps = find_taps(load_model(built.model))
    block = resolve_tap(taps, "blocks.10")
    assert (block.operator, block.shape, block.unit_count) == ("Add", (-1, 112, 14, 14), 112)
    assert resolve_tap(taps, "blocks.10.project_conv").operator == "Conv"
    head = resolve_tap(taps, "head")
    assert (head.unit_count, head.upper_limit) == (1280, 6)
    assert head.pre_activation == resolve_tap(taps, "head.conv").tensor
    for index in range(16):
        assert resolve_tap(taps, f"blocks.{index}").display_name == f"blocks.{index}"


def test_logits_equal_those_of_the_reference_export_on_photographs(built, reference_data):
    paths = sorted((reference_data / "photos").glob("*.jpg"))
    assert len(paths) == 64
    ours = Session(built.model)
    reference = Session((reference_data / "models/efficientnet_lite0.onnx").read_bytes())
    for start in range(0, 64, 16):
        pictures = [Image.open(path).convert("RGB") for path in paths[start : start + 16]]
        feeds = {"image": np.stack([preprocess(picture, built.preprocessing) for picture in pictures])}
        logits, expected = (session.run(feeds)["logits"] for session in (ours, reference))
        np.testing.assert_array_equal(logits.argmax(axis=1), expected.argmax(axis=1))
        np.testing.assert_allclose(logits, expected, atol=1e-4)
