"""What code of a model may not hold, because it would evaluate text, or reach what leads out: read, never run."""

import pytest

from openruntime.ai.agents.developer.reading import problems

HEAD = "from openruntime.operations import Array, Namespace, operation\n"
BODY = '@operation\ndef foo(x: Array, *, xp: Namespace) -> Array:\n    """Foo."""\n    return x\n'


@pytest.mark.parametrize(
    "code",
    [
        'import typing\nclass H:\n    x: "open(1)"\nS = typing.get_type_hints(H)\n' + BODY,
        'from typing import get_type_hints\n' + BODY,
        'import dataclasses\nH = dataclasses.make_dataclass("H", [("x", "1")])\n' + BODY,
        'import typing\nH = typing.ForwardRef("1")\n' + BODY,
        'import typing\nH = typing.NamedTuple("H", [("x", "1")])\n' + BODY,
        'import typing\nt = typing\nS = t.get_type_hints\n' + BODY,
        'import enum\nS = enum.bltns\n' + BODY,
        'import functools\nS = functools.singledispatch\n' + BODY,
        'import collections.abc\nS = collections._sys\n' + BODY,
        'import msgspec\nH = msgspec.defstruct("H", [("x", "1")])\n' + BODY,
        'import openruntime.operations as ops\nfoo2 = ops.operation(1)\n' + BODY,
        'from typing import TypedDict\nH = TypedDict("H", {"x": "1"})\n' + BODY,
        'from typing import List as Literal\n' + BODY,
        'H = type("H", (), {"__annotations__": {"x": "1"}})\n' + BODY,
        'H = operation(1)\n' + BODY,
        BODY.replace("x: Array", 'x: "print(1)"'),
        BODY.replace("x: Array", "x: list[S]").replace("@operation", 'S = "print(1)"\n@operation'),
        BODY.replace("x: Array", 'x: list["print(1)"]'),
        BODY.replace("x: Array", "x: list[chr(49) + chr(49)]"),
        BODY.replace("-> Array", '-> "print(1)"'),
        'class H:\n    s = "print(1)"\n' + BODY.replace("x: Array", "x: list[H.s]"),
        BODY.replace("x: Array", f"x: {'int | ' * 4000}Array"),
        BODY.replace("return x", 'y: "print(1)" = x\n    return y'),
        BODY.replace("@operation", "@operation\n@print"),
        BODY.replace("return x", "return xp._core"),
    ],
)  # fmt: skip
def test_what_evaluates_text_is_refused(code: str) -> None:
    assert problems(HEAD + code, "operation", "foo")


@pytest.mark.parametrize(
    "code",
    [
        BODY,
        "from __future__ import annotations\n" + BODY,
        "from typing import Annotated, Literal\nfrom msgspec import Meta\n"
        + BODY.replace("*, ", '*, mode: Literal["a", "b"] = "a", n: Annotated[float, Meta(gt=-1, le=1e3)] = 1.0, axis: int | None = None, '),
        "import math\nimport typing\nfrom functools import partial\nMORE: typing.Final = math.pi\n" + BODY,
        'from typing import TypedDict\n\n\nclass Both(TypedDict):\n    a: Array\n    b: Array\n\n\n'
        + BODY.replace("-> Array", "-> Both").replace("return x", 'return {"a": x, "b": x}'),
    ],
)  # fmt: skip
def test_what_an_operation_needs_may_stand_there(code: str) -> None:
    assert problems(HEAD + code, "operation", "foo") == []
