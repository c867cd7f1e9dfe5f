"""Files by name: content under its SHA-256, written once; results under a name of their own. Never found half-written.

Several processes may use one folder, on one machine or on several that have mounted it: what one sweeps, no other has just relied on.
"""

import asyncio
import contextlib
import errno
import fcntl
import mmap
import os
import sys
from abc import abstractmethod
from collections.abc import Collection
from hashlib import file_digest, sha256
from pathlib import Path
from threading import Lock
from time import time
from uuid import uuid4

from openruntime.contracts.errors import Expired
from openruntime.contracts.interfaces import BlobStore
from openruntime.contracts.payload import Buffer
from openruntime.stores.database import translate

_MAPPED = 1 << 20  # from this size on a file is mapped, below it is read
_BLOCK = 4096  # bytes: what goes past the page cache is a multiple of it
_DIRECT = getattr(os, "O_DIRECT", 0)


class CountedBlobs(BlobStore):
    """What stores need besides: `sweep` drops blobs that nobody counts, `grace` seconds after they were written or renewed."""

    @abstractmethod
    async def add(self, data: Buffer, *, durable: bool) -> str:
        """As `write`, under a name of its own: for what hardly comes twice, because hashing costs more than writing."""

    @abstractmethod
    async def renew(self, digest: str, *, durable: bool) -> str | None:
        """Begin the blob's grace anew, and have it fsynced if `durable`; under which name it is to be counted. None where it is gone."""

    @abstractmethod
    def load(self, digest: str) -> memoryview:
        """As `read`, for callers in a thread of their own."""

    @abstractmethod
    async def sweep(self, counted: Collection[str]) -> int:
        """Drop every blob that is not counted and out of its grace. The number dropped."""


class FileBlobs(CountedBlobs):
    """Blobs under `directory`/ab/abcd…; `sweep` drops those nobody counts, once `grace` seconds have passed since their last use."""

    def __init__(self, directory: Path, *, grace: float = 900.0) -> None:
        self._directory = directory
        self._grace = grace
        self._lock = Lock()  # between looking whether a file is there and relying on it

    async def write(self, data: Buffer, *, durable: bool) -> str:
        return await asyncio.to_thread(self._write, memoryview(data), durable)

    async def add(self, data: Buffer, *, durable: bool) -> str:
        return await asyncio.to_thread(self._write, memoryview(data), durable, uuid4().hex)

    async def read(self, digest: str) -> memoryview:
        return await asyncio.to_thread(self.load, digest)

    async def renew(self, digest: str, *, durable: bool) -> str | None:
        return await asyncio.to_thread(self._renew, digest, durable)

    def load(self, digest: str) -> memoryview:
        try:
            with self._lock, self._path(digest).open("rb") as file:
                os.utime(file.fileno())
                if os.fstat(file.fileno()).st_size < _MAPPED:
                    return memoryview(file.read())
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except FileNotFoundError as error:
            raise Expired(f"the bytes of blob {digest} are gone") from error
        except OSError as error:
            raise translate(error, self._directory) from error

    async def sweep(self, counted: Collection[str]) -> int:
        return await asyncio.to_thread(self._sweep, counted)

    def drop_drafts(self) -> None:
        """What a killed owner was writing. For the owner, before anything is written."""
        for draft in self._directory.glob("draft-*"):
            draft.unlink()

    def _path(self, digest: str) -> Path:
        return self._directory / digest[:2] / digest

    def _touch(self, digest: str) -> bool:
        with self._lock:
            try:
                os.utime(self._path(digest))
            except FileNotFoundError:
                return False
            return True

    def _renew(self, digest: str, durable: bool) -> str | None:
        try:
            found = self._touch(digest)
            if found and durable:  # the first writer may not have asked for it
                sync(self._path(digest))
                self._sync_folders(digest)
            return digest if found else None
        except OSError as error:
            raise translate(error, self._directory) from error

    def _write(self, data: memoryview, durable: bool, name: str | None = None) -> str:
        digest = name or sha256(data).hexdigest()
        path = self._path(digest)
        try:
            if name is not None or not self._touch(digest) or not self._whole(path, data.nbytes, durable):
                path.parent.mkdir(parents=True, exist_ok=True)
                self._create(path, data, durable)
            if durable:
                self._sync_folders(digest)
        except OSError as error:
            raise translate(error, self._directory) from error
        return digest

    def _sync_folders(self, digest: str) -> None:
        sync(self._path(digest).parent)
        sync(self._directory)

    @staticmethod
    def _whole(path: Path, size: int, durable: bool) -> bool:
        """Whether a file that is there can be relied on: a power cut may have eaten one that was not fsynced, which is made up for."""
        try:
            if not durable:
                return path.stat().st_size == size
            with path.open("rb") as file:
                if file_digest(file, "sha256").hexdigest() != path.name:
                    return False
                _flush(file.fileno())
                return True
        except FileNotFoundError:  # another process looks whether it may be swept
            return False

    def _create(self, path: Path, data: memoryview, durable: bool) -> None:
        draft = self._directory / f"draft-{uuid4().hex}"
        try:
            with draft.open("xb", buffering=0) as file:
                left = data.cast("B") if data.nbytes else data
                if left.nbytes >= _MAPPED:
                    left = left[_write_directly(file.fileno(), left) :]
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
                        dropped += self._drop(path, before)
                except FileNotFoundError:  # a draft that was renamed, or another process sweeps
                    continue
        return dropped

    def _drop(self, path: Path, before: float) -> bool:
        """Out of the way first: another process may have renewed it since it was looked at, and then it comes back."""
        trash = self._directory / f"draft-{uuid4().hex}"
        path.rename(trash)
        renewed = trash.stat().st_mtime >= before
        if renewed:
            with contextlib.suppress(FileExistsError):  # written again meanwhile
                os.link(trash, path)
        trash.unlink()
        return not renewed


def _write_directly(descriptor: int, data: memoryview) -> int:
    """Write past the page cache, which costs a copy and fresh memory. The bytes written; 0 where memory, system or disk do not allow it."""
    if not _DIRECT:
        return 0
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | _DIRECT)
        return os.write(descriptor, data[: data.nbytes // _BLOCK * _BLOCK])
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return 0
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)


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
