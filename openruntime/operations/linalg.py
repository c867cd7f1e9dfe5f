"""Linear algebra. Arrays of more than two dimensions are stacks of matrices: `(..., m, n)`.

Booleans and integers become float64 (but in matmul and einsum, which keep integers); float16 is refused where LAPACK has none. NaN goes
through products, equations, inverses and determinants; decompositions refuse it, since libraries differ in what they make of it.
"""

from math import prod
from typing import Any, Literal

from openruntime.contracts.payload import ITEMSIZE
from openruntime.operations.definition import Array, Estimate, InvalidParameter, Namespace, Spec, operation
from openruntime.operations.dtypes import cast, inexact, is_complex, name_of, need, promote, real
from openruntime.operations.numerics import need_finite
from openruntime.operations.shapes import axes_of, broadcast, rank_of, reduced, some
from openruntime.operations.stacking import along, apart, each
from openruntime.operations.subscripts import Subscripts

Order = float | Literal["fro", "nuc", "inf", "-inf"]


def _work(dtype: str, multiplications: float) -> float:
    """Floating-point operations of so many multiply-adds: a complex one is four real ones."""
    return multiplications * (8.0 if is_complex(dtype) else 2.0)


def _common(xp: Namespace, *arrays: Any) -> tuple[Any, ...]:
    dtype = name_of(arrays[0])
    for array in arrays[1:]:
        dtype = promote(dtype, name_of(array))
    return tuple(cast(xp, array, dtype) for array in arrays)


def _inexact(xp: Namespace, *arrays: Any) -> tuple[Any, ...]:
    return tuple(cast(xp, array, inexact(name_of(array))) for array in _common(xp, *arrays))


def _matrix(name: str, spec: Spec, field: str, *, square: bool = False, most: int | None = None, beside: str = "bool") -> str:
    """The dtype to compute in, `beside` another. Raises `InvalidParameter` for what is no (square) matrix of a dtype LAPACK has."""
    rank_of(name, field, spec, 2, most)
    if square and spec.shape[-1] != spec.shape[-2]:
        raise InvalidParameter(f"`{field}` of {name} must be square, and has {spec.shape[-2]} rows and {spec.shape[-1]} columns", field=field)
    dtype = inexact(promote(spec.dtype, beside))
    if ITEMSIZE[dtype] == 2:
        raise InvalidParameter(f"`{field}` of {name} is {dtype}, for which no solver exists; send float32 or float64", field=field)
    return dtype


def _matmul(a: Spec, b: Spec) -> Spec:
    for field, spec in (("a", a), ("b", b)):
        need(spec, field, "matmul", "iufc", "numbers")
        rank_of("matmul", field, spec, 1)
    inner = b.shape[-2] if len(b.shape) > 1 else b.shape[0]
    if a.shape[-1] != inner:
        raise InvalidParameter(
            f"the inner dimensions of matmul differ: `a` of shape {list(a.shape)} has {a.shape[-1]} columns,"
            f" and `b` of shape {list(b.shape)} has {inner} rows; they must be equal",
            field="b",
        )
    stack = broadcast("matmul", [("a", a.shape[:-2]), ("b", b.shape[:-2])])
    return Spec(promote(a.dtype, b.dtype), (*stack, *a.shape[-2:-1], *(b.shape[-1:] if len(b.shape) > 1 else ())))


def _products(a: Spec, b: Spec) -> dict[str, Any]:
    """A vector as the row or column that it counts as: a stack of them would be taken for a matrix."""
    left, right = a.shape if len(a.shape) > 1 else (1, *a.shape), b.shape if len(b.shape) > 1 else (*b.shape, 1)
    rank = max(len(left), len(right))
    return {"a": apart(left, rank), "b": apart(right, rank)}


@operation(check=_matmul, estimate=lambda a, b: Estimate(_work(a.dtype, _matmul(a, b).size * a.shape[-1])), batch=_products)
def matmul(a: Array, b: Array, *, xp: Namespace) -> Array:
    """The matrix product of `a` (..., m, k) and `b` (..., k, n): (..., m, n). A vector counts as a row in `a`, as a column in `b`.

    Integers stay integers and wrap around on overflow. Stacks broadcast. An empty inner dimension gives zeros. NaN spreads along
    its row and column. Raises `invalid_parameter` when the inner dimensions differ.
    """
    a, b = _common(xp, a, b)
    return xp.matmul(a, b)


def _operands(**arrays: Any) -> dict[str, Any]:
    return {name: array for name, array in arrays.items() if array is not None}


def _einsum(subscripts: str, a: Spec, b: Spec | None, c: Spec | None, d: Spec | None) -> Spec:
    operands = _operands(a=a, b=b, c=c, d=d)
    letters = Subscripts(subscripts, operands)
    dtype = a.dtype
    for name, spec in operands.items():
        need(spec, name, "einsum", "iufc", "numbers")
        dtype = promote(dtype, spec.dtype)
    return Spec(dtype, letters.shape)


def _einsum_cost(subscripts: str, a: Spec, b: Spec | None, c: Spec | None, d: Spec | None) -> Estimate:
    letters = Subscripts(subscripts, _operands(a=a, b=b, c=c, d=d))
    return Estimate(_work(a.dtype, float(prod(letters.sizes.values()) * prod(letters.stack))))


@operation(check=_einsum, estimate=_einsum_cost)
def einsum(subscripts: str, a: Array, b: Array | None = None, c: Array | None = None, d: Array | None = None, *, xp: Namespace) -> Array:
    """Sums of products in Einstein's notation over one to four arrays, such as `ij,jk->ik`.

    Letters and one `...` a term, as in NumPy; without `->` the letters that occur once, sorted. Dtypes promote; integers wrap around.
    NaN spreads to the sums it is part of.
    """
    operands = _common(xp, *_operands(a=a, b=b, c=c, d=d).values())
    return xp.einsum(subscripts.replace(" ", ""), *operands)


def _norm(x: Spec, axis: int | tuple[int, ...] | None, ord: Order | None, keepdims: bool) -> Spec:
    axes = axes_of("norm", "axis", axis, x.shape)
    matrix = isinstance(axis, tuple) and len(axis) == 2
    if isinstance(axis, tuple) and len(axis) not in (1, 2):
        raise InvalidParameter(f"`axis` of norm must be one axis (a vector's), two (a matrix's) or null (all), and is {list(axis)}", field="axis")
    if ord == "fro" and not matrix:
        raise InvalidParameter("`ord` of norm is 'fro', which is a matrix's: give two axes in `axis`, or leave both out", field="ord")
    if ord == "nuc" and not matrix:
        raise InvalidParameter("`ord` of norm is 'nuc', which is a matrix's: give two axes in `axis`", field="ord")
    if matrix and ord not in (None, "fro", "nuc", "inf", "-inf", 1, -1, 2, -2):
        raise InvalidParameter(f"`ord` of norm is {ord}; a matrix has 'fro', 'nuc', 1, -1, 2, -2, 'inf', '-inf'", field="ord")
    if matrix and ord in ("nuc", 2, -2):
        _matrix("norm", x, "x")
    if (matrix and ord not in (None, "fro")) or ord in ("inf", "-inf") or (isinstance(ord, int | float) and ord < 0):
        some("norm", "x", x, axes)
    return Spec(real(inexact(x.dtype)), reduced(x.shape, axes, keepdims=keepdims))


@operation(check=_norm, estimate=lambda x, axis, ord, keepdims: Estimate(2.0 * x.size), batch=along())
def norm(x: Array, axis: int | tuple[int, ...] | None = None, ord: Order | None = None, keepdims: bool = False, *, xp: Namespace) -> Array:
    """A vector's norm along one axis, a matrix's along two, or of all numbers as one vector (`axis` null).

    `ord`: 2 by default for vectors (any number, 'inf', '-inf'), 'fro' for matrices (also 'nuc', 1, -1, 2, -2, 'inf', '-inf').
    Real, of the precision of `x`. No numbers have the norm 0, where an order needs none to choose from. NaN gives NaN, but 0 counts it as
    other than zero, and a matrix's 'nuc', 2 and -2 raise `operation_failed` on NaN or infinity.
    """
    (x,) = _inexact(xp, x)
    order = float(ord) if ord in ("inf", "-inf") else ord
    if not isinstance(axis, tuple) or len(axis) == 1:
        return xp.linalg.vector_norm(x, axis=axis, keepdims=keepdims, ord=2 if order is None else order)
    rows, columns = (one % x.ndim for one in axis)
    others = [i for i in range(x.ndim) if i not in (rows, columns)]
    if order in ("nuc", 2, -2):
        need_finite(xp, x, "x", "norm")
    found = xp.linalg.matrix_norm(xp.permute_dims(x, (*others, rows, columns)), ord="fro" if order is None else order)
    return xp.reshape(found, reduced(x.shape, (rows, columns), keepdims=True)) if keepdims else found


def _solve(a: Spec, b: Spec) -> Spec:
    dtype = _matrix("solve", a, "a", square=True, beside=b.dtype)
    rank_of("solve", "b", b, 1)
    size = a.shape[-1]
    rows = b.shape[0] if len(b.shape) == 1 else b.shape[-2]
    if rows != size:
        raise InvalidParameter(f"`b` of solve has shape {list(b.shape)}, and needs {size} rows, as many as `a` has", field="b")
    if len(b.shape) == 1:
        return Spec(dtype, (*a.shape[:-2], size))
    return Spec(dtype, (*broadcast("solve", [("a", a.shape[:-2]), ("b", b.shape[:-2])]), size, b.shape[-1]))


def _solve_cost(a: Spec, b: Spec) -> Estimate:
    n, stack = a.shape[-1], prod(a.shape[:-2])
    return Estimate(_work(a.dtype, stack * n**3 / 3 + _solve(a, b).size * n), memory=2 * a.nbytes + 2 * b.nbytes + _solve(a, b).nbytes)


def _equations(a: Spec, b: Spec) -> dict[str, Any]:
    right = b.shape if len(b.shape) > 1 else (*b.shape, 1)
    rank = max(len(a.shape), len(right))
    return {"a": apart(a.shape, rank), "b": apart(right, rank)}


@operation(check=_solve, estimate=_solve_cost, batch=_equations)
def solve(a: Array, b: Array, *, xp: Namespace) -> Array:
    """The `x` with `a @ x = b`, by LU with partial pivoting. `a` (..., n, n); `b` (n,) or (..., n, k), and `x` alike.

    NaN gives NaN, at least where the answer depends on it. Raises `operation_failed` when `a` is singular: lstsq answers then.
    """
    a, b = _inexact(xp, a, b)
    return xp.linalg.solve(a, b)


def _lstsq(a: Spec, b: Spec, rcond: float | None) -> dict[str, Spec]:
    dtype = _matrix("lstsq", a, "a", most=2, beside=b.dtype)
    rank_of("lstsq", "b", b, 1, 2)
    some("lstsq", "a", a, (0, 1))
    rows, columns = a.shape
    if b.shape[0] != rows:
        raise InvalidParameter(f"`b` of lstsq has shape {list(b.shape)}, and needs {rows} rows, as many as `a` has", field="b")
    return {
        "solution": Spec(dtype, (columns, *b.shape[1:])),
        "residuals": Spec(real(dtype), b.shape[1:]),
        "rank": Spec("int64", ()),
        "singular_values": Spec(real(dtype), (min(rows, columns),)),
    }


def _svd_work(spec: Spec) -> float:
    m, n = max(spec.shape[-2:]), min(spec.shape[-2:])
    return _work(spec.dtype, prod(spec.shape[:-2]) * (2.0 * m * n * n + 11.0 * n**3))  # Golub and Van Loan, 4th ed., figure 8.6.1


@operation(
    check=_lstsq,
    estimate=lambda a, b, rcond: Estimate(_svd_work(a), memory=4 * a.nbytes + 3 * b.nbytes),
    outputs=("solution", "residuals", "rank", "singular_values"),
    version=2,
)
def lstsq(a: Array, b: Array, rcond: float | None = None, *, xp: Namespace) -> dict[str, Array]:
    """The shortest `x` that makes `|a @ x - b|` least, by the singular values of `a`. `a` (m, n), `b` (m,) or (m, k).

    Outputs: `solution` (n,) or (n, k); `residuals`, the squared length of `a @ x - b` for each column (always given); `rank` and
    `singular_values` of `a`. Singular values up to `rcond` times the largest count as 0; by default the precision times max(m, n).
    Source: Golub and Van Loan, Matrix Computations, 4th edition, section 5.5. Raises `operation_failed` on NaN or infinity.
    """
    a, b = _inexact(xp, a, b)
    for field, array in (("a", a), ("b", b)):
        need_finite(xp, array, field, "lstsq")
    u, s, vh = xp.linalg.svd(a, full_matrices=False)
    limit = xp.max(s) * (xp.finfo(s.dtype).eps * max(a.shape) if rcond is None else rcond)
    kept = s > limit
    inverse = xp.where(kept, 1 / xp.where(kept, s, xp.ones_like(s)), xp.zeros_like(s))
    right = b if b.ndim == 2 else xp.reshape(b, (-1, 1))
    solution = xp.matmul(xp.conj(vh.T), xp.reshape(inverse, (-1, 1)) * xp.matmul(xp.conj(u.T), right))
    gap = xp.abs(xp.matmul(a, solution) - right)
    residuals = xp.sum(gap * gap, axis=0)
    return {
        "solution": xp.reshape(solution, (a.shape[1], *b.shape[1:])),
        "residuals": xp.reshape(residuals, b.shape[1:]),
        "rank": xp.sum(xp.astype(kept, xp.int64)),
        "singular_values": s,
    }


def _square(name: str) -> Any:
    return lambda x: Spec(_matrix(name, x, "x", square=True), x.shape)


def _cubic(factor: float) -> Any:
    """A cost of `factor` n³ multiply-adds, on copies."""
    return lambda x, **_: Estimate(_work(x.dtype, factor * x.size * x.shape[-1]), memory=4 * x.size * ITEMSIZE[inexact(x.dtype)])


@operation(check=_square("inv"), estimate=_cubic(1.0), batch=each)
def inv(x: Array, *, xp: Namespace) -> Array:
    """The inverse of each square matrix of `x` (..., n, n). To solve equations, `solve` is faster and more exact.

    NaN gives NaN, at least where the answer depends on it. Raises `operation_failed` when a matrix is singular.
    """
    return xp.linalg.inv(*_inexact(xp, x))


@operation(check=lambda x: Spec(_matrix("det", x, "x", square=True), x.shape[:-2]), estimate=_cubic(1 / 3), version=2, batch=each)
def det(x: Array, *, xp: Namespace) -> Array:
    """The determinant of each square matrix of `x` (..., n, n), by LU. 0 for a singular one, 1 for one of no rows; NaN gives NaN."""
    (x,) = _inexact(xp, x)
    found = xp.linalg.det(x)  # 0 at the first pivot that is, whatever stands after it
    return xp.where(xp.any(xp.isnan(x), axis=(-2, -1)), xp.full_like(found, float("nan")), found)


@operation(check=lambda x, upper: Spec(_matrix("cholesky", x, "x", square=True), x.shape), estimate=_cubic(1 / 6), version=2, batch=each)
def cholesky(x: Array, upper: bool = False, *, xp: Namespace) -> Array:
    """The lower triangular L with `L @ Lᴴ = x` for each symmetric (Hermitian) positive definite matrix of `x` (..., n, n), or U = Lᴴ.

    Reads the lower triangle only, with `upper` too. Raises `operation_failed` when a matrix is not positive definite, and on NaN or
    infinity in that triangle.
    """
    (x,) = _inexact(xp, x)
    need_finite(xp, xp.tril(x), "x", "cholesky")
    lower = xp.linalg.cholesky(x)
    return xp.conj(xp.matrix_transpose(lower)) if upper else lower


def _qr(x: Spec, mode: str) -> dict[str, Spec]:
    dtype = _matrix("qr", x, "x")
    *stack, m, n = x.shape
    k = m if mode == "complete" else min(m, n)
    return {"q": Spec(dtype, (*stack, m, k)), "r": Spec(dtype, (*stack, k, n))}


@operation(check=_qr, estimate=lambda x, mode: Estimate(_work(x.dtype, 2.0 * x.size * min(x.shape[-2:]))), outputs=("q", "r"), version=2, batch=each)
def qr(x: Array, mode: Literal["reduced", "complete"] = "reduced", *, xp: Namespace) -> dict[str, Array]:
    """`q` with orthonormal columns and upper triangular `r`, with `q @ r = x` (..., m, n), by Householder reflections.

    `q` is (..., m, k) and `r` (..., k, n), where k is min(m, n), with `complete` m. The signs of r's rows are the library's.
    Raises `operation_failed` on NaN or infinity.
    """
    (x,) = _inexact(xp, x)
    need_finite(xp, x, "x", "qr")
    q, r = xp.linalg.qr(x, mode=mode)
    return {"q": q, "r": r}


def _svd(x: Spec, full_matrices: bool) -> dict[str, Spec]:
    dtype = _matrix("svd", x, "x")
    *stack, m, n = x.shape
    k = min(m, n)
    u, vh = (m, n) if full_matrices else (k, k)
    return {"u": Spec(dtype, (*stack, m, u)), "s": Spec(real(dtype), (*stack, k)), "vh": Spec(dtype, (*stack, vh, n))}


@operation(
    check=_svd,
    estimate=lambda x, full_matrices: Estimate(_svd_work(x), memory=x.nbytes * 2 + 2 * sum(s.nbytes for s in _svd(x, full_matrices).values())),
    outputs=("u", "s", "vh"),
    batch=each,
)
def svd(x: Array, full_matrices: bool = False, *, xp: Namespace) -> dict[str, Array]:
    """`u`, `s`, `vh` with `u @ diag(s) @ vh = x` (..., m, n); `s` (..., k) falls, k = min(m, n). Signs of u and vh are the library's.

    `u` is (..., m, k) and `vh` (..., k, n); with `full_matrices` (..., m, m) and (..., n, n). Raises `operation_failed` on NaN
    or infinity.
    """
    (x,) = _inexact(xp, x)
    need_finite(xp, x, "x", "svd")
    u, s, vh = xp.linalg.svd(x, full_matrices=full_matrices)
    return {"u": u, "s": s, "vh": vh}


def _eigh(x: Spec) -> dict[str, Spec]:
    dtype = _matrix("eigh", x, "x", square=True)
    return {"eigenvalues": Spec(real(dtype), x.shape[:-1]), "eigenvectors": Spec(dtype, x.shape)}


@operation(check=_eigh, estimate=_cubic(4.5), outputs=("eigenvalues", "eigenvectors"), batch=each)
def eigh(x: Array, *, xp: Namespace) -> dict[str, Array]:
    """Rising `eigenvalues` (..., n) and orthonormal `eigenvectors` (..., n, n), in columns, of symmetric (Hermitian) matrices `x`.

    Reads the lower triangle only. Signs of the vectors are the library's. Raises `operation_failed` on NaN or infinity.
    """
    (x,) = _inexact(xp, x)
    need_finite(xp, x, "x", "eigh")
    values, vectors = xp.linalg.eigh(x)
    return {"eigenvalues": values, "eigenvectors": vectors}
