"""A real redis-server for tests and benchmarks: its own folder, a free port, every write fsynced; killed by its process id."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.servers import free_port


class RedisServer:
    def __init__(self, folder: Path, *flags: str, fsync: str = "always") -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._flags = ("--appendonly", "yes", "--appendfsync", fsync, "--save", "", *flags)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = shutil.which("redis-server")
        if program is None:
            raise RuntimeError("redis-server is not installed: tools/debian.sh redis-server")
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder), *self._flags], stdout=log, stderr=log
            )
        end = time.monotonic() + 30
        while self.ask("PING") != b"+PONG":
            if time.monotonic() > end or self._process.poll() is not None:
                raise RuntimeError(f"redis-server did not start:\n{(self._folder / 'log').read_text()[-2000:]}")
            time.sleep(0.01)

    def ask(self, *command: str) -> bytes:
        """The first line of the answer; empty where there is none."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            words = "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in command)
            connection.sendall(f"*{len(command)}\r\n{words}".encode())
            return connection.recv(4096).partition(b"\r\n")[0]
        return b""

    @contextlib.contextmanager
    def unable_to_save(self) -> Iterator[None]:
        """A snapshot has failed, for a folder stands where its file should: it refuses writes (MISCONF) until one succeeds."""
        self.ask("CONFIG", "SET", "save", "3600 1000000")
        (self._folder / "dump.rdb").mkdir()
        try:
            self._save(b"err")
            yield
        finally:
            (self._folder / "dump.rdb").rmdir()
            self._save(b"ok")
            self.ask("CONFIG", "SET", "save", "")

    def _save(self, wanted: bytes) -> None:
        """Try a snapshot until its outcome is the one that is `wanted`."""
        end = time.monotonic() + 30
        while self.ask("BGSAVE") and wanted != self.info("rdb_last_bgsave_status"):
            if time.monotonic() > end:
                raise TimeoutError(f"no snapshot ended with {wanted!r}")
            time.sleep(0.1)

    def info(self, field: str) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(b"*2\r\n$4\r\nINFO\r\n$11\r\npersistence\r\n")
            answer = connection.recv(1 << 16)
        return next(line.partition(b":")[2] for line in answer.split(b"\r\n") if line.startswith(field.encode() + b":"))

    def signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.signal(signal.SIGCONT)
        self.kill()


@contextlib.contextmanager
def redis_server(folder: Path, *flags: str, fsync: str = "always") -> Iterator[RedisServer]:
    server = RedisServer(folder, *flags, fsync=fsync)
    try:
        server.start()
        yield server
    finally:
        server.stop()
