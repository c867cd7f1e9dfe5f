"""What a kernel claims to compute is looked at when it is registered: what could never be compared is refused there, and names `reference`."""

from typing import Any

import pytest

from openruntime.contracts.errors import InvalidParameter
from openruntime.contracts.kernel_reading import read
from openruntime.operations.catalogue import OperationCatalogue
from openruntime.operations.kernel_reference import check_reference
from tests.kernels.honest import KERNELS
from tests.kernels.making import kernel
from tests.kernels.red_team_more import CHEATS

SOURCE = "kernel void f(global const float *x, global float *y, float a, int n) { }"
OPERATIONS = OperationCatalogue()


def checked(reference: Any, inputs: str = "x: float32[n]", outputs: str = "y: float32[n]", **options: Any) -> None:
    check_reference(read(kernel(SOURCE, inputs, outputs, scalars="a: float32; n: int32", reference=reference, **options)), OPERATIONS)


@pytest.mark.parametrize("document", [*KERNELS, *(cheat.kernel for cheat in CHEATS)], ids=lambda document: document["name"])
def test_what_can_be_verified_is_registered(document: dict[str, Any]) -> None:
    check_reference(read(document), OPERATIONS)


@pytest.mark.parametrize(
    ("reference", "inputs", "outputs", "says"),
    [
        ("2*z", "x: float32[n]", "y: float32[n]", "z"),
        ("2*", "x: float32[n]", "y: float32[n]", "formula"),
        ("x / n", "x: float32[n]", "y: float32[n]", "`n`"),
        ({"operation": "matmul"}, "x: float32[n]", "y: float32[n]", "`a`"),
        ({"operation": "sum"}, "x: float32[n]", "y: float32[n]", "the reference's `y` has the shape [], and the kernel's [7]"),
        ({"operation": "sum", "parameters": {"axes": 1}}, "x: float32[n]", "y: float32[n]", "did you mean axis"),
        ({"operation": "svd"}, "x: float32[m, n]", "y: float32[m, n]", "has the outputs"),
        ("x ^ 1", "x: float32[n]", "y: float32[n]", "float32"),
        (
            {"operation": "einsum", "parameters": {"subscripts": "ij->ji", "a": {"input": "w"}}},
            "x: float32[m, n]",
            "y: float32[n, m]",
            "no input 'w'",
        ),
    ],
)
def test_what_never_could_be_is_refused(reference: Any, inputs: str, outputs: str, says: str) -> None:
    with pytest.raises(InvalidParameter, match="`reference` does not go with f: ") as caught:
        checked(reference, inputs, outputs)
    assert caught.value.field == "reference"
    assert says in caught.value.message


def test_what_depends_on_sizes_or_on_a_scalars_value_is_left_to_verification() -> None:
    checked({"operation": "expression", "parameters": {"formula": "x * w", "w": [1.0] * 1000}})
    checked({"operation": "sum", "parameters": {"axis": {"scalar": "a"}}}, outputs="y: float32[1]")
    checked("a * x", domain={"a": {"low": 5, "high": 9}})
