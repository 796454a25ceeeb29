"""Visualizations through the client, against the real service and against answers that a test writes down."""

import io
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import ortoscope
import pytest
from ortoscope.climbing import Climb, climb_display
from ortoscope.objectives import VisualizationObjective, channel, class_logit, layer, neuron
from ortoscope.picture_specs import SPEC_KEYWORD, read_spec, request_of
from ortoscope.rpcs import Rpcs
from ortoscope.tensors import to_tensor
from ortoscope.unit_sheets import UnitSheetArrays
from ortoscope.v1 import models_pb2, visualization_pb2
from pictures import encode, photo
from PIL import Image, PngImagePlugin
from scripted_server import fail, scripted
from visualization_server import SMALL, running_visualization_server


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_visualization_server(tmp_path_factory.mktemp("server")) as address:
        yield address


@pytest.fixture(scope="module")
def scope(target: str) -> Iterator[ortoscope.Ortoscope]:
    with ortoscope.connect(target) as connection:
        yield connection


@pytest.fixture(scope="module")
def model(scope: ortoscope.Ortoscope) -> ortoscope.Model:
    return scope.model("cnn")


def channel_mean(model: ortoscope.Model, tap: str, unit: int, pixels: np.ndarray) -> float:
    """The mean of a unit over all sites, as Activate tells it for a picture."""
    return float(model.activate(pixels, tap, reduce="mean")[tap].values[0, unit])


def test_a_picture_of_a_unit_makes_it_large(model: ortoscope.Model) -> None:
    found = model.tap("relu1").unit(3).visualize(settings=SMALL)
    (item,) = found
    assert item.values.shape == (3, 16, 16)
    assert item.end == "steps"
    assert item.steps == 12
    assert found.history.shape == (12, 1)
    pixels = np.asarray(item.image())
    assert pixels.shape == (16, 16, 3)
    assert np.abs(pixels / 255 - np.moveaxis(item.values, 0, -1)).max() <= 0.5 / 255 + 1e-6
    reached = channel_mean(model, "relu1", 3, pixels)
    gray = channel_mean(model, "relu1", 3, np.full((16, 16, 3), 128, np.uint8))
    assert reached > gray
    # The objective is that of the clean picture, before it is rounded to 8 bits.
    assert item.objective == pytest.approx(reached, abs=0.02)
    assert found.provenance.model == "models/cnn/versions/1"


def test_the_negative_side_is_the_other_one(model: ortoscope.Model) -> None:
    unit = model.tap("conv2").unit(5)
    up, down = unit.visualize(settings=SMALL), unit.visualize(negative=True, settings=SMALL)
    high, low = (channel_mean(model, "conv2", 5, np.asarray(found.image())) for found in (up, down))
    assert high > low
    assert down[0].objective == pytest.approx(-low, abs=0.05)


def test_the_same_request_again_is_answered_at_once_with_the_same_bytes(model: ortoscope.Model) -> None:
    first = model.visualize(channel("relu1", 1), seed=4, settings=SMALL)
    again = model.visualize(channel("relu1", 1), seed=4, settings=SMALL)
    assert (first.cached, again.cached) == (False, True)
    assert first[0].png == again[0].png
    assert model.visualize(channel("relu1", 1), seed=5, settings=SMALL)[0].png != first[0].png


def test_a_picture_makes_itself_again(scope: ortoscope.Ortoscope, model: ortoscope.Model, tmp_path: Path) -> None:
    found = model.visualize(channel("relu1", 2) - 0.5 * channel("relu1", 4), items=2, seed=7, settings=SMALL)
    files = found.save(tmp_path / "out.png")
    assert [file.name for file in files] == ["out-1.png", "out-2.png"]
    made = scope.visualization_from_png(files[1])
    assert made.same
    assert made.item == 1
    spec = read_spec(files[0])
    assert VisualizationObjective.from_data(spec["objective"]) == channel("relu1", 2) - 0.5 * channel("relu1", 4)
    assert (spec["preset"], spec["seed"], spec["items"]) == ("lucid", 7, 2)


def test_a_picture_that_started_from_another_one_finds_it_again(
    scope: ortoscope.Ortoscope, model: ortoscope.Model, tmp_path: Path
) -> None:
    start = encode(photo(16, 16), "PNG")
    settings = {"size": 16, "recipe.steps": 4}
    found = model.visualize(layer("relu1"), preset="accentuate", start=start, settings=settings)
    assert scope.visualization_from_png(found[0].png).same
    moved = np.abs(np.asarray(found.image(), float) - np.asarray(photo(16, 16), float)).mean()
    assert 0 < moved < 64


def test_a_dream_starts_from_a_picture_with_white_in_it(model: ortoscope.Model) -> None:
    start = Image.new("RGB", (30, 20), (255, 255, 255))
    found = model.visualize(layer("relu1"), preset="deepdream", start=start, settings={"size": 32, "recipe.steps": 1})
    assert found[0].end == "steps"


def test_progress_is_told_with_previews_and_ends_with_the_result(model: ortoscope.Model) -> None:
    events = list(model.stream_visualization(channel("relu1", 6), items=2, settings=SMALL, preview_every=4))
    *steps, last = events
    assert isinstance(last, ortoscope.Visualization)
    climbs = [event for event in steps if isinstance(event, Climb) and event.attempt]
    assert climbs
    assert all(len(climb.objective) == 2 and climb.steps == 12 for climb in climbs)
    shown = [climb for climb in climbs if climb.previews]
    assert all(len(climb.previews) == len(climb.clean_objective) == 2 for climb in shown)
    if shown:
        with Image.open(io.BytesIO(shown[0].previews[0])) as preview:
            assert preview.size == (16, 16)
    told: list[Climb] = []
    model.visualize(channel("relu1", 7), settings=SMALL, on_progress=told.append)
    assert told
    assert all(isinstance(climb, Climb) for climb in told)


def test_closing_the_iterator_frees_the_server(model: ortoscope.Model) -> None:
    long = {"size": 16, "recipe.steps": 20_000}
    events = model.stream_visualization(channel("relu1", 0), settings=long)
    next(event for event in events if isinstance(event, Climb) and event.step)
    began = time.monotonic()
    events.close()
    model.visualize(channel("relu1", 3), seed=77, settings=SMALL)
    assert time.monotonic() - began < 20


def test_a_verdict_tells_where_the_picture_stands(model: ortoscope.Model) -> None:
    comparison = ortoscope.Comparison("photos", examples=2, seeds=1)
    (item,) = model.visualize(channel("relu1", 3), settings=SMALL, comparison=comparison)
    verdict = item.verdict
    assert verdict is not None
    assert verdict.images == 5
    assert 0 <= verdict.percentile <= 100
    assert len(verdict.quantiles) == 6
    assert verdict.most[0].objective >= verdict.most[1].objective >= verdict.least[1].objective
    assert verdict.most[0].objective == pytest.approx(verdict.quantiles[-1])
    assert {image.path for image in verdict.most} <= {f"a/{n}.png" for n in range(3)} | {f"b/{n}.png" for n in (3, 4)}
    assert len(verdict.seed_objectives) == 1
    assert f"% of {verdict.images} images" in item.describe()


def test_what_is_no_picture_has_values_alone(scope: ortoscope.Ortoscope, tmp_path: Path) -> None:
    found = scope.model("dense").visualize(class_logit("zebra"), settings={"recipe.steps": 20})
    assert not found.is_picture
    assert found[0].values.shape == (4,)
    with pytest.raises(ortoscope.InvalidArgument) as caught:
        found.save(tmp_path / "out.png")
    assert caught.value.reason == "NOT_A_PICTURE"
    found.save(tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as arrays:
        assert set(arrays.files) == {"values", "objective", "history"}
        assert np.array_equal(arrays["values"], found[0].values[None])
    assert found._repr_png_() is None
    assert "4 numbers" in found._repr_html_()


def test_a_visualization_shows_itself(model: ortoscope.Model) -> None:
    found = model.visualize(channel("relu1", 2), items=3, settings=SMALL)
    html = found._repr_html_()
    assert html.count("data:image/png;base64,") == 3
    assert "objective" in html
    picture = found._repr_png_()
    assert picture is not None
    with Image.open(io.BytesIO(picture)) as whole:
        assert whole.size == (34, 34)  # two rows of two, two pixels between them
    assert found[0]._repr_png_() == found[0].png
    assert repr(found[0]).startswith("<VisualizedItem 3 x 16 x 16: objective ")


@pytest.mark.parametrize(
    ("objective", "options", "reason", "field"),
    [
        (channel("relu1", 8), {}, "INVALID_UNIT", "objective.channel.unit"),
        (channel("nope", 0), {}, "UNKNOWN_TAP", "objective.channel.of.tap"),
        (channel("relu1", 0) - channel("relu1", 9), {}, "INVALID_UNIT", "objective.sum.terms[1]"),
        (channel("relu1", 0), {"preset": "lucent"}, "UNKNOWN_PRESET", "recipe.preset"),
        (channel("relu1", 0), {"settings": {"recipe.step": 3}}, "UNKNOWN_SETTING", "recipe.settings"),
        (channel("relu1", 0), {"preset": "deepdream"}, "START_MISSING", "start"),
        (channel("relu1", 0), {"items": -1}, "", "items"),
        (neuron("relu1", 0, (99, 0)), {"settings": SMALL}, "", "objective.neuron.site"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(
    model: ortoscope.Model, objective: VisualizationObjective, options: dict[str, Any], reason: str, field: str
) -> None:
    with pytest.raises(ortoscope.OrtoscopeError) as caught:
        model.visualize(objective, **options)
    assert caught.value.reason == reason or not reason
    assert caught.value.field.startswith(field)


def test_settings_that_are_no_json_are_refused_here(model: ortoscope.Model) -> None:
    with pytest.raises(ortoscope.InvalidArgument) as caught:
        model.visualize(channel("relu1", 0), settings={"size": {1, 2}})
    assert caught.value.reason == "SETTING_NOT_JSON"


def test_presets_tell_every_setting(scope: ortoscope.Ortoscope) -> None:
    presets = scope.presets()
    assert {"lucid", "robust", "maco", "deepdream", "adversarial", "vector"} <= {preset.name for preset in presets}
    lucid = presets["lucid"]
    assert lucid.steps == lucid.settings["recipe.steps"] == 512
    assert not lucid.needs_start
    assert presets["deepdream"].needs_start
    assert "recipe.steps" in lucid.describe()
    assert lucid.source in lucid.describe()


def test_a_sheet_holds_a_picture_of_each_unit(scope: ortoscope.Ortoscope, model: ortoscope.Model) -> None:
    tap = model.tap("relu1")
    sheet = tap.visualize_units((3, 1), settings=SMALL).result(timeout=120)
    assert isinstance(sheet, ortoscope.UnitSheet)
    assert isinstance(sheet.arrays, UnitSheetArrays)
    assert [entry.unit for entry in sheet.units] == [3, 1]
    assert sheet.pictures.shape == (2, 16, 16, 3)
    assert np.array_equal(np.asarray(sheet.picture(1).image()), sheet.pictures[1])
    assert sheet.units[0].end == "steps"
    for row, unit in enumerate((3, 1)):
        reached = channel_mean(model, "relu1", unit, sheet.pictures[row])
        assert sheet.units[row].objective == pytest.approx(reached, abs=0.02)
    with pytest.raises(ortoscope.NotFound):
        sheet.picture(2)
    assert scope.unit_sheet(sheet.name).proto == sheet.proto
    assert sheet.name in {entry.name for entry in scope.unit_sheets()}
    # Whatever is asked for with it, a unit's picture is the same.
    alone = tap.visualize_units((1,), settings=SMALL).result(timeout=120)
    assert np.array_equal(alone.pictures[0], sheet.pictures[1])
    sheet.delete()
    with pytest.raises(ortoscope.NotFound):
        scope.unit_sheet(sheet.name)


def test_a_saved_sheet_holds_the_servers_files(model: ortoscope.Model, tmp_path: Path) -> None:
    sheet = model.tap("relu1").visualize_units((0, 2, 5), settings=SMALL).result(timeout=120)
    page = sheet.save(tmp_path / "sheet")
    assert page.name == "gallery.html"
    assert {path.name for path in page.parent.iterdir()} == {
        "sheet.png", "pictures.npz", "provenance.json", "gallery.html",
    }  # fmt: skip
    record = json.loads((page.parent / "provenance.json").read_text())
    assert record["kind"] == "unit sheet"
    assert record["spec"]["recipe"]["preset"] == "lucid"
    with np.load(page.parent / "pictures.npz") as arrays:
        assert np.array_equal(arrays["picture"], sheet.pictures)
    assert read_spec(page.parent / "sheet.png")["units"] == [0, 2, 5]
    assert "--set recipe.steps=12" in page.read_text()
    sheet.save(tmp_path / "sheet")  # over itself


def test_a_patch_is_tested_beside_noise(scope: ortoscope.Ortoscope) -> None:
    model = scope.model("classes")
    pictures = [encode(photo(20, 16, seed=seed), "PNG") for seed in range(3)]
    white = Image.new("RGB", (8, 8), (255, 255, 255))
    found = model.test_patch(white, pictures, sizes=[0.5], places=["top_left", "centre"], controls=2)
    assert [(trial.size, trial.place) for trial in found] == [(0.5, "top_left"), (0.5, "centre")]
    assert len(found.clean) == 3
    assert found.target is None
    # Every shuffle of one colour is that colour: the controls do what the patch does.
    for trial in found:
        assert trial.pictures == 3
        assert trial.control_flip_rate == pytest.approx(trial.flip_rate)
        assert trial.control_mean_probability == pytest.approx(trial.mean_probability, abs=1e-6)
    with pytest.raises(ortoscope.InvalidArgument) as caught:
        model.test_patch(white, pictures, places=["middle"])  # type: ignore[list-item]
    assert caught.value.reason == "PLACE_UNKNOWN"


# What a sound server never does, or does not do twice.

TAP = models_pb2.Tap(name="models/m/versions/1/taps/t", tensor="t")
VERSION = models_pb2.ModelVersion(name="models/m/versions/1")
VALUES = to_tensor(np.zeros((3, 2, 2), np.float32))
DONE = visualization_pb2.VisualizeResponse(
    result=visualization_pb2.VisualizationResult(
        items=[visualization_pb2.VisualizedItem(values=VALUES, end=visualization_pb2.VisualizedItem.END_DEAD)],
        spec_json="{}",
    )
)


def test_waiting_is_told_and_the_request_is_what_was_asked() -> None:
    seen: list[Any] = []

    def climb(request: Any, context: grpc.ServicerContext) -> Any:
        seen.append(request)
        yield visualization_pb2.VisualizeResponse(queued={"ahead": 2})
        yield visualization_pb2.VisualizeResponse(
            progress={
                "attempt": 2,
                "attempts": 3,
                "octave": 2,
                "octaves": 4,
                "step": 5,
                "steps": 10,
                "objective": [1.5],
            }
        )
        yield DONE

    told: list[Climb] = []
    with scripted({"Visualize": climb}) as address, ortoscope.connect(address) as scope:
        found = ortoscope.Tap(scope.rpcs, TAP, VERSION).visualize(
            3,
            negative=True,
            preset="robust",
            settings={"recipe.steps": 5, "parameterization": "maco"},
            seed=9,
            items=2,
            start=b"picture",
            comparison="some images",
            time_budget="2s",
            preview_every=4,
            on_progress=told.append,
        )
    (request,) = seen
    assert request.model == "models/m/versions/1"
    assert request.objective == (-channel("t", 3)).proto
    assert dict(request.recipe.settings) == {"recipe.steps": "5", "parameterization": '"maco"'}
    assert (request.recipe.preset, request.recipe.seed, request.recipe.time_budget.seconds) == ("robust", 9, 2)
    assert (request.items, request.start.image, request.preview_every) == (2, b"picture", 4)
    assert request.comparison.dataset == "datasets/some%20images"
    assert [climb.describe() for climb in told] == [
        "waiting for 2 others",
        "octave 2 of 4, attempt 2 of 3, step 5 of 10, objective 1.5",
    ]
    assert (told[1].done_steps, told[1].total_steps) == (45, 120)
    assert found[0].end == "dead"
    assert "no gradient reaches the input" in found.describe()


def test_a_stream_that_ends_without_a_result_is_an_error() -> None:
    def climb(request: Any, context: grpc.ServicerContext) -> Any:
        yield visualization_pb2.VisualizeResponse(queued={"ahead": 0})

    with scripted({"Visualize": climb}) as address, ortoscope.connect(address) as scope:
        model = ortoscope.Model(scope.rpcs, VERSION)
        with pytest.raises(ortoscope.Internal, match="without a result"):
            model.visualize(channel("t", 0))


def test_an_error_in_the_middle_of_a_climb_is_raised_as_what_it_is() -> None:
    def climb(request: Any, context: grpc.ServicerContext) -> Any:
        yield visualization_pb2.VisualizeResponse(queued={"ahead": 0})
        fail(context, "FAILED_PRECONDITION", "node Log gives -inf", reason="NOT_FINITE")

    with (
        scripted({"Visualize": climb}) as address,
        ortoscope.connect(address) as scope,
        pytest.raises(ortoscope.FailedPrecondition) as caught,
    ):
        ortoscope.Model(scope.rpcs, VERSION).visualize(channel("t", 0))
    assert caught.value.reason == "NOT_FINITE"


def test_an_interrupt_ends_the_call() -> None:
    ended = threading.Event()

    def climb(request: Any, context: grpc.ServicerContext) -> Any:
        context.add_callback(ended.set)
        yield visualization_pb2.VisualizeResponse(queued={"ahead": 1})
        ended.wait(30)

    def interrupt(climb: Climb) -> None:
        raise KeyboardInterrupt

    with scripted({"Visualize": climb}) as address, ortoscope.connect(address) as scope:
        with pytest.raises(KeyboardInterrupt):
            ortoscope.Model(scope.rpcs, VERSION).visualize(channel("t", 0), on_progress=interrupt)
        assert ended.wait(10)


def test_lines_tell_progress_where_nothing_can_be_drawn() -> None:
    stream = io.StringIO()
    with climb_display(shown=True, stream=stream) as show:
        show(Climb(ahead=1))
        for step in range(1, 4):
            show(Climb(attempt=1, attempts=1, octave=1, octaves=1, step=step, steps=9, objective=(0.5, 1, 2, 3)))
    assert stream.getvalue() == (
        "visualize: waiting for 1 other\nvisualize: step 1 of 9, objective 0.5, 1, 2 and 1 more\n"
    )
    with climb_display(shown=False, stream=stream) as show:
        show(Climb(ahead=5))
    assert "5" not in stream.getvalue().replace("0.5", "")


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_bar_with_the_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    stream = Screen()
    with climb_display(shown=True, stream=stream) as show:
        show(Climb(ahead=2))
        show(Climb(attempt=1, attempts=1, octave=1, octaves=1, step=4, steps=9, objective=(0.5,), clean_objective=(2,)))
        time.sleep(0.2)  # it is drawn some times a second
    assert "step 4 of 9, objective on the clean picture 2" in stream.getvalue()


@pytest.mark.parametrize("content", [b"no picture", encode(photo(4, 4), "PNG"), encode(photo(4, 4), "JPEG")])
def test_a_picture_from_elsewhere_says_nothing_of_how_it_was_made(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    for source in (content, tmp_path / "a.png"):
        with pytest.raises(ortoscope.InvalidArgument) as caught:
            read_spec(source)
        assert caught.value.reason == "SPEC_MISSING"


def picture_with(spec: str) -> bytes:
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt(SPEC_KEYWORD, spec)
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, "PNG", pnginfo=texts)
    return buffer.getvalue()


@pytest.mark.parametrize("spec", ["[]", "{", '"x"'])
def test_metadata_that_are_no_object_are_refused(spec: str) -> None:
    with pytest.raises(ortoscope.InvalidArgument):
        read_spec(picture_with(spec))


def test_a_specification_that_lacks_a_part_is_refused() -> None:
    whole = {
        "objective": {"layer": {"tap": "t"}}, "preset": "lucid", "settings": {"size": 8}, "seed": 1, "items": 1,
    }  # fmt: skip
    assert request_of(whole).settings == {"size": 8}
    for part in whole:
        for spec in ({name: value for name, value in whole.items() if name != part}, {**whole, part: None}):
            with pytest.raises(ortoscope.InvalidArgument) as caught:
                request_of(spec)
            assert caught.value.reason in {"SPEC_UNKNOWN", "INVALID_OBJECTIVE"}
    with pytest.raises(ortoscope.InvalidArgument) as caught:
        request_of({**whole, "start": {"digest": "ab"}})
    assert caught.value.reason == "START_NEEDED"
    assert request_of({**whole, "start": {"digest": "ab", "dataset_image": "datasets/d/images/1"}}).start
    assert request_of({**whole, "start": {"digest": "ab"}}, start=b"x").start == b"x"


def test_a_sheet_is_asked_for_with_an_id_of_its_own() -> None:
    seen: list[Any] = []

    def start(request: Any, context: grpc.ServicerContext) -> Any:
        seen.append(request)
        from google.longrunning import operations_pb2

        return operations_pb2.Operation(name="operations/1")

    with scripted({"VisualizeUnits": start}) as address, ortoscope.connect(address) as scope:
        tap = ortoscope.Tap(scope.rpcs, TAP, VERSION)
        assert tap.visualize_units((1, 2), kind="neuron", negative=True, seed=3, time_limit="2h").name == "operations/1"
        with pytest.raises(ortoscope.InvalidArgument) as caught:
            tap.visualize_units(kind="layer")  # type: ignore[arg-type]
    assert caught.value.reason == "KIND_UNKNOWN"
    (request,) = seen
    assert request.request_id
    assert request.time_limit.seconds == 7200
    assert request.spec == visualization_pb2.UnitSheetSpec(
        tap=TAP.name, units=[1, 2], kind=visualization_pb2.UnitSheetSpec.KIND_NEURON, negative=True,
        recipe=visualization_pb2.VisualizationRecipe(seed=3),
    )  # fmt: skip
    assert isinstance(scope.rpcs, Rpcs)
