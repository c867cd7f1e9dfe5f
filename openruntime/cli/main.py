"""`openruntime`: the commands, and how their errors reach a person: one clear sentence and an exit code.

Exit codes: 0 done; 1 a task failed, or a check did; 2 the request is wrong (usage, unknown names, bad parameters or files);
3 no server answers; 4 the server cannot do it now (full, out of storage, a defect); 130 interrupted.
"""

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from openruntime.cli import ai, backup, bench, demo, devices, doctor, kernels, mcp, models, operations, run, serve, tasks, watch
from openruntime.contracts.errors import OpenRuntimeError, TaskFailed

EXITS = "Exit codes: 0 done · 1 a task or check failed · 2 wrong usage or request · 3 no server answers · 4 the server cannot now · 130 interrupted."


class Commands(TyperGroup):
    """Ctrl-C ends any command with the shell's own code for it."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


app = typer.Typer(
    name="openruntime", cls=Commands, help="Turns the machines you own into one compute and AI service.", epilog=EXITS,
    no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
for module in (serve, devices, operations, run, kernels, ai, models, tasks, watch, bench, backup, doctor, demo, mcp):
    module.register(app)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"openruntime {version('openruntime')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.", callback=_version, is_eager=True)] = False,
) -> None:
    """Turns the machines you own into one compute and AI service."""


def exit_code(error: OpenRuntimeError) -> int:
    if isinstance(error, TaskFailed):
        return 1
    if type(error).__name__ == "Unreachable":  # not imported: it would bring the HTTP client along
        return 3
    return 4 if error.status in (429, 507) or error.status >= 500 else 2


def report(error: OpenRuntimeError) -> None:
    """To stderr: a sentence, or with `--json` an object of code, detail and field."""
    if "--json" in sys.argv:
        import json

        print(json.dumps({"code": error.code, "detail": error.message, "field": error.field}), file=sys.stderr)
    else:
        print(f"error: {error.message}", file=sys.stderr)


def main() -> None:
    """The console script."""
    try:
        app()
    except OpenRuntimeError as error:
        report(error)
        sys.exit(exit_code(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader went away; there is nobody to tell
        sys.exit(0)
    except OSError as error:
        print(f"error: {error.strerror or error}{f': {error.filename}' if error.filename else ''}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
