"""Logs: as JSON and to read, with ids, safe whatever a client sent."""

import io
import json
import logging
import re
import warnings
from collections.abc import Iterator

import pytest

from openruntime.monitoring import logs


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("uvicorn.access").disabled = False


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_with_ids_extras_and_exception() -> None:
    stream = io.StringIO()
    logs.configure("info", json=True, stream=stream)
    token = logs.request_id.set("req-1")
    try:
        logging.getLogger("openruntime.tasks").info("started %s", "fft", extra={"task_id": "t-1", "pid": 7, "level": "fake", "odd": object})
        try:
            raise KeyError("x")
        except KeyError:
            logging.getLogger("openruntime.tasks").exception("failed")
    finally:
        logs.request_id.reset(token)
    logging.getLogger("openruntime.tasks").debug("not shown")
    first, second = lines(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(first.pop("time")))
    assert first == {
        "level": "info", "logger": "openruntime.tasks", "message": "started fft", "request_id": "req-1", "task_id": "t-1", "pid": 7,
        "odd": "<class 'object'>",
    }  # fmt: skip
    assert second["level"] == "error"
    assert "KeyError: 'x'" in str(second["exception"])
    assert "test_json_with_ids" in str(second["exception"])


def test_text_to_read() -> None:
    stream = io.StringIO()
    logs.configure("debug", stream=stream)
    logging.getLogger("openruntime.tasks.executor").debug("ready", extra={"pid": 7})
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} DEBUG   tasks\.executor: ready  pid=7\n", stream.getvalue())


@pytest.mark.parametrize("json_lines", [True, False])
def test_what_a_client_sent_forges_no_line(json_lines: bool) -> None:
    stream = io.StringIO()
    logs.configure("info", json=json_lines, stream=stream)
    logging.getLogger("openruntime").info("no operation %s", "x\n12:00:00 ERROR fake\x1b[2J\u2028\udc80")
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()
    stream.getvalue().encode()


def test_takes_over_uvicorn_and_warnings() -> None:
    uvicorn = logging.getLogger("uvicorn.error")
    uvicorn.addHandler(logging.StreamHandler(io.StringIO()))
    stream = io.StringIO()
    logs.configure("warning", json=True, stream=stream)
    uvicorn.warning("shutting down")
    logging.getLogger("uvicorn.access").error("GET /")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(False)
    assert [line["logger"] for line in lines(stream)] == ["uvicorn.error", "py.warnings"]
    assert uvicorn.handlers == []
