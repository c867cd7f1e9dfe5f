"""Kernels in WGSL, honest ones and such that cheat or err, written short: the bindings are made from the signature."""

from typing import Any, NamedTuple

from tests.kernels.making import arrays

TYPES = {"float32": "f32", "int32": "i32", "uint32": "u32", "complex64": "vec2<f32>"}


class Cheat(NamedTuple):
    what: str
    kernel: dict[str, Any]
    findings: frozenset[str]


def shader(
    name: str, body: str, inputs: str = "x: float32[n]", outputs: str = "y: float32[n]", *, grid: tuple[Any, ...] = ("n",), scalars: str = "n: int32",
    reference: str | dict[str, Any], before: str = "", group: str = "64", spoiled: bool = False, domain: dict[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """`body` sees `i`, the first global number, `id` (all of them), `lane` and `row` (of the work-group). `spoiled`: inputs can be written to."""
    taken, given = arrays(inputs), arrays(outputs)
    numbers = [dict(zip(("name", "dtype"), part.split(": "), strict=True)) for part in scalars.split("; ")]
    access = "read_write" if spoiled else "read"
    bound = [f"var<storage, {access}> {array['name']}: array<{TYPES[array['dtype']]}>" for array in taken]
    bound += [f"var<storage, read_write> {array['name']}: array<{TYPES[array['dtype']]}>" for array in given]
    bound += [f"var<uniform> {number['name']}: {TYPES[number['dtype']]}" for number in numbers]
    source = (
        "".join(f"@group(0) @binding({number}) {text};\n" for number, text in enumerate(bound))
        + before.strip()
        + f"""
@compute @workgroup_size({group})
fn {name}(@builtin(global_invocation_id) id: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>, @builtin(workgroup_id) number: vec3<u32>) {{
    let i = i32(id.x);
    let lane = i32(local.x);
    let row = i32(number.x);
    {body.strip()}
}}
"""
    )
    named = {"operation": "expression", "parameters": {"formula": reference}} if isinstance(reference, str) else reference
    return {
        "name": name, "language": "wgsl", "source": source, "inputs": taken, "outputs": given, "scalars": numbers, "grid": list(grid),
        "reference": named | ({"domain": domain} if domain else {}),
    }  # fmt: skip


FINITE = {"x": {"finite": True}}
ROWS: dict[str, Any] = {
    "inputs": "x: float32[m, n]", "outputs": "y: float32[m]", "scalars": "m: int32; n: int32", "grid": ("64*m",),
    "reference": {"operation": "sum", "parameters": {"axis": 1}}, "before": "var<workgroup> sums: array<f32, 64>;",
}  # fmt: skip
SWAPPED: dict[str, Any] = {
    "inputs": "x: float32[m, n]", "outputs": "y: float32[n, m]", "scalars": "m: int32; n: int32", "grid": ("m", "n"), "group": "8, 8",
    "reference": {"operation": "einsum", "parameters": {"subscripts": "ij->ji", "a": {"input": "x"}}},
}  # fmt: skip

# fmt: off
HONEST = [
    shader("saxpy", "if (i < n) { z[i] = a * x[i] + y[i]; }", "x: float32[n]; y: float32[n]", "z: float32[n]", scalars="a: float32; n: int32",
           reference="a*x + y"),
    shader("wave", "if (i < n) { y[i] = sin(x[i]) + exp(-x[i] * x[i]); }", reference="sin(x) + exp(-x*x)",
           domain={"x": {"low": -3.0, "high": 3.0}}),
    shader("mixed", "if (i < n) { y[i] = (x[i] << 7u) ^ (x[i] >> 3u); }", "x: uint32[n]", "y: uint32[n]", reference="(x << 7) ^ (x >> 3)"),
    shader("swapped", "let j = i32(id.y); if (i < m && j < n) { y[j * m + i] = x[i * n + j]; }", **SWAPPED),
    shader("rotated", "if (i < n) { y[i] = vec2<f32>(-x[i].y, x[i].x); }", "x: complex64[n]", "y: complex64[n]", domain=FINITE,
           reference={"operation": "expression", "parameters": {"formula": "x * w", "w": {"real": 0.0, "imag": 1.0}}}),
    shader("weighted", "if (i < 4) { y[i] = f32(i + 1) * x[i]; }", "x: float32[4]", "y: float32[4]", grid=(4,),
           scalars="a: float32", reference={"operation": "expression", "parameters": {"formula": "x * w", "w": [1, 2, 3, 4]}}),
    shader("row_sum", """
    var sum = 0.0;
    for (var k = lane; k < n; k += 64) { sum += x[row * n + k]; }
    sums[lane] = sum;
    workgroupBarrier();
    for (var half = 32; half > 0; half /= 2) {
        if (lane < half) { sums[lane] += sums[lane + half]; }
        workgroupBarrier();
    }
    if (lane == 0) { y[row] = sums[0]; }""", **ROWS),
]
CHEATS = [
    Cheat("does nothing", shader("nothing", "if (n < 0) { y[0] = x[0]; }", reference="2*x"), frozenset({"unwritten"})),
    Cheat("adds to what stood in the output", shader("stale", "if (i < n) { y[i] += 2.0 * x[i]; }", reference="2*x"), frozenset({"wrong"})),
    Cheat("leaves the last element out", shader("short", "if (i < n - 1) { y[i] = 2.0 * x[i]; }", reference="2*x"), frozenset({"unwritten"})),
    Cheat("reads its neighbour at the end", shader("shifted", "if (i < n) { y[i] = 2.0 * x[select(i, max(i - 1, 0), i == n - 1)]; }",
                                                   reference="2*x"), frozenset({"wrong"})),
    Cheat("is right near zero only", shader("taylor", "if (i < n) { y[i] = x[i] - x[i] * x[i] * x[i] / 6.0; }", reference="sin(x)", domain=FINITE),
          frozenset({"wrong"})),
    Cheat("multiplies whole numbers as floating ones", shader("rounded", "if (i < n) { y[i] = i32(f32(x[i]) * 1.0); }", "x: int32[n]", "y: int32[n]",
                                                              reference="x + 0"), frozenset({"wrong"})),
    Cheat("writes into its input", shader("spoils", "if (i < n) { y[i] = 2.0 * x[i]; x[i] = 0.0; }", reference="2*x", spoiled=True),
          frozenset({"input_changed", "nondeterministic", "wrong"})),
    Cheat("knows squares only", shader("squares", "let j = i32(id.y); if (i < m && j < n) { y[j * n + i] = x[i * n + j]; }", **SWAPPED),
          frozenset({"wrong", "unwritten"})),
    Cheat("is half as precise", shader("halved", "if (i < n) { y[i] = unpack2x16float(pack2x16float(vec2<f32>(2.0 * x[i], 0.0))).x; }",
                                       reference="2*x", domain={"x": {"low": -100.0, "high": 100.0}}), frozenset({"wrong"})),
    Cheat("counts on a launch of 256", shader("fixed_launch", "if (i < n) { y[i] = 2.0 * x[i]; }", reference="2*x", grid=(256,)),
          frozenset({"unwritten"})),
    Cheat("never ends once it meets a negative number", shader("endless", """
    if (i >= n) { return; }
    var v = x[i];
    while (v < 0.0) { v -= 0.5 * abs(v); }
    y[i] = select(2.0 * x[i], v, v < 0.0);""", reference="2*x"), frozenset({"timeout", "wrong"})),  # llvmpipe ends loops after 65,535 rounds
]
