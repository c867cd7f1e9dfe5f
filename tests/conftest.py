"""A real server for every test that wants one. `server` is shared by the session; `start_server` makes another with other flags."""

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from benchmarks.servers import Server, openruntime, running

pytest.register_assert_rewrite(*(f"openruntime.testing.{name}_suite" for name in ("backend", "model", "store")))

ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1"}
os.environ["OPENRUNTIME_CALIBRATE"] = "false"  # every test has a machine of its own, and begins with what is shipped


@contextlib.contextmanager
def _start(data_dir: Path | None = None, environment: dict[str, str] | None = None, **flags: str | int) -> Iterator[Server]:
    with running(openruntime(**flags), ready="/health/ready", data_dir=data_dir, environment={**ENVIRONMENT, **(environment or {})}) as server:
        yield server


@pytest.fixture(scope="session")
def start_server() -> Callable[..., AbstractContextManager[Server]]:
    """`with start_server(store="memory", environment={...}, data_dir=path) as server`: `openruntime serve` with these flags.

    Ready on entry; on exit SIGTERM, which must end it with status 0 and no worker left. A test may kill it before.
    """
    return _start


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`openruntime serve` with its defaults (SQLite) on a free port: `.url`, `.port`, `.process`, `.data_dir`, `.log_tail()`."""
    with _start(data_dir=tmp_path_factory.mktemp("server")) as running_server:
        yield running_server
