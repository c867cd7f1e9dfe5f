"""`openruntime kernels verify` and `tune`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from openruntime.cli.options import Device, Json, Priority, Server, client, console, duration, show_json, table

Name = Annotated[str, typer.Argument(help="The kernel's name; `openruntime kernels list` lists them.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Of the random inputs; drawn anew unless given.")]
Limit = Annotated[float | None, typer.Option(min=1, max=600, help="Seconds that all of it may take.")]


def register(app: typer.Typer) -> None:
    app.command()(verify)
    app.command()(tune)


def verify(
    name: Name,
    size: Annotated[list[str] | None, typer.Option("--size", help="Sizes to try besides: 'n=1000' or 'm=100,n=200'; several times.")] = None,
    seed: Seed = None,
    limit: Limit = None,
    device: Device = None,
    priority: Priority = 5,
    json: Json = False,
    server: Server = None,
) -> None:
    """Compare a kernel with its reference on many inputs. Exit code 1 where it is not verified."""
    options = _given(seed=seed, limit=limit, device=device, priority=priority, sizes=[_sizes(text) for text in size or ()] or None)
    with client(server) as runtime, _bar(f"verifying {name}", json) as progress:
        report = runtime.kernels.verify(name, progress=progress, **options)
    if json:
        show_json(report)
    else:
        _show_cases(report)
    if not report["ok"]:
        raise typer.Exit(1)


def tune(
    name: Name,
    size: Annotated[str | None, typer.Option("--size", help="What to tune for: 'n=1000000' or 'm=512,n=512'.")] = None,
    baseline: Annotated[
        str | None, typer.Option(help="A kernel with the same signature that gains are told against; this one's defaults else.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=3, max=200, help="Of the last measurement.")] = 15,
    seed: Seed = None,
    limit: Limit = None,
    device: Device = None,
    priority: Priority = 5,
    json: Json = False,
    server: Server = None,
) -> None:
    """Find the best values of the constants that a kernel's source leaves open (`// tune: TILE = 8, 16, 32`)."""
    sizes = _sizes(size) if size else None
    options = _given(seed=seed, limit=limit, device=device, priority=priority, sizes=sizes, baseline=baseline, rounds=rounds)
    with client(server) as runtime, _bar(f"tuning {name}", json) as progress:
        report = runtime.kernels.tune(name, progress=progress, **options)
    if json:
        show_json(report)
    else:
        _show_candidates(report)


def _show_cases(report: dict[str, Any]) -> None:
    out = console()
    rows = [
        ["ok" if case["ok"] else "WRONG", _told(case["sizes"]), case["data"], f"{case['worst']:.2g}",
         "; ".join(found["message"] for found in case["findings"])]
        for case in report["cases"]
    ]  # fmt: skip
    rows += [["-", _told(case["sizes"]), case["data"], "-", f"refused: {case['reason']}"] for case in report["refused"]]
    out.print(table(("", "sizes", "data", "error / tolerance", "findings"), rows, right=frozenset({"error / tolerance"})))
    for left_out in report["not_tried"]:
        out.print(f"not tried: {left_out}", style="dim", markup=False, soft_wrap=True)
    out.print(report["verdict"], style="bold green" if report["ok"] else "bold red", markup=False, soft_wrap=True)
    out.print(f"seed {report['seed']}, on {report['device']} in {duration(report['seconds'])}", style="dim", markup=False, soft_wrap=True)


def _show_candidates(report: dict[str, Any]) -> None:
    out = console()
    base = report["baseline"]
    rows = [[f"{base['kernel']} (baseline)", duration(base["median"]), _range(base["spread"]), "1.00", ""]]
    for candidate in report["candidates"]:
        measured = candidate.get("measured")
        seconds = measured["median"] if measured else candidate["seconds"]
        told = f"{candidate['gain']:.2f}" if measured else "-" if seconds is None else f"~{base['quick'] / seconds:.2f}"
        spread = _range(measured["spread"]) if measured else ""
        rows.append([_told(candidate["values"]), duration(seconds), spread, told, candidate["reason"] or ""])
    out.print(table(("values", "median", "quartiles", "gain", "rejected because"), rows, right=frozenset({"median", "gain"})))
    where = f"for {_told(report['sizes'])} on {report['device']}" if report["sizes"] else f"on {report['device']}"
    if report["winner"] is None:
        out.print(f"The defaults are as good as anything tried {where}.", markup=False, soft_wrap=True)
        return
    low, high = report["gain_spread"]
    told = f"{_told(report['winner'])}: {report['gain']:.2f} times as fast as {base['kernel']} ({low:.2f} to {high:.2f}) {where}"
    out.print(told, style="bold green", markup=False, soft_wrap=True)


@contextmanager
def _bar(what: str, json: bool) -> Iterator[Callable[[float, str | None], None]]:
    """Shows what is being tried, where somebody watches."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    out = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=out, transient=True, disable=json or not out.is_terminal) as bar:
        line = bar.add_task(what, total=1.0)
        yield lambda fraction, message: bar.update(line, completed=fraction, description=f"{what}: {message}" if message else what)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _sizes(text: str) -> dict[str, int]:
    """`m=100,n=200`."""
    found = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals or not name.strip() or not value.strip().isdigit():
            raise typer.BadParameter(f"{text!r} is not like 'n=1000' or 'm=100,n=200'", param_hint="--size")
        found[name.strip()] = int(value)
    return found


def _told(values: dict[str, int]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in values.items()) or "-"


def _range(spread: list[float]) -> str:
    return f"{duration(spread[0])} to {duration(spread[1])}"
