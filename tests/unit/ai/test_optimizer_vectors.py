"""Kernels are read and rewritten; what cannot be is left with the reason. That they are right is shown where they run."""

from contextlib import suppress

import pytest

from benchmarks.kernels import SOURCES, WORKS
from openruntime.ai.agents.optimizer.candidates import first, known, renamed, settled
from openruntime.ai.agents.optimizer.items import items, stride
from openruntime.ai.agents.optimizer.source import Declare, For, Unreadable, lines, read, text
from openruntime.ai.agents.optimizer.vectors import blocked, strips, tiled


def source(name: str) -> str:
    return (SOURCES / "naive" / f"{name}.cl").read_text()


SAXPY = "kernel void f(global const float *x, global float *y, int n) { int i = get_global_id(0); if (i < n) y[i] = 2 * x[i]; }"


def test_a_kernel_is_read_and_written_again() -> None:
    function = read(source("softmax"))
    assert (function.name, [argument.name for argument in function.arguments]) == ("softmax_naive", ["x", "y", "m", "n"])
    assert [type(statement) for statement in function.body].count(For) == 3
    again = read("kernel void softmax_naive(global const float *x, global float *y, int m, int n) {" + "\n".join(lines(function.body)) + "}")
    assert lines(again.body) == lines(function.body)


def test_what_guards_an_item_is_found() -> None:
    found = items(read(source("matmul")))
    assert found.variables == {0: "j", 1: "i"}
    assert {name: text(end) for name, end in found.limits.items()} == {"j": "n", "i": "m"}
    assert not any(isinstance(statement, Declare) and statement.name in ("i", "j") for statement in found.body)


@pytest.mark.parametrize(
    ("expression", "lanes"), [("p * n + j", 1), ("j - 1", 1), ("(k * h + i + u) * w + j + v", 1), ("2 * j", None), ("p * n", 0), ("x[j]", None)]
)
def test_strides(expression: str, lanes: int | None) -> None:
    (statement,) = read(f"kernel void f(global float *y) {{ int a = {expression}; }}").body
    assert isinstance(statement, Declare)
    assert statement.value is not None
    assert stride(statement.value, "j", set()) == lanes


@pytest.mark.parametrize(
    ("name", "applies"),
    [
        ("saxpy", {"lanes"}),
        ("expression", {"lanes"}),
        ("transpose", {"tile"}),
        ("matmul", {"lanes", "rows"}),
        ("conv2d", {"lanes", "rows", "strips"}),
        ("softmax", {"strips"}),
        ("layer_norm", {"strips"}),
        ("row_sum", {"strips"}),
        ("scan", set()),
        ("heat2d", set()),
        ("nbody", set()),
        ("histogram", set()),
    ],
)
def test_what_applies_to_the_twelve_kernels(name: str, applies: set[str]) -> None:
    grid = WORKS[name].naive[0]
    makers = {
        "lanes": lambda f: blocked(f, grid, row=None),
        "rows": lambda f: blocked(f, grid, row=1),
        "tile": lambda f: tiled(f, grid),
        "strips": strips,
    }
    found = set()
    for kind, make in makers.items():
        with suppress(Unreadable):
            make(read(source(name)))
            found.add(kind)
    assert found == applies


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("if (x[i] > 0) y[i] = 1;", "branch depends on the item"),
        ("for (int k = 0; k < i; k++) y[i] = k;", "length depends on the item"),
        ("y[x[i]] = 1;", "not written side by side"),
        ("y[i] = x[2 * i];", "not read side by side"),
        ("y[i] = isnan(x[i]);", "cannot be put into a vector"),
    ],
)
def test_what_no_vector_can_do_is_said(body: str, reason: str) -> None:
    kernel = f"kernel void f(global const float *x, global float *y, int n) {{ int i = get_global_id(0); if (i >= n) return; {body} }}"
    with pytest.raises(Unreadable, match=reason):
        blocked(read(kernel), ["n"], row=None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("#define N 3\n" + SAXPY, "preprocessor"),
        ("// tune: WG = 1, 2\n" + SAXPY, "constants open"),
        ("kernel void f(global float *y) { barrier(1); }", "barrier"),
        ("kernel void f(global float4 *y) { }", "float4"),
        ("kernel void f(global float *y) { while (1) y[0] = 1; }", "while"),
        ("int g;", "int"),
        ("kernel void f(global float *y) { y[0] = 1; } kernel void g(global float *y) { y[0] = 1; }", "more than one"),
        ("kernel void f(", "its end"),
    ],
)
def test_what_is_not_read_is_said(text: str, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        read(text)


def test_without_a_guard_the_grid_says_where_the_work_ends() -> None:
    kernel = read("kernel void f(global const float *x, global float *y, int n) { int i = get_global_id(0); y[i] = 2 * x[i]; }")
    made, grid, _ = blocked(kernel, ["n"], row=None)
    assert grid == ["ceildiv(n, LANES)"]
    assert "i + LANES <= n" in made
    with pytest.raises(Unreadable, match="beyond the end"):
        blocked(kernel, ["2*n"], row=None)


def test_constants_are_settled_and_ordered() -> None:
    open_ = "// tune: A = 1, 2, 4\n  // tune: B = 8, 16\nkernel"
    assert settled(open_, {"A": 4}) == "// tune: A = 4\n  // tune: B = 8\nkernel"
    assert first(open_, {"A": 4, "B": 16}) == "// tune: A = 4, 1, 2\n  // tune: B = 16, 8\nkernel"


def test_a_renamed_kernel_keeps_what_is_only_called_alike() -> None:
    found = renamed({"name": "f", "source": "kernel void f(int fn) { f_item(fn); }"}, "f", "g")
    assert found == {"name": "g", "source": "kernel void g(int fn) { f_item(fn); }"}


def test_candidates_of_a_kernel_that_is_in_no_opencl() -> None:
    left_out: list[str] = []
    kernel = {"language": "wgsl", "source": "// tune: WG = 1, 2\n", "grid": ["n"], "local": []}
    assert [draft.by for draft in known(kernel, left_out)] == ["tuner"]
    assert "wgsl" in left_out[0]


@pytest.mark.parametrize("value", ["(" * 5000 + "1" + ")" * 5000, " + ".join(["x[i]"] * 20_000)])
def test_what_is_nested_too_deeply_or_too_long_is_left(value: str) -> None:
    left_out: list[str] = []
    source = f"kernel void f(global const float *x, global float *y, int n) {{ int i = get_global_id(0); if (i < n) y[i] = {value}; }}"
    drafts = known({"language": "opencl", "source": source, "grid": ["n"], "local": []}, left_out)
    assert [draft.by for draft in drafts] == ["tuner"]
    assert any("too" in reason for reason in left_out)
