"""Examines an operation of a file beside it, in a process that may be confined: `python -m openruntime.testing.trial trial.json`.

It is not told what must come of the examples, and holds nothing that would make its word more than that of the code it runs: its outputs are
judged by a second run (`judge` before the file's name), which loads none of that code.
"""

import sys
from pathlib import Path
from typing import Any

import msgspec

from openruntime.contracts.payload import Array

Outputs = list[dict[str, tuple[str, tuple[int, ...], bytes]]]  # dtype, shape and bytes by name, one mapping an example


class Order(msgspec.Struct, kw_only=True):
    """`outputs` are there to be judged only, and so is what is `expected` in the examples."""

    operation: str
    examples: list[dict[str, Any]]
    outputs: Outputs = []


class Verdict(msgspec.Struct, kw_only=True):
    """The last line that is printed."""

    rows: list[dict[str, Any]]
    outputs: Outputs = []


def main() -> None:
    *judging, path = sys.argv[1:]
    order = msgspec.json.decode(Path(path).read_bytes(), type=Order)
    from openruntime.testing.operation_suite import Example

    examples = [Example(one["parameters"], one.get("expected")) for one in order.examples]
    verdict = judged(order, examples) if judging else tried(order, examples)
    print(f"\n{msgspec.json.encode(verdict).decode()}", flush=True)


def tried(order: Order, examples: list[Any]) -> Verdict:
    from openruntime.testing.operation_suite import Trial, examine

    try:
        trial = Trial(order.operation, examples)
    except Exception as error:
        return Verdict(rows=[{"check": "registered", "ok": False, "detail": f"{type(error).__name__}: {error}"}])
    rows = examine(trial)
    if any(row["ok"] is False for row in rows):
        return Verdict(rows=rows)
    answers = [trial.run(trial.bind(example.parameters)) for example in trial.examples]
    return Verdict(rows=rows, outputs=[{name: (a.dtype, tuple(a.shape), bytes(a.view)) for name, a in answer.items()} for answer in answers])


def judged(order: Order, examples: list[Any]) -> Verdict:
    from openruntime.testing.operation_suite import agree

    try:
        agree(examples, [{name: Array(*output) for name, output in answer.items()} for answer in order.outputs])
    except Exception as error:
        return Verdict(rows=[{"check": "answers", "ok": False, "detail": str(error).strip() or type(error).__name__}])
    return Verdict(rows=[{"check": "answers", "ok": True, "detail": "each example gives what it must"}])


if __name__ == "__main__":
    main()
