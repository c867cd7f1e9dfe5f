"""Our stores under the published suite."""

from pathlib import Path
from typing import Any

from openruntime.contracts.interfaces import Store
from openruntime.stores.memory import MemoryStore
from openruntime.stores.sqlite import SqliteStore
from openruntime.testing.store_suite import StoreSuite


class TestMemoryStore(StoreSuite):
    def make(self, directory: Path, **bounds: Any) -> Store:
        return MemoryStore(**bounds)


class TestSqliteStore(StoreSuite):
    durable = True

    def make(self, directory: Path, **bounds: Any) -> Store:
        return SqliteStore(directory, **bounds)


class TestSqliteStoreThatKeepsNothingInMemory(TestSqliteStore):
    """Every ended task is read back from the disk."""

    def make(self, directory: Path, **bounds: Any) -> Store:
        return SqliteStore(directory, recent=0, **bounds)
