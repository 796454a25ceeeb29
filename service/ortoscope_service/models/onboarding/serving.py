"""How a model is served: with a free batch where that is sound, at its own batch where it is not."""

from dataclasses import dataclass

import onnx
import onnx_ir as ir

from ortoscope_service.errors import OrtoscopeError, invalid
from ortoscope_service.graph.axes import RECURRENT
from ortoscope_service.graph.batch import make_batch_symbolic
from ortoscope_service.graph.batch_flow import batch_inputs
from ortoscope_service.graph.loading import serialize
from ortoscope_service.graph.recurrent_states import expose_states
from ortoscope_service.graph.taps import Tap, find_taps
from ortoscope_service.graph.validation import tensors
from ortoscope_service.models.onboarding.batch_check import ITEMS, check_batch
from ortoscope_service.models.onboarding.inputs import InputShape, describe_inputs, random_feeds
from ortoscope_service.models.onboarding.wishes import Wishes, check_wishes
from ortoscope_service.runtime.sessions import Session


@dataclass(frozen=True)
class Served:
    """A model as it is served."""

    model: ir.Model
    """The model."""

    content: bytes
    """Its ONNX file: the very file that was given, unless it had to be changed."""

    fixed_batch: int
    """The batch size that it is run at; 0 if any can be run."""

    inputs: tuple[InputShape, ...]
    """Its inputs."""

    taps: tuple[Tap, ...]
    """Its taps, at least one."""

    original: ir.Model
    """The model as it was given."""

    original_content: bytes
    """Its ONNX file, as ONNX Runtime can load it."""

    batch: str
    """What was done about the batch and how it was verified, in words."""

    note: str = ""
    """The same as a note for users, if they need to know; else empty."""


def serve(original: ir.Model, content: bytes, wishes: Wishes) -> Served:
    """The model with a free batch if that passes the check on random inputs; else as it is.

    Args:
        original: The model.
        content: The file that it was loaded from.
        wishes: What the user knows.

    Raises:
        OrtoscopeError: `NO_TAPS`; as `Session` raises for a model that ONNX Runtime cannot load; as `describe_inputs`
            and `check_wishes` raise.
    """
    rewrite = make_batch_symbolic(original)
    inputs = describe_inputs(rewrite.model, layout=wishes.layout, size=wishes.size)
    check_wishes(inputs, wishes)
    taps = find_taps(rewrite.model)
    if not taps:
        raise invalid(
            "NO_TAPS", "The model has no float tensor that depends on its inputs: there is nothing to look at."
        )
    content = loadable(original, content)
    reference = original if rewrite.fixed_batch else None
    feeds = random_feeds(rewrite.model, inputs, ITEMS)
    check = check_batch(rewrite.model, taps, feeds, reference=reference, reference_batch=rewrite.fixed_batch)
    if not check.passed:
        return serve_bound(original, content, wishes, check.detail)
    verified = (
        f"verified: all {check.tensors} outputs and taps are the same per item at batch 1 and {ITEMS} "
        f"(largest relative difference {check.largest_difference:.1g})"
    )
    if not rewrite.fixed_batch:
        return Served(rewrite.model, content, 0, inputs, taps, original, content, f"free, as in the file; {verified}")
    batch = f"free; the file was bound to {rewrite.fixed_batch}, which was rewritten, {verified}"
    note = f"The file was bound to a batch of {rewrite.fixed_batch}; it was made free, {verified}."
    return Served(rewrite.model, serialize(rewrite.model), 0, inputs, taps, original, content, batch, note)


def serve_bound(original: ir.Model, content: bytes, wishes: Wishes, why: str) -> Served:
    """The model at the batch that its file is bound to, 1 if it is bound to none.

    Args:
        original: The model.
        content: Its ONNX file, loadable.
        wishes: What the user knows.
        why: What the check of a free batch found.
    """
    batch = make_batch_symbolic(original).fixed_batch or 1
    inputs = describe_inputs(original, layout=wishes.layout, size=wishes.size)
    what = f"served at {batch}: a free batch did not pass the check ({why})"
    note = f"THE MODEL RUNS IN BATCHES OF {batch}: a free batch did not pass the check ({why})."
    return Served(original, content, batch, inputs, find_taps(original), original, content, what, note)


def with_states(model: ir.Model, content: bytes) -> tuple[ir.Model, bytes]:
    """A model with the states of its recurrent layers as further tensors, and its file.

    Without recurrent layers, with a batch that the file fixes, or where ONNX cannot convert the model to the opset that
    this takes, both are what is given.
    """
    _, batch = batch_inputs(model.graph)
    if isinstance(batch, int) or not any(node.op_type in RECURRENT and not node.domain for node in model.graph):
        return model, content
    try:
        exposed = expose_states(model)
    except OrtoscopeError as error:
        if error.reason != "OPSET_NOT_CONVERTIBLE":
            raise
        return model, content
    return exposed, serialize(exposed)


def free_batch(model: ir.Model) -> tuple[ir.Model, str]:
    """A model with a free batch if its outputs pass the check on random inputs, else as it is; and that in words.

    Raises:
        OrtoscopeError: As `describe_inputs` raises.
    """
    rewrite = make_batch_symbolic(model)
    bound = rewrite.fixed_batch
    if not bound:
        return model, "as in the file"
    feeds = random_feeds(rewrite.model, describe_inputs(rewrite.model), ITEMS)
    check = check_batch(rewrite.model, (), feeds, reference=model, reference_batch=bound)
    if not check.passed:
        return model, f"{bound}, as in the file: a free batch did not pass the check ({check.detail})"
    return rewrite.model, (
        f"free; the file was bound to {bound}, which was rewritten, verified: the same per item at batch {bound} and "
        f"{ITEMS} (largest relative difference {check.largest_difference:.1g})"
    )


def loadable(model: ir.Model, content: bytes) -> bytes:
    """The file itself if it is complete and ONNX Runtime can load it, else the repaired model, all in one file.

    Raises:
        OrtoscopeError: As `Session` raises if ONNX Runtime cannot load that either.
    """
    external = any(
        tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors(onnx.ModelProto.FromString(content))
    )
    if not external:
        try:
            Session(content)
        except OrtoscopeError:
            pass
        else:
            return content
    repaired = serialize(model)
    Session(repaired)
    return repaired
