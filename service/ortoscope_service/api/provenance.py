"""Provenance as a message."""

from ortoscope.v1.provenance_pb2 import Provenance

from ortoscope_service.api.capabilities import ortoscope_version
from ortoscope_service.api.components import version_name
from ortoscope_service.api.operations import timestamp
from ortoscope_service.jobs.provenance import Computation
from ortoscope_service.models.repository import ModelVersion
from ortoscope_service.runtime.hardware import processor
from ortoscope_service.runtime.sessions import onnxruntime_version


def provenance_message(version: ModelVersion, computation: Computation) -> Provenance:
    """What a result was computed from and how.

    Args:
        version: The model.
        computation: Everything else.
    """
    session = computation.execution.session
    return Provenance(
        model=str(version_name(version)),
        model_digest=version.manifest.digest,
        dataset=computation.dataset,
        dataset_digest=computation.dataset_digest,
        spec_digest=computation.spec_digest,
        ortoscope_version=ortoscope_version(),
        onnxruntime_version=onnxruntime_version(),
        execution_provider=", ".join(session.providers),
        optimization_level=session.optimization_level,
        intra_op_threads=session.intra_op_threads,
        batch_size=computation.execution.batch_size,
        preprocessing=computation.preprocessing,
        items=computation.items,
        processor=processor(),
        start_time=timestamp(computation.start_time),
        end_time=timestamp(computation.end_time),
    )
