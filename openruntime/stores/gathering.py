"""Small completed tasks on their way to pages of history: those that were promised apart from those that may be given up."""

import asyncio
import logging
from collections.abc import Callable

from openruntime.contracts.records import Task
from openruntime.stores.disk import Disk
from openruntime.stores.pages import Page

log = logging.getLogger(__name__)

_LINGER = 0.5  # seconds that they may gather
_PAGE, _PAGE_BYTES = 512, 2 << 20  # tasks and bytes of results in one page
_BACKLOG, _BACKLOG_BYTES = 10_000, 32 << 20  # history nobody was promised that may always wait for the disk


class Gathering:
    """On the event loop only. At most `history` tasks and `history_bytes` are kept on disk at all: a page is a small part of them."""

    def __init__(self, disk: Disk, *, history: int, history_bytes: int, backlog: int, backlog_bytes: int, evict: Callable[[Page], None]) -> None:
        """`evict` is told of each page that is given up."""
        self._disk = disk
        self._bounds = min(_PAGE, max(1, history // 16)), min(_PAGE_BYTES, history_bytes // 16)
        self._backlog = max(_BACKLOG, backlog), max(_BACKLOG_BYTES, backlog_bytes)
        self._evict = evict
        self._unpromised, self._promised = Page(promised=False), Page(promised=True)
        self._timer: asyncio.TimerHandle | None = None
        self._waiting = self._waiting_bytes = 0  # in pages nobody was promised that are not on disk yet
        self._giving_up = False

    def add(self, task: Task, size: int) -> None:
        """`size`: bytes of the result."""
        page = self._promised if task.kept else self._unpromised
        page.tasks[task.id] = task
        page.size += size
        most, most_bytes = self._bounds
        if len(page.tasks) >= most or page.size >= most_bytes:
            self._turn(page)
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LINGER, self._due)

    def turn(self) -> None:
        """Have written what has gathered."""
        self._turn(self._unpromised)
        self._turn(self._promised)

    def keep(self, task: Task) -> None:
        """Have a task's page written if it still gathers; it is promised now."""
        for page in (self._unpromised, self._promised):
            if task.id in page.tasks:
                page.promised = True
                self._turn(page)

    def remove(self, task: Task, size: int) -> None:
        for page in (self._unpromised, self._promised):
            if page.tasks.pop(task.id, None) is not None:
                page.size -= size

    def saved(self, page: Page) -> None:
        """It is on disk."""
        if not page.promised:
            self._waiting -= len(page.tasks)
            self._waiting_bytes -= page.size
            self._giving_up = self._giving_up and self._waiting > 0

    def _due(self) -> None:
        self._timer = None
        self.turn()

    def _turn(self, page: Page) -> None:
        """Have a page written. Where the disk does not follow, history nobody was promised gives way."""
        if not page.tasks:
            return
        if page is self._promised:
            self._promised = Page(promised=True)
        else:
            self._unpromised = Page(promised=False)
        writer, lost = self._disk.writer, 0
        writer.page(page)
        if page.promised:
            return
        self._waiting += len(page.tasks)
        self._waiting_bytes += page.size
        while self._waiting > self._backlog[0] or self._waiting_bytes > self._backlog[1]:
            given_up = writer.abandon_page()
            if given_up is None:
                break
            lost += len(given_up.tasks)
            self.saved(given_up)
            self._evict(given_up)
        if lost and not self._giving_up:
            self._giving_up = True
            log.warning("the disk is full or too slow: the records of tasks that ended first are given up where nobody was promised them")
