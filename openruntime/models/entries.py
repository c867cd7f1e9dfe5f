"""The repository's files: an entry a version, the aliases with their history, and which weights were seen whole. Processes may share them."""

import contextlib
import errno
import fcntl
import logging
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from openruntime.contracts.ai import ModelSpec
from openruntime.contracts.errors import InvalidParameter, StorageFull, Unavailable

log = logging.getLogger(__name__)

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,95}")
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LOGGED = 100  # moves of an alias that are kept
SETTLED = 0.05  # seconds: a file system's clock is that coarse, so that what has just been written may change unseen


def check_name(name: str, field: str = "name") -> None:
    """Raises `InvalidParameter`."""
    if not NAME.fullmatch(name):
        raise InvalidParameter(
            f"`{field}` must be 1 to 96 lower-case letters, digits, `.`, `_` and `-`, the first a letter or digit, not {name!r:.120}",
            field=field,
        )


class Move(msgspec.Struct, frozen=True):
    """That an alias was made to mean `id`. `time` in seconds since the epoch; `how` is add, promote, rollback or remove."""

    id: str
    time: float
    how: str


class Alias(msgspec.Struct, frozen=True):
    """What it means now, what it meant before (the last is the one before), and how it came to that."""

    current: str
    before: tuple[str, ...] = ()
    log: tuple[Move, ...] = ()

    def moved(self, to: str, how: str, before: tuple[str, ...]) -> "Alias":
        return Alias(to, before[-LOGGED:], (*self.log, Move(to, time.time(), how))[-LOGGED:])


class Content(msgspec.Struct, frozen=True):
    """What was read: versions by `NAME:VERSION`, aliases, and of each file that cannot be used: why."""

    specs: Mapping[str, ModelSpec] = {}
    aliases: Mapping[str, Alias] = {}
    problems: Mapping[str, str] = {}


class Entries:
    """The files in `folder`, which need not exist. What is read is kept until a file changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._entries = folder / "entries"
        self._aliases = folder / "aliases.json"
        self._content = Content()
        self._seen: object = None
        self._reading = threading.Lock()
        self._told: set[str] = set()

    def read(self) -> Content:
        seen = self._look()
        if seen != self._seen or self._seen is None:
            with self._reading:
                self._content = self._load()
                self._seen = seen
        return self._content

    def _look(self) -> tuple[int, int] | None:
        """None while it may have changed without showing it."""
        now = time.time_ns() - int(SETTLED * 1e9)
        times = _time(self._entries), _time(self._aliases)
        return times if max(times) < now else None

    def _load(self) -> Content:
        specs: dict[str, ModelSpec] = {}
        problems: dict[str, str] = {}
        for path in sorted(self._entries.glob("*.json")) if self._entries.is_dir() else ():
            try:
                spec = msgspec.json.decode(path.read_bytes(), type=ModelSpec)
                if not (NAME.fullmatch(spec.name) and VERSION.fullmatch(spec.version)) or path.name != _file(spec):
                    raise InvalidParameter(f"it speaks of {spec.id!r:.100}")
            except FileNotFoundError:  # removed meanwhile
                continue
            except (OSError, UnicodeDecodeError, msgspec.MsgspecError, InvalidParameter) as error:
                problems[path.name] = f"the entry {path} cannot be read, and is left out: {error}"
                continue
            specs[spec.id] = self._placed(spec)
        aliases: dict[str, Alias] = {}
        try:
            aliases = msgspec.json.decode(self._aliases.read_bytes(), type=dict[str, Alias])
        except FileNotFoundError:
            pass
        except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
            problems[self._aliases.name] = f"the aliases {self._aliases} cannot be read, and are left out: {error}"
        for problem in problems.values():
            if problem not in self._told:
                self._told.add(problem)
                log.warning("%s", problem)
        return Content(specs, aliases, problems)

    def _placed(self, spec: ModelSpec) -> ModelSpec:
        """Weights within the folder are written down relative to it, so that it can be moved."""
        inside = spec.source and "://" not in spec.source and not os.path.isabs(spec.source)
        return msgspec.structs.replace(spec, source=str(self.folder / spec.source)) if inside else spec

    @contextlib.contextmanager
    def writing(self) -> Iterator[Content]:
        """Alone among all processes; what is there now. Raises `Unavailable`, `StorageFull`."""
        with told(self.folder):
            self._entries.mkdir(parents=True, exist_ok=True)
            with (self.folder / "lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._seen = None
                try:
                    yield self.read()
                finally:
                    self._seen = None

    def put(self, spec: ModelSpec) -> ModelSpec:
        """Within `writing`."""
        path = Path(spec.source) if spec.source and "://" not in spec.source else None
        kept = spec
        if path is not None and path.is_relative_to(self.folder):
            kept = msgspec.structs.replace(spec, source=str(path.relative_to(self.folder)))
        replace(self._entries / _file(spec), msgspec.json.format(msgspec.json.encode(kept)))
        return spec

    def drop(self, spec: ModelSpec) -> None:
        (self._entries / _file(spec)).unlink(missing_ok=True)

    def put_aliases(self, aliases: Mapping[str, Alias]) -> None:
        if aliases != self._content.aliases:
            if self._aliases.name in self._content.problems:
                self._aliases.rename(self._aliases.with_suffix(".damaged"))  # somebody may want to read it
            replace(self._aliases, msgspec.json.format(msgspec.json.encode(aliases)))


def replace(path: Path, data: bytes) -> None:
    """All of it or nothing, also where the power fails. Raises `OSError`."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


@contextlib.contextmanager
def told(folder: Path) -> Iterator[None]:
    """What the operating system refuses, as one of our errors."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"the disk of the model repository {folder} is full; nothing was added") from None
        raise Unavailable(f"the model repository {folder} cannot be written: {error.strerror}") from None


def _file(spec: ModelSpec) -> str:
    return f"{spec.name}@{spec.version}.json"


def _time(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
