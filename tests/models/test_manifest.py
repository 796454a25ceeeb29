"""The manifest survives TOML with any names, and refuses what it did not write."""

import dataclasses
import datetime
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.graph.taps import Layout, Tap
from ortoscope_service.models.manifest import (
    BackwardGraph,
    GradientCheck,
    InputSpec,
    Manifest,
    OutputSpec,
    Preprocessing,
    dump_manifest,
    read_manifest,
    write_manifest,
)

# Whatever protobuf accepts as a string: all of Unicode but surrogates.
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=30) | st.sampled_from(
    [
        '"',
        "'''",
        '"""',
        "\\",
        "\\u0041",
        "a\nb",
        "\r\n",
        "\t",
        "\x00",
        "\x1f",
        "\x7f",
        "\x85",
        "\u2028",
        "/a/b:0",
        "#",
        "[x]",
        "é",
        "🔬",
        " a ",
    ]
)
SHAPE = st.lists(st.integers(-1, 2**62), max_size=5).map(tuple)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
TAPS = st.builds(
    Tap,
    tensor=TEXT,
    display_name=TEXT,
    aliases=st.lists(TEXT, max_size=3).map(tuple),
    operator=TEXT,
    node=TEXT,
    data_type=st.sampled_from(["float32", "float16"]),
    shape=SHAPE,
    layout=st.sampled_from(Layout),
    unit_axis=st.integers(1, 5),
    site_axes=st.lists(st.integers(1, 5), max_size=3).map(tuple),
    unit_count=st.integers(0, 2**40),
    pre_activation=TEXT,
    post_activation=TEXT,
    upper_limit=st.none() | FINITE,
)
PREPROCESSING = st.builds(
    Preprocessing,
    layout=st.sampled_from(["nchw", "nhwc"]),
    color_order=st.sampled_from(["rgb", "bgr"]),
    mean=st.tuples(FINITE, FINITE, FINITE),
    std=st.tuples(*[st.floats(1e-300, 1e300)] * 3),
    size_policy=st.sampled_from(["squash", "crop"]),
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    resize_short_side=st.integers(300, 400),
    verification=TEXT,
)
INPUTS = st.builds(
    InputSpec,
    name=TEXT,
    kind=st.sampled_from(["image", "tensor"]),
    data_type=TEXT,
    shape=SHAPE,
    preprocessing=st.none() | PREPROCESSING,
)
BACKWARD = st.builds(
    BackwardGraph,
    tap=TEXT,
    digest=TEXT,
    size_bytes=st.integers(0, 2**40),
    relaxations=st.lists(TEXT, max_size=2).map(tuple),
    origin=st.sampled_from(["built", "given"]),
    check=st.builds(
        GradientCheck,
        outcome=st.sampled_from(["passed", "inconclusive"]),
        precision=st.sampled_from(["float64", "float32"]),
        along_gradient=st.none() | FINITE,
        along_random=st.none() | FINITE,
        activation=FINITE,
        batch=st.none() | FINITE,
    ),
)
MANIFESTS = st.builds(
    Manifest,
    digest=TEXT,
    create_time=st.datetimes(timezones=st.just(datetime.UTC)).map(lambda t: t.replace(microsecond=0)),
    size_bytes=st.integers(0, 2**40),
    opset=st.integers(1, 30),
    inputs=st.lists(INPUTS, max_size=2).map(tuple),
    outputs=st.lists(st.builds(OutputSpec, name=TEXT, data_type=TEXT, shape=SHAPE), max_size=2).map(tuple),
    fixed_batch=st.integers(0, 64),
    taps=st.lists(TAPS, max_size=3).map(tuple),
    class_labels=st.lists(TEXT, max_size=4).map(tuple),
    notes=st.lists(TEXT, max_size=3).map(tuple),
    backward=st.lists(BACKWARD, max_size=2).map(tuple),
)
EXAMPLE = Manifest(
    digest="sha256:" + "0" * 64,
    create_time=datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
    size_bytes=7,
    opset=20,
    inputs=(
        InputSpec(
            "image", "image", "float32", (-1, 3, 224, 224),
            Preprocessing("nchw", "rgb", (127.0,) * 3, (128.0,) * 3, "squash", 224, 224, 256, "known"),
        ),
    ),
    outputs=(OutputSpec("logits", "float32", (-1, 1000)),),
    fixed_batch=0,
    taps=(),
    class_labels=("tench", "crane"),
    notes=(),
)  # fmt: skip


@settings(max_examples=150)
@given(MANIFESTS)
def test_a_manifest_read_back_equals_the_one_written(tmp_path_factory, manifest):
    path = tmp_path_factory.mktemp("manifest") / "manifest.toml"
    write_manifest(path, manifest)
    assert read_manifest(path) == manifest


def test_the_same_manifest_gives_the_same_bytes():
    assert dump_manifest(EXAMPLE) == dump_manifest(dataclasses.replace(EXAMPLE))


def test_a_manifest_that_says_nothing_of_backward_graphs_has_none(tmp_path):
    path = tmp_path / "manifest.toml"
    path.write_text(dump_manifest(EXAMPLE).decode().replace("backward = []", ""))
    assert read_manifest(path) == EXAMPLE


def test_the_file_is_toml_that_a_person_can_read():
    document = tomllib.loads(dump_manifest(EXAMPLE).decode())
    assert document["inputs"][0]["preprocessing"]["mean"] == [127.0, 127.0, 127.0]
    assert document["create_time"] == EXAMPLE.create_time


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("format = 1", "format = 2", "MANIFEST_FORMAT"),
        ("format = 1", "", "MANIFEST_UNREADABLE"),
        ("size_bytes = 7", "size_bytes = 'seven'", "MANIFEST_UNREADABLE"),
        ("size_bytes = 7", "size_bytes = true", "MANIFEST_UNREADABLE"),
        ("size_bytes = 7", "", "MANIFEST_UNREADABLE"),
        ("size_bytes = 7", "size_bytes = 7\nsurprise = 1", "MANIFEST_UNREADABLE"),
        ("size_bytes = 7", "size_bytes = ", "MANIFEST_UNREADABLE"),
        ('kind = "image"', 'kind = "sound"', "MANIFEST_UNREADABLE"),
        ("std = [128.0, 128.0, 128.0]", "std = [128.0, 128.0]", "MANIFEST_UNREADABLE"),
        ("std = [128.0, 128.0, 128.0]", "std = [128.0, 128.0, 0.0]", "MANIFEST_UNREADABLE"),
    ],
)
def test_a_changed_manifest_is_refused(tmp_path, old, new, reason):
    text = dump_manifest(EXAMPLE).decode()
    assert old in text
    path = tmp_path / "manifest.toml"
    path.write_text(text.replace(old, new))
    with pytest.raises(OrtoscopeError) as caught:
        read_manifest(path)
    assert caught.value.reason == reason
    assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b""])
def test_a_manifest_that_is_missing_or_no_text_is_refused(tmp_path, content):
    path = tmp_path / "manifest.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(OrtoscopeError, match="prepare"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"std": (0.0, 1.0, 1.0)}, "INVALID_STD"),
        ({"std": (-1.0, 1.0, 1.0)}, "INVALID_STD"),
        ({"std": (float("inf"), 1.0, 1.0)}, "INVALID_STD"),
        ({"mean": (float("nan"), 0.0, 0.0)}, "INVALID_MEAN"),
        ({"mean": (1.0, 2.0, 3.0), "color_order": "gray"}, "INVALID_MEAN"),
        ({"height": 0}, "INVALID_SIZE"),
        ({"size_policy": "crop", "resize_short_side": 200}, "INVALID_SIZE"),
    ],
)
def test_preprocessing_that_cannot_work_is_refused(change, reason):
    preprocessing = EXAMPLE.inputs[0].preprocessing
    assert preprocessing is not None
    with pytest.raises(OrtoscopeError) as caught:
        dataclasses.replace(preprocessing, **change)
    assert caught.value.reason == reason


def test_preprocessing_describes_itself():
    preprocessing = EXAMPLE.inputs[0].preprocessing
    assert preprocessing is not None
    assert preprocessing.describe() == "RGB 224 x 224 (squash), (pixel - 127) / 128, channels first"
    cropped = dataclasses.replace(preprocessing, mean=(1.5, 2, 3), size_policy="crop", layout="nhwc")
    assert cropped.describe() == (
        "RGB 224 x 224 (short side 256, centre crop), (pixel - (1.5, 2, 3)) / 128, channels last"
    )
