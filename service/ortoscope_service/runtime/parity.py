"""The parity gate: a graph is served by another provider than the CPU's only if it gets the same numbers there.

Providers are fast because they compute in other ways, and now and then wrong because of that: a gradient may differ by
more than its own size while the activations agree. So every graph is run by both before it serves, and where they
differ, the CPU provider serves it: slower, and right.

The measure of an output's error is the root mean square of the difference, relative to the root mean square of the CPU
provider's values. Rounding gives 1e-7 to 1e-6 in activations, and up to 7e-3 in gradients of deep networks, where it
moves a value across a kink now and then; what is wrong is usually off by 1e-1 and more. Integers and truth values must
be equal, and infinities and NaN at the same places.
"""

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.runtime.hardware import processor
from ortoscope_service.runtime.plugins import describe_device, is_plugin, plugin_device, plugin_options
from ortoscope_service.runtime.sessions import Session, SessionConfig, TensorInfo, onnxruntime_version
from ortoscope_service.runtime.threads import available_threads
from ortoscope_service.runtime.verdicts import Circumstances, ParityReport, Verdicts

TOLERANCE = 3e-2
"""Largest error with which a provider serves a graph."""

CPU = "CPUExecutionProvider"

Feeds = Mapping[str, npt.NDArray[Any]]

_ITEMS = 2
_SEEDS = (0, 1, 2)
_FREE_EXTENTS = (32, 8, 224)
"""Tried in turn for axes that are free and not the first, until the CPU provider can run the graph."""

_UNSUITABLE = frozenset({"INVALID_TENSOR", "MODEL_RUN_FAILED"})
"""Reasons for which the CPU provider refuses inputs of other extents than a graph can compute."""

_MISCONFIGURED = frozenset(
    {"UNKNOWN_PROVIDER", "PROVIDER_NOT_LOADABLE", "NO_PROVIDER_DEVICE", "UNKNOWN_OPTIMIZATION_LEVEL"}
)
"""What is not the graph's fault and must not be hidden by a verdict on it."""

_TRANSIENT = frozenset({Code.RESOURCE_EXHAUSTED, Code.CANCELLED, Code.DEADLINE_EXCEEDED})

_log = logging.getLogger(__name__)


def open_session(
    model: bytes,
    config: SessionConfig,
    *,
    probes: Sequence[Feeds] = (),
    make: Callable[[bytes, SessionConfig], Session] = Session,
) -> Session:
    """A session on the provider that is asked for, if that has proven itself on this graph; else on the CPU provider.

    The proof is looked up in `config.verdicts`, and where it is not there, found by running the graph on both
    providers: on random inputs made of its types and shapes, and on `probes`.

    Args:
        model: The ONNX file.
        config: How to run it.
        probes: Inputs to compare on besides the random ones; needed where those cannot be made, because extents
            depend on each other.
        make: Makes a session.

    Returns:
        A session whose `config` names the provider that it runs on, and whose `parity` says why; that is None if the
        CPU provider was asked for.

    Raises:
        OrtoscopeError: As `Session` raises for the CPU provider; as `plugin_device` raises; `UNKNOWN_PROVIDER`.
    """
    if config.providers[:1] in {(), (CPU,)}:
        return make(model, config)
    config = replace(config, intra_op_threads=config.intra_op_threads or available_threads())
    verdicts = Verdicts(config.verdicts)
    circumstances = _circumstances(model, config)
    report = verdicts.find(circumstances)
    session: Session | None = None
    if report is None:
        report, session, lasting = _Trial(model, config, circumstances, make).judge(probes)
        if lasting:
            verdicts.keep(report)
    if not report.passed:
        _log.warning(
            "%s COMPUTES INSTEAD OF %s, which failed the parity gate for graph %s: %s",
            report.used,
            circumstances.provider,
            circumstances.graph,
            report.reason,
        )
    if session is None:
        session = make(model, config if report.passed else _on_cpu(config))
    session.parity = report
    return session


class _Trial:
    """A graph on the provider that is asked for, beside the CPU provider."""

    def __init__(
        self,
        model: bytes,
        config: SessionConfig,
        circumstances: Circumstances,
        make: Callable[[bytes, SessionConfig], Session],
    ) -> None:
        self._model = model
        self._config = config
        self._circumstances = circumstances
        self._make = make
        self._errors: dict[str, float] = {}
        self._probes = 0

    def judge(self, probes: Sequence[Feeds]) -> tuple[ParityReport, Session, bool]:
        """Compares.

        Returns:
            The report, the session that it speaks for, and whether it would come out the same another time.
        """
        reference = self._make(self._model, _on_cpu(self._config))
        runs = list(_reference_runs(reference, probes))
        if not runs:
            return self._report("no inputs were found on which to compare: give some as probes"), reference, False
        try:
            candidate = self._make(self._model, self._config)
            for feeds, expected in runs:
                found = candidate.run(feeds)
                self._probes += 1
                for name, value in expected.items():
                    self._errors[name] = max(self._errors.get(name, 0.0), relative_error(found[name], value))
        except OrtoscopeError as error:
            if error.reason in _MISCONFIGURED:
                raise
            return self._report(f"it cannot run it: {error.message}"), reference, error.code not in _TRANSIENT
        worst = max(self._errors, key=lambda name: self._errors[name])
        if self._errors[worst] <= TOLERANCE:
            return self._report(""), candidate, True
        wrong = f"its output '{worst}' is off by {self._errors[worst]:.2g} (relative, allowed {TOLERANCE:.2g})"
        return self._report(wrong), reference, True

    def _report(self, reason: str) -> ParityReport:
        return ParityReport(
            self._circumstances,
            passed=not reason,
            used=CPU if reason else self._circumstances.provider,
            reason=reason,
            errors={name: error if math.isfinite(error) else None for name, error in self._errors.items()},
            probes=self._probes,
        )


def relative_error(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """Root mean square of the difference, relative to that of what is expected; infinite where they cannot agree.

    They cannot if their shapes or types differ, if integers or truth values are not equal, or if infinities or NaN are
    at other places.
    """
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return math.inf
    if expected.dtype.kind not in "fc":
        return 0.0 if np.array_equal(found, expected) else math.inf
    finite = np.isfinite(expected)
    if not np.array_equal(found[~finite], expected[~finite], equal_nan=True) or not np.isfinite(found[finite]).all():
        return math.inf
    a, b = found[finite].astype(np.float64), expected[finite].astype(np.float64)
    difference, scale = float(np.sum(np.square(a - b))), float(np.sum(np.square(b)))
    if difference == 0:
        return 0.0
    return math.sqrt(difference / scale) if scale else math.inf


def random_inputs(inputs: Sequence[TensorInfo], extent: int, seed: int) -> dict[str, npt.NDArray[Any]]:
    """Inputs of a graph: floats with mean 0 and standard deviation 1, whole numbers 0 or 1, any truth values.

    Args:
        inputs: What the graph takes. A first axis that is free gets two items.
        extent: The extent of other axes that are free.
        seed: Of the random numbers.
    """
    rng = np.random.default_rng(seed)
    feeds: dict[str, npt.NDArray[Any]] = {}
    for info in inputs:
        free = [_ITEMS, *[extent] * (len(info.shape) - 1)]
        shape = [size if size >= 0 else other for size, other in zip(info.shape, free, strict=False)]
        if info.data_type == "object":
            feeds[info.name] = np.full(shape, "a", object)
        elif info.data_type.startswith("float"):
            feeds[info.name] = rng.standard_normal(shape).astype(info.data_type)
        else:
            feeds[info.name] = rng.integers(0, 2, shape).astype(info.data_type)
    return feeds


def _reference_runs(reference: Session, probes: Sequence[Feeds]) -> Iterator[tuple[Feeds, Feeds]]:
    """Inputs, and what the CPU provider makes of them."""
    for feeds in probes:
        yield feeds, reference.run(feeds)
    for extent in _FREE_EXTENTS:
        try:
            first = random_inputs(reference.inputs, extent, _SEEDS[0])
            expected = reference.run(first)
        except OrtoscopeError as error:
            if error.reason not in _UNSUITABLE:
                raise
            continue
        yield first, expected
        for seed in _SEEDS[1:]:
            further = random_inputs(reference.inputs, extent, seed)
            yield further, reference.run(further)
        return


def _on_cpu(config: SessionConfig) -> SessionConfig:
    return replace(config, providers=(CPU,))


def _circumstances(model: bytes, config: SessionConfig) -> Circumstances:
    provider = config.providers[0]
    device, options = processor(), ""
    if is_plugin(provider):
        device = f"{describe_device(plugin_device(provider))}; {device}"
        options = json.dumps(plugin_options(provider, config.intra_op_threads), sort_keys=True)
    return Circumstances(
        graph=f"sha256:{hashlib.sha256(model).hexdigest()}",
        provider=provider,
        options=options,
        optimization_level=config.optimization_level,
        threads=config.intra_op_threads,
        onnxruntime=onnxruntime_version(),
        device=device,
        tolerance=TOLERANCE,
    )
