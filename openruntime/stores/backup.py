"""Whole copies of a data directory: from a running server's to a backup, and from a backup to where a server starts on it.

A backup is a data directory: the database as of one moment, and the files that it names. Files are written once and dropped when the
database no longer names them, so a file that went while it was wanted only means that a newer moment has to be copied.
"""

import fcntl
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from tempfile import mkdtemp
from typing import NamedTuple
from zlib import crc32

from openruntime.contracts.errors import InvalidRequest, Unavailable
from openruntime.stores import pending
from openruntime.stores.blobs import sync
from openruntime.stores.codec import arrays, unpack
from openruntime.stores.database import LOCK, NAME, check, damaged, look_into, queries, schema, translate

_MOMENTS = 8  # of the source; one is enough unless it drops history meanwhile
_STEP = 1024  # pages of the database at once
_SHA256 = 64  # hexadecimal digits: a name that says what must be inside

Tell = Callable[[float], None]
Besides = Callable[[Path], None]  # puts more into the copy's folder before that is put in place


class File(NamedTuple):
    """A file that the database names: bytes of a blob, or the CRC-32 of a page of results."""

    path: str
    size: int | None
    checksum: int | None


@dataclass(frozen=True)
class Copied:
    """What stands in the copy. `missing`: files that the database names, and that the source itself lacks or has damaged."""

    waiting: int
    ended: int
    files: int
    bytes: int
    missing: tuple[str, ...]


def backup(data_dir: Path, target: Path, tell: Tell = lambda _: None, besides: Besides = lambda _: None) -> Copied:
    """Copy a data directory as it is at one moment, its server running or not, and verify the copy. `tell` hears what part is done.

    Raises `InvalidRequest` when `target` is not empty or there is nothing to copy, `Unavailable` for a database that is damaged or newer,
    `StorageFull`.
    """
    if target.resolve().is_relative_to(data_dir.resolve()):
        raise InvalidRequest(f"{target} lies in the data directory itself; a backup belongs elsewhere, best on another disk")
    return _copy(data_dir, target, tell, besides)


def restore(source: Path, data_dir: Path, tell: Tell = lambda _: None, besides: Besides = lambda _: None) -> Copied:
    """Copy a backup to a directory that is not there or empty, and verify the copy. Raises as `backup`, and `Unavailable` where a server
    runs on the directory."""
    if _owned(data_dir):
        raise Unavailable(f"a server runs on {data_dir}; restore into an empty directory, then start a server there with --data-dir")
    return _copy(source, data_dir, tell, besides)


def _copy(source: Path, target: Path, tell: Tell, besides: Besides) -> Copied:
    if not (source / NAME).is_file():
        raise InvalidRequest(f"there is no {NAME} in {source}: it is neither a data directory nor a backup of one")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InvalidRequest(f"{target} is there and not empty; nothing is overwritten: name another, or move it away")
    made = not target.exists()
    draft = None
    try:
        target.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = Path(mkdtemp(prefix=".copying-", dir=target))  # inside, because the target may be a disk of its own
        copied = _Draft(source, draft, tell).fill()
        besides(draft)
        if set(target.iterdir()) != {draft}:
            raise InvalidRequest(f"something else was put into {target} meanwhile; nothing is overwritten")
        for part in sorted(draft.iterdir(), key=lambda part: part.name == NAME):  # the database last: with it the copy is whole
            part.rename(target / part.name)
        draft.rmdir()
        sync(target)
    except BaseException as error:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)
        if made:
            with suppress(OSError):
                target.rmdir()
        if isinstance(error, OSError | sqlite3.Error):
            raise translate(error, target) from error
        raise
    return copied


class _Draft:
    """The copy while it is made."""

    def __init__(self, source: Path, folder: Path, tell: Tell) -> None:
        self._source = source
        self._folder = folder
        self._tell = tell
        self._taken: set[File] = set()

    def fill(self) -> Copied:
        missing: set[File] | None = None
        for _ in range(_MOMENTS):
            self._take_database()
            with closing(sqlite3.connect(self._folder / NAME, isolation_level=None)) as connection:
                waiting, ended, wanted = _contents(connection)
            absent = self._take_files(wanted - self._taken)
            if not absent or absent == missing:  # nor does a newer moment have them
                return self._finish(waiting, ended, wanted - absent, absent)
            missing = absent
        raise Unavailable(f"the server on {self._source} dropped history faster than it could be copied; try again when it has less to do")

    def _take_database(self) -> None:
        """Read in one transaction, however long that takes: the server writes on beside it."""
        path = self._folder / NAME
        path.unlink(missing_ok=True)
        try:
            with closing(look_into(self._source)) as source, closing(sqlite3.connect(path, isolation_level=None)) as copy:
                source.execute("BEGIN")
                check(source, self._source / NAME, seconds=0.0)
                source.backup(copy, pages=_STEP, progress=lambda _, left, total: self._tell((total - left) / (2 * max(1, total))))
                copy.execute("PRAGMA journal_mode = DELETE")  # one file, which may be read where nothing can be written
                found = copy.execute("PRAGMA integrity_check(1)").fetchone()[0]
        except sqlite3.Error as error:
            raise translate(error, self._source) from error
        if found != "ok":
            raise damaged(self._source / NAME, found)
        path.chmod(0o600)
        sync(path)

    def _take_files(self, wanted: set[File]) -> set[File]:
        """Those that could not be had."""
        absent = set()
        for number, file in enumerate(sorted(wanted), 1):
            if self._take(file):
                self._taken.add(file)
            else:
                absent.add(file)
            self._tell(0.5 + number / (2 * len(wanted)))
        return absent

    def _take(self, file: File) -> bool:
        copy = self._folder / file.path
        copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            shutil.copyfile(self._source / file.path, copy)
        except FileNotFoundError:
            return False
        sync(copy)
        if _whole(copy, file):
            return True
        copy.unlink()
        return False

    def _finish(self, waiting: int, ended: int, files: set[File], missing: set[File]) -> Copied:
        for file in self._taken - files:  # of an older moment
            (self._folder / file.path).unlink()
        size = (self._folder / NAME).stat().st_size + sum((self._folder / file.path).stat().st_size for file in files)
        for folder, _, _ in os.walk(self._folder, topdown=False):
            sync(Path(folder))
        return Copied(waiting, ended, len(files), size, tuple(sorted(file.path for file in missing)))


def _whole(path: Path, file: File) -> bool:
    if file.checksum is not None:
        return crc32(path.read_bytes()) == file.checksum
    if path.stat().st_size != file.size:
        return False
    if len(path.name) != _SHA256:
        return True
    with path.open("rb") as content:
        return file_digest(content, "sha256").hexdigest() == path.name


def _contents(connection: sqlite3.Connection) -> tuple[int, int, set[File]]:
    """Of a database of any schema: tasks that wait or run, those that have ended, every file that it counts on."""
    version, files = schema(connection), set()
    (ended,) = connection.execute(queries()["ended_count"]).fetchone()
    inputs = [unpack(packed) for _, packed in connection.execute(queries()["unfinished_tasks"])]
    if version >= 2:
        for number, count, checksum in connection.execute(queries()["page_files"]):
            ended += count
            if checksum is not None:
                files.add(File(f"pages/{number}", None, checksum))
    if version >= 3:
        inputs += [task.call.parameters for _, _, tasks in pending.unfinished(connection) for task in tasks]
    kept = [unpack(packed) for name in ("counting_tasks", "counting_shelf") for (packed,) in connection.execute(queries()[name])]
    for array in arrays([inputs, kept]):
        if array.blob is not None:
            files.add(File(f"blobs/{array.blob[:2]}/{array.blob}", array.nbytes, None))
    return len(inputs), ended, files


def _owned(directory: Path) -> bool:
    try:
        with (directory / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False
