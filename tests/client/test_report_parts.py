"""What a report is made of: run lengths, thumbnails, frames, figures, embedded data."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import ortoscope
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ortoscope.progress import silent
from ortoscope.report import pictures
from ortoscope.report.masks import encode_runs
from ortoscope.report.page import embedded_json, significant
from ortoscope.report.pictures import Frame, fetch_thumbnails, frame_of, make_thumbnail, size_for
from ortoscope.v1 import datasets_pb2, models_pb2
from ortoscope_service.models.manifest import Preprocessing
from ortoscope_service.models.preprocessing import fit
from PIL import Image
from scripted_server import fail, scripted


def decode_runs(text: str, pixels: int) -> np.ndarray:
    """The mask that run lengths stand for, by their definition."""
    mask, inside, length, shift = [], 0, 0, 0
    for byte in base64.b64decode(text):
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            mask += [inside] * length
            inside, length, shift = 1 - inside, 0, 0
    return np.array(mask + [inside] * (pixels - len(mask)), np.uint8)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 400)), max_size=8))
def test_run_lengths_stand_for_the_mask(runs: list[tuple[int, int]]) -> None:
    mask = np.concatenate([np.zeros(1, np.uint8), *(np.full(n, bit, np.uint8) for bit, n in runs)])
    assert np.array_equal(decode_runs(encode_runs(np.packbits(mask), len(mask)), len(mask)), mask)


@given(st.binary(min_size=1, max_size=60))
def test_run_lengths_of_noise_stand_for_it_too(data: bytes) -> None:
    bits = np.frombuffer(data, np.uint8)
    pixels = 8 * len(bits) - 3
    assert np.array_equal(decode_runs(encode_runs(bits, pixels), pixels), np.unpackbits(bits, count=pixels))


def test_an_empty_mask_is_an_empty_text() -> None:
    assert encode_runs(np.zeros(1568, np.uint8), 112 * 112) == ""
    assert decode_runs(encode_runs(np.full(2, 255, np.uint8), 16), 16).all()


@pytest.mark.parametrize("count", [0, 1, 200, 1280, 6400, 20_000, 1_000_000])
def test_photographs_get_as_much_room_as_a_page_has(count: int, reference_data: Path) -> None:
    side, most = size_for(count)
    assert most == count or (most < count and count > 10_000)
    photographs = sorted((reference_data / "minibroden224" / "images").glob("*/*.jpg"))[::10]
    sizes = [
        len(make_thumbnail(datasets_pb2.ImageContent(data=path.read_bytes()), side, None).jpeg) for path in photographs
    ]
    assert np.mean(sizes) * most < 16_000_000


def test_pictures_of_nothing_but_noise_do_not_break_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "_MOST_BYTES", 100_000)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (320, 320, 3), np.uint8))
    buffer = io.BytesIO()
    noise.save(buffer, "PNG")
    content = datasets_pb2.ImageContent(data=buffer.getvalue(), media_type="image/png", width=320, height=320)
    asked = []

    def get(request: Any, context: grpc.ServicerContext) -> datasets_pb2.ImageContent:
        asked.append(request.name)
        if request.name.endswith("/5"):
            fail(context, "NOT_FOUND", "gone", reason="UNKNOWN_IMAGE")
        return content

    with scripted({"GetImage": get}) as target, ortoscope.connect(target) as scope:
        found = fetch_thumbnails(scope.rpcs, "datasets/d", [5, 7, -1, 7, *range(4)], None, silent)
    assert sorted(asked) == [f"datasets/d/images/{index}" for index in (0, 1, 2, 3, 5, 7)]
    assert next(iter(found)) == 7
    assert 1 <= len(found) < 5
    assert sum(len(thumbnail.jpeg) for thumbnail in found.values()) <= 100_000


def test_a_thumbnail_keeps_its_shape_and_is_never_enlarged() -> None:
    for size, expected in (((400, 200), (160, 80)), ((30, 40), (30, 40))):
        buffer = io.BytesIO()
        Image.new("RGB", size, (200, 30, 30)).save(buffer, "PNG")
        thumbnail = make_thumbnail(datasets_pb2.ImageContent(data=buffer.getvalue()), 160, None)
        assert (thumbnail.width, thumbnail.height) == expected
        with Image.open(io.BytesIO(thumbnail.jpeg)) as picture:
            assert picture.format == "JPEG"
            assert picture.size == expected


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (256, 256), (1000, 300), (224, 224), (224, 300), (90, 91)])
@pytest.mark.parametrize("short_side", [224, 256])
@pytest.mark.parametrize("policy", ["squash", "crop"])
def test_the_frame_is_what_the_service_lets_the_model_see(size: tuple[int, int], short_side: int, policy: str) -> None:
    """The service fits a picture whose colours are its own coordinates; the frame must predict the corners."""
    width, height = size
    across = np.broadcast_to((np.arange(width) + 0.5) / width * 255, (height, width))
    down = np.broadcast_to(((np.arange(height) + 0.5) / height * 255)[:, None], (height, width))
    picture = Image.fromarray(np.dstack([across, down, 0 * down]).round().astype(np.uint8))
    given_policy = Preprocessing("nchw", "rgb", (0.0,) * 3, (1.0,) * 3, policy, 224, 224, short_side, "")  # type: ignore[arg-type]
    seen = np.asarray(fit(picture, given_policy)).astype(float) / 255
    message = models_pb2.Preprocessing(
        size_policy=f"SIZE_POLICY_{policy.upper()}",
        height=224, width=224, resize_short_side=short_side,
    )  # fmt: skip
    frame = frame_of(width, height, message)
    middle = seen.shape[0] // 2
    assert seen[middle, 0, 0] == pytest.approx(frame.left + 0.5 / 224 * frame.width, abs=0.015)
    assert seen[middle, -1, 0] == pytest.approx(frame.left + (1 - 0.5 / 224) * frame.width, abs=0.015)
    assert seen[0, middle, 1] == pytest.approx(frame.top + 0.5 / 224 * frame.height, abs=0.015)
    assert seen[-1, middle, 1] == pytest.approx(frame.top + (1 - 0.5 / 224) * frame.height, abs=0.015)


def test_without_preprocessing_all_of_a_picture_is_seen() -> None:
    assert frame_of(640, 480, None) == Frame(0, 0, 1, 1)


@given(st.text())
def test_embedded_data_cannot_end_their_element(text: str) -> None:
    embedded = embedded_json({"text": text})
    assert not set("<>&\u2028\u2029") & set(embedded)
    assert json.loads(embedded) == {"text": text}


@pytest.mark.parametrize(("value", "shown"), [(0.0, 0.0), (1 / 3, 0.333333), (1234567.0, 1234570.0), (-2e-9, -2e-9)])
def test_numbers_are_rounded_to_six_digits(value: float, shown: float) -> None:
    assert significant(value) == shown
