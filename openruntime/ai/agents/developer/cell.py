"""The process around code that nobody has looked at, run as a file of its own with the standard library only: `python -I cell.py`.

Reads its order as JSON from standard input, closes the doors (what each system offers), runs the command, watches what it takes, and writes to the
descriptor that its argument names what was enforced and how it ended.
"""

import ctypes
import json
import os
import resource
import signal
import stat
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

NEW = {"user": 0x10000000, "network": 0x40000000, "processes": 0x20000000, "mounts": 0x00020000, "ipc": 0x08000000, "names": 0x04000000}
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 2, 4, 8, 0x1000, 0x4000, 1 << 18, 2
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446  # the same on every architecture
EXECUTE, WRITE, READ, LIST = 1, 2, 4, 8
FILES_OF_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}  # which rights each version knows
DEVICES = ("/dev/null", "/dev/urandom", "/dev/zero")
LOOK = 0.02  # seconds between two looks at what the processes take
REFUSED, WATCHED = 97, 98  # exit statuses of this process: it would not run; it ended the command
libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def unshare(enforced: dict[str, str]) -> bool:
    """Namespaces of its own for network, processes, mounts: without privileges, by a user namespace. Whether the processes have one."""
    uid, gid = os.getuid(), os.getgid()
    flags = 0
    for flag in NEW.values():
        flags |= flag
    check(libc.unshare(flags), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"1000 {uid} 1"), ("gid_map", f"1000 {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)
    enforced["processes"] = "a process namespace of its own: it sees and signals none outside, and all of it ends with it"
    return True


def mount(kind: str, at: str, flags: int, options: str = "") -> None:
    check(libc.mount(kind.encode(), at.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()), f"mount {kind}")


def bind(source: str, root: str) -> None:
    """The same file or folder, at the same place below `root`."""
    at = root + source
    if os.path.isdir(source):
        os.makedirs(at, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(at), exist_ok=True)
        open(at, "w").close()
    check(libc.mount(source.encode(), at.encode(), None, ctypes.c_ulong(MS_BIND | MS_REC), None), f"bind {source}")


def own_root(order: dict[str, Any], enforced: dict[str, str]) -> None:
    """A file system in memory of bounded size that holds nothing but where it works and what it may read: no socket of others, no other files."""
    check(libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None), "mount private")
    root = order["work"]
    mount("tmpfs", root, MS_NOSUID | MS_NODEV, f"size={order['disk']},nr_inodes={order['files_most']},mode=755")
    bound: list[str] = []
    for path in [*sorted(order["readable"]), *DEVICES]:
        if os.path.exists(path) and not any(path.startswith(f"{other}/") for other in bound):
            bind(path, root)
            bound.append(path)
    os.makedirs(root + "/proc")
    mount("proc", root + "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    os.makedirs(root + order["work"], exist_ok=True)
    os.chdir(root)
    check(libc.pivot_root(b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "umount")
    os.chdir(order["work"])
    enforced["network"] = "a network namespace without interfaces, and no sockets of others in its files"
    enforced["disk"] = f"a file system in memory of {order['disk']} bytes"
    enforced["proc"] = "its own processes only"


def landlock(order: dict[str, Any], enforced: dict[str, str]) -> None:
    """What it may read, and that it may write where it works only; no TCP; no signals or abstract sockets to others (Linux 5.13 on)."""
    abi = libc.syscall(LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)
    if abi < 1:
        raise OSError("the kernel has no Landlock")
    rights = FILES_OF_ABI[max(version for version in FILES_OF_ABI if version <= abi)]
    attributes = struct.pack("QQQ", rights, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    ruleset = check(libc.syscall(LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0), "landlock")
    rules = [(path, EXECUTE | READ | LIST) for path in order["readable"]]
    rules += [(order["work"], rights), ("/proc", READ | LIST), *((path, WRITE | READ) for path in DEVICES)]
    for path, allowed in rules:
        try:
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        if not stat.S_ISDIR(os.fstat(opened).st_mode):
            allowed &= EXECUTE | READ | WRITE
        check(libc.syscall(LANDLOCK_ADD, ruleset, 1, struct.pack("=Qi", allowed & rights, opened), 0), f"landlock {path}")
        os.close(opened)
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    check(libc.syscall(LANDLOCK_RESTRICT, ruleset, 0), "landlock")
    os.close(ruleset)
    enforced["files"] = "reads Python, the libraries and its own folder; writes its own folder (Landlock)"
    if abi >= 4:
        enforced["tcp"] = "none (Landlock)"


def limit(order: dict[str, Any], enforced: dict[str, str]) -> None:
    bounds = {
        "RLIMIT_CPU": order["cpu"], "RLIMIT_AS": order["memory"], "RLIMIT_FSIZE": order["file"], "RLIMIT_NOFILE": 256,
        "RLIMIT_NPROC": order["processes"], "RLIMIT_CORE": 0,
    }  # fmt: skip
    for name, bound in bounds.items():
        which = getattr(resource, name, None)
        if which is not None:
            with suppress(ValueError, OSError):
                resource.setrlimit(which, (bound, bound))
                enforced.setdefault(name.removeprefix("RLIMIT_").lower(), f"{bound} for each process")


def close_doors(order: dict[str, Any], enforced: dict[str, str], missing: dict[str, str]) -> bool:
    """Whether it has a process namespace."""
    if sys.platform != "linux":
        missing["network"] = missing["files"] = missing["processes"] = f"{sys.platform} offers nothing that this uses"
        return False
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        return unshare(enforced)
    except OSError as error:
        missing["network"] = missing["processes"] = missing["disk"] = f"the system grants no namespaces ({error.strerror})"
        return False


def inside(order: dict[str, Any], enforced: dict[str, str], missing: dict[str, str], apart: bool, report: int) -> int:
    """The first process of the namespace: makes the folder, starts the command, watches."""
    if sys.platform == "linux":
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if apart:
        try:
            own_root(order, enforced)
        except (OSError, AttributeError) as error:
            missing["network"] = missing["disk"] = str(error)
    for name, text in order["files"].items():
        path = os.path.join(order["work"], name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    for name, target in order["links"].items():
        os.makedirs(os.path.dirname(os.path.join(order["work"], name)), exist_ok=True)
        os.symlink(target, os.path.join(order["work"], name))
    ready, started = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ready)
        command(order, started, report)
    os.close(started)
    told = b""
    while part := os.read(ready, 65536):  # until the command replaces the process
        told += part
    os.close(ready)
    learned = json.loads(told or b'{"failed": "it ended before it began"}')
    enforced.update(learned.get("enforced", {}))
    missing.update(learned.get("missing", {}))
    open_doors = [door for door in order["needed"] if door not in enforced]
    if learned.get("failed") or open_doors:
        with suppress(OSError):
            os.kill(child, signal.SIGKILL)
        return say(report, enforced, missing, refused=learned.get("failed") or f"not enforced here: {', '.join(open_doors)}")
    return watch(order, child, enforced, missing, apart, report)


def command(order: dict[str, Any], started: int, report: int) -> None:
    """Becomes the command, its doors closed before."""
    enforced: dict[str, str] = {}
    missing: dict[str, str] = {}
    try:
        os.close(report)
        os.setsid()
        os.chdir(order["work"])
        limit(order, enforced)
        if sys.platform == "linux":
            try:
                landlock(order, enforced)
            except OSError as error:
                missing["files"] = str(error.strerror or error)
        needed = [door for door in order["needed"] if door in missing]
        os.set_inheritable(started, False)
        os.write(started, json.dumps({"enforced": enforced, "missing": missing}).encode())
        if needed:
            os._exit(REFUSED)
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.execve(order["command"][0], order["command"], order["environment"])
    except BaseException as error:
        os.write(started, json.dumps({"failed": f"{type(error).__name__}: {error}"}).encode())
    os._exit(REFUSED)


def watch(order: dict[str, Any], child: int, enforced: dict[str, str], missing: dict[str, str], apart: bool, report: int) -> int:
    """Until the command ends, takes too much, or its time is over; then nothing of it is left."""
    until = time.monotonic() + order["seconds"]
    seen = apart and "proc" in enforced
    if seen:
        enforced["memory"] = f"{order['total']} bytes for all processes together, looked at every {LOOK:g} s"
        enforced["number"] = f"{order['processes']} processes, looked at every {LOOK:g} s"
    else:
        missing["memory"] = "bounded for each process, not for all together"
    stopped = ""
    status = 0
    while True:
        found, code = wait_any()
        if found == child:
            status = code
            break
        if found:
            continue
        if time.monotonic() > until:
            stopped = f"it ran longer than {order['seconds']:g} s"
        elif seen:
            stopped = too_much(order)
        if stopped:
            break
        time.sleep(LOOK)
    end_all(child, apart)
    return say(report, enforced, missing, stopped=stopped, status=status)


def wait_any() -> tuple[int, int]:
    try:
        return os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return 0, 0


def too_much(order: dict[str, Any]) -> str:
    processes = [name for name in os.listdir("/proc") if name.isdigit() and name != "1"]
    if len(processes) > order["processes"]:
        return f"it started more than {order['processes']} processes"
    held = sum(map(resident, processes)) + sum(dict(shared for name in processes for shared in memfds(name)).values())
    return f"its processes took more than {order['total']} bytes of memory together" if held > order["total"] else ""


def resident(process: str) -> int:
    """Bytes that are its own: what it shares is counted with its files."""
    try:
        with open(f"/proc/{process}/statm", encoding="ascii") as file:
            _, whole, shared, *_ = map(int, file.read().split())
    except (OSError, ValueError):
        return 0
    return (whole - shared) * resource.getpagesize()


def memfds(process: str) -> Iterator[tuple[int, int]]:
    """Memory that it holds as files without a name."""
    with suppress(OSError):
        for name in os.listdir(f"/proc/{process}/fd"):
            path = f"/proc/{process}/fd/{name}"
            with suppress(OSError):
                if os.readlink(path).startswith("/memfd:"):
                    found = os.stat(path)
                    yield found.st_ino, found.st_blocks * 512


def end_all(child: int, apart: bool) -> None:
    with suppress(OSError):
        os.kill(-1, signal.SIGKILL) if apart else os.killpg(child, signal.SIGKILL)
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def say(report: int, enforced: dict[str, str], missing: dict[str, str], *, refused: str = "", stopped: str = "", status: int = 0) -> int:
    found = {"enforced": enforced, "missing": {name: why for name, why in missing.items() if name not in enforced}}
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = {"refused": refused, "stopped": stopped, "status": status, "cpu": used.ru_utime + used.ru_stime}
    os.write(report, json.dumps(found | ended).encode())
    return REFUSED if refused else WATCHED if stopped else 0


def main() -> None:
    report = int(sys.argv[1])
    order = json.loads(sys.stdin.buffer.read())
    enforced: dict[str, str] = {}
    missing: dict[str, str] = {}
    apart = close_doors(order, enforced, missing)
    first = os.fork()  # the first child of a new process namespace is its init: all end with it
    if first == 0:
        code = REFUSED
        try:
            code = inside(order, enforced, missing, apart, report)
        except BaseException as error:
            say(report, enforced, missing, refused=f"{type(error).__name__}: {error}")
        os._exit(code)
    os.waitpid(first, 0)


if __name__ == "__main__":
    main()
