"""The SDK over HTTP against a real server, and embedded: the same tests for both, and for what differs."""

import asyncio
import concurrent.futures
import inspect
import pydoc
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import openruntime
from openruntime.client.arrays import TensorHandle
from openruntime.client.sync import Runtime
from openruntime.client.transport import Unreachable
from openruntime.contracts import errors

LONG = {"grid": np.zeros((512, 512)), "iterations": 1_000_000}  # minutes, unless it is cancelled


@pytest.fixture(scope="module", params=["http", "embedded"])
def rt(request: pytest.FixtureRequest) -> Iterator[Runtime]:
    url = request.getfixturevalue("server").url if request.param == "http" else None
    with openruntime.connect(url) as runtime:
        yield runtime


def test_numpy_in_numpy_out(rt: Runtime) -> None:
    a = np.random.default_rng(0).standard_normal((40, 30)).astype(np.float32)
    got = rt.matmul(a, b=a.T)
    assert isinstance(got, np.ndarray)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, a @ a.T, rtol=1e-4, atol=1e-4)
    got += 1


def test_large_arrays_travel_whole(rt: Runtime) -> None:
    x = np.random.default_rng(1).standard_normal(3_000_000)
    np.testing.assert_array_equal(rt.expression("x * 2", x=x), x * 2)


def test_any_layout_and_scalars(rt: Runtime) -> None:
    x = np.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(rt.sum(x.T[::-1], axis=np.int64(0)), x.T[::-1].sum(axis=0))
    assert rt.sum(x) == 66
    assert rt.expression("x + nan_", x=1.5, nan_=float("inf")) == np.inf
    assert rt.sum([[1, 2], [3, 4]]) == 10


def test_several_outputs_are_named(rt: Runtime) -> None:
    found = rt.top_k(np.array([3.0, 1.0, 2.0]), k=2)
    assert found.values.tolist() == [3, 2]
    assert found["indices"].tolist() == [0, 2]


def test_an_unknown_operation_names_the_nearest(rt: Runtime) -> None:
    with pytest.raises(AttributeError, match="did you mean matmul"):
        _ = rt.matmull
    with pytest.raises(errors.UnknownOperation, match="matmul"):
        rt.submit("matmull", np.eye(2))
    assert "matmul" in dir(rt)


def test_a_bad_parameter_names_itself(rt: Runtime) -> None:
    with pytest.raises(errors.InvalidParameter) as caught:
        rt.matmul(np.ones((2, 3)), np.ones((2, 3)))
    assert caught.value.field in ("a", "b")
    with pytest.raises(errors.InvalidRequest, match="priority"):
        rt.sum(np.ones(3), priority=11)
    with pytest.raises(errors.NoSuchDevice):
        rt.sum(np.ones(3), device="cuda:7")


def test_a_failed_task_raises_what_it_failed_with(rt: Runtime) -> None:
    with pytest.raises(errors.OperationFailed, match="singular"):
        rt.solve(np.zeros((2, 2)), np.ones(2))
    future = rt.submit("solve", np.zeros((2, 2)), np.ones(2))
    with pytest.raises(errors.OperationFailed, match="singular"):
        future.result(30)
    assert isinstance(future.exception(30), errors.OperationFailed)


def test_a_future_feels_like_a_future(rt: Runtime) -> None:
    x = np.arange(5.0)
    future = rt.submit("sum", x, priority=9, device="cpu", tags=["mine"], max_retries=1)
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(30) == 10
    assert future.done()
    assert future.exception() is None
    assert not future.cancel()
    assert future.progress == 1.0
    status = future.status()
    assert (status.status, status.priority, status.tags, status.device_used) == ("completed", 9, ["mine"], "cpu:0")
    assert future.explain()["device"] == "cpu:0"
    assert [task.task_id for task in rt.tasks(tag="mine", limit=1)] == [future.task_id]


def test_callbacks_may_ask_for_the_result(rt: Runtime) -> None:
    seen: list[float] = []
    done = threading.Event()

    def take(future: Any) -> None:
        seen.append(float(future.result()))
        done.set()

    rt.submit("sum", np.ones(4), cache="no-store").add_done_callback(take)
    assert done.wait(30)
    assert seen == [4.0]


def test_the_standard_librarys_wait_and_as_completed_take_them(rt: Runtime) -> None:
    futures = [rt.submit("sum", np.full(3, i), cache="no-store") for i in range(20)]
    assert {int(future.result()) for future in concurrent.futures.as_completed(futures, 30)} == {3 * i for i in range(20)}
    done, rest = rt.wait(futures, 30)
    assert (len(done), len(rest)) == (20, 0)
    assert len(list(rt.as_completed(futures))) == 20


def test_map_keeps_the_order(rt: Runtime) -> None:
    a = [np.full((2, 2), i) for i in range(250)]
    got = [int(found[0, 0]) for found in rt.map("matmul", a, a)]
    assert got == [2 * i * i for i in range(250)]


def test_one_refusal_in_a_batch_costs_only_itself(rt: Runtime) -> None:
    good, bad = rt.submit_many([
        {"operation": "sum", "parameters": {"x": np.ones(3)}, "priority": 2}, {"operation": "sum", "parameters": {"y": np.ones(3)}},
    ])  # fmt: skip
    assert good.result(30) == 3
    with pytest.raises(errors.InvalidParameter):
        bad.result(30)
    assert bad.done()


def test_a_batch_of_refusals_only_is_answered(rt: Runtime) -> None:
    [bad] = rt.submit_many([{"operation": "sum", "parameters": {"x": np.ones(3)}, "device_preference": "cuda:9"}])
    with pytest.raises(errors.NoSuchDevice):
        bad.result(30)


def test_a_running_task_is_really_cancelled(rt: Runtime) -> None:
    future = rt.submit("heat2d", **LONG)
    while future.status().status != "running":
        time.sleep(0.01)
    with pytest.raises(TimeoutError):
        future.result(0.1)
    with pytest.raises(TimeoutError):
        future.result(0)
    started = time.monotonic()
    assert future.cancel()
    with pytest.raises(errors.TaskCancelled):
        future.result(30)
    assert time.monotonic() - started < 5
    assert future.cancelled()
    assert future.done()
    assert rt.sum(np.ones(2), cache="no-store") == 2


def test_progress_is_heard_of(rt: Runtime) -> None:
    future = rt.submit("heat2d", **LONG)
    until = time.monotonic() + 30
    while not future.progress and time.monotonic() < until:
        time.sleep(0.02)
    heard = future.progress
    future.cancel()
    assert heard is not None
    assert 0 < heard < 1


def test_a_deadline_ends_a_task(rt: Runtime) -> None:
    with pytest.raises(errors.TaskTimeout):
        rt.heat2d(**LONG, timeout=0.5)


def test_a_tensor_travels_once(rt: Runtime) -> None:
    x = np.arange(2000.0).reshape(40, 50)
    handle = rt.tensor(x)
    assert isinstance(handle, TensorHandle)
    assert (handle.dtype, tuple(handle.shape), handle.nbytes) == ("float64", (40, 50), 16000)
    np.testing.assert_array_equal(rt.fetch(handle), x)
    np.testing.assert_allclose(rt.expression("x * 2", x=handle), x * 2)
    rt.forget(handle)
    with pytest.raises(errors.NotFound):
        rt.fetch(handle)


def test_a_future_is_a_parameter(rt: Runtime) -> None:
    x = np.random.default_rng(2).standard_normal((16, 16))
    spectrum = rt.submit("fft2", x)
    back = rt.submit("ifft2", spectrum)
    np.testing.assert_allclose(back.result(30).real, x, atol=1e-12)


def test_a_task_is_found_again_by_its_id(rt: Runtime) -> None:
    future = rt.submit("sum", np.ones(7))
    again = rt.task(future.task_id)
    assert again.result(30) == 7
    assert again.operation == "sum"
    with pytest.raises(errors.NotFound):
        rt.task("nobody/../'--")


def test_events_tell_a_tasks_life_and_go_on_after_a_cursor(rt: Runtime) -> None:
    found: list[dict[str, Any]] = []

    def listen() -> None:
        for event in rt.events(["tasks"], after=0):
            found.append(event)
            if event["type"] == "task.completed" and event["data"]["task_id"] == ids[0]:
                return

    ids = [rt.submit("sum", np.ones(11), cache="no-store").task_id]
    thread = threading.Thread(target=listen)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    mine = [event for event in found if event["type"] != "gap" and event["data"]["task_id"] == ids[0]]
    assert [event["type"] for event in mine] == ["task.queued", "task.started", "task.completed"]
    later = rt.events("tasks", after=mine[0]["seq"])
    assert next(event for event in later if event["data"].get("task_id") == ids[0])["type"] == "task.started"


def test_a_runtime_can_be_closed_under_a_listener(request: pytest.FixtureRequest) -> None:
    runtime = openruntime.connect(request.getfixturevalue("server").url)
    ended: list[BaseException] = []

    def listen() -> None:
        try:
            for _ in runtime.events(["tasks"]):
                pass
        except errors.Conflict as error:
            ended.append(error)

    thread = threading.Thread(target=listen)
    thread.start()
    time.sleep(0.5)
    runtime.close()
    thread.join(5)
    assert not thread.is_alive()
    assert "closed meanwhile" in str(ended[0])


def test_an_operation_describes_itself(rt: Runtime) -> None:
    assert list(inspect.signature(rt.kmeans).parameters)[:3] == ["x", "k", "seed"]
    assert inspect.signature(rt.kmeans).parameters["seed"].default == 0
    assert "kmeans(x, k, seed=0" in pydoc.render_doc(rt.kmeans, renderer=pydoc.plaintext)
    assert "clusters" in (rt.kmeans.__doc__ or "")
    with pytest.raises(errors.InvalidParameter, match="did you mean priority"):
        rt.submit("mean", np.ones(3), priorty=3)


def test_devices_and_operations(rt: Runtime) -> None:
    assert "cpu:0" in [device["id"] for device in rt.devices()]
    assert rt.operations()["matmul"]["parameters"]["required"] == ["a", "b"]


def test_many_threads_share_one_runtime(rt: Runtime) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda i: float(rt.sum(np.full(2, i))), range(40)))
    assert got == [2.0 * i for i in range(40)]


def test_the_runtimes_own_thread_is_not_made_to_wait_for_itself(rt: Runtime) -> None:
    async def inside() -> None:
        with pytest.raises(errors.Conflict, match="connect_async"):
            rt.devices()

    rt._portal.run(inside())


def test_a_closed_runtime_says_so() -> None:
    runtime = openruntime.connect("http://127.0.0.1:9")
    runtime.close()
    runtime.close()
    with pytest.raises(errors.Conflict, match="closed"):
        runtime.devices()


def test_nobody_there_is_said_once_patience_is_over() -> None:
    with openruntime.connect("http://127.0.0.1:9", patience=0.2) as runtime, pytest.raises(Unreachable, match="openruntime serve"):
        runtime.devices()


@pytest.mark.parametrize("where", ["http", "embedded"])
async def test_the_asyncio_twin(request: pytest.FixtureRequest, where: str) -> None:
    url = request.getfixturevalue("server").url if where == "http" else None
    async with openruntime.connect_async(url) as rt:
        x = np.arange(6.0)
        assert await rt.sum(x) == 15
        task = await rt.submit("fft", x)
        np.testing.assert_allclose(await task, np.fft.fft(x))
        assert [float(found) async for found in rt.map("sum", [x, x + 1])] == [15, 21]
        tasks = [await rt.submit("sum", x + i, cache="no-store") for i in range(5)]
        assert sorted([float(await task) async for task in rt.as_completed(tasks)]) == [15, 21, 27, 33, 39]
        with pytest.raises(AttributeError, match="did you mean"):
            await rt.matmull(x)
        long = await rt.submit("heat2d", **LONG)
        with pytest.raises(TimeoutError):
            await long.result(0.2)
        assert await long.cancel()
        with pytest.raises(errors.TaskCancelled):
            await long


async def test_a_call_that_is_given_up_is_cancelled_on_the_server(server: Any) -> None:
    async with openruntime.connect_async(server.url) as rt:
        call = asyncio.create_task(rt.heat2d(**LONG, tags=["given-up"]))
        await asyncio.sleep(7)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        [task] = await rt.tasks(tag="given-up")
        assert (await (await rt.task(task.task_id)).status(wait=5)).status == "cancelled"


@contextmanager
def serving(port: int, data_dir: Path) -> Iterator[None]:
    """A server that may not be up yet: waiting for it is the SDK's business here."""
    flags = ["--port", str(port), "--data-dir", str(data_dir), "--log-level", "warning"]
    process = subprocess.Popen([sys.executable, "-m", "openruntime.cli.main", "serve", *flags])
    try:
        yield
    finally:
        process.terminate()
        assert process.wait(30) == 0


def test_a_server_that_comes_back_is_waited_for(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with openruntime.connect(f"http://127.0.0.1:{port}", patience=30) as runtime:
        with serving(port, tmp_path):
            future = runtime.submit("sum", np.ones(5))
            assert future.result(30) == 5
            kept = runtime.submit("sum", np.ones(6), cache="no-store").task_id
        with serving(port, tmp_path):
            assert runtime.sum(np.ones(9)) == 9
            assert runtime.task(kept).result(30) == 6
            again = runtime.submit("sum", np.ones(8), cache="no-store")
            done, _ = concurrent.futures.wait([again], 30)
            assert done == {again}
