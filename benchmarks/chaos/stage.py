"""What the faults happen to: gateways behind a proxy, a small disk of their own, a clock that can be moved, a Redis where asked for."""

import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from benchmarks.chaos.proxy import Proxy
from benchmarks.load import ask
from benchmarks.servers import Server, free_port, openruntime, spawn

CLOCK = Path(__file__).parent / "clock"
MIB = 1 << 20


class Volume:
    """A small file system for the data directory, so that a full disk is nobody else's: ext4 in a file where root may mount one, else tmpfs.

    `missing` says why there is none; the data then stands in an ordinary folder.
    """

    def __init__(self, scratch: Path, size: int) -> None:
        self.path, self.kind, self.missing = scratch / "volume", "folder", ""
        self._filler = self.path / "filler"
        self.path.mkdir()
        if os.geteuid() or not shutil.which("mount"):
            self.missing = "no small file system can be mounted: that takes root on Linux"
            return
        image, refusals = scratch / "volume.ext4", []
        with image.open("wb") as file:
            file.truncate(size)
        for kind, commands in (
            ("ext4", (["mkfs.ext4", "-q", "-m", "0", str(image)], ["mount", "-o", "loop", str(image), str(self.path)])),
            ("tmpfs", (["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(self.path)],)),
        ):
            try:
                for command in commands:
                    subprocess.run(command, check=True, capture_output=True, text=True)
            except (OSError, subprocess.CalledProcessError) as error:
                refusals.append(f"{kind}: {getattr(error, 'stderr', None) or error}".strip())
                continue
            self.kind = kind
            return
        self.missing = f"no small file system can be mounted ({'; '.join(refusals)})"

    def fill(self) -> None:
        """Leave no byte free."""
        with self._filler.open("wb", buffering=0) as file:
            space = os.statvfs(self.path)
            with contextlib.suppress(OSError):
                os.posix_fallocate(file.fileno(), 0, max(MIB, space.f_bavail * space.f_frsize - 4 * MIB))
            file.seek(0, os.SEEK_END)
            for size in (MIB, 4096):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))
            with contextlib.suppress(OSError):
                os.fsync(file.fileno())

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)

    def close(self) -> None:
        if self.kind != "folder":
            subprocess.run(["umount", "--lazy", str(self.path)], check=True)


class Redis:
    """A Redis of our own, told to keep what it acknowledges; behind a proxy, so that its connections can be cut."""

    def __init__(self, port: int, folder: Path) -> None:
        self.port, self._folder = port, folder
        folder.mkdir()
        self.process = self._spawn()

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder), "--save", ""]
        process = subprocess.Popen([*command, "--appendonly", "yes", "--appendfsync", "always"], stdout=subprocess.DEVNULL)
        until = time.monotonic() + 30
        while not _listens(self.port):
            if time.monotonic() > until or process.poll() is not None:
                raise RuntimeError("redis-server did not start")
            time.sleep(0.01)
        return process

    def kill(self) -> None:
        """SIGKILL, and started again at once from what it had written."""
        self.process.kill()
        self.process.wait()
        self.process = self._spawn()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        self.process.wait(30)


class Stage:
    """Everything, started. `missing` names the kinds of faults that cannot happen here, with the reason."""

    def __init__(self, scratch: Path, *, store: str = "sqlite", gateways: int = 1, size: int = 1024 * MIB, clock: bool = True) -> None:
        self.missing: dict[str, str] = {}
        self.volume = Volume(scratch, size)
        if self.volume.missing:
            self.missing["disk-full"] = self.volume.missing
        self._log = scratch / "log"
        self._clock = scratch / "clock"
        self.move_clock(0.0)
        self.redis: Redis | None = None
        self.redis_proxy: Proxy | None = None
        self.store = self._redis(store, scratch) if store.startswith("redis://") else store
        self._environment = {"OPENRUNTIME_HISTORY_COUNT": "10000000", "OPENRUNTIME_QUEUE_BOUND": "1000000", "OPENBLAS_NUM_THREADS": "1"}
        if clock:
            path = os.pathsep.join(filter(None, (str(CLOCK), os.environ.get("PYTHONPATH"))))
            self._environment |= {"PYTHONPATH": path, "CHAOS_CLOCK": str(self._clock)}
        self.gateways: list[Server] = []
        self.orphans = 0
        try:
            for _ in range(gateways):
                self.gateways.append(self._spawn())
            for gateway in self.gateways:
                gateway.wait_ready("/health/ready")
            self.proxy = Proxy(lambda: [gateway.port for gateway in self.gateways])
        except BaseException:
            self.close()
            raise

    def _redis(self, url: str, scratch: Path) -> str:
        """The address at which the gateways find it, which is our proxy's."""
        parts = urlsplit(url)
        host, port = parts.hostname or "127.0.0.1", parts.port or free_port()
        if host not in ("127.0.0.1", "localhost"):
            raise ValueError(
                f"{url}: chaos cuts the connections of a Redis on this machine only; give redis://127.0.0.1:PORT, or redis:// for its own"
            )
        if _listens(port):
            self.missing |= dict.fromkeys(("redis-kill", "redis-stop"), f"the Redis at port {port} was there before and is not ours to kill")
        elif shutil.which("redis-server"):
            self.redis = Redis(port, scratch / "redis")
        else:
            raise RuntimeError("redis-server is not installed (Debian: apt-get install --no-install-recommends redis-server)")
        self.redis_proxy = Proxy(lambda: [port])
        return f"redis://127.0.0.1:{self.redis_proxy.port}{parts.path}"

    def _spawn(self) -> Server:
        """All on one data directory: several gateways share the large arrays in it."""
        return spawn(openruntime(store=self.store), self.volume.path / "data", self._log, self._environment)

    def kill(self, number: int) -> float:
        """SIGKILL to a gateway, which is started again as a service manager does; the moment of the kill."""
        gateway = self.gateways[number]
        workers = gateway.tree()[1:]
        moment = time.monotonic()
        gateway.kill()
        self.gateways[number] = self._spawn()
        self.orphans += len(psutil.wait_procs(workers, timeout=5)[1])
        return moment

    def revive(self) -> int:
        """Start gateways that ended by themselves again; how many had. With a full disk a gateway may refuse to start, and is tried again."""
        ended = [number for number, gateway in enumerate(self.gateways) if gateway.process.poll() is not None]
        for number in ended:
            self.gateways[number] = self._spawn()
        return len(ended)

    def workers(self, number: int) -> list[dict[str, object]]:
        """The slots of a gateway's CPU, asked for past the proxy; none while it is not there."""
        try:
            found: list[dict[str, object]] = ask(self.gateways[number].port, "GET", "/devices/cpu:0").json()["workers"]
        except (OSError, KeyError, ValueError):
            return []
        return found

    def move_clock(self, seconds: float) -> None:
        """Servers take it to be so many seconds later than it is."""
        if not self._clock.exists():
            self._clock.write_bytes(struct.pack("d", seconds))
            return
        with self._clock.open("r+b") as file:  # in place: it is mapped
            file.write(struct.pack("d", seconds))

    def log_tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-60:])

    def stack_traces(self) -> list[str]:
        """Those in the servers' log, each as its last lines: whatever happens to them, they should have a sentence for it."""
        lines = self._log.read_text(errors="replace").splitlines()
        found = []
        for number, line in enumerate(lines):
            if line.startswith("Traceback"):
                ends = next((later for later in range(number + 1, len(lines)) if not lines[later].startswith(" ")), number)
                found.append(" | ".join(part.strip() for part in lines[max(number, ends - 6) : ends + 1]))
        return found

    def close(self) -> None:
        """Stop everything with SIGTERM; `orphans` counts the processes that stayed."""
        with contextlib.ExitStack() as stack:
            stack.callback(self.volume.close)
            if self.redis is not None:
                stack.callback(self.redis.stop)
            for proxy in (self.redis_proxy, getattr(self, "proxy", None)):
                if proxy is not None:
                    stack.callback(proxy.close)
            for gateway in self.gateways:
                self.orphans += len(gateway.stop()[1])


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """SIGSTOP, and SIGCONT in the end; nothing happens to a process that is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
