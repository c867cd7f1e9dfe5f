"""An exporter that tells from inside the gateway what cannot be seen from outside: objects and asyncio tasks, after a collection."""

import asyncio
import gc
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from openruntime.contracts.interfaces import MetricsExporter


class Vitals(MetricsExporter):
    """`target` names a file. When `target.ask` is there it is taken away and the figures are written to `target`."""

    def __init__(self, target: str) -> None:
        self._answer = Path(target)
        self._question = Path(target + ".ask")

    def export_metrics(self, metrics: dict[str, Any]) -> None:
        if not self._question.exists():
            return
        self._question.unlink()
        gc.collect()
        found = gc.get_objects()
        kinds = Counter(type(thing).__qualname__ for thing in found)
        # a task that was never started has no name that matters; this thread's own export is one
        tasks = [str(thing.get_coro()) for thing in found if isinstance(thing, asyncio.Task) and not thing.done()]
        draft = self._answer.with_suffix(".draft")
        draft.write_text(json.dumps({"objects": len(found), "kinds": kinds.most_common(60), "tasks": tasks, "modules": list(sys.modules)}))
        draft.rename(self._answer)
