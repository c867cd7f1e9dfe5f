"""Servers as processes: started, waited for, measured over their whole tree, stopped. Used by benchmarks and tests alike."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

START_TIMEOUT = 60.0
STOP_TIMEOUT = 30.0


def free_port() -> int:
    """A TCP port on the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """A running server. `url` and `port` on 127.0.0.1; `log` holds what it wrote; `data_dir` what it keeps."""

    port: int
    process: subprocess.Popen[bytes]
    data_dir: Path
    log: Path
    spawned: float = field(default_factory=time.perf_counter)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def tree(self) -> list[psutil.Process]:
        """The process and all its descendants that are alive."""
        try:
            root = psutil.Process(self.process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu_seconds(self) -> float:
        """Processor seconds that the tree has used, user and system, ended children included."""
        total = 0.0
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
                if process.pid == self.process.pid:
                    total += times.children_user + times.children_system
        return total

    def own_cpu_seconds(self) -> float:
        """Of that, what the process itself has used: a server without its workers."""
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

    def memory(self) -> tuple[int, int]:
        """Bytes of the whole tree: the sum of resident sets, and the proportional set size (0 where the system has none)."""
        infos = [process.memory_full_info() for process in self.tree()]
        return sum(info.rss for info in infos), sum(getattr(info, "pss", 0) for info in infos)

    def wait_ready(self, path: str, timeout: float = START_TIMEOUT) -> None:
        """Until GET `path` answers 200. Raises `RuntimeError` with the end of the log when it ends or takes too long."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with status {self.process.returncode} before it was ready\n{self.log_tail()}")
            if self._status(path) == 200:
                return
            time.sleep(0.005)
        raise RuntimeError(f"the server was not ready within {timeout} s\n{self.log_tail()}")

    def _status(self, path: str) -> int:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
                head = connection.recv(64)
        except OSError:
            return 0
        return int(head[9:12]) if head.startswith(b"HTTP/1.1 ") else 0

    def log_tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self, timeout: float = STOP_TIMEOUT) -> tuple[int, list[int]]:
        """SIGTERM. The exit status, and the ids of processes of the tree that were still there two seconds after (killed then)."""
        tree = self.tree()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        _, left = psutil.wait_procs([process for process in tree if process.pid != self.process.pid], timeout=2)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return status, [process.pid for process in left]

    def kill(self) -> None:
        """SIGKILL to the server itself, not to its children: what a crash or the OOM killer does."""
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def running(
    command: Sequence[str], *, ready: str, data_dir: Path | None = None, environment: dict[str, str] | None = None, ends: Sequence[int] = (0,)
) -> Iterator[Server]:
    """A server started with `command`, where `{port}` and `{data}` are filled in, ready (GET `ready` is 200); stopped at the end.

    Raises `RuntimeError` when it does not start, does not stop with a status among `ends` on SIGTERM, or leaves a process behind.
    """
    with tempfile.TemporaryDirectory(prefix="openruntime-", ignore_cleanup_errors=True) as scratch:
        server = spawn(command, data_dir or Path(scratch) / "data", Path(scratch) / "log", environment)
        try:
            server.wait_ready(ready)
            yield server
        except BaseException:
            server.stop()
            raise
        ended_early = server.process.poll()
        status, left = server.stop()
        if ended_early is None and (status not in ends or left):
            raise RuntimeError(f"the server stopped with status {status} and left processes {left}\n{server.log_tail()}")


def spawn(command: Sequence[str], data_dir: Path, log: Path, environment: dict[str, str] | None = None) -> Server:
    """Start `command` without waiting; the caller stops it."""
    data_dir.mkdir(parents=True, exist_ok=True)
    port = free_port()
    with log.open("ab") as output:
        spawned = time.perf_counter()
        process = subprocess.Popen(
            [part.format(port=port, data=data_dir) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={"OPENRUNTIME_CALIBRATE": "false", **os.environ, **(environment or {})},  # a fresh server would measure beside what is measured
        )
    return Server(port, process, data_dir, log, spawned)


def openruntime(**flags: str | int) -> list[str]:
    """The command of OpenRuntime's own server; `flags` as on its command line (`store="memory"`)."""
    script = Path(sys.executable).with_name("openruntime")  # not there where OpenRuntime is on the path only
    command = [
        *([str(script)] if script.exists() else [sys.executable, "-m", "openruntime.cli.main"]),
        "serve",
        "--host",
        "127.0.0.1",
        "--port",
        "{port}",
        "--data-dir",
        "{data}",
    ]
    for name, value in flags.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    return command


def yardstick(app: str) -> list[str]:
    """The command of a yardstick (`echo`, `inline`), under uvicorn with the flags that OpenRuntime's own server has."""
    flags = "--loop uvloop --http httptools --no-access-log --no-proxy-headers --no-server-header --no-date-header --log-level warning --lifespan off"
    return [sys.executable, "-m", "uvicorn", f"benchmarks.yardsticks:{app}", "--host", "127.0.0.1", "--port", "{port}", *flags.split()]
