"""The contract of an operation, as checks and as tests. Subclass `OperationSuite`, set `operation` and `examples`."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar

import msgspec
import numpy as np

from openruntime.backends.cpu import NumpyBackend
from openruntime.contracts.errors import InvalidParameter, OpenRuntimeError, OperationFailed
from openruntime.contracts.payload import Array
from openruntime.contracts.records import Call
from openruntime.operations.catalogue import OperationCatalogue
from openruntime.runtimes.batching import joined, parted
from openruntime.testing.cases import close, numpy_array, payload

LONGEST = 200  # characters of a summary


class NotRunHere(Exception):
    """A check that something which is not installed, or not declared, would be needed for."""


@dataclass(frozen=True)
class Example:
    """A call: NumPy arrays, nested lists and plain values; what must come of it where it is known: the output, or outputs by name."""

    parameters: Mapping[str, Any]
    expected: Any = None


class Trial:
    """An operation on NumPy's backend, and calls of it."""

    def __init__(self, operation: str, examples: Sequence[Example], catalogue: OperationCatalogue | None = None) -> None:
        self.catalogue = catalogue or OperationCatalogue()
        self.name = operation
        self.operation = self.catalogue.get(operation)
        self.backend = NumpyBackend(catalogue=self.catalogue)
        self.examples = [Example({key: _array(value) for key, value in one.parameters.items()}, one.expected) for one in examples]

    def bind(self, parameters: Mapping[str, Any]) -> Call:
        wired = {name: payload(value) if isinstance(value, np.ndarray) else value for name, value in parameters.items()}
        return self.catalogue.bind(self.name, wired)

    def run(self, call: Call) -> dict[str, Any]:
        return dict(asyncio.run(self.backend.execute(call.operation, dict(call.parameters))).outputs)

    def variants(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The examples, and calls like them with other dtypes, sizes and values; those that the operation refuses are left out."""
        for number, example in enumerate(self.examples, 1):
            for what, change in _CHANGES.items():
                given = {name: change(value) if isinstance(value, np.ndarray) else value for name, value in example.parameters.items()}
                try:
                    self.bind(given)
                except InvalidParameter:
                    if what == "as it stands":
                        raise
                    continue
                yield f"example {number} {what}", given


def _array(value: Any) -> Any:
    return np.asarray(value, dtype=_listed(value)) if isinstance(value, list) else value


def _listed(value: Any) -> str:
    """The dtype of nested lists in JSON: of all booleans bool, of all integers int64, else float64."""
    kind = np.asarray(value).dtype.kind if value else "f"
    return {"b": "bool", "i": "int64", "u": "int64"}.get(kind, "float64")


_CHANGES: dict[str, Callable[[Any], Any]] = {
    "as it stands": lambda x: x,
    "in float32": lambda x: x.astype("float32") if x.dtype.kind == "f" else x,
    "in int64": lambda x: x.astype("int64") if x.dtype.kind == "f" else x,
    "empty": lambda x: x[..., :0] if x.ndim else x,
    "of one element": lambda x: x[(slice(0, 1),) * x.ndim],
    "backwards": lambda x: x[..., ::-1] if x.ndim else x,
    "with NaN and infinity": lambda x: _strange(x),
}


def _strange(x: Any) -> Any:
    if x.dtype.kind != "f" or not x.size:
        return x
    changed = x.copy().reshape(-1)
    changed[: min(2, changed.size)] = [np.nan, np.inf][: min(2, changed.size)]
    return changed.reshape(x.shape)


def documented(trial: Trial) -> None:
    """A first sentence of at most 200 characters, that ends."""
    summary = trial.operation.doc.partition("\n")[0]
    assert summary, "its docstring is empty"
    assert len(summary) <= LONGEST, f"the first line of its docstring has {len(summary)} characters; {LONGEST} is the most"
    assert summary.endswith("."), "the first line of its docstring is no sentence"


def described(trial: Trial) -> None:
    """What `/operations` shows of it is JSON."""
    msgspec.json.encode(trial.operation.describe())


def answers(trial: Trial) -> None:
    """Each example gives what it must."""
    assert trial.examples, "there are no examples"
    agree(trial.examples, [trial.run(trial.bind(example.parameters)) for example in trial.examples])


def agree(examples: Sequence[Example], outputs: Sequence[Mapping[str, Any]]) -> None:
    """Raises `AssertionError` where outputs, one mapping an example, are not what was expected."""
    assert len(outputs) == len(examples), f"{len(outputs)} answers to {len(examples)} examples"
    for number, (example, answer) in enumerate(zip(examples, outputs, strict=True), 1):
        found = {name: numpy_array(output) for name, output in answer.items()}
        if example.expected is None:
            continue
        wanted = example.expected if isinstance(example.expected, Mapping) else {"output": example.expected}
        assert found.keys() == wanted.keys(), f"example {number} gives {', '.join(found)}, wanted {', '.join(wanted)}"
        for name, value in wanted.items():
            close(found[name], np.asarray(value), name=f"{name} of example {number}")


def declared(trial: Trial) -> None:
    """Outputs have the dtypes and shapes that `check` said, whatever the inputs' dtypes, sizes and values."""
    for what, given in trial.variants():
        call = trial.bind(given)
        try:
            with np.errstate(all="ignore"):
                outputs = trial.run(call)
        except OperationFailed as error:
            if f"{trial.name} returned" in error.message:  # how a backend begins to say that something else was declared
                raise AssertionError(f"{what}: {error.message}") from None
            continue  # values that it cannot answer
        except OpenRuntimeError as error:
            raise AssertionError(f"{what}: {error.message}") from None
        assert list(outputs) == list(call.outputs), what
        for name, spec in call.outputs.items():
            assert outputs[name].dtype == spec.dtype, f"{what}: {name} is {outputs[name].dtype}, declared {spec.dtype}"
            if spec.exact:
                assert outputs[name].shape == spec.shape, f"{what}: {name} has shape {outputs[name].shape}, declared {spec.shape}"


def pure(trial: Trial) -> None:
    """It leaves its inputs as they were, and gives the same twice."""
    for example in trial.examples:
        call = trial.bind(example.parameters)
        before = {name: bytes(value.view) for name, value in call.parameters.items() if isinstance(value, Array)}
        first, second = trial.run(call), trial.run(call)
        after = {name: bytes(value.view) for name, value in call.parameters.items() if isinstance(value, Array)}
        assert after == before, "it wrote into its input"
        for name, output in first.items():
            assert bytes(output.view) == bytes(second[name].view), f"{name} differs from one call to the next"


def estimated(trial: Trial) -> None:
    """What it says that a call costs is possible: no less than its arrays."""
    for what, given in trial.variants():
        call = trial.bind(given)
        held = sum(spec.nbytes for spec in call.outputs.values())
        assert call.estimate.flops >= 0, f"{what}: {call.estimate.flops} FLOPs"
        assert call.estimate.bytes >= 0, f"{what}: {call.estimate.bytes} bytes"
        assert call.estimate.memory >= held, f"{what}: it says that it holds {call.estimate.memory} bytes, and its outputs have {held}"


def refuses(trial: Trial) -> None:
    """A missing, an unknown and a wrong parameter are named, before anything is queued."""
    good = dict(trial.examples[0].parameters)
    bad: list[tuple[str, dict[str, Any]]] = [("no_such_parameter", good | {"no_such_parameter": 1})] if trial.operation.rest is None else []
    for name, parameter in trial.operation.parameters.items():
        if parameter.required:
            bad.append((name, {key: value for key, value in good.items() if key != name}))
        if parameter.kind == "array":
            bad.append((name, good | {name: "text"}))
    for field, given in bad:
        told = _refusal(trial, given)
        assert told == field, f"a wrong or missing `{field}` is {'not refused' if told is None else f'told as `{told}`'}"


def _refusal(trial: Trial, given: Mapping[str, Any]) -> str | None:
    """The field that is named, None where it is taken."""
    try:
        trial.bind(given)
    except InvalidParameter as error:
        return error.field or ""
    return None


def stacks(trial: Trial) -> None:
    """Alike calls that run as one are answered as alone."""
    if trial.operation.batch is None:
        raise NotRunHere("it declares no `batch`")
    for example in trial.examples:
        call = trial.bind(example.parameters)
        stacking = trial.operation.stacking(call.parameters)
        if stacking is None:
            continue
        parameters = joined(stacking, [call.parameters] * 3)
        trial.catalogue.bind(trial.name, parameters)
        alone = trial.run(call)
        for part in parted(stacking, asyncio.run(trial.backend.execute(trial.name, parameters)).outputs, 3):
            for name, output in alone.items():
                close(numpy_array(part[name]), numpy_array(output), name=name)


def standard(trial: Trial) -> None:
    """It uses what the Array API standard promises and nothing else, as array-api-strict has it."""
    if find_spec("array_api_strict") is None:
        raise NotRunHere("array-api-strict is not installed")
    strict = import_module("array_api_strict")
    for example in trial.examples:
        call = trial.bind(example.parameters)
        given = {name: strict.asarray(numpy_array(value).copy()) if isinstance(value, Array) else value for name, value in call.parameters.items()}
        try:
            found = trial.operation(**given, **{"xp": strict} if "xp" in trial.operation.takes else {})
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error}") from error
        named = found if isinstance(found, dict) else {"output": found}
        for name, output in trial.run(call).items():
            close(np.asarray(named[name]), numpy_array(output), name=name)


CHECKS: dict[str, Callable[[Trial], None]] = {
    check.__name__: check for check in (documented, described, answers, declared, pure, estimated, refuses, stacks, standard)
}


def examine(trial: Trial) -> list[dict[str, Any]]:
    """What became of each check: `{"check", "ok", "detail"}`; `ok` is None for one that was not run, with the reason."""
    found: list[dict[str, Any]] = []
    for name, check in CHECKS.items():
        try:
            check(trial)
            found.append({"check": name, "ok": True, "detail": (check.__doc__ or "").strip()})
        except NotRunHere as reason:
            found.append({"check": name, "ok": None, "detail": str(reason)})
        except Exception as error:
            told = str(error).strip() or type(error).__name__
            found.append({"check": name, "ok": False, "detail": told if isinstance(error, AssertionError) else f"{type(error).__name__}: {told}"})
    return found


class OperationSuite:
    """The same as tests, one a check."""

    operation: ClassVar[str]
    examples: ClassVar[Sequence[Example]]

    def test_it_keeps_the_contract(self) -> None:
        failed = [row for row in examine(Trial(self.operation, self.examples)) if row["ok"] is False]
        assert not failed, "\n".join(f"{row['check']}: {row['detail']}" for row in failed)
