"""A small server on the loopback interface for the tests: models, datasets, and stubs to call it."""

import datetime
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import onnxruntime
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2_grpc
from grpc_status import rpc_status
from numpy.typing import NDArray
from onnx import helper
from ortoscope.v1 import (
    activations_pb2_grpc,
    atlases_pb2_grpc,
    blobs_pb2_grpc,
    capabilities_pb2_grpc,
    datasets_pb2_grpc,
    dissections_pb2_grpc,
    gradients_pb2_grpc,
    models_pb2_grpc,
    tensors_pb2,
    visualization_pb2_grpc,
)
from ortoscope_service.api.open_inference import open_inference_pb2_grpc
from ortoscope_service.api.server import Server, make_server
from ortoscope_service.config import ServerConfig
from ortoscope_service.graph.loading import load_model
from ortoscope_service.graph.taps import find_taps
from ortoscope_service.models.manifest import InputSpec, Manifest, OutputSpec, Preprocessing
from ortoscope_service.models.repository import ModelRepository, ModelVersion, digest_of
from pictures import encode, photo
from small_broden import write_small_broden
from tiny_models import GraphBuilder, float_value, tiny_cnn, tiny_mlp, tiny_transformer

PREPROCESSING = Preprocessing("nchw", "rgb", (127.0,) * 3, (128.0,) * 3, "squash", 16, 16, 18, "not verified: a test")
"""What `tiny_cnn` is told about its pictures."""

MAX_MESSAGE_BYTES = 64 * 1024**2


def two_inputs() -> onnx.ModelProto:
    """Two inputs of which the first tap needs one: `left` (n, 4) → `half` = Relu; `sum` = half + `right` (n, 4)."""
    g = GraphBuilder(0)
    g.node("Relu", ["left"], "half")
    g.node("Add", ["half", "right"], "sum")
    inputs = [float_value("left", ["n", 4]), float_value("right", ["n", 4])]
    return g.model(inputs, [float_value("sum", ["n", 4])], opset=17)


def slow_chain(nodes: int = 400, size: int = 1024) -> onnx.ModelProto:
    """`x` (n, size, size) times itself, `nodes` times: tens of milliseconds each, seconds in all."""
    g = GraphBuilder(0)
    value = "x"
    for number in range(nodes):
        # Not by a constant, of which ONNX Runtime would make a packed copy for every node before it runs.
        value = g.node("MatMul", [value, "x"], f"product{number}")
    return g.model([float_value("x", ["n", size, size])], [float_value(value, ["n", size, size])], opset=17)


GRAY_512 = Preprocessing("nchw", "gray", (0.0,) * 3, (2550.0,) * 3, "squash", 512, 512, 512, "not verified: a test")
"""How a picture becomes the input of `slow_image_chain`."""


def slow_image_chain(nodes: int) -> onnx.ModelProto:
    """`slow_chain` for gray pictures of 512 pixels: (n, 1, 512, 512)."""
    model = slow_chain(nodes, 512)
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        dims.insert(1, type(dims[0])(dim_value=1))
    return model


def to_tensor(array: NDArray[Any]) -> tensors_pb2.Tensor:
    """An array as a message."""
    number: Any = tensors_pb2.DataType.Value(f"DATA_TYPE_{array.dtype.name.upper()}")
    return tensors_pb2.Tensor(data_type=number, shape=array.shape, data=array.tobytes())


def to_array(message: tensors_pb2.Tensor) -> NDArray[Any]:
    """A message as an array."""
    name = tensors_pb2.DataType.Name(message.data_type).removeprefix("DATA_TYPE_").lower()
    values: NDArray[Any] = np.frombuffer(message.data, name)
    return values.reshape(tuple(message.shape))


def run_directly(
    model: onnx.ModelProto, outputs: Sequence[str], feeds: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Tensors of a model as ONNX Runtime gives them, with nothing of ours between."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    del exposed.graph.output[:]
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    session = onnxruntime.InferenceSession(exposed.SerializeToString(), providers=["CPUExecutionProvider"])
    needed = {value.name: feeds[value.name] for value in session.get_inputs()}
    return dict(zip(outputs, session.run(list(outputs), needed), strict=True))


def add_model(
    repository: ModelRepository,
    name: str,
    model: onnx.ModelProto,
    *,
    preprocessing: Preprocessing | None = None,
    fixed_batch: int = 0,
    class_labels: tuple[str, ...] = ("zero", "one"),
) -> ModelVersion:
    """Adds a version of a model with what its own graph tells; its only input is an image if it is preprocessed."""
    content = model.SerializeToString()
    manifest = Manifest(
        digest=digest_of(content),
        create_time=datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
        size_bytes=len(content),
        opset=model.opset_import[0].version,
        inputs=tuple(
            InputSpec(value.name, "image" if preprocessing else "tensor", *_type_of(value), preprocessing)
            for value in model.graph.input
        ),
        outputs=tuple(OutputSpec(value.name, *_type_of(value)) for value in model.graph.output),
        fixed_batch=fixed_batch,
        taps=find_taps(load_model(content)),
        class_labels=class_labels,
        notes=("made for a test",),
    )
    return repository.add(name, content, manifest)


def _type_of(value: onnx.ValueInfoProto) -> tuple[str, tuple[int, ...]]:
    tensor = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
    return str(helper.tensor_dtype_to_np_dtype(tensor.elem_type)), shape


def write_models(root: Path) -> ModelRepository:
    """The models of the test server: cnn (two versions), fixed (batch 2), mlp, text, two-inputs, slow."""
    repository = ModelRepository(root)
    add_model(repository, "cnn", tiny_cnn(seed=1), preprocessing=PREPROCESSING)
    add_model(repository, "cnn", tiny_cnn(seed=2), preprocessing=PREPROCESSING)
    add_model(repository, "fixed", tiny_cnn(2, seed=2), preprocessing=PREPROCESSING, fixed_batch=2)
    add_model(repository, "mlp", tiny_mlp())
    add_model(repository, "text", tiny_transformer())
    add_model(repository, "two-inputs", two_inputs())
    add_model(repository, "slow", slow_chain())
    return repository


def write_datasets(root: Path) -> Path:
    """The datasets of the test server: labelled (Broden), photos (two classes), one with an odd name, one broken."""
    write_small_broden(root / "labelled")
    for number in range(5):
        folder = root / "photos" / ("a" if number < 3 else "b")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(encode(photo(40, 30, seed=number), "PNG"))
    (root / "été 100%").mkdir()
    (root / "été 100%" / "picture.jpg").write_bytes(encode(photo(300, 200), "JPEG"))
    (root / "broken").mkdir()
    (root / "broken" / "index.csv").write_text("nonsense\n")
    return root


class Stubs:
    """Stubs of every service on one channel, and of the operations that calls return."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.activations: Any = activations_pb2_grpc.ActivationsStub(channel)  # type: ignore[no-untyped-call]
        self.atlases: Any = atlases_pb2_grpc.AtlasesStub(channel)  # type: ignore[no-untyped-call]
        self.blobs: Any = blobs_pb2_grpc.BlobsStub(channel)  # type: ignore[no-untyped-call]
        self.capabilities: Any = capabilities_pb2_grpc.CapabilitiesStub(channel)  # type: ignore[no-untyped-call]
        self.datasets: Any = datasets_pb2_grpc.DatasetsStub(channel)  # type: ignore[no-untyped-call]
        self.dissections: Any = dissections_pb2_grpc.DissectionsStub(channel)  # type: ignore[no-untyped-call]
        self.gradients: Any = gradients_pb2_grpc.GradientsStub(channel)  # type: ignore[no-untyped-call]
        self.models: Any = models_pb2_grpc.ModelsStub(channel)  # type: ignore[no-untyped-call]
        self.operations: Any = operations_pb2_grpc.OperationsStub(channel)
        self.visualization: Any = visualization_pb2_grpc.VisualizationStub(channel)  # type: ignore[no-untyped-call]
        self.inference: Any = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
        self.health: Any = health_pb2_grpc.HealthStub(channel)

    def wait(self, operation: Any) -> Any:
        """The operation when it is done."""
        while not operation.done:
            operation = self.operations.WaitOperation(
                operations_pb2.WaitOperationRequest(name=operation.name), timeout=60
            )
        return operation


@contextmanager
def serving(config: ServerConfig) -> Iterator[tuple[Server, Stubs]]:
    """A server in this process, and stubs for it."""
    server = make_server(config)
    options = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    try:
        with grpc.insecure_channel(server.address, options) as channel:
            yield server, Stubs(channel)
    finally:
        server.stop(0)


@dataclass(frozen=True)
class Failure:
    """A status with its details."""

    code: str
    """Name of the status code."""

    message: str
    """The message."""

    reason: str
    """ErrorInfo.reason; empty without one."""

    metadata: dict[str, str]
    """ErrorInfo.metadata."""

    field: str
    """The field that BadRequest names; empty without one."""

    resource: str
    """ResourceInfo.resource_name; empty without one."""


def failure_of(error: grpc.RpcError) -> Failure:
    """The status that a call ended with."""
    status = rpc_status.from_call(error)
    assert status is not None, f"no details: {error}"
    failure = failure_of_status(status)
    assert error.code().name == failure.code
    assert error.details() == failure.message
    return failure


def failure_of_status(status: Any) -> Failure:
    """A google.rpc.Status, its details unpacked."""
    info, bad_request, resource = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.ResourceInfo(),
    )
    for detail in status.details:
        for message in (info, bad_request, resource):
            detail.Unpack(message)
    assert info.domain == "ortoscope"
    names = {code.value[0]: code.name for code in grpc.StatusCode}
    return Failure(
        code=names[status.code],
        message=status.message,
        reason=info.reason,
        metadata=dict(info.metadata),
        field=bad_request.field_violations[0].field if bad_request.field_violations else "",
        resource=resource.resource_name,
    )
