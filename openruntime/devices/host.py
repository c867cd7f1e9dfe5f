"""The machine this process runs on: its processor's name, memory, load, and what the process itself uses."""

import os
import platform
import re
import subprocess
import time
from pathlib import Path

import msgspec
import psutil

from openruntime.contracts.records import Usage

SAMPLE_AGE = 1.0  # seconds a sample stays good
UNLIMITED = 1 << 60  # cgroup v1 says "no limit" with a number near 2**63


class Host:
    """Live figures, sampled at most once a second and never waiting. `root` stands for `/`."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._sampled = -1e9
        self._usage: Usage | None = None
        self._groups = memory_groups(root)
        psutil.cpu_percent(interval=None)  # the first call only sets the point that the next one counts from

    def usage(self) -> Usage:
        """Memory within what the container allows, and the share of all cores that was busy since the sample before."""
        now = time.monotonic()
        if self._usage is None or now - self._sampled >= SAMPLE_AGE:
            memory = psutil.virtual_memory()
            total, available = memory.total, memory.available
            for limit, used in (figures for group in self._groups if (figures := group.read()) is not None):
                total, available = min(total, limit), min(available, max(0, limit - used))
            first = self._usage is None
            busy = psutil.cpu_percent(interval=None)
            self._usage = Usage(total, available, None if first else min(1.0, busy / 100))
            self._sampled = now
        return self._usage


class MemoryGroup(msgspec.Struct, frozen=True):
    """A control group with its files: limit, use, and statistics in which `inactive` names memory that can be taken back."""

    limit: Path
    used: Path
    stat: Path
    inactive: str

    def read(self) -> tuple[int, int] | None:
        """Limit and bytes in use that cannot be taken back; None without a limit."""
        try:
            limit, used = self.limit.read_text("ascii").strip(), int(self.used.read_text("ascii"))
            found = re.search(rf"^{self.inactive} (\d+)$", self.stat.read_text("ascii"), re.MULTILINE)
        except (OSError, ValueError):
            return None  # no such group: the limits of the machine hold
        if not limit.isdecimal() or int(limit) >= UNLIMITED:
            return None
        return int(limit), max(0, used - (int(found[1]) if found else 0))


def memory_groups(root: Path = Path("/")) -> list[MemoryGroup]:
    """The control groups that bound this process: its own and all above it (kernel: cgroup-v2, cgroup-v1/memory). Empty where there are none."""
    try:
        lines = (root / "proc/self/cgroup").read_text("utf-8").splitlines()
    except OSError:
        return []
    groups = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, files = root / "sys/fs/cgroup", ("memory.max", "memory.current", "memory.stat", "inactive_file")
        elif "memory" in controllers.split(","):
            base, files = root / "sys/fs/cgroup/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat", "total_inactive_file")
        else:
            continue
        folder = Path(path.lstrip("/"))
        # in a container the path is often the host's, and only the mount's own root is there
        steps = [base / step for step in (folder, *folder.parents) if (base / step / files[0]).is_file()]
        groups += [MemoryGroup(step / files[0], step / files[1], step / files[2], files[3]) for step in steps]
    return groups


def cpu_name(root: Path = Path("/")) -> str:
    """The processor's model name: /proc/cpuinfo on Linux, sysctl on macOS, else the architecture."""
    if platform.system() == "Darwin":
        answer = subprocess.run(["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, timeout=5, check=False)
        name = answer.stdout
    else:
        try:
            found = re.search(r"^(?:model name|Model|cpu model)\s*:\s*(.+)$", (root / "proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
        except OSError:
            found = None
        name = found[1] if found else ""
    return " ".join(name.split()) or platform.machine()


def load_average() -> float | None:
    """Processes that run or want to, over the last minute; None where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def process_memory() -> int:
    """Resident bytes of this process."""
    return int(psutil.Process().memory_info().rss)


def private_memory(pid: int) -> int:
    """Resident bytes of a process without what it shares with others, where the system tells them apart; 0 where there is none."""
    try:
        found = psutil.Process(pid).memory_info()
    except psutil.Error:
        return 0
    return int(found.rss - getattr(found, "shared", 0))


def process_seconds() -> float:
    """Processor seconds this process has used, in user and system mode."""
    times = os.times()
    return times.user + times.system
