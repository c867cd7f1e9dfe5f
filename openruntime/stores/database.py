"""Opening the SQLite database of a data directory: one owner, a known schema, never overwritten."""

import errno
import fcntl
import os
import sqlite3
import sys
from contextlib import ExitStack, closing
from functools import cache
from importlib.resources import files
from pathlib import Path
from time import monotonic

from openruntime.contracts.errors import OpenRuntimeError, StorageFull, Unavailable

NAME = "openruntime.db"
LOCK = "owner.lock"
APPLICATION = 0x4F52544D  # "ORTM", so that no other program's database is taken for ours
_CHECK, _CHECK_UNCLEAN = 0.1, 0.5  # seconds that its structure is looked over at the start: some 4 GiB a second where they are in memory
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
        lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
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


def look_into(directory: Path) -> sqlite3.Connection:
    """A connection that changes nothing, not even by folding in a log (`-wal`) that belongs to another database."""
    path = directory / NAME
    mode = "rw" if path.with_name(f"{NAME}-journal").exists() else "ro"  # what a crash left half-written is rolled back first
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA busy_timeout = 10000")
    return connection


def open_database(directory: Path) -> sqlite3.Connection:
    """The connection that writes; the schema brought up to date. Raises `Unavailable` with the way out, and then nothing was changed."""
    path, log = directory / NAME, directory / f"{NAME}-wal"
    connection = None
    with ExitStack() as looking:
        try:
            if path.exists() and path.stat().st_size:
                unclean = log.exists() and log.stat().st_size > 0
                found = look_into(directory)
                looking.callback(found.close)  # while it is open the log is indexed once
                if unclean:
                    _check_log(found, path)
                check(found, path, seconds=_CHECK_UNCLEAN if unclean else _CHECK)
            connection = connect(directory)
            connection.execute("PRAGMA page_size = 16384")
            if _empty(connection):
                connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA secure_delete = OFF")
            connection.execute("PRAGMA wal_autocheckpoint = 2000")
            connection.execute("PRAGMA journal_size_limit = 67108864")
            if sys.platform == "darwin":
                connection.execute("PRAGMA fullfsync = ON")
            for number in range(schema(connection) + 1, len(migrations()) + 1):
                connection.executescript(f"BEGIN IMMEDIATE; {migrations()[number - 1]}; PRAGMA user_version = {number}; COMMIT;")
        except (sqlite3.Error, OSError, OpenRuntimeError) as error:
            if connection is not None:
                connection.close()
            raise translate(error, directory) from error
    return connection


def schema(connection: sqlite3.Connection) -> int:
    """How many migrations it has."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def check(connection: sqlite3.Connection, path: Path, *, seconds: float) -> None:
    """Raises `Unavailable` unless it is ours, of a schema that is known here, and not seen to be damaged within `seconds`."""
    if not _empty(connection) and connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION:
        raise Unavailable(f"{path} is another program's database; choose another directory with --data-dir")
    if schema(connection) > len(migrations()):
        raise Unavailable(
            f"{path} was written by a newer OpenRuntime (schema {schema(connection)}, this one knows {len(migrations())}): upgrade, restore a backup"
            " of before (`openruntime restore BACKUP --data-dir DIR`), or choose another --data-dir"
        )
    end = monotonic() + seconds
    connection.set_progress_handler(lambda: monotonic() > end, 1000)
    try:
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname != "SQLITE_INTERRUPT":
            raise
    else:
        if found != "ok":
            raise damaged(path, found)
    finally:
        connection.set_progress_handler(None, 0)


def _check_log(connection: sqlite3.Connection, path: Path) -> None:
    """Raises `Unavailable` where the log beside the database belongs to another, which it would overwrite."""
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?immutable=1", uri=True)) as alone:  # without the log
        try:
            own = alone.execute(queries()["identity"]).fetchone()
        except sqlite3.Error:  # all of it may still stand in the log, or the schema is older
            return
    if connection.execute(queries()["identity"]).fetchone() != own:
        raise Unavailable(
            f"{path}-wal is the log of another database, and would overwrite {path.name}: move the one away that does not belong here,"
            " or restore a backup (`openruntime restore BACKUP --data-dir DIR`)"
        )


def damaged(path: Path, reason: str) -> Unavailable:
    return Unavailable(
        f"the database {path} is damaged ({reason}) and was left as it is; restore a backup (`openruntime restore BACKUP --data-dir DIR`), or move it"
        f" and its -wal file away to start empty (`sqlite3 {path.name} .recover` saves what can be read)"
    )


def _empty(connection: sqlite3.Connection) -> bool:
    return schema(connection) == 0 and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0


def translate(error: Exception, directory: Path) -> OpenRuntimeError:
    """What SQLite or the file system said, as an error of ours."""
    if isinstance(error, OpenRuntimeError):
        return error
    name = getattr(error, "sqlite_errorname", "")
    if name in _FULL or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)):
        return StorageFull(f"there is no space left in {directory}; free some, or choose another with --data-dir", retry_after=5.0)
    if name in ("SQLITE_CORRUPT", "SQLITE_NOTADB") or "malformed" in str(error):
        return damaged(directory / NAME, str(error))
    return Unavailable(f"the data directory {directory} cannot be used: {error}; check it, or choose another with --data-dir")
