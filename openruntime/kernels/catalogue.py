"""Kernels and operations under one name space: what a call by name means for a tenant."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import msgspec

from openruntime.contracts import nested
from openruntime.contracts.errors import InvalidParameter, UnknownOperation, nearest
from openruntime.contracts.interfaces import Catalogue
from openruntime.contracts.kernel_reading import read
from openruntime.contracts.kernels import COMPILE, TUNE, VERIFY, KernelSpec, decoded, encoded
from openruntime.contracts.payload import Array, Spec
from openruntime.contracts.records import LOCAL, Call, Estimate, Program
from openruntime.contracts.tunables import settled
from openruntime.kernels.trial_calls import REPORT, trial_call
from openruntime.operations.definition import Array as AnArray
from openruntime.operations.definition import Parameter


class Kernel(msgspec.Struct, frozen=True, dict=True):
    """A registered kernel. `version` counts the changes; `created` in seconds since the epoch; `compiled` is how its compilation went, `trials`
    how verifying and tuning it did, by `verify` and `tune`."""

    spec: KernelSpec
    version: int
    tenant: str
    created: float
    compiled: dict[str, Any] = {}
    trials: dict[str, dict[str, Any]] = {}

    @cached_property
    def program(self) -> Program:
        return Program(self.spec.requires, encoded(self.spec))

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """Its array parameters, by name."""
        return {argument.name: Parameter(argument.name, "array", AnArray, True) for argument in self.spec.inputs}

    def describe(self) -> dict[str, Any]:
        """As `/operations` shows it: the fields of `Catalogue.describe`, and what it `requires`."""
        spec, symbols = self.spec, self.spec.symbols
        properties = {name: parameter.schema() for name, parameter in self.parameters.items()}
        for argument in spec.inputs:
            properties[argument.name] |= {"title": _told(argument.dtype, argument.shape)}
        properties |= {scalar.name: {"type": _json_type(scalar.dtype), "title": scalar.dtype} for scalar in spec.scalars}
        required = [*self.parameters, *(scalar.name for scalar in spec.scalars if scalar.name not in symbols)]
        told = ", ".join(f"{argument.name} {_told(argument.dtype, argument.shape)}" for argument in spec.outputs)
        summary = f"A kernel of your own in {spec.language}: {told}."
        return {
            "name": spec.name, "family": "kernels", "version": self.version, "summary": summary, "doc": f"{summary}\n\n{signature(spec)}",
            "parameters": {"type": "object", "properties": properties, "required": required, "additionalProperties": False},
            "outputs": [argument.name for argument in spec.outputs], "steps": False, "cacheable": True, "requires": spec.requires,
        }  # fmt: skip

    def bind(self, given: Mapping[str, Any]) -> Call:
        """A checked call. Raises `InvalidParameter` naming the parameter, `TooLarge`."""
        spec, name = self.spec, self.spec.name
        scalars = {scalar.name: given[scalar.name] for scalar in spec.scalars if given.get(scalar.name) is not None}
        for parameter in given:
            if parameter not in self.parameters and not any(parameter == scalar.name for scalar in spec.scalars):
                known = [*self.parameters, *(scalar.name for scalar in spec.scalars)]
                hint = nearest(parameter, known) or f"; it takes {', '.join(known) or 'nothing'}"
                raise InvalidParameter(f"{name} has no parameter `{parameter}`{hint}", field=parameter)
        arrays: dict[str, Any] = {}
        for argument in spec.inputs:
            if given.get(argument.name) is None:
                raise InvalidParameter(f"{name} needs the parameter `{argument.name}`: an array", field=argument.name)
            value = given[argument.name]
            array = self.parameters[argument.name].read(name, value)
            arrays[argument.name] = array if isinstance(value, Array | Spec) else nested.cast(array, argument.dtype, argument.name)
        binding = settled(spec).bind(arrays, scalars)
        specs = [Spec(array.dtype, array.shape) for array in arrays.values()] + list(binding.outputs.values())
        size = sum(found.nbytes for found in specs)
        largest = max(specs, key=lambda found: found.nbytes)
        numbers = {scalar: value for scalar, value in binding.scalars.items() if scalar in scalars}
        return Call(
            name, self.version, arrays | numbers, binding.outputs, Estimate(0.0, float(size), 2 * size), True, largest.dtype,
            sum(found.size for found in specs), (), self.program,
        )  # fmt: skip


def signature(spec: KernelSpec) -> str:
    """One line: what goes in and comes out."""
    taken = [f"{argument.name}: {_told(argument.dtype, argument.shape)}" for argument in spec.inputs]
    taken += [f"{scalar.name}: {scalar.dtype}" for scalar in spec.scalars]
    given = [f"{argument.name}: {_told(argument.dtype, argument.shape)}" for argument in spec.outputs]
    return f"{spec.name}({', '.join(taken)}) → {', '.join(given)}"


def _told(dtype: str, shape: Sequence[int | str]) -> str:
    return f"{dtype}[{', '.join(map(str, shape))}]"


def _json_type(dtype: str) -> str:
    return "boolean" if dtype == "bool" else "integer" if "int" in dtype else "number"


class KernelCatalogue(Catalogue):
    """Implements `Catalogue` for one tenant: its kernels, and everybody's operations. `kernels`: tenant -> name -> kernel, as they are now."""

    def __init__(self, operations: Catalogue, kernels: Mapping[str, Mapping[str, Kernel]], tenant: str = LOCAL.tenant) -> None:
        self._operations = operations
        self._all = kernels
        self._tenant = tenant
        self._others: dict[str, KernelCatalogue] = {}

    def of(self, tenant: str) -> "KernelCatalogue":
        if tenant == self._tenant:
            return self
        found = self._others.get(tenant)
        if found is None:
            found = self._others[tenant] = KernelCatalogue(self._operations, self._all, tenant)
        return found

    def _kernel(self, name: str) -> Kernel | None:
        kernels = self._all.get(self._tenant)
        return kernels.get(name) if kernels else None

    def names(self) -> Sequence[str]:
        return [*self._operations.names(), *sorted(self._all.get(self._tenant, ()))]

    def has(self, name: str) -> bool:
        return self._kernel(name) is not None or name in (COMPILE, VERIFY, TUNE) or self._operations.has(name)

    def describe(self, name: str) -> dict[str, Any]:
        kernel = self._kernel(name)
        return kernel.describe() if kernel is not None else self._known(name, self._operations.describe)

    def first_array(self, name: str) -> str:
        kernel = self._kernel(name)
        if kernel is None:
            found: str = self._known(name, self._operations.first_array)
            return found
        if not kernel.spec.inputs:
            raise InvalidParameter(f"{name} has no array parameter for an .npy body")
        return kernel.spec.inputs[0].name

    def bind(self, name: str, parameters: Mapping[str, Any], before: Call | None = None) -> Call:
        if before is not None and before.program is not None:  # its kernel may be another by now, or gone
            return Kernel(decoded(before.program.source), before.version, self._tenant, 0.0).bind(parameters)
        kernel = self._kernel(name)
        if kernel is not None:
            return kernel.bind(parameters)
        if name == COMPILE:
            return compilation(parameters)
        if name in (VERIFY, TUNE):
            return trial_call(name, parameters, self._all.get(self._tenant, {}))
        try:
            return self._operations.bind(name, parameters)
        except UnknownOperation as error:
            raise self._unknown(name, error) from None

    def _known(self, name: str, ask: Any) -> Any:
        try:
            return ask(name)
        except UnknownOperation as error:
            raise self._unknown(name, error) from None

    def _unknown(self, name: str, error: UnknownOperation) -> UnknownOperation:
        """The error, with this tenant's kernels among the names that are like it."""
        if not self._all.get(self._tenant):
            return error
        return UnknownOperation(f"there is no operation {name!r:.100}{nearest(name, self.names())}", field=error.field)


def compilation(parameters: Mapping[str, Any]) -> Call:
    """A call that compiles `parameters["kernel"]`, and answers a `Report`."""
    spec = read(parameters.get("kernel"))
    outputs = {"report": REPORT}
    about = {"kernel": spec.name, "language": spec.language}
    return Call(COMPILE, 1, about, outputs, Estimate(), False, "uint8", 0, (), Program(spec.requires, encoded(spec)))
