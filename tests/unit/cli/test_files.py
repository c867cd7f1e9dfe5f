"""Files in, files out."""

from pathlib import Path

import numpy as np
import pytest

from openruntime.cli import files
from openruntime.contracts.errors import InvalidParameter


@pytest.mark.parametrize("kind", [".npy", ".npz"])
@pytest.mark.parametrize("dtype", ["float32", "complex128", "bool", "int64"])
def test_numpy_files_come_back_as_they_were(tmp_path: Path, kind: str, dtype: str) -> None:
    given = np.array([[0, 1, 2], [3, 0, 5]]).astype(dtype)
    files.write(tmp_path / f"x{kind}", given)
    got = files.read(tmp_path / f"x{kind}", "x")
    assert got.dtype == given.dtype
    np.testing.assert_array_equal(got, given)


def test_csv_keeps_every_digit_and_skips_a_header(tmp_path: Path) -> None:
    given = np.array([[np.pi, -1e-300], [np.inf, np.nan]])
    path = tmp_path / "x.csv"
    files.write(path, given)
    np.testing.assert_array_equal(files.read(path, "x"), given)
    path.write_text("alpha,beta\n" + path.read_text())
    np.testing.assert_array_equal(files.read(path, "x"), given)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3), (4, 5, 4)])
def test_an_image_comes_back_pixel_for_pixel(tmp_path: Path, shape: tuple[int, ...]) -> None:
    given = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    files.write(tmp_path / "x.png", given)
    np.testing.assert_array_equal(files.read(tmp_path / "x.png", "x"), given)


def test_floating_pixels_are_scaled_by_their_range() -> None:
    assert files.pixels(np.array([[0.0, 0.5, 1.0]])).tolist() == [[0, 128, 255]]
    assert files.pixels(np.array([[0.0, 200.4, 300.0, -5.0, np.nan]])).tolist() == [[0, 200, 255, 0, 0]]


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidParameter, match="cannot be read as npy") as caught:
        files.read(path, "weights")
    assert caught.value.field == "weights"


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("x.npy", None, "there is no file"), ("x.xyz", b"", "no kind of file"), ("x.npy", b"rubbish", "cannot be read"),
        ("x.csv", b"a,b\n1,two\n", "line 2, column 2 is 'two'"), ("x.csv", b"1,2\n\n3,4,5\n", "line 3 has 3 values, and those before it 2"),
        ("x.csv", b"a;b\n1;2\n", "between commas.*semicolons"), ("x.png", b"rubbish", "cannot be read as an image"),
    ],
)  # fmt: skip
def test_bad_files_are_refused_by_name(tmp_path: Path, name: str, content: bytes | None, why: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidParameter, match=why):
        files.read(tmp_path / name, "x")


def test_several_outputs_need_an_archive(tmp_path: Path) -> None:
    found = {"labels": np.arange(3), "centroids": np.ones((2, 2))}
    with pytest.raises(InvalidParameter, match=r"2 outputs \(labels, centroids\).*npz"):
        files.write(tmp_path / "x.npy", found)
    files.write(tmp_path / "x.npz", found)
    assert files.read(tmp_path / "x.npz", "x").keys() == found.keys()


def test_a_target_is_checked_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="no kind of file"):
        files.check_target(tmp_path / "out.doc")
    with pytest.raises(InvalidParameter, match="no directory"):
        files.check_target(tmp_path / "missing" / "out.npy")
    with pytest.raises(InvalidParameter, match="there are 2 outputs"):
        files.check_target(tmp_path / "out.npy", ["labels", "centroids"])
