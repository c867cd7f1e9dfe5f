"""What a graphics card does under OpenRuntime, beside the same library bare, in one run.

    python -m benchmarks.gpu [--rounds 15] [--seconds 560] [--only PART] [--out FILE]

Parts: `matmul` (on arrays that lie there already, beside CuPy and PyTorch alone), `copies` (host to device, against a bare pinned copy), `tasks`
(1,000 small ones through a server, batched and not), `kernel` (a CUDA kernel of a user's, verified and tuned), `placement` (how near `auto` comes to
the best with processor and card together), `conformance` (the suites of CUDA, PyTorch and JAX on the card; what time does not allow is counted as
not run, and `table` is what `docs/reference/backends.json` has of a backend). Each part is a process of its own with a bound on its time; the
file is written after each. Without a CUDA device it says so, and measures nothing.

On a fresh machine that has CuPy, PyTorch, JAX and pytest, and no network: on one that has a network, once, at the root of the checkout,

    python -m benchmarks.gpu --wheels .whl

gathers what else is needed (Python 3.12 on x86-64 Linux; OpenRuntime itself among it, so commit first what is to be measured); `.whl` goes there with
the checkout (the tool `run` takes it as `carry=[".whl"]`), and this is the command, of just under ten minutes:

    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site .whl/*.whl && \\
    export PYTHONPATH=/tmp/site PYTHONUNBUFFERED=1 && python3 -m benchmarks.gpu --out $OUT/gpu.json
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.gpu_parts import conformance, copies, kernel, matmul, placement, tasks
from benchmarks.report import machine, versions
from openruntime.contracts.errors import OpenRuntimeError
from openruntime.contracts.registry import BACKENDS

ROOT = Path(__file__).parents[1]
LIBRARIES = ("cupy-cuda13x", "cupy-cuda12x", "torch", "jax", "jaxlib", "nvidia-ml-py")
WHEELS = (  # what OpenRuntime, its server and its suites need beyond what such a machine has
    "annotated-types", "array-api-compat", "array-api-extra", "fastapi", "fastapi-offline", "httptools", "msgspec", "opentelemetry-api",
    "platformdirs", "pydantic", "pydantic-core", "pytest-asyncio", "starlette", "typing-inspection", "uuid-utils", "uvicorn", "websockets",
)  # fmt: skip
GLIBC = (34, 31, 28, 27, 24, 17)  # of the wheels: pip takes those that are named only


def missing() -> str | None:
    """Why nothing can be measured here; None with a CUDA device."""
    try:
        BACKENDS.load("cuda").probe()
    except OpenRuntimeError as error:
        return f"no CUDA device: {error.message}"
    return None


# seconds that each may take, in the order in which they run; what is left goes to the last
PARTS: dict[str, tuple[Callable[[int, float], Any], float]] = {
    "matmul": (matmul, 75), "copies": (copies, 45), "tasks": (tasks, 90), "kernel": (kernel, 90), "placement": (placement, 280),
    "conformance": (conformance, 1e9),
}  # fmt: skip


def _apart(name: str, rounds: int, limit: float) -> Any:
    """A part in a process of its own, which ends with all that it started: a broken context costs no other part."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--part", name, "--rounds", str(rounds), "--seconds", str(limit)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, process_group=0)
    try:
        told, _ = process.communicate(timeout=limit)
        return json.loads(told.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"failed": f"not done within {limit:.0f} s"}
    except (IndexError, json.JSONDecodeError):
        return {"failed": f"its process ended with status {process.returncode}"}
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _part(name: str, rounds: int, limit: float) -> Any:
    try:
        return PARTS[name][0](rounds, limit)
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"[:2000]}


def _card() -> dict[str, Any]:
    from cupy.cuda import runtime

    probe = BACKENDS.load("cuda").probe()[0]
    return {"name": probe.name, "memory_gib": round(probe.memory_total / 2**30, 1), "driver": runtime.driverGetVersion()}


def measure(names: list[str], rounds: int, seconds: float, out: Path) -> dict[str, Any]:
    """Each part's figures; one that fails says why, and the others go on: the card is lent by the minute."""
    why, end = missing(), time.monotonic() + seconds
    found: dict[str, Any] = {"date": datetime.now(UTC).date().isoformat(), "machine": machine(), "versions": versions(LIBRARIES)}
    if why is None:
        found["card"] = _card()
    out.parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        began = time.monotonic()
        if why is not None:
            found[name] = f"not run here: {why}"
        elif end - began < 20:
            found[name] = "not run: no time was left"
        else:
            found[name] = _apart(name, rounds, min(PARTS[name][1], end - began))
            print(f"{name} ({time.monotonic() - began:.0f} s): {json.dumps(found[name])[:1500]}", flush=True)
        found["machine"]["load_after"] = [round(value, 2) for value in os.getloadavg()]
        out.write_text(json.dumps(found, indent=1) + "\n")
    return found


def gather(folder: Path) -> None:
    """The wheels that a machine without a network needs, of the versions that are installed here."""
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT)], check=True)
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in GLIBC] + ["--platform=manylinux2014_x86_64"]
    wanted = [f"{name}=={version(name)}" for name in WHEELS]
    options = ["--no-deps", "--only-binary=:all:", "--python-version=3.12", "--implementation=cp", *platforms, "-d", str(folder)]
    subprocess.run([*pip, "download", "-q", *options, *wanted], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=560.0, help="of everything")
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/gpu.json")
    parser.add_argument("--wheels", type=Path, help="gather the wheels that a machine without a network needs, and measure nothing")
    parser.add_argument("--part", choices=PARTS, help="measure it in this process and print JSON: what is started for each")
    options = parser.parse_args()
    if options.wheels:
        gather(options.wheels)
    elif options.part:
        answer = os.dup(1)
        os.dup2(2, 1)  # what a library prints must not look like the answer
        found = _part(options.part, options.rounds, options.seconds)
        os.write(answer, json.dumps(found).encode() + b"\n")
    else:
        measure(options.only or list(PARTS), options.rounds, options.seconds, options.out)
        if (why := missing()) is not None:
            print(f"not run here: {why}")


if __name__ == "__main__":
    main()
