"""A data directory in use: its lock, the writer, readers, and blobs, opened and closed together."""

import asyncio
import logging
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from threading import local
from time import monotonic
from typing import TypeVar

from openruntime.contracts.errors import OpenRuntimeError, Unavailable
from openruntime.stores.blobs import FileBlobs
from openruntime.stores.database import connect, open_database, own, translate
from openruntime.stores.pages import Pages
from openruntime.stores.writer import Saved, Writer

log = logging.getLogger(__name__)

_COMPLAIN = 60.0  # seconds between lines of the log about a disk that takes no more

Answer = TypeVar("Answer")


class Disk:
    def __init__(self, directory: Path, *, grace: float, inline: int) -> None:
        self.directory = directory
        self.files = FileBlobs(directory / "blobs", grace=grace)
        self.pages = Pages(directory / "pages", inline)
        self._writer: Writer | None = None
        self._readers: ThreadPoolExecutor | None = None
        self._mine = local()  # each reading thread's connection
        self._stack = AsyncExitStack()
        self._complained = -_COMPLAIN

    @property
    def writer(self) -> Writer:
        if self._writer is None:
            raise Unavailable(f"the store in {self.directory} is not open")
        return self._writer

    async def open(self, saved: Saved) -> None:
        """Take ownership and migrate. `saved` is told of each ended task and each page that was written. Raises `Unavailable`."""
        async with AsyncExitStack() as stack:
            lock = await asyncio.to_thread(own, self.directory)
            stack.callback(os.close, lock)
            await asyncio.to_thread(self.files.drop_drafts)
            connection = await asyncio.to_thread(open_database, self.directory)
            stack.push_async_callback(asyncio.to_thread, connection.close)
            try:
                await asyncio.to_thread(self.pages.open, connection)
            except (OSError, sqlite3.Error) as error:
                raise translate(error, self.directory) from error
            connections: list[sqlite3.Connection] = []
            stack.callback(_close_all, connections)
            self._readers = ThreadPoolExecutor(2, "store-reader", lambda: self._connect(connections))
            stack.callback(self._readers.shutdown)
            self._writer = Writer(connection, self.directory, self.pages, saved, self.complain)
            stack.push_async_callback(self._writer.stop)
            self._stack = stack.pop_all()

    async def close(self) -> None:
        """Write what waits and give the directory back; nothing happens where it is not open."""
        await self._stack.aclose()
        self._writer = self._readers = None

    def complain(self, error: OpenRuntimeError) -> None:
        """Log that something could not be written; seldom, however often that happens."""
        if monotonic() >= self._complained + _COMPLAIN:
            self._complained = monotonic()
            log.error("%s. Until then new tasks are refused; what has ended waits in memory and is tried again", error)

    async def read(self, job: Callable[[sqlite3.Connection], Answer]) -> Answer:
        """What `job` returns, run in a reading thread."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, lambda: job(self._mine.connection))
        except sqlite3.Error as error:
            raise translate(error, self.directory) from error

    def _connect(self, connections: list[sqlite3.Connection]) -> None:
        self._mine.connection = connect(self.directory, reading=True)
        connections.append(self._mine.connection)


def _close_all(connections: list[sqlite3.Connection]) -> None:
    for connection in connections:
        connection.close()
