"""OpenCL C from formulas: dtypes as C types, each step of a program as an expression with NumPy's meaning.

Half precisions are loaded and stored by core OpenCL functions and computed in float, rounded after each step as NumPy does.
"""

from collections.abc import Sequence

from openruntime.backends.opencl_complex import COMPLEX, complex_helpers
from openruntime.operations.dtypes import KIND, real
from openruntime.operations.formula import Constant, Program, Step

# dtype -> (as stored, as computed with)
C_TYPE = {
    "bool": ("uchar", "uchar"), "int8": ("char", "char"), "int16": ("short", "short"), "int32": ("int", "int"), "int64": ("long", "long"),
    "uint8": ("uchar", "uchar"), "uint16": ("ushort", "ushort"), "uint32": ("uint", "uint"), "uint64": ("ulong", "ulong"),
    "float16": ("half", "float"), "float32": ("float", "float"), "float64": ("double", "double"),
    "complex64": ("float2", "float2"), "complex128": ("double2", "double2"),
}  # fmt: skip

# On a processor an item works through one stretch of memory, which becomes vector instructions; on a card neighbours work side by side.
PRELUDE = """
#pragma OPENCL FP_CONTRACT OFF
#ifdef PROCESSOR
#define FOR_EACH(i, n) for (size_t chunk_ = ((n) + get_global_size(0) - 1) / get_global_size(0), i = get_global_id(0) * chunk_, \\
    end_ = min((size_t)(n), i + chunk_); i < end_; ++i)
#else
#define FOR_EACH(i, n) for (size_t i = get_global_id(0); i < (size_t)(n); i += get_global_size(0))
#endif
"""

_HALF = """
float half_of(float x) { ushort bits; vstore_half_rte(x, 0, (half *)&bits); return vload_half(0, (half *)&bits); }
"""

_ROUNDED = {"round": "rint", "abs": "fabs"}
_SAME = frozenset({
    "acos", "acosh", "asin", "asinh", "atan", "atanh", "cos", "cosh", "exp", "expm1", "log", "log10", "log1p", "log2", "sin", "sinh", "sqrt", "tan",
    "tanh", "atan2", "copysign", "hypot", "pow", "ceil", "floor", "trunc"})  # fmt: skip
_ROUNDING = frozenset({"ceil", "floor", "trunc", "copysign"})
_OF_VECTORS = _SAME | {"add", "subtract", "multiply", "divide", "maximum", "minimum", "negative", "square", "reciprocal", "sign", "round", "abs"}
_INFIX = {
    "add": "+", "subtract": "-", "multiply": "*", "divide": "/", "bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^", "logical_and": "&",
    "logical_or": "|", "logical_xor": "^", "equal": "==", "not_equal": "!=", "greater": ">", "greater_equal": ">=", "less": "<", "less_equal": "<=",
}  # fmt: skip

# T: the type, U: its unsigned relative, of at least 32 bits, in which overflow wraps around, B: its bits
_INTEGER_HELPERS = {
    "floor_divide": """
T NAME(T a, T b) {
    if (b == 0) return 0;
    if (b == (T)-1 && (T)-1 < 0) return (T)(0 - (U)a);
    T q = a / b;
    return q - (a % b != 0 && (a < 0) != (b < 0));
}
""",
    "remainder": """
T NAME(T a, T b) {
    if (b == 0 || (b == (T)-1 && (T)-1 < 0)) return 0;
    T r = a % b;
    return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
""",
    "pow": """
T NAME(T a, T b) {
    U power = 1, base = (U)a;
    for (; b > 0; b >>= 1) { if (b & 1) power *= base; base *= base; }
    return (T)power;
}
""",
    "bitwise_left_shift": "T NAME(T a, T b) { return b >= 0 && (ulong)b < B ? (T)((U)a << b) : 0; }\n",
    "bitwise_right_shift": "T NAME(T a, T b) { return b >= 0 && (ulong)b < B ? a >> b : (a < 0 ? (T)-1 : 0); }\n",
}
_FLOAT_HELPERS = {
    # as npy_divmod: the quotient is nudged so that it fits the remainder
    "floor_divide": """
T NAME(T a, T b) {
    if (b == 0) return a / b;
    T m = fmod(a, b), d = (a - m) / b;
    if (m != 0 && (b < 0) != (m < 0)) d -= 1;
    if (d == 0) return copysign((T)0, a / b);
    T whole = floor(d);
    return d - whole > (T)0.5 ? whole + 1 : whole;
}
""",
    "remainder": """
T NAME(T a, T b) {
    T m = fmod(a, b);
    if (b == 0) return m;
    if (m == 0) return copysign((T)0, b);
    return (b < 0) != (m < 0) ? m + b : m;
}
""",
    "logaddexp": """
T NAME(T a, T b) {
    if (a == b) return a + (T)0.69314718055994530942;
    T d = a - b;
    return d > 0 ? a + log1p(exp(-d)) : d <= 0 ? b + log1p(exp(d)) : d;
}
""",
}
_NEXT_HALF = """
float next_half(float a, float b) {
    if (isnan(a) || isnan(b)) return NAN;
    if (a == b) return b;
    if (a == 0) return copysign(0x1p-24f, b);
    ushort bits;
    vstore_half_rte(a, 0, (half *)&bits);
    bits += (a < b) == (a > 0) ? 1 : -1;
    return vload_half(0, (half *)&bits);
}
"""


def load(dtype: str, pointer: str, index: str) -> str:
    return f"vload_half({index}, {pointer})" if dtype == "float16" else f"{pointer}[{index}]"


def store(dtype: str, pointer: str, index: str, value: str) -> str:
    return f"vstore_half_rte({value}, {index}, {pointer});" if dtype == "float16" else f"{pointer}[{index}] = {value};"


def cast_to(dtype: str, given: str, value: str) -> str:
    """`value` of dtype `given` as `dtype`; a real number becomes a complex one, never the other way round."""
    work = C_TYPE[dtype][1]
    if dtype == "bool":
        return value if given == "bool" else f"(uchar)({value} != 0)"
    if KIND[dtype][0] == "c":
        return f"convert_{work}({value})" if KIND[given][0] == "c" else f"({work})(({C_TYPE[real(dtype)][1]})({value}), 0)"
    return f"half_of(({work})({value}))" if dtype == "float16" and given != "float16" else f"({work})({value})"


class FormulaSource:
    """The kernel `expression` for a program. `modes`: how each input is indexed: `f` as the output, `s` one number, `b` with strides.

    `inputs`: their dtypes. Arguments of the kernel: the number of outputs, or of rows; the extents of `rank` dimensions if a mode is `b`; the
    inputs, those with strides followed by them; the constants; the output; and, if `fails`, a flag that is set for an integer to a negative
    power. Numbers written in a formula are arguments, so that one kernel serves them all. `vectors`: where the formula allows, eight numbers
    are computed with at a time, since drivers for processors have fast functions of vectors only.
    """

    def __init__(self, program: Program, inputs: Sequence[str], modes: Sequence[str], rank: int, *, rows: bool, vectors: bool) -> None:
        self.constants: list[tuple[Constant, str]] = []
        self._helpers: dict[str, str] = {}
        self._inputs = inputs
        self._dtypes = [*inputs]
        self._rows = rows
        self._width = ""
        self.vectors = vectors and set(modes) <= {"f", "s"} and self._suits_vectors(program)
        self.fails = any(step.function == "pow" and KIND[step.common][0] == "i" for step in program.steps)
        self._program = program
        self.text = self._kernel(modes, rank)

    def _suits_vectors(self, program: Program) -> bool:
        """Functions of one floating dtype, of which one is worth it."""
        dtypes = {*self._inputs, *(dtype for step in program.steps for dtype in (step.common, step.dtype))}
        names = {step.function for step in program.steps}
        return len(dtypes) == 1 and dtypes <= {"float32", "float64"} and names <= _OF_VECTORS and not names.isdisjoint(_SAME - _ROUNDING)

    def _kernel(self, modes: Sequence[str], rank: int) -> str:
        program, strided = self._program, "b" in modes
        eight = ""
        if self.vectors:
            self._width = "8"
            eight = "\n            ".join(self._body(modes, rank))
            self._width = ""
        lines = "\n        ".join(self._body(modes, rank))
        parameters = ["const long n"]
        parameters += [f"const long n{d}" for d in range(rank)] if strided else []
        for i, dtype in enumerate(self._inputs):
            parameters.append(f"__global const {C_TYPE[dtype][0]} *restrict x{i}")
            parameters += [f"const long s{i}_{d}" for d in range(rank)] if modes[i] == "b" else []
        parameters += [f"const {C_TYPE[dtype][1]} c{k}" for k, (_, dtype) in enumerate(self.constants)]
        parameters.append(f"__global {C_TYPE[program.dtype][0]} *restrict out")
        parameters += ["volatile __global int *failed"] if self.fails else []
        if eight:
            loop = f"""    FOR_EACH(b, (n + 7) / 8) {{
        if ((b + 1) * 8 <= (size_t)n) {{
            {eight}
        }} else for (size_t i = b * 8; i < (size_t)n; ++i) {{
        {lines}
        }}
    }}
"""
        else:
            loop = self._strided(rank, lines) if strided else f"    FOR_EACH(i, n) {{\n        {lines}\n    }}\n"
        half = _HALF if "float16" in (*self._dtypes, program.dtype) else ""
        return f"{half}{''.join(self._helpers.values())}__kernel void expression({', '.join(parameters)}) {{\n{loop}}}\n"

    def _body(self, modes: Sequence[str], rank: int) -> list[str]:
        """A statement an input, a step, and the result."""
        program = self._program
        self.constants, self._dtypes = [], [*self._inputs]
        found = []
        for i, dtype in enumerate(self._inputs):
            value = f"vload8(b, x{i})" if self._width and modes[i] == "f" else load(dtype, f"x{i}", self._index(i, modes[i], rank))
            found.append(f"const {C_TYPE[dtype][1]}{self._width} v{i} = {value};")
        for step in program.steps:
            found.append(f"const {C_TYPE[step.dtype][1]}{self._width} v{len(self._dtypes)} = {self._step(step)};")
            self._dtypes.append(step.dtype)
        result = f"v{program.result}" if isinstance(program.result, int) else self._operand(program.result, program.dtype)
        return [*found, f"vstore8({result}, b, out);" if self._width else store(program.dtype, "out", "i", result)]

    def _strided(self, rank: int, lines: str) -> str:
        """With `rows`, an item does whole rows of the last dimension, whose numbers then need no division."""
        last = rank - 1
        where = [f"size_t rest = {'row' if self._rows else 'i'};"]
        where += [f"const size_t i{d} = rest % n{d}; rest /= n{d};" for d in range(rank - 1 - self._rows, -1, -1)]
        if not self._rows:
            return f"    FOR_EACH(i, n) {{\n        {' '.join(where)}\n        {lines}\n    }}\n"
        inner = f"for (size_t i{last} = 0; i{last} < (size_t)n{last}; ++i{last}) {{"
        index = f"const size_t i = row * n{last} + i{last};"
        return f"    FOR_EACH(row, n) {{\n        {' '.join(where)}\n        {inner}\n        {index}\n        {lines}\n        }}\n    }}\n"

    def _index(self, i: int, mode: str, rank: int) -> str:
        return {"f": "i", "s": "0"}.get(mode) or " + ".join(f"i{d} * s{i}_{d}" for d in range(rank))

    def _operand(self, arg: int | Constant, dtype: str) -> str:
        if not isinstance(arg, Constant):
            return f"v{arg}"
        self.constants.append((arg, dtype))
        number = f"c{len(self.constants) - 1}"
        return f"({C_TYPE[dtype][1]}8){number}" if self._width else number

    def _helper(self, kind: str, name: str, dtype: str) -> str:
        """The name of a helper for this dtype; its text is put before the kernel."""
        work, bits = C_TYPE[dtype][1], KIND[dtype][1]
        called = f"{name}_{work}"
        if called not in self._helpers:
            text = (_INTEGER_HELPERS if kind in "iu" else _FLOAT_HELPERS)[name]
            macros = {"T": work, "U": "ulong" if bits == 64 else "uint", "B": str(bits), "NAME": called}
            defined = "".join(f"#define {macro} {value}\n" for macro, value in macros.items())
            self._helpers[called] = defined + text.strip() + "\n" + "".join(f"#undef {macro}\n" for macro in macros)
        return called

    def _step(self, step: Step) -> str:
        name, common = step.function, step.common
        args = [self._operand(arg, "bool" if name == "where" and i == 0 else common) for i, arg in enumerate(step.args)]
        if name == "cast":
            given = self._dtypes[step.args[0]] if isinstance(step.args[0], int) else common
            return cast_to(step.dtype, given, args[0])
        if name == "where":
            return f"({args[0]} ? {args[1]} : {args[2]})"
        kind = KIND[common][0]
        if kind == "c":
            for needed, text in complex_helpers(name, common):
                self._helpers.setdefault(needed, text)
            return COMPLEX[name].format(*args, s=common)
        if name == "imag":
            return "0"
        if kind == "b":
            return self._boolean(name, args)
        found = self._integer(name, args, common, kind) if kind in "iu" else self._floating(name, args, common)
        return f"half_of({found})" if step.dtype == "float16" else found

    def _boolean(self, name: str, args: list[str]) -> str:
        if name in ("isnan", "isinf", "isfinite"):
            return str(int(name == "isfinite"))
        if name in ("bitwise_invert", "logical_not"):
            return f"!{args[0]}"
        sign = {"add": "|", "multiply": "&", "maximum": "|", "minimum": "&"}.get(name) or _INFIX[name]
        return f"({args[0]} {sign} {args[1]})"

    def _integer(self, name: str, args: list[str], dtype: str, kind: str) -> str:
        work, wide = C_TYPE[dtype][1], "ulong" if KIND[dtype][1] == 64 else "uint"
        a, b = args[0], args[-1]
        if name in _INTEGER_HELPERS:
            power = f"{self._helper(kind, name, dtype)}({a}, {b})"
            return f"({b} < 0 ? (*failed = 1, ({work})0) : {power})" if name == "pow" and kind == "i" else power
        if name in ("isnan", "isinf", "isfinite"):
            return str(int(name == "isfinite"))
        if name in ("add", "subtract", "multiply"):
            return f"({work})(({wide}){a} {_INFIX[name]} ({wide}){b})"
        if name == "square":
            return f"({work})(({wide}){a} * ({wide}){a})"
        if name == "negative":
            return f"({work})(0 - ({wide}){a})"
        if name == "abs":
            return f"({a} < 0 ? ({work})(0 - ({wide}){a}) : {a})"
        if name == "sign":
            return f"({work})(({a} > 0) - ({a} < 0))"
        if name in ("maximum", "minimum"):
            return f"({a} {'>' if name == 'maximum' else '<'} {b} ? {a} : {b})"
        if name == "bitwise_invert":
            return f"({work})~{a}"
        return f"({a} {_INFIX[name]} {b})"

    def _floating(self, name: str, args: list[str], dtype: str) -> str:
        a, b = args[0], args[-1]
        if name in _FLOAT_HELPERS:
            return f"{self._helper('f', name, dtype)}({a}, {b})"
        if name in _SAME:
            return f"{name}({', '.join(args)})"
        if name in _INFIX:
            return f"({a} {_INFIX[name]} {b})"
        if name in ("maximum", "minimum"):
            return f"(({a} {'>=' if name == 'maximum' else '<='} {b} || {a} != {a}) ? {a} : {b})"
        if name == "nextafter":
            if dtype != "float16":
                return f"nextafter({a}, {b})"
            self._helpers["next_half"] = _NEXT_HALF
            return f"next_half({a}, {b})"
        if name in ("isnan", "isinf", "isfinite", "signbit"):
            return f"({name}({a}) != 0)"
        work = C_TYPE[dtype][1] + self._width
        simple = {
            "negative": f"-{a}", "square": f"({a} * {a})", "reciprocal": f"(1 / {a})",
            "sign": f"({a} > 0 ? ({work})1 : {a} < 0 ? ({work})-1 : {a} == 0 ? ({work})0 : {a})",
        }  # fmt: skip
        return simple.get(name) or f"{_ROUNDED[name]}({a})"
