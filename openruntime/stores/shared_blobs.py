"""Blobs in whatever fsspec reaches (`s3://bucket/prefix`), for several gateways that share no folder.

Object stores can neither rename nor touch. So a name says in which period of `grace` seconds it was written, is relied on anew in that period
only, and is swept when the next is over, too: no gateway drops what another has just counted on, and none has to lock. What is relied on
later is copied to a name of the present.
"""

import asyncio
import errno
from collections.abc import Callable, Collection
from hashlib import sha256
from time import time
from typing import Any, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

from fsspec.core import url_to_fs

from openruntime.contracts.errors import Expired, InvalidParameter, MissingExtra, OpenRuntimeError, StorageFull, Unavailable
from openruntime.contracts.payload import Buffer
from openruntime.stores.blobs import CountedBlobs

# protocols whose objects appear when all of their bytes are there
_WHOLE = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oci", "memory"})

Answer = TypeVar("Answer")


class SharedBlobs(CountedBlobs):
    """Blobs under `url`/ab/abcd…-PERIOD. `options` are the file system's (`endpoint_url` of S3); credentials come from where its library has them.

    Raises `MissingExtra` and `InvalidParameter` for a URL that nothing here can open.
    """

    def __init__(self, url: str, *, grace: float = 900.0, clock: Callable[[], float] = time, **options: Any) -> None:
        scheme = urlsplit(url).scheme
        try:
            self._files, self._root = url_to_fs(url, use_listings_cache=False, skip_instance_cache=True, **options)
        except ImportError as error:
            if scheme in ("s3", "s3a"):
                raise MissingExtra(f"keeping arrays at {scheme}://", "s3") from error
            raise InvalidParameter(f"nothing here opens {scheme}://: {error}", field="blobs") from error
        except ValueError as error:
            raise InvalidParameter(f"{scheme}:// is no place for arrays: {error}", field="blobs") from error
        self._url = f"{scheme}://{self._root}"
        self._grace = grace
        self._clock = clock
        self._draft = scheme not in _WHOLE

    async def write(self, data: Buffer, *, durable: bool) -> str:
        return await asyncio.to_thread(self._write, memoryview(data))

    async def add(self, data: Buffer, *, durable: bool) -> str:
        return await asyncio.to_thread(self._write, memoryview(data), uuid4().hex)

    async def read(self, digest: str) -> memoryview:
        return await asyncio.to_thread(self.load, digest)

    async def renew(self, digest: str, *, durable: bool) -> str | None:
        return await asyncio.to_thread(self._do, self._renew, digest)

    def load(self, digest: str) -> memoryview:
        try:
            return memoryview(self._do(self._files.cat_file, self._path(digest)))
        except FileNotFoundError as error:
            raise Expired(f"the bytes of blob {digest} are gone") from error

    async def sweep(self, counted: Collection[str]) -> int:
        return await asyncio.to_thread(self._do, self._sweep, counted)

    def _write(self, data: memoryview, content: str | None = None) -> str:
        """Whatever is there appeared whole, so that its size says enough."""
        name = self._now(content or sha256(data).hexdigest())
        if content is not None or self._do(self._size, name) != data.nbytes:
            try:
                self._do(self._put, name, lambda path: self._files.pipe_file(path, bytes(data)))
            except FileNotFoundError as error:
                raise Unavailable(f"there is no {self._url} to keep arrays at: create it, or name another place") from error
        return name

    def _renew(self, name: str) -> str | None:
        now = self._now(name.rpartition("-")[0])
        if self._size(now) is None:
            if now == name:
                return None
            try:
                self._put(now, lambda path: self._files.cp_file(self._path(name), path))
            except FileNotFoundError:
                return None
        return now

    def _put(self, name: str, write: Callable[[str], object]) -> None:
        path = self._path(name)
        if not self._draft:
            write(path)
            return
        draft = f"{self._root}/draft-{self._now(uuid4().hex)}"
        self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
        try:
            write(draft)
            self._files.mv(draft, path)
        except BaseException:
            if self._files.exists(draft):
                self._files.rm_file(draft)
            raise

    def _size(self, name: str) -> int | None:
        try:
            return int(self._files.info(self._path(name))["size"])
        except FileNotFoundError:
            return None

    def _sweep(self, counted: Collection[str]) -> int:
        before = self._period() - 1
        dropped = 0
        for path in self._files.find(self._root):
            name = path.rpartition("/")[2]
            period = name.rpartition("-")[2]
            if name not in counted and period.isdecimal() and int(period) < before:
                try:
                    self._files.rm_file(path)
                except FileNotFoundError:  # another gateway sweeps, too
                    continue
                dropped += 1
        return dropped

    def _period(self) -> int:
        return int(self._clock() / self._grace)

    def _now(self, content: str) -> str:
        return f"{content}-{self._period()}"

    def _path(self, name: str) -> str:
        return f"{self._root}/{name[:2]}/{name}"

    def _do(self, call: Callable[..., Answer], *arguments: Any) -> Answer:
        """What the library says went wrong, as an error of ours; `FileNotFoundError` goes through."""
        try:
            return call(*arguments)
        except (FileNotFoundError, OpenRuntimeError):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull(f"there is no space left at {self._url}; free some", retry_after=5.0) from error
            raise Unavailable(f"the arrays at {self._url} cannot be reached: {error}; check the place and its credentials") from error
