"""The backend × operation table: `python -m tools.backends [NAME ...]` runs the conformance suite of each backend and keeps what came of it.

It writes `docs/reference/backends.json`; `make docs` makes the page of it, so that the page can be made without running anything. What did not
run on this machine keeps the result of the machine it last ran on.
"""

import json
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from openruntime.contracts.registry import BACKENDS
from openruntime.operations.catalogue import FAMILIES

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs/reference/backends.json"
SUITE = "test_answers_like_numpy"
_LIBRARIES = {"cuda": "cupy-cuda13x", "opencl": "pyopencl", "metal": "wgpu", "webgpu": "wgpu"}  # packages that are called otherwise

Outcome = dict[str, Any]


# -- the pytest plugin: `-p tools.backends --backends FILE` ------------------------------------------------------------------


def pytest_addoption(parser: Any) -> None:
    parser.addoption("--backends", help="write what each backend did with each operation into this file")


def pytest_configure(config: Any) -> None:
    if config.getoption("--backends"):
        config.pluginmanager.register(_Collector(Path(config.getoption("--backends"))), "backends")


class _Collector:
    """Counts what each case came to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, dict[str, Outcome]] = {}
        self._items: dict[str, tuple[str, str]] = {}
        self._classes: dict[str, Any] = {}

    def pytest_collection_modifyitems(self, items: Iterable[Any]) -> None:
        for item in items:
            backend = getattr(getattr(item, "cls", None), "backend_class", None)
            if backend is not None and getattr(item, "originalname", "") == SUITE:
                self._items[item.nodeid] = backend.name, item.callspec.params["case"].operation
                self._classes[backend.name] = backend

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.nodeid not in self._items or (report.when != "call" and not (report.when == "setup" and report.outcome != "passed")):
            return
        backend, operation = self._items[report.nodeid]
        found = self._found.setdefault(backend, {}).setdefault(operation, {"passed": 0, "failed": 0, "unsupported": Counter()})
        if report.outcome == "skipped":
            reason = str(report.longrepr[2]).removeprefix("Skipped: ").removeprefix("unsupported: ")
            found["unsupported"][reason] += 1
        else:
            found[report.outcome] += 1

    def pytest_sessionfinish(self) -> None:
        about = {}
        for name, operations in self._found.items():
            backend = self._classes[name]
            devices = sorted({f"{probe.platform} ({probe.name or platform.machine()})" for probe in backend.probe()})
            about[name] = {
                "version": _version(name), "python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}",
                "devices": devices, "lacks": dict(sorted(backend.lacks.items())), "operations": operations,
            }  # fmt: skip
        self._path.write_text(json.dumps(about))


def _version(backend: str) -> str:
    library = _LIBRARIES.get(backend, backend)
    try:
        return f"{library} {version(library)}"
    except PackageNotFoundError:  # cupy-cuda12x, for one
        return library


# -- running -----------------------------------------------------------------------------------------------------------------


def run(names: Iterable[str]) -> dict[str, Any]:
    """Run the suites of these backends, each in a process of its own, and return what is new."""
    found: dict[str, Any] = {}
    for name in names:
        suite = ROOT / f"tests/conformance/test_{name}.py"
        if not suite.is_file():
            print(f"{name}: no suite at {suite.relative_to(ROOT)}")
            continue
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "found.json"
            command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "tools.backends", "--backends", str(out), str(suite)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            print(f"{name}: {done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-500:]}")
            if out.is_file():
                found |= {key: value for key, value in json.loads(out.read_text()).items() if key == name}
    return found


# -- the page ----------------------------------------------------------------------------------------------------------------


def page() -> str:
    """The table as Markdown, from what is kept."""
    kept: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    names = [name for name in BACKENDS.names() if BACKENDS.builtin(name)]
    head = (
        "# Backends\n\nWhat each library does with each operation, from the run of the conformance suite (`python -m tools.backends`): the number of"
        " cases that passed against NumPy, or **–** and a number where the library does not run it; the reason stands below. An operation that a"
        " backend does not run goes to one that does, by itself."
    )
    marks: dict[str, int] = {}
    rows = []
    for names_of_family in FAMILIES.values():
        for operation in names_of_family:
            cells = " | ".join(_cell(kept.get(name), operation, marks) for name in names)
            rows.append(f"| `{operation}` | {cells} |")
    table = "\n".join([f"| operation | {' | '.join(f'`{name}`' for name in names)} |", "| --- " * (len(names) + 1) + "|", *rows])
    reasons = "\n".join(f"{number}. {reason}" for reason, number in marks.items())
    ran = "\n".join(
        f"| `{name}` | {_ran(kept.get(name))} | {', '.join(f'`{dtype}`' for dtype in kept.get(name, {}).get('lacks', {})) or '–'} |" for name in names
    )
    return (
        f"{head}\n\n{table}\n\n## Why not\n\n{reasons}\n\n## Where it ran, and dtypes a library lacks\n\n"
        f"| backend | ran with | lacks |\n| --- | --- | --- |\n{ran}\n\n{_dtypes(kept, names)}"
    )


def _cell(about: Mapping[str, Any] | None, operation: str, marks: dict[str, int]) -> str:
    if about is None or operation not in about["operations"]:
        return "not run here"
    found = about["operations"][operation]
    if found["failed"]:
        return f"**{found['failed']} failed**"
    if found["passed"]:
        return str(found["passed"])
    reason = next(iter(found["unsupported"]), "no case ran")
    return f"– [{marks.setdefault(reason, len(marks) + 1)}]"


def _ran(about: Mapping[str, Any] | None) -> str:
    if about is None:
        return "not run here"
    return f"{about['version']}, Python {about['python']}, {about['system']}: {', '.join(about['devices'])}"


def _dtypes(kept: Mapping[str, Any], names: Iterable[str]) -> str:
    told: dict[str, list[str]] = {}
    for name in names:
        for dtype, reason in kept.get(name, {}).get("lacks", {}).items():
            told.setdefault(reason, []).append(f"`{name}` {dtype}")
    return "\n".join(f"- {', '.join(who)}: {reason}." for reason, who in told.items())


def main() -> None:
    kept = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    kept |= run(sys.argv[1:] or [name for name in BACKENDS.names() if BACKENDS.builtin(name)])
    RESULTS.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    failed = [f"{name} {operation}" for name, about in kept.items() for operation, found in about["operations"].items() if found["failed"]]
    print("\n".join(["failed: " + one for one in failed] or [f"{RESULTS.relative_to(ROOT)}; now `make docs`"]))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
