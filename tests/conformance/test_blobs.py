"""Blobs that gateways share under the published suite: a mounted folder, and what fsspec reaches."""

import os
from collections.abc import Iterator
from pathlib import Path
from time import time
from urllib.request import Request, urlopen

import pytest

from openruntime.contracts.errors import InvalidParameter, StorageFull, Unavailable
from openruntime.contracts.registry import BLOBS
from openruntime.stores.blobs import CountedBlobs, FileBlobs
from openruntime.stores.shared_blobs import SharedBlobs
from openruntime.testing.blob_suite import BlobSuite


class TestFolder(BlobSuite):
    def make(self, directory: Path) -> CountedBlobs:
        return FileBlobs(directory / "blobs")

    def age(self, directory: Path) -> None:
        for path in directory.rglob("*"):
            os.utime(path, (0, 0))


class Timed(BlobSuite):
    """Of blobs whose names say when they were written."""

    @pytest.fixture(autouse=True)
    def _now(self) -> None:
        self.now = time()

    def age(self, directory: Path) -> None:
        self.now += 10_000


class TestFsspecFolder(Timed):
    def make(self, directory: Path) -> CountedBlobs:
        return SharedBlobs((directory / "blobs").as_uri(), clock=lambda: self.now)


class TestFsspecMemory(Timed):
    def make(self, directory: Path) -> CountedBlobs:
        return SharedBlobs(f"memory://{directory}", clock=lambda: self.now)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The address of an S3 server that speaks the protocol over HTTP, with a bucket called `arrays`."""
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}.items():
            environment.setenv(name, value)
        try:
            with urlopen(Request(f"http://{host}:{port}/arrays", method="PUT"), timeout=30):
                yield f"http://{host}:{port}"
        finally:
            server.stop()


class TestS3(Timed):
    @pytest.fixture(autouse=True)
    def _bucket(self, bucket: str) -> None:
        self.endpoint = bucket

    def make(self, directory: Path) -> CountedBlobs:
        return SharedBlobs(f"s3://arrays/{directory.name}-{os.getpid()}", clock=lambda: self.now, endpoint_url=self.endpoint)


async def test_a_bucket_that_is_not_there_is_named(bucket: str) -> None:
    blobs = SharedBlobs("s3://nowhere/arrays", endpoint_url=bucket)
    with pytest.raises(Unavailable, match="s3://nowhere/arrays"):
        await blobs.write(b"abc", durable=True)


async def test_a_place_that_nobody_answers_at_is_named() -> None:
    blobs = SharedBlobs("s3://arrays", endpoint_url="http://127.0.0.1:9", key="k", secret="s", config_kwargs={"retries": {"max_attempts": 0}})
    with pytest.raises(Unavailable, match="s3://arrays cannot be reached"):
        await blobs.write(b"abc", durable=True)


def test_a_place_that_nothing_can_open_is_named() -> None:
    with pytest.raises(InvalidParameter, match="carrier-pigeon"):
        SharedBlobs("carrier-pigeon://loft/arrays")


def test_the_registry_knows_them() -> None:
    assert BLOBS.load("shared") is SharedBlobs


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
async def test_a_full_disk_is_said_to_be_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = SharedBlobs((tmp_path / "blobs").as_uri())

    def full(path: str, data: bytes) -> None:
        with open("/dev/full", "wb") as file:
            file.write(data)

    monkeypatch.setattr(blobs._files, "pipe_file", full)
    with pytest.raises(StorageFull, match="no space left"):
        await blobs.write(b"abc", durable=True)
