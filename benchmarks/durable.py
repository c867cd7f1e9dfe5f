"""Work C: 10,000 distinct tasks handed over, each acknowledged when it is on disk, then every result fetched and checked."""

import json
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import safetensors.numpy

from benchmarks.load import SAFETENSORS, Answer, drive, request
from benchmarks.report import Notebook
from benchmarks.servers import openruntime, running
from benchmarks.works import ELEMENTS, FORMULA, body_a, output

SUBMIT = {"Content-Type": SAFETENSORS, "Cache-Control": "no-store"}
FETCH = {"Accept": SAFETENSORS}
BATCH = 100


def inputs(count: int) -> np.ndarray:
    """`count` distinct float32 vectors, (count, ELEMENTS)."""
    return np.random.default_rng(7).random((count, ELEMENTS), dtype=np.float32)


def body_batch(vectors: np.ndarray, first: int) -> bytes:
    """The body of one POST /tasks/batch: array `i.x` belongs to task `i`."""
    tasks = [{"operation": "expression", "parameters": {"formula": FORMULA}} for _ in range(len(vectors))]
    arrays = {f"{number}.x": vector for number, vector in enumerate(vectors)}
    return bytes(safetensors.numpy.save(arrays, metadata={"tasks": json.dumps(tasks)}))


def accepted(answers: Sequence[Answer]) -> list[str]:
    """The ids of the tasks that these answers acknowledge. Raises `RuntimeError` on any answer but 202."""
    ids: list[str] = []
    for answer in answers:
        if answer.status != 202:
            raise RuntimeError(f"status {answer.status}: {bytes(answer.body[:500])!r}")
        seen = answer.json()
        for task in seen.get("tasks", [seen]):
            if "task_id" not in task:
                raise RuntimeError(f"a task was refused: {task}")
            ids.append(task["task_id"])
    return ids


def fetch(port: int | Sequence[int], ids: Sequence[str], connections: int, timeout: float = 120) -> list[Answer]:
    """The results as safetensors, in the order of `ids`, or the refusals; waits for each, asks again for what took longer.

    Raises `TimeoutError`.
    """
    answers: dict[str, Answer] = {}
    deadline = time.monotonic() + timeout
    missing = list(ids)
    while missing:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(missing)} of {len(ids)} results not there within {timeout} s")
        asked = drive(port, [request("GET", f"/tasks/{task}/result?wait=30", headers=FETCH) for task in missing], connections, timeout)
        answers.update((task, answer) for task, answer in zip(missing, asked, strict=True) if answer.status != 409)
        missing = [task for task in missing if task not in answers]
    return [answers[task] for task in ids]


def fetch_batches(port: int, ids: Sequence[str], connections: int) -> list[np.ndarray]:
    """The outputs in the order of `ids`, asked for as they were handed over: a hundred at a time."""
    paths = [f"/tasks/batch?wait=30&ids={','.join(ids[first : first + BATCH])}" for first in range(0, len(ids), BATCH)]
    found: list[np.ndarray] = []
    for answer in drive(port, [request("GET", path, headers=FETCH) for path in paths], connections, 120):
        if answer.status != 200:
            raise RuntimeError(f"status {answer.status}: {bytes(answer.body[:500])!r}")
        arrays = safetensors.numpy.load(bytes(answer.body))
        found += [arrays[f"{number}.output"] for number in range(len(arrays))]
    return found


def submissions(vectors: np.ndarray, batch: bool) -> list[bytes]:
    if not batch:
        return [request("POST", "/tasks", body_a(vector), SUBMIT) for vector in vectors]
    return [request("POST", "/tasks/batch", body_batch(vectors[first : first + BATCH], first), SUBMIT) for first in range(0, len(vectors), BATCH)]


def one_run(notebook: Notebook, measure: str, scratch: Path, vectors: np.ndarray, connections: int, *, batch: bool, store: str) -> None:
    """Submit all, fetch all, check all; three rates: acknowledged, finished (the server's own clock), fetched by the client."""
    messages = submissions(vectors, batch)
    data = scratch / f"durable-{time.time_ns()}"
    with running(openruntime(store=store), ready="/health/ready", data_dir=data) as server:
        before = server.cpu_seconds()
        start = time.perf_counter()
        ids = accepted(drive(server.port, messages, connections))
        submitted = time.perf_counter() - start
        fetched = fetch_batches(server.port, ids, connections) if batch else []
        answers = [] if batch else fetch(server.port, ids, connections)
        done = time.perf_counter() - start
        spent = server.cpu_seconds() - before
    if len(set(ids)) != len(vectors):
        raise RuntimeError(f"{len(set(ids))} tasks for {len(vectors)} submits")
    for vector, found in zip(vectors, fetched or map(output, answers), strict=True):
        np.testing.assert_allclose(found, 2 * vector + 1, rtol=1e-6)
    notebook.add("C", f"accepted/s, {measure}", "openruntime", len(vectors) / submitted)
    notebook.add("C", f"tasks/s, {measure}", "openruntime", len(vectors) / done)
    notebook.add("C", f"CPU µs a task, {measure}", "openruntime", spent / len(vectors) * 1e6)


def double(x: np.ndarray) -> np.ndarray:
    return 2 * x + 1


def pool(notebook: Notebook, vectors: np.ndarray) -> None:
    """What Python ships: one worker process, nothing durable, no server."""
    with ProcessPoolExecutor(1) as executor:
        executor.submit(double, vectors[0]).result()
        start = time.perf_counter()
        results = [future.result() for future in [executor.submit(double, vector) for vector in vectors]]
        notebook.add("C", "tasks/s, not durable", "process pool", len(vectors) / (time.perf_counter() - start))
    np.testing.assert_allclose(np.stack(results), 2 * vectors + 1, rtol=1e-6)


def work_c(notebook: Notebook, scratch: Path, count: int) -> None:
    """One round."""
    vectors = inputs(count)
    one_run(notebook, "16 connections", scratch, vectors, 16, batch=False, store="sqlite")
    one_run(notebook, "64 connections", scratch, vectors, 64, batch=False, store="sqlite")
    one_run(notebook, "batches of 100", scratch, vectors, 4, batch=True, store="sqlite")
    pool(notebook, vectors)
    one_run(notebook, "not durable", scratch, vectors, 64, batch=False, store="memory")
