import warnings

import numpy as np
import pytest

from openruntime.backends import array_backend
from openruntime.backends.array_backend import ArrayBackend, Memory, host_array
from openruntime.backends.cpu import NumpyBackend
from openruntime.contracts.errors import OperationFailed, OutOfMemory, TaskCancelled, UnsupportedOnDevice
from openruntime.contracts.payload import Array, Spec
from openruntime.contracts.registry import BACKENDS
from openruntime.operations.definition import Array as Xp
from openruntime.operations.definition import Namespace, operation
from openruntime.testing.cases import numpy_array, payload


class Refusing(NumpyBackend):
    unsupported = {"svd": "it has no singular values"}  # noqa: RUF012


class Catalogue:
    """A catalogue of one operation."""

    def __init__(self, function, **declared):
        self.operation = operation(**declared)(function)

    def get(self, name):
        return self.operation

    def bind(self, name, parameters):
        return self.operation.bind(parameters)

    def names(self):
        return [self.operation.name]


def backend_of(function, **declared) -> NumpyBackend:
    return NumpyBackend(catalogue=Catalogue(function, **declared))


async def test_raises_the_reason_of_what_it_lacks():
    backend = Refusing(device="cpu:7")
    assert "svd" not in backend.get_capabilities()
    with pytest.raises(UnsupportedOnDevice, match="svd does not run on cpu:7/numpy: it has no singular values"):
        await backend.execute("svd", {})


@pytest.mark.parametrize(
    ("raised", "error", "words"),
    [
        (MemoryError("too big"), OutOfMemory, "ran out of memory on cpu:0: too big"),
        (np.linalg.LinAlgError("Singular matrix"), OperationFailed, "the matrix is singular"),
        (np.linalg.LinAlgError("Odd"), OperationFailed, "failed: Odd"),
        (ValueError("negative"), OperationFailed, "broken failed: negative"),
        (TaskCancelled("stopped"), TaskCancelled, "stopped"),
        (KeyError("a defect"), KeyError, "a defect"),
    ],
)
async def test_errors_are_translated_once(raised, error, words):
    def broken(x: Xp, *, xp: Namespace) -> Xp:
        """Breaks."""
        raise raised

    with pytest.raises(error, match=words):
        await backend_of(broken).execute("broken", {"x": payload(np.ones(2))})


@pytest.mark.parametrize(
    ("raised", "logged"),
    [
        (ValueError("odd"), True),
        (ZeroDivisionError(), True),
        (np.linalg.LinAlgError("Odd"), False),
        (OperationFailed("by design"), False),
    ],
)
async def test_the_traceback_of_what_was_not_foreseen_is_logged_and_not_answered(raised, logged, caplog):
    def broken(x: Xp, *, xp: Namespace) -> Xp:
        """Breaks."""
        raise raised

    with pytest.raises(OperationFailed) as caught:
        await backend_of(broken).execute("broken", {"x": payload(np.ones(2))})
    assert ("Traceback" in caplog.text and "in broken\n    raise raised" in caplog.text) is logged
    assert caught.value.message.rstrip(": ") != "broken failed"
    assert "Traceback" not in caught.value.message


@pytest.mark.parametrize(
    ("declared", "returned", "words"),
    [
        ({}, None, "boom returned nothing; it declares `output`"),
        ({}, {"mean": np.ones(2)}, "boom returned a dict of `mean`; it declares `output`"),
        ({}, {}, "boom returned a dict of nothing; it declares `output`"),
        ({}, 2.5, "boom returned a float for `output`, which is no array of numbers; xp.asarray makes one"),
        ({}, "text", "boom returned a str for `output`"),
        ({}, np.array(["text"]), "boom returned an array of <U4 for `output`"),
        ({}, np.array([None]), "boom returned an array of object for `output`"),
        ({}, np.ones(2, "float32"), r"boom returned float32 \[2\] for `output`, which was declared as float64 \[2\]; its `check`"),
        ({}, np.ones(3), r"boom returned float64 \[3\] for `output`, which was declared as float64 \[2\]"),
        ({"check": lambda x: Spec("float64", (4,), exact=False)}, np.ones(3, "int8"), "boom returned int8"),
        ({"outputs": ("mean", "spread"), "check": lambda x: {"mean": x, "spread": x}}, np.ones(2), "one value; it declares `mean` and `spread`"),
        ({"outputs": ("mean", "spread"), "check": lambda x: {"mean": x, "spread": x}}, {"mean": np.ones(2), "spread": None}, "nothing for `spread`"),
    ],
)  # fmt: skip
async def test_an_operation_returns_what_it_declares(declared, returned, words):
    def boom(x: Xp, *, xp: Namespace) -> Xp:
        """Returns something else."""
        return returned

    with pytest.raises(OperationFailed, match=words):
        await backend_of(boom, **declared).execute("boom", {"x": payload(np.ones(2))})


async def test_an_output_may_be_smaller_where_the_data_decides():
    def some(x: Xp, *, xp: Namespace) -> Xp:
        """Some of them."""
        return x[:1]

    backend = backend_of(some, check=lambda x: Spec(x.dtype, x.shape, exact=False))
    assert (await backend.execute("some", {"x": payload(np.ones(2))})).outputs["output"].shape == (1,)


async def test_memory_that_does_not_exist_fails_one_task():
    def huge(x: Xp, *, xp: Namespace) -> Xp:
        """Asks for 8 PiB."""
        return xp.zeros((1 << 50,))

    with pytest.raises(OutOfMemory):
        await backend_of(huge).execute("huge", {"x": payload(np.ones(2))})


async def test_no_warning_leaves():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = await NumpyBackend().execute("expression", {"formula": "log(x) / x", "x": payload(np.array([0.0, -1.0]))})
    assert np.isnan(numpy_array(found.outputs["output"])[1])


@pytest.mark.parametrize("view", [lambda x: x, lambda x: x[::-1], lambda x: x.T, lambda x: x[:1]], ids=["itself", "reversed", "turned", "part"])
async def test_an_output_is_never_a_view_of_an_input(view):
    def look(x: Xp, *, xp: Namespace) -> Xp:
        """A view."""
        return view(x)

    body = bytearray(np.arange(6.0).tobytes())
    shape = view(np.empty((2, 3))).shape
    found = await backend_of(look, check=lambda x: Spec("float64", shape)).execute("look", {"x": Array("float64", (2, 3), memoryview(body))})
    before = numpy_array(found.outputs["output"]).tolist()
    body[:] = bytes(48)
    assert numpy_array(found.outputs["output"]).tolist() == before == view(np.arange(6.0).reshape(2, 3)).tolist()


async def test_matmul_writes_into_the_memory_it_was_given():
    a = np.random.default_rng(0).random((200, 150))
    memory = bytearray(1 << 20)
    found = await NumpyBackend().execute("matmul", {"a": payload(a), "b": payload(a.T), "allocate": lambda n: memoryview(memory)[:n]})
    output = found.outputs["output"]
    np.testing.assert_allclose(np.frombuffer(memory, "f8", 200 * 200).reshape(200, 200), a @ a.T)
    memory[:8] = np.float64(7).tobytes()
    assert numpy_array(output)[0, 0] == 7


async def test_a_small_output_needs_no_memory_of_the_caller():
    def never(nbytes: int) -> memoryview:
        raise AssertionError("asked for memory")

    found = await NumpyBackend().execute("expression", {"formula": "x+1", "x": payload(np.ones(8)), "allocate": never})
    assert numpy_array(found.outputs["output"]).tolist() == [2.0] * 8


async def test_more_output_than_declared_is_out_of_memory():
    def refuse(nbytes: int) -> memoryview:
        raise MemoryError("declared less")

    with pytest.raises(OutOfMemory, match="declared less"):
        await NumpyBackend().execute("expression", {"formula": "x+1", "x": payload(np.ones(80_000)), "allocate": refuse})


def test_arrays_are_read_without_a_copy():
    body = bytearray(np.arange(4.0).tobytes())
    host = host_array(Array("float64", (2, 2), memoryview(body)))
    body[:8] = np.float64(9).tobytes()
    assert host[0, 0] == 9
    assert host_array(Array("int8", (0, 5), b"")).shape == (0, 5)


async def test_a_dtype_that_it_lacks_is_refused_by_name():
    with pytest.raises(UnsupportedOnDevice, match="`x` is bfloat16, which does not run on cpu:0/numpy: NumPy has no bfloat16; send float32"):
        await NumpyBackend().execute("sum", {"x": Array("bfloat16", (1,), b"ab")})


def test_what_leaves_is_contiguous_and_little_endian():
    memory = Memory(None, 0)
    found = memory.keep(np.arange(6, dtype=">i4").reshape(2, 3).T)
    assert found.shape == (3, 2)
    assert bytes(found.view) == np.array([[0, 3], [1, 4], [2, 5]], "<i4").tobytes()
    assert bytes(memory.keep(np.float32(1.5)[()] * np.ones((), "f4")).view) == np.float32(1.5).tobytes()
    assert memory.keep(np.zeros((0, 2), bool)).view.nbytes == 0
    assert memory.keep(np.ones(1, "complex64")).dtype == "complex64"


def test_threads_can_be_set():
    backend = NumpyBackend(threads=2)
    backend.set_threads(1)
    assert backend.threads == 1


def test_is_registered():
    assert BACKENDS.load("numpy") is NumpyBackend
    assert issubclass(NumpyBackend, ArrayBackend)


async def test_transfers_and_compiling_are_timed_apart_from_computing(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(array_backend, "perf_counter", lambda: clock[0])

    def takes(seconds):
        clock[0] += seconds

    def slow(x: Xp, *, xp: Namespace) -> Xp:
        """Takes its time."""
        takes(3.0)
        return x + 1

    class Away(NumpyBackend):
        separate_memory = True

        def from_host(self, array):
            takes(2.0)
            return array

        def to_host(self, array):
            takes(2.0)
            return array

        def _run(self, operation, arguments):
            takes(1.0)
            self.compiling += 1.0
            return super()._run(operation, arguments)

    backend = Away(catalogue=Catalogue(slow))
    for _ in range(2):  # a second call starts from nothing
        result = await backend.execute("slow", {"x": payload(np.ones(3))})
        assert (result.compile, result.transfer, result.seconds) == (1.0, 4.0, 3.0)
    backend.separate_memory = False
    assert (await backend.execute("slow", {"x": payload(np.ones(3))})).transfer == 0
