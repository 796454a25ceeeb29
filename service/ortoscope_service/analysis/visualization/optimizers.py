"""Optimizers: how parameters follow their gradients, uphill, each item of a batch for itself."""

import abc
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ortoscope_service.errors import OrtoscopeError, invalid

if TYPE_CHECKING:
    from scipy import optimize

Array = npt.NDArray[Any]
Parameters = dict[str, Array]
Bounds = tuple[Array, Array]

_LARGEST = np.float32(1e18)
"""The largest number whose square, and that over 1 - beta_2, is well within float32."""

NO_BOUNDS: Mapping[str, Bounds] = {}


@dataclass(frozen=True)
class Schedule:
    """How the learning rate goes on from its first value."""

    kind: Literal["constant", "linear", "cosine"] = "constant"
    """Linear and cosine fall to `end` times the first value in `steps` steps, and stay there."""

    steps: int = 0
    """Length of the fall."""

    end: float = 0.0
    """What is left of the rate at the end, as a factor."""

    def __post_init__(self) -> None:
        if self.kind != "constant" and self.steps < 1:
            raise invalid(
                "INVALID_SCHEDULE",
                f"A {self.kind} schedule over {self.steps} steps has no length; give the number of steps.",
                field="optimizer.schedule.steps",
                steps=self.steps,
            )

    def factor(self, step: int) -> float:
        """The factor of the learning rate at a step, counted from 1."""
        if self.kind == "constant":
            return 1.0
        way = min((step - 1) / self.steps, 1.0)
        left = 1 - way if self.kind == "linear" else (1 + math.cos(math.pi * way)) / 2
        return self.end + (1 - self.end) * left


CONSTANT = Schedule()


class State(abc.ABC):
    """An optimization under way.

    Attributes:
        parameters: Where the gradient is wanted next. They are changed in place: by `step`, and by whoever brings them
            back to where they may be after it.
        finished: (items,) whether an item has converged, so that nothing more will move it.
    """

    parameters: Parameters
    finished: npt.NDArray[np.bool_]

    @abc.abstractmethod
    def step(self, values: Array, gradients: Parameters) -> None:
        """Moves the parameters.

        Args:
            values: (items,) the objective at the parameters.
            gradients: Its derivative by each parameter, of the parameters' shapes.
        """

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Gives back what the optimization holds; it cannot go on after that."""

    def __enter__(self) -> "State":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Optimizer(abc.ABC):
    """A rule by which parameters follow gradients."""

    @abc.abstractmethod
    def start(self, parameters: Parameters, bounds: Mapping[str, Bounds] = NO_BOUNDS) -> State:
        """Begins an optimization.

        Args:
            parameters: Where from; float32, each with one row per item. If their numbers of rows differ, items have
                some in common, and all of them count as one.
            bounds: The least and the greatest value of parameters, broadcasting to one item. Those that look at the
                slope alone leave it to the caller to bring parameters back after each step.
        """


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, algorithm 1); the defaults are Lucid's.

    m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g²; p += rate m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + epsilon).
    """

    learning_rate: float = 0.05
    """Length of a step in each coordinate, as long as gradients keep their sign."""

    beta_1: float = 0.9
    """Memory of the mean gradient."""

    beta_2: float = 0.999
    """Memory of the mean square."""

    epsilon: float = 1e-8
    """Added to the root of the mean square."""

    schedule: Schedule = CONSTANT
    """Of the learning rate."""

    def __post_init__(self) -> None:
        _check_rate(self.learning_rate)
        _check_betas(self.beta_1, self.beta_2)

    def start(self, parameters: Parameters, bounds: Mapping[str, Bounds] = NO_BOUNDS) -> State:  # noqa: ARG002
        """Begins with both moments at zero."""
        return _MomentState(parameters, self.beta_1, self.beta_2, self._coefficients)

    def _coefficients(self, step: int) -> tuple[float, float, float, float]:
        rate = self.learning_rate * self.schedule.factor(step)
        return rate / (1 - self.beta_1**step), 0.0, 1 / (1 - self.beta_2**step), self.epsilon


@dataclass(frozen=True)
class Nadam(Optimizer):
    """Adam with Nesterov's momentum (Dozat 2016), with PyTorch's schedule of momentum.

    mu_t = b1 (1 - 0.96^(t psi) / 2), M_t = mu_1 ... mu_t; m and v as in Adam;
    p += rate (mu_{t+1} m / (1 - M_{t+1}) + (1 - mu_t) g / (1 - M_t)) / (sqrt(v / (1 - b2^t)) + epsilon).
    The learning rate of 1 is that of MACO.
    """

    learning_rate: float = 1.0
    """Length of a step in each coordinate, as long as gradients keep their sign."""

    beta_1: float = 0.9
    """Memory of the mean gradient."""

    beta_2: float = 0.999
    """Memory of the mean square."""

    epsilon: float = 1e-8
    """Added to the root of the mean square (PyTorch; Keras has 1e-7, which gradients by many phases feel)."""

    momentum_decay: float = 0.004
    """The psi above."""

    schedule: Schedule = CONSTANT
    """Of the learning rate."""

    def __post_init__(self) -> None:
        _check_rate(self.learning_rate)
        _check_betas(self.beta_1, self.beta_2)

    def start(self, parameters: Parameters, bounds: Mapping[str, Bounds] = NO_BOUNDS) -> State:  # noqa: ARG002
        """Begins with both moments at zero."""
        return _MomentState(parameters, self.beta_1, self.beta_2, self._coefficients)

    def _momentum(self, step: int) -> float:
        return float(self.beta_1 * (1 - 0.5 * 0.96 ** (step * self.momentum_decay)))

    def _coefficients(self, step: int) -> tuple[float, float, float, float]:
        rate = self.learning_rate * self.schedule.factor(step)
        product = math.prod(self._momentum(number) for number in range(1, step + 1))
        following = self._momentum(step + 1)
        return (
            rate * following / (1 - product * following),
            rate * (1 - self._momentum(step)) / (1 - product),
            1 / (1 - self.beta_2**step),
            self.epsilon,
        )


@dataclass(frozen=True)
class Sgd(Optimizer):
    """Steps along the normalised gradient, as DeepDream and the pictures before Lucid made them.

    p = (1 - decay) p + u; u = momentum u + rate g / norm(g), with the norm of an item over all its parameters.
    """

    learning_rate: float = 1.5 / 255
    """Of DeepDream: 1.5 grey levels of 255 for the mean pixel."""

    norm: Literal["mean_abs", "l2", "rms", "none"] = "mean_abs"
    """What the gradient is divided by: its mean absolute value (DeepDream), its length, its root mean square, 1."""

    momentum: float = 0.0
    """How much of the last step is made again."""

    decay: float = 0.0
    """What each step takes off the parameters (Yosinski et al. 2015: 1e-4)."""

    schedule: Schedule = CONSTANT
    """Of the learning rate."""

    def __post_init__(self) -> None:
        _check_rate(self.learning_rate)
        for name in ("momentum", "decay"):
            if not 0 <= getattr(self, name) < 1:
                raise invalid(
                    "INVALID_OPTIMIZER",
                    f"{name} is {getattr(self, name):g}; give a number from 0 up to, but not, 1.",
                    field=f"optimizer.{name}",
                    **{name: getattr(self, name)},
                )

    def start(self, parameters: Parameters, bounds: Mapping[str, Bounds] = NO_BOUNDS) -> State:  # noqa: ARG002
        """Begins at rest."""
        return _SgdState(self, parameters)


@dataclass(frozen=True)
class Lbfgs(Optimizer):
    """L-BFGS-B (Byrd, Lu, Nocedal and Zhu 1995), as SciPy has it; for objectives without noise.

    Every step is one evaluation: of the line search as well as of a new point. Items are searched apart, in lock step.
    Random transforms must be off or held fixed, else the line search compares pictures that differ by chance. Bounds
    are kept by the search itself; nothing else may change the parameters between steps.
    """

    history: int = 10
    """Pairs of steps and gradients that the curvature is estimated from."""

    max_evaluations: int = 15000
    """Per item."""

    def __post_init__(self) -> None:
        for name in ("history", "max_evaluations"):
            if getattr(self, name) < 1:
                raise invalid(
                    "INVALID_OPTIMIZER",
                    f"{name} is {getattr(self, name)}; give a positive number.",
                    field=f"optimizer.{name}",
                    **{name: getattr(self, name)},
                )

    def start(self, parameters: Parameters, bounds: Mapping[str, Bounds] = NO_BOUNDS) -> State:
        """Begins a search for every item, which must be closed."""
        return _LbfgsState(self, parameters, bounds)


def items_of(parameters: Parameters) -> int:
    """The number of independent items: the rows of the parameters, or 1 if they differ."""
    rows = {len(tensor) for tensor in parameters.values()}
    return rows.pop() if len(rows) == 1 else 1


class _MomentState(State):
    """Adam and Nadam: p += (a m + b g) / (sqrt(c v) + epsilon), all element by element, so items are apart."""

    def __init__(
        self,
        parameters: Parameters,
        beta_1: float,
        beta_2: float,
        coefficients: Callable[[int], tuple[float, float, float, float]],
    ) -> None:
        self.parameters = parameters
        self.finished = np.zeros(items_of(parameters), bool)
        self._betas = np.float32(beta_1), np.float32(beta_2)
        self._rests = np.float32(1 - beta_1), np.float32(1 - beta_2)
        self._coefficients = coefficients
        self._step = 0
        self._first = {name: np.zeros_like(tensor) for name, tensor in parameters.items()}
        self._second = {name: np.zeros_like(tensor) for name, tensor in parameters.items()}
        self._work = {name: (np.empty_like(tensor), np.empty_like(tensor)) for name, tensor in parameters.items()}

    def step(self, values: Array, gradients: Parameters) -> None:  # noqa: ARG002 - they need the slope alone
        self._step += 1
        by_mean, by_gradient, by_square, epsilon = (np.float32(number) for number in self._coefficients(self._step))
        for name, parameter in self.parameters.items():
            gradient, first, second = gradients[name], self._first[name], self._second[name]
            one, two = self._work[name]
            gradient = _squared(gradient, out=one)
            second *= self._betas[1]
            second += np.multiply(one, self._rests[1], out=one)
            first *= self._betas[0]
            first += np.multiply(gradient, self._rests[0], out=one)
            np.multiply(second, by_square, out=one)
            np.sqrt(one, out=one)
            one += epsilon
            np.multiply(first, by_mean, out=two)
            if by_gradient:
                two += gradient * by_gradient
            two /= one
            np.add(parameter, two, out=parameter)


def _squared(gradient: Array, out: Array) -> Array:
    """Writes a gradient's square to `out`, and gives the gradient of which it is that.

    A square beyond float32 would be infinite in the mean square for ever, and its coordinate would never move again.
    What is so large counts as `_LARGEST`, with its sign, to both moments.
    """
    try:
        with np.errstate(over="raise"):
            np.multiply(gradient, gradient, out=out)
    except FloatingPointError:
        gradient = np.clip(gradient, -_LARGEST, _LARGEST)
        np.multiply(gradient, gradient, out=out)
    return gradient


class _SgdState(State):
    def __init__(self, rule: Sgd, parameters: Parameters) -> None:
        self.parameters = parameters
        self.finished = np.zeros(items_of(parameters), bool)
        self._rule = rule
        self._step = 0
        self._velocity = {name: np.zeros_like(tensor) for name, tensor in parameters.items()}

    def step(self, values: Array, gradients: Parameters) -> None:  # noqa: ARG002 - it needs the slope alone
        self._step += 1
        rate = self._rule.learning_rate * self._rule.schedule.factor(self._step)
        factors = rate * _inverse_norms(gradients, self._rule.norm, len(self.finished))
        for name, parameter in self.parameters.items():
            velocity = self._velocity[name]
            velocity *= np.float32(self._rule.momentum)
            velocity += gradients[name] * factors.astype(np.float32).reshape(-1, *[1] * (parameter.ndim - 1))
            if self._rule.decay:
                np.multiply(parameter, np.float32(1 - self._rule.decay), out=parameter)
            np.add(parameter, velocity, out=parameter)


def _inverse_norms(gradients: Parameters, norm: str, items: int) -> npt.NDArray[np.float64]:
    """1 / norm for every item, over all its parameters; 0 where it has no gradient."""
    if norm == "none":
        return np.ones(items)
    power = 1 if norm == "mean_abs" else 2
    sums, count = np.zeros(items), 0
    for gradient in gradients.values():
        rows = np.abs(gradient.reshape(items, -1).astype(np.float64))
        sums += (rows**power).sum(axis=1)
        count += rows.shape[1]
    lengths = (sums if norm == "l2" else sums / count) ** (1 / power)
    return np.divide(1.0, lengths, out=np.zeros(items), where=lengths > 0)


class _Abandoned(Exception):  # noqa: N818 - it ends a thread, nothing is wrong
    """The search is not wanted any more."""


@dataclass
class _Search:
    """What a thread that runs SciPy's search for one item exchanges with the loop."""

    point: npt.NDArray[np.float64]
    asked: threading.Event = field(default_factory=threading.Event)
    answered: threading.Event = field(default_factory=threading.Event)
    answer: tuple[float, npt.NDArray[np.float64]] | None = None
    abandoned: bool = False
    done: bool = False
    error: BaseException | None = None


class _LbfgsState(State):
    """SciPy calls for a value whenever it likes; a thread for each item lets it wait until all items' are computed."""

    def __init__(self, rule: Lbfgs, parameters: Parameters, bounds: Mapping[str, Bounds]) -> None:
        self.parameters = parameters
        count = items_of(parameters)
        self.finished = np.zeros(count, bool)
        self._names = list(parameters)
        self._searches = [_Search(point) for point in self._flat(parameters)]
        limits = self._limits(bounds)
        for search, own in zip(self._searches, limits, strict=True):
            threading.Thread(target=_run, args=(rule, search, own), name="lbfgs", daemon=True).start()
        self._await(self._searches)

    def step(self, values: Array, gradients: Parameters) -> None:
        """Hands each search its value and gradient, and puts the points in place that they ask for next."""
        waiting = [search for search in self._searches if not search.done]
        slopes = self._flat(gradients)
        totals = np.asarray(values, np.float64)
        if len(totals) != len(self._searches):
            totals = totals.sum(keepdims=True)
        for search, value, slope in zip(self._searches, totals, slopes, strict=True):
            if not search.done:
                search.asked.clear()
                search.answer = (-float(value), -slope)
                search.answered.set()
        self._await(waiting)
        self._place()

    def close(self) -> None:
        """Ends the threads."""
        for search in self._searches:
            search.abandoned = True
            search.answered.set()

    def _await(self, searches: Sequence[_Search]) -> None:
        for search in searches:
            search.asked.wait()
            if search.error is not None:
                self.close()
                raise search.error
        self.finished[:] = [search.done for search in self._searches]

    def _flat(self, tensors: Parameters) -> list[npt.NDArray[np.float64]]:
        """Each item's numbers in one row."""
        count = len(self.finished)
        rows = [np.asarray(tensors[name], np.float64).reshape(count, -1) for name in self._names]
        return list(np.concatenate(rows, axis=1))

    def _limits(self, bounds: Mapping[str, Bounds]) -> list["optimize.Bounds | None"]:
        """Each item's bounds."""
        from scipy import optimize  # noqa: PLC0415 - a fifth of a second, for what few climbs do

        if not bounds:
            return [None] * len(self.finished)
        sides = [
            self._flat(
                {
                    name: np.broadcast_to(bounds[name][side] if name in bounds else without, tensor.shape)
                    for name, tensor in self.parameters.items()
                }
            )
            for side, without in enumerate((np.array(-np.inf), np.array(np.inf)))
        ]
        return [optimize.Bounds(low, high) for low, high in zip(*sides, strict=True)]

    def _place(self) -> None:
        points = np.stack([search.point for search in self._searches])
        start = 0
        for name in self._names:
            tensor = self.parameters[name]
            size = tensor.size // len(points)
            tensor[...] = points[:, start : start + size].reshape(tensor.shape)
            start += size


def _run(rule: Lbfgs, search: _Search, bounds: "optimize.Bounds | None") -> None:
    from scipy import optimize  # noqa: PLC0415 - a fifth of a second, for what few climbs do

    def evaluate(point: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        search.point = point.copy()
        search.answered.clear()
        search.asked.set()
        if not search.abandoned:
            search.answered.wait()
        if search.abandoned:
            raise _Abandoned
        assert search.answer is not None
        return search.answer

    options = {
        "maxcor": rule.history,
        "maxfun": rule.max_evaluations,
        "maxiter": rule.max_evaluations,
        # Single precision makes smaller changes than SciPy's own tolerance, which would end the search too late.
        "ftol": float(np.finfo(np.float32).eps) / 10,
    }
    try:
        result = optimize.minimize(evaluate, search.point, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        search.point = np.asarray(result.x, np.float64)
    except _Abandoned:
        pass
    except BaseException as error:  # noqa: BLE001 - it is raised where the loop waits
        search.error = error
    finally:
        search.done = True
        search.asked.set()


def _check_rate(rate: float) -> None:
    if not (math.isfinite(rate) and rate > 0):
        raise _unfit("learning_rate", rate, "a positive number")


def _check_betas(beta_1: float, beta_2: float) -> None:
    for name, beta in (("beta_1", beta_1), ("beta_2", beta_2)):
        if not 0 <= beta < 1:
            raise _unfit(name, beta, "a number from 0 up to, but not, 1")


def _unfit(name: str, number: float, remedy: str) -> OrtoscopeError:
    return invalid(
        "INVALID_OPTIMIZER", f"{name} is {number:g}; give {remedy}.", field=f"optimizer.{name}", **{name: number}
    )
