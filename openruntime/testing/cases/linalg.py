"""Linear algebra against `numpy.linalg`; factors that are not unique by what defines them."""

from typing import Any

import numpy as np

from openruntime.testing.cases import PRECISION, Case, close

_random = np.random.default_rng(11)
_FLOATS = ("float32", "float64", "complex64", "complex128")


def _array(dtype: str, *shape: int) -> Any:
    found = _random.normal(size=shape)
    if np.dtype(dtype).kind == "c":
        found = found + 1j * _random.normal(size=shape)
    return np.round(found * 5).astype(dtype) if np.dtype(dtype).kind in "iu" else found.astype(dtype)


def _matmul(a: Any, b: Any) -> Any:
    return np.matmul(a, b)


def _like(name: str) -> Any:
    return lambda x: getattr(np.linalg, name)(x)


def _definite(dtype: str, *shape: int) -> Any:
    x = _array(dtype, *shape)
    return (x @ x.conj().swapaxes(-1, -2) + shape[-1] * np.eye(shape[-1])).astype(dtype)


def _product(outputs: Any, wanted: Any, *factors: Any) -> None:
    found = factors[0]
    for factor in factors[1:]:
        found = found @ factor
    close(found, wanted, 100 * PRECISION[outputs.dtype.name])


def _orthonormal(q: Any) -> None:
    n = q.shape[-1]
    close(q.conj().swapaxes(-1, -2) @ q, np.broadcast_to(np.eye(n), (*q.shape[:-2], n, n)), 100 * PRECISION[q.dtype.name])


def _qr(outputs: Any, x: Any, mode: str = "reduced") -> None:
    q, r = outputs["q"], outputs["r"]
    _product(q, x, q, r)
    _orthonormal(q)
    assert not np.tril(r, -1).any()


def _svd(outputs: Any, x: Any, full_matrices: bool = False) -> None:
    u, s, vh = outputs["u"], outputs["s"], outputs["vh"]
    k = s.shape[-1]
    _product(u, x, u[..., :, :k] * s[..., None, :], vh[..., :k, :])
    _orthonormal(u)
    _orthonormal(vh.conj().swapaxes(-1, -2))
    close(s, np.linalg.svd(x, compute_uv=False), 100 * PRECISION[s.dtype.name])


def _eigh(outputs: Any, x: Any) -> None:
    whole = np.tril(x) + np.tril(x, -1).conj().swapaxes(-1, -2)
    values, vectors = outputs["eigenvalues"], outputs["eigenvectors"]
    close(values, np.linalg.eigvalsh(whole.astype(vectors.dtype)), 100 * PRECISION[values.dtype.name])
    _product(vectors, whole.astype(vectors.dtype), vectors * values[..., None, :], vectors.conj().swapaxes(-1, -2))
    _orthonormal(vectors)


def _lstsq(a: Any, b: Any, rcond: float | None = None) -> Any:
    solution, _, rank, values = np.linalg.lstsq(a, b, rcond=rcond)
    gap = np.abs(a @ solution - b) ** 2
    return {"solution": solution, "residuals": gap.sum(axis=0), "rank": np.int64(rank), "singular_values": values}


def _shortest(outputs: Any, a: Any, b: Any) -> None:
    close(outputs["solution"], np.linalg.lstsq(a, b)[0], 1e-8)
    assert outputs["rank"] == min(a.shape)
    assert outputs["residuals"] < 1e-20


def _einsum(subscripts: str, *operands: Any, expected: Any = None) -> Case:
    named = dict(zip("abcd", operands, strict=False))
    return Case("einsum", {"subscripts": subscripts, **named}, expected or np.einsum(subscripts, *operands), precision=1e-4)


def _refused(operation: str, field: str, **parameters: Any) -> Case:
    return Case(operation, parameters, refused=field)


_PAIRS: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((3, 4), (4, 5)), ((4,), (4, 5)), ((3, 4), (4,)), ((4,), (4,)), ((2, 1, 3, 4), (5, 4, 2)), ((0, 4), (4, 3)), ((3, 0), (0, 2)), ((1, 1), (1, 1)),
]  # fmt: skip
_WRONG = ("ij", "ij,jk->il", "ij,jk->ii", "i1,jk", "ij,jk->i->k", "....ij,jk", "ij,jk->...", "...,jk->jk")
_SINGULAR = np.array([[1.0, 2.0], [2.0, 4.0]])
_NAN = np.array([[1.0, np.nan], [np.nan, 3.0]])
_WIDE, _TALL = _array("float64", 3, 5), _array("float64", 5, 3)
_B = _array("float64", 4)

CASES: list[Case] = [
    *(Case("matmul", {"a": _array("float64", *a), "b": _array("float64", *b)}, _matmul) for a, b in _PAIRS),
    *(Case("matmul", {"a": _array(dtype, 17, 9), "b": _array(dtype, 9, 8)}, _matmul, precision=1e-2 if dtype == "float16" else None)
      for dtype in ("int8", "int32", "uint8", "int64", "float16", *_FLOATS)),
    Case("matmul", {"a": _array("float32", 3, 4), "b": _array("int64", 4, 2)}, _matmul),
    Case("matmul", {"a": _array("float32", 130, 140), "b": _array("float32", 140, 150)}, _matmul),
    Case("matmul", {"a": _NAN, "b": np.eye(2)}, _matmul),
    _refused("matmul", "b", a=_array("float32", 3, 4), b=_array("float32", 3, 4)),
    _refused("matmul", "a", a=np.float32(3), b=_array("float32", 3, 4)),
    _refused("matmul", "a", a=np.ones((2, 2), bool), b=np.eye(2)),
    _refused("matmul", "b", a=_array("float32", 2, 3, 4), b=_array("float32", 5, 4, 2)),
    _refused("matmul", "b", a=_array("float32", 3, 4)),
    _refused("matmul", "c", a=np.eye(2), b=np.eye(2), c=1),
    _refused("matmul", "a", a=3, b=np.eye(2)),
    _einsum("ij,jk->ik", _array("float64", 3, 4), _array("float64", 4, 5)),
    _einsum("ij,jk", _array("float32", 3, 4), _array("int64", 4, 5)),
    _einsum("ii->i", _array("float64", 4, 4)), _einsum("ii", _array("float64", 4, 4)), _einsum("ij->ji", _array("int32", 2, 3)),
    _einsum("...ij,...jk->...ik", _array("float64", 2, 3, 4), _array("float64", 4, 5)),
    _einsum("i,j->ij", _array("float64", 0), _array("float64", 3)),
    _einsum("ab,bc,cd->ad", *(_array("float64", 3, 3) for _ in range(3))), _einsum("i,i,i,i", *(_array("complex64", 5) for _ in range(4))),
    _refused("einsum", "a", subscripts="ijk,jk->i", a=np.eye(3), b=np.eye(3)), _refused("einsum", "b", subscripts="ij,jk", a=np.eye(3), b=np.eye(4)),
    *(_refused("einsum", "subscripts", subscripts=text, a=np.eye(3), b=np.eye(3)) for text in _WRONG),
    *(Case("norm", {"x": _array(dtype, 3, 4)}, np.linalg.norm) for dtype in ("int32", *_FLOATS)),
    *(Case("norm", {"x": _array("float64", 3, 4, 2), "axis": axis, "keepdims": keepdims},
           lambda x, axis, keepdims: np.linalg.norm(x, axis=tuple(axis) if isinstance(axis, list) else axis, keepdims=keepdims))
      for axis in (0, -1, [0, 1], [2, 0]) for keepdims in (False, True)),
    *(Case("norm", {"x": _array("float64", 5), "ord": order}, lambda x, ord: np.linalg.norm(x, float(ord)))
      for order in (1, 2, 3.5, 0, "inf", "-inf")),
    *(Case("norm", {"x": _array("float64", 4, 3), "ord": order, "axis": [0, 1]},
           lambda x, ord, axis: np.linalg.norm(x, float(ord) if "inf" in str(ord) else ord))
      for order in (1, -1, 2, -2, "fro", "nuc", "inf", "-inf")),
    Case("norm", {"x": np.array([1.0, np.nan])}, np.float64("nan")), Case("norm", {"x": np.zeros((0,))}, np.float64(0)),
    _refused("norm", "axis", x=np.eye(2), axis=5), _refused("norm", "axis", x=np.eye(2), axis=[0, 0]),
    _refused("norm", "ord", x=np.eye(2), ord="nuc"),
    _refused("norm", "ord", x=np.eye(2), ord="l2"), _refused("norm", "x", x=np.zeros(0), ord="inf"),
    _refused("norm", "ord", x=np.eye(2), axis=[0, 1], ord=3),
    *(Case("solve", {"a": _definite(dtype, 4, 4), "b": _array(dtype, 4)}, np.linalg.solve) for dtype in _FLOATS),
    Case("solve", {"a": _definite("float64", 2, 4, 4), "b": _array("float64", 4, 3)}, np.linalg.solve),
    Case("solve", {"a": _definite("float64", 2, 4, 4), "b": _B}, np.linalg.solve),
    Case("solve", {"a": _NAN, "b": np.ones(2)}, np.full(2, np.nan)),
    Case("solve", {"a": np.array([[2, 1], [1, 3]]), "b": np.array([1.5, 2], "f4")}, lambda a, b: np.linalg.solve(a, b.astype("float64"))),
    Case("solve", {"a": np.zeros((0, 0)), "b": np.zeros((0, 2))}, np.linalg.solve),
    Case("solve", {"a": np.array([[2.0]]), "b": np.array([3.0])}, [1.5]),
    Case("solve", {"a": _SINGULAR, "b": np.ones(2)}, fails="singular"), _refused("solve", "a", a=_WIDE, b=np.ones(3)),
    _refused("solve", "b", a=np.eye(3), b=np.ones(4)), _refused("solve", "a", a=np.eye(3, dtype="float16"), b=np.ones(3, "float16")),
    *(Case("lstsq", {"a": _array(dtype, 6, 3), "b": _array(dtype, 6, 2)}, _lstsq, precision=1e-3 if dtype in ("complex64", "float32") else None)
      for dtype in _FLOATS),
    Case("lstsq", {"a": _WIDE, "b": _array("float64", 3)}, verify=_shortest),
    Case("lstsq", {"a": _SINGULAR, "b": np.ones(2)}, _lstsq, precision=1e-8), Case("lstsq", {"a": _NAN, "b": np.ones(2)}, fails="lstsq"),
    _refused("lstsq", "b", a=_TALL, b=np.ones(4)), _refused("lstsq", "a", a=np.zeros((0, 3)), b=np.zeros(0)),
    _refused("lstsq", "a", a=np.ones(3), b=np.ones(3)),
    *(Case(name, {"x": _definite(dtype, 5, 5)}, _like(name), precision=1e-4 if dtype in ("complex64", "float32") else None)
      for name in ("inv", "det", "cholesky") for dtype in _FLOATS),
    *(Case(name, {"x": _definite("float64", 3, 2, 2)}, _like(name)) for name in ("inv", "det", "cholesky")),
    *(Case(name, {"x": np.zeros((0, 0))}, _like(name)) for name in ("inv", "det", "cholesky")),
    *(Case(name, {"x": np.array([[4]])}, _like(name)) for name in ("inv", "det", "cholesky")),
    *(_refused(name, "x", x=_WIDE) for name in ("inv", "det", "cholesky", "eigh")), *(_refused(name, "x", x=_B) for name in ("inv", "qr", "svd")),
    *(_refused(name, "x", x=np.eye(2, dtype="float16")) for name in ("inv", "det", "cholesky", "eigh", "qr", "svd")),
    Case("inv", {"x": _SINGULAR}, fails="singular"), Case("det", {"x": _SINGULAR}, np.float64(0), precision=1e-10),
    Case("cholesky", {"x": -np.eye(2)}, fails="positive definite"),
    Case("cholesky", {"x": _definite("float64", 3, 3), "upper": True}, lambda x, upper: np.linalg.cholesky(x).T),
    *(Case("qr", {"x": _array(dtype, 5, 3)}, verify=_qr) for dtype in ("int64", *_FLOATS)),
    *(Case("qr", {"x": _array("float64", *shape)}, verify=_qr) for shape in ((3, 5), (2, 4, 3), (1, 1))),
    Case("qr", {"x": _TALL, "mode": "complete"}, verify=_qr), _refused("qr", "mode", x=_TALL, mode="raw"),
    *(Case("svd", {"x": _array(dtype, 5, 3)}, verify=_svd) for dtype in ("int64", *_FLOATS)),
    *(Case("svd", {"x": _array("float64", *shape)}, verify=_svd) for shape in ((3, 5), (2, 4, 3), (1, 1))),
    Case("svd", {"x": _WIDE, "full_matrices": True}, verify=_svd), Case("svd", {"x": _NAN}, fails="svd"),
    *(Case("eigh", {"x": _definite(dtype, 4, 4)}, verify=_eigh) for dtype in _FLOATS), Case("eigh", {"x": _array("float64", 2, 3, 3)}, verify=_eigh),
    Case("eigh", {"x": _NAN}, fails="NaN"),
]  # fmt: skip
