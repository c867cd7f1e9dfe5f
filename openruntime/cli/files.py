"""Arrays from files and into files: `.npy`, `.npz`, `.csv`, and images where Pillow is installed. Never pickles."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from openruntime.contracts.errors import InvalidParameter, MissingExtra

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
KINDS = (".npy", ".npz", ".csv", *IMAGES)


def pillow() -> Any:
    """Pillow's `Image` module. Raises `MissingExtra`."""
    try:
        return import_module("PIL.Image")
    except ModuleNotFoundError as error:
        raise MissingExtra("reading and writing images", "images") from error


def read(path: Path, field: str) -> Any:
    """The array in a file; a dict of them for an `.npz` with several. Images are uint8 (h, w) or (h, w, channels)."""
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise InvalidParameter(f"`{field}`: {path} is no kind of file that can be read; use one of {', '.join(KINDS)}", field=field)
    if not path.is_file():
        raise InvalidParameter(f"`{field}`: there is no file {path}", field=field)
    try:
        if kind == ".npy":
            return np.load(path, allow_pickle=False)
        if kind == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                found = dict(archive)
            return next(iter(found.values())) if len(found) == 1 else found
        if kind == ".csv":
            return _read_csv(path)
    except (ValueError, EOFError) as error:
        raise InvalidParameter(f"`{field}`: {path} cannot be read as {kind[1:]}: {error}", field=field) from None
    return _read_image(path, field)


def _read_csv(path: Path) -> Any:
    """Numbers between commas; a first line that is no numbers is a header."""
    with path.open() as lines:
        first = lines.readline()
    header = 0 if _is_number(*first.split(",")) else 1
    try:
        return np.loadtxt(path, delimiter=",", skiprows=header, ndmin=1)
    except ValueError as error:
        raise ValueError(_fault(path, header) or str(error)) from None


def _is_number(*cells: str) -> bool:
    try:
        [float(cell) for cell in cells]
    except ValueError:
        return False
    return True


def _fault(path: Path, header: int) -> str | None:
    """What is wrong where, lines and columns counted from 1 as an editor does."""
    width = None
    with path.open() as lines:
        for number, line in enumerate(lines, 1):
            cells = line.partition("#")[0].strip().split(",")
            if number <= header or cells == [""]:
                continue
            for column, cell in enumerate(cells, 1):
                if not _is_number(cell):
                    hint = "; values must stand between commas, and these between semicolons" if ";" in cell else ""
                    return f"line {number}, column {column} is {cell.strip()[:60]!r}, which is no number{hint}"
            width = width or len(cells)
            if len(cells) != width:
                return f"line {number} has {len(cells)} values, and those before it {width}"
    return None


def _read_image(path: Path, field: str) -> Any:
    image = pillow()
    try:
        with image.open(path) as opened:
            modes = {"1": "L", "L": "L", "LA": "RGBA", "RGB": "RGB", "RGBA": "RGBA"}
            return np.asarray(opened.convert(modes.get(opened.mode, "RGB")))
    except (OSError, image.DecompressionBombError) as error:
        raise InvalidParameter(f"`{field}`: {path} cannot be read as an image: {error}", field=field) from None


def check_target(path: Path, outputs: Sequence[str] = ()) -> None:
    """Refuse a file that could not be written, or could not hold these outputs, before the work is done."""
    if len(outputs) > 1 and path.suffix.lower() != ".npz":
        raise InvalidParameter(f"`--output`: there are {len(outputs)} outputs ({', '.join(outputs)}); write them to an .npz file", field="output")
    if path.suffix.lower() not in KINDS:
        raise InvalidParameter(f"`--output`: {path} is no kind of file that can be written; use one of {', '.join(KINDS)}", field="output")
    if not path.absolute().parent.is_dir():
        raise InvalidParameter(f"`--output`: there is no directory {path.absolute().parent}", field="output")
    if path.suffix.lower() in IMAGES:
        pillow()


def write(path: Path, found: Any) -> None:
    """One array, or several named ones, which need `.npz`."""
    kind = path.suffix.lower()
    several = dict(found) if isinstance(found, Mapping) else None
    if kind == ".npz":
        np.savez(path, **(several if several is not None else {"output": found}))
        return
    if several is not None:
        raise InvalidParameter(f"the operation has {len(several)} outputs ({', '.join(several)}); write them to an .npz file", field="output")
    array = np.asarray(found)
    if kind == ".npy":
        np.save(path, array, allow_pickle=False)
    elif kind == ".csv":
        _write_csv(path, array)
    else:
        pillow().fromarray(pixels(array)).save(path)


def _write_csv(path: Path, array: Any) -> None:
    if array.ndim > 2 or np.iscomplexobj(array):
        raise InvalidParameter(f"csv holds real numbers in one or two dimensions; this is {array.dtype} {array.shape}; use .npy", field="output")
    whole = array.dtype.kind in "biu"
    np.savetxt(path, np.atleast_1d(array), delimiter=",", fmt="%d" if whole else "%.17g" if array.dtype == np.float64 else "%.9g")


def pixels(array: Any) -> Any:
    """uint8 pixels: as they are, or from floating values between 0 and 1, or between 0 and 255 where one is larger."""
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or np.iscomplexobj(array):
        raise InvalidParameter(f"an image is (h, w), (h, w, 3) or (h, w, 4); the output is {array.dtype} {array.shape}; use .npy", field="output")
    flat = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if flat.dtype == np.uint8:
        return flat
    if flat.dtype == np.bool_:
        return flat.astype(np.uint8) * 255
    scale = 255.0 if flat.dtype.kind == "f" and flat.size and np.nanmax(flat) <= 1.0 else 1 / 257 if flat.dtype == np.uint16 else 1.0
    return np.clip(np.rint(np.nan_to_num(flat.astype(np.float64)) * scale), 0, 255).astype(np.uint8)
