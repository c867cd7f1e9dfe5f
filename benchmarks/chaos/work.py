"""The kinds of tasks that are sent, each with what must come of it. A kind and a number name a task; nothing else need be kept."""

import json
from dataclasses import dataclass
from functools import lru_cache

import array_api_compat.numpy as xp
import numpy as np
import safetensors.numpy

from benchmarks.load import SAFETENSORS, request
from openruntime.operations.simulation import monte_carlo_pi

TINY, LARGE = 250, 100_000  # float32: in the task's row; in a blob of its own
LONG, SEEDS = 5_000_000, 4  # samples: some tenths of a second
ENDLESS = 10**12  # only for tasks that are cancelled or run out of time
TIMEOUTS = {"deadline": 600.0, "overdue": 0.3}  # seconds: never over, however the clock is set; over soon, though it were set back for hours
BATCH = 100
FORMULA = "2*x+1"


@dataclass(frozen=True)
class Kind:
    """What a task of it ends as: `array` (its `expected` output), or failed or cancelled with this code."""

    ends: str = "array"


KINDS = {
    "tiny": Kind(), "large": Kind(), "long": Kind(), "batch": Kind(), "dependent": Kind(), "tensor": Kind(),
    "failing": Kind("operation_failed"), "cancelled": Kind("cancelled"), "deadline": Kind(), "overdue": Kind("timeout"),
}  # fmt: skip


def vector(kind: str, number: int) -> np.ndarray:
    """The input of a task, (n,) float32."""
    return np.arange(LARGE if kind == "large" else TINY, dtype=np.float32) + np.float32(number % 100_003)


def expected(kind: str, number: int) -> np.ndarray:
    """The output of a task that ends as it should."""
    if kind == "long":
        return np.asarray(_pi(number % SEEDS))
    once = 2 * vector(kind, number) + 1
    return 2 * once + 1 if kind == "dependent" else once


@lru_cache
def _pi(seed: int) -> float:
    function = getattr(monte_carlo_pi, "function", monte_carlo_pi)
    return float(function(samples=LONG, seed=seed, xp=xp, steps=lambda done, total: None))


def call(kind: str, number: int, reference: dict[str, str] | None = None) -> tuple[dict[str, object], dict[str, np.ndarray]]:
    """The TaskRequest and its arrays. `reference` stands for the array of `dependent` (a task) and `tensor` tasks."""
    if kind in TIMEOUTS:
        task, arrays = call("tiny" if kind == "deadline" else "cancelled", number)
        return task | {"timeout": TIMEOUTS[kind]}, arrays
    if kind in ("long", "cancelled"):
        return {"operation": "monte_carlo_pi", "parameters": {"samples": LONG if kind == "long" else ENDLESS, "seed": number % SEEDS}}, {}
    if kind == "failing":
        return {"operation": "cholesky", "parameters": {"x": [[1.0, 2.0 + number % 1000], [2.0 + number % 1000, 1.0]]}}, {}
    if reference is not None:
        return {"operation": "expression", "parameters": {"formula": FORMULA, "x": reference}}, {}
    return {"operation": "expression", "parameters": {"formula": FORMULA}}, {"x": vector(kind, number)}


def submission(task: dict[str, object], arrays: dict[str, np.ndarray], *, key: str | None, wait: float | None, priority: int = 5) -> bytes:
    """POST /tasks."""
    headers = {"Accept": SAFETENSORS, "Cache-Control": "no-store"}
    if key is not None:
        headers["Idempotency-Key"] = key
    if wait is not None:
        headers["Prefer"] = f"wait={wait:g}"
    else:
        headers["Accept"] = "application/json"
    body = json.dumps(task | {"priority": priority}).encode()
    if arrays:
        body = safetensors.numpy.save(arrays, metadata={"task": body.decode()})
    return request("POST", "/tasks", body, headers | {"Content-Type": SAFETENSORS if arrays else "application/json"})


def batch(numbers: list[int]) -> bytes:
    """POST /tasks/batch. It takes no key: sent twice it would run twice."""
    tasks = [call("batch", number)[0] for number in numbers]
    arrays = {f"{index}.x": vector("batch", number) for index, number in enumerate(numbers)}
    body = safetensors.numpy.save(arrays, metadata={"tasks": json.dumps(tasks)})
    return request("POST", "/tasks/batch", body, {"Content-Type": SAFETENSORS, "Cache-Control": "no-store"})


def tensor(number: int) -> bytes:
    """POST /tensors: the input of the `tensor` task of this number."""
    body = safetensors.numpy.save({"tensor": vector("tensor", number)})
    return request("POST", "/tensors", body, {"Content-Type": SAFETENSORS})


def results(ids: list[str], wait: float) -> bytes:
    """GET /tasks/batch: what became of each."""
    return request("GET", f"/tasks/batch?wait={wait:g}&ids={','.join(ids)}", headers={"Accept": SAFETENSORS})
