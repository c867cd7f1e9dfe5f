"""The machine's figures, and the limits of a container, read from files as the kernel writes them."""

import os
from pathlib import Path

import psutil
import pytest

from openruntime.devices import host
from openruntime.devices.host import Host, cpu_name, memory_groups

GIB = 1 << 30


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def version_2(root: Path, **limits: str) -> Path:
    files = {"proc/self/cgroup": "0::/app/worker\n"}
    for folder, limit in limits.items():
        base = "sys/fs/cgroup/" + {"outer": "app", "inner": "app/worker"}[folder]
        files |= {f"{base}/memory.max": f"{limit}\n", f"{base}/memory.current": "9000\n", f"{base}/memory.stat": "anon 1\ninactive_file 4000\n"}
    return write(root, files)


def test_a_containers_limit_bounds_the_memory(tmp_path: Path) -> None:
    usage = Host(version_2(tmp_path, inner="max", outer="1000000")).usage()
    assert usage.memory_total == 1_000_000
    assert usage.memory_available == 1_000_000 - 5000  # what can be taken back is free


def test_the_tightest_group_counts(tmp_path: Path) -> None:
    usage = Host(version_2(tmp_path, inner="500000", outer="1000000")).usage()
    assert (usage.memory_total, usage.memory_available) == (500_000, 495_000)


def test_a_full_container_has_nothing_left(tmp_path: Path) -> None:
    assert Host(version_2(tmp_path, inner="4000")).usage().memory_available == 0


def test_version_1_and_a_path_that_only_the_host_has(tmp_path: Path) -> None:
    base = "sys/fs/cgroup/memory"
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/\n4:memory:/docker/0123\n0::/\n",
            f"{base}/memory.limit_in_bytes": "2000000\n",
            f"{base}/memory.usage_in_bytes": "1500000\n",
            f"{base}/memory.stat": "cache 1\ntotal_inactive_file 500000\n",
        },
    )
    usage = Host(root).usage()
    assert (usage.memory_total, usage.memory_available) == (2_000_000, 1_000_000)


@pytest.mark.parametrize("limit", ["max", "9223372036854771712"])
def test_no_limit_is_the_machines(tmp_path: Path, limit: str) -> None:
    assert Host(version_2(tmp_path, inner=limit)).usage().memory_total == psutil.virtual_memory().total


def test_no_control_groups(tmp_path: Path) -> None:
    assert memory_groups(tmp_path) == []


def test_sampled_at_most_once_a_second(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    now = [100.0]
    monkeypatch.setattr(host.time, "monotonic", lambda: now[0])
    here = Host(tmp_path)
    first = here.usage()
    assert first.utilization is None
    now[0] += 0.9
    assert here.usage() is first
    now[0] += 0.2
    second = here.usage()
    assert second is not first
    assert second.utilization is not None
    assert 0 <= second.utilization <= 1


def test_the_processors_name(tmp_path: Path) -> None:
    if os.uname().sysname != "Linux":
        pytest.skip("reads /proc/cpuinfo, which is Linux's")
    assert cpu_name(write(tmp_path, {"proc/cpuinfo": "processor : 0\nmodel\t\t: 2\nmodel name\t: AMD  EPYC 9\n"})) == "AMD EPYC 9"
    assert cpu_name(tmp_path / "nothing") == os.uname().machine
    assert cpu_name()


def test_the_process_itself() -> None:
    assert host.process_memory() > 1 << 20
    assert host.process_seconds() > 0
