"""Objectives that compare the items of a batch with each other. Their items cannot be drawn apart."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ortoscope_service.analysis.visualization.graphs import BATCH
from ortoscope_service.analysis.visualization.objectives.algebra import check_finite
from ortoscope_service.analysis.visualization.objectives.reading import Reading, require_batch
from ortoscope_service.analysis.visualization.objectives.setting import Array, Canvas, Setting
from ortoscope_service.errors import invalid
from ortoscope_service.graph.taps import Tap

_SMALLEST_SQUARE = 1e-10
_REACH = 4


@dataclass(frozen=True)
class _Coupling(Reading):
    @property
    def couples_batch(self) -> bool:
        """It compares items."""
        return True

    def fit(self, tap: Tap, shape: Sequence[int], setting: Setting, at: str) -> None:  # noqa: ARG002
        """Refuses a batch of one: `BATCH_TOO_SMALL`."""
        require_batch(setting, self.kind, at)


@dataclass(frozen=True)
class Diversity(_Coupling):
    """How alike the items are: for item i, Σ over j ≠ i of ⟨Gᵢ, Gⱼ⟩. Give it a negative weight to draw them apart.

    G = A Aᵀ / |A Aᵀ| with A (unit, site) the activation: the Gram matrix, whose square norm is taken to be 1e-10 at
    least. The mean over the batch is Lucid's `diversity`, which stands beside means over the batch, too: a weight of
    -100 means the same in both.
    """

    kind = "diversity"

    def build(self, canvas: Canvas, name: str) -> ir.Value:
        """The product of each Gram matrix with the sum of the others."""
        g = canvas.g
        value, tap = canvas.read(self.of, name)
        units = self.shape(canvas.setting, name)[1][tap.unit_axis - 1]
        if tap.unit_axis == 1:
            rows = g.reshape(value, [0, units, -1])
            columns = g.transpose(rows, [0, 2, 1])
        else:
            columns = g.reshape(value, [0, -1, units])
            rows = g.transpose(columns, [0, 2, 1])
        gram = canvas.flat(g.matmul(rows, columns))
        square = g.total(g.multiply(gram, gram), [1], keepdims=True)
        gram = g.divide(gram, g.op("Sqrt", [g.op("Max", [square, canvas.constant(_SMALLEST_SQUARE)])]))
        others = g.subtract(g.total(gram, [0], keepdims=True), gram)
        return g.total(g.multiply(gram, others), [1])

    def feeds(self, setting: Setting, name: str) -> dict[str, Array]:  # noqa: ARG002
        """Nothing."""
        return {}


@dataclass(frozen=True)
class Alignment(_Coupling):
    """-½ Σ over j of mean (aᵢ - aⱼ)² / rᵈ for item i, with d = |i - j| from 1 to 4: neighbours shall look alike.

    Each pair is shared by its two items, so that the sum over the batch is Lucid's `alignment`, which stands beside
    sums over the batch (`channel_interpolate`). The sign is built in, as there: it is 0 at most.
    """

    kind = "alignment"

    decay: float = 2.0
    """r: how much less items count that are one place further apart."""

    def fit(self, tap: Tap, shape: Sequence[int], setting: Setting, at: str) -> None:
        """Refuses a batch of one, and a decay that is not positive: `BATCH_TOO_SMALL`, `INVALID_CONSTANT`."""
        super().fit(tap, shape, setting, at)
        check_finite(self.decay, f"{at}.decay")
        if self.decay < 1:
            raise invalid(
                "INVALID_CONSTANT",
                f"The decay {self.decay} is less than 1, so that distant items would count more than neighbours; give "
                "1 or more.",
                field=f"{at}.decay",
                decay=self.decay,
            )

    def build(self, canvas: Canvas, name: str) -> ir.Value:
        """By Σⱼ wᵢⱼ |aᵢ - aⱼ|² = aᵢ² Σⱼ wᵢⱼ + Σⱼ wᵢⱼ aⱼ² - 2 aᵢ·Σⱼ wᵢⱼ aⱼ, which takes no pair apart."""
        g = canvas.g
        value, _ = canvas.read(self.of, name)
        flat = canvas.flat(value)
        weights = canvas.feed(f"{name}.{self.kind}.weights", BATCH)
        squares = g.mean(g.multiply(flat, flat), [1], keepdims=True)
        own = g.multiply(squares, g.total(weights, [1], keepdims=True))
        products = g.mean(g.multiply(flat, g.matmul(weights, flat)), [1], keepdims=True)
        halves = g.multiply(g.add(own, g.matmul(weights, squares)), canvas.constant(0.5))
        return g.squeeze(g.subtract(products, halves), [1])

    def feeds(self, setting: Setting, name: str) -> dict[str, Array]:
        """What each pair of items counts."""
        places = np.arange(setting.batch)
        distance = np.abs(places[:, None] - places)
        weights = np.where((distance > 0) & (distance <= _REACH), float(self.decay) ** -distance.astype(np.float64), 0)
        return {f"{name}.{self.kind}.weights": weights.astype(setting.data_type)}
