"""What a server holds: memory, descriptors, threads, asyncio tasks, shared memory, files. Linux, for it reads /proc."""

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.servers import Server, openruntime, running

ROOT = Path(__file__).parents[1]
PLUGIN = ROOT / "tests/plugin"  # misbehaving operations, and an exporter that looks from inside
MIB = 1 << 20
QUIET = 10.0  # seconds that what a client left behind may take to go away
SHARED = Path("/dev/shm")


@dataclass(frozen=True)
class Sample:
    """Of the gateway but for `worker_memory`, the largest of its workers'. Bytes of private memory; shared memory in use apart."""

    memory: int
    rss: int
    worker_memory: int
    descriptors: int
    threads: int
    tasks: int
    objects: int
    leased: int
    files: int  # in its temporary folder, drafts in its data directory, names in /dev/shm
    kinds: dict[str, int] = field(default_factory=dict, repr=False)
    names: Counter[str] = field(default_factory=Counter, repr=False)  # what descriptors are open, and what modules are imported


@dataclass
class Patient:
    """A server under observation."""

    server: Server
    temporary: Path
    figures: Path
    started_with: frozenset[str]

    def quiet(self, flat: Callable[[Sample], bool]) -> Sample:
        """A sample as soon as one is `flat` and like the one before (a worker may just be starting), or the last one after `QUIET` seconds."""
        deadline = time.monotonic() + QUIET
        before, sample = self.sample(), self.sample()
        while not (flat(sample) and sample.descriptors == before.descriptors) and time.monotonic() < deadline:
            time.sleep(0.2)
            before, sample = sample, self.sample()
        return sample

    def sample(self) -> Sample:
        inside = self._inside()
        gateway = psutil.Process(self.server.process.pid)
        descriptors = list(_descriptors(gateway.pid))
        workers = self.workers()
        return Sample(
            memory=private(gateway.pid), rss=gateway.memory_info().rss, worker_memory=max((private(worker.pid) for worker in workers), default=0),
            # each worker has two sockets and its standard error; idle slabs are leased again; the store's three connections open when needed
            descriptors=sum("memfd:" not in target and ".db" not in target for target in descriptors) - 3 * len(workers),
            threads=gateway.num_threads(), tasks=len(inside["tasks"]), objects=inside["objects"],
            leased=int(self.metric("openruntime_shared_memory_bytes")), files=len(self.litter()), kinds=dict(inside["kinds"]),
            names=Counter(target.partition(":[")[0] for target in descriptors) + Counter(inside["modules"]),
        )  # fmt: skip

    def workers(self) -> list[psutil.Process]:
        found = []
        for process in self.server.tree()[1:]:
            with suppress(psutil.NoSuchProcess):
                if "openruntime.runtimes.worker" in process.cmdline():
                    found.append(process)
        return found

    def litter(self) -> list[str]:
        """Names of what lies where nothing should stay."""
        drafts = [path.name for path in self.server.data_dir.rglob("*draft*")]
        shared = [name for name in names(SHARED) - self.started_with if "openruntime" in name or name.startswith("or-")]
        return [*names(self.temporary), *drafts, *shared, *(name for pid in self._pids() for name in _mapped_by_name(pid))]

    def metric(self, name: str) -> float:
        from benchmarks.load import ask

        text = bytes(ask(self.server.port, "GET", "/metrics", headers={"Accept": "text/plain"}).body).decode()
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith((name + " ", name + "{")))

    def _pids(self) -> list[int]:
        return [process.pid for process in self.server.tree()]

    def _inside(self) -> dict[str, Any]:
        self.figures.unlink(missing_ok=True)
        Path(f"{self.figures}.ask").touch()
        deadline = time.monotonic() + 30
        while not self.figures.exists():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the gateway did not tell its figures\n{self.server.log_tail()}")
            time.sleep(0.02)
        found: dict[str, Any] = json.loads(self.figures.read_text())
        return found


def environment(temporary: Path) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(PLUGIN), os.environ.get("PYTHONPATH", "")]))
    return {"PYTHONPATH": path, "TMPDIR": str(temporary), "OPENBLAS_NUM_THREADS": "1", "OPENRUNTIME_EXPORT_EVERY": "0.1"}


@contextmanager
def observed(scratch: Path, **flags: str | int) -> Iterator[Patient]:
    """A server with a temporary folder of its own, the rogue operations and the exporter; small bounds are given as `flags`."""
    temporary, figures = scratch / "tmp", scratch / "figures.json"
    temporary.mkdir()
    before = frozenset(names(SHARED))
    flags["exporters"] = f"vitals:{figures}"
    settings = environment(temporary) | {f"OPENRUNTIME_{name.upper()}": str(value) for name, value in flags.items()}
    with running(openruntime(log_level="error"), ready="/health/ready", data_dir=scratch / "data", environment=settings) as server:
        yield Patient(server, temporary, figures, before)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def private(pid: int) -> int:
    """Bytes of memory that this process alone holds: anonymous, so neither libraries nor slabs; 0 for one that is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss_Anon:"):
                return int(line.split()[1]) * 1024
    return 0


def kinds_grown(before: Sample, after: Sample, least: int = 20) -> dict[str, int]:
    """Types of which there are more objects now, by how many."""
    grown = Counter({kind: count - before.kinds.get(kind, 0) for kind, count in after.kinds.items() if kind in before.kinds})
    return {kind: count for kind, count in grown.most_common(12) if count >= least}


def names_grown(before: Sample, after: Sample) -> dict[str, int]:
    """Descriptors that are open and modules that are imported now and were not, by how many."""
    return dict(after.names - before.names)


def _descriptors(pid: int) -> Iterator[str]:
    folder = Path(f"/proc/{pid}/fd")
    for name in os.listdir(folder):
        with suppress(OSError):
            yield os.readlink(folder / name)


def _mapped_by_name(pid: int) -> list[str]:
    """Named shared memory that a process has mapped: it would outlive a kill -9."""
    with suppress(OSError):
        return [line.rpartition(" ")[2] for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "/dev/shm/" in line]
    return []
