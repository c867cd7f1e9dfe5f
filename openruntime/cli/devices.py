"""`openruntime devices`: what there is, and whether it works."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openruntime.cli.options import Json, ServerOrHere, client, console, show_json, size, styled, table

if TYPE_CHECKING:
    from openruntime.client.sync import Runtime


def register(app: typer.Typer) -> None:
    app.command()(devices)


def devices(
    check: Annotated[bool, typer.Option("--check", help="Run a verified job on every device and backend.")] = False,
    json: Json = False,
    server: ServerOrHere = None,
) -> None:
    """List the devices; with --check, try each with each of its libraries. Exit code 1 when one fails."""
    with client(server, embedded=True) as runtime:
        if not check:
            _list(runtime.devices(), json)
            return
        found = list(checks(runtime))
    if json:
        show_json(found)
    else:
        styles = {"pass": "green", "fail": "bold red", "absent": "dim"}
        rows = [[styled(row["status"], styles), row["device"] or "-", row["backend"], row["reason"] or "", row["remedy"] or ""] for row in found]
        console().print(table(("", "device", "backend", "reason", "remedy"), rows))
    if any(row["status"] == "fail" for row in found):
        raise typer.Exit(1)


def _list(found: list[dict[str, Any]], json: bool) -> None:
    if json:
        show_json(found)
        return
    columns = ("id", "name", "backends", "status", "memory free", "memory", "slots", "load")
    rows = [
        [d["id"], d["name"], ", ".join(d["backends"]), d["status"], size(d["memory_available"]), size(d["memory_total"]),
         f"{d['busy']}/{d['slots']}", "-" if d.get("utilization") is None else f"{d['utilization']:.0%}"]
        for d in found
    ]  # fmt: skip
    console().print(table(columns, rows, right=frozenset({"memory free", "memory", "slots", "load"})))


def checks(runtime: "Runtime") -> Iterator[dict[str, Any]]:
    """`{"device", "backend", "status", "reason", "remedy"}` for every device and backend there is, and every backend that is not."""
    failed: set[str] = set()
    for device in runtime.devices():
        for backend in device["backends"]:
            reason = _verify(runtime, device["id"], backend)
            if reason is not None:
                failed.add(backend)
            remedy = None if reason is None else "see the server's log; `openruntime doctor` shows what is installed"
            yield {"device": device["id"], "backend": backend, "status": "fail" if reason else "pass", "reason": reason, "remedy": remedy}
    for row in runtime.devices(backends=True):
        if not row["devices"] or (row["status"] == "failed" and row["name"] not in failed):  # it works on some devices, and fails to on another
            status = "absent" if row["status"] == "absent" else "fail"
            yield {"device": None, "backend": row["name"], "status": status, "reason": row["reason"], "remedy": row["remedy"]}


def _verify(runtime: "Runtime", device: str, backend: str) -> str | None:
    """Why a product computed there is wrong; None when it is right."""
    import numpy as np

    from openruntime.contracts.errors import OpenRuntimeError

    a = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    try:
        task = runtime.submit("matmul", a, a.T, device=f"{device}/{backend}", cache="no-store", timeout=60.0)
        while True:
            try:
                apart = float(np.abs(task.result(2.0) - a @ a.T).max())
            except TimeoutError:  # perhaps its worker does not start
                found = next(row for row in runtime.devices(backends=True) if row["name"] == backend)
                if found["status"] == "failed":
                    task.cancel()
                    return str(found["reason"])
            else:
                return None if apart < 1e-3 else f"matmul is off by {apart:.2g}"
    except OpenRuntimeError as error:
        return error.message
