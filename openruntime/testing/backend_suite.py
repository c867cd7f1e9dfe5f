"""The contract of a compute backend, as tests. Subclass `BackendSuite` and set `backend_class`."""

import asyncio
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest

from openruntime.contracts.errors import InvalidParameter, OpenRuntimeError, OperationFailed, TaskCancelled, UnknownOperation, UnsupportedOnDevice
from openruntime.contracts.interfaces import ComputeBackend
from openruntime.contracts.payload import ITEMSIZE, Array
from openruntime.contracts.records import Call, Result
from openruntime.operations.catalogue import FAMILIES, OperationCatalogue
from openruntime.runtimes.batching import joined, parted
from openruntime.testing.cases import Case, cases, in_bfloat16, numpy_array, payload

_CASES = cases()
_GOOD = [case for case in _CASES if case.refused is None and case.fails is None]
_BFLOAT16 = [brain for case in _GOOD if (brain := in_bfloat16(case)) is not None]
_FAILING = [case for case in _CASES if case.fails is not None]
_REFUSED = [case for case in _CASES if case.refused is not None]
_ALIKE = [name for names in FAMILIES.values() for name in names if OperationCatalogue().get(name).batch is not None]


class BackendSuite:
    """Every operation against NumPy: dtypes, shapes, bad input; and that each `unsupported` entry really raises."""

    backend_class: ClassVar[type[ComputeBackend]]
    device: ClassVar[str] = "cpu:0"
    stacked_cases: ClassVar[int | None] = 3  # unlike ones of each operation; None for all, with which NumPy shows that the rules are right

    @pytest.fixture(scope="class")
    @classmethod
    def catalogue(cls) -> OperationCatalogue:
        return OperationCatalogue()

    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls) -> ComputeBackend:
        return cls.backend_class(device=cls.device, threads=1)  # type: ignore[call-arg]  # every backend takes them; the ABC has no __init__

    @pytest.mark.parametrize("case", [*_GOOD, *_BFLOAT16], ids=str)
    def test_answers_like_numpy(self, case: Case, backend: ComputeBackend, catalogue: OperationCatalogue) -> None:
        _supported(case, backend)
        call = _bind(case, catalogue)
        before = _inputs(call)
        result = _run(backend, call)
        assert result.seconds >= 0
        assert list(result.outputs) == list(catalogue.get(case.operation).outputs) == list(call.outputs)
        for name, spec in call.outputs.items():
            output = result.outputs[name]
            assert output.dtype == spec.dtype, f"{name} is {output.dtype}, declared {spec.dtype}"
            if spec.exact:
                assert output.shape == spec.shape, f"{name} has shape {output.shape}, declared {spec.shape}"
            assert output.nbytes <= spec.nbytes
            assert output.view.nbytes == output.nbytes
        case.check({name: numpy_array(output) for name, output in result.outputs.items()})
        assert _inputs(call) == before, "the operation wrote into its input"

    @pytest.mark.parametrize("case", _FAILING, ids=str)
    def test_values_it_cannot_answer_fail_the_task(self, case: Case, backend: ComputeBackend, catalogue: OperationCatalogue) -> None:
        _supported(case, backend)
        with pytest.raises(OperationFailed, match=case.fails) as caught:
            _run(backend, _bind(case, catalogue))
        assert "Traceback" not in caught.value.message

    @pytest.mark.parametrize("case", _REFUSED, ids=str)
    def test_bad_input_is_refused_before_queueing(self, case: Case, catalogue: OperationCatalogue) -> None:
        with pytest.raises(InvalidParameter) as caught:
            _bind(case, catalogue)
        assert caught.value.field == case.refused
        assert str(case.refused) in caught.value.message

    @pytest.mark.parametrize("operation", _ALIKE)
    def test_alike_calls_that_run_as_one_are_answered_as_alone(self, operation: str, backend: ComputeBackend, catalogue: OperationCatalogue) -> None:
        if operation in backend.unsupported:
            pytest.skip(f"unsupported: {backend.unsupported[operation]}")
        seen: set[Any] = set()
        for case in (case for case in _GOOD if case.operation == operation):
            mine = {name: _given(value) for name, value in case.parameters.items()}
            stacking = backend.stacking(operation, mine)
            look = _looks(case)
            if stacking is None or (self.stacked_cases is not None and (len(seen) >= self.stacked_cases or look in seen)):
                continue
            other = replace(case, parameters={name: _halved(value) if name in stacking.arrays else value for name, value in case.parameters.items()})
            calls = [_bind(one, catalogue).parameters for one in (case, other, case)]
            parameters = joined(stacking, calls)
            catalogue.bind(operation, parameters)  # a call like any other
            try:
                parts = parted(stacking, asyncio.run(backend.execute(operation, parameters)).outputs, len(calls))
            except UnsupportedOnDevice:
                continue  # a dtype that the library lacks
            for one, part in zip((case, other, case), parts, strict=True):
                if one is case or callable(case.expected):
                    one.check({name: numpy_array(output) for name, output in part.items()})
            seen.add(look)
        assert seen, f"no case of {operation} was joined"

    def test_every_unsupported_entry_raises_its_reason(self, backend: ComputeBackend, catalogue: OperationCatalogue) -> None:
        for name, reason in backend.unsupported.items():
            catalogue.get(name)
            with pytest.raises(UnsupportedOnDevice) as caught:
                asyncio.run(backend.execute(name, {}))
            assert reason in caught.value.message
            assert name not in backend.get_capabilities()

    def test_every_dtype_it_lacks_raises_its_reason(self, backend: ComputeBackend, catalogue: OperationCatalogue) -> None:
        usual = next(name for name in ("sum", "sort") if name in backend.get_capabilities())
        for lacking, reason in backend.lacks.items():  # a dtype, or an operation and a dtype
            operation, _, dtype = lacking.rpartition(" ")
            like = next(case for case in _GOOD if case.operation == (operation or usual))
            arrays = {name: value for name, value in like.parameters.items() if isinstance(value, np.ndarray)}
            made = {name: Array(dtype, value.shape, bytes(value.size * ITEMSIZE[dtype])) for name, value in arrays.items()}
            call = catalogue.bind(like.operation, like.parameters | made)
            with pytest.raises(UnsupportedOnDevice) as caught:
                asyncio.run(backend.execute(call.operation, call.parameters))
            assert reason in caught.value.message

    def test_it_says_which_devices_it_drives(self) -> None:
        assert all(probe.platform and probe.index >= 0 for probe in self.backend_class.probe())

    def test_capabilities_are_operations_of_the_catalogue(self, backend: ComputeBackend, catalogue: OperationCatalogue) -> None:
        assert backend.get_capabilities()
        assert set(backend.get_capabilities()) <= set(catalogue.names())

    def test_an_unknown_operation_is_refused(self, backend: ComputeBackend) -> None:
        with pytest.raises(UnknownOperation, match="matmul"):
            asyncio.run(backend.execute("matmull", {}))

    def test_an_input_may_start_anywhere_in_memory(self, backend: ComputeBackend, catalogue: OperationCatalogue) -> None:
        body = np.arange(6, dtype="<f8").tobytes()
        array = Array("float64", (2, 3), memoryview(bytes(1) + body)[1:])
        result = _run(backend, catalogue.bind("sum", {"x": array, "axis": 0}))
        assert numpy_array(result.outputs["output"]).tolist() == [3.0, 5.0, 7.0]

    def test_a_large_output_goes_where_the_caller_wants_it(self, backend: ComputeBackend, catalogue: OperationCatalogue) -> None:
        x = np.arange(40_000, dtype="float64" if "float64" not in backend.lacks else "float32")
        given: list[memoryview] = []

        def allocate(nbytes: int) -> memoryview:
            given.append(memoryview(bytearray(nbytes)))
            return given[-1]

        call = catalogue.bind("expression", {"formula": "2*x", "x": payload(x)})
        result = asyncio.run(backend.execute(call.operation, {**call.parameters, "allocate": allocate}))
        np.testing.assert_array_equal(numpy_array(result.outputs["output"]), 2 * x)
        if given:
            np.testing.assert_array_equal(np.frombuffer(given[0], x.dtype)[: x.size], 2 * x)

    def test_steps_report_and_stop(self, backend: ComputeBackend, catalogue: OperationCatalogue) -> None:
        names = [name for name in backend.get_capabilities() if "steps" in catalogue.get(name).takes]
        for case in (next(case for case in _GOOD if case.operation == name) for name in names):
            call = _bind(case, catalogue)
            seen: list[tuple[int, int]] = []
            _run(backend, call, steps=lambda done, total, message=None, seen=seen: seen.append((done, total)))
            assert seen, f"{case.operation} reports no progress"
            assert all(0 <= done <= total for done, total in seen)

            def stop(done: int, total: int, message: str | None = None) -> None:
                raise TaskCancelled("stopped between steps")

            with pytest.raises(TaskCancelled):
                _run(backend, call, steps=stop)


def _supported(case: Case, backend: ComputeBackend) -> None:
    reason = backend.unsupported.get(case.operation)
    if reason is not None:
        pytest.skip(f"unsupported: {reason}")


def _bind(case: Case, catalogue: OperationCatalogue) -> Call:
    try:
        return catalogue.bind(case.operation, {name: _given(value) for name, value in case.parameters.items()})
    except OpenRuntimeError as error:
        if case.refused is None:
            pytest.fail(f"refused: {error.message}")
        raise


def _given(value: Any) -> Any:
    if isinstance(value, list):
        return [_given(item) for item in value]
    return payload(value) if isinstance(value, np.ndarray | np.generic) else value


def _looks(case: Case) -> Any:
    """What tells cases apart as far as stacking them is concerned: ranks, kinds of numbers, which parameters are given."""
    return tuple((name, (value.dtype.kind, value.ndim) if isinstance(value, np.ndarray) else repr(value)) for name, value in case.parameters.items())


def _halved(value: Any) -> Any:
    """Other numbers that an operation takes wherever it takes these."""
    return np.multiply(value, 0.5, dtype=value.dtype) if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "fc" else value


def _inputs(call: Call) -> list[bytes]:
    lists = [value if isinstance(value, list) else [value] for value in call.parameters.values()]
    return [bytes(array.view) for listed in lists for array in listed if isinstance(array, Array)]


def _run(backend: ComputeBackend, call: Call, **more: Any) -> Result:
    try:
        return asyncio.run(backend.execute(call.operation, {**call.parameters, **more}))
    except UnsupportedOnDevice as error:  # a dtype that the library lacks
        pytest.skip(f"unsupported: {error.message}")
