"""`openruntime ai`: ask the agents, talk with them, decide about what they ask for."""

import sys
import unicodedata
from json import loads as json_of
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openruntime.cli.options import Json, Server, client, console, duration, show_json, table

if TYPE_CHECKING:
    from openruntime.client.sync import Runtime

app = typer.Typer(
    no_args_is_help=True,
    help="Agents: questions about the system, code, faster computations, failed tasks.",
    epilog="An agent does by itself only what its role allows (`openruntime ai agents`); what goes beyond, such as cancelling another's task, "
    "it asks you for, one request at a time. Ctrl-C cancels it and all that it has running.",
)
WORKFLOWS = {
    "analysis": "system_analysis", "code": "code_generation", "optimize": "compute_optimization", "debug": "debugging", "model": "model_inference",
}  # fmt: skip
SHOWN = 100  # characters of a call's arguments

Prompt = Annotated[str, typer.Argument(help="What you want; `-`: from the input.")]
Workflow = Annotated[str, typer.Option("--workflow", "-w", help=f"Which agent: {', '.join(WORKFLOWS)}, or a workflow's whole name.")]
Model = Annotated[str | None, typer.Option("--model", "-m", help="The model; the one in use unless given.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Tokens of one answer at most.")]
Temperature = Annotated[float, typer.Option(min=0, max=2, help="0: always the same answer.")]
Budget = Annotated[list[str] | None, typer.Option("--budget", "-b", help="A bound such as tokens=5000, seconds=60, device_seconds=30 or tasks=10.")]
Parameter = Annotated[
    list[str] | None, typer.Option("--parameter", "-p", help='The agent\'s own, as JSON, else as text: task=ID, window=3600, shapes={"x": [1024]}.')
]


def register(commands: typer.Typer) -> None:
    commands.add_typer(app, name="ai")


@app.command()
def ask(
    prompt: Prompt,
    workflow: Workflow = "analysis",
    model: Model = None,
    session: Annotated[str | None, typer.Option(help="A session to continue; `openruntime ai sessions` lists them.")] = None,
    budget: Budget = None,
    parameter: Parameter = None,
    max_tokens: MaxTokens = 2000,
    temperature: Temperature = 0.7,
    json: Json = False,
    server: Server = None,
) -> None:
    """Ask an agent once: `openruntime ai ask "Which tasks fail, and why?"`."""
    text = sys.stdin.read() if prompt == "-" else prompt
    given = _given(workflow, model, budget, parameter, max_tokens, temperature) | {"session": session}
    with client(server) as runtime:
        run = _told(runtime, text, given, quiet=json)
    if json:
        show_json(run)
    if run["status"] != "completed":
        raise typer.Exit(1)


@app.command()
def chat(
    workflow: Workflow = "analysis",
    model: Model = None,
    session: Annotated[str | None, typer.Option(help="A session to continue; a new one unless given.")] = None,
    budget: Budget = None,
    max_tokens: MaxTokens = 2000,
    temperature: Temperature = 0.7,
    server: Server = None,
) -> None:
    """Talk with an agent, which remembers what was said. An empty line, Ctrl-D or Ctrl-C ends it."""
    given = _given(workflow, model, budget, None, max_tokens, temperature)
    with client(server) as runtime:
        session = session or runtime.ai.new_session()["id"]
        console(stderr=True).print(f"session {session}", style="dim", markup=False)
        while text := _line():
            _told(runtime, text, given | {"session": session})


@app.command()
def agents(json: Json = False, server: Server = None) -> None:
    """List the agents: what each is for, what it may do, what it has to ask for."""
    with client(server) as runtime:
        found = runtime.ai.agents()
    if json:
        show_json(found)
        return
    short = {whole: name for name, whole in WORKFLOWS.items()}
    rows = [
        [agent["name"], ", ".join(short[name] for name in agent["workflows"]), agent["summary"], " ".join(agent["scopes"]), " ".join(agent["asks"])]
        for agent in found
    ]
    console().print(table(("agent", "-w", "what it does", "may", "asks for"), rows))


@app.command()
def sessions(json: Json = False, server: Server = None) -> None:
    """List the sessions, the last used first."""
    with client(server) as runtime:
        found = runtime.ai.sessions()
    if json:
        show_json(found)
        return
    rows = [[entry["id"], entry["title"], str(entry["turns"]), entry["used_at"][:19]] for entry in found]
    console().print(table(("session", "title", "turns", "used (UTC)"), rows, right=frozenset({"turns"})))


def _given(
    workflow: str, model: str | None, budget: list[str] | None, parameter: list[str] | None, max_tokens: int, temperature: float
) -> dict[str, Any]:
    bounds = {name: _number(name, value) for name, value in _pairs(budget, "--budget").items()}
    return {
        "workflow": WORKFLOWS.get(workflow, workflow), "model": model, "budget": bounds or None, "max_tokens": max_tokens,
        "temperature": temperature, "parameters": {name: _value(text) for name, text in _pairs(parameter, "--parameter").items()},
    }  # fmt: skip


def _pairs(given: list[str] | None, option: str) -> dict[str, str]:
    found = {}
    for item in given or ():
        name, sign, value = item.partition("=")
        if not sign or not name:
            raise typer.BadParameter(f"{item!r} is not like NAME=VALUE", param_hint=option)
        found[name] = value
    return found


def _value(text: str) -> Any:
    """JSON where it is that, else the text."""
    try:
        return json_of(text, parse_constant=_no_number)
    except ValueError:
        return text


def _no_number(word: str) -> Any:
    """JSON has no NaN and no Infinity."""
    raise ValueError(word)


def _number(name: str, text: str) -> float:
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        raise typer.BadParameter(f"{name} is a number, not {text!r}", param_hint="--budget") from None


def _line() -> str:
    try:
        return input("> ").strip()
    except EOFError:
        return ""


def _told(runtime: "Runtime", prompt: str, given: dict[str, Any], *, quiet: bool = False) -> dict[str, Any]:
    """The run, shown while it goes: what the model says to the output, the rest beside it."""
    beside, said = console(stderr=True), False

    def heard(kind: str, data: Any) -> None:
        nonlocal said
        if quiet:
            return
        if kind == "delta":
            said = True
            print(harmless(data["text"]), end="", flush=True)
        elif kind == "call" and data["outcome"] != "running":
            beside.print(one_line(_call(data)), style="dim", markup=False, soft_wrap=True)
        elif kind == "progress" and data["message"]:
            beside.print(one_line(data["message"]), style="dim", markup=False, soft_wrap=True)

    run = runtime.ai.ask(prompt, approve=_approve, heard=heard, **given)
    if quiet:
        return run
    answer = run["result"]["text"]
    if said:
        print()
    summary = run["result"]["summary"]
    if answer and not said:
        print(harmless(answer))
    if summary and summary != answer:
        beside.print("\nwhat was computed:", style="dim", markup=False)
        print(harmless(summary))
    for artifact in run["result"]["artifacts"]:
        beside.print(f"\n{one_line(artifact['name'])}", style="bold", markup=False)
        print(harmless(artifact["text"]))
    for trouble in (run["error"], run["unfinished"]):
        if trouble:
            beside.print(harmless(trouble), style="yellow", markup=False, soft_wrap=True)
    beside.print(harmless(_spent(run)), style="dim", markup=False, soft_wrap=True)
    return run


def harmless(text: str) -> str:
    """Without what a terminal would obey, or would show in another order: a model's text must not draw over what a person is asked."""
    return "".join(character for character in text if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co"))


def one_line(text: str) -> str:
    return " ".join(harmless(text).split())


def _call(entry: dict[str, Any]) -> str:
    arguments = ", ".join(f"{name}={value!r}" for name, value in entry["arguments"].items())
    shown = arguments if len(arguments) <= SHOWN else f"{arguments[: SHOWN - 1]}…"
    outcome = "" if entry["outcome"] == "ok" else f" {entry['outcome']}: {entry['error']}"
    return f"· {entry['tool']}({shown}) {duration(entry['seconds'])}{outcome}"


def _spent(run: dict[str, Any]) -> str:
    spent = run["spent"]
    tokens = spent["tokens"]
    parts = [run["agent"], run["model"] or "no model", duration(spent["seconds"])]
    if tokens["total"] or tokens["cached"]:
        parts.append(f"{tokens['prompt']} + {tokens['completion']} tokens" + (f", {tokens['cached']} saved" if tokens["cached"] else ""))
    if spent["calls"]:
        parts.append(f"{spent['calls']} tool call{'s' if spent['calls'] != 1 else ''}")
    if spent["tasks"]:
        parts.append(f"{spent['tasks']} task{'s' if spent['tasks'] != 1 else ''}, {duration(spent['device_seconds'])} of computing")
    return " · ".join(parts)


def _approve(entry: dict[str, Any]) -> bool:
    """The very request is shown; where nobody can be asked, it is refused."""
    out = console(stderr=True)
    out.print(f"\nThe agent asks to do this ({one_line(entry['what'])}, {entry['scope']}):", style="bold", markup=False)
    out.print(f"  {entry['method']} {one_line(entry['path'])}", markup=False, soft_wrap=True)
    if entry["body"] is not None:
        out.print_json(data=entry["body"], ensure_ascii=True)
    if not sys.stdin.isatty():
        out.print("refused: there is nobody to ask at this input", style="yellow")
        return False
    return typer.confirm("Let this one request through?", default=False, err=True)
