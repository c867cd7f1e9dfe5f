"""One server for all tests of MCP, and the two revisions of the protocol."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from benchmarks.servers import Server

Start = Callable[..., AbstractContextManager[Server]]


@pytest.fixture(scope="package")
def numpy_server(start_server: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start_server(environment={"OPENRUNTIME_BACKENDS": "numpy", "HF_HUB_OFFLINE": "1"}, data_dir=tmp_path_factory.mktemp("mcp")) as server:
        yield server


@pytest.fixture(params=["auto", "legacy"], ids=["current", "before"])
def mode(request: pytest.FixtureRequest) -> str:
    """As the official client calls it: the current revision of the protocol, and the one before."""
    return str(request.param)
