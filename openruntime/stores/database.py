"""Opening the SQLite database of a data directory: one owner, a known schema, never overwritten."""

import errno
import fcntl
import os
import sqlite3
import sys
from functools import cache
from importlib.resources import files
from pathlib import Path

from openruntime.contracts.errors import OpenRuntimeError, StorageFull, Unavailable

NAME = "openruntime.db"
APPLICATION = 0x4F52544D  # "ORTM", so that no other program's database is taken for ours
_CHECK_BYTES = 64 << 20  # a database up to this size is checked whole after an unclean end (some 0.1 s)
_FULL = frozenset({"SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE", "SQLITE_IOERR_TRUNCATE"})


@cache
def queries() -> dict[str, str]:
    """The statements of `queries.sql` by name."""
    parts = files(__package__).joinpath("queries.sql").read_text().split("-- name: ")[1:]
    return {name.strip(): statement.strip() for name, _, statement in (part.partition("\n") for part in parts)}


@cache
def migrations() -> list[str]:
    """The schema's steps, oldest first; a database's `user_version` counts those it has."""
    folder = files(__package__).joinpath("migrations")
    return [step.read_text() for step in sorted(folder.iterdir(), key=lambda step: step.name) if step.name.endswith(".sql")]


def own(directory: Path) -> int:
    """Become the directory's one owner: the descriptor of its lock file. Raises `Unavailable`."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(directory / "owner.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise translate(error, directory) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.read(lock, 32).decode(errors="replace").strip()
        os.close(lock)
        raise Unavailable(
            f"the data directory {directory} belongs to a running OpenRuntime (process {owner or 'unknown'});"
            " stop it, or choose another with --data-dir"
        ) from error
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def connect(directory: Path, *, reading: bool = False) -> sqlite3.Connection:
    connection = sqlite3.connect(directory / NAME, isolation_level=None, check_same_thread=False, cached_statements=256)
    connection.execute("PRAGMA busy_timeout = 10000")
    if reading:
        connection.execute("PRAGMA query_only = ON")
    return connection


def open_database(directory: Path) -> sqlite3.Connection:
    """The connection that writes; the schema brought up to date. Raises `Unavailable` with the way out."""
    path, log = directory / NAME, directory / f"{NAME}-wal"
    unclean = log.exists() and log.stat().st_size > 0
    connection = None
    try:
        connection = connect(directory)
        connection.execute("PRAGMA page_size = 16384")
        _check(connection, path, whole=unclean and path.stat().st_size <= _CHECK_BYTES)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = OFF")
        connection.execute("PRAGMA wal_autocheckpoint = 2000")
        connection.execute("PRAGMA journal_size_limit = 67108864")
        if sys.platform == "darwin":
            connection.execute("PRAGMA fullfsync = ON")
        for number in range(_version(connection) + 1, len(migrations()) + 1):
            connection.executescript(f"BEGIN IMMEDIATE; {migrations()[number - 1]}; PRAGMA user_version = {number}; COMMIT;")
    except (sqlite3.Error, OSError, OpenRuntimeError) as error:
        if connection is not None:
            connection.close()
        if isinstance(error, OpenRuntimeError):
            raise
        raise translate(error, directory) from error
    return connection


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _check(connection: sqlite3.Connection, path: Path, *, whole: bool) -> None:
    empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    version = _version(connection)
    if empty and version == 0:
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
    elif connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION:
        raise Unavailable(f"{path} is another program's database; choose another directory with --data-dir")
    if version > len(migrations()):
        raise Unavailable(
            f"{path} was written by a newer OpenRuntime (schema {version}, this one knows {len(migrations())}); upgrade, or choose another --data-dir"
        )
    if whole and (found := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
        raise _damaged(path, found)


def _damaged(path: Path, reason: str) -> Unavailable:
    return Unavailable(
        f"the database {path} is damaged ({reason}); restore a backup, or move it and its -wal file away to start empty"
        f" (`sqlite3 {path.name} .recover` saves what can be read)"
    )


def translate(error: Exception, directory: Path) -> OpenRuntimeError:
    """What SQLite or the file system said, as an error of ours."""
    if isinstance(error, OpenRuntimeError):
        return error
    name = getattr(error, "sqlite_errorname", "")
    if name in _FULL or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)):
        return StorageFull(f"there is no space left in {directory}; free some, or choose another with --data-dir", retry_after=5.0)
    if name in ("SQLITE_CORRUPT", "SQLITE_NOTADB") or "malformed" in str(error):
        return _damaged(directory / NAME, str(error))
    return Unavailable(f"the data directory {directory} cannot be used: {error}; check it, or choose another with --data-dir")
