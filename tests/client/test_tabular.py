"""The row of features that a model looks for, against closed forms."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import ortoscope
import pytest
from ortoscope.errors import FailedPrecondition, InvalidArgument
from ortoscope.gradients import Objective
from ortoscope.report.tabular import bar_of
from ortoscope.tabular import SHARES, FeatureTable, FeatureValue, OptimalInput, optimal_input
from ortoscope.v1 import provenance_pb2
from ortoscope_service.config import ServerConfig
from ortoscope_service.models.repository import ModelRepository
from sequence_models import FEATURES, WEIGHTS, running_sequence_server
from serving import add_model, serving
from tiny_models import GraphBuilder, float_value


@pytest.fixture(scope="module")
def scope(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ortoscope.Ortoscope]:
    with running_sequence_server(tmp_path_factory.mktemp("server")) as target, ortoscope.connect(target) as connection:
        yield connection


@pytest.fixture(scope="module")
def data() -> FeatureTable:
    rng = np.random.default_rng(0)
    values = rng.normal([40, 3000, 0, 5], [12, 900, 2, 1], (200, 4))
    return FeatureTable(FEATURES, values)


def test_the_optimum_of_a_linear_model_lies_at_the_bounds_by_the_sign_of_its_weights(
    scope: ortoscope.Ortoscope, data: FeatureTable
) -> None:
    model = scope.model("linear")
    found = optimal_input(scope.rpcs, model.proto, Objective.class_logit("good"), data, steps=60, starts=3)
    low, high = data.values.min(axis=0), data.values.max(axis=0)
    median = np.median(data.values, axis=0)
    best = np.where(WEIGHTS > 0, high, low)
    moving = WEIGHTS != 0
    np.testing.assert_allclose(found.values[moving], best[moving], rtol=1e-6)
    assert [feature.at for feature in found.features][:3] == ["high", "low", "high"]
    assert found.objective == pytest.approx(float(WEIGHTS @ best), rel=1e-5)
    assert found.at_median == pytest.approx(float(WEIGHTS @ median), rel=1e-5)
    # What is lost without a feature is its weight times the distance from the median.
    lost = [feature.effect for feature in found.features]
    np.testing.assert_allclose(lost, WEIGHTS * (found.values - median), rtol=1e-3, atol=2e-3)
    np.testing.assert_allclose([feature.slope for feature in found.features], WEIGHTS, atol=1e-6)
    assert found.values[~moving] == pytest.approx(median[~moving], rel=1e-6)
    assert found.starts == pytest.approx([found.objective] * 3, rel=1e-5)
    assert found.options == ("--class", "good", "--steps", "60", "--starts", "3")
    assert found.goal == "the logit of class 0 (good)"
    assert (found.model, found.rows) == ("linear/1", 200)


def test_the_negative_lies_at_the_other_bounds(scope: ortoscope.Ortoscope, data: FeatureTable) -> None:
    model = scope.model("linear")
    plain, negative, other = (
        optimal_input(scope.rpcs, model.proto, objective, data, negative=sign, steps=60, starts=2)
        for objective, sign in (
            (Objective.channel_mean("scores", 0), False),
            (Objective.channel_mean("scores", 0), True),
            (Objective.class_logit(1), False),
        )
    )
    np.testing.assert_array_equal(negative.values, other.values)
    assert (negative.values != plain.values).tolist() == (WEIGHTS != 0).tolist()
    assert negative.objective == pytest.approx(other.objective, rel=1e-6)
    assert negative.goal == "minus unit 0 of scores"


def test_bounds_are_quantiles_of_the_data_or_given(scope: ortoscope.Ortoscope, data: FeatureTable) -> None:
    found = optimal_input(
        scope.rpcs, scope.model("linear").proto, Objective.class_logit(0), data,
        within=(0.1, 0.9), bounds={"debt": (-1.5, 0.25), "noise": (5, 5)}, steps=60, starts=2,
    )  # fmt: skip
    expected = [np.quantile(data.values[:, 0], 0.9), np.quantile(data.values[:, 1], 0.1), 0.25, 5]
    np.testing.assert_allclose(found.values, expected, rtol=1e-6)
    assert found.features[3].at == "fixed"
    assert found.features[0].percentile == pytest.approx(90, abs=0.5)
    assert found.features[0].quantiles == pytest.approx(np.quantile(data.values[:, 0], SHARES).tolist())


def test_the_optimum_of_a_network_is_stationary_between_the_bounds(scope: ortoscope.Ortoscope) -> None:
    rows = FeatureTable(tuple("abcdefghij"), np.random.default_rng(1).normal(size=(100, 10)))
    found = optimal_input(scope.rpcs, scope.model("mlp").proto, Objective.channel_mean("scores", 2), rows, steps=300)
    assert found.objective > found.at_median
    assert found.objective == pytest.approx(max(found.starts), rel=1e-5)
    for feature in found.features:  # Karush, Kuhn and Tucker: a slope points out of the box, or there is none
        match feature.at:
            case "high":
                assert feature.slope > -0.05
            case "low":
                assert feature.slope < 0.05
            case _:
                assert abs(feature.slope) < 0.2


def test_a_trained_classifier_wants_what_its_training_data_rewarded(tmp_path: Path) -> None:
    """Logistic regression by Newton's method on data whose rule is known: large `good`, small `bad`, any `idle`."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(400, 3))
    y = (2 * x[:, 0] - 3 * x[:, 1] + rng.logistic(size=400) > 0).astype(float)
    weights = np.zeros(3)
    for _ in range(20):
        p = 1 / (1 + np.exp(-x @ weights))
        weights += np.linalg.solve(x.T @ (x * (p * (1 - p))[:, None]) + 1e-6 * np.eye(3), x.T @ (y - p))
    g = GraphBuilder(0)
    g.node("MatMul", ["row", g.constant("w", np.stack([0 * weights, weights], axis=1).astype(np.float32))], "logits")
    g.node("Softmax", ["logits"], "probabilities", axis=-1)
    onnx_model = g.model([float_value("row", ["n", 3])], [float_value("probabilities", ["n", 2])], opset=17)
    add_model(ModelRepository(tmp_path / "models"), "credit", onnx_model, class_labels=("no", "yes"))
    (tmp_path / "datasets").mkdir()
    table = tmp_path / "train.csv"
    rows = (f"{a!r},{b!r},{int(label)},{c!r}" for (a, b, c), label in zip(x.tolist(), y, strict=True))
    table.write_text("\n".join(["good,bad,label,idle", *rows]))
    config = ServerConfig(
        models=tmp_path / "models", datasets=tmp_path / "datasets", store=tmp_path / "store", listen="127.0.0.1:0"
    )
    with serving(config) as (server, _), ortoscope.connect(server.address) as scope:
        data = FeatureTable.read(table, drop=["label"])
        np.testing.assert_array_equal(data.values, x)
        found = optimal_input(
            scope.rpcs,
            scope.model("credit").proto,
            Objective.class_probability("yes"),
            data,
            within=(0.05, 0.95),
            steps=60,
        )
    good, bad, idle = found.features
    assert (good.at, bad.at) == ("high", "low")
    assert good.percentile == pytest.approx(95, abs=1)
    assert bad.percentile == pytest.approx(5, abs=1)
    assert found.objective > 0.95
    assert found.at_median < 0.7
    assert abs(idle.effect) < 0.1 * min(good.effect, bad.effect)


def test_names_cannot_break_out_of_the_page() -> None:
    hostile = "</script><script>window.hacked = 1</script>"
    feature = FeatureValue(hostile, 1.0, 0.0, 2.0, (0.0, 0.1, 0.4, 0.5, 0.6, 0.9, 1.0), 100.0, 0.5, 1.0)
    found = OptimalInput(
        (feature,), 2.0, 1.0, (2.0, 1.0), hostile, 10, "m/1", provenance_pb2.Provenance(), {}, ("--class", hostile)
    )
    page = found.page()
    assert "<script>window" not in page
    assert "1 of 2 starts came that high" in page
    bar = bar_of(feature)
    assert (bar.low, bar.high, bar.value, bar.quantiles[0.5]) == (2, 98, 50, 26)
    assert (bar.start, bar.length, bar.above) == (26, 24, True)


def test_a_table_is_read_with_and_without_names(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a, b ,label\n1,2.5,x\n3,,y\n\n")
    table = FeatureTable.read(path, drop=["label"])
    assert table.names == ("a", "b")
    np.testing.assert_array_equal(table.values, [[1, 2.5], [3, np.nan]])
    np.testing.assert_array_equal(table.quantiles([0.5])[0], [2, 2.5])
    np.testing.assert_array_equal(table.percentiles([3, 0]), [75, 0])
    path.write_text("1,2\n3,4\n")
    assert FeatureTable.read(path).names == ("0", "1")
    with pytest.raises(InvalidArgument, match="no column 'label'") as caught:
        FeatureTable.read(path, drop=["label"])
    assert caught.value.reason == "COLUMN_UNKNOWN"


@pytest.mark.parametrize(
    ("content", "reason", "told"),
    [
        ("", "TABLE_UNREADABLE", "empty"),
        ("a,b\n1,x\n", "TABLE_UNREADABLE", "'x' in the column 'b', row 2, is no number"),
        ("a,b\n1\n", "TABLE_UNREADABLE", "row 2 has 1 cells"),
        ("a,b\n1,inf\n", "TABLE_UNREADABLE", "is no number"),
        ("a,b\n1,\n", "TABLE_UNFIT", "'b' holds no number"),
        ("a,b\n", "TABLE_UNFIT", "do not go with"),
    ],
)
def test_a_table_that_tells_nothing_is_refused(tmp_path: Path, content: str, reason: str, told: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(content)
    with pytest.raises(InvalidArgument, match=told) as caught:
        FeatureTable.read(path)
    assert caught.value.reason == reason


def test_what_does_not_fit_is_refused_before_any_work(scope: ortoscope.Ortoscope, data: FeatureTable) -> None:
    linear, text, mlp = (scope.model(name).proto for name in ("linear", "text", "mlp"))
    goal = Objective.class_logit(0)
    cases: list[tuple[str, Callable[[], object]]] = [
        ("INPUT_NOT_FEATURES", lambda: optimal_input(scope.rpcs, text, goal, data)),
        ("FEATURES_MISMATCH", lambda: optimal_input(scope.rpcs, mlp, goal, data)),
        ("BOUNDS_UNFIT", lambda: optimal_input(scope.rpcs, linear, goal, data, within=(0.9, 0.1))),
        ("BOUNDS_UNFIT", lambda: optimal_input(scope.rpcs, linear, goal, data, bounds={"age": (2, 1)})),
        ("FEATURE_UNKNOWN", lambda: optimal_input(scope.rpcs, linear, goal, data, bounds={"height": (1, 2)})),
        ("OBJECTIVE_UNSUPPORTED", lambda: optimal_input(
            scope.rpcs, linear, Objective.cotangent("scores", np.ones(2)), data)),
    ]  # fmt: skip
    for reason, call in cases:
        with pytest.raises((InvalidArgument, FailedPrecondition)) as caught:
            call()
        assert caught.value.reason == reason
