"""WGSL, generated: formulas, rows mapped and reduced, products of matrices. Text only; `webgpu.py` compiles and runs it.

Source: W3C, WebGPU Shading Language.
"""

import struct
from collections.abc import Sequence

from openruntime.backends.wgsl_functions import FUNCTIONS
from openruntime.contracts.errors import UnsupportedOnDevice
from openruntime.operations.formula import Constant, Operand, Program, Step

TYPES = {"float32": "f32", "int32": "i32", "uint32": "u32", "bool": "u32"}  # as stored
GROUP = 256  # threads of a group that works along lines
TILE, EACH, DEPTH = 64, 4, 16  # of a product: rows and columns of a group's tile, those of a thread's, and what is loaded at a time

_INFIX = {
    "add": "+", "subtract": "-", "multiply": "*", "equal": "==", "not_equal": "!=", "greater": ">", "greater_equal": ">=", "less": "<",
    "less_equal": "<=", "bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^", "logical_and": "&", "logical_or": "|", "logical_xor": "!=",
}  # fmt: skip
_NATIVE = frozenset({"abs", "ceil", "floor", "trunc", "round"})
_FLOAT = frozenset({
    "acos", "acosh", "asin", "asinh", "atan", "atanh", "cos", "cosh", "exp", "expm1", "log", "log10", "log1p", "log2", "sin", "sinh", "sqrt",
    "tan", "tanh", "atan2", "copysign", "hypot", "logaddexp", "nextafter", "pow", "sign",
})  # fmt: skip
_TESTS = {"isnan": "is_nan({0})", "isinf": "is_inf({0})", "isfinite": "raw({0}) < 0x7f800000u", "signbit": "is_neg({0})"}
_OWN = {  # of floats, signed integers, unsigned ones
    "floor_divide": ("div_f", "quo_i", "quo_u"), "remainder": ("rem_f", "rem_i", "rem_u"), "pow": ("pow_", "pow_i", "pow_u"),
    "maximum": ("max_", "max", "max"), "minimum": ("min_", "min", "min"),
    "bitwise_left_shift": ("", "shl_i", "shl_u"), "bitwise_right_shift": ("", "shr_i", "shr_u"),
}  # fmt: skip


def register(dtype: str) -> str:
    """The type that a value of this dtype is computed in. Raises `UnsupportedOnDevice`."""
    if dtype not in TYPES:
        raise UnsupportedOnDevice(f"a formula that computes with {dtype} does not run in WGSL, which has 32-bit numbers and booleans only")
    return "bool" if dtype == "bool" else TYPES[dtype]


def literal(value: bool | int | float | complex, dtype: str) -> str:
    """A constant. What is not finite in float32 is made of bits, because WGSL refuses it at compilation."""
    kind = register(dtype)
    if kind == "bool":
        return str(bool(value)).lower()
    if kind != "f32" or isinstance(value, complex):
        return f"bitcast<{kind}>({int(value.real) & 0xFFFFFFFF}u)"
    try:
        packed = struct.unpack("<I", struct.pack("<f", float(value)))[0]
    except OverflowError:
        packed = 0x7F800000 if value > 0 else 0xFF800000
    finite = (packed & 0x7F800000) != 0x7F800000
    return f"bitcast<f32>({packed}u)" if finite else f"bits({packed}u)"


def formula(program: Program) -> tuple[list[str], str]:
    """The statements of a formula and the name of its value; its inputs are `v0`, `v1`, ... in the order of `program.inputs`."""
    lines, count = [], len(program.inputs)
    for step in program.steps:
        lines.append(f"let v{count} = {_step(step)};")
        count += 1
    return lines, _operand(program.result, program.dtype)


def _operand(arg: Operand, dtype: str) -> str:
    return literal(arg.value, dtype) if isinstance(arg, Constant) else f"v{arg}"


def _step(step: Step) -> str:
    kind, name = register(step.common), step.function
    register(step.dtype)
    args = [_operand(arg, "bool" if name == "where" and i == 0 else step.common) for i, arg in enumerate(step.args)]
    if name == "cast":
        return f"{kind}({args[0]})"
    if name == "where":
        return f"select({args[2]}, {args[1]}, {args[0]})"
    if kind == "bool" and name in ("add", "multiply", "maximum", "minimum"):
        return f"({args[0]} {'|' if name in ('add', 'maximum') else '&'} {args[1]})"
    if kind == "bool" and name == "bitwise_xor":
        return f"({args[0]} != {args[1]})"
    if kind == "bool" and name in ("greater", "greater_equal", "less", "less_equal"):
        args = [f"u32({arg})" for arg in args]
    if name == "not_equal" and kind == "f32":
        return f"unequal({args[0]}, {args[1]})"
    if name in _INFIX:
        return f"({args[0]} {_INFIX[name]} {args[1]})"
    if name == "divide":
        return f"({args[0]} / {args[1]})"
    if name in _OWN:
        return f"{_OWN[name][('f32', 'i32', 'u32').index(kind)]}({args[0]}, {args[1]})"
    if name in _TESTS:
        return _TESTS[name].format(args[0]) if kind == "f32" else str(name == "isfinite").lower()
    if name == "negative":
        return f"(0u - {args[0]})" if kind == "u32" else f"(-{args[0]})"
    if name in ("bitwise_invert", "logical_not"):
        return f"(!{args[0]})" if kind == "bool" else f"(~{args[0]})"
    if name == "square":
        return f"({args[0]} * {args[0]})"
    if name == "reciprocal":
        return f"(1.0 / {args[0]})"
    if name == "sign" and kind != "f32":
        return f"sign({args[0]})" if kind == "i32" else f"min({args[0]}, 1u)"
    if name == "imag":
        return f"{kind}()"
    if name in ("real", "conj", "positive"):
        return args[0]
    if name in _NATIVE:
        return f"{name}({args[0]})"
    if name in _FLOAT:
        return f"{name}_({', '.join(args)})"
    raise UnsupportedOnDevice(f"{name} of {step.common} has no WGSL yet")


def _buffers(inputs: Sequence[str], output: str) -> str:
    """Bindings: `sizes` (its first number is 0), the inputs `a`, `b`, ..., and `out`."""
    lines = ["@group(0) @binding(0) var<storage, read> sizes: array<u32>;"]
    lines += [f"@group(0) @binding({i + 1}) var<storage, read> {'abcdefgh'[i]}: array<{kind}>;" for i, kind in enumerate(inputs)]
    lines.append(f"@group(0) @binding({len(inputs) + 1}) var<storage, read_write> out: array<{output}>;")
    return "\n".join(lines) + FUNCTIONS


_GLOBAL = "@builtin(global_invocation_id) at: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>"


def elementwise(inputs: Sequence[str], output: str, ranks: Sequence[int], rank: int, body: Sequence[str], value: str) -> str:
    """One thread an element. `inputs` and `output` are dtypes. An input of rank 0 is one number, of rank -1 has the output's shape, else it
    broadcasts by its strides. `sizes`: 0, count, the output's shape, then the strides of each input that broadcasts."""
    lines, used = [], 2 + rank
    if any(given > 0 for given in ranks):
        lines.append("var rest = i;")
        lines += [f"let c{axis} = rest % sizes[{2 + axis}]; rest = rest / sizes[{2 + axis}];" for axis in reversed(range(rank))]
    for number, (dtype, given) in enumerate(zip(inputs, ranks, strict=True)):
        index = "i" if given < 0 else "0u"
        if given > 0:
            index = " + ".join(f"c{axis} * sizes[{used + axis}]" for axis in range(rank))
            used += rank
        read = f"{'abcdefgh'[number]}[{index}]"
        lines.append(f"let v{number} = {f'({read} != 0u)' if dtype == 'bool' else read};")
    stored = f"select(0u, 1u, {value})" if output == "bool" else value
    return f"""{_buffers([TYPES[dtype] for dtype in inputs], TYPES[output])}
@compute @workgroup_size({GROUP})
fn main({_GLOBAL}) {{
  let i = at.x + at.y * groups.x * {GROUP}u;
  if (i >= sizes[1]) {{ return; }}
  {chr(10).join([*lines, *body])}
  out[i] = {stored};
}}
"""


def mapped(inputs: Sequence[str], output: str, value: str) -> str:
    """`out[i] = value`, where `i` is the element, `row` and `col` its place in lines of `sizes[2]`; `sizes`: 0, count, length of a line."""
    return f"""{_buffers(inputs, output)}
@compute @workgroup_size({GROUP})
fn main({_GLOBAL}) {{
  let i = at.x + at.y * groups.x * {GROUP}u;
  if (i >= sizes[1]) {{ return; }}
  let row = i / sizes[2];
  let col = i - row * sizes[2];
  out[i] = {value};
}}
"""


# how two values become one, and what changes nothing
_JOIN = {
    ("sum", "f32"): ("x + y", "0.0"), ("sum", "i32"): ("x + y", "0"), ("sum", "u32"): ("x + y", "0u"),
    ("max", "f32"): ("max_(x, y)", "-inf()"), ("min", "f32"): ("min_(x, y)", "inf()"),
    ("max", "i32"): ("max(x, y)", "-2147483647 - 1"), ("min", "i32"): ("min(x, y)", "2147483647"),
    ("max", "u32"): ("max(x, y)", "0u"), ("min", "u32"): ("min(x, y)", "4294967295u"),
}  # fmt: skip


def reduced(inputs: Sequence[str], kind: str, how: str, value: str, *, wide: bool) -> str:
    """One number of each part of each line: the `how` of `value`, which may read `i`, `row` and `col`.

    `sizes`: 0, lines, length of a line, parts of a line, length of a part. `wide`: a group a part, else a thread. The answer is (lines, parts).
    """
    join, nothing = _JOIN[how, kind]
    head = f"{_buffers(inputs, kind)}\nfn join(x: {kind}, y: {kind}) -> {kind} {{ return {join}; }}\n"
    part = """let row = which / sizes[3];
  let first = (which - row * sizes[3]) * sizes[4];
  let end = min(first + sizes[4], sizes[2]);"""
    if not wide:
        return f"""{head}
@compute @workgroup_size({GROUP})
fn main({_GLOBAL}) {{
  let which = at.x + at.y * groups.x * {GROUP}u;
  if (which >= sizes[1] * sizes[3]) {{ return; }}
  {part}
  var total = {nothing};
  for (var col = first; col < end; col++) {{ let i = row * sizes[2] + col; total = join(total, {value}); }}
  out[which] = total;
}}
"""
    return f"""{head}
var<workgroup> shared_: array<{kind}, {GROUP}>;
@compute @workgroup_size({GROUP})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) me: u32) {{
  let which = group.x + group.y * groups.x;
  {part}
  var total = {nothing};
  if (row < sizes[1]) {{
    for (var col = first + me; col < end; col += {GROUP}u) {{ let i = row * sizes[2] + col; total = join(total, {value}); }}
  }}
  shared_[me] = total;
  workgroupBarrier();
  for (var half = {GROUP // 2}u; half > 0u; half = half / 2u) {{
    if (me < half) {{ shared_[me] = join(shared_[me], shared_[me + half]); }}
    workgroupBarrier();
  }}
  if (me == 0u && row < sizes[1]) {{ out[which] = shared_[0]; }}
}}
"""


def product(kind: str, *, transposed: bool) -> str:
    """Products of stacks of matrices: (m, k) by (k, n), or by (n, k) where the second is `transposed`.

    `sizes`: 0, m, n, k, first of the stack, then for each product where its two matrices begin. Each thread computes 4 by 4 numbers of a tile
    of 64 by 64, whose lines are loaded 16 at a time.
    """
    zero = {"f32": "0.0", "i32": "0", "u32": "0u"}[kind]
    second = "b[tb + (n0 + y) * k + (at + x)]" if transposed else "b[tb + (at + x) * n + (n0 + y)]"
    return f"""{_buffers([kind, kind], kind)}
var<workgroup> left: array<{kind}, {TILE * DEPTH}>;
var<workgroup> right: array<{kind}, {TILE * DEPTH}>;
@compute @workgroup_size({TILE // EACH}, {TILE // EACH})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) me: vec3<u32>, @builtin(local_invocation_index) flat: u32) {{
  let m = sizes[1]; let n = sizes[2]; let k = sizes[3];
  let which = group.z + sizes[4];
  let ta = sizes[5u + 2u * which]; let tb = sizes[6u + 2u * which];
  let m0 = group.y * {TILE}u; let n0 = group.x * {TILE}u;
  var sum: array<{kind}, {EACH * EACH}>;
  for (var at = 0u; at < k; at += {DEPTH}u) {{
    for (var load = flat; load < {TILE * DEPTH}u; load += {(TILE // EACH) ** 2}u) {{
      let y = load / {DEPTH}u; let x = load % {DEPTH}u;
      var l = {zero}; var r = {zero};
      if (m0 + y < m && at + x < k) {{ l = a[ta + (m0 + y) * k + (at + x)]; }}
      if (n0 + y < n && at + x < k) {{ r = {second}; }}
      left[x * {TILE}u + y] = l; right[x * {TILE}u + y] = r;
    }}
    workgroupBarrier();
    for (var x = 0u; x < {DEPTH}u; x++) {{
      var r: array<{kind}, {EACH}>;
      for (var j = 0u; j < {EACH}u; j++) {{ r[j] = right[x * {TILE}u + me.x * {EACH}u + j]; }}
      for (var i = 0u; i < {EACH}u; i++) {{
        let l = left[x * {TILE}u + me.y * {EACH}u + i];
        for (var j = 0u; j < {EACH}u; j++) {{ sum[i * {EACH}u + j] += l * r[j]; }}
      }}
    }}
    workgroupBarrier();
  }}
  for (var i = 0u; i < {EACH}u; i++) {{
    for (var j = 0u; j < {EACH}u; j++) {{
      let y = m0 + me.y * {EACH}u + i; let x = n0 + me.x * {EACH}u + j;
      if (y < m && x < n) {{ out[which * m * n + y * n + x] = sum[i * {EACH}u + j]; }}
    }}
  }}
}}
"""


def convolution() -> str:
    """Images by kernels, one thread a number. `sizes`: 0, count, channels, height, width, outputs, inputs, kernel height and width, out height
    and width, strides, paddings, dilations (vertical first), outputs of a group. `c` is the bias."""
    return f"""{_buffers(["f32", "f32", "f32"], "f32")}
@compute @workgroup_size({GROUP})
fn main({_GLOBAL}) {{
  let i = at.x + at.y * groups.x * {GROUP}u;
  if (i >= sizes[1]) {{ return; }}
  let x = i % sizes[10]; let y = (i / sizes[10]) % sizes[9];
  let o = (i / (sizes[10] * sizes[9])) % sizes[5]; let image = i / (sizes[10] * sizes[9] * sizes[5]);
  let first = (o / sizes[17]) * sizes[6];
  var total = c[o];
  for (var z = 0u; z < sizes[6]; z++) {{
    for (var u = 0u; u < sizes[7]; u++) {{
      let row = i32(y * sizes[11] + u * sizes[15]) - i32(sizes[13]);
      for (var v = 0u; v < sizes[8]; v++) {{
        let col = i32(x * sizes[12] + v * sizes[16]) - i32(sizes[14]);
        var pixel = 0.0;
        if (row >= 0 && row < i32(sizes[3]) && col >= 0 && col < i32(sizes[4])) {{
          pixel = a[((image * sizes[2] + first + z) * sizes[3] + u32(row)) * sizes[4] + u32(col)];
        }}
        total += pixel * b[((o * sizes[6] + z) * sizes[7] + u) * sizes[8] + v];
      }}
    }}
  }}
  out[i] = total;
}}
"""
