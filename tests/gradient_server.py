"""A real server with classifiers whose gradients are known, for the tests of the client and its command line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gradient_models import LABELS, conv_classifier, dense_classifier
from ortoscope_service.config import Limits, ServerConfig
from ortoscope_service.models.manifest import Preprocessing
from ortoscope_service.models.repository import ModelRepository
from serving import add_model, serving, two_inputs, write_datasets

PICTURES = Preprocessing("nchw", "rgb", (127.0,) * 3, (64.0,) * 3, "crop", 6, 5, 6, "not verified: a test")
"""What `pictures` is told about its pictures."""


@contextmanager
def running_gradient_server(root: Path) -> Iterator[str]:
    """Serves `dense`, `pictures` and `two-inputs`; yields the target.

    Requests are small, so that the client has to put them together.
    """
    repository = ModelRepository(root / "models")
    add_model(repository, "dense", dense_classifier("Softmax"), class_labels=LABELS)
    add_model(repository, "pictures", conv_classifier(channels=3), preprocessing=PICTURES, class_labels=LABELS)
    add_model(repository, "two-inputs", two_inputs())
    write_datasets(root / "datasets")
    config = ServerConfig(
        models=root / "models",
        datasets=root / "datasets",
        store=root / "store",
        listen="127.0.0.1:0",
        batch_size=4,
        limits=Limits(max_items_per_request=4, max_attributions_per_request=30),
    )
    with serving(config) as (server, _):
        yield server.address
