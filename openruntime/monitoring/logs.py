"""Structured logs: one JSON object a line, or a line to read; each with the request and the task it belongs to."""

import json as stdlib_json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
task_id: ContextVar[str | None] = ContextVar("task_id", default=None)

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_BREAKS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {10: "\\n", 13: "\\r", 9: "\\t"}


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """What a record carries besides its message: `extra`, and the ids of the context it was made in."""
    found = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    for name, variable in (("request_id", request_id), ("task_id", task_id)):
        if name not in found and (value := variable.get()) is not None:
            found[name] = value
    return found


class JSONFormatter(logging.Formatter):
    """`{"time", "level", "logger", "message", ...}`, `exception` with its stack where there is one. Time is RFC 3339 UTC."""

    def format(self, record: logging.LogRecord) -> str:
        own = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            own["exception"] = self.formatException(record.exc_info)
        return stdlib_json.dumps(own | fields(record) | own, default=str)


class TextFormatter(logging.Formatter):
    """`12:00:01.123 INFO tasks.executor: message  key=value`, local time; an exception's stack on the lines below."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created).isoformat(sep=" ", timespec="milliseconds").partition(" ")[2]
        extra = "".join(f"  {name}={value}" for name, value in fields(record).items())
        # what a client sent may stand in a message: it must not look like lines of ours, nor move the cursor
        line = f"{when} {record.levelname:<7} {record.name.removeprefix('openruntime.')}: {record.getMessage()}{extra}".translate(_BREAKS)
        line = line.encode(errors="backslashreplace").decode()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def configure(level: str = "info", json: bool = False, stream: TextIO | None = None) -> None:
    """Send all logs of this process to `stream` (standard error), uvicorn's and warnings included. Replaces what was set up before."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JSONFormatter() if json else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    # a line a request costs half the rate; the tasks' own lines say what happened
    logging.getLogger("uvicorn.access").disabled = True
    for name in ("asyncio", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(max(logging.getLogger().level, logging.WARNING))
