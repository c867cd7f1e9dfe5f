"""A formula as code: for the Array API, for Python's own numbers, for OpenCL C. Read by the parser of the operation `expression`."""

from collections.abc import Sequence

from openruntime.contracts.errors import InvalidParameter
from openruntime.operations.formula import CONSTANTS, Constant, Node, parse

_INFIX = {
    "add": "+", "subtract": "-", "multiply": "*", "divide": "/", "pow": "**", "less": "<", "less_equal": "<=", "greater": ">", "greater_equal": ">=",
    "equal": "==", "not_equal": "!=", "bitwise_and": "&", "bitwise_or": "|",
}  # fmt: skip
_TESTS = ("less", "less_equal", "greater", "greater_equal", "equal", "not_equal", "bitwise_and", "bitwise_or")
_SAME = (
    "acos", "acosh", "asin", "asinh", "atan", "atanh", "cos", "cosh", "exp", "expm1", "log", "log10", "log1p", "log2", "sin", "sinh", "sqrt", "tan",
    "tanh", "ceil", "floor", "trunc", "atan2", "copysign", "hypot",
)  # fmt: skip
_SCALARS = {name: f"math.{name}" for name in _SAME} | {"abs": "abs", "maximum": "max", "minimum": "min"}
_OPENCL = {name: name for name in _SAME} | {"abs": "fabs", "maximum": "fmax", "minimum": "fmin"}
KNOWN = frozenset({*_INFIX, *_SAME, "abs", "maximum", "minimum", "square", "where", "negative", "positive"})


class Formula:
    """`text` over `arrays` and `scalars`, all of real numbers. Raises `InvalidParameter` naming `formula`."""

    def __init__(self, text: str, arrays: Sequence[str], scalars: Sequence[str]) -> None:
        self.text = text.strip()
        self.arrays = list(arrays)
        self.scalars = list(scalars)
        self._tree = parse(self.text)
        used = set(self._names(self._tree))
        for name in used - {*arrays, *scalars, *CONSTANTS}:
            raise _refuse(f"it names {name}, which is neither an array ({', '.join(arrays)}) nor a number ({', '.join(scalars) or 'none'})")
        for name in [*arrays, *scalars]:
            if name not in used:
                raise _refuse(f"it does not use {name}")
            if name in CONSTANTS or name in ("xp", "math", "n", "i", "gid"):
                raise _refuse(f"the name {name} is taken; call it another")
        self.test = self._tree.function in _TESTS
        """Whether its value is true or false."""

    def _names(self, node: Node) -> list[str]:
        found: list[str] = []
        if node.function and node.function not in KNOWN:
            raise _refuse(f"{node.function} is not known here; known are {', '.join(sorted(KNOWN))}")
        for arg in node.args:
            if isinstance(arg, Node):
                found += self._names(arg)
            elif isinstance(arg, str):
                found.append(arg)
            elif isinstance(arg.value, complex):
                raise _refuse("complex numbers are not known here")
        return found

    def operations(self) -> int:
        """How many functions it applies."""

        def count(node: Node) -> int:
            return bool(node.function) + sum(count(arg) for arg in node.args if isinstance(arg, Node))

        return count(self._tree)

    def array_code(self) -> str:
        """Against the Array API, `xp`; what holds no array is computed with `math`."""
        return _bare(self._array(self._tree))

    def scalar_code(self) -> str:
        """In Python's floats."""
        return _bare(self._scalar(self._tree))

    def opencl_code(self) -> str:
        """In float32; arrays as `x[gid]`."""
        return _bare(self._opencl(self._tree))

    def uses_math(self) -> bool:
        return "math." in self.array_code()

    def _holds_array(self, node: Node) -> bool:
        return any(self._holds_array(arg) if isinstance(arg, Node) else arg in self.arrays for arg in node.args)

    def _leaf(self, node: Node) -> str | Constant | None:
        return node.args[0] if node.function == "" and not isinstance(node.args[0], Node) else None

    def _array(self, node: Node) -> str:
        if not self._holds_array(node):
            return self._scalar(node)
        leaf = self._leaf(node)
        if leaf is not None:
            return str(leaf)
        args = [self._beside(arg) for arg in node.args if isinstance(arg, Node)]
        name = node.function
        if name in _INFIX:
            return f"({args[0]} {_INFIX[name]} {args[1]})"
        if name in ("negative", "positive"):
            return f"({'-' if name == 'negative' else '+'}{args[0]})"
        if name == "square":
            return f"xp.square({args[0]})"
        if name == "where" and not any(self._holds_array(arg) for arg in node.args[1:] if isinstance(arg, Node)):
            first = self.arrays[0]  # the standard wants an array among the two
            return f"xp.where({args[0]}, xp.zeros_like({first}) + {args[1]}, {args[2]})"
        return f"xp.{name}({', '.join(args)})"

    def _beside(self, node: Node) -> str:
        """What stands beside an array: a number as it was written."""
        leaf = self._leaf(node)
        return repr(leaf.value) if isinstance(leaf, Constant) else self._array(node)

    def _scalar(self, node: Node) -> str:
        leaf = self._leaf(node)
        if leaf is not None:
            return _number(leaf) if isinstance(leaf, Constant) else f"math.{leaf}" if leaf in CONSTANTS else str(leaf)
        args = [self._scalar(arg) for arg in node.args if isinstance(arg, Node)]
        name = node.function
        if name in _INFIX:
            return f"({args[0]} {_INFIX[name]} {args[1]})"
        if name in ("negative", "positive"):
            return f"({'-' if name == 'negative' else '+'}{args[0]})"
        if name == "square":
            return f"({args[0]} ** 2)"
        if name == "where":
            return f"({args[1]} if {args[0]} else {args[2]})"
        return f"{_SCALARS[name]}({', '.join(args)})"

    def _opencl(self, node: Node) -> str:
        leaf = self._leaf(node)
        if leaf is not None:
            if isinstance(leaf, Constant):
                return _literal(float(leaf.value.real))
            return f"{leaf}[gid]" if leaf in self.arrays else _literal(CONSTANTS[leaf]) if leaf in CONSTANTS else str(leaf)
        args = [self._opencl(arg) for arg in node.args if isinstance(arg, Node)]
        name = node.function
        if name == "pow":
            power = node.args[1]
            whole = self._leaf(power) if isinstance(power, Node) else None
            if isinstance(whole, Constant) and whole.value in (2, 3):
                return f"({' * '.join([args[0]] * int(whole.value.real))})"
            return f"pow({args[0]}, {args[1]})"
        if name in _INFIX:
            return f"({args[0]} {_INFIX[name]} {args[1]})"
        if name in ("negative", "positive"):
            return f"({'-' if name == 'negative' else '+'}{args[0]})"
        if name == "square":
            return f"({args[0]} * {args[0]})"
        if name == "where":
            return f"({args[0]} ? {args[1]} : {args[2]})"
        return f"{_OPENCL[name]}({', '.join(args)})"


def _number(constant: Constant) -> str:
    return repr(float(constant.value.real))  # a power of whole numbers would have no bounds


def _literal(value: float) -> str:
    if value != value:
        return "NAN"
    if value in (float("inf"), float("-inf")):
        return "INFINITY" if value > 0 else "(-INFINITY)"
    text = f"{value:.9g}"
    return f"{text}{'' if '.' in text or 'e' in text else '.0'}f"


def _bare(code: str) -> str:
    """Without parentheses around all of it."""
    depth = 0
    for i, character in enumerate(code):
        depth += (character == "(") - (character == ")")
        if depth == 0 and i < len(code) - 1:
            return code
    return code[1:-1] if code.startswith("(") else code


def _refuse(message: str) -> InvalidParameter:
    return InvalidParameter(f"`formula`: {message}", field="formula")
