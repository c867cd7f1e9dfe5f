"""What the Developer writes without a model: whole files from a name, a formula and what it is of."""

import keyword
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from openruntime.ai.agents.developer.formula import Formula
from openruntime.contracts.errors import InvalidParameter, nearest

KINDS = ("operation", "client", "kernel", "backend")
FIELDS = ("kind", "name", "formula", "arrays", "scalars", "doc", "examples", "operation", "parameters", "module")
POINTS = (0.25, 0.5, 1.25, 2.0)  # where an operation made of a formula is tried


class Wanted(msgspec.Struct, kw_only=True):
    """A request as the templates need it. `scalars`: name -> default. `examples`: calls, `{"parameters", "expected"}`."""

    kind: str
    name: str
    formula: str = ""
    arrays: list[str] = []
    scalars: dict[str, float] = {}
    doc: str = ""
    examples: list[dict[str, Any]] = []
    operation: str = ""
    parameters: dict[str, Any] = {}
    module: str = ""


_SIGNED = re.compile(r"`?\b([a-zA-Z]\w{0,60})\s*\(([\w\s,=.+\-e]*)\)\s*=\s*([^`\n]+)`?")


def wanted(prompt: str, parameters: Mapping[str, Any]) -> Wanted:
    """From the request's parameters, else from a line such as `operation scaled(x, a=2.0) = a*x + 1` in its words. Raises `InvalidParameter`."""
    for name in parameters:
        if name not in FIELDS:
            raise InvalidParameter(
                f"the developer has no parameter `{name[:60]}`{nearest(name, FIELDS)}; it has {', '.join(FIELDS)}", field=name[:60]
            )
    given = {"kind": kind_of(prompt), "name": ""} | _signed(prompt) | dict(parameters)
    try:
        found = msgspec.convert(given, Wanted)
    except msgspec.ValidationError as error:
        field = re.search(r"\$\.(\w+)", str(error))
        raise InvalidParameter(f"`{field[1] if field else 'parameters'}`: {error}", field=field[1] if field else "parameters") from None
    if found.kind not in KINDS:
        raise InvalidParameter(f"`kind` must be one of {', '.join(KINDS)}, not {found.kind!r:.60}", field="kind")
    if found.name and not (re.fullmatch(r"[a-z][a-z0-9_]{0,60}", found.name) and not keyword.iskeyword(found.name)):
        raise InvalidParameter(f"`name` must be of lower-case letters, digits and _, not {found.name!r:.80}", field="name")
    for name in [*found.arrays, *found.scalars]:
        if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("__"):
            raise InvalidParameter(f"`{name[:60]}` is no name for a parameter", field="arrays")
    return found


def kind_of(prompt: str) -> str:
    words = prompt.lower()
    found = {"backend": r"\bbackend\b|\bplugin for\b", "kernel": r"\bkernel\b|opencl", "client": r"\bclient\b|\bscript\b|\bprogram\b|\bsdk\b"}
    return next((kind for kind, pattern in found.items() if re.search(pattern, words)), "operation")


def _signed(prompt: str) -> dict[str, Any]:
    hit = _SIGNED.search(prompt)
    if hit is None:
        return {}
    arrays: list[str] = []
    scalars: dict[str, float] = {}
    for part in filter(None, (piece.strip() for piece in hit[2].split(","))):
        name, equals, default = part.partition("=")
        if equals:
            try:
                scalars[name.strip()] = float(default)
            except ValueError:
                raise InvalidParameter(f"`{name.strip()}` has the default {default.strip()!r:.40}, which is no number", field="formula") from None
        else:
            arrays.append(name.strip())
    return {"name": hit[1].lower(), "formula": hit[3].strip().rstrip(".;,"), "arrays": arrays, "scalars": scalars}


def operation(want: Wanted, formula: Formula) -> str:
    """The module of an operation: its function, shape rule and estimate."""
    arrays, scalars = formula.arrays, formula.scalars
    many = len(arrays) > 1
    names = [*arrays, *scalars]
    doc = want.doc.strip() or f"The formula `{formula.text}`, element by element."
    doc = doc.replace("\\", "\\\\").replace('"""', "'''")
    first = doc.partition("\n")[0]
    doc = doc if first.endswith(".") else doc.replace(first, f"{first}.", 1)
    signed = ", ".join(
        [f"{name}: Array" for name in arrays] + (["*"] if scalars else []) + [f"{name}: float = {want.scalars[name]!r}" for name in scalars]
    )
    signed += ", xp: Namespace" if scalars else ", *, xp: Namespace"
    specs = ", ".join([f"{name}: Spec" for name in arrays] + [f"{name}: float" for name in scalars])
    result = _text("bool") if formula.test else f"{arrays[0]}.dtype"
    shape = f'broadcast("{want.name}", [{", ".join(f"({_text(name)}, {name}.shape)" for name in arrays)}])' if many else f"{arrays[0]}.shape"
    same = (
        f"        if spec.dtype != {arrays[0]}.dtype:\n"
        f'            told = f"`{{field}}` of {want.name} must be {{{arrays[0]}.dtype}} as `{arrays[0]}` is, and is {{spec.dtype}}"\n'
        "            raise InvalidParameter(told, field=field)\n"
    )
    listed = ", ".join(f"({_text(name)}, {name})" for name in arrays)
    return (
        f'"""The operation {want.name}: {formula.text}"""\n\n'
        + ("import math\n\n" if formula.uses_math() else "")
        + "from openruntime.operations import Array, Estimate, InvalidParameter, Namespace, Spec, operation\n"
        + ("from openruntime.operations.shapes import broadcast\n" if many else "")
        + "from openruntime.operations.stacking import elementwise\n\n\n"
        + f"def _check({specs}) -> Spec:\n"
        + f"    for field, spec in ({listed}{',' if not many else ''}):\n"
        + '        if spec.dtype not in ("float32", "float64"):\n'
        + f'            raise InvalidParameter(f"`{{field}}` of {want.name} must be float32 or float64, and is {{spec.dtype}}", field=field)\n'
        + (same if many else "")
        + f"    return Spec({result if result != 'bool' else _text('bool')}, {shape})\n\n\n"
        + f"def _estimate({specs}) -> Estimate:\n"
        + f"    output = _check({', '.join(names)})\n"
        + f"    wide = Spec({arrays[0]}.dtype, output.shape).nbytes\n"
        + f"    inputs = {' + '.join(f'{name}.nbytes' for name in arrays)}\n"
        + "    moved = inputs + output.nbytes\n"
        + f"    return Estimate(flops={formula.operations()}.0 * output.size, bytes=float(moved), memory=moved + 3 * wide)\n\n\n"
        + '@operation(family="written", check=_check, estimate=_estimate, batch=elementwise)\n'
        + f"def {want.name}({signed}) -> Array:\n"
        + f'    """{doc}\n\n'
        + f"    {', '.join(arrays)}: float32 or float64{', of one dtype; they broadcast' if many else ''}."
        + (f" {', '.join(scalars)}: numbers." if scalars else "")
        + f" Shape and dtype: {'booleans of ' if formula.test else 'those of '}{'their common shape' if many else f'`{arrays[0]}`'}.\n"
        + '    """\n'
        + f"    return {formula.array_code()}\n"
    )


def operation_test(want: Wanted, formula: Formula) -> str:
    """A test of it that computes in Python's own numbers what must come."""
    names = [*formula.arrays, *formula.scalars]
    columns = [f"GIVEN[{_text(name)}]" for name in formula.arrays] + [f"[{want.scalars[name]!r}] * {len(POINTS)}" for name in formula.scalars]
    return (
        f'"""{want.name} keeps the contract of operations, and computes its formula."""\n\n'
        "import math  # noqa: F401  (formulas use it)\nfrom typing import ClassVar\n\n"
        "from openruntime.testing.operation_suite import Example, OperationSuite\n\n\n"
        f"def by_hand({', '.join(f'{name}: float' for name in names)}) -> float:\n    return {formula.scalar_code()}\n\n\n"
        f"GIVEN = {msgspec.json.encode(_given(want, formula)).decode()}\n"
        f"WANTED = [by_hand(*row) for row in zip({', '.join(columns)}, strict=True)]\n\n\n"
        f"class Test{_class(want.name)}(OperationSuite):\n"
        f"    operation: ClassVar[str] = {_text(want.name)}\n"
        "    examples: ClassVar[list[Example]] = [Example(GIVEN, WANTED)]\n"
    )


def _given(want: Wanted, formula: Formula) -> dict[str, list[float]]:
    return {name: [point + 0.125 * i for point in POINTS] for i, name in enumerate(formula.arrays)}


def tried(want: Wanted, formula: Formula) -> list[dict[str, Any]]:
    """Calls to try it with, and what must come: those given, and some computed in Python's own numbers."""
    import math

    code = compile(formula.scalar_code(), "<formula>", "eval")  # of a checked tree: names, numbers and functions of math
    given = _given(want, formula)
    names = {"math": math, "max": max, "min": min, "abs": abs, "__builtins__": {}}
    expected: list[Any] = []
    for i in range(len(POINTS)):
        try:
            value = eval(code, names, {name: values[i] for name, values in given.items()} | want.scalars)
        except (ArithmeticError, ValueError):
            return want.examples or [{"parameters": given}]  # outside of where it has real values
        if isinstance(value, complex):
            return want.examples or [{"parameters": given}]
        expected.append(value)
    return [*want.examples, {"parameters": given, "expected": expected}]


def project(want: Wanted) -> str:
    """The package that registers it."""
    kind = "operations" if want.kind == "operation" else "backends"
    target = want.name if want.kind == "operation" else f"{_class(want.name)}Backend"
    return (
        '[build-system]\nrequires = ["hatchling>=1.27"]\nbuild-backend = "hatchling.build"\n\n'
        f'[project]\nname = "openruntime-plugin-{want.name.replace("_", "-")}"\nversion = "0.1.0"\nrequires-python = ">=3.11"\n'
        'dependencies = ["openruntime"]\n\n'
        f'[project.entry-points."openruntime.{kind}"]\n{want.name} = "openruntime_{want.name}:{target}"\n\n'
        f'[tool.hatch.build.targets.wheel]\ninclude = ["openruntime_{want.name}.py"]\n'
    )


def kernel(want: Wanted, formula: Formula) -> dict[str, Any]:
    """What `POST /kernels` takes: OpenCL C over one array after the other, held to the same formula as an expression."""
    if formula.test:
        raise InvalidParameter("`formula`: its value is true or false, and a kernel of this kind gives float32", field="formula")
    arguments = [f"__global const float *{name}" for name in formula.arrays] + ["__global float *out"]
    arguments += [f"const float {name}" for name in formula.scalars] + ["const int n"]
    source = (
        f"__kernel void {want.name}({', '.join(arguments)}) {{\n    const int gid = get_global_id(0);\n"
        f"    if (gid < n) out[gid] = {formula.opencl_code()};\n}}\n"
    )
    return {
        "name": want.name, "language": "opencl", "source": source,
        "inputs": [{"name": name, "dtype": "float32", "shape": ["n"]} for name in formula.arrays],
        "outputs": [{"name": "out", "dtype": "float32", "shape": ["n"]}],
        "scalars": [{"name": name, "dtype": "float32"} for name in formula.scalars] + [{"name": "n", "dtype": "int32"}],
        "grid": ["n"], "reference": {"operation": "expression", "parameters": {"formula": formula.text}},
    }  # fmt: skip


def client(want: Wanted) -> str:
    """A program that runs an operation through the SDK."""
    lines = [f"    {name}={_literal(value)}," for name, value in want.parameters.items()]
    return (
        f'"""Runs {want.operation} through OpenRuntime, and prints what comes."""\n\nimport numpy as np\n\nimport openruntime\n\n'
        '# `openruntime.connect("http://localhost:8000")` for a server; without an address a runtime in this process\n'
        f"with openruntime.connect() as rt:\n    result = rt.run(\n        {_text(want.operation)},\n"
        + "".join(f"    {line}\n" for line in lines)
        + "    )\n    print(np.asarray(result) if not isinstance(result, dict) else {name: np.asarray(value) for name, value in result.items()})\n"
    )


def _literal(value: Any) -> str:
    return f"np.array({value!r})" if isinstance(value, list) else repr(value)


_BACKEND = """
class {target}(ArrayBackend):
    \"\"\"{module} on the processor.\"\"\"

    name = {name}
    xp = {module}
    unsupported: ClassVar[Mapping[str, str]] = {{{unsupported}}}
    lacks: ClassVar[Mapping[str, str]] = {{{start}**ArrayBackend.lacks,{lacks}}}

    def _run(self, operation: Operation, arguments: dict[str, Any]) -> dict[str, Any]:
        with np.errstate(all="ignore"):  # infinities and NaN are answers
            return super()._run(operation, arguments)

    def from_host(self, array: np.ndarray[Any, Any]) -> Any:
        return self.xp.asarray(array, copy=True)

    def translate(self, operation: str, error: Exception) -> OpenRuntimeError | None:
        lacking = self.lacks.get(error.name or "") if isinstance(error, AttributeError) else None
        if lacking is not None:
            return UnsupportedOnDevice(lacking)
        if isinstance(error, np.linalg.LinAlgError):
            return OperationFailed(f"{{operation}} failed: {{str(error)[:1].lower()}}{{str(error)[1:]}}")
        return super().translate(operation, error)
"""


def backend(want: Wanted, unsupported: Mapping[str, str] | None = None, lacks: Mapping[str, str] | None = None) -> str:
    """A backend of a library that has an Array API namespace. `unsupported`: operations, `lacks`: dtypes that it was seen not to have, with why."""
    operations = "".join(f"\n        {_text(name)}: {_text(reason)}," for name, reason in sorted((unsupported or {}).items()))
    dtypes = "".join(f"\n        {_text(name)}: {_text(reason)}," for name, reason in sorted((lacks or {}).items()))
    imports = sorted({want.module, "numpy as np"})
    return (
        f'"""{want.module} as a backend of OpenRuntime."""\n\nfrom collections.abc import Mapping\nfrom typing import Any, ClassVar\n\n'
        + "".join(f"import {name}\n" for name in imports)
        + "\nfrom openruntime.backends.array_backend import ArrayBackend\n"
        "from openruntime.errors import OpenRuntimeError, OperationFailed, UnsupportedOnDevice\nfrom openruntime.operations import Operation\n\n"
        + _BACKEND.format(
            target=f"{_class(want.name)}Backend", module=want.module, name=_text(want.name),
            unsupported=f"{operations}\n    " if operations else "", start="\n        " if dtypes else "", lacks=f"{dtypes}\n    " if dtypes else "",
        )
    )  # fmt: skip


def _text(text: str) -> str:
    """As Python writes it between double quotes; JSON's escapes are Python's too."""
    return msgspec.json.encode(text).decode()


def _class(name: str) -> str:
    return "".join(part.title() for part in name.split("_"))
