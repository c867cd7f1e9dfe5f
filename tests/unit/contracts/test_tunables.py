"""Constants that a kernel's source leaves open, and which of their values hold."""

import re

import pytest

from openruntime.contracts.errors import InvalidParameter
from openruntime.contracts.kernel_reading import read
from openruntime.contracts.kernels import KernelSpec, Tuned
from openruntime.contracts.tunables import settled, tunables, winner, with_winner
from tests.kernels.making import kernel

BODY = "kernel void f(global const float *x, global float *y, int n) { }"


def spec(source: str = f"int first;\n  // tune: WG = 64, 128\n// tune: VEC=4,8\n{BODY}", **given: object) -> KernelSpec:
    made = kernel(source, "x: float32[n]", "y: float32[n]", grid=("ceildiv(n, VEC)",), local=("WG",), reference="2*x")
    return read(made | given)


def test_the_first_value_holds_until_another_is_chosen() -> None:
    found = spec()
    assert tunables(found) == {"WG": (64, 128), "VEC": (4, 8)}
    plain = settled(found)
    assert (plain.grid, plain.local) == (("ceildiv(n, 4)",), ("64",))
    assert plain.source.splitlines()[:3] == ["int first;", "  #define WG 64", "#define VEC 4"]  # lines keep their numbers
    chosen = settled(found, {"VEC": 8})
    assert (chosen.grid, chosen.local) == (("ceildiv(n, 8)",), ("64",))
    assert settled(found, {"VEC": 8}) is chosen
    assert settled(plain) == plain


def test_wgsl_has_constants_instead_of_definitions() -> None:
    found = spec(language="wgsl", scalars=[{"name": "n", "dtype": "int32"}])
    assert "const VEC = 4;" in settled(found).source


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("// tune: VEC", "line 1: '// tune: VEC' is not like '// tune: TILE = 8, 16, 32'"), ("// tune: VEC = 1, x", "is not like"),
        ("// tune: VEC = 1, 1", "1 to 32 different values"), ("// tune: VEC = 9999999", "at most 1048576"),
        ("// tune: VEC = 1\n// tune: VEC = 2", "line 2: 'VEC' is declared twice"), ("// tune: n = 1, 2", "'n' is an argument of the kernel"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_its_line(line: str, complaint: str) -> None:
    with pytest.raises(InvalidParameter, match=re.escape(complaint)) as refused:
        spec(f"{line}\n// tune: WG = 64\n{BODY}")
    assert refused.value.field == "source"


def test_shapes_do_not_depend_on_what_is_tuned() -> None:
    with pytest.raises(InvalidParameter, match="'VEC' is not bound"):
        spec(outputs=[{"name": "y", "dtype": "float32", "shape": ["n*VEC"]}])


def test_tuned_values_come_from_tuning_alone() -> None:
    with pytest.raises(InvalidParameter, match="`tuned` is not a field of a kernel"):
        spec(tuned=[])


def test_the_winner_of_the_nearest_sizes_on_the_same_silicon_is_used() -> None:
    found = spec()
    for entry in (Tuned("here", {"n": 1000}, {"VEC": 8}), Tuned("here", {"n": 1 << 20}, {"VEC": 4}), Tuned("there", {"n": 1000}, {"VEC": 4})):
        found = with_winner(found, entry)
    assert winner(found, "here", {"n": 900}) == found.tuned[0]
    assert winner(found, "here", {"n": 1 << 19}) == found.tuned[1]
    assert winner(found, "here", {"n": 10}) is None
    assert winner(found, "elsewhere", {"n": 1000}) is None
    again = with_winner(found, Tuned("here", {"n": 800}, {"VEC": 4}))  # of the same class: in place of the first
    assert [(entry.identity, entry.sizes["n"]) for entry in again.tuned] == [("here", 1 << 20), ("there", 1000), ("here", 800)]
