from pathlib import Path

import numpy as np
import pytest
from ortoscope.cli.thresholds import read_thresholds
from ortoscope.errors import InvalidArgument

VALUES = np.array([0.5, -1.25, 3e-7, 17.0])


def test_arrays_of_every_form_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", threshold=VALUES, iou=np.zeros((4, 2)))
    np.savez(tmp_path / "b.npz", thresholds=VALUES, other=VALUES + 1)
    np.savez(tmp_path / "c.npz", whatever=VALUES)
    np.save(tmp_path / "d.npy", VALUES.astype(np.float32))
    for name in ("a.npz", "b.npz", "c.npz"):
        assert np.array_equal(read_thresholds(tmp_path / name), VALUES)
    assert np.array_equal(read_thresholds(tmp_path / "d.npy"), VALUES.astype(np.float32))
    assert read_thresholds(tmp_path / "d.npy").dtype == np.float64


@pytest.mark.parametrize(
    "text",
    [
        "0.5\n-1.25\n3e-7\n17\n",
        "threshold\n0.5\n-1.25\n3e-7\n17\n",
        "unit,label,threshold\n0,a,0.5\n1,,-1.25\n2,c,3e-7\n3,d,17\n",
        "unit,label,threshold\r\n4,d,17\r\n2,b,-1.25\r\n1,a,0.5\r\n3,c,3e-7\r\n",
        "\ufeffThreshold\n0.5\n-1.25\n\n3e-7\n17\n",
    ],
)
def test_tables_of_every_form_are_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_text(text, encoding="utf-8", newline="")
    assert np.array_equal(read_thresholds(tmp_path / "t.csv"), VALUES)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("a,b\n1,2\n", "no column `threshold`"),
        ("threshold\nabc\n", "abc"),
        ("threshold\nnan\n", "finite"),
        ("unit,threshold\n0,1\n", None),
        ("unit,threshold\n0,1\n2,1\n", "each once"),
        ("unit,threshold\n5,1\n6,1\n", "each once"),
        ("unit,threshold\n0\n", "shorter"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path: Path, text: str, why: str | None) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    if why is None:
        assert read_thresholds(path).tolist() == [1.0]
        return
    with pytest.raises(InvalidArgument, match=why) as caught:
        read_thresholds(path)
    assert caught.value.reason == "THRESHOLDS_UNREADABLE"
    assert "t.csv" in str(caught.value)


def test_what_is_wrong_with_an_array_file_is_said(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=VALUES, y=VALUES)
    np.save(tmp_path / "b.npy", np.zeros((2, 2)))
    np.save(tmp_path / "c.npy", np.array([object()]), allow_pickle=True)
    (tmp_path / "d.txt").write_text("1")
    (tmp_path / "e.npz").write_bytes(b"nonsense")
    reasons = {"a.npz": "no array `threshold`", "b.npy": r"shape \(2, 2\)", "d.txt": r"\.txt"}
    reasons |= {name: name for name in ("c.npy", "e.npz")}
    for name, why in reasons.items():
        with pytest.raises(InvalidArgument, match=why):
            read_thresholds(tmp_path / name)


def test_a_missing_file_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_thresholds(tmp_path / "no.npz")


def test_the_reference_thresholds_are_read(reference_data: Path) -> None:
    stem = reference_data / "reference" / "efficientnet_lite0_minibroden224_block10"
    from_arrays = read_thresholds(stem.with_suffix(".npz"))
    assert from_arrays.shape == (112,)
    assert np.allclose(read_thresholds(stem.with_suffix(".csv")), from_arrays, rtol=1e-4)
