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
