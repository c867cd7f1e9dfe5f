# Made by `python -m openruntime.cli.stubs` from the operation catalogue; change that, not this.
# ruff: noqa: E501, RUF100
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy.typing as npt

from openruntime.client.arrays import Outputs, Referable

Input = npt.ArrayLike | Referable
Cache = Literal["no-store", "no-cache"] | None

def check_names(operation: str, schema: Mapping[str, Any], given: Iterable[str], options: Iterable[str]) -> None: ...
def unknown(name: str, known: Mapping[str, Any]) -> AttributeError: ...
def arguments(operation: str, schema: Mapping[str, Any], positional: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Any]: ...

class Operations:
    def __getattr__(self, name: str) -> Callable[..., Any]: ...

    def expression(
        self, formula: str, *, priority: int = ..., device: str | None = ..., timeout: float | None = ..., max_retries: int = ...,
        tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ..., **arrays: Input,
    ) -> Any:
        """An elementwise formula over named arrays, such as `a*x + sin(y)**2`, computed in one pass where the backend can.

        Every other parameter is an array or a bare number of the formula. Arrays broadcast, and dtypes promote, as in NumPy 2: numbers
        written in the formula or given bare decide the kind of the result and never its width (a float32 array times 2.5 is float32),
        and so do expressions of numbers alone.

        Operators: + - * / // % ** on numbers, < <= > >= == != (chained too), & | ^ ~ on booleans and integers, << >> on integers.
        Functions: the elementwise ones of the Array API standard 2024.12 (abs, acos, ..., where), by position. Constants: pi, e, inf, nan.

        NaN and infinities follow IEEE 754. Integers wrap around on overflow; an integer divided by zero with // or % is 0; an integer
        number must fit the dtype it meets. Shape: the arrays' common shape.

        Raises `invalid_parameter` for anything but such a formula, for unknown and unused names, for more than 4,000 characters or 150
        levels of nesting; `operation_failed` for negative integer powers of integer arrays.
        """

    def matmul(
        self, a: Input, b: Input, *, priority: int = ..., device: str | None = ..., timeout: float | None = ..., max_retries: int = ...,
        tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """The matrix product of `a` (..., m, k) and `b` (..., k, n): (..., m, n). A vector counts as a row in `a`, as a column in `b`.

        Integers stay integers and wrap around on overflow. Stacks broadcast. An empty inner dimension gives zeros. NaN spreads along
        its row and column. Raises `invalid_parameter` when the inner dimensions differ.
        """

    def einsum(
        self, subscripts: str, a: Input, b: Input | None = None, c: Input | None = None, d: Input | None = None, *, priority: int = ...,
        device: str | None = ..., timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ...,
        traceparent: str | None = ...,
    ) -> Any:
        """Sums of products in Einstein's notation over one to four arrays, such as `ij,jk->ik`.

        Letters and one `...` a term, as in NumPy; without `->` the letters that occur once, sorted. Dtypes promote; integers wrap around.
        NaN spreads to the sums it is part of.
        """

    def norm(
        self, x: Input, axis: int | Iterable[int] | None = None, ord: float | Literal["-inf", "fro", "inf", "nuc"] | None = None,
        keepdims: bool = False, *, priority: int = ..., device: str | None = ..., timeout: float | None = ..., max_retries: int = ...,
        tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """A vector's norm along one axis, a matrix's along two, or of all numbers as one vector (`axis` null).

        `ord`: 2 by default for vectors (any number, 'inf', '-inf'), 'fro' for matrices (also 'nuc', 1, -1, 2, -2, 'inf', '-inf').
        Real, of the precision of `x`. No numbers have the norm 0, where an order needs none to choose from. NaN gives NaN, but 0 counts it as
        other than zero, and a matrix's 'nuc', 2 and -2 raise `operation_failed` on NaN or infinity.
        """

    def solve(
        self, a: Input, b: Input, *, priority: int = ..., device: str | None = ..., timeout: float | None = ..., max_retries: int = ...,
        tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """The `x` with `a @ x = b`, by LU with partial pivoting. `a` (..., n, n); `b` (n,) or (..., n, k), and `x` alike.

        NaN gives NaN, at least where the answer depends on it. Raises `operation_failed` when `a` is singular: lstsq answers then.
        """

    def lstsq(
        self, a: Input, b: Input, rcond: float | None = None, *, priority: int = ..., device: str | None = ..., timeout: float | None = ...,
        max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Outputs:
        """The shortest `x` that makes `|a @ x - b|` least, by the singular values of `a`. `a` (m, n), `b` (m,) or (m, k).

        Outputs: `solution` (n,) or (n, k); `residuals`, the squared length of `a @ x - b` for each column (always given); `rank` and
        `singular_values` of `a`. Singular values up to `rcond` times the largest count as 0; by default the precision times max(m, n).
        Source: Golub and Van Loan, Matrix Computations, 4th edition, section 5.5. Raises `operation_failed` on NaN or infinity.
        """

    def inv(
        self, x: Input, *, priority: int = ..., device: str | None = ..., timeout: float | None = ..., max_retries: int = ...,
        tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """The inverse of each square matrix of `x` (..., n, n). To solve equations, `solve` is faster and more exact.

        NaN gives NaN, at least where the answer depends on it. Raises `operation_failed` when a matrix is singular.
        """

    def det(
        self, x: Input, *, priority: int = ..., device: str | None = ..., timeout: float | None = ..., max_retries: int = ...,
        tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """The determinant of each square matrix of `x` (..., n, n), by LU. 0 for a singular one, 1 for one of no rows; NaN gives NaN."""

    def cholesky(
        self, x: Input, upper: bool = False, *, priority: int = ..., device: str | None = ..., timeout: float | None = ...,
        max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """The lower triangular L with `L @ Lᴴ = x` for each symmetric (Hermitian) positive definite matrix of `x` (..., n, n), or U = Lᴴ.

        Reads the lower triangle only, with `upper` too. Raises `operation_failed` when a matrix is not positive definite, and on NaN or
        infinity in that triangle.
        """

    def qr(
        self, x: Input, mode: Literal["complete", "reduced"] = 'reduced', *, priority: int = ..., device: str | None = ...,
        timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Outputs:
        """`q` with orthonormal columns and upper triangular `r`, with `q @ r = x` (..., m, n), by Householder reflections.

        `q` is (..., m, k) and `r` (..., k, n), where k is min(m, n), with `complete` m. The signs of r's rows are the library's.
        Raises `operation_failed` on NaN or infinity.
        """

    def svd(
        self, x: Input, full_matrices: bool = False, *, priority: int = ..., device: str | None = ..., timeout: float | None = ...,
        max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Outputs:
        """`u`, `s`, `vh` with `u @ diag(s) @ vh = x` (..., m, n); `s` (..., k) falls, k = min(m, n). Signs of u and vh are the library's.

        `u` is (..., m, k) and `vh` (..., k, n); with `full_matrices` (..., m, m) and (..., n, n). Raises `operation_failed` on NaN
        or infinity.
        """

    def eigh(
        self, x: Input, *, priority: int = ..., device: str | None = ..., timeout: float | None = ..., max_retries: int = ...,
        tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Outputs:
        """Rising `eigenvalues` (..., n) and orthonormal `eigenvectors` (..., n, n), in columns, of symmetric (Hermitian) matrices `x`.

        Reads the lower triangle only. Signs of the vectors are the library's. Raises `operation_failed` on NaN or infinity.
        """

    def fft(
        self, x: Input, n: int | None = None, axis: int = -1, norm: Literal["backward", "forward", "ortho"] = 'backward', *, priority: int = ...,
        device: str | None = ..., timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ...,
        traceparent: str | None = ...,
    ) -> Any:
        """The discrete Fourier transform of `x` along `axis`: X[k] = sum of x[j] exp(-2πi jk/n). Complex, shape of `x` with `n` along `axis`.

        `n` cuts `x`, or pads it with zeros. `norm` says which direction is divided: `backward` the inverse by n, `forward` this one by n,
        `ortho` both by sqrt(n). At least one element is needed. NaN or infinity spreads over its whole transform.
        Source: Cooley and Tukey, 1965; Bluestein, 1970, for lengths with large primes.
        """

    def ifft(
        self, x: Input, n: int | None = None, axis: int = -1, norm: Literal["backward", "forward", "ortho"] = 'backward', *, priority: int = ...,
        device: str | None = ..., timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ...,
        traceparent: str | None = ...,
    ) -> Any:
        """The inverse of `fft`: x[j] = (1/n) sum of X[k] exp(+2πi jk/n). Parameters, shape and NaN as there."""

    def rfft(
        self, x: Input, n: int | None = None, axis: int = -1, norm: Literal["backward", "forward", "ortho"] = 'backward', *, priority: int = ...,
        device: str | None = ..., timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ...,
        traceparent: str | None = ...,
    ) -> Any:
        """`fft` of real numbers, without the half that follows by symmetry: n // 2 + 1 along `axis`. Complex input is refused. NaN as in `fft`."""

    def irfft(
        self, x: Input, n: int | None = None, axis: int = -1, norm: Literal["backward", "forward", "ortho"] = 'backward', *, priority: int = ...,
        device: str | None = ..., timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ...,
        traceparent: str | None = ...,
    ) -> Any:
        """The inverse of `rfft`: real, with `n` elements along `axis`, by default 2 (m - 1) of m. Give `n` to get an odd length back.

        Imaginary parts that a real signal cannot have (of the first element, and of the last when n is even) are ignored. NaN gives NaN
        wherever its sine or cosine is not 0.
        """

    def fft2(
        self, x: Input, shape: Iterable[int] | None = None, axes: Iterable[int] = (-2, -1),
        norm: Literal["backward", "forward", "ortho"] = 'backward', *, priority: int = ..., device: str | None = ..., timeout: float | None = ...,
        max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """The Fourier transform over two axes, such as an image's. `shape` cuts or pads them (two lengths). NaN and all else as in `fft`."""

    def ifft2(
        self, x: Input, shape: Iterable[int] | None = None, axes: Iterable[int] = (-2, -1),
        norm: Literal["backward", "forward", "ortho"] = 'backward', *, priority: int = ..., device: str | None = ..., timeout: float | None = ...,
        max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """The inverse of `fft2`. NaN as there."""

    def convolve(
        self, a: Input, b: Input, mode: Literal["full", "same", "valid"] = 'full', *, priority: int = ..., device: str | None = ...,
        timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """The discrete convolution of two arrays of any, equal rank: out[k] = sum of a[j] b[k - j], zeros beyond the edges.

        `full` has m + n - 1 elements an axis, `same` the middle of it in the shape of `a`, `valid` only what needs no zeros beyond the
        edges. Booleans and integers give float64. Up to 32 elements of the smaller array are summed directly, and NaN makes its own sums NaN;
        beyond, Fourier transforms are multiplied: exact to rounding relative to the largest output, and one NaN makes every output NaN.
        """

    def sum(
        self, x: Input, axis: int | Iterable[int] | None = None, keepdims: bool = False, *, priority: int = ..., device: str | None = ...,
        timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """The sum along `axis`. NaN gives NaN, no numbers give 0.

        Booleans and integers are summed in 64 bits and wrap around beyond; other dtypes keep theirs.
        """

    def mean(
        self, x: Input, axis: int | Iterable[int] | None = None, keepdims: bool = False, *, priority: int = ..., device: str | None = ...,
        timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """The arithmetic mean along `axis`. Booleans and integers give float64. NaN gives NaN, and so do no numbers."""

    def std(
        self, x: Input, axis: int | Iterable[int] | None = None, correction: float = 0.0, keepdims: bool = False, *, priority: int = ...,
        device: str | None = ..., timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ...,
        traceparent: str | None = ...,
    ) -> Any:
        """The standard deviation along `axis`: the root of `var`, with the same parameters. NaN gives NaN."""

    def var(
        self, x: Input, axis: int | Iterable[int] | None = None, correction: float = 0.0, keepdims: bool = False, *, priority: int = ...,
        device: str | None = ..., timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ...,
        traceparent: str | None = ...,
    ) -> Any:
        """The mean squared distance from the mean along `axis`, divided by n - `correction` (1: the unbiased estimate of a sample).

        Computed in two passes. Booleans and integers give float64. NaN gives NaN, and so does an n not above `correction`.
        """

    def min(
        self, x: Input, axis: int | Iterable[int] | None = None, keepdims: bool = False, *, priority: int = ..., device: str | None = ...,
        timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """The smallest number along `axis`. NaN gives NaN."""

    def max(
        self, x: Input, axis: int | Iterable[int] | None = None, keepdims: bool = False, *, priority: int = ..., device: str | None = ...,
        timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """The largest number along `axis`. NaN gives NaN."""

    def argmin(
        self, x: Input, axis: int | None = None, keepdims: bool = False, *, priority: int = ..., device: str | None = ...,
        timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """Where the smallest number along `axis` stands first, as int64; with `axis` null in `x` flattened. NaN counts as the smallest."""

    def argmax(
        self, x: Input, axis: int | None = None, keepdims: bool = False, *, priority: int = ..., device: str | None = ...,
        timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """Where the largest number along `axis` stands first, as int64; with `axis` null in `x` flattened. NaN counts as the largest."""

    def quantile(
        self, x: Input, q: Input, axis: int | Iterable[int] | None = None, keepdims: bool = False, *, priority: int = ...,
        device: str | None = ..., timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ...,
        traceparent: str | None = ...,
    ) -> Any:
        """The value below which the share `q` (0 to 1) of the numbers along `axis` lies, interpolated linearly between neighbours.

        A list `q` adds a first axis. Booleans and integers give float64. Any NaN along `axis` gives NaN. Source: Hyndman and Fan, 1996,
        definition 7. Raises `invalid_parameter` for a number `q` out of range, `operation_failed` for one in a list.
        """

    def histogram(
        self, x: Input, bins: int = 10, range: Iterable[float] | None = None, *, priority: int = ..., device: str | None = ...,
        timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Outputs:
        """How many numbers of `x` fall into each of `bins` equal intervals of `range`, by default from the smallest to the largest.

        Outputs: `counts` (bins,) int64 and `edges` (bins + 1,) float64. An interval holds its left edge, the last its right one too. Numbers
        outside `range`, NaN among them, are not counted. A range of no width is widened by 0.5 both ways; no numbers have the range 0 to 1.
        Raises `operation_failed` without `range` when `x` holds NaN or infinity.
        """

    def cumulative_sum(
        self, x: Input, axis: int | None = None, include_initial: bool = False, *, priority: int = ..., device: str | None = ...,
        timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """The running sum along `axis`, which may be left out for one dimension; with a 0 before it if `include_initial`. Dtypes as `sum`.

        NaN makes NaN of what follows it.
        """

    def sort(
        self, x: Input, axis: int = -1, descending: bool = False, *, priority: int = ..., device: str | None = ..., timeout: float | None = ...,
        max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """`x` sorted along `axis`. Shape and dtype of `x`. NaN stands last, with `descending` first."""

    def argsort(
        self, x: Input, axis: int = -1, descending: bool = False, *, priority: int = ..., device: str | None = ..., timeout: float | None = ...,
        max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """The int64 indices that sort `x` along `axis`; equal numbers keep their order, in both directions. NaN as in `sort`."""

    def top_k(
        self, x: Input, k: int, axis: int = -1, largest: bool = True, *, priority: int = ..., device: str | None = ...,
        timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Outputs:
        """The `k` largest (or smallest) numbers along `axis`, best first: `values`, and their int64 `indices`; the earlier of equals first.

        NaN counts as larger than any number.
        """

    def unique(
        self, x: Input, *, priority: int = ..., device: str | None = ..., timeout: float | None = ..., max_retries: int = ...,
        tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Outputs:
        """The distinct numbers of `x`, rising, as `values`, and how often each occurs as int64 `counts`.

        NaN is equal to none, so that each stands alone, at the end.
        """

    def concat(
        self, arrays: Sequence[Input], axis: int | None = 0, *, priority: int = ..., device: str | None = ..., timeout: float | None = ...,
        max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """The arrays one behind the other along `axis`; with `axis` null each is flattened first. Dtypes promote; other axes must be alike.

        NaN stays where it is.
        """

    def stack(
        self, arrays: Sequence[Input], axis: int = 0, *, priority: int = ..., device: str | None = ..., timeout: float | None = ...,
        max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """The arrays beside each other along a new axis, which becomes `axis` of the output. All of one shape; dtypes promote. NaN stays NaN."""

    def uniform(
        self, shape: Iterable[int], seed: int, low: float = 0.0, high: float = 1.0, dtype: Literal["float32", "float64"] = 'float64', *,
        priority: int = ..., device: str | None = ..., timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ...,
        cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """Numbers drawn evenly from [`low`, `high`), in `shape`. A seed gives the same numbers on every backend.

        `low + (high - low) u`, u of 53 bits (float64) or 24 (float32); rounding may give `high` itself where it is far from 0.
        """

    def normal(
        self, shape: Iterable[int], seed: int, mean: float = 0.0, std: float = 1.0, dtype: Literal["float32", "float64"] = 'float64', *,
        priority: int = ..., device: str | None = ..., timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ...,
        cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """Numbers from the normal distribution of this mean and standard deviation, in `shape`.

        A seed gives the same numbers on every backend, to the rounding of its log, sin and cos. Source: Box and Muller, 1958.
        """

    def integers(
        self, shape: Iterable[int], seed: int, high: int, low: int = 0,
        dtype: Literal["int16", "int32", "int64", "int8", "uint16", "uint32", "uint64", "uint8"] = 'int64', *, priority: int = ...,
        device: str | None = ..., timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ...,
        traceparent: str | None = ...,
    ) -> Any:
        """Integers drawn evenly from `low` to `high` - 1, in `shape`. A seed gives the same numbers on every backend.

        Each takes 128 random bits w and is floor(w (high - low) / 2¹²⁸) + low: without a modulo, no value is likelier than another by
        more than one part in 2⁶⁴. Source of the multiplication: Lemire, "Fast random integer generation in an interval", 2019.
        """

    def linear(
        self, x: Input, weight: Input, bias: Input | None = None, *, priority: int = ..., device: str | None = ..., timeout: float | None = ...,
        max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """`x @ weight.T + bias`: (..., outputs), in the arrays' common floating dtype.

        x: (..., inputs). weight: (outputs, inputs). bias: (outputs,) or absent. With no inputs the answer is the bias, or zeros.
        NaN makes its row of the answer NaN (in `x`), or its column (in `weight` or `bias`).
        """

    def conv2d(
        self, x: Input, weight: Input, bias: Input | None = None, stride: int | Iterable[int] = 1, padding: int | Iterable[int] = 0,
        dilation: int | Iterable[int] = 1, groups: int = 1, *, priority: int = ..., device: str | None = ..., timeout: float | None = ...,
        max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """Cross-correlation of images with kernels, what neural networks call convolution: (images, outputs, height, width).

        x: (images, channels, height, width). weight: (outputs, channels / groups, height, width). bias: (outputs,) or absent. `stride`,
        `padding` (with zeros, on both sides) and `dilation` in pixels, one number or [vertical, horizontal]. In the arrays' common
        floating dtype. No images give an empty answer; no channels give the bias. NaN makes every output NaN whose window holds it, its
        weight zero or not; in `weight` or `bias` its whole channel.
        Source: Chellapilla, Puri and Simard, High performance convolutional neural networks for document processing, 2006 (im2col).
        """

    def softmax(
        self, x: Input, axis: int = -1, *, priority: int = ..., device: str | None = ..., timeout: float | None = ..., max_retries: int = ...,
        tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """Exponentials of `x`, scaled to sum to 1 along `axis`; shape of `x`, its floating dtype.

        Where a line holds NaN, +inf, or nothing but -inf, it is NaN (as in SciPy). An empty `x` gives an empty answer.
        """

    def layer_norm(
        self, x: Input, weight: Input | None = None, bias: Input | None = None, axis: int = -1, epsilon: float = 1e-05, *, priority: int = ...,
        device: str | None = ..., timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ...,
        traceparent: str | None = ...,
    ) -> Any:
        """`(x - mean) / sqrt(variance + epsilon) * weight + bias`, mean and variance over `axis` and all axes after it; shape of `x`.

        weight, bias: `x.shape[axis:]`, or absent. In the arrays' common floating dtype. NaN makes its own features NaN. An empty `x`
        gives an empty answer.
        Source: Ba, Kiros and Hinton, Layer normalization, arXiv:1607.06450; axes as in ONNX's LayerNormalization.
        """

    def attention(
        self, q: Input, k: Input, v: Input, mask: Input | None = None, causal: bool = False, scale: float | None = None, *, priority: int = ...,
        device: str | None = ..., timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ...,
        traceparent: str | None = ...,
    ) -> Any:
        """Scaled dot-product attention, `softmax(scale * q @ k.T + mask) @ v`: (..., n, e), in the common floating dtype of q, k, v.

        q: (..., n, d). k: (..., m, d). v: (..., m, e). Leading axes (batch, heads) broadcast. mask: broadcasts to (..., n, m); booleans say
        which keys a query may attend to, floating numbers are added to the scores. `causal`: query i attends to the keys 0 to i only.
        `scale`: 1 / sqrt(d) unless given. A query that may attend to no key gives zeros. NaN in `q` makes its query's row NaN, in
        `k` the rows of the queries that may attend to it, in `v` its column. Scores are worked through in blocks, so that memory does not
        grow with n times m.
        Source: Vaswani et al., Attention is all you need, arXiv:1706.03762.
        """

    def kmeans(
        self, x: Input, k: int, seed: int = 0, iterations: int = 300, tolerance: float = 0.0001, *, priority: int = ..., device: str | None = ...,
        timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Outputs:
        """Rows in `k` clusters, so that the squared distances to the clusters' means are small.

        x: (n, d), n at least k. Answers centroids (k, d), labels (n,) int64, inertia (): the sum of the squared distances. Ends after
        `iterations`, when no label changes, or when the centroids' squared movement is at most `tolerance` times the columns' mean
        variance. Equal seeds start from equal chances. Raises `OperationFailed` for NaN or infinity.
        Source: Lloyd, Least squares quantization in PCM, 1982; k-means++ of Arthur and Vassilvitskii, 2007.
        """

    def knn(
        self, x: Input, queries: Input, k: int, *, priority: int = ..., device: str | None = ..., timeout: float | None = ...,
        max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Outputs:
        """The `k` rows of `x` nearest to each query, nearest first, by Euclidean distance.

        x: (n, d), n at least k. queries: (m, d). Answers indices (m, k) int64 and distances (m, k) in the common floating dtype. Equal
        distances are in the order of their indices; which of them make the last place is open. Worked through in blocks of queries.
        Raises `OperationFailed` for NaN or infinity. No queries give empty answers.
        """

    def pca(
        self, x: Input, components: int, *, priority: int = ..., device: str | None = ..., timeout: float | None = ..., max_retries: int = ...,
        tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Outputs:
        """The directions in which rows vary most, by the singular value decomposition of the centred rows.

        x: (n, d), n at least 2. Answers components (components, d), orthonormal rows by falling variance; explained_variance
        (components,), with n - 1 in the denominator; mean (d,); projected (n, components), the centred rows in the new axes. A component's
        largest element by magnitude is positive, so that signs are the same everywhere (as scikit-learn does).
        Raises `OperationFailed` for NaN or infinity.
        Source: Jolliffe, Principal component analysis, 2nd edition, 2002, section 3.5.
        """

    def gaussian_blur(
        self, image: Input, sigma: float = 1.0, *, priority: int = ..., device: str | None = ..., timeout: float | None = ...,
        max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """`image` convolved with a Gaussian of `sigma` pixels along both axes; shape and dtype of `image`.

        image: (h, w) or (h, w, c). The kernel ends at 4 sigma and edges are mirrored, as `scipy.ndimage.gaussian_filter` does by default.
        Opacity is blurred like a colour, so that the rim of what is cut out becomes soft. A pixel whose window holds NaN or infinity is NaN.
        """

    def sharpen(
        self, image: Input, amount: float = 1.0, sigma: float = 1.0, *, priority: int = ..., device: str | None = ...,
        timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """Unsharp masking: `image + amount * (image - gaussian_blur(image, sigma))`; shape and dtype of `image`.

        image: (h, w) or (h, w, c). `sigma` in pixels. Integer pixels are clipped to their range, floating ones are not.
        A pixel whose window holds NaN or infinity is NaN.
        The opacity of uint8 and uint16 images of four channels stays as it is.
        Source: Gonzalez and Woods, Digital Image Processing, section 3.6 (highboost filtering).
        """

    def resize(
        self, image: Input, height: int, width: int, method: Literal["area", "bilinear", "nearest"] = 'bilinear', antialias: bool = True, *,
        priority: int = ..., device: str | None = ..., timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ...,
        cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """`image` resampled to `height` by `width` pixels; (height, width) or (height, width, c), dtype of `image`.

        Pixel centres lie at half integers. `bilinear`: a triangle, widened when shrinking unless `antialias` is false (as Pillow does).
        `area`: the mean over the part of the source that a target pixel covers. `nearest`: the pixel under the target's centre.
        An axis that keeps its size is left as it is. A pixel that NaN or infinity has a part in is not finite.
        Source: Turkowski, Filters for common resampling tasks, Graphics Gems I, 1990.
        """

    def sobel(
        self, image: Input, *, priority: int = ..., device: str | None = ..., timeout: float | None = ..., max_retries: int = ...,
        tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """Edge strength: the gradient's magnitude by Sobel's kernels, `sqrt((x**2 + y**2) / 2)`; shape and dtype of `image`.

        image: (h, w) or (h, w, c), each channel by itself; the opacity of uint8 and uint16 images of four channels stays as it is. The
        kernels are [1, 2, 1] / 4 and [-1, 0, 1], so that the result stays within the range that the pixels span (scikit-image's scale).
        Edges are mirrored. A pixel beside NaN or infinity, diagonally too, is not finite; its own value does not count.
        Source: Sobel and Feldman, An isotropic 3x3 image gradient operator, 1968.
        """

    def heat2d(
        self, grid: Input, iterations: int = 100, alpha: float = 1.0, dt: float = 0.2, spacing: float = 1.0,
        boundary: Literal["fixed", "insulated", "periodic"] = 'fixed', *, priority: int = ..., device: str | None = ...,
        timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """Temperatures after `iterations` steps of the heat equation, du/dt = alpha (d²u/dx² + d²u/dy²); shape of `grid`.

        grid: (h, w), any unit of temperature. alpha: thermal diffusivity, m²/s. dt: seconds a step. spacing: metres between cells.
        boundary: `fixed` keeps the outermost cells as they are, `insulated` lets no heat through the rim, `periodic` joins opposite
        edges. Explicit finite differences (forward in time, centred in space), refused unless alpha dt / spacing² is at most 1/4, where
        they are stable. NaN spreads by one cell a step. An empty grid gives an empty answer.
        Source: Strikwerda, Finite difference schemes and partial differential equations, 2nd edition, 2004, chapter 6.
        """

    def nbody(
        self, positions: Input, velocities: Input, masses: Input, dt: float = 0.01, iterations: int = 100, softening: float = 0.0,
        gravity: float = 1.0, *, priority: int = ..., device: str | None = ..., timeout: float | None = ..., max_retries: int = ...,
        tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Outputs:
        """Bodies under their own gravity, after `iterations` steps of `dt`, every pair counted.

        positions, velocities: (n, d). masses: (n,). Any consistent units, such as metres, seconds and kilograms with
        gravity = 6.6743e-11. softening: a length added in squares to every distance (Plummer), which bounds the forces. Answers
        positions and velocities (n, d), and energy (iterations + 1,), kinetic and potential, before the first step and after each: its
        drift shows whether `dt` is short enough. Raises `OperationFailed` when two bodies meet without softening. NaN makes all bodies NaN
        within two steps.
        Source: Verlet, Computer "experiments" on classical fluids, 1967 (kick, drift, kick); Aarseth, Gravitational N-body simulations, 2003.
        """

    def monte_carlo_pi(
        self, samples: int, seed: int = 0, *, priority: int = ..., device: str | None = ..., timeout: float | None = ..., max_retries: int = ...,
        tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """An estimate of pi: four times the share of `samples` points, drawn evenly from the unit square, within the quarter circle.

        A float64 number whose standard error is 1.642 / sqrt(samples). Memory is constant; the points (31 bits a coordinate) depend on
        nothing but their number and the seed, so that every backend counts the same.
        """

    def black_scholes(
        self, spot: Input, strike: Input, time: Input, rate: Input, volatility: Input, dividend: Input | None = 0.0, *, priority: int = ...,
        device: str | None = ..., timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ...,
        traceparent: str | None = ...,
    ) -> Outputs:
        """Prices of European options: `call`, `put`, and the call's `delta`, `gamma` and `vega`, each of the broadcast shape.

        spot, strike: prices, above 0. time: years to expiry. rate, dividend: a year, continuously compounded (0.05 is 5%). volatility: of
        the logarithm of the price, a square root of a year. Arrays that broadcast, or numbers. With no time or no volatility left the
        prices are the discounted payoff, gamma is 0. Where an element is NaN or outside its domain, so are its answers NaN.
        The put's delta is the call's minus exp(-dividend time); its gamma and vega are the call's.
        Source: Black and Scholes, The pricing of options and corporate liabilities, 1973; Merton, Theory of rational option pricing, 1973.
        """

class AsyncOperations:
    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]: ...

    async def expression(
        self, formula: str, *, priority: int = ..., device: str | None = ..., timeout: float | None = ..., max_retries: int = ...,
        tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ..., **arrays: Input,
    ) -> Any:
        """An elementwise formula over named arrays, such as `a*x + sin(y)**2`, computed in one pass where the backend can.

        Every other parameter is an array or a bare number of the formula. Arrays broadcast, and dtypes promote, as in NumPy 2: numbers
        written in the formula or given bare decide the kind of the result and never its width (a float32 array times 2.5 is float32),
        and so do expressions of numbers alone.

        Operators: + - * / // % ** on numbers, < <= > >= == != (chained too), & | ^ ~ on booleans and integers, << >> on integers.
        Functions: the elementwise ones of the Array API standard 2024.12 (abs, acos, ..., where), by position. Constants: pi, e, inf, nan.

        NaN and infinities follow IEEE 754. Integers wrap around on overflow; an integer divided by zero with // or % is 0; an integer
        number must fit the dtype it meets. Shape: the arrays' common shape.

        Raises `invalid_parameter` for anything but such a formula, for unknown and unused names, for more than 4,000 characters or 150
        levels of nesting; `operation_failed` for negative integer powers of integer arrays.
        """

    async def matmul(
        self, a: Input, b: Input, *, priority: int = ..., device: str | None = ..., timeout: float | None = ..., max_retries: int = ...,
        tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """The matrix product of `a` (..., m, k) and `b` (..., k, n): (..., m, n). A vector counts as a row in `a`, as a column in `b`.

        Integers stay integers and wrap around on overflow. Stacks broadcast. An empty inner dimension gives zeros. NaN spreads along
        its row and column. Raises `invalid_parameter` when the inner dimensions differ.
        """

    async def einsum(
        self, subscripts: str, a: Input, b: Input | None = None, c: Input | None = None, d: Input | None = None, *, priority: int = ...,
        device: str | None = ..., timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ...,
        traceparent: str | None = ...,
    ) -> Any:
        """Sums of products in Einstein's notation over one to four arrays, such as `ij,jk->ik`.

        Letters and one `...` a term, as in NumPy; without `->` the letters that occur once, sorted. Dtypes promote; integers wrap around.
        NaN spreads to the sums it is part of.
        """

    async def norm(
        self, x: Input, axis: int | Iterable[int] | None = None, ord: float | Literal["-inf", "fro", "inf", "nuc"] | None = None,
        keepdims: bool = False, *, priority: int = ..., device: str | None = ..., timeout: float | None = ..., max_retries: int = ...,
        tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """A vector's norm along one axis, a matrix's along two, or of all numbers as one vector (`axis` null).

        `ord`: 2 by default for vectors (any number, 'inf', '-inf'), 'fro' for matrices (also 'nuc', 1, -1, 2, -2, 'inf', '-inf').
        Real, of the precision of `x`. No numbers have the norm 0, where an order needs none to choose from. NaN gives NaN, but 0 counts it as
        other than zero, and a matrix's 'nuc', 2 and -2 raise `operation_failed` on NaN or infinity.
        """

    async def solve(
        self, a: Input, b: Input, *, priority: int = ..., device: str | None = ..., timeout: float | None = ..., max_retries: int = ...,
        tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """The `x` with `a @ x = b`, by LU with partial pivoting. `a` (..., n, n); `b` (n,) or (..., n, k), and `x` alike.

        NaN gives NaN, at least where the answer depends on it. Raises `operation_failed` when `a` is singular: lstsq answers then.
        """

    async def lstsq(
        self, a: Input, b: Input, rcond: float | None = None, *, priority: int = ..., device: str | None = ..., timeout: float | None = ...,
        max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Outputs:
        """The shortest `x` that makes `|a @ x - b|` least, by the singular values of `a`. `a` (m, n), `b` (m,) or (m, k).

        Outputs: `solution` (n,) or (n, k); `residuals`, the squared length of `a @ x - b` for each column (always given); `rank` and
        `singular_values` of `a`. Singular values up to `rcond` times the largest count as 0; by default the precision times max(m, n).
        Source: Golub and Van Loan, Matrix Computations, 4th edition, section 5.5. Raises `operation_failed` on NaN or infinity.
        """

    async def inv(
        self, x: Input, *, priority: int = ..., device: str | None = ..., timeout: float | None = ..., max_retries: int = ...,
        tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """The inverse of each square matrix of `x` (..., n, n). To solve equations, `solve` is faster and more exact.

        NaN gives NaN, at least where the answer depends on it. Raises `operation_failed` when a matrix is singular.
        """

    async def det(
        self, x: Input, *, priority: int = ..., device: str | None = ..., timeout: float | None = ..., max_retries: int = ...,
        tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """The determinant of each square matrix of `x` (..., n, n), by LU. 0 for a singular one, 1 for one of no rows; NaN gives NaN."""

    async def cholesky(
        self, x: Input, upper: bool = False, *, priority: int = ..., device: str | None = ..., timeout: float | None = ...,
        max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """The lower triangular L with `L @ Lᴴ = x` for each symmetric (Hermitian) positive definite matrix of `x` (..., n, n), or U = Lᴴ.

        Reads the lower triangle only, with `upper` too. Raises `operation_failed` when a matrix is not positive definite, and on NaN or
        infinity in that triangle.
        """

    async def qr(
        self, x: Input, mode: Literal["complete", "reduced"] = 'reduced', *, priority: int = ..., device: str | None = ...,
        timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Outputs:
        """`q` with orthonormal columns and upper triangular `r`, with `q @ r = x` (..., m, n), by Householder reflections.

        `q` is (..., m, k) and `r` (..., k, n), where k is min(m, n), with `complete` m. The signs of r's rows are the library's.
        Raises `operation_failed` on NaN or infinity.
        """

    async def svd(
        self, x: Input, full_matrices: bool = False, *, priority: int = ..., device: str | None = ..., timeout: float | None = ...,
        max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Outputs:
        """`u`, `s`, `vh` with `u @ diag(s) @ vh = x` (..., m, n); `s` (..., k) falls, k = min(m, n). Signs of u and vh are the library's.

        `u` is (..., m, k) and `vh` (..., k, n); with `full_matrices` (..., m, m) and (..., n, n). Raises `operation_failed` on NaN
        or infinity.
        """

    async def eigh(
        self, x: Input, *, priority: int = ..., device: str | None = ..., timeout: float | None = ..., max_retries: int = ...,
        tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Outputs:
        """Rising `eigenvalues` (..., n) and orthonormal `eigenvectors` (..., n, n), in columns, of symmetric (Hermitian) matrices `x`.

        Reads the lower triangle only. Signs of the vectors are the library's. Raises `operation_failed` on NaN or infinity.
        """

    async def fft(
        self, x: Input, n: int | None = None, axis: int = -1, norm: Literal["backward", "forward", "ortho"] = 'backward', *, priority: int = ...,
        device: str | None = ..., timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ...,
        traceparent: str | None = ...,
    ) -> Any:
        """The discrete Fourier transform of `x` along `axis`: X[k] = sum of x[j] exp(-2πi jk/n). Complex, shape of `x` with `n` along `axis`.

        `n` cuts `x`, or pads it with zeros. `norm` says which direction is divided: `backward` the inverse by n, `forward` this one by n,
        `ortho` both by sqrt(n). At least one element is needed. NaN or infinity spreads over its whole transform.
        Source: Cooley and Tukey, 1965; Bluestein, 1970, for lengths with large primes.
        """

    async def ifft(
        self, x: Input, n: int | None = None, axis: int = -1, norm: Literal["backward", "forward", "ortho"] = 'backward', *, priority: int = ...,
        device: str | None = ..., timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ...,
        traceparent: str | None = ...,
    ) -> Any:
        """The inverse of `fft`: x[j] = (1/n) sum of X[k] exp(+2πi jk/n). Parameters, shape and NaN as there."""

    async def rfft(
        self, x: Input, n: int | None = None, axis: int = -1, norm: Literal["backward", "forward", "ortho"] = 'backward', *, priority: int = ...,
        device: str | None = ..., timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ...,
        traceparent: str | None = ...,
    ) -> Any:
        """`fft` of real numbers, without the half that follows by symmetry: n // 2 + 1 along `axis`. Complex input is refused. NaN as in `fft`."""

    async def irfft(
        self, x: Input, n: int | None = None, axis: int = -1, norm: Literal["backward", "forward", "ortho"] = 'backward', *, priority: int = ...,
        device: str | None = ..., timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ...,
        traceparent: str | None = ...,
    ) -> Any:
        """The inverse of `rfft`: real, with `n` elements along `axis`, by default 2 (m - 1) of m. Give `n` to get an odd length back.

        Imaginary parts that a real signal cannot have (of the first element, and of the last when n is even) are ignored. NaN gives NaN
        wherever its sine or cosine is not 0.
        """

    async def fft2(
        self, x: Input, shape: Iterable[int] | None = None, axes: Iterable[int] = (-2, -1),
        norm: Literal["backward", "forward", "ortho"] = 'backward', *, priority: int = ..., device: str | None = ..., timeout: float | None = ...,
        max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """The Fourier transform over two axes, such as an image's. `shape` cuts or pads them (two lengths). NaN and all else as in `fft`."""

    async def ifft2(
        self, x: Input, shape: Iterable[int] | None = None, axes: Iterable[int] = (-2, -1),
        norm: Literal["backward", "forward", "ortho"] = 'backward', *, priority: int = ..., device: str | None = ..., timeout: float | None = ...,
        max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """The inverse of `fft2`. NaN as there."""

    async def convolve(
        self, a: Input, b: Input, mode: Literal["full", "same", "valid"] = 'full', *, priority: int = ..., device: str | None = ...,
        timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """The discrete convolution of two arrays of any, equal rank: out[k] = sum of a[j] b[k - j], zeros beyond the edges.

        `full` has m + n - 1 elements an axis, `same` the middle of it in the shape of `a`, `valid` only what needs no zeros beyond the
        edges. Booleans and integers give float64. Up to 32 elements of the smaller array are summed directly, and NaN makes its own sums NaN;
        beyond, Fourier transforms are multiplied: exact to rounding relative to the largest output, and one NaN makes every output NaN.
        """

    async def sum(
        self, x: Input, axis: int | Iterable[int] | None = None, keepdims: bool = False, *, priority: int = ..., device: str | None = ...,
        timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """The sum along `axis`. NaN gives NaN, no numbers give 0.

        Booleans and integers are summed in 64 bits and wrap around beyond; other dtypes keep theirs.
        """

    async def mean(
        self, x: Input, axis: int | Iterable[int] | None = None, keepdims: bool = False, *, priority: int = ..., device: str | None = ...,
        timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """The arithmetic mean along `axis`. Booleans and integers give float64. NaN gives NaN, and so do no numbers."""

    async def std(
        self, x: Input, axis: int | Iterable[int] | None = None, correction: float = 0.0, keepdims: bool = False, *, priority: int = ...,
        device: str | None = ..., timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ...,
        traceparent: str | None = ...,
    ) -> Any:
        """The standard deviation along `axis`: the root of `var`, with the same parameters. NaN gives NaN."""

    async def var(
        self, x: Input, axis: int | Iterable[int] | None = None, correction: float = 0.0, keepdims: bool = False, *, priority: int = ...,
        device: str | None = ..., timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ...,
        traceparent: str | None = ...,
    ) -> Any:
        """The mean squared distance from the mean along `axis`, divided by n - `correction` (1: the unbiased estimate of a sample).

        Computed in two passes. Booleans and integers give float64. NaN gives NaN, and so does an n not above `correction`.
        """

    async def min(
        self, x: Input, axis: int | Iterable[int] | None = None, keepdims: bool = False, *, priority: int = ..., device: str | None = ...,
        timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """The smallest number along `axis`. NaN gives NaN."""

    async def max(
        self, x: Input, axis: int | Iterable[int] | None = None, keepdims: bool = False, *, priority: int = ..., device: str | None = ...,
        timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """The largest number along `axis`. NaN gives NaN."""

    async def argmin(
        self, x: Input, axis: int | None = None, keepdims: bool = False, *, priority: int = ..., device: str | None = ...,
        timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """Where the smallest number along `axis` stands first, as int64; with `axis` null in `x` flattened. NaN counts as the smallest."""

    async def argmax(
        self, x: Input, axis: int | None = None, keepdims: bool = False, *, priority: int = ..., device: str | None = ...,
        timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """Where the largest number along `axis` stands first, as int64; with `axis` null in `x` flattened. NaN counts as the largest."""

    async def quantile(
        self, x: Input, q: Input, axis: int | Iterable[int] | None = None, keepdims: bool = False, *, priority: int = ...,
        device: str | None = ..., timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ...,
        traceparent: str | None = ...,
    ) -> Any:
        """The value below which the share `q` (0 to 1) of the numbers along `axis` lies, interpolated linearly between neighbours.

        A list `q` adds a first axis. Booleans and integers give float64. Any NaN along `axis` gives NaN. Source: Hyndman and Fan, 1996,
        definition 7. Raises `invalid_parameter` for a number `q` out of range, `operation_failed` for one in a list.
        """

    async def histogram(
        self, x: Input, bins: int = 10, range: Iterable[float] | None = None, *, priority: int = ..., device: str | None = ...,
        timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Outputs:
        """How many numbers of `x` fall into each of `bins` equal intervals of `range`, by default from the smallest to the largest.

        Outputs: `counts` (bins,) int64 and `edges` (bins + 1,) float64. An interval holds its left edge, the last its right one too. Numbers
        outside `range`, NaN among them, are not counted. A range of no width is widened by 0.5 both ways; no numbers have the range 0 to 1.
        Raises `operation_failed` without `range` when `x` holds NaN or infinity.
        """

    async def cumulative_sum(
        self, x: Input, axis: int | None = None, include_initial: bool = False, *, priority: int = ..., device: str | None = ...,
        timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """The running sum along `axis`, which may be left out for one dimension; with a 0 before it if `include_initial`. Dtypes as `sum`.

        NaN makes NaN of what follows it.
        """

    async def sort(
        self, x: Input, axis: int = -1, descending: bool = False, *, priority: int = ..., device: str | None = ..., timeout: float | None = ...,
        max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """`x` sorted along `axis`. Shape and dtype of `x`. NaN stands last, with `descending` first."""

    async def argsort(
        self, x: Input, axis: int = -1, descending: bool = False, *, priority: int = ..., device: str | None = ..., timeout: float | None = ...,
        max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """The int64 indices that sort `x` along `axis`; equal numbers keep their order, in both directions. NaN as in `sort`."""

    async def top_k(
        self, x: Input, k: int, axis: int = -1, largest: bool = True, *, priority: int = ..., device: str | None = ...,
        timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Outputs:
        """The `k` largest (or smallest) numbers along `axis`, best first: `values`, and their int64 `indices`; the earlier of equals first.

        NaN counts as larger than any number.
        """

    async def unique(
        self, x: Input, *, priority: int = ..., device: str | None = ..., timeout: float | None = ..., max_retries: int = ...,
        tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Outputs:
        """The distinct numbers of `x`, rising, as `values`, and how often each occurs as int64 `counts`.

        NaN is equal to none, so that each stands alone, at the end.
        """

    async def concat(
        self, arrays: Sequence[Input], axis: int | None = 0, *, priority: int = ..., device: str | None = ..., timeout: float | None = ...,
        max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """The arrays one behind the other along `axis`; with `axis` null each is flattened first. Dtypes promote; other axes must be alike.

        NaN stays where it is.
        """

    async def stack(
        self, arrays: Sequence[Input], axis: int = 0, *, priority: int = ..., device: str | None = ..., timeout: float | None = ...,
        max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """The arrays beside each other along a new axis, which becomes `axis` of the output. All of one shape; dtypes promote. NaN stays NaN."""

    async def uniform(
        self, shape: Iterable[int], seed: int, low: float = 0.0, high: float = 1.0, dtype: Literal["float32", "float64"] = 'float64', *,
        priority: int = ..., device: str | None = ..., timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ...,
        cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """Numbers drawn evenly from [`low`, `high`), in `shape`. A seed gives the same numbers on every backend.

        `low + (high - low) u`, u of 53 bits (float64) or 24 (float32); rounding may give `high` itself where it is far from 0.
        """

    async def normal(
        self, shape: Iterable[int], seed: int, mean: float = 0.0, std: float = 1.0, dtype: Literal["float32", "float64"] = 'float64', *,
        priority: int = ..., device: str | None = ..., timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ...,
        cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """Numbers from the normal distribution of this mean and standard deviation, in `shape`.

        A seed gives the same numbers on every backend, to the rounding of its log, sin and cos. Source: Box and Muller, 1958.
        """

    async def integers(
        self, shape: Iterable[int], seed: int, high: int, low: int = 0,
        dtype: Literal["int16", "int32", "int64", "int8", "uint16", "uint32", "uint64", "uint8"] = 'int64', *, priority: int = ...,
        device: str | None = ..., timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ...,
        traceparent: str | None = ...,
    ) -> Any:
        """Integers drawn evenly from `low` to `high` - 1, in `shape`. A seed gives the same numbers on every backend.

        Each takes 128 random bits w and is floor(w (high - low) / 2¹²⁸) + low: without a modulo, no value is likelier than another by
        more than one part in 2⁶⁴. Source of the multiplication: Lemire, "Fast random integer generation in an interval", 2019.
        """

    async def linear(
        self, x: Input, weight: Input, bias: Input | None = None, *, priority: int = ..., device: str | None = ..., timeout: float | None = ...,
        max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """`x @ weight.T + bias`: (..., outputs), in the arrays' common floating dtype.

        x: (..., inputs). weight: (outputs, inputs). bias: (outputs,) or absent. With no inputs the answer is the bias, or zeros.
        NaN makes its row of the answer NaN (in `x`), or its column (in `weight` or `bias`).
        """

    async def conv2d(
        self, x: Input, weight: Input, bias: Input | None = None, stride: int | Iterable[int] = 1, padding: int | Iterable[int] = 0,
        dilation: int | Iterable[int] = 1, groups: int = 1, *, priority: int = ..., device: str | None = ..., timeout: float | None = ...,
        max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """Cross-correlation of images with kernels, what neural networks call convolution: (images, outputs, height, width).

        x: (images, channels, height, width). weight: (outputs, channels / groups, height, width). bias: (outputs,) or absent. `stride`,
        `padding` (with zeros, on both sides) and `dilation` in pixels, one number or [vertical, horizontal]. In the arrays' common
        floating dtype. No images give an empty answer; no channels give the bias. NaN makes every output NaN whose window holds it, its
        weight zero or not; in `weight` or `bias` its whole channel.
        Source: Chellapilla, Puri and Simard, High performance convolutional neural networks for document processing, 2006 (im2col).
        """

    async def softmax(
        self, x: Input, axis: int = -1, *, priority: int = ..., device: str | None = ..., timeout: float | None = ..., max_retries: int = ...,
        tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """Exponentials of `x`, scaled to sum to 1 along `axis`; shape of `x`, its floating dtype.

        Where a line holds NaN, +inf, or nothing but -inf, it is NaN (as in SciPy). An empty `x` gives an empty answer.
        """

    async def layer_norm(
        self, x: Input, weight: Input | None = None, bias: Input | None = None, axis: int = -1, epsilon: float = 1e-05, *, priority: int = ...,
        device: str | None = ..., timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ...,
        traceparent: str | None = ...,
    ) -> Any:
        """`(x - mean) / sqrt(variance + epsilon) * weight + bias`, mean and variance over `axis` and all axes after it; shape of `x`.

        weight, bias: `x.shape[axis:]`, or absent. In the arrays' common floating dtype. NaN makes its own features NaN. An empty `x`
        gives an empty answer.
        Source: Ba, Kiros and Hinton, Layer normalization, arXiv:1607.06450; axes as in ONNX's LayerNormalization.
        """

    async def attention(
        self, q: Input, k: Input, v: Input, mask: Input | None = None, causal: bool = False, scale: float | None = None, *, priority: int = ...,
        device: str | None = ..., timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ...,
        traceparent: str | None = ...,
    ) -> Any:
        """Scaled dot-product attention, `softmax(scale * q @ k.T + mask) @ v`: (..., n, e), in the common floating dtype of q, k, v.

        q: (..., n, d). k: (..., m, d). v: (..., m, e). Leading axes (batch, heads) broadcast. mask: broadcasts to (..., n, m); booleans say
        which keys a query may attend to, floating numbers are added to the scores. `causal`: query i attends to the keys 0 to i only.
        `scale`: 1 / sqrt(d) unless given. A query that may attend to no key gives zeros. NaN in `q` makes its query's row NaN, in
        `k` the rows of the queries that may attend to it, in `v` its column. Scores are worked through in blocks, so that memory does not
        grow with n times m.
        Source: Vaswani et al., Attention is all you need, arXiv:1706.03762.
        """

    async def kmeans(
        self, x: Input, k: int, seed: int = 0, iterations: int = 300, tolerance: float = 0.0001, *, priority: int = ..., device: str | None = ...,
        timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Outputs:
        """Rows in `k` clusters, so that the squared distances to the clusters' means are small.

        x: (n, d), n at least k. Answers centroids (k, d), labels (n,) int64, inertia (): the sum of the squared distances. Ends after
        `iterations`, when no label changes, or when the centroids' squared movement is at most `tolerance` times the columns' mean
        variance. Equal seeds start from equal chances. Raises `OperationFailed` for NaN or infinity.
        Source: Lloyd, Least squares quantization in PCM, 1982; k-means++ of Arthur and Vassilvitskii, 2007.
        """

    async def knn(
        self, x: Input, queries: Input, k: int, *, priority: int = ..., device: str | None = ..., timeout: float | None = ...,
        max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Outputs:
        """The `k` rows of `x` nearest to each query, nearest first, by Euclidean distance.

        x: (n, d), n at least k. queries: (m, d). Answers indices (m, k) int64 and distances (m, k) in the common floating dtype. Equal
        distances are in the order of their indices; which of them make the last place is open. Worked through in blocks of queries.
        Raises `OperationFailed` for NaN or infinity. No queries give empty answers.
        """

    async def pca(
        self, x: Input, components: int, *, priority: int = ..., device: str | None = ..., timeout: float | None = ..., max_retries: int = ...,
        tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Outputs:
        """The directions in which rows vary most, by the singular value decomposition of the centred rows.

        x: (n, d), n at least 2. Answers components (components, d), orthonormal rows by falling variance; explained_variance
        (components,), with n - 1 in the denominator; mean (d,); projected (n, components), the centred rows in the new axes. A component's
        largest element by magnitude is positive, so that signs are the same everywhere (as scikit-learn does).
        Raises `OperationFailed` for NaN or infinity.
        Source: Jolliffe, Principal component analysis, 2nd edition, 2002, section 3.5.
        """

    async def gaussian_blur(
        self, image: Input, sigma: float = 1.0, *, priority: int = ..., device: str | None = ..., timeout: float | None = ...,
        max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """`image` convolved with a Gaussian of `sigma` pixels along both axes; shape and dtype of `image`.

        image: (h, w) or (h, w, c). The kernel ends at 4 sigma and edges are mirrored, as `scipy.ndimage.gaussian_filter` does by default.
        Opacity is blurred like a colour, so that the rim of what is cut out becomes soft. A pixel whose window holds NaN or infinity is NaN.
        """

    async def sharpen(
        self, image: Input, amount: float = 1.0, sigma: float = 1.0, *, priority: int = ..., device: str | None = ...,
        timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """Unsharp masking: `image + amount * (image - gaussian_blur(image, sigma))`; shape and dtype of `image`.

        image: (h, w) or (h, w, c). `sigma` in pixels. Integer pixels are clipped to their range, floating ones are not.
        A pixel whose window holds NaN or infinity is NaN.
        The opacity of uint8 and uint16 images of four channels stays as it is.
        Source: Gonzalez and Woods, Digital Image Processing, section 3.6 (highboost filtering).
        """

    async def resize(
        self, image: Input, height: int, width: int, method: Literal["area", "bilinear", "nearest"] = 'bilinear', antialias: bool = True, *,
        priority: int = ..., device: str | None = ..., timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ...,
        cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """`image` resampled to `height` by `width` pixels; (height, width) or (height, width, c), dtype of `image`.

        Pixel centres lie at half integers. `bilinear`: a triangle, widened when shrinking unless `antialias` is false (as Pillow does).
        `area`: the mean over the part of the source that a target pixel covers. `nearest`: the pixel under the target's centre.
        An axis that keeps its size is left as it is. A pixel that NaN or infinity has a part in is not finite.
        Source: Turkowski, Filters for common resampling tasks, Graphics Gems I, 1990.
        """

    async def sobel(
        self, image: Input, *, priority: int = ..., device: str | None = ..., timeout: float | None = ..., max_retries: int = ...,
        tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """Edge strength: the gradient's magnitude by Sobel's kernels, `sqrt((x**2 + y**2) / 2)`; shape and dtype of `image`.

        image: (h, w) or (h, w, c), each channel by itself; the opacity of uint8 and uint16 images of four channels stays as it is. The
        kernels are [1, 2, 1] / 4 and [-1, 0, 1], so that the result stays within the range that the pixels span (scikit-image's scale).
        Edges are mirrored. A pixel beside NaN or infinity, diagonally too, is not finite; its own value does not count.
        Source: Sobel and Feldman, An isotropic 3x3 image gradient operator, 1968.
        """

    async def heat2d(
        self, grid: Input, iterations: int = 100, alpha: float = 1.0, dt: float = 0.2, spacing: float = 1.0,
        boundary: Literal["fixed", "insulated", "periodic"] = 'fixed', *, priority: int = ..., device: str | None = ...,
        timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """Temperatures after `iterations` steps of the heat equation, du/dt = alpha (d²u/dx² + d²u/dy²); shape of `grid`.

        grid: (h, w), any unit of temperature. alpha: thermal diffusivity, m²/s. dt: seconds a step. spacing: metres between cells.
        boundary: `fixed` keeps the outermost cells as they are, `insulated` lets no heat through the rim, `periodic` joins opposite
        edges. Explicit finite differences (forward in time, centred in space), refused unless alpha dt / spacing² is at most 1/4, where
        they are stable. NaN spreads by one cell a step. An empty grid gives an empty answer.
        Source: Strikwerda, Finite difference schemes and partial differential equations, 2nd edition, 2004, chapter 6.
        """

    async def nbody(
        self, positions: Input, velocities: Input, masses: Input, dt: float = 0.01, iterations: int = 100, softening: float = 0.0,
        gravity: float = 1.0, *, priority: int = ..., device: str | None = ..., timeout: float | None = ..., max_retries: int = ...,
        tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Outputs:
        """Bodies under their own gravity, after `iterations` steps of `dt`, every pair counted.

        positions, velocities: (n, d). masses: (n,). Any consistent units, such as metres, seconds and kilograms with
        gravity = 6.6743e-11. softening: a length added in squares to every distance (Plummer), which bounds the forces. Answers
        positions and velocities (n, d), and energy (iterations + 1,), kinetic and potential, before the first step and after each: its
        drift shows whether `dt` is short enough. Raises `OperationFailed` when two bodies meet without softening. NaN makes all bodies NaN
        within two steps.
        Source: Verlet, Computer "experiments" on classical fluids, 1967 (kick, drift, kick); Aarseth, Gravitational N-body simulations, 2003.
        """

    async def monte_carlo_pi(
        self, samples: int, seed: int = 0, *, priority: int = ..., device: str | None = ..., timeout: float | None = ..., max_retries: int = ...,
        tags: Sequence[str] = ..., cache: Cache = ..., traceparent: str | None = ...,
    ) -> Any:
        """An estimate of pi: four times the share of `samples` points, drawn evenly from the unit square, within the quarter circle.

        A float64 number whose standard error is 1.642 / sqrt(samples). Memory is constant; the points (31 bits a coordinate) depend on
        nothing but their number and the seed, so that every backend counts the same.
        """

    async def black_scholes(
        self, spot: Input, strike: Input, time: Input, rate: Input, volatility: Input, dividend: Input | None = 0.0, *, priority: int = ...,
        device: str | None = ..., timeout: float | None = ..., max_retries: int = ..., tags: Sequence[str] = ..., cache: Cache = ...,
        traceparent: str | None = ...,
    ) -> Outputs:
        """Prices of European options: `call`, `put`, and the call's `delta`, `gamma` and `vega`, each of the broadcast shape.

        spot, strike: prices, above 0. time: years to expiry. rate, dividend: a year, continuously compounded (0.05 is 5%). volatility: of
        the logarithm of the price, a square root of a year. Arrays that broadcast, or numbers. With no time or no volatility left the
        prices are the discounted payoff, gamma is 0. Where an element is NaN or outside its domain, so are its answers NaN.
        The put's delta is the call's minus exp(-dividend time); its gamma and vega are the call's.
        Source: Black and Scholes, The pricing of options and corporate liabilities, 1973; Merton, Theory of rational option pricing, 1973.
        """
