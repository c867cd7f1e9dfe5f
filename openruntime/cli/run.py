"""`openruntime run` and `openruntime submit`: an operation from the command line."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from openruntime.cli.operations import known_entry, show
from openruntime.cli.options import Device, Json, Priority, Server, ServerOrHere, client, console, duration, show_json

if TYPE_CHECKING:
    from openruntime.client.sync import Runtime, TaskFuture

_BAR_AFTER = 0.5  # seconds: what is quicker shows no bar
_SHOWN = 20  # elements: larger outputs are summed up
_OPTIONS = ("device", "priority", "timeout", "no-cache", "json", "server")
_LITERALS = ("true", "false")  # as Python or JSON writes them
TAKES_MORE = {"ignore_unknown_options": True, "allow_interspersed_args": True}

Operation = Annotated[str, typer.Argument(help="Its name; `openruntime operations` lists them.")]
Inputs = Annotated[
    list[str] | None,
    typer.Argument(help="Files (.npy .npz .csv, images) and values in the order of the parameters; --PARAMETER VALUE for more.", show_default=False),
]
Timeout = Annotated[float | None, typer.Option(help="Seconds until the task is given up.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Compute it even if the answer is known.")]


class _Command(TyperCommand):
    """`run OPERATION --help` is about the operation."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        asked = {"--help", "-h"} & set(args)
        if not asked or not args or args[0].startswith("-"):
            return super().parse_args(ctx, args)
        left = super().parse_args(ctx, [word for word in args if word not in asked])
        ctx.params["inputs"] = [_HELP]
        return left


_HELP = "--help"


def register(app: typer.Typer) -> None:
    app.command(cls=_Command, context_settings=TAKES_MORE)(run)
    app.command(cls=_Command, context_settings=TAKES_MORE)(submit)


def run(
    operation: Operation,
    inputs: Inputs = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write: .npy .npz .csv or an image.")] = None,
    device: Device = None,
    priority: Priority = 5,
    timeout: Timeout = None,
    no_cache: NoCache = False,
    json: Json = False,
    server: ServerOrHere = None,
) -> None:
    """Run an operation and wait: `openruntime run matmul a.npy b.npy -o c.npy`.

    Parameters follow the operation's own names: `openruntime run sharpen photo.png --amount 1.5 -o out.png`; `openruntime run sharpen
    --help` lists them. Without --server it runs in this process; without -o a small result is printed, and a large one summed up.
    """
    from openruntime.cli import files
    from openruntime.contracts.errors import InvalidParameter

    with client(server, embedded=True) as runtime:
        if inputs == [_HELP]:
            show(known_entry(runtime, operation))
            return
        if output is not None:
            entry = known_entry(runtime, operation)
            if entry["family"] == "models":
                raise InvalidParameter(f"`--output`: {operation} is a model, and answers text; print it, or take --json", field="output")
            files.check_target(output, entry["outputs"])
        parameters = read_parameters(runtime, operation, inputs or [])
        future = _start(runtime, operation, parameters, device=device, priority=priority, timeout=timeout, cache="no-store" if no_cache else None)
        found = follow(future)
        status = future.status()
        if output is not None:
            _write(output, found, future.task_id, server)
    answer = status.model_dump(exclude={"result"}, mode="json") | {"outputs": describe(found), "file": str(output) if output else None}
    if json:
        show_json(answer)
        return
    out = console()
    if type(found) is dict:  # a model's
        said = found["text"] if "text" in found else f"{len(found['vectors'])} vectors of {len(found['vectors'][0])} numbers"
        out.print(said, markup=False, highlight=False, soft_wrap=True)
        answer["outputs"] = {}
    for name, facts in answer["outputs"].items():
        rest = "  ".join(f"{label} {value}" for label, value in facts.items() if label not in ("dtype", "shape"))
        out.print(f"{name}  {facts['dtype']} {tuple(facts['shape'])}  {rest}", markup=False)
    took = duration(status.execution_time)
    how = f"from the cache (computed in {took})" if status.cached else f"on {status.device_used}/{status.backend} in {took}"
    here = "" if server else ", in this process"
    out.print(f"{operation} {how}{here}{f' → {output}' if output else ''}", style="dim", markup=False, soft_wrap=True)


def _write(output: Path, found: Any, task_id: str, server: str | None) -> None:
    """Raises `InvalidParameter` for a result that the file's kind cannot hold, and says where it still is."""
    from openruntime.cli import files
    from openruntime.contracts.errors import InvalidParameter

    try:
        files.write(output, found)
    except InvalidParameter as error:
        kept = f"; the server has it: curl -H 'Accept: application/x-npy' -o {output.with_suffix('.npy')} {server}/tasks/{task_id}/result"
        raise InvalidParameter(f"{error.message}{kept if server else ''}", field=error.field) from None


def submit(
    operation: Operation,
    inputs: Inputs = None,
    device: Device = None,
    priority: Priority = 5,
    timeout: Timeout = None,
    retries: Annotated[int, typer.Option(min=0, max=100, help="How often a failure of the operation is tried again.")] = 0,
    tag: Annotated[list[str] | None, typer.Option(help="A tag to find it by; may be given several times.")] = None,
    no_cache: NoCache = False,
    json: Json = False,
    server: Server = None,
) -> None:
    """Queue an operation on the server and print the task's id."""
    with client(server, embedded=inputs == [_HELP]) as runtime:
        if inputs == [_HELP]:
            show(known_entry(runtime, operation))
            return
        parameters = read_parameters(runtime, operation, inputs or [])
        options = {"device": device, "priority": priority, "timeout": timeout, "max_retries": retries, "tags": tag or []}
        future = _start(runtime, operation, parameters, **options, cache="no-store" if no_cache else None)
        if json:
            show_json(future.status().model_dump(exclude={"result"}, mode="json"))
        else:
            print(future.task_id)


def _start(runtime: "Runtime", operation: str, parameters: dict[str, Any], **options: Any) -> "TaskFuture":
    from openruntime.contracts.errors import InvalidParameter

    for name in parameters.keys() & options.keys():
        raise InvalidParameter(f"`{name}` says how the task is to run, and cannot name a parameter here; call the array otherwise", field=name)
    return runtime.submit(operation, **parameters, **options)


def follow(future: "TaskFuture", *, cancel: bool = True) -> Any:
    """Its result; a bar while it takes long. Ctrl-C cancels it, if `cancel`."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    out = console(stderr=True)
    try:
        if not out.is_terminal or _ended(future, _BAR_AFTER):
            return future.result()
        with Progress(TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), console=out, transient=True) as bar:
            line = bar.add_task(future.operation, total=None)
            while not _ended(future, 0.1):
                if future.progress is not None:
                    bar.update(line, total=1.0, completed=future.progress)
            return future.result()
    except KeyboardInterrupt:
        if cancel:
            future.cancel()
        raise


def _ended(future: "TaskFuture", seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not future.done() and time.monotonic() < until:
        time.sleep(0.02)
    return future.done()


def read_parameters(runtime: "Runtime", operation: str, tokens: Sequence[str]) -> dict[str, Any]:
    """Files and values by parameter, read as the operation's schema says. Raises `InvalidParameter`, `UnknownOperation`."""
    from openruntime.contracts.errors import InvalidParameter, nearest

    schema = known_entry(runtime, operation)["parameters"]
    positional, named = _separate(tokens, schema["properties"])
    order = [name for name in schema["properties"] if name not in named]
    given: dict[str, Any] = {}
    for name, text in named.items():
        if name not in schema["properties"] and not schema.get("additionalProperties"):
            raise InvalidParameter(f"{operation} has no parameter `{name}`{nearest(name, [*schema['properties'], *_OPTIONS])}", field=name)
        given[name] = _value(name, text, schema["properties"].get(name) or schema["additionalProperties"])
    for text in positional:
        if not order:
            raise InvalidParameter(f"{operation} takes {', '.join(schema['properties'])}; there is nothing left for {text!r}", field=operation)
        name = order.pop(0)
        value = _value(name, text, schema["properties"][name])
        whole = isinstance(value, list) and isinstance(next(iter(value), None), list) and name not in given
        if schema["properties"][name].get("x-kind") == "arrays" and not whole:  # what follows are its items too
            given.setdefault(name, []).extend(value.values() if isinstance(value, Mapping) else [value])
            order.insert(0, name)
        elif isinstance(value, Mapping):  # an archive of several arrays, by their own names
            order = [left for left in order if left not in value]
            given.update(value)
        else:
            given[name] = value
    return given


def _separate(tokens: Sequence[str], properties: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
    """`--name VALUE`, `--name=VALUE`, and `--name` alone where it switches something on."""
    from openruntime.contracts.errors import InvalidParameter

    positional: list[str] = []
    named: dict[str, str] = {}
    left = list(tokens)
    while left:
        token = left.pop(0)
        if not token.startswith("--") or token == "--":
            positional.append(token)
            continue
        name, equals, value = token[2:].partition("=")
        name = name.replace("-", "_")
        if not equals:
            if properties.get(name, {}).get("type") == "boolean":
                value = left.pop(0) if left and left[0].lower() in _LITERALS else "true"
            elif left:
                value = left.pop(0)
            else:
                raise InvalidParameter(f"`--{name}` needs a value", field=name)
        named[name] = value
    return positional, named


def _value(name: str, text: str, schema: Mapping[str, Any]) -> Any:
    """A literal where it is one; else a file for an array, and the text itself for a string."""
    import json

    from openruntime.cli import files

    takes_array = "x-kind" in schema
    if takes_array and Path(text).suffix.lower() in files.KINDS:
        return files.read(Path(text), name)
    options = schema.get("anyOf", [schema])
    types = {option.get("type") for option in options} | {"string" for option in options for item in option.get("enum", ()) if isinstance(item, str)}
    if types == {"string"}:
        return text
    if "null" in types and text.lower() == "none":
        return None
    try:
        value = json.loads(text.lower() if text.lower() in _LITERALS else text)
    except ValueError:
        if takes_array:
            return files.read(Path(text), name)
        return text  # the server says what it should have been
    return int(value) if isinstance(value, float) and "integer" in types and value.is_integer() else value


def describe(found: Any) -> dict[str, dict[str, Any]]:
    """By output: dtype, shape, and what little says what is in it."""
    import numpy as np

    facts: dict[str, dict[str, Any]] = {}
    if type(found) is dict:  # a model's answer
        return found
    for name, value in found.items() if isinstance(found, dict) else [("output", found)]:
        array = np.asarray(value)
        facts[name] = {"dtype": array.dtype.name, "shape": list(array.shape)}
        if array.size <= _SHOWN:
            facts[name]["value"] = array.astype(str).tolist() if array.dtype.kind == "c" else array.tolist()
        elif array.size and array.dtype.kind in "fiu":
            facts[name] |= {label: round(float(fn(array)), 6) for label, fn in (("min", np.min), ("max", np.max), ("mean", np.mean))}
    return facts
