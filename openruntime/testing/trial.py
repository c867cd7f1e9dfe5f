"""Examines an operation of a file beside it, in a process that may be confined: `python -m openruntime.testing.trial trial.json`.

Prints one line of JSON that begins with the word in the environment variable `TRIAL`, which the examined code has no way to learn.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    word = os.environ.pop("TRIAL", "")
    order: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    from openruntime.testing.operation_suite import Example, Trial, examine

    examples = [Example(one["parameters"], one.get("expected")) for one in order["examples"]]
    try:
        rows = examine(Trial(order["operation"], examples))
    except Exception as error:
        rows = [{"check": "registered", "ok": False, "detail": f"{type(error).__name__}: {error}"}]
    print(f"{word} {json.dumps(rows)}", flush=True)


if __name__ == "__main__":
    main()
