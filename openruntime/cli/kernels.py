"""`openruntime kernels`: kernels of the user's own, from source files.

Symbols are capitals in the help, because it is read as markup, where [n] would be a tag.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from openruntime.cli import kernel_trials
from openruntime.cli.options import LOCAL, Json, Server, client, console, duration, show_json, table, variant
from openruntime.cli.run import TAKES_MORE
from openruntime.cli.run import run as run_operation

LANGUAGES = {".cl": "opencl", ".cu": "cuda", ".metal": "metal", ".wgsl": "wgsl"}

app = typer.Typer(
    no_args_is_help=True,
    help="Kernels of your own: register a source file once, then run it by name like any operation.",
    epilog="A kernel is native code that runs with the server's rights, in processes of its own: a crash, an endless loop or a stray write ends "
    "that kernel only.",
)

Name = Annotated[str, typer.Argument(help="The kernel's name; `openruntime kernels list` lists them.")]


def register(commands: typer.Typer) -> None:
    commands.add_typer(app, name="kernels")


kernel_trials.register(app)


@app.command()
def add(
    file: Annotated[Path, typer.Argument(help="The source: .cl (OpenCL C), .cu (CUDA C++), .metal or .wgsl; `-`: from the input, with --language.")],
    inputs: Annotated[list[str] | None, typer.Option("--input", "-i", help="An input, in the order of the entry point: 'x: float32[N, M]'.")] = None,
    outputs: Annotated[list[str] | None, typer.Option("--output", "-o", help="An output: 'y: float32[N, 2*M]'; sizes may be formulas.")] = None,
    scalars: Annotated[list[str] | None, typer.Option("--scalar", "-s", help="A number: 'a: float32'; called like a size, it is that size.")] = None,
    grid: Annotated[list[str] | None, typer.Option("--grid", "-g", help="Work-items along a dimension: N, 'ceildiv(N, 4)'.")] = None,
    local: Annotated[list[str] | None, typer.Option("--local", "-l", help="Work-items of a work-group along each; chosen unless given.")] = None,
    option: Annotated[list[str] | None, typer.Option("--option", help="For the compiler, such as --option=-DTILE=16.")] = None,
    reference: Annotated[str | None, typer.Option(help="What it should compute: an operation, or a formula such as 'a*x + y'.")] = None,
    name: Annotated[str | None, typer.Option(help="The entry point; the file's name without its ending unless given.")] = None,
    language: Annotated[str | None, typer.Option(help="opencl, cuda, metal or wgsl; by the file's ending unless given.")] = None,
    json: Json = False,
    server: Server = None,
) -> None:
    """Compile and register a kernel, or a new version of one.

    openruntime kernels add saxpy.cl -i 'x: float32[N]' -i 'y: float32[N]' -o 'z: float32[N]' -s 'a: float32' -s 'N: int32' -g N
    """
    from openruntime.contracts.errors import CompileError

    wanted = language or LANGUAGES.get(file.suffix.lower())
    if wanted is None:
        raise typer.BadParameter(f"{file.name} ends with none of {', '.join(LANGUAGES)}; say --language", param_hint="--language")
    for given, hint in ((outputs, "--output"), (grid, "--grid")):
        if not given:
            raise typer.BadParameter("a kernel needs at least one", param_hint=hint)
    with client(server) as runtime:
        try:
            made = runtime.kernels.add(
                name or file.stem, language=wanted, source=_source(file), inputs=inputs or [], outputs=outputs or [], scalars=scalars or [],
                grid=[_size(size) for size in grid or ()], local=[_size(size) for size in local or ()], options=option or [],
                reference=_reference(reference, runtime.operations()),
            )  # fmt: skip
        except CompileError as error:
            if not json and error.log not in error.message:
                console(stderr=True).print(error.log, style="dim", markup=False, soft_wrap=True)
            raise
    if json:
        show_json(made)
        return
    compiled = made["compiled"]
    how = "found compiled" if compiled["cache"] == "hit" else f"compiled in {duration(compiled['seconds'])}"
    console().print(made["signature"], style="bold", markup=False, soft_wrap=True)
    console().print(f"version {made['version']}, {how} for {compiled['device']}", style="dim", markup=False, soft_wrap=True)


@app.command("list")
def list_kernels(json: Json = False, server: Server = None) -> None:
    """List the registered kernels."""
    with client(server) as runtime:
        found = runtime.kernels.all()
    if json:
        show_json(found)
        return
    rows = [[row["name"], row["language"], str(row["version"]), row["signature"], row["created_at"][:19]] for row in found]
    console().print(table(("kernel", "language", "version", "signature", "registered (UTC)"), rows))


@app.command()
def show(name: Name, json: Json = False, server: Server = None) -> None:
    """Show a kernel: its signature, its source, and what the compiler said."""
    with client(server) as runtime:
        found = runtime.kernels.get(name)
    if json:
        show_json(found)
        return
    out = console()
    out.print(found["signature"], style="bold", markup=False, soft_wrap=True)
    compiled: dict[str, Any] = found["compiled"]
    facts = [
        f"{found['language']}, version {found['version']}, grid [{', '.join(map(str, found['grid']))}]",
        f"groups of [{', '.join(map(str, found['local']))}]" if found["local"] else "", " ".join(found["options"]),
        f"compiled in {duration(compiled['seconds'])} ({compiled['cache']})" if compiled else "",
    ]  # fmt: skip
    out.print("; ".join(fact for fact in facts if fact), style="dim", markup=False, soft_wrap=True)
    if found["reference"]:
        out.print(f"should compute {found['reference']['operation']} {found['reference']['parameters'] or ''}", style="dim", markup=False)
    out.print(f"\n{found['source']}", markup=False, soft_wrap=True)
    if compiled.get("log"):
        out.print(compiled["log"], style="dim", markup=False, soft_wrap=True)


run = variant(
    run_operation, "Run a kernel and wait, as `openruntime run` does: `openruntime kernels run saxpy x.npy y.npy --a 2 -o z.npy`.",
    {"server": LOCAL}, operation=Name, server=Server,
)  # fmt: skip
app.command("run", context_settings=TAKES_MORE)(run)


@app.command("rm")
def remove(name: Name, server: Server = None) -> None:
    """Give a kernel up. Tasks that were submitted before still run."""
    with client(server) as runtime:
        runtime.kernels.remove(name)


def _source(file: Path) -> str:
    import sys

    if str(file) == "-":
        return sys.stdin.read()
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{file} is not UTF-8 text", param_hint="FILE") from None


def _size(text: str) -> int | str:
    return int(text) if text.lstrip("-").isdigit() else text


def _reference(text: str | None, operations: dict[str, Any]) -> Any:
    """An operation's name, else a formula."""
    return text if text is None or text in operations else {"operation": "expression", "parameters": {"formula": text}}
