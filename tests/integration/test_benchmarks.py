"""The benchmarks run, and their clients notice what is wrong. Short: figures come from `make bench`."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks import durable, footprint, slots, works
from benchmarks.load import Connection, drive, request, wrk
from benchmarks.report import Notebook
from benchmarks.servers import Server


def test_work_a_answers_and_is_counted(server: Server) -> None:
    before = works.completed(server.port)
    works.check_a(server.port, times=20)
    assert works.completed(server.port) == before + 20


def test_the_client_keeps_the_order_of_its_requests(server: Server) -> None:
    vectors = durable.inputs(200)
    answers = drive(server.port, [request("POST", "/tasks", works.body_a(vector), works.HEADERS) for vector in vectors], 16)
    for vector, answer in zip(vectors, answers, strict=True):
        np.testing.assert_allclose(works.output(answer), 2 * vector + 1, rtol=1e-6)


def test_a_large_array_goes_there_and_back(server: Server) -> None:
    a, b = (np.random.default_rng(0).random((works.SIDE, works.SIDE), dtype=np.float32) for _ in "ab")
    with Connection(server.port) as connection:
        found = works.output(connection.ask(request("POST", "/tasks", works.body_b(a, b), works.HEADERS)))
    np.testing.assert_allclose(found, a @ b, rtol=1e-4)


@pytest.mark.parametrize("store", ["sqlite", "memory"])
@pytest.mark.parametrize("batch", [False, True])
def test_work_c(tmp_path: Path, store: str, batch: bool) -> None:
    notebook = Notebook()
    durable.one_run(notebook, "short", tmp_path, durable.inputs(300), 16, batch=batch, store=store)
    assert notebook.samples["C", "tasks/s, short", "openruntime"][0] > 0


def test_start_is_measured(tmp_path: Path) -> None:
    notebook = Notebook()
    footprint.start(notebook, tmp_path)
    assert 0 < notebook.samples["start", "s to first answer", "openruntime"][0] < 60


def test_slots_and_threads_are_compared(tmp_path: Path) -> None:
    assert {(1, 1), (2, 1)} <= set(slots.choices())
    notebook = Notebook()
    for count in (1, 2):
        slots.one_server(notebook, tmp_path, slots=count, threads=1, requests=2, long=1_200)
    assert len(notebook.samples) == 10
    p50 = {subject: values[0] for (_, measure, subject), values in notebook.samples.items() if measure == "tiny beside a long one, p50 ms"}
    assert p50["2 × 1"] < p50["1 × 1"] / 5, "with one slot the tiny task waits until the long one is done"


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed; `make bench` installs it")
def test_wrk_refuses_a_run_with_errors(server: Server, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(works.body_a(np.ones(works.ELEMENTS, np.float32)))
    assert wrk(server.port, body, 4, 1).requests > 0
    body.write_bytes(b"rubbish")
    with pytest.raises(RuntimeError, match="requests failed"):
        wrk(server.port, body, 4, 1)
