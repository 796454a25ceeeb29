"""The job of a unit sheet: driver, engine and tasks, with real sessions in threads of this process."""

import io
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from ortoscope_service.analysis.execution import ExecutionConfig
from ortoscope_service.analysis.visualization import program
from ortoscope_service.analysis.visualization.loop import End, Seed, visualize
from ortoscope_service.analysis.visualization.objectives import Channel, Neuron, Scaled
from ortoscope_service.analysis.visualization.png import read_spec, to_bytes
from ortoscope_service.analysis.visualization.program import Program
from ortoscope_service.analysis.visualization.settings import resolve_preset
from ortoscope_service.analysis.visualization.sheets import END_NUMBERS
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.graph.taps import resolve_tap
from ortoscope_service.jobs import tasks
from ortoscope_service.jobs.artifacts import unpack_arrays
from ortoscope_service.jobs.engine import Crew, Interrupted, Job, run_job
from ortoscope_service.jobs.kinds import KINDS, software
from ortoscope_service.jobs.operations import NewOperation
from ortoscope_service.jobs.store import Store
from ortoscope_service.jobs.tasks import Environment, Outcome
from ortoscope_service.jobs.unit_climbs import UnitClimb, sheet_spec
from ortoscope_service.models.manifest import Preprocessing
from ortoscope_service.models.repository import ModelRepository, ModelVersion
from ortoscope_service.runtime.cancellation import Cancellation
from ortoscope_service.runtime.sessions import SessionConfig
from PIL import Image
from serving import PREPROCESSING, add_model
from tiny_models import GraphBuilder, float_value, tiny_cnn

VERB = "visualize-units"
SMALL = {"size": "16", "recipe.steps": "5"}
ONE_THREAD = ExecutionConfig(session=SessionConfig(intra_op_threads=1))


class Threads(Executor):
    """Does tasks in threads, and notes which units were climbed, group by group."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.climbed: list[list[int]] = []
        self.after_climb: Callable[[], None] = lambda: None
        self._pool = ThreadPoolExecutor(workers)

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> "Future[Any]":
        task = json.loads(args[0])["task"]

        def do() -> Any:
            answer = fn(*args, **kwargs)
            if task["name"] == "climb" and "error" not in json.loads(answer):
                self.climbed.append(task["arguments"]["units"])
                self.after_climb()
            return answer

        return self._pool.submit(do)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._pool.shutdown(wait, cancel_futures=cancel_futures)


@dataclass
class Bench:
    """A store, models, and who does the work."""

    root: Path
    models: ModelRepository
    workers: Threads
    stopping: threading.Event = field(default_factory=threading.Event)
    progress: list[tuple[str, int, int]] = field(default_factory=list)
    jobs: int = 0
    stores: int = 0

    def __post_init__(self) -> None:
        self.store = Store(self.root / "store-0")

    def begin_anew(self, workers: int) -> None:
        """Takes an empty store, and so many workers."""
        self.close()
        self.stores += 1
        self.store = Store(self.root / f"store-{self.stores}")
        self.workers = Threads(workers)

    def close(self) -> None:
        self.workers.shutdown()
        self.store.close()

    def add(self, name: str, model: onnx.ModelProto, preprocessing: Preprocessing = PREPROCESSING) -> ModelVersion:
        return add_model(self.models, name, model, preprocessing=preprocessing)

    def spec(
        self,
        version: ModelVersion,
        tap: str,
        units: Sequence[int],
        settings: Mapping[str, str] | None = None,
        *,
        preset: str = "lucid",
        kind: Any = "channel",
        negative: bool = False,
        seed: int = 3,
    ) -> dict[str, Any]:
        chosen = resolve_preset(preset, SMALL if settings is None else settings)
        climb = UnitClimb(kind, negative, chosen, seed)
        found = resolve_tap(version.manifest.taps, tap)
        return sheet_spec(version, found, units, climb, ONE_THREAD, 16, {"note": "test", "units": list(units)})

    def run(self, spec: Mapping[str, Any], cancellation: Cancellation | None = None) -> Outcome:
        self.jobs += 1
        name = f"{self.jobs:032x}"
        operation, _ = self.store.operations.create(NewOperation(name, VERB, "target", spec=spec))
        environment = Environment(str(self.root / f"store-{self.stores}"), str(self.root / "models"), None, software())

        def report(stage: str, done: int, total: int, _: float | None) -> None:
            self.progress.append((stage, done, total))

        job = Job(
            operation,
            Crew(self.workers, lambda: self.workers.workers),
            self.store.shards,
            self.store.artifacts,
            environment,
            report,
            cancellation or Cancellation(),
            self.stopping.is_set,
        )
        return run_job(job, KINDS[VERB].drive)

    def arrays(self, outcome: Outcome) -> dict[str, np.ndarray]:
        return unpack_arrays(self.store.artifacts.load(outcome.artifacts["arrays"]))

    def by_unit(self, outcome: Outcome) -> dict[int, dict[str, bytes]]:
        """For each unit, the bytes of all that is told of it."""
        arrays = self.arrays(outcome)
        units = arrays.pop("unit").tolist()
        return {unit: {name: array[row].tobytes() for name, array in arrays.items()} for row, unit in enumerate(units)}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, ModelRepository(tmp_path / "models"), Threads(2))
    yield made
    made.close()


@pytest.fixture
def cnn(bench: Bench) -> ModelVersion:
    return bench.add("cnn", tiny_cnn(seed=2))


@pytest.mark.parametrize(("kind", "negative"), [("channel", False), ("neuron", True)])
def test_each_picture_is_what_a_climb_of_that_unit_alone_comes_to(
    bench: Bench, cnn: ModelVersion, kind: str, negative: bool
) -> None:
    units = [7, 0, 11]
    outcome = bench.run(bench.spec(cnn, "relu6", units, kind=kind, negative=negative))
    arrays = bench.arrays(outcome)
    preset = resolve_preset("lucid", SMALL)
    assert arrays["unit"].tolist() == units
    for row, unit in enumerate(units):
        objective = Channel("relu6", unit) if kind == "channel" else Neuron("relu6", unit)
        climbed = Program(
            cnn,
            preset.picture(),
            (Scaled(-1.0, objective) if negative else objective,),
            preset.chain,
            session=ONE_THREAD.session,
        )
        alone = visualize(climbed, preset.recipe, [Seed(3, unit)])
        assert arrays["picture"][row].tobytes() == to_bytes(alone.pictures[0]).tobytes()
        assert arrays["objective"][row] == np.float32(alone.outcomes[0].objective)
        assert (arrays["steps"][row], arrays["attempt"][row]) == (alone.outcomes[0].steps, 1)
        assert arrays["redirected_steps"][row] == alone.outcomes[0].redirected
        assert arrays["end"][row] == END_NUMBERS[alone.outcomes[0].end]


def test_the_sheet_shows_the_pictures_row_by_row_and_tells_how_they_were_made(bench: Bench, cnn: ModelVersion) -> None:
    spec = bench.spec(cnn, "relu1", [5, 1, 2, 0, 7])
    outcome = bench.run(spec)
    pictures = bench.arrays(outcome)["picture"]
    assert (outcome.values["height"], outcome.values["width"], outcome.values["columns"]) == (16, 16, 3)
    png = bench.store.artifacts.load(outcome.artifacts["sheet"])
    assert read_spec(png) == spec["document"]
    with Image.open(io.BytesIO(png)) as image:
        shown = np.asarray(image)
    assert shown.shape == (32, 48, 3)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, 3)
        np.testing.assert_array_equal(shown[16 * row : 16 * row + 16, 16 * column : 16 * column + 16], picture)


def test_what_it_was_computed_from_is_told(bench: Bench, cnn: ModelVersion) -> None:
    values = bench.run(bench.spec(cnn, "relu1", [0, 1, 2])).values
    assert (values["items"], values["dataset_digest"], values["dead"]) == (3, "", 0)
    assert values["execution"]["providers"] == ["CPUExecutionProvider"]
    assert values["execution"]["intra_op_threads"] == 1
    others = [
        bench.spec(cnn, "relu1", [0, 1]),
        bench.spec(cnn, "relu1", [0, 1, 2], seed=4),
        bench.spec(cnn, "relu1", [0, 1, 2], negative=True),
        bench.spec(cnn, "relu1", [0, 1, 2], {**SMALL, "recipe.steps": "4"}),
    ]
    digests = {bench.run(spec).values["spec_digest"] for spec in others} | {values["spec_digest"]}
    assert len(digests) == 5


@pytest.mark.parametrize("tap", ["relu6", "logits"])
def test_a_units_bytes_do_not_depend_on_who_shares_its_batch(bench: Bench, cnn: ModelVersion, tap: str) -> None:
    def climbed(units: Sequence[int], at_once: int) -> dict[int, dict[str, bytes]]:
        bench.begin_anew(workers=1)
        found = bench.by_unit(bench.run({**bench.spec(cnn, tap, units), "at_once": at_once}))
        assert [len(group) for group in bench.workers.climbed] == [at_once] * (len(units) // at_once)
        return found

    together = climbed([0, 1, 2, 3], 4)
    assert climbed([0, 1, 2, 3], 1) == together
    assert climbed([3, 1, 0, 2], 2) == together


def test_any_number_of_workers_gives_the_same_bytes(bench: Bench, cnn: ModelVersion) -> None:
    spec = bench.spec(cnn, "add", range(6))
    found = []
    for workers in (1, 3):
        bench.begin_anew(workers)
        found.append(bench.run(spec).artifacts)
        assert [len(group) for group in bench.workers.climbed] == [6 // workers] * workers
    assert found[0] == found[1]


def test_a_unit_that_another_sheet_had_is_not_climbed_again(bench: Bench, cnn: ModelVersion) -> None:
    first = bench.by_unit(bench.run(bench.spec(cnn, "relu6", [4, 5, 6])))
    bench.workers.climbed.clear()
    second = bench.by_unit(bench.run(bench.spec(cnn, "relu6", [9, 6, 4, 2])))
    assert sorted(unit for group in bench.workers.climbed for unit in group) == [2, 9]
    assert {unit: second[unit] for unit in (4, 6)} == {unit: first[unit] for unit in (4, 6)}
    bench.workers.climbed.clear()
    bench.run(bench.spec(cnn, "relu6", [2, 4, 5, 6, 9]))
    assert bench.workers.climbed == []


@pytest.mark.parametrize(
    "change",
    [{"seed": 4}, {"negative": True}, {"kind": "neuron"}, {"settings": {**SMALL, "recipe.steps": "4"}}],
    ids=lambda change: next(iter(change)),
)
def test_what_decides_a_picture_has_it_climbed_again(bench: Bench, cnn: ModelVersion, change: dict[str, Any]) -> None:
    bench.run(bench.spec(cnn, "relu6", [4]))
    bench.run(bench.spec(cnn, "relu6", [4], **change))
    assert bench.workers.climbed == [[4], [4]]


def test_a_model_that_is_shown_something_else_has_its_units_climbed_again(bench: Bench, cnn: ModelVersion) -> None:
    darker = Preprocessing("nchw", "rgb", (0.0,) * 3, (128.0,) * 3, "squash", 16, 16, 18, "not verified: a test")
    other = bench.add("cnn", tiny_cnn(seed=2), darker)
    same = bench.add("cnn", tiny_cnn(seed=2))
    assert other.manifest.digest == cnn.manifest.digest
    for version in (cnn, other, same):
        bench.run(bench.spec(version, "relu6", [4]))
    assert bench.workers.climbed == [[4], [4]]


def test_a_job_that_was_stopped_goes_on_with_what_is_missing_to_the_same_bytes(bench: Bench, cnn: ModelVersion) -> None:
    spec = {**bench.spec(cnn, "relu6", range(6)), "at_once": 1}
    undisturbed = bench.run(spec).artifacts
    bench.begin_anew(workers=1)
    bench.workers.after_climb = bench.stopping.set
    with pytest.raises(Interrupted):
        bench.run(spec)
    done = [unit for group in bench.workers.climbed for unit in group]
    assert 0 < len(done) < 6
    bench.stopping.clear()
    bench.workers.after_climb = lambda: None
    bench.workers.climbed.clear()
    assert bench.run(spec).artifacts == undisturbed
    assert sorted(done + [unit for group in bench.workers.climbed for unit in group]) == list(range(6))


def test_a_picture_that_was_damaged_is_made_again(bench: Bench, cnn: ModelVersion) -> None:
    spec = bench.spec(cnn, "relu6", [0, 1, 2, 3])
    undisturbed = bench.run(spec).artifacts
    bench.store.shards.collect()
    kept = [path for path in (bench.root / "store-0" / "shards").glob("??/*") if path.name not in undisturbed.values()]
    assert len(kept) == 4
    kept[0].write_bytes(b"damaged")
    bench.workers.climbed.clear()
    bench.store.artifacts.sweep({path.name for path in kept})
    assert bench.run({**spec, "document": {"note": "another"}}).artifacts["arrays"] == undisturbed["arrays"]
    assert [len(group) for group in bench.workers.climbed] == [1]


def test_progress_is_told_in_units(bench: Bench, cnn: ModelVersion) -> None:
    bench.begin_anew(workers=1)
    bench.run({**bench.spec(cnn, "relu6", range(5)), "at_once": 2})
    told = [(done, total) for stage, done, total in bench.progress if stage == "visualizing"]
    assert told == [(0, 5), (2, 5), (4, 5), (5, 5)]


def test_cancelling_ends_a_climb_within_a_step(bench: Bench, cnn: ModelVersion) -> None:
    cancellation = Cancellation()
    began = threading.Event()
    cancelled_at: list[float] = []

    def cancel() -> None:
        began.wait(20)
        time.sleep(0.3)
        cancelled_at.append(time.monotonic())
        cancellation.cancel()

    canceller = threading.Thread(target=cancel)
    canceller.start()
    submit = bench.workers.submit

    def submitted(*args: Any, **kwargs: Any) -> "Future[Any]":
        began.set()
        return submit(*args, **kwargs)

    bench.workers.submit = submitted  # type: ignore[method-assign]
    spec = bench.spec(cnn, "relu6", range(4), {"size": "16", "recipe.steps": "20000"})
    with pytest.raises(OrtoscopeError) as caught:
        bench.run(spec, cancellation)
    canceller.join()
    bench.workers.shutdown()
    assert caught.value.code is Code.CANCELLED
    assert time.monotonic() - cancelled_at[0] < 2
    assert bench.workers.climbed == []


def logarithms() -> onnx.ModelProto:
    """`image` (n, 3, 16, 16) → `shifted` (n, 4, 16, 16) → `log`: that of units 0 and 2 is of negative numbers."""
    g = GraphBuilder(0)
    weight = np.zeros((4, 3, 1, 1), np.float32)
    weight[1, 0], weight[3, 2] = 0.1, -0.1
    bias = np.array([-5, 2, -3, 2], np.float32)
    g.node("Conv", ["image", g.constant("weight", weight), g.constant("bias", bias)], "shifted")
    g.node("Log", ["shifted"], "log")
    return g.model([float_value("image", ["n", 3, 16, 16])], [float_value("log", ["n", 4, 16, 16])], opset=17)


def test_a_unit_that_is_not_finite_is_black_and_leaves_the_others_bytes_alone(bench: Bench) -> None:
    version = bench.add("log", logarithms())
    whole = bench.run(bench.spec(version, "log", [0, 1, 2, 3]))
    arrays = bench.arrays(whole)
    assert (arrays["end"] == END_NUMBERS[End.NOT_FINITE]).tolist() == [True, False, True, False]
    assert np.isnan(arrays["objective"]).tolist() == [True, False, True, False]
    assert not arrays["picture"][[0, 2]].any()
    assert arrays["steps"].tolist() == [0, 5, 0, 5]
    together = bench.by_unit(whole)
    bench.begin_anew(workers=1)
    alone = bench.by_unit(bench.run({**bench.spec(version, "log", [0, 1, 2, 3]), "at_once": 1}))
    assert alone == together


def test_a_sheet_of_which_no_unit_is_finite_fails_with_the_node_at_fault(bench: Bench) -> None:
    version = bench.add("log", logarithms())
    with pytest.raises(OrtoscopeError) as caught:
        bench.run(bench.spec(version, "log", [2, 0]))
    error = caught.value
    assert (error.code, error.reason) == (Code.FAILED_PRECONDITION, "OBJECTIVE_NOT_FINITE")
    assert (error.metadata["operator"], error.metadata["unit"]) == ("Log", "2")


def test_a_unit_that_nothing_moves_is_counted_as_dead(bench: Bench) -> None:
    g = GraphBuilder(0)
    weight = np.zeros((2, 3, 1, 1), np.float32)
    weight[1] = 0.3
    g.node("Conv", ["image", g.constant("weight", weight), g.bias("bias", 2)], "planes")
    model = g.model([float_value("image", ["n", 3, 16, 16])], [float_value("planes", ["n", 2, 16, 16])], opset=17)
    outcome = bench.run(bench.spec(bench.add("half", model), "planes", [0, 1], {"size": "16", "recipe.steps": "40"}))
    assert outcome.values["dead"] == 1
    assert bench.arrays(outcome)["end"].tolist() == [END_NUMBERS[End.DEAD], END_NUMBERS[End.STEPS]]


def test_a_model_that_is_bound_to_a_batch_gives_the_same_pictures(bench: Bench, cnn: ModelVersion) -> None:
    bound = add_model(bench.models, "bound", tiny_cnn(2, seed=2), preprocessing=PREPROCESSING, fixed_batch=2)
    free = bench.arrays(bench.run(bench.spec(cnn, "relu6", [0, 1, 2])))
    found = bench.arrays(bench.run(bench.spec(bound, "relu6", [0, 1, 2])))
    np.testing.assert_array_equal(found["picture"], free["picture"])


def test_a_worker_that_rests_gives_its_sessions_back(
    bench: Bench, cnn: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "_REST", tasks._Rest(after_seconds=0.2))
    bench.run(bench.spec(cnn, "relu6", [0]))
    deadline = time.monotonic() + 20
    while program._SESSIONS.size:
        assert time.monotonic() < deadline
        time.sleep(0.02)
