"""Whether a backward graph computes the gradient of a model: held against finite differences of the model itself.

The derivative along a direction v is <gradient, v> by the graph, and (<c, f(x + h v)> - <c, f(x - h v)>) / 2h by the
model f, for a random cotangent c. Steps h are halved until two in a row agree, so that neither rounding nor a kink in
between decides. Directions are of two kinds:

* along the gradient, with a random half of its elements set to zero: all terms have one sign, so that the difference
  stands out from rounding. Each element of the gradient that is not zero is held to its value.
* normally distributed: these also see what the graph leaves out. Their terms cancel each other, so that in float32 the
  difference is known to a few per cent only, and a graph passes that leaves out a hundredth of the gradient's energy.

A model of few numbers is computed in float64 by ONNX's reference evaluator, if that agrees with ONNX Runtime at the
point itself; any other in float32 by ONNX Runtime.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from ortoscope_service.errors import OrtoscopeError, invalid
from ortoscope_service.graph.axes import extents
from ortoscope_service.graph.backward import ACTIVATION, COTANGENT, gradient_name
from ortoscope_service.graph.constants import weight_bytes
from ortoscope_service.graph.loading import serialize
from ortoscope_service.graph.precision import widen
from ortoscope_service.models.manifest import GradientCheck
from ortoscope_service.models.onboarding.inputs import batched_inputs
from ortoscope_service.models.onboarding.running import Arrays
from ortoscope_service.runtime.sessions import Session

Wide = npt.NDArray[np.float64]
Precision = Literal["float64", "float32"]
Directions = list[dict[str, Wide]]
Function = Callable[[Arrays], Wide]
Run = Callable[[Mapping[str, npt.NDArray[np.generic]]], Arrays]

_DIRECTIONS = 4
_SEED = 0
_FEW_NUMBERS = 2_000_000
"""Weights, and values of all tensors, of a model that the reference evaluator gets through in well under a second."""

_LARGEST_STEP: Mapping[Precision, int] = {"float64": 17, "float32": 11}
_HALVINGS = 6
"""The steps are 2**-17 to 2**-23 of the input's scale in float64, and 2**-11 to 2**-17 in float32."""

_SAME_VALUE = 1e-3
"""Largest difference of a tap's values that is taken for rounding, relative to the largest value."""

_SAME_GRADIENT = 5e-2
"""Largest difference of gradients of the same items in other batches, relative, root mean square. Rounding moves a
value across a kink now and then, which changes single elements by much, and all of them by little."""

_HALF_PRECISION = 3e-2
"""Largest error of any kind that is taken for rounding where the graph itself computes in float16, if that is more."""


@dataclass(frozen=True)
class _Tolerance:
    """Largest errors of derivatives that are taken for rounding."""

    along_gradient: float
    along_random: float


_TOLERANCES: Mapping[Precision, _Tolerance] = {
    "float64": _Tolerance(1e-3, 1e-3),
    "float32": _Tolerance(2e-2, 1e-1),
}


@dataclass(frozen=True)
class _Comparison:
    """Derivatives along directions of one kind, by the graph and by differences."""

    kind: str
    """In words."""

    found: Wide
    """By the graph."""

    expected: Wide
    """By differences, at the step where they settled best."""

    step: float
    """That step, relative to the input's scale."""

    unsettled: float
    """How far the differences at this step and half of it are apart, relative, root mean square."""

    tolerance: float
    """The largest error that passes."""

    @property
    def settled(self) -> bool:
        """Whether the differences tell anything: they agree with each other, and are not all zero."""
        return self.unsettled <= self.tolerance / 2

    @property
    def error(self) -> float:
        """Relative, root mean square over the directions."""
        return _relative(self.found - self.expected, self.found, self.expected)

    @property
    def figure(self) -> float | None:
        """The error as it is recorded: one digit, the further ones depend on the machine."""
        return _rounded(self.error) if self.settled else None


def check_gradient(
    graph: bytes, forward: ir.Model, feeds: Mapping[str, npt.NDArray[np.generic]], *, fixed_batch: int
) -> GradientCheck:
    """Compares a backward graph with the model.

    Args:
        graph: The backward graph; it keeps the contract.
        forward: The part of the model that computes the tap, which is its only output.
        feeds: Inputs of the model, several different items.
        fixed_batch: The batch size that the model is run at; 0 if any.

    Returns:
        The figures of a graph that agrees, or of which it cannot be told. In that case the outcome is "inconclusive".

    Raises:
        OrtoscopeError: INVALID_ARGUMENT: `BACKWARD_GRAPH_WRONG` with what was found and expected;
            `BACKWARD_GRAPH_FAILED`: it does not run.
    """
    (tap,) = forward.graph.outputs
    name = tap.name or ""
    least = _HALF_PRECISION if tap.dtype == ir.DataType.FLOAT16 else 0.0
    point = {value.name or "": feeds[value.name or ""] for value in forward.graph.inputs}
    values = _runtime(forward, name)(point)
    rng = np.random.default_rng(_SEED)
    assert tap.dtype is not None
    cotangent = rng.standard_normal(values.shape).astype(tap.dtype.numpy())
    given = {**feeds, COTANGENT: cotangent}
    run = _runner(name, graph)
    results = run(given)
    gradients = _gradients(results)
    activation = _check_activation(name, results[ACTIVATION].astype(np.float64), values, max(least, _SAME_VALUE))
    batch = None
    if not fixed_batch:
        batched = {*batched_inputs(forward), COTANGENT}
        batch = _check_batch(name, run, given, batched, gradients)
    if not np.isfinite(values).all():
        return GradientCheck("inconclusive", "float32", None, None, activation, batch)
    _refuse_not_finite(name, gradients)
    function, precision = _function(forward, name, point, values)
    allowed = _TOLERANCES[precision]
    along, random = (
        _compare(kind, directions, function, point, gradients, cotangent, precision, max(least, tolerance))
        for kind, directions, tolerance in (
            ("its own gradient", list(_along(gradients, point, rng)), allowed.along_gradient),
            ("random directions", list(_random(gradients, point, rng)), allowed.along_random),
        )
    )
    for comparison in (along, random):
        if comparison.settled and not comparison.error <= comparison.tolerance:
            raise _wrong_derivative(name, comparison, precision)
    outcome: Literal["passed", "inconclusive"] = "passed" if along.settled and random.settled else "inconclusive"
    return GradientCheck(outcome, precision, along.figure, random.figure, activation, batch)


def _runner(tap: str, graph: bytes) -> Run:
    """The graph, ready to run; of what it is given, it takes its own inputs."""

    def failed(error: OrtoscopeError) -> OrtoscopeError:
        message = f"The backward graph of tap '{tap}' does not run: {error.message}"
        return invalid("BACKWARD_GRAPH_FAILED", message, tap=tap, cause=error.reason)

    try:
        session = Session(graph)
    except OrtoscopeError as error:
        raise failed(error) from error

    def run(feeds: Mapping[str, npt.NDArray[np.generic]]) -> Arrays:
        try:
            return session.run({info.name: feeds[info.name] for info in session.inputs})
        except OrtoscopeError as error:
            raise failed(error) from error

    return run


def _gradients(results: Arrays) -> dict[str, Wide]:
    prefix = gradient_name("")
    return {
        name.removeprefix(prefix): value.astype(np.float64)
        for name, value in results.items()
        if name.startswith(prefix)
    }


def _check_activation(tap: str, found: Wide, expected: Wide, tolerance: float) -> float:
    error = _largest(found, expected)
    if not error <= tolerance:
        place, numbers = "", (math.nan, math.nan)
        if found.shape == expected.shape:
            with np.errstate(invalid="ignore"):
                index = np.unravel_index(np.nanargmax(np.nan_to_num(np.abs(found - expected), nan=np.inf)), found.shape)
            place, numbers = f" at {[int(i) for i in index]}", (float(found[index]), float(expected[index]))
        raise _wrong(tap, f"`activation`{place} is", numbers, error, tolerance)
    return _rounded(error)


def _refuse_not_finite(tap: str, gradients: Mapping[str, Wide]) -> None:
    for name, value in gradients.items():
        finite = np.isfinite(value)
        if not finite.all():
            place = [int(i) for i in np.argwhere(~finite)[0]]
            number = float(value[~finite][0])
            raise _wrong(tap, f"`{gradient_name(name)}` at {place} is", (number, 0.0), math.inf, 0.0)


def _check_batch(
    tap: str,
    run: Run,
    feeds: Mapping[str, npt.NDArray[np.generic]],
    batched: set[str],
    together: Mapping[str, Wide],
) -> float:
    """Runs the items one by one; returns how far their gradients are from those of all at once."""
    items = len(feeds[COTANGENT])
    worst = 0.0
    for item in range(items):
        one = {key: value[item : item + 1] if key in batched else value for key, value in feeds.items()}
        for name, alone in _gradients(run(one)).items():
            if name not in batched:
                continue
            expected, found = alone, together[name][item : item + 1]
            error = _relative(found - expected, found, expected) if found.shape == expected.shape else math.inf
            worst = max(worst, error)
            if not error <= _SAME_GRADIENT:
                numbers = (float(np.linalg.norm(found)), float(np.linalg.norm(expected)))
                what = f"the length of `{gradient_name(name)}` of item {item} in a batch of {items}"
                raise _wrong(tap, f"{what}, against the item alone, is", numbers, error, _SAME_GRADIENT)
    return _rounded(worst)


def _function(forward: ir.Model, tap: str, point: Arrays, values: Wide) -> tuple[Function, Precision]:
    """The model, in float64 if that is quick and right."""
    if _numbers(forward) <= _FEW_NUMBERS:
        try:
            exact = _reference(forward, tap)
            agrees = _largest(exact(point), values) <= _SAME_VALUE
        except Exception:  # noqa: BLE001 - the evaluator is a second opinion: whatever it cannot do, ONNX Runtime does
            agrees = False
        if agrees:
            return exact, "float64"
    return _runtime(forward, tap), "float32"


def _numbers(forward: ir.Model) -> int:
    """Weights, and values of all tensors for one item."""
    shapes = (extents(value) or () for node in forward.graph for value in node.outputs)
    values = sum(math.prod(size if isinstance(size, int) else 1 for size in shape) for shape in shapes)
    return values + weight_bytes(forward) // 4


def _reference(forward: ir.Model, tap: str) -> Function:
    wide = widen(forward, ir.DataType.DOUBLE)
    evaluator = ReferenceEvaluator(onnx.ModelProto.FromString(serialize(wide)))

    def compute(feeds: Arrays) -> Wide:
        with np.errstate(all="ignore"):
            (value,) = evaluator.run([tap], {name: _widest(value) for name, value in feeds.items()})
        return np.asarray(value, np.float64)

    return compute


def _runtime(forward: ir.Model, tap: str) -> Function:
    """The model by ONNX Runtime, float16 computed as float32."""
    half = any(value.dtype == ir.DataType.FLOAT16 for value in (*forward.graph.inputs, *forward.graph.outputs))
    session = Session(serialize(widen(forward, ir.DataType.FLOAT) if half else forward))

    def compute(feeds: Arrays) -> Wide:
        given = {info.name: feeds[info.name].astype(info.data_type) for info in session.inputs}
        return session.run(given)[tap].astype(np.float64)

    return compute


def _along(gradients: Mapping[str, Wide], point: Arrays, rng: np.random.Generator) -> Iterator[dict[str, Wide]]:
    """The gradient with a random half of its elements set to zero, scaled to the size of the input."""
    for _ in range(_DIRECTIONS):
        yield {
            name: (rng.random(value.shape) < 0.5) * value * (_size(point[name]) / (_rms(value) or 1.0))
            for name, value in gradients.items()
        }


def _random(gradients: Mapping[str, Wide], point: Arrays, rng: np.random.Generator) -> Iterator[dict[str, Wide]]:
    for _ in range(_DIRECTIONS):
        yield {name: rng.standard_normal(value.shape) * _size(point[name]) for name, value in gradients.items()}


def _compare(
    kind: str,
    directions: Directions,
    function: Function,
    point: Arrays,
    gradients: Mapping[str, Wide],
    cotangent: npt.NDArray[np.generic],
    precision: Precision,
    tolerance: float,
) -> _Comparison:
    """Halves the step until the differences settle well within the tolerance; else takes the best of the steps."""
    best: _Comparison | None = None
    before: Wide | None = None
    for exponent in range(_LARGEST_STEP[precision], _LARGEST_STEP[precision] + _HALVINGS + 1):
        step = 2.0**-exponent
        pairs = [_derivatives(v, step, function, point, gradients, cotangent, precision) for v in directions]
        found, expected = np.array(pairs).T
        if before is not None:
            unsettled = (
                _relative(before - expected, before, expected, found) if found.any() or expected.any() else math.inf
            )
            if best is None or unsettled < best.unsettled:
                best = _Comparison(kind, found, expected, step, unsettled, tolerance)
            if unsettled <= tolerance / 10:
                break
        before = expected
    assert best is not None
    return best


def _derivatives(
    direction: Mapping[str, Wide],
    step: float,
    function: Function,
    point: Arrays,
    gradients: Mapping[str, Wide],
    cotangent: npt.NDArray[np.generic],
    precision: Precision,
) -> tuple[float, float]:
    """The derivative along a direction by the graph and by differences, both over the step as rounding left it."""
    ends = []
    for sign in (1.0, -1.0):
        moved = {name: point[name].astype(np.float64) + sign * step * along for name, along in direction.items()}
        ends.append({name: value.astype(precision) for name, value in moved.items()})
    up, down = ends
    taken = {name: up[name].astype(np.float64) - down[name] for name in direction}
    found = sum(float(np.sum(gradients[name] * taken[name])) for name in direction)
    difference = function({**point, **up}) - function({**point, **down})
    return found / (2 * step), float(np.sum(np.multiply(cotangent, difference, dtype=np.float64))) / (2 * step)


def _relative(difference: Wide, *sizes: Wide) -> float:
    """Root mean square of a difference, relative to the largest of the sizes."""
    size = max(_rms(value) for value in sizes)
    if not math.isfinite(size):
        return math.inf
    return _rms(difference) / size if size else 0.0


def _largest(found: Wide, expected: Wide) -> float:
    """Largest difference relative to the largest value; 0 where both are the same, be it infinite or no number."""
    if found.shape != expected.shape:
        return math.inf
    differ = ~((found == expected) | (np.isnan(found) & np.isnan(expected)))
    if not differ.any():
        return 0.0
    a, b = found[differ], expected[differ]
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.inf
    return float(np.abs(a - b).max() / np.abs(expected[np.isfinite(expected)]).max())


def _widest(value: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    return value.astype(np.float64) if value.dtype.kind == "f" else value


def _rms(value: Wide) -> float:
    return float(np.sqrt(np.mean(np.square(value)))) if value.size else 0.0


def _size(value: npt.NDArray[Any]) -> float:
    return _rms(value.astype(np.float64)) or 1.0


def _rounded(value: float) -> float:
    return float(f"{value:.0e}")


def _wrong_derivative(tap: str, comparison: _Comparison, precision: Precision) -> OrtoscopeError:
    worst = int(np.argmax(np.abs(comparison.found - comparison.expected)))
    numbers = (float(comparison.found[worst]), float(comparison.expected[worst]))
    what = f"the derivative along {comparison.kind} is"
    how = f"; over {_DIRECTIONS} directions, differences in {precision} with a step of {comparison.step:.1g}"
    return _wrong(tap, what, numbers, comparison.error, comparison.tolerance, how)


def _wrong(
    tap: str, what: str, numbers: tuple[float, float], error: float, tolerance: float, how: str = ""
) -> OrtoscopeError:
    found, expected = numbers
    return invalid(
        "BACKWARD_GRAPH_WRONG",
        f"The backward graph of tap '{tap}' is wrong: {what} {found:.6g}, expected {expected:.6g} (relative error "
        f"{error:.2g}, allowed {tolerance:.2g}{how}). It must be the true gradient of the sum of cotangent times tap, "
        "for the weights of this model, in evaluation mode.",
        tap=tap,
        found=found,
        expected=expected,
        relative_error=error,
        tolerance=tolerance,
    )
