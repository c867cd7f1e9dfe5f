"""`openruntime bench`: what every device reaches through every backend, beside its roofline."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from openruntime.cli.options import Device, Json, ServerOrHere, client, console, duration, show_json, table

if TYPE_CHECKING:
    from openruntime.client.sync import Runtime, TaskFuture

ROUNDS = 3  # of each call after the first; the fastest counts


def register(app: typer.Typer) -> None:
    app.command()(bench)


class Row(NamedTuple):
    """`intensity` is FLOPs a byte; `fraction` is of what the roofline allows there."""

    device: str
    backend: str
    operation: str
    dtype: str
    size: str
    seconds: float
    gflops: float
    gbytes: float
    intensity: float
    fraction: float | None
    bound: str | None
    reason: str | None


def bench(
    device: Device = None,
    picture: Annotated[Path, typer.Option("--picture", "-p", help="Where the roofline is drawn, as SVG.")] = Path("roofline.svg"),
    json: Json = False,
    server: ServerOrHere = None,
) -> None:
    """Measure every device through every backend: rates, and how near they come to what the device can do. Draws the roofline."""
    out = console(stderr=json)
    with client(server, embedded=True) as runtime:
        rows = []
        for place in _places(runtime, device):
            out.print(f"[dim]{place} …[/]")
            rows += _measured(runtime, place)
        seen = {row.device for row in rows}
        ceilings = {device["id"]: device["ceilings"] for device in runtime.devices(detail=True) if device["id"] in seen}
    draw_roofline(picture, ceilings, rows)
    if json:
        show_json({"ceilings": ceilings, "results": [row._asdict() for row in rows], "picture": str(picture)})
        return
    names = ("device", "backend", "operation", "dtype", "size", "time", "GFLOP/s", "GB/s", "of the roofline", "bound by")
    lines = [
        [row.device, row.backend, row.operation, row.dtype, row.size, duration(row.seconds), f"{row.gflops:.2f}", f"{row.gbytes:.2f}",
         "-" if row.fraction is None else f"{row.fraction:.0%}", row.bound or row.reason or ""]
        for row in rows
    ]  # fmt: skip
    out.print(table(names, lines, right=frozenset(names[4:9])))
    for name, found in ceilings.items():
        rates = [f"{rate / 1e9:.0f} GFLOP/s {dtype} ({found['backends'][dtype]})" for dtype, rate in found["dtypes"].items()]
        if found["bandwidth"]:
            rates.append(f"{found['bandwidth'] / 1e9:.1f} GB/s ({found['backends']['bandwidth']})")
        out.print(f"{name}: {', '.join(rates) or found['reason']}", markup=False)
    out.print(f"The roofline: {picture}", markup=False, soft_wrap=True)


def _places(runtime: "Runtime", wish: str | None) -> list[str]:
    found = [f"{device['id']}/{backend}" for device in runtime.devices() for backend in device["backends"]]
    if wish is None:
        return found
    kinds = {device["id"]: device["type"] for device in runtime.devices()}
    chosen = [place for place in found if wish in (place, *place.split("/"), kinds[place.partition("/")[0]])]
    if not chosen:
        from openruntime.contracts.errors import NoSuchDevice

        raise NoSuchDevice(f"there is no device {wish!r} here (there are {', '.join(found)})", field="device")
    return chosen


def _calls() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Operation, size for a person, parameters."""
    import numpy as np

    rng = np.random.default_rng(0)
    for side in (256, 1024):
        a = rng.random((side, side), dtype=np.float32)
        yield "matmul", f"{side}²", {"a": a, "b": a}
    double = rng.random((1024, 1024))
    yield "matmul", "1024²", {"a": double, "b": double}
    for count, name in ((1 << 20, "1M"), (1 << 23, "8M")):
        line = rng.random(count, dtype=np.float32)
        yield "expression", f"{name}, a*2.5 + b", {"formula": "a*2.5 + b", "a": line, "b": line}
    line = rng.random(1 << 20, dtype=np.float32)
    yield "expression", "1M, exp sin", {"formula": "exp(-x*x) * sin(3*x)", "x": line}
    yield "sum", "1M", {"x": line}
    yield "softmax", "1024²", {"x": rng.random((1024, 1024), dtype=np.float32)}
    yield "fft", "256k", {"x": line[: 1 << 18]}
    yield "sort", "256k", {"x": line[: 1 << 18]}
    yield "conv2d", "4×16×64²", {"x": rng.random((4, 16, 64, 64), dtype=np.float32), "weight": rng.random((16, 16, 3, 3), dtype=np.float32)}


def _measured(runtime: "Runtime", place: str) -> list[Row]:
    """Every call there, those apart that it cannot do. How near each came is asked at the end: by then the ceilings are seen."""
    from openruntime.contracts.errors import OpenRuntimeError

    done: list[tuple[str, TaskFuture]] = []
    for operation, size, parameters in _calls():
        try:
            tasks = [_run(runtime, operation, parameters, place) for _ in range(1 + ROUNDS)]
        except OpenRuntimeError:
            continue  # `devices --check` says why
        done.append((size, min(tasks[1:], key=lambda task: task.status().execution_time or 1e9)))
    return [_row(size, task) for size, task in done]


def _run(runtime: "Runtime", operation: str, parameters: Mapping[str, Any], place: str) -> "TaskFuture":
    task = runtime.submit(operation, **parameters, device=place, cache="no-store", timeout=120.0)
    task.result(180.0)
    return task


def _row(size: str, task: "TaskFuture") -> Row:
    found = task.explain()
    achieved = found["achieved"]
    intensity = achieved["flops"] / achieved["bytes"] if achieved["bytes"] else 0.0
    return Row(
        found["device"], found["backend"], found["operation"], found["dtype"], size, found["compute"], achieved["gflops"], achieved["gbytes"],
        intensity, achieved["fraction"], achieved["bound"], achieved["reason"],
    )  # fmt: skip


def draw_roofline(path: Path, ceilings: Mapping[str, Mapping[str, Any]], rows: Sequence[Row]) -> None:
    """FLOPs a byte across, GFLOP/s up: a roof for each device and dtype, a point for each result."""
    from openruntime.cli.curves import Axis, Curve, draw

    inside = [row for row in rows if row.intensity > 0 and row.gflops > 0]
    if not inside:
        return
    low, high = min(row.intensity for row in inside) / 2, max(row.intensity for row in inside) * 2
    roofs = []
    for device, found in ceilings.items():
        if not found["bandwidth"]:
            continue
        for dtype, rate in found["dtypes"].items():
            ridge = rate / found["bandwidth"]
            across = [low, *([ridge] if low < ridge < high else []), high]
            points = [(x, min(x * found["bandwidth"], rate) / 1e9) for x in across]
            roofs.append(Curve(f"{device} {dtype}", points, marks=False))
    places = dict.fromkeys((row.device, row.backend) for row in inside)
    marks = [
        Curve(f"{device}/{backend}", [(row.intensity, row.gflops) for row in inside if (row.device, row.backend) == (device, backend)], line=False)
        for device, backend in places
    ]  # fmt: skip
    draw(path, "Roofline", Axis("FLOPs a byte", log=True), Axis("GFLOP/s", log=True), [*roofs, *marks])
