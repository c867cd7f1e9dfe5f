"""Gateways that share a Redis and no folder: large arrays go through an object store, and never through Redis."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pytest

from benchmarks.durable import SUBMIT, fetch
from benchmarks.load import Connection, request
from benchmarks.redis_server import redis_server
from benchmarks.servers import Server
from benchmarks.works import body_a, output

Start = Callable[..., AbstractContextManager[Server]]


@pytest.mark.parametrize("place", ["a mounted folder", "s3"])
def test_large_arrays_of_one_gateway_are_there_for_another(start_server: Start, tmp_path: Path, place: str) -> None:
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(tmp_path / "redis"))
        blobs, environment = str(tmp_path / "mounted"), {"OPENRUNTIME_SLOTS": "1"}
        if place == "s3":
            moto = pytest.importorskip("moto.server")
            bucket = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
            bucket.start()
            stack.callback(bucket.stop)
            host, port = bucket.get_host_and_port()
            urlopen(Request(f"http://{host}:{port}/arrays", method="PUT"), timeout=30).close()
            blobs = "s3://arrays/openruntime"
            environment |= {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        settings = {"store": redis.url, "environment": environment | {"OPENRUNTIME_BLOBS": blobs}}
        one, other = (stack.enter_context(start_server(data_dir=tmp_path / name, **settings)) for name in ("one", "other"))
        x = np.random.default_rng(0).random(100_000, dtype=np.float32)
        with Connection(one.port) as connection:
            answers = [connection.ask(request("POST", "/tasks", body_a(x + n), SUBMIT)) for n in range(4)]
        assert [answer.status for answer in answers] == [202] * 4
        ids = [answer.json()["task_id"] for answer in answers]
        for server in (other, one):
            for n, answer in enumerate(fetch(server.port, ids, 2)):
                np.testing.assert_allclose(output(answer), 2 * (x + n) + 1, rtol=1e-6)
        assert not any(path.is_file() for name in ("one", "other") for path in (tmp_path / name).rglob("blobs/*/*"))
        assert sum(path.stat().st_size for path in (tmp_path / "redis").rglob("*") if path.is_file()) < x.nbytes
