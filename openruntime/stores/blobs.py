"""Content-addressed files: each blob under its SHA-256, written once, found damaged never half-written."""

import asyncio
import fcntl
import mmap
import os
import sys
from collections.abc import Collection
from hashlib import file_digest, sha256
from itertools import count
from pathlib import Path
from threading import Lock
from time import time

from openruntime.contracts.errors import Expired
from openruntime.contracts.interfaces import BlobStore
from openruntime.contracts.payload import Buffer
from openruntime.stores.database import translate

_MAPPED = 1 << 20  # from this size on a file is mapped, below it is read


class FileBlobs(BlobStore):
    """Blobs under `directory`/ab/abcd…; `sweep` drops those nobody counts, once `grace` seconds have passed since their last use."""

    def __init__(self, directory: Path, *, grace: float = 900.0) -> None:
        self._directory = directory
        self._grace = grace
        self._lock = Lock()  # between looking whether a file is there and relying on it
        self._serial = count()

    async def write(self, data: Buffer, *, durable: bool) -> str:
        return await asyncio.to_thread(self._write, memoryview(data), durable)

    async def read(self, digest: str) -> memoryview:
        return await asyncio.to_thread(self.load, digest)

    async def renew(self, digest: str) -> bool:
        """Begin the blob's grace anew; whether it is there."""
        return await asyncio.to_thread(self._touch, digest)

    def load(self, digest: str) -> memoryview:
        """As `read`, for callers in a thread of their own."""
        try:
            with self._lock, self._path(digest).open("rb") as file:
                os.utime(file.fileno())
                if os.fstat(file.fileno()).st_size < _MAPPED:
                    return memoryview(file.read())
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except FileNotFoundError as error:
            raise Expired(f"the bytes of blob {digest} are gone") from error

    async def sweep(self, counted: Collection[str]) -> int:
        """Drop every blob that is not counted and out of its grace. The number dropped."""
        return await asyncio.to_thread(self._sweep, counted)

    def _path(self, digest: str) -> Path:
        return self._directory / digest[:2] / digest

    def _touch(self, digest: str) -> bool:
        with self._lock:
            try:
                os.utime(self._path(digest))
            except FileNotFoundError:
                return False
            return True

    def _write(self, data: memoryview, durable: bool) -> str:
        digest = sha256(data).hexdigest()
        path = self._path(digest)
        try:
            if self._touch(digest) and self._whole(path, data.nbytes, durable):
                if durable:  # the first writer may not have asked for it
                    sync(path)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._create(path, data, durable)
            if durable:
                sync(path.parent)
                sync(self._directory)
        except OSError as error:
            raise translate(error, self._directory) from error
        return digest

    @staticmethod
    def _whole(path: Path, size: int, durable: bool) -> bool:
        """Whether a file that is there can be relied on: a power cut may have eaten one that was not fsynced."""
        if not durable:
            return path.stat().st_size == size
        with path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest() == path.name

    def _create(self, path: Path, data: memoryview, durable: bool) -> None:
        draft = self._directory / f"draft-{os.getpid()}-{next(self._serial)}"
        try:
            with draft.open("xb", buffering=0) as file:
                left = data.cast("B") if data.nbytes else data
                while left.nbytes:
                    left = left[file.write(left) :]
                if durable:
                    _flush(file.fileno())
            draft.rename(path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise

    def _sweep(self, counted: Collection[str]) -> int:
        before, dropped = time() - self._grace, 0
        for path in self._directory.rglob("*"):
            if path.name in counted or path.is_dir():
                continue
            with self._lock:
                try:
                    if path.stat().st_mtime < before:
                        path.unlink()
                        dropped += 1
                except FileNotFoundError:  # a draft that was renamed meanwhile
                    continue
        return dropped


def sync(path: Path) -> None:
    """Have the file or folder outlive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _flush(descriptor)
    finally:
        os.close(descriptor)


def _flush(descriptor: int) -> None:
    if sys.platform == "darwin":
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)  # fsync alone stops at the drive's cache
    else:
        os.fsync(descriptor)
