"""The operation that a kernel claims to compute, bound to the kernel's inputs and scalars. Says so at registration where they do not go together."""

import re
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

from openruntime.contracts.errors import InvalidParameter, OpenRuntimeError, TooLarge
from openruntime.contracts.kernels import KernelSpec, Number
from openruntime.contracts.payload import Spec
from openruntime.contracts.records import Call
from openruntime.contracts.tunables import settled
from openruntime.operations.catalogue import OperationCatalogue

# sizes that verification tries: small and odd, around powers of two, multiples of what arrays are aligned to; by the symbols in their order
SMALL = (7, 5, 3, 11, 2, 13)
EDGES = (65, 33, 17, 129, 31, 9)
WHOLE = (128, 64, 192, 64, 128, 64)  # multiples of what arrays are aligned to, so that they can end where a page ends


class ReferenceCall:
    """A kernel's reference as calls of its operation."""

    def __init__(self, spec: KernelSpec, catalogue: OperationCatalogue) -> None:
        """Raises `UnknownOperation`, `InvalidParameter` where the kernel has no reference, or it has not the kernel's outputs."""
        if spec.reference is None:
            raise InvalidParameter(
                f"{spec.name} names no `reference`: an operation, or a formula with `expression`, that computes the same", field="reference"
            )
        self._spec = spec
        self._reference = spec.reference
        self._catalogue = catalogue
        self.operation = catalogue.get(spec.reference.operation)
        self.outputs = self._outputs()

    def _outputs(self) -> dict[str, str]:
        """The kernel's outputs -> the operation's: by their names, or one to one."""
        theirs, ours = self.operation.outputs, [output.name for output in self._spec.outputs]
        if len(ours) == len(theirs) == 1 and not self._reference.outputs:
            return {ours[0]: theirs[0]}
        named = {name: self._reference.outputs.get(name, name) for name in ours}
        for i, (name, wanted) in enumerate(named.items()):
            if wanted not in theirs:
                field = f"outputs.{i}.name"
                told = f"{self.operation.name} has the outputs {', '.join(theirs)}, and none called {wanted!r}"
                raise InvalidParameter(f"`{field}`: {told}; `reference.outputs` may say which {name!r} is", field=field)
        return named

    def bind(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], Call]:
        """The operation's parameters, and what binding them says; `given`: inputs (`Array`, `Spec`) and scalars by name.

        Raises `InvalidParameter`."""
        parameters = {name: self._stood_for(value, given) for name, value in self._reference.parameters.items()}
        for name in self._taken(parameters, given):
            parameters.setdefault(name, given[name])
        return parameters, self._catalogue.bind(self.operation.name, parameters)

    def _taken(self, parameters: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
        """Of the kernel's inputs and scalars, those that the operation knows by name; of a formula, those that stand in it."""
        if self.operation.rest is None:
            return [name for name in given if name in self.operation.parameters]
        words = set(re.findall(r"[A-Za-z_]\w*", str(parameters.get("formula", ""))))
        return [name for name in given if name in words]

    @staticmethod
    def _stood_for(value: Any, given: Mapping[str, Any]) -> Any:
        if isinstance(value, dict) and value.keys() in ({"input"}, {"scalar"}):
            (name,) = value.values()
            if name not in given:
                raise InvalidParameter(f"`reference.parameters`: the kernel has no {next(iter(value))} {name!r}", field="reference.parameters")
            return given[name]
        return value

    def takes_array(self, name: str | None) -> bool:
        """Whether the operation has an array under this name, so that no number will do."""
        parameter = self.operation.parameters.get(name or "")
        return parameter is not None and parameter.kind in ("array", "arrays")

    def fits(self, shapes: Mapping[str, Sequence[int]], outputs: Mapping[str, Sequence[int]]) -> None:
        """Raises `InvalidParameter` where the shapes of the operation's outputs are not those of the kernel's (`outputs`)."""
        for name, shape in outputs.items():
            found = shapes[self.outputs[name]]
            if tuple(found) != tuple(shape) and prod(found) != prod(shape):
                raise InvalidParameter(f"the reference's `{name}` has the shape {list(found)}, and the kernel's {list(shape)}", field="reference")


def check_reference(spec: KernelSpec, catalogue: OperationCatalogue) -> None:
    """Raises `InvalidParameter` naming `reference` where its operation refuses the kernel's inputs, or answers other shapes, for all sizes
    that verification would try. What depends on a scalar's value is not judged here."""
    if spec.reference is None:
        return
    parameters, spec = spec.reference.parameters, settled(spec)
    ours = {scalar.name for scalar in spec.scalars if scalar.name not in spec.symbols}
    ours |= {name for name, value in parameters.items() if isinstance(value, dict) and value.get("scalar") in ours}
    refused: OpenRuntimeError | None = None
    try:
        reference = ReferenceCall(spec, catalogue)
        for sizes in _tried(spec):
            for number in (1, 2, 0) if ours else (1,):
                try:
                    if _agrees(reference, spec, sizes, number):
                        return
                except InvalidParameter as error:
                    if error.field in ours and not reference.takes_array(error.field):
                        return
                    refused = refused or error
                except TooLarge:
                    return
    except InvalidParameter as error:
        refused = error
    if refused is not None:
        raise InvalidParameter(f"`reference` does not go with {spec.name}: {refused.message}", field="reference")


def _agrees(reference: ReferenceCall, spec: KernelSpec, sizes: Mapping[str, int], number: int) -> bool:
    """Whether it goes with the kernel at these sizes, which the kernel itself may refuse. Raises `InvalidParameter` where it does not."""
    given: dict[str, Any] = {
        argument.name: Spec(argument.dtype, tuple(size.value(sizes, argument.name) for size in spec.shapes[argument.name]))
        for argument in spec.inputs
    }
    numbers = {scalar.name: _number(spec, scalar.name, scalar.dtype, number) for scalar in spec.scalars if scalar.name not in spec.symbols}
    try:
        binding = spec.bind(given, numbers)
    except InvalidParameter:
        return False
    _, call = reference.bind(given | numbers)
    if all(output.exact for output in call.outputs.values()):
        reference.fits(
            {name: output.shape for name, output in call.outputs.items()}, {name: output.shape for name, output in binding.outputs.items()}
        )
    return True


def _number(spec: KernelSpec, name: str, dtype: str, value: int) -> Number:
    domain = spec.reference.domain.get(name) if spec.reference else None
    if dtype == "bool":
        return bool(value)
    found = (
        min(max(float(value), domain.low if domain.low is not None else value), domain.high if domain.high is not None else value)
        if domain
        else value
    )
    return float(found) if "float" in dtype else int(found)


def _tried(spec: KernelSpec) -> Iterator[dict[str, int]]:
    """Sizes of the kernel's symbols; last those of arrays that stand in the reference's own parameters."""
    symbols = sorted(spec.symbols)
    listed = [(len(value),) for value in (spec.reference.parameters if spec.reference else {}).values() if isinstance(value, list) and value]
    for sizes in (SMALL, EDGES, WHOLE, *listed):  # of one element, anything fits
        yield {symbol: sizes[i % len(sizes)] for i, symbol in enumerate(symbols)}
