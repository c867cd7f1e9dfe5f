"""`openruntime operations`: what can be run; and the help of `openruntime run OPERATION --help`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openruntime.cli.options import Json, ServerOrHere, client, console, show_json, table

if TYPE_CHECKING:
    from openruntime.client.sync import Runtime


def register(app: typer.Typer) -> None:
    app.command()(operations)


def operations(
    name: Annotated[str | None, typer.Argument(help="Show this one in full.", show_default=False)] = None,
    json: Json = False,
    server: ServerOrHere = None,
) -> None:
    """List the operations, or show one with its parameters."""
    from openruntime.client.signatures import told

    with client(server, embedded=True) as runtime:
        if name is not None:
            entry = known_entry(runtime, name)
            if json:
                show_json(entry)
            else:
                show(entry)
            return
        known = sorted(runtime.operations().values(), key=lambda entry: (entry["family"], entry["name"]))
    if json:
        show_json(known)
        return
    families = [entry["family"] for entry in known]
    shown = ["" if i and families[i - 1] == family else family for i, family in enumerate(families)]
    rows = [[family, told(entry), entry["summary"]] for family, entry in zip(shown, known, strict=True)]
    console().print(table(("family", "operation", "what it does"), rows))


def known_entry(runtime: "Runtime", name: str) -> dict[str, Any]:
    """Raises `UnknownOperation`."""
    from openruntime.contracts.errors import UnknownOperation, nearest

    known = runtime.operations()
    if name not in known:
        raise UnknownOperation(f"there is no operation {name!r}{nearest(name, known)}", field="operation")
    return known[name]


def show(entry: Mapping[str, Any]) -> None:
    """The signature, the parameters with their types, an example, and the documentation, its paragraphs as wide as the terminal."""
    from openruntime.client.signatures import default, kind, told

    out, schema = console(), entry["parameters"]
    out.print(f"{told(entry)} → {', '.join(entry['outputs'])}", style="bold", markup=False)
    out.print(f"{entry['family']}, version {entry['version']}\n", style="dim")
    first, *rest = paragraphs(entry["doc"])
    out.print(first, markup=False)
    rows = [
        [f"--{name.replace('_', '-')}", kind(about), "required" if name in schema["required"] else repr(default(about))]
        for name, about in schema["properties"].items()
    ]
    if schema.get("additionalProperties"):
        rows.append(["--NAME", kind(schema["additionalProperties"]), "as many as are needed"])
    out.print(table(("parameter", "type", "default"), rows))
    out.print(f"openruntime run {example(entry)}", style="cyan", markup=False, soft_wrap=True)
    out.print("`openruntime run --help` lists the rest: -o FILE, --device, --priority, --timeout, --no-cache, --json, --server", style="dim")
    for paragraph in rest:
        out.print(f"\n{paragraph}", markup=False)


def paragraphs(doc: str) -> list[str]:
    """Each as one line; where the method comes from is one too."""
    return [" ".join(part.split()) for part in doc.replace("\nSource:", "\n\nSource:").split("\n\n")]


def example(entry: Mapping[str, Any]) -> str:
    """What `run` takes for it: arrays from files, then the other required parameters."""
    schema = entry["parameters"]
    if schema.get("additionalProperties"):
        return f"{entry['name']} 'a*x + 1' --x x.npy --a 2"
    required = {name: schema["properties"][name] for name in schema["required"]} or dict(list(schema["properties"].items())[:1])
    words = [f"{name}.npy" for name, about in required.items() if "x-kind" in about]
    words += [f"--{name.replace('_', '-')} {_value(about)}" for name, about in required.items() if "x-kind" not in about]
    return " ".join([entry["name"], *words])


def _value(about: Mapping[str, Any]) -> str:
    first = about.get("anyOf", [about])[0]
    if "enum" in first:
        return str(first["enum"][0])
    if first.get("type") == "array":
        return "'[2, 2]'"
    if first.get("type") == "string":
        return "TEXT"
    return "true" if first.get("type") == "boolean" else str(max(3, first.get("minimum", 0)))
