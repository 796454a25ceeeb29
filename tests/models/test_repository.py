"""The repository on a real disk: immutable, atomic, checked by digest, closed to links and strange names."""

import dataclasses
import datetime
import multiprocessing
import os
import stat
import threading

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_packages import add_many, package
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.models.manifest import InputSpec
from ortoscope_service.models.repository import (
    ModelRepository,
    digest_of,
    is_model_id,
    model_id_of,
)
from ortoscope_service.runtime.sessions import Session
from tiny_models import random_feeds, tiny_cnn


@pytest.fixture
def repository(tmp_path):
    return ModelRepository(tmp_path / "models")


def reason_of(call, *arguments) -> str:
    with pytest.raises(OrtoscopeError) as caught:
        call(*arguments)
    return caught.value.reason


def test_a_version_comes_back_as_it_was_added(repository):
    content, manifest = package()
    added = repository.add("tiny", content, manifest)
    found = ModelRepository(repository._root).get("tiny")
    assert (added.model, added.version, found.version) == ("tiny", 1, 1)
    assert found.manifest == manifest
    assert found.model_bytes() == content
    assert repository.names() == ["tiny"]


def test_versions_count_up_and_are_listed_newest_first(repository):
    for seed in range(11):
        repository.add("tiny", *package(seed))
    assert repository.versions("tiny") == list(range(11, 0, -1))
    assert repository.get("tiny").version == 11
    assert repository.get("tiny", 2).model_bytes() == package(1)[0]


def test_adding_the_same_again_adds_nothing(repository):
    content, manifest = package()
    first = repository.add("tiny", content, manifest)
    later = dataclasses.replace(manifest, create_time=manifest.create_time + datetime.timedelta(days=1))
    assert repository.add("tiny", content, later) is first
    assert repository.add("tiny", content, dataclasses.replace(manifest, notes=("other",))).version == 2
    assert repository.add("other", content, manifest).version == 1


def test_a_version_added_elsewhere_is_seen_at_once(repository):
    repository.add("tiny", *package(0))
    ModelRepository(repository._root).add("tiny", *package(1))
    assert repository.get("tiny").version == 2


def test_a_version_is_the_same_object_until_its_files_change(repository):
    version = repository.add("tiny", *package(0))
    assert repository.get("tiny", 1) is version
    folder = repository._root / "tiny" / "1"
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    repository.add("tiny", *package(1))
    assert repository.get("tiny", 1) is not version
    assert repository.get("tiny", 1).model_bytes() == package(1)[0]


def test_trunk_gives_the_same_values_as_the_whole_model(repository):
    version = repository.add("tiny", *package())
    feeds = random_feeds(tiny_cnn(), 2)
    trunk = Session(version.trunk_bytes(("add", "relu1"))).run(feeds)
    model = tiny_cnn()
    model.graph.output.extend([onnx.ValueInfoProto(name="add"), onnx.ValueInfoProto(name="relu1")])
    whole = Session(model.SerializeToString()).run(feeds)
    assert list(trunk) == ["add", "relu1"]
    for name, values in trunk.items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-5, atol=1e-6)


def test_a_model_is_loaded_once_for_many_threads(repository):
    version = repository.add("tiny", *package())
    loaded = []
    threads = [threading.Thread(target=lambda: loaded.append(version.load())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(model) for model in loaded}) == 1


def test_only_the_models_used_last_stay_in_memory(tmp_path):
    repository = ModelRepository(tmp_path, loaded_models=1)
    first, second = (repository.add("tiny", *package(seed)) for seed in range(2))
    model = first.load()
    assert first.load() is model
    second.load()
    assert first.load() is not model


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"\0" + b[1:], lambda b: b + b"\0", lambda b: b""])
def test_a_damaged_file_is_data_loss(repository, damage):
    version = repository.add("tiny", *package())
    file = repository._root / "tiny" / "1" / "model.onnx"
    content = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(damage(content))
    for call in (version.model_bytes, version.load):
        with pytest.raises(OrtoscopeError) as caught:
            call()
        assert (caught.value.code, caught.value.reason) == (Code.DATA_LOSS, "MODEL_CORRUPT")
        assert str(repository._root) not in caught.value.message


def test_unknown_names_are_refused_with_those_that_there_are(repository):
    assert reason_of(repository.get, "tiny") == "UNKNOWN_MODEL"
    repository.add("tiny", *package())
    with pytest.raises(OrtoscopeError, match="'tiny'") as caught:
        repository.get("tinny")
    assert caught.value.code is Code.NOT_FOUND
    assert reason_of(repository.get, "tiny", 2) == "UNKNOWN_VERSION"
    assert reason_of(repository.get, "tiny", 0) == "UNKNOWN_VERSION"


@pytest.mark.parametrize(
    "name", ["..", ".", "", "../models/tiny", "tiny/1", "/", "tiny\0", "Tiny", " tiny", ".incoming-1"]
)
def test_names_are_never_paths(repository, name):
    repository.add("tiny", *package())
    assert reason_of(repository.get, name) == "UNKNOWN_MODEL"
    assert reason_of(repository.versions, name) == "UNKNOWN_MODEL"
    assert reason_of(repository.add, name, *package()) == "INVALID_MODEL_NAME"


def test_what_is_no_complete_version_is_not_listed(repository):
    repository.add("tiny", *package())
    home = repository._root / "tiny"
    for name in ("0", "01", "2", "3", "x", "1.5", "-1", ".incoming-4", "+5", "\N{ARABIC-INDIC DIGIT SIX}"):
        (home / name).mkdir()
    (home / "3" / "model.onnx").write_bytes(b"")
    (home / "7").write_bytes(b"")
    (repository._root / "empty").mkdir()
    (repository._root / "a-file").write_bytes(b"")
    (repository._root / ".incoming-abc").mkdir()
    assert repository.versions("tiny") == [1]
    assert repository.names() == ["tiny"]
    assert repository.add("tiny", *package(1)).version == 8


def test_links_out_of_the_repository_are_not_followed(repository, tmp_path):
    outside = ModelRepository(tmp_path / "outside")
    outside.add("secret", *package())
    repository.add("tiny", *package())
    root = repository._root
    (root / "linked").symlink_to(outside._root / "secret", target_is_directory=True)
    (root / "tiny" / "2").symlink_to(outside._root / "secret" / "1", target_is_directory=True)
    (root / "tiny" / "3").mkdir()
    for file in (outside._root / "secret" / "1").iterdir():
        (root / "tiny" / "3" / file.name).symlink_to(file)
    (root / "loop").symlink_to(root / "loop")
    assert repository.names() == ["tiny"]
    assert repository.versions("tiny") == [1]
    assert reason_of(repository.get, "linked") == "UNKNOWN_MODEL"
    assert reason_of(repository.add, "linked", *package()) == "MODEL_OUTSIDE_REPOSITORY"
    assert outside.versions("secret") == [1]


def test_links_within_the_repository_and_to_it_work(repository, tmp_path):
    repository.add("tiny", *package())
    (repository._root / "alias").symlink_to(repository._root / "tiny", target_is_directory=True)
    (tmp_path / "link").symlink_to(repository._root, target_is_directory=True)
    assert ModelRepository(tmp_path / "link").get("alias").model_bytes() == package()[0]


def test_files_cannot_be_written_and_obey_the_mask_of_permissions(tmp_path):
    before = os.umask(0o027)
    try:
        ModelRepository(tmp_path / "models").add("tiny", *package())
    finally:
        os.umask(before)
    folder = tmp_path / "models" / "tiny" / "1"
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o440}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750


def test_a_manifest_of_another_file_is_refused(repository):
    content, manifest = package()
    assert reason_of(repository.add, "tiny", content + b"\0", manifest) == "DIGEST_MISMATCH"
    assert repository.names() == []


def test_a_folder_that_cannot_be_written_is_said_so(tmp_path):
    (tmp_path / "models").write_bytes(b"")
    assert reason_of(ModelRepository(tmp_path / "models").add, "tiny", *package()) == "REPOSITORY_NOT_WRITABLE"


def test_what_a_killed_process_left_is_removed_a_day_later(repository):
    repository.add("tiny", *package(0))
    old, young = (repository._root / f".incoming-{name}" for name in ("old", "young"))
    for folder in (old, young):
        folder.mkdir()
        (folder / "model.onnx").write_bytes(b"half")
    os.utime(old, (0, 0))
    repository.add("tiny", *package(1))
    assert not old.exists()
    assert young.exists()


def test_two_processes_that_add_at_once_lose_and_break_nothing(tmp_path):
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(2)
    workers = [context.Process(target=add_many, args=(tmp_path, seeds, start)) for seeds in (range(8), range(4, 12))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    repository = ModelRepository(tmp_path)
    versions = repository.versions("tiny")
    digests = [repository.get("tiny", version).manifest.digest for version in versions]
    for version in versions:
        repository.get("tiny", version).model_bytes()
    assert sorted(versions) == list(range(1, len(versions) + 1))
    assert set(digests) == {digest_of(package(seed)[0]) for seed in range(12)}
    assert 12 <= len(versions) <= 16
    assert not list(tmp_path.glob(".*"))


def test_a_picture_goes_to_a_model_whose_only_input_is_an_image(repository):
    content, manifest = package()
    (image,) = manifest.inputs
    tensor = InputSpec("ids", "tensor", "int64", (-1, 6), None)
    assert repository.add("image", content, manifest).image_input == image
    for number, inputs in enumerate([(tensor,), (image, tensor), (image, image)]):
        version = repository.add(f"other{number}", content, dataclasses.replace(manifest, inputs=inputs))
        with pytest.raises(OrtoscopeError, match="tensors") as caught:
            _ = version.image_input
        assert caught.value.reason == "MODEL_INPUT_NOT_IMAGE"
        assert caught.value.code is Code.FAILED_PRECONDITION


@given(st.text(max_size=80))
def test_an_id_made_of_a_file_name_is_an_id_or_refused(name):
    reasons = []
    try:
        assert is_model_id(model_id_of(name))
    except OrtoscopeError as error:
        reasons.append(error.reason)
    assert reasons in ([], ["INVALID_MODEL_NAME"])


@pytest.mark.parametrize(
    ("file", "model"),
    [
        ("ResNet50-v1.5.onnx", "resnet50-v1.5"),
        ("my model (final).onnx", "my-model-final"),
        ("a" * 80 + ".onnx", "a" * 63),
        ("_x_.onnx", "x"),
    ],
)
def test_the_id_stays_close_to_the_file_name(file, model):
    assert model_id_of(file) == model
