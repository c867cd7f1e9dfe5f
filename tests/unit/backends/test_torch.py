"""What the conformance suite does not reach: unsigned integers at their edges, memory, threads, errors."""

import gc
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from openruntime.backends.torch import TorchBackend, _writable  # noqa: E402
from openruntime.backends.torch_namespace import whole_product, xp  # noqa: E402
from openruntime.contracts.errors import OperationFailed, OutOfMemory, UnsupportedOnDevice  # noqa: E402
from openruntime.contracts.payload import Array  # noqa: E402
from openruntime.operations.catalogue import OperationCatalogue  # noqa: E402
from openruntime.operations.formula import FUNCTIONS  # noqa: E402
from openruntime.testing.cases import Case, cases, in_bfloat16, numpy_array, payload  # noqa: E402

BINARY = ("+", "-", "*", "//", "%", "**", "<", "<=", ">", ">=", "==", "!=", "&", "|", "^", "<<", ">>", "/")
_NUMPY = {"bitwise_invert": np.invert, "conj": np.conj, "imag": np.imag, "real": np.real}


@pytest.fixture(scope="module")
def backend() -> TorchBackend:
    return TorchBackend()


@pytest.fixture(scope="module")
def catalogue() -> OperationCatalogue:
    return OperationCatalogue()


async def answer(backend: TorchBackend, operation: str, **parameters: Any) -> Any:
    given = {name: _given(value) for name, value in parameters.items()}
    call = OperationCatalogue().bind(operation, given)
    result = await backend.execute(operation, call.parameters)
    found = {name: numpy_array(array) for name, array in result.outputs.items()}
    for name, spec in call.outputs.items():
        assert result.outputs[name].dtype == spec.dtype
    return found["output"] if list(found) == ["output"] else found


def _given(value: Any) -> Any:
    if isinstance(value, list):
        return [_given(item) for item in value]
    return payload(value) if isinstance(value, np.ndarray | np.generic) else value


def edges(dtype: str) -> Any:
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    return np.array([low, low + 1, high // 2, high // 2 + 1, high - 1, high, 0, 1, 2, 3, 7, 63 % high], dtype)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
@pytest.mark.parametrize("sign", BINARY)
async def test_integers_at_their_edges(sign: str, dtype: str, backend: TorchBackend) -> None:
    x, y = edges(dtype)[:, None], edges(dtype)[None, :]
    if sign == "**":
        y = np.array([[0, 1, 2, 3, 5, 64]], dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = eval(f"x {sign} y", {}, {"x": x, "y": y})
    if sign in ("//", "%"):
        wanted = np.where(y == 0, 0, wanted).astype(wanted.dtype)
    found = await answer(backend, "expression", formula=f"x {sign} y", x=x, y=y)
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64"])
@pytest.mark.parametrize("name", [name for name, function in FUNCTIONS.items() if set("u") <= set(function.kinds) and name != "clip"])
async def test_every_function_takes_unsigned_integers(name: str, dtype: str, backend: TorchBackend) -> None:
    x, y = edges(dtype), np.arange(1, 13, dtype=dtype)
    arity = FUNCTIONS[name].arity
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "where":
            wanted = np.where(x > y, x, y)
            found = await answer(backend, "expression", formula="where(x > y, x, y)", x=x, y=y)
        elif arity == 1:
            wanted = np.asarray(_NUMPY.get(name, getattr(np, name, None))(x))
            found = await answer(backend, "expression", formula=f"{name}(x)", x=x)
        else:
            wanted = np.asarray(getattr(np, name)(x, y))
            found = await answer(backend, "expression", formula=f"{name}(x, y)", x=x, y=y)
    assert found.dtype == wanted.dtype
    np.testing.assert_allclose(found, wanted, rtol=4e-7 if found.dtype == "float32" else 1e-12)


async def test_unsigned_constants_and_mixtures(backend: TorchBackend) -> None:
    x, y = edges("uint64"), edges("int32")
    np.testing.assert_array_equal(await answer(backend, "expression", formula="x ^ 18446744073709551615", x=x), ~x)
    np.testing.assert_array_equal(await answer(backend, "expression", formula="x + y", x=x, y=y), x + y)
    np.testing.assert_array_equal(
        await answer(backend, "expression", formula="x*y - x", x=edges("uint32"), y=y), edges("uint32") * y - edges("uint32")
    )
    np.testing.assert_array_equal(await answer(backend, "expression", formula="clip(x, 3, 40000)", x=edges("uint16")), edges("uint16").clip(3, 40000))


async def test_a_number_too_large_for_its_dtype_is_infinite(backend: TorchBackend) -> None:
    np.testing.assert_array_equal(await answer(backend, "expression", formula="x * 1e300", x=np.ones(2, "float16")), [np.inf, np.inf])


async def test_a_complex_zero_to_the_power_zero_is_one(backend: TorchBackend) -> None:
    x = np.array([0, 2j, 1 + 1j], "complex128")
    with np.errstate(all="ignore"):
        wanted = x[:, None] ** x[None, :]
    np.testing.assert_allclose(await answer(backend, "expression", formula="x ** y", x=x[:, None], y=x[None, :]), wanted)


async def test_the_next_half(backend: TorchBackend) -> None:
    x = np.array([0.0, -0.0, 1.0, -1.0, 65504, -65504, 6e-8, np.inf, -np.inf, np.nan], "float16")
    x, y = np.broadcast_arrays(x[:, None], x[None, :])
    x, y = x.copy(), y.copy()
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(await answer(backend, "expression", formula="nextafter(x, y)", x=x, y=y), np.nextafter(x, y))


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64"])
async def test_unsigned_arrays_in_other_operations(dtype: str, backend: TorchBackend) -> None:
    x = np.random.default_rng(3).permutation(edges(dtype)).reshape(3, 4)
    for name in ("min", "max", "argmin", "argmax"):
        for options in ({}, {"axis": 1}, {"axis": 0, "keepdims": True}):
            np.testing.assert_array_equal(await answer(backend, name, x=x, **options), getattr(np, name)(x, **options))
    np.testing.assert_array_equal(await answer(backend, "argmax", x=x, keepdims=True), np.argmax(x, keepdims=True))
    np.testing.assert_array_equal(await answer(backend, "sum", x=x, axis=0), x.sum(axis=0, dtype="uint64"))
    np.testing.assert_array_equal(await answer(backend, "cumulative_sum", x=x, axis=1), x.cumsum(axis=1, dtype="uint64"))
    np.testing.assert_array_equal(await answer(backend, "sort", x=x, axis=0, descending=True), np.sort(x, axis=0)[::-1])
    np.testing.assert_array_equal(await answer(backend, "argsort", x=x), np.argsort(x, axis=-1, stable=True))
    np.testing.assert_array_equal((await answer(backend, "top_k", x=x, k=2))["values"], -np.sort(-x.astype(object))[:, :2])
    found, (values, counts) = await answer(backend, "unique", x=x % 5), np.unique(x % 5, return_counts=True)
    np.testing.assert_array_equal(found["values"], values)
    np.testing.assert_array_equal(found["counts"], counts)
    np.testing.assert_array_equal(await answer(backend, "concat", arrays=[x, x], axis=1), np.concatenate([x, x], axis=1))
    np.testing.assert_array_equal(await answer(backend, "stack", arrays=[x, x], axis=1), np.stack([x, x], axis=1))
    np.testing.assert_array_equal(await answer(backend, "matmul", a=x, b=x.T.copy()), x @ x.T)
    np.testing.assert_array_equal(await answer(backend, "einsum", subscripts="ij,kj->ik", a=x, b=x), x @ x.T)
    np.testing.assert_allclose(await answer(backend, "mean", x=x), x.astype("float64").mean(), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["bool", "int8", "int64", "uint8", "uint16", "uint64", "float16", "bfloat16", "float32", "float64"])
async def test_long_lines_are_sorted_by_radix(dtype: str, backend: TorchBackend) -> None:
    random = np.random.default_rng(11)
    if dtype in ("float16", "bfloat16", "float32", "float64"):
        x = random.normal(size=50_000).astype("float32" if dtype == "bfloat16" else dtype)
        x[random.integers(0, x.size, 4000)] = random.choice([0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 1.0], 4000)
        if dtype == "bfloat16":
            x = in_bfloat16(Case("sort", {"x": x.astype("float16")})).parameters["x"]  # type: ignore[union-attr]
    else:
        low, high = (0, 2) if dtype == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        x = random.integers(low, high, 50_000, dtype="uint64" if dtype == "uint64" else "int64").astype(dtype)
        x[::7] = x[0]
    plain = np.asarray(x)
    for falling in (False, True):
        wanted = np.argsort(plain, stable=True)
        if falling:
            wanted = x.size - 1 - np.argsort(plain[::-1], stable=True)[::-1]
        np.testing.assert_array_equal(await answer(backend, "argsort", x=x, descending=falling), wanted)
        np.testing.assert_array_equal(np.asarray(await answer(backend, "sort", x=x, descending=falling)), plain[wanted])
        best = await answer(backend, "top_k", x=x, k=10, largest=falling)
        np.testing.assert_array_equal(best["indices"], wanted[:10])
    found, (values, counts) = await answer(backend, "unique", x=x), np.unique(plain, return_counts=True, equal_nan=False)
    np.testing.assert_array_equal(np.asarray(found["values"]), values)
    np.testing.assert_array_equal(found["counts"], counts)
    if dtype != "bfloat16":
        np.testing.assert_array_equal(await answer(backend, "quantile", x=x, q=0.3), np.quantile(plain.astype("float64"), 0.3))


def test_products_of_integers_by_parts_wrap_around() -> None:
    random = np.random.default_rng(5)
    for dtype in ("int8", "int32", "int64"):
        bounds = np.iinfo(dtype)
        a, b = (random.integers(bounds.min, bounds.max, shape, dtype, endpoint=True) for shape in ((2, 5, 7), (7, 3)))
        np.testing.assert_array_equal(whole_product(torch.from_numpy(a), torch.from_numpy(b)).numpy(), a @ b)
        np.testing.assert_array_equal(whole_product(torch.from_numpy(a), torch.from_numpy(b[:, 0])).numpy(), a @ b[:, 0])


@pytest.mark.parametrize(("operation", "options"), [
    ("uniform", {"dtype": "float64"}), ("uniform", {"dtype": "float32", "low": -2.0}), ("integers", {"high": 10**12}), ("normal", {"std": 3.0}),
])  # fmt: skip
async def test_a_seed_gives_numpys_numbers(operation: str, options: dict[str, Any], backend: TorchBackend) -> None:
    from openruntime.backends.cpu import NumpyBackend

    found, wanted = [await answer(one, operation, shape=[3, 100_003], seed=2**40 + 3, **options) for one in (backend, NumpyBackend())]
    if operation == "normal":
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
    else:
        np.testing.assert_array_equal(found, wanted)


async def test_attention_with_a_mask_of_each_kind(backend: TorchBackend) -> None:
    from openruntime.backends.cpu import NumpyBackend

    random = np.random.default_rng(7)
    q, k, v = (random.normal(size=shape) for shape in ((2, 3, 6, 4), (2, 1, 5, 4), (3, 5, 4)))
    some = random.random((6, 5)) > 0.4
    some[2] = False
    for mask in (some, some[0], np.where(some, 0.5, -np.inf), random.normal(size=(2, 1, 6, 5))):
        for causal in (False, True):
            found = await answer(backend, "attention", q=q, k=k, v=v, mask=mask, causal=causal, scale=0.3)
            wanted = await answer(NumpyBackend(), "attention", q=q, k=k, v=v, mask=mask, causal=causal, scale=0.3)
            np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-12)


async def test_nan_stays_in_its_window(backend: TorchBackend) -> None:
    from openruntime.backends.cpu import NumpyBackend

    x = np.random.default_rng(9).normal(size=(1, 16, 24, 24)).astype("float32")
    x[0, 3, 10, 11] = np.nan
    weight = np.random.default_rng(10).normal(size=(32, 16, 3, 3)).astype("float32")
    weight[:, 3] = 0
    found, wanted = [await answer(one, "conv2d", x=x, weight=weight, padding=1) for one in (backend, NumpyBackend())]
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))


def test_linspace_and_searchsorted_are_numpys() -> None:
    for low, high, count in ((0.1, 0.7, 11), (-3.0, 1e9, 1000), (2.0, 2.0, 5), (0.0, 1.0, 1)):
        np.testing.assert_array_equal(xp.linspace(low, high, count, dtype=torch.float64).numpy(), np.linspace(low, high, count))
    ends = np.array([1.0, 2.0, np.inf, np.nan, np.nan])
    for side in ("left", "right"):
        found = xp.searchsorted(torch.from_numpy(ends), torch.tensor([0.5, 2.0, 9.0], dtype=torch.float64), side=side)
        np.testing.assert_array_equal(found.numpy(), np.searchsorted(ends, [0.5, 2.0, 9.0], side=side))


async def test_a_fraction_as_correction(backend: TorchBackend) -> None:
    x = np.arange(6.0).reshape(2, 3)
    np.testing.assert_allclose(await answer(backend, "std", x=x, axis=1, correction=0.5), x.std(axis=1, ddof=0.5))


async def test_bfloat16_comes_and_goes_as_its_bits(backend: TorchBackend) -> None:
    bits = np.array([0x3F80, 0xBF80, 0x7F80, 0x0001, 0x7FC0], "<u2")
    array = Array("bfloat16", (5,), bits.tobytes())
    result = await backend.execute("concat", {"arrays": [array, array]})
    assert result.outputs["output"].dtype == "bfloat16"
    assert bytes(result.outputs["output"].view) == 2 * bits.tobytes()
    result = await backend.execute("sort", {"x": Array("bfloat16", (0, 3), b"")})
    assert (result.outputs["output"].dtype, result.outputs["output"].shape) == ("bfloat16", (0, 3))


@pytest.mark.parametrize(
    ("operation", "parameters"),
    [
        ("expression", {"formula": "2*x + 1"}), ("expression", {"formula": "x > 0.5"}), ("softmax", {}), ("cumulative_sum", {"axis": 0}),
        ("cumulative_sum", {"axis": 1, "include_initial": True}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
async def test_outputs_are_computed_where_the_caller_wants_them(
    operation: str, parameters: dict[str, Any], dtype: str, backend: TorchBackend
) -> None:
    given: list[memoryview] = []

    def allocate(nbytes: int) -> memoryview:
        given.append(memoryview(bytearray(nbytes)))
        return given[-1]

    bits = np.random.default_rng(1).random((400, 700)).astype("float32")
    x = payload(bits) if dtype == "float32" else Array(dtype, bits.shape, (bits.view("<u4") >> 16).astype("<u2").tobytes())
    before = bytes(x.view)
    plain = await backend.execute(operation, {**parameters, "x": x})
    placed = await backend.execute(operation, {**parameters, "x": x, "allocate": allocate})
    assert bytes(x.view) == before
    assert len(given) == 1  # once, and not for a copy
    assert placed.outputs["output"].data.obj is given[0].obj
    assert bytes(placed.outputs["output"].view) == bytes(plain.outputs["output"].view)


def test_an_input_is_seen_where_it_lies_and_lives_as_long_as_its_array(recwarn: pytest.WarningsRecorder) -> None:
    memory = bytes(np.arange(1000.0).tobytes())
    seen = torch.from_numpy(_writable(np.frombuffer(memory, "<f8")))
    assert seen.data_ptr() == np.frombuffer(memory, "<f8").__array_interface__["data"][0]
    del memory
    gc.collect()
    assert seen.sum() == 999 * 500
    assert not recwarn.list


def test_threads(backend: TorchBackend) -> None:
    assert torch.get_num_interop_threads() == 1
    backend.set_threads(2)
    assert (torch.get_num_threads(), backend.threads) == (2, 2)
    backend.set_threads(1)
    backend.trim()


class Separate(TorchBackend):
    """As on a GPU: memory of its own, a library to wait for, arrays made in its place. It is the processor all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self._library = SimpleNamespace(synchronize=lambda: self.calls.append("wait"), empty_cache=lambda: self.calls.append("trim"))
        self.separate_memory = True


async def test_on_a_device_with_memory_of_its_own(catalogue: OperationCatalogue) -> None:
    backend, seen = Separate(), set()
    for case in (case for case in cases() if case.refused is None and case.fails is None):
        if case.operation not in seen:
            found = await answer(backend, **{name: value for name, value in (("operation", case.operation), *case.parameters.items())})
            case.check(found if isinstance(found, dict) else {"output": found})
            seen.add(case.operation)
    assert seen == set(catalogue.names())
    backend.calls.clear()
    given: list[memoryview] = []

    def allocate(nbytes: int) -> memoryview:
        given.append(memoryview(bytearray(nbytes)))
        return given[-1]

    x = np.random.default_rng(1).random((300, 400))
    result = await backend.execute("expression", {"formula": "2*x", "x": payload(x), "allocate": allocate})
    np.testing.assert_array_equal(numpy_array(result.outputs["output"]), 2 * x)
    assert result.outputs["output"].data.obj is given[0].obj
    assert len(given) == 1
    assert result.transfer > 0
    backend.trim()
    assert backend.calls == ["wait", "wait", "trim"]


async def test_errors_are_translated(backend: TorchBackend) -> None:
    with pytest.raises(OutOfMemory, match="ran out of memory on cpu:0: can't allocate memory: you tried to allocate"):
        await answer(backend, "einsum", subscripts="i,j->ij", a=np.ones(1 << 22), b=np.ones(1 << 22))
    assert isinstance(backend.translate("sum", torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")), OutOfMemory)
    assert isinstance(backend.translate("sum", RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)")), OutOfMemory)
    assert backend.translate("sum", NotImplementedError("a defect")) is None
    assert backend.translate("sum", RuntimeError("a defect")) is None
    backend._library = object()  # as on a device
    try:
        refused = backend.translate("qr", NotImplementedError("The operator 'aten::qr' is not implemented for MPS. If you want"))
    finally:
        backend._library = None
    assert isinstance(refused, UnsupportedOnDevice)
    assert refused.message == "qr does not run on cpu:0/torch: The operator 'aten::qr' is not implemented for MPS"
    with pytest.raises(OperationFailed, match="negative power"):
        await backend.execute("expression", {"formula": "x ** y", "x": payload(np.arange(3)), "y": payload(-np.arange(3))})


def test_the_processor_is_always_among_its_devices() -> None:
    first, *cards = TorchBackend.probe()
    assert (first.backend, first.platform, first.index) == ("torch", "cpu", 0)
    assert all(card.platform in ("cuda", "rocm", "xpu", "metal") and card.name and card.memory_total for card in cards)
