"""`openruntime doctor`: what was found on this machine, what is missing, and how to get it."""

import asyncio
import os
import platform
import shutil
import socket
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any, NamedTuple

import typer

from openruntime.cli.options import Json, Server, console, show_json, size


class Finding(NamedTuple):
    """`status` is ok, absent (something optional) or fail (something that must be put right)."""

    topic: str
    status: str
    found: str
    remedy: str | None = None


# driver, the commands and paths by which it is seen, and what brings it
DRIVERS = (
    ("NVIDIA driver", ("nvidia-smi",), ("/proc/driver/nvidia/version", "/dev/nvidia0"), "for an NVIDIA card, NVIDIA's driver"),
    ("AMD ROCm", ("rocminfo",), ("/dev/kfd",), "for an AMD card, the amdgpu driver and ROCm"),
    ("OpenCL", (), ("/etc/OpenCL/vendors",), "a card's driver, or pocl-opencl-icd for the processor"),
    ("Vulkan", (), ("/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d"), "a card's driver, or mesa-vulkan-drivers"),
)


def register(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(json: Json = False, server: Server = None) -> None:
    """Say what was found, what is missing and how to get it. Exit code 1 when something must be put right."""
    found = [finding for look in (_python, _machine, _blas, _drivers, _extras, _backends, _plugins) for finding in look()]
    found += [*_data_dir(), *_server(server)]
    if json:
        show_json([finding._asdict() for finding in found])
    else:
        _print(found)
    if any(finding.status == "fail" for finding in found):
        raise typer.Exit(1)


def _print(found: list[Finding]) -> None:
    """Lines that a terminal may break where it likes: a path copied from them stays whole."""
    styles = {"ok": "green", "absent": "yellow", "fail": "bold red"}
    from rich.markup import escape

    out, width = console(), max(len(finding.topic) for finding in found)
    for finding in found:
        out.print(f"[{styles[finding.status]}]{finding.status:<6}[/]  {finding.topic:<{width}}  {escape(finding.found)}", soft_wrap=True)
        if finding.remedy:
            out.print(f"[dim]{'':<{width + 8}}  → {escape(finding.remedy)}[/]", soft_wrap=True)


def _python() -> Iterator[Finding]:
    yield Finding("OpenRuntime", "ok", version("openruntime"))
    yield Finding("Python", "ok", f"{platform.python_version()} at {sys.executable}")


def _machine() -> Iterator[Finding]:
    from openruntime.devices.host import Host, cpu_name

    memory = Host().usage()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("CPU", "ok", f"{cpu_name()}, {usable} of {os.cpu_count()} processors usable")
    yield Finding("memory", "ok", f"{size(memory.memory_available)} of {size(memory.memory_total)} free")


def _blas() -> Iterator[Finding]:
    import numpy as np

    build: Any = np.show_config(mode="dicts")
    blas = build["Build Dependencies"]["blas"]
    yield Finding("NumPy", "ok", f"{np.__version__} with {blas['name']} {blas.get('version', '')}")


def _drivers() -> Iterator[Finding]:
    """What a backend needs beside its library."""
    for topic, commands, paths, remedy in DRIVERS if sys.platform == "linux" else ():
        seen = [place for place in (*map(shutil.which, commands), *filter(_filled, paths)) if place]
        yield Finding(topic, "ok", ", ".join(seen)) if seen else Finding(topic, "absent", "not found", remedy)


def _backends() -> Iterator[Finding]:
    """Each library that drives devices: which, or why none; one that is installed and does not work must be put right."""
    from openruntime.contracts.registry import BACKENDS
    from openruntime.core.config import Settings
    from openruntime.runtimes.remembered import RememberedReports

    remembered, names = RememberedReports(Settings.load({}).cache_dir), BACKENDS.names()
    reports = remembered.known(names)
    reports += asyncio.run(remembered.learn([name for name in names if name not in {report.backend for report in reports}]))
    for report in sorted(reports, key=lambda report: names.index(report.backend)):
        topic = f"backend {report.backend}"
        if report.extra is not None:
            yield Finding(topic, "absent", report.failure or "", f"pip install 'openruntime[{report.extra}]'")
        elif report.failure is not None:
            yield Finding(topic, "fail", report.failure, "mend what it names, or uninstall the package that brings it")
        if report.probes:
            yield Finding(topic, "ok", ", ".join(f"{probe.platform}:{probe.index} {probe.name}".strip() for probe in report.probes))
        elif report.failure is None:
            yield Finding(topic, "absent", report.nothing or "no device that it can drive was found", "a device that it drives, and its driver")


def _filled(path: str) -> bool:
    place = Path(path)
    return any(place.iterdir()) if place.is_dir() else place.exists()


def _extras() -> Iterator[Finding]:
    """Every extra that the package declares, but for those that only its own developers want."""
    wanted: dict[str, list[str]] = {extra: [] for extra in metadata("openruntime").get_all("Provides-Extra") or [] if extra != "test"}
    for requirement in requires("openruntime") or []:
        name, _, condition = requirement.partition(";")
        for extra, names in wanted.items():
            if f"extra == '{extra}'" in condition.replace('"', "'"):
                names.append(_bare(name))
    for extra, names in wanted.items():
        missing = [name for name in names if not _installed(name)]
        if missing:
            yield Finding(f"extra {extra}", "absent", f"lacks {', '.join(missing)}", f"pip install 'openruntime[{extra}]'")
        else:
            yield Finding(f"extra {extra}", "ok", ", ".join(f"{name} {version(name)}" for name in names))


def _plugins() -> Iterator[Finding]:
    """Operations of other packages; those that cannot be used must be put right."""
    from openruntime.operations.catalogue import BUILTIN, OperationCatalogue

    told: list[str] = []
    sound = [name for name in OperationCatalogue(tell=told.append).names() if name not in BUILTIN]
    if sound:
        yield Finding("plugins", "ok", f"operations {', '.join(sound)}")
    for line in told:
        yield Finding("plugins", "fail", line, "mend or uninstall the package")


def _bare(requirement: str) -> str:
    name = requirement.strip()
    for mark in "[ <>=!~(":
        name = name.partition(mark)[0]
    return name


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _data_dir() -> Iterator[Finding]:
    from openruntime.core.config import Settings

    settings = Settings.load({})
    place = Path(settings.data_dir)
    existing = next(parent for parent in (place, *place.parents) if parent.exists())
    if os.access(existing, os.W_OK):
        yield Finding("data directory", "ok", f"{place} ({size(shutil.disk_usage(existing).free)} free)")
    else:
        yield Finding("data directory", "fail", f"{place} cannot be written", "openruntime serve --data-dir DIR, or OPENRUNTIME_DATA_DIR")


def _port(host: str, port: int) -> Finding:
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return Finding(f"port {port}", "absent", f"in use on {host}: {error.strerror}", "openruntime serve --port PORT")
    return Finding(f"port {port}", "ok", f"free on {host}")


def _server(address: str | None) -> Iterator[Finding]:
    """The port that `serve` would take, and the server at `address`, or at that port."""
    from openruntime.core.config import Settings

    settings = Settings.load({})
    own = f"http://{f'[{settings.host}]' if ':' in settings.host else settings.host}:{settings.port}"
    port = _port(settings.host, settings.port)
    if port.status != "ok" and not isinstance(_asked(own), str):
        port = Finding(port.topic, "ok", f"in use on {settings.host} by OpenRuntime")
    yield port
    found = _asked(address or own)
    if isinstance(found, str):
        yield Finding("server", "fail", found, "openruntime serve") if address else Finding("server", "absent", f"none at {own}", "openruntime serve")
    else:
        yield Finding("server", "ok", f"{address or own} with {', '.join(found)}")


def _asked(address: str) -> list[str] | str:
    """Its devices, or why it does not answer."""
    from openruntime.contracts.errors import OpenRuntimeError
    from openruntime.core.connect import connect

    try:
        with connect(address, patience=0) as runtime:
            return [device["id"] for device in runtime.devices()]
    except OpenRuntimeError as error:
        return error.message
