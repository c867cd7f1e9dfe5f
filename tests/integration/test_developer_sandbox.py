"""What the Developer's sandbox keeps in: code that tries to get out, or to take everything. Each attack first works outside, or is known to."""

import os
import sys
import time
from pathlib import Path

import pytest

from openruntime.ai.agents.developer.sandbox import OUTPUT, Limits, Outcome, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="namespaces and Landlock are Linux's; elsewhere the sandbox refuses to run code")

SMALL = Limits(seconds=8, cpu=5, memory=1 << 30, total=300 << 20, file=8 << 20, disk=16 << 20, processes=24)


async def attack(code: str, limits: Limits = SMALL) -> Outcome:
    outcome = await run({"attack.py": code}, ["attack.py"], limits=limits)
    if outcome.refused:
        pytest.skip(outcome.refused)
    return outcome


async def test_it_runs_what_is_harmless() -> None:
    outcome = await attack("import numpy\nprint(numpy.arange(3).sum())\nopen('own.txt', 'w').write('x')\nprint(open('own.txt').read())")
    assert outcome.ok, outcome
    assert outcome.output == "3\nx\n"
    assert {"network", "files", "processes", "disk", "memory"} <= outcome.enforced.keys()
    assert outcome.missing == {}


@pytest.mark.parametrize(
    "how",
    [
        "s = socket.create_connection(('127.0.0.1', PORT), timeout=2)",
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.sendto(b'x', ('127.0.0.1', PORT))",
        "s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.sendto(b'x', ('2001:db8::1', 53))",
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('192.0.2.1', 53))",
        "s = socket.socket(socket.AF_UNIX); s.connect('\\0abstract-PORT')",
        "s = socket.socket(socket.AF_UNIX); s.connect('UNIX')",
        "s = socket.socket(); s.bind(('0.0.0.0', 0))",
        "s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
        "s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3)",
    ],
)
async def test_no_socket_reaches_anybody(how: str, tmp_path: Path) -> None:
    import socket

    with socket.socket() as server, socket.socket(socket.AF_UNIX) as named, socket.socket(socket.AF_UNIX) as abstract:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        named.bind(str(tmp_path / "s"))
        abstract.bind(f"\0abstract-{port}")
        for one in (server, named, abstract):
            one.listen()
        outcome = await attack(f"import socket\n{how}\nprint('OUT')".replace("PORT", str(port)).replace("UNIX'", f"{tmp_path}/s'"))
        assert "OUT" not in outcome.output
        assert outcome.status == 1
        assert "Error" in outcome.errors


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "/etc/shadow", str(Path.home()), "/home", "/tmp", "/var", "SECRET", "LINK", "/dev/mem", "/dev/sda", "/dev/shm", "/run", "/"],
)
async def test_it_reads_nothing_but_python_and_its_own(path: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("SECRET-WORD")
    target = str(tmp_path / "secret") if path in ("SECRET", "LINK") else path
    outcome = await attack(
        f"import os\nif {path == 'LINK'}:\n    os.symlink({target!r}, 'link')\nat = 'link' if {path == 'LINK'} else {target!r}\n"
        "print('READ', open(at).read() if not os.path.isdir(at) else os.listdir(at))"
    )
    assert "READ" not in outcome.output
    assert "SECRET-WORD" not in outcome.output


@pytest.mark.parametrize(
    "how", ["open(P, 'w')", "os.mkdir(P)", "os.symlink('x', P)", "os.unlink(Q)", "os.rename('own', P)", "os.link('own', P)", "os.truncate(Q, 0)"]
)
async def test_it_writes_nowhere_else(how: str, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("kept")
    outcome = await attack(f"import os\nP, Q = {str(tmp_path / 'made')!r}, {str(kept)!r}\nopen('own', 'w').close()\n{how}\nprint('WROTE')")
    assert "WROTE" not in outcome.output
    assert not (tmp_path / "made").exists()
    assert kept.read_text() == "kept"


async def test_it_cannot_write_into_the_code_it_runs_from() -> None:
    outcome = await attack("import openruntime, os\nopen(os.path.join(os.path.dirname(openruntime.__file__), 'planted.py'), 'w')\nprint('WROTE')")
    assert "WROTE" not in outcome.output


async def test_no_secret_of_the_environment_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "SECRET-WORD")
    outcome = await attack(
        "import os, glob\nprint(dict(os.environ))\n"
        "for name in glob.glob('/proc/*/environ'):\n"
        "    try:\n        print(name, open(name, 'rb').read())\n    except OSError as error:\n        print(name, error)\n"
    )
    assert "SECRET-WORD" not in outcome.output
    assert outcome.ok


@pytest.mark.parametrize(
    "how",
    [
        "os.kill(os.getppid(), signal.SIGKILL)",
        "[os.kill(i, signal.SIGKILL) for i in (1, PARENT)]",
        "os.killpg(PARENT, signal.SIGKILL)",
        "os.kill(-1, signal.SIGKILL)",
        "ctypes.CDLL(None).ptrace(16, PARENT, 0, 0) == 0 or sys.exit(1)",
        "ctypes.CDLL(None).ptrace(16, 1, 0, 0) == 0 or sys.exit(1)",
        "open(f'/proc/1/mem', 'r+b')",
        "os.setpriority(os.PRIO_PROCESS, PARENT, 19)",
    ],
)
async def test_it_cannot_touch_other_processes(how: str) -> None:
    outcome = await attack(f"import os, signal, ctypes, sys\n{how}\nprint('DONE')".replace("PARENT", str(os.getpid())))
    assert "DONE" not in outcome.output or "os.kill(os.getppid()" in how or "os.kill(i" in how, outcome  # the first process of a namespace ignores it
    assert outcome.refused == ""


async def test_a_fork_bomb_is_ended() -> None:
    began = time.monotonic()
    outcome = await attack("import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass\n")
    assert "processes" in outcome.stopped
    assert time.monotonic() - began < 6


@pytest.mark.parametrize(
    "how",
    [
        "x = bytearray(2 << 30)",
        "import os\nfor _ in range(8):\n    if os.fork() == 0:\n        break\nx = bytearray(100 << 20)\nwhile True: pass",
        "import os\nkept = []\nfor _ in range(100):\n    kept.append(os.memfd_create('x'))\n    os.ftruncate(kept[-1], 7 << 20)\n"
        "    os.pwrite(kept[-1], bytes(7 << 20), 0)\n"
        "import time\ntime.sleep(5)",
        "x = []\nwhile True:\n    x.append(bytearray(1 << 20))",
    ],
)
async def test_memory_is_bounded(how: str) -> None:
    outcome = await attack(how)
    assert not outcome.ok
    assert "memory" in outcome.stopped or "MemoryError" in outcome.errors, outcome


@pytest.mark.parametrize(
    "how",
    [
        "f = open('x', 'wb')\nwhile True: f.write(bytes(1 << 20))",
        "for i in range(100):\n    with open(f'x{i}', 'wb') as f: f.write(bytes(4 << 20))",
        "for i in range(100_000): open(f'x{i}', 'w').close()",
    ],
)
async def test_the_disk_is_bounded(how: str) -> None:
    outcome = await attack(how)
    assert not outcome.ok
    assert "No space" in outcome.errors or "too large" in outcome.errors or outcome.status == -25  # SIGXFSZ


@pytest.mark.parametrize(
    "how",
    [
        "while True: pass",
        "import time\ntime.sleep(1000)",
        "import signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))\ntime.sleep(99)",
    ],
)
async def test_its_time_is_bounded(how: str) -> None:
    began = time.monotonic()
    outcome = await attack(how, Limits(seconds=1, cpu=5))
    assert "longer than 1 s" in outcome.stopped
    assert time.monotonic() - began < 4


async def test_what_it_starts_ends_with_it() -> None:
    name = f"left-behind-{os.getpid()}"
    code = (
        "import os, sys, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        f"        os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(60)', '{name}'])\n    os._exit(0)\n"
        "time.sleep(0.3)\nprint('gone')"
    )
    outcome = await attack(code)
    assert outcome.output == "gone\n"
    assert not any(name.encode() in _command(process) for process in Path("/proc").glob("[0-9]*"))


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


async def test_what_it_says_is_bounded() -> None:
    outcome = await attack("import sys\nfor _ in range(200): sys.stdout.write('x' * 65536)")
    assert len(outcome.output) == OUTPUT


async def test_more_rights_cannot_be_had_by_asking() -> None:
    outcome = await attack(
        "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\nprint('user', libc.unshare(0x10000000))\n"
        "print('mounts', libc.unshare(0x20000))\n"
        "print('mount', libc.mount(b'none', b'/tmp', b'tmpfs', 0, None))\n"
        "import resource\ntry:\n    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))\n    print('MORE')\nexcept ValueError:\n    pass\n"
        "try:\n    os.setuid(0)\n    print('ROOT')\nexcept OSError:\n    pass\nopen('/etc/passwd')\nprint('READ')"
    )
    assert "mount -1" in outcome.output
    assert "MORE" not in outcome.output
    assert "ROOT" not in outcome.output
    assert "READ" not in outcome.output


async def test_the_report_cannot_be_forged() -> None:
    outcome = await attack(
        "import os\nfor i in range(3, 256):\n    try:\n        os.write(i, b'{}')\n        print('WROTE', i)\n"
        "    except OSError:\n        pass\nos._exit(3)"
    )
    assert outcome.status == 3
    assert "WROTE" not in outcome.output


async def test_nothing_is_left_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    await attack("open('x', 'w').write('y')")
    assert list(tmp_path.iterdir()) == []


async def test_a_name_that_leads_out_is_refused() -> None:
    for name in ("../x.py", "/tmp/x.py"):
        with pytest.raises(ValueError, match="no name inside"):
            await run({name: ""}, ["x.py"])


async def test_a_door_that_cannot_be_closed_keeps_it_from_running() -> None:
    outcome = await run({"a.py": "print('RAN')"}, ["a.py"], needed=("network", "moon"))
    assert "moon" in outcome.refused
    assert outcome.output == ""
    assert not outcome.ok
