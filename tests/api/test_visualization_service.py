"""Visualize over gRPC: it finds what the model says, tells as it goes, keeps it, and makes it again from itself."""

import dataclasses
import io
import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from ortoscope.v1 import activations_pb2, capabilities_pb2
from ortoscope.v1.activations_pb2 import ActivationInput
from ortoscope.v1.gradients_pb2 import ClassReference
from ortoscope.v1.visualization_pb2 import (
    Comparison,
    ListPresetsRequest,
    VisualizationObjective,
    VisualizationRecipe,
    VisualizationResult,
    VisualizedItem,
    VisualizeRequest,
)
from ortoscope_service.analysis.visualization.png import read_spec
from ortoscope_service.config import Limits, ServerConfig, VisualizationConfig
from ortoscope_service.models.repository import ModelRepository
from pictures import encode, photo
from PIL import Image
from serving import (
    PREPROCESSING,
    Failure,
    Stubs,
    add_model,
    failure_of,
    run_directly,
    serving,
    to_array,
    to_tensor,
    two_inputs,
)
from tiny_models import tiny_cnn, tiny_mlp

Refused = Callable[..., Failure]

CNN = tiny_cnn(seed=1)
LABELS = tuple(f"class {number}" for number in range(10))
SMALL = {"size": "16", "chain.steps": "[]", "recipe.steps": "8"}
"""Little work: eight steps without transforms, at the size of the model."""

LONG = {**SMALL, "recipe.steps": "20000"}


@pytest.fixture(scope="module")
def visualization_config(datasets: Path, tmp_path_factory: pytest.TempPathFactory) -> ServerConfig:
    root = tmp_path_factory.mktemp("visualization")
    repository = ModelRepository(root / "models")
    add_model(repository, "cnn", CNN, preprocessing=PREPROCESSING, class_labels=LABELS)
    add_model(repository, "mlp", tiny_mlp(), class_labels=())
    add_model(repository, "two-inputs", two_inputs())
    return ServerConfig(
        models=root / "models",
        datasets=datasets,
        store=root / "store",
        listen="127.0.0.1:0",
        batch_size=4,
        limits=Limits(max_visualization_items=4, max_visualization_pixels=40_000),
    )


@pytest.fixture(scope="module")
def server(visualization_config: ServerConfig) -> Iterator[Stubs]:
    with serving(visualization_config) as (_, stubs):
        yield stubs


def channel(unit: int = 3, tap: str = "relu6") -> VisualizationObjective:
    source = VisualizationObjective.Source(tap=tap)
    return VisualizationObjective(channel=VisualizationObjective.Channel(of=source, unit=unit))


def recipe(settings: dict[str, str] = SMALL, seed: int = 0, **others: Any) -> VisualizationRecipe:
    return VisualizationRecipe(settings=settings, seed=seed, **others)


def request(objective: VisualizationObjective | None = None, **others: Any) -> VisualizeRequest:
    return VisualizeRequest(
        **{"model": "models/cnn", "objective": objective or channel(), "recipe": recipe(), **others}
    )


def events(stubs: Stubs, asked: VisualizeRequest) -> list[Any]:
    return list(stubs.visualization.Visualize(asked, timeout=60))


def climbed(stubs: Stubs, asked: VisualizeRequest) -> VisualizationResult:
    *before, last = events(stubs, asked)
    assert {event.WhichOneof("event") for event in before} <= {"progress", "queued"}
    assert last.WhichOneof("event") == "result"
    result: VisualizationResult = last.result
    return result


def model_input(picture: NDArray[Any]) -> NDArray[np.float32]:
    """A picture in [0, 1] as `PREPROCESSING` makes it the input of the network."""
    return ((picture * 255 - 127) / 128).astype(np.float32)


SEEDS = itertools.count(1000)


def fresh() -> int:
    """A seed that no other test has: what it gives is in no cache."""
    return next(SEEDS)


def test_the_objective_is_what_the_network_gives_for_the_values_told(server: Stubs) -> None:
    result = climbed(server, request(items=2))
    found = np.stack([to_array(item.values) for item in result.items])
    assert found.shape == (2, 3, 16, 16)
    assert found.min() >= 0
    assert found.max() <= 1
    maps = run_directly(CNN, ["relu6"], {"image": model_input(found)})["relu6"]
    np.testing.assert_allclose([item.objective for item in result.items], maps[:, 3].mean((1, 2)), rtol=1e-4)
    assert {item.end for item in result.items} == {VisualizedItem.END_STEPS}
    assert [item.steps for item in result.items] == [8, 8]
    history = to_array(result.history)
    assert history.shape == (8, 2)
    assert (history[-1] > history[0]).all()


def test_the_png_shows_the_values(server: Stubs) -> None:
    (item,) = climbed(server, request()).items
    pixels = np.asarray(Image.open(io.BytesIO(item.png))).astype(np.float64)
    assert np.abs(pixels - np.moveaxis(to_array(item.values), 0, -1) * 255).max() <= 0.5


def test_a_sum_climbs_what_its_parts_say(server: Stubs) -> None:
    o = VisualizationObjective
    minus = o(scaled=o.Scaled(weight=-2, objective=channel(5)))
    (item,) = climbed(server, request(o(sum=o.Sum(terms=[channel(3), minus])))).items
    maps = run_directly(CNN, ["relu6"], {"image": model_input(to_array(item.values)[None])})["relu6"][0]
    np.testing.assert_allclose(item.objective, maps[3].mean() - 2 * maps[5].mean(), rtol=1e-4, atol=1e-6)


def test_a_class_is_found_by_its_label(server: Stubs) -> None:
    by_label = request(VisualizationObjective(class_logit=ClassReference(label="class 7")))
    (item,) = climbed(server, by_label).items
    logits = run_directly(CNN, ["logits"], {"image": model_input(to_array(item.values)[None])})["logits"]
    np.testing.assert_allclose(item.objective, logits[0, 7], rtol=1e-4, atol=1e-5)


def test_every_step_is_told_and_previews_as_often_as_asked(server: Stubs) -> None:
    *told, last = events(server, request(recipe=recipe(seed=fresh()), items=2, preview_every=3))
    steps = [event.progress for event in told]
    assert [(p.step, p.steps, p.attempt, p.attempts, p.octave, p.octaves) for p in steps] == [
        (step, 8, 1, 1, 1, 1) for step in range(1, 9)
    ]
    np.testing.assert_array_equal(np.array([p.objective for p in steps]), to_array(last.result.history))
    assert [p.step for p in steps if p.previews] == [3, 6]
    for progress in steps:
        assert len(progress.previews) == len(progress.clean_objective) == (2 if progress.step in {3, 6} else 0)
        for preview in progress.previews:
            assert Image.open(io.BytesIO(preview)).size == (16, 16)


def test_attempts_and_octaves_are_counted(server: Stubs) -> None:
    start = ActivationInput(image=encode(photo(40, 30), "PNG"))
    settings = {**SMALL, "recipe.attempts": "2", "octaves": "2", "parameterization": '"pixel"'}
    *told, last = events(server, request(recipe=recipe(settings, fresh()), start=start))
    counted = [(event.progress.octave, event.progress.attempt) for event in told]
    assert sorted(set(counted)) == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert len(last.result.items[0].attempts) == 2


def test_the_same_request_again_is_answered_from_what_was_kept(server: Stubs) -> None:
    asked = request(recipe=recipe(seed=fresh()))
    first = climbed(server, asked)
    assert not first.cached
    (event,) = events(server, asked)
    assert event.result.cached
    event.result.cached = False
    assert event.result == first
    other = VisualizeRequest()
    other.CopyFrom(asked)
    other.recipe.seed = fresh()
    assert not climbed(server, other).cached
    # What only decides how it is told is no other request.
    other.CopyFrom(asked)
    other.preview_every = 2
    other.recipe.time_budget.FromSeconds(100)
    assert climbed(server, other).cached


def test_defaults_that_are_spelt_out_are_the_same_request(server: Stubs) -> None:
    seed = fresh()
    climbed(server, request(recipe=recipe(seed=seed)))
    spelt = VisualizationRecipe(preset="lucid", settings={**SMALL, "recipe.attempts": "1"}, seed=seed)
    assert climbed(server, request(recipe=spelt, items=1, model="models/cnn/versions/1")).cached


def from_spec(spec: dict[str, Any]) -> VisualizeRequest:
    """The request that a picture tells it was made by: its objective here is always one channel."""
    settings = {name: json.dumps(value) for name, value in spec["settings"].items()}
    told = spec["objective"]["channel"]
    start = {key: value for key, value in spec.get("start", {}).items() if key != "digest"}
    return VisualizeRequest(
        model=spec["model"],
        objective=channel(told["unit"], told["tap"]),
        recipe=VisualizationRecipe(preset=spec["preset"], settings=settings, seed=spec["seed"]),
        items=spec["items"],
        start=ActivationInput(**start) if start else None,
    )


@pytest.mark.parametrize("started", [False, True], ids=["at random", "from a picture"])
def test_a_picture_is_made_again_from_itself(server: Stubs, visualization_config: ServerConfig, started: bool) -> None:
    settings = {**SMALL, "chain.steps": '[{"jitter": {"pixels": 2}}]', "size": "[12, 20]"}
    start = ActivationInput(image=encode(photo(40, 30), "PNG")) if started else None
    result = climbed(server, request(recipe=recipe(settings, fresh()), items=2, start=start))
    spec = read_spec(result.items[1].png)
    assert spec["item"] == {
        "index": 1,
        "objective": result.items[1].objective,
        "end": "steps",
        "steps": 8,
        "attempt": 1,
    }
    assert {key: value for key, value in spec.items() if key != "item"} == json.loads(result.spec_json)
    again = climbed(server, from_spec(spec))
    assert again.cached
    damage_kept(visualization_config.store)
    recomputed = climbed(server, from_spec(spec))
    assert not recomputed.cached
    assert [item.png for item in recomputed.items] == [item.png for item in result.items]
    assert climbed(server, from_spec(spec)).cached


def damage_kept(store: Path) -> None:
    """Flips a bit of every blob that is larger than any upload of these tests."""
    for path in (store / "blobs" / "complete").rglob("*"):
        if path.is_file() and b"ortoscope:spec" in path.read_bytes():
            path.chmod(0o600)
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)


def test_what_a_time_limit_ended_is_not_kept(server: Stubs) -> None:
    limited = recipe(LONG, fresh())
    limited.time_budget.FromMilliseconds(200)
    asked = request(recipe=limited)
    began = time.monotonic()
    first = climbed(server, asked)
    assert time.monotonic() - began < 5
    assert first.items[0].end == VisualizedItem.END_BUDGET
    assert 0 < first.items[0].steps < 20_000
    assert not climbed(server, asked).cached


def seconds_until_the_next_one_climbs(stubs: Stubs) -> float:
    began = time.monotonic()
    climbed(stubs, request(recipe=recipe(seed=fresh())))
    return time.monotonic() - began


def test_who_goes_away_frees_the_machine_within_a_second(server: Stubs) -> None:
    call = server.visualization.Visualize(request(recipe=recipe(LONG, fresh())))
    assert next(call).WhichOneof("event") == "progress"
    call.cancel()
    assert seconds_until_the_next_one_climbs(server) < 1


def test_the_deadline_ends_a_climb(server: Stubs) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(server.visualization.Visualize(request(recipe=recipe(LONG, fresh())), timeout=0.3))
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert seconds_until_the_next_one_climbs(server) < 1


def test_the_server_sets_a_deadline_where_the_client_sets_none(
    visualization_config: ServerConfig, tmp_path: Path
) -> None:
    limits = dataclasses.replace(visualization_config.limits, visualization_deadline_seconds=1)
    config = dataclasses.replace(visualization_config, store=tmp_path / "store", limits=limits)
    with serving(config) as (_, stubs):
        with pytest.raises(grpc.RpcError) as caught:
            list(stubs.visualization.Visualize(request(recipe=recipe(LONG, fresh()))))
        assert failure_of(caught.value).code == "DEADLINE_EXCEEDED"


def test_a_server_that_stops_ends_the_climbs_and_those_who_wait(
    visualization_config: ServerConfig, tmp_path: Path
) -> None:
    config = dataclasses.replace(visualization_config, store=tmp_path / "store")
    with serving(config) as (running, stubs):
        calls = []
        for _ in range(3):
            calls.append(stubs.visualization.Visualize(request(recipe=recipe(LONG, fresh()))))
            next(calls[-1])
        began = time.monotonic()
        assert running.stop(0)
        assert time.monotonic() - began < 4
        for call in calls:
            with pytest.raises(grpc.RpcError):
                list(call)


def test_a_climb_goes_on_when_the_process_that_runs_models_dies(
    visualization_config: ServerConfig, tmp_path: Path, server: Stubs
) -> None:
    asked = request(recipe=recipe({**SMALL, "recipe.steps": "40"}, fresh()), items=2)
    undisturbed = climbed(server, asked)
    config = dataclasses.replace(visualization_config, store=tmp_path / "store")
    with serving(config) as (running, stubs):
        call = stubs.visualization.Visualize(asked, timeout=60)
        assert next(call).progress.step == 1
        pid = running._sessions.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        *_, last = call
        assert running._sessions.pid != pid
    assert [item.png for item in last.result.items] == [item.png for item in undisturbed.items]


def test_twenty_requests_queue_in_order_and_other_calls_answer_beside_them(server: Stubs) -> None:
    blocking = server.visualization.Visualize(request(recipe=recipe(LONG, fresh())))
    next(blocking)
    done: list[int] = []
    told: dict[int, list[Any]] = {}

    def follow(number: int, call: Any) -> None:
        told[number] = [event.WhichOneof("event") for event in call]
        done.append(number)

    threads = []
    for number in range(20):
        call = server.visualization.Visualize(request(recipe=recipe(seed=fresh())), timeout=60)
        assert next(call).queued.ahead == number + 1
        threads.append(threading.Thread(target=follow, args=(number, call)))
        threads[-1].start()
    with pytest.raises(grpc.RpcError) as caught:
        list(server.visualization.Visualize(request(recipe=recipe(seed=fresh())), timeout=10))
    failure = failure_of(caught.value)
    assert (failure.code, failure.reason) == ("RESOURCE_EXHAUSTED", "TOO_MANY_VISUALIZATIONS")
    picture = ActivationInput(image=encode(photo(16, 16), "PNG"))
    activate = activations_pb2.ActivateRequest(
        model="models/cnn", taps=[activations_pb2.TapSelection(tap="relu6")], inputs=[picture]
    )
    for _ in range(5):
        server.activations.Activate(activate, timeout=5)
    blocking.cancel()
    for thread in threads:
        thread.join(60)
    assert done == list(range(20))
    assert all(kinds[-1] == "result" and kinds.count("progress") == 8 for kinds in told.values())
    assert told[19].count("queued") >= 10


def test_an_equal_request_that_waited_finds_what_the_first_one_came_to(server: Stubs) -> None:
    blocking = server.visualization.Visualize(request(recipe=recipe(LONG, fresh())))
    next(blocking)
    asked = request(recipe=recipe(seed=fresh()))
    calls = []
    for _ in range(2):
        calls.append(server.visualization.Visualize(asked, timeout=60))
        assert next(calls[-1]).WhichOneof("event") == "queued"
    blocking.cancel()
    results = [list(call)[-1].result for call in calls]
    assert [result.cached for result in results] == [False, True]
    assert results[0].items == results[1].items


def test_a_model_that_takes_no_pictures_gets_numbers(server: Stubs) -> None:
    asked = request(
        channel(2, "scores"), model="models/mlp", recipe=VisualizationRecipe(settings={"recipe.steps": "9"})
    )
    (item,) = climbed(server, asked).items
    assert item.png == b""
    values = to_array(item.values)
    assert values.shape == (10,)
    scores = run_directly(tiny_mlp(), ["scores"], {"features": values[None]})["scores"]
    np.testing.assert_allclose(item.objective, scores[0, 2], rtol=1e-4, atol=1e-6)


def starts() -> Iterator[tuple[str, ActivationInput]]:
    picture = photo(16, 16, seed=4)
    numbers = np.moveaxis(np.asarray(picture).astype(np.float32) / 255, -1, 0)
    yield "picture", ActivationInput(image=encode(picture, "PNG"))
    yield "numbers", ActivationInput(tensor=to_tensor(np.ascontiguousarray(numbers)))
    named = activations_pb2.NamedTensors(tensors={"image": to_tensor(np.ascontiguousarray(numbers))})
    yield "named numbers", ActivationInput(tensors=named)


@pytest.mark.parametrize("start", [start for _, start in starts()], ids=[name for name, _ in starts()])
def test_a_climb_of_no_steps_gives_the_start(server: Stubs, start: ActivationInput) -> None:
    settings = {**SMALL, "recipe.steps": "0", "parameterization": '{"pixel": {"squash": "clip", "decorrelate": false}}'}
    (item,) = climbed(server, request(recipe=recipe(settings), start=start)).items
    expected = np.moveaxis(np.asarray(photo(16, 16, seed=4)).astype(np.float32) / 255, -1, 0)
    np.testing.assert_allclose(to_array(item.values), expected, atol=1e-3)


def test_an_image_of_a_dataset_can_be_the_start(server: Stubs) -> None:
    start = ActivationInput(dataset_image="datasets/photos/images/0")
    settings = {**SMALL, "parameterization": '{"pixel": {"squash": "clip"}}'}
    result = climbed(server, request(recipe=recipe(settings), start=start))
    assert json.loads(result.spec_json)["start"]["dataset_image"] == "datasets/photos/images/0"


def test_the_provenance_names_everything_that_decides_the_numbers(server: Stubs) -> None:
    result = climbed(server, request(items=2))
    provenance = result.provenance
    assert provenance.model == "models/cnn/versions/1"
    assert provenance.model_digest == json.loads(result.spec_json)["model_digest"]
    assert provenance.execution_provider == "CPUExecutionProvider"
    assert provenance.items == 2
    assert provenance.spec_digest.startswith("sha256:")
    assert provenance.preprocessing
    assert provenance.end_time.seconds >= provenance.start_time.seconds > 0


def test_a_verdict_compares_with_the_images_of_a_dataset(server: Stubs) -> None:
    comparison = Comparison(dataset="datasets/photos", images=4, examples=2, seeds=1)
    asked = request(recipe=recipe(seed=fresh()), comparison=comparison)
    result = climbed(server, asked)
    verdict = result.items[0].verdict
    assert verdict.images == 4
    assert len(verdict.most) == len(verdict.least) == 2
    assert list(verdict.quantiles) == sorted(verdict.quantiles)
    assert verdict.most[0].objective == verdict.quantiles[-1]
    assert verdict.most[0].image.startswith("datasets/photos/images/")
    assert len(verdict.seed_objectives) == 1
    assert -1 <= verdict.seed_agreement <= 1
    assert result.provenance.dataset == "datasets/photos"
    assert climbed(server, asked).cached
    asked.comparison.examples = 1
    other = climbed(server, asked)
    assert not other.cached
    assert other.items[0].png == result.items[0].png  # the picture does not know what it is compared with


def test_climbs_from_other_seeds_are_told_as_further_attempts(server: Stubs) -> None:
    comparison = Comparison(dataset="datasets/photos", images=4, seeds=2)
    told = [
        event.progress
        for event in events(server, request(recipe=recipe(seed=fresh()), comparison=comparison))
        if event.WhichOneof("event") == "progress"
    ]
    assert {(each.attempts, each.octaves, each.steps) for each in told} == {(3, 1, 8)}
    places = [(each.attempt, each.step) for each in told]
    assert places == sorted(places)
    assert set(places) == {(attempt, step) for attempt in (1, 2, 3) for step in range(1, 9)}


def test_a_time_limit_ends_the_climbs_from_other_seeds_too(server: Stubs) -> None:
    limited = recipe({**SMALL, "recipe.steps": "1100"}, fresh())
    limited.time_budget.FromMilliseconds(1000)
    asked = request(recipe=limited, comparison=Comparison(dataset="datasets/photos", images=4, seeds=16))
    began = time.monotonic()
    verdict = climbed(server, asked).items[0].verdict
    assert time.monotonic() - began < 5
    assert verdict.images == 4
    assert len(verdict.seed_objectives) < 16
    assert not climbed(server, asked).cached


def settings(**changed: str) -> VisualizationRecipe:
    return recipe({**SMALL, **{name.replace("_", "."): value for name, value in changed.items()}})


O = VisualizationObjective  # noqa: E741 - short, for trees
TEN = ActivationInput(tensor=to_tensor(np.full((3, 16, 16), 10, np.float32)))


def refusals() -> Iterator[tuple[str, VisualizeRequest, str, str, str]]:
    bad, missing, failed = "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"
    yield "no model", request(model="nonsense"), bad, "INVALID_NAME", "model"
    yield "unknown model", request(model="models/none"), missing, "UNKNOWN_MODEL", "model"
    yield "no objective", VisualizeRequest(model="models/cnn"), bad, "NO_OBJECTIVE", "objective"
    yield "unknown tap", request(channel(tap="relu7")), missing, "UNKNOWN_TAP", "objective.channel.of.tap"
    yield "unknown unit", request(channel(12)), bad, "INVALID_UNIT", "objective.channel.unit"
    inner = O(scaled=O.Scaled(weight=2, objective=channel(99)))
    tree = O(sum=O.Sum(terms=[channel(), inner]))
    yield (
        "a unit deep within",
        request(tree),
        bad,
        "INVALID_UNIT",
        "objective.sum.terms[1].scaled.objective.channel.unit",
    )
    label = O(class_logit=ClassReference(label="dog"))
    yield "unknown class", request(label), missing, "UNKNOWN_CLASS", "objective.class_logit.label"
    yield (
        "class out of range",
        request(O(class_logit=ClassReference(index=10))),
        bad,
        "INVALID_CLASS",
        ("objective.class_logit.index"),
    )
    yield (
        "unknown preset",
        request(recipe=VisualizationRecipe(preset="lucida")),
        missing,
        "UNKNOWN_PRESET",
        ("recipe.preset"),
    )
    yield (
        "unknown setting",
        request(recipe=recipe({"recipe.step": "1"})),
        bad,
        "UNKNOWN_SETTING",
        ("recipe.settings.recipe.step"),
    )
    yield (
        "no JSON",
        request(recipe=settings(recipe_steps="many")),
        bad,
        "INVALID_SETTING",
        ("recipe.settings.recipe.steps"),
    )
    yield "size", request(recipe=settings(size="4096")), bad, "SIZE_OUT_OF_RANGE", "recipe.settings.size"
    yield "pixels", request(recipe=settings(size="256")), bad, "TOO_MANY_PIXELS", "recipe.settings.size"
    yield "pixels of all items", request(recipe=settings(size="128"), items=3), bad, "TOO_MANY_PIXELS", "items"
    yield (
        "steps",
        request(recipe=settings(recipe_steps="15000", recipe_attempts="2")),
        bad,
        "TOO_MANY_STEPS",
        ("recipe.settings.recipe.steps"),
    )
    yield "items", request(items=5), bad, "INVALID_ITEMS", "items"
    yield "negative items", request(items=-1), bad, "INVALID_ITEMS", "items"
    yield "previews", request(preview_every=-1), bad, "INVALID_PREVIEW_EVERY", "preview_every"
    yield "seed", request(recipe=recipe(seed=-1)), bad, "INVALID_SEED", "recipe.seed"
    no_time = recipe()
    no_time.time_budget.FromSeconds(0)
    yield "no time", request(recipe=no_time), bad, "INVALID_TIME_BUDGET", "recipe.time_budget"
    yield "empty start", request(start=ActivationInput()), bad, "EMPTY_INPUT", "start"
    yield "start out of range", request(start=TEN), bad, "START_NOT_A_PICTURE", "start.tensor"
    yield "start that is none", request(start=ActivationInput(image=b"no")), bad, "IMAGE_UNREADABLE", "start.image"
    dreaming = VisualizationRecipe(preset="deepdream", settings={"size": "16"})
    yield "no start", request(recipe=dreaming), bad, "START_MISSING", "start"
    lucid = VisualizationRecipe(preset="lucid")
    yield (
        "pictures for a table",
        request(channel(0, "scores"), model="models/mlp", recipe=lucid),
        bad,
        ("PRESET_NEEDS_PICTURES"),
        "recipe.preset",
    )
    yield (
        "several inputs",
        request(channel(0, "sum"), model="models/two-inputs", recipe=VisualizationRecipe()),
        failed,
        ("SEVERAL_INPUTS"),
        "objective",
    )
    yield (
        "unknown dataset",
        request(comparison=Comparison(dataset="datasets/none")),
        missing,
        "UNKNOWN_DATASET",
        ("comparison.dataset"),
    )
    yield (
        "compared with too many",
        request(comparison=Comparison(dataset="datasets/photos", seeds=99)),
        bad,
        ("INVALID_COMPARISON"),
        "comparison.seeds",
    )


CASES = list(refusals())


@pytest.mark.parametrize(("asked", "code", "reason", "field"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_what_is_wrong_is_refused_by_the_name_of_its_field(
    server: Stubs, refused: Refused, asked: VisualizeRequest, code: str, reason: str, field: str
) -> None:
    failure = refused(server.visualization.Visualize, asked)
    assert (failure.code, failure.reason, failure.field) == (code, reason, field)
    assert "/tmp" not in failure.message


def test_a_result_that_does_not_fit_into_a_message_is_refused_before_any_work(
    visualization_config: ServerConfig, tmp_path: Path, refused: Refused
) -> None:
    limits = dataclasses.replace(visualization_config.limits, max_message_bytes=4096)
    config = dataclasses.replace(visualization_config, store=tmp_path / "store", limits=limits)
    with serving(config) as (_, stubs):
        failure = refused(stubs.visualization.Visualize, request())
        assert (failure.code, failure.reason) == ("RESOURCE_EXHAUSTED", "RESPONSE_TOO_LARGE")


def test_presets_tell_every_setting_and_can_be_listed_in_pages(server: Stubs, refused: Refused) -> None:
    listed = server.visualization.ListPresets(ListPresetsRequest())
    presets = {preset.name: preset for preset in listed.presets}
    assert {"lucid", "maco", "deepdream", "adversarial", "vector"} <= set(presets)
    assert presets["lucid"].settings["recipe.steps"] == "512"
    assert presets["deepdream"].needs_start
    assert not presets["lucid"].needs_start
    assert all(preset.summary and preset.source for preset in presets.values())
    assert all(json.loads(value) is not Ellipsis for preset in presets.values() for value in preset.settings.values())
    page = server.visualization.ListPresets(ListPresetsRequest(page_size=5))
    rest = server.visualization.ListPresets(ListPresetsRequest(page_token=page.next_page_token))
    assert [*page.presets, *rest.presets] == list(listed.presets)
    assert refused(server.visualization.ListPresets, ListPresetsRequest(page_size=-1)).reason == "INVALID_PAGE_SIZE"


def test_limits_are_published(server: Stubs, visualization_config: ServerConfig) -> None:
    told = server.capabilities.GetCapabilities(capabilities_pb2.GetCapabilitiesRequest()).limits
    limits = visualization_config.limits
    assert (told.max_visualization_items, told.max_visualization_pixels) == (4, 40_000)
    assert told.max_visualization_steps == limits.max_visualization_steps
    assert told.max_waiting_visualizations == 20
    assert told.visualization_deadline_seconds == limits.visualization_deadline_seconds


@pytest.mark.parametrize(("calls", "waiting"), [(32, 20), (9, 5), (3, 1), (1, 1)])
def test_those_who_wait_leave_room_for_other_calls(calls: int, waiting: int) -> None:
    folder = Path("unused")
    config = ServerConfig(folder, folder, limits=Limits(max_concurrent_rpcs=calls))
    assert config.waiting_visualizations == waiting
    several = dataclasses.replace(config, visualizations=VisualizationConfig(at_once=4))
    assert several.waiting_visualizations == max(1, waiting - 3)
