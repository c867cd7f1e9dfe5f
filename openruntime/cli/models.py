"""`openruntime models`: which models there are, and which one is in use."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openruntime.cli.options import LOCAL, Json, client, console, show_json, size, table

if TYPE_CHECKING:
    from openruntime.client.models import Models
    from openruntime.models.administration import Administration

app = typer.Typer(
    no_args_is_help=True,
    help="Models: what is here, where it is from, and which one is in use.",
    epilog=f"Commands speak to the server that --server names, else to the one at {LOCAL} when it answers, else they work on the data directory, "
    "where a server that is started later finds what they did. With --data-dir they always do that.",
)

Server = Annotated[
    str | None, typer.Option("--server", envvar="OPENRUNTIME_SERVER", help=f"The server's address. Without it {LOCAL}, or else the data directory.")
]
DataDir = Annotated[Path | None, typer.Option(help="Work on this data directory, whether or not a server runs.", show_default=False)]
Name = Annotated[str, typer.Argument(help="NAME:VERSION, NAME (its current version) or an alias; `openruntime models list` has them.")]


def register(commands: typer.Typer) -> None:
    commands.add_typer(app, name="models")


@contextmanager
def _models(server: str | None, data_dir: Path | None) -> "Iterator[Models | Administration]":
    if data_dir is None and (server is not None or _answers()):
        with client(server) as runtime:
            yield runtime.models
        return
    if data_dir is not None and server is not None:
        raise typer.BadParameter("say either --server or --data-dir", param_hint="--data-dir")
    from openruntime.core.config import Settings
    from openruntime.core.repository import open_repository
    from openruntime.models.administration import Administration
    from openruntime.operations.catalogue import OperationCatalogue

    settings = Settings.load({"data_dir": data_dir})
    repository = open_repository(settings, lambda: OperationCatalogue().names())
    repository.look()
    if data_dir is None:
        told = f"no server at {LOCAL}; this is the repository in {repository.folder}"
        console(stderr=True).print(told, style="dim", markup=False, soft_wrap=True)
    yield Administration(repository)


def _answers() -> bool:
    """Whether anything listens where a server of this machine usually does."""
    host, _, port = LOCAL.removeprefix("http://").partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=0.5).close()
    except OSError:
        return False
    return True


@app.command("list")
def list_models(json: Json = False, server: Server = None, data_dir: DataDir = None) -> None:
    """List every version of every model: the repository's, then those that were found."""
    with _models(server, data_dir) as models:
        found, problems = models.all(), models.problems()
    if json:
        show_json(found)
        return
    rows = [
        [
            row["id"], row["kind"], _state(row), size(row["size"]), str(row["context_length"] or "-"), row["license"] or "-",
            ", ".join(row["aliases"]), row["origin"],
        ]
        for row in found
    ]  # fmt: skip
    out = console()
    if rows:
        out.print(table(("model", "kind", "", "size", "context", "licence", "aliases", "from"), rows, right=frozenset({"size", "context"})))
    else:
        from openruntime.models.repository import how_to_get

        out.print(f"There is no model; {how_to_get('chat')}.", markup=False, soft_wrap=True)
    notes = [f"{row['id']}: {row['reason']}" for row in found if row["reason"]]
    for note in (*notes, *problems):
        console(stderr=True).print(note, style="yellow", markup=False, soft_wrap=True)


def _state(row: dict[str, Any]) -> str:
    return "unavailable" if row["reason"] else "in use" if row["default"] else ""


@app.command()
def show(name: Name, json: Json = False, server: Server = None, data_dir: DataDir = None) -> None:
    """Show a model: its weights, their digest, where it is from; of an alias also what it meant before."""
    from openruntime.contracts.errors import NotFound

    with _models(server, data_dir) as models:
        found = models.get(name)
        try:
            told: dict[str, Any] | None = models.history(name)
        except NotFound:
            told = None
    if json:
        show_json(found | {"alias": told})
        return
    out = console()
    out.print(found["id"], style="bold", markup=False)
    for field, value in found.items():
        shown = size(value) if field == "size" and value else ", ".join(value) if isinstance(value, list) else value
        if field not in ("id", "name", "version") and shown not in (None, "", {}, False):
            out.print(f"{field.replace('_', ' ')}: {shown}", markup=False, soft_wrap=True)
    for move in told["history"] if told is not None else ():
        out.print(f"{move['time'][:19]} {move['how']} {told['alias'] if told else ''} -> {move['model']}", style="dim", markup=False, soft_wrap=True)


@app.command()
def add(
    source: Annotated[str | None, typer.Argument(help="A .gguf file, a sentence-transformers folder, or an installed package with weights.")] = None,
    url: Annotated[str | None, typer.Option(help="Instead: the address of an API like OpenAI's, such as http://127.0.0.1:11434/v1.")] = None,
    upstream: Annotated[str | None, typer.Option(help="What the server at --url calls the model.")] = None,
    key_env: Annotated[str | None, typer.Option(help="The server's environment variable with the key for --url; ends with _API_KEY.")] = None,
    name: Annotated[str | None, typer.Option(help="What it is called here; made from the file's name unless given.")] = None,
    kind: Annotated[str | None, typer.Option(help="chat or embedding; seen from the weights unless given.")] = None,
    licence: Annotated[str | None, typer.Option("--license", help="Read from the weights unless given.")] = None,
    context_length: Annotated[int | None, typer.Option(help="Tokens; read from the weights unless given.")] = None,
    parallel: Annotated[int | None, typer.Option(help="Requests it takes at the same time.")] = None,
    option: Annotated[list[str] | None, typer.Option("--option", help="For the adapter, as NAME=VALUE, such as context=2048.")] = None,
    digest: Annotated[str | None, typer.Option(help="The SHA-256 that the weights must have.")] = None,
    reference: Annotated[bool, typer.Option("--reference", help="Leave the weights where they are, instead of a link or copy.")] = False,
    no_check: Annotated[bool, typer.Option("--no-check", help="Do not ask the server at --url whether it has the model.")] = False,
    use_it: Annotated[bool, typer.Option("--use", help="Make it the model in use at once.")] = False,
    json: Json = False,
    server: Server = None,
    data_dir: DataDir = None,
) -> None:
    """Add a model, or the next version of one, which its name alone means from then on.

    Weights are put into the repository, by a hard link where that is possible, else as a copy. A file is read on the disk of the server.
    """
    if (source is None) == (url is None):
        raise typer.BadParameter("say one of: a file, a folder or a package; or --url", param_hint="SOURCE")
    given: dict[str, Any] = {
        **_source(source or str(url), url is not None), "upstream": upstream, "api_key_env": key_env, "name": name, "kind": kind, "license": licence,
        "context_length": context_length, "parallel": parallel, "options": dict(map(_option, option or ())), "digest": digest,
        "reference": reference, "check": not no_check,
    }  # fmt: skip
    with _models(server, data_dir) as models:
        made = models.add(**given)
        if use_it:
            made = models.use(made["id"])
    _tell(made, json, "added")


def _source(text: str, url: bool) -> dict[str, str]:
    if url or text.startswith(("http://", "https://")):
        return {"url": text}
    path = Path(text).expanduser()
    if path.exists() or os.sep in text or text.startswith((".", "~")) or path.suffix.lower() == ".gguf":
        return {"path": str(path.absolute())}
    return {"package": text}


def _option(text: str) -> tuple[str, Any]:
    import json

    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"must be NAME=VALUE, not {text!r}", param_hint="--option")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _tell(found: dict[str, Any], as_json: bool, how: str) -> None:
    if as_json:
        show_json(found)
        return
    facts = [found["kind"], size(found["size"]) if found["size"] else "", found["license"] or "", "in use" if found["default"] else ""]
    out = console()
    out.print(f"{how} {found['id']}", style="bold", markup=False, soft_wrap=True)
    out.print(", ".join(fact for fact in facts if fact), style="dim", markup=False, soft_wrap=True)
    if found["reason"]:
        console(stderr=True).print(f"it cannot be used yet: {found['reason']}", style="yellow", markup=False, soft_wrap=True)


@app.command()
def use(name: Name, json: Json = False, server: Server = None, data_dir: DataDir = None) -> None:
    """Make it the model in use where a request names none; `openruntime models rollback` goes back."""
    with _models(server, data_dir) as models:
        _tell(models.use(name), json, "in use:")


@app.command()
def promote(
    name: Name,
    alias: Annotated[str, typer.Argument(help="The alias; production is the model in use, production-embedding that for embeddings.")] = "production",
    json: Json = False,
    server: Server = None,
    data_dir: DataDir = None,
) -> None:
    """Make an alias mean a model from now on. What it meant before is kept."""
    with _models(server, data_dir) as models:
        _tell(models.promote(name, alias), json, f"{alias} means")


@app.command()
def rollback(
    alias: Annotated[str, typer.Argument(help="The alias, or a model's name.")] = "production",
    json: Json = False,
    server: Server = None,
    data_dir: DataDir = None,
) -> None:
    """Make an alias mean what it meant before."""
    with _models(server, data_dir) as models:
        _tell(models.roll_back(alias), json, f"{alias} means again")


@app.command("rm")
def remove(
    name: Annotated[str, typer.Argument(help="NAME:VERSION, or NAME where it has one version.")],
    alias: Annotated[bool, typer.Option("--alias", help="Give up the alias of that name, no model.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Even if an alias means it, or it is at work.")] = False,
    server: Server = None,
    data_dir: DataDir = None,
) -> None:
    """Remove a version of a model, with its weights in the repository."""
    with _models(server, data_dir) as models:
        if alias:
            models.remove_alias(name)
        else:
            models.remove(name, force=force)


@app.command()
def check(
    name: Annotated[str | None, typer.Argument(help="NAME:VERSION, NAME or an alias; all unless given.")] = None,
    json: Json = False,
    server: Server = None,
    data_dir: DataDir = None,
) -> None:
    """Read weights through and compare their digests; ask servers whether they still have theirs. Exit code 1 when anything is wrong."""
    found: list[dict[str, Any]] = []
    with _models(server, data_dir) as models:
        for row in [models.get(name)] if name is not None else models.all():
            reason = models.check(row["id"])["reason"]
            found.append({"model": row["id"], "status": "fail" if reason else "pass", "reason": reason})
        problems = models.problems() if name is None else ()
    if json:
        show_json(found)
    else:
        for row in found:
            console().print(f"{row['status'].upper()}  {row['model']}{'  ' + row['reason'] if row['reason'] else ''}", markup=False, soft_wrap=True)
        for problem in problems:
            console(stderr=True).print(problem, style="yellow", markup=False, soft_wrap=True)
    if any(row["status"] == "fail" for row in found):
        raise typer.Exit(1)
