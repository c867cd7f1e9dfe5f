"""Agents: what a role is, what it may use while it works, and what it hands over. A role is one file and one line in `AGENTS` (registry.py).

A tool is an async function `(context, ...)` that acts through `context.client` only and returns plain data; its docstring tells a model what it
does, its annotations how it is called. The client has a token of the role's scopes: the server refuses the rest, and what a role may only ask for
(`Role.asks`) waits for a person, who approves exactly one request.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from openruntime.contracts.ai import Tokens
from openruntime.contracts.payload import Buffer
from openruntime.contracts.records import Principal

if TYPE_CHECKING:
    from openruntime.contracts.models import AIRequest, WorkflowType


class Budget(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a run may spend at most. `seconds` from its start, `device_seconds` of its tasks' computing."""

    tokens: int = 50_000
    seconds: float = 300.0
    device_seconds: float = 120.0
    tasks: int = 100


class Spent(msgspec.Struct, kw_only=True):
    """What a run has spent. `requests`: of the model; `calls`: of tools. Seconds a person took to approve count in neither."""

    tokens: Tokens = Tokens()
    seconds: float = 0.0
    device_seconds: float = 0.0
    tasks: int = 0
    requests: int = 0
    calls: int = 0
    saved: int = 0  # tokens of a long conversation that were not told again


class BudgetSpent(Exception):
    """The run may spend no more of `what`. It ends with what it has: catch it only to tidy up."""

    def __init__(self, what: str, allowed: float) -> None:
        super().__init__(f"the budget of {allowed:g} {what} is spent")
        self.what = what


class Fact(msgspec.Struct, frozen=True, omit_defaults=True):
    """A figure or a finding that was computed, never worded by a model. `source`: where it can be looked up, such as `/tasks/ID/explain`."""

    name: str
    value: Any
    unit: str = ""
    source: str = ""
    note: str = ""


class Chart(msgspec.Struct, frozen=True, omit_defaults=True):
    """`series`: by name, one number (or None) for each of `x`. `kind`: line, bar or scatter."""

    title: str
    x: list[Any]
    series: dict[str, list[float | None]]
    kind: str = "line"
    x_label: str = ""
    y_label: str = ""


class Artifact(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that was written: its `text`, and `checks`, what became of each: `{"check", "ok", "detail"}`."""

    name: str
    text: str
    language: str = ""
    checks: list[dict[str, Any]] = []


class Report(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What a run found. Everything but `text` is computed; `summary` says it without any model, `text` is how a model words it."""

    summary: str = ""
    text: str = ""
    facts: list[Fact] = []
    charts: list[Chart] = []
    artifacts: list[Artifact] = []
    data: dict[str, Any] = {}  # the role's own: plain JSON
    unfinished: str | None = None  # why it ended before it was done: which budget was spent, what was refused


class Client(Protocol):
    """The server's HTTP API with the token of one run. Answers are plain data; refusals are the errors of `errors.py`.

    What the run's role may only ask for waits here until a person decides: refused, it raises `Forbidden` with that. Everything is recorded
    and counted; `BudgetSpent` ends the run.
    """

    async def get(self, path: str, **query: Any) -> Any: ...

    async def post(self, path: str, body: Any = None, *, wait: float | None = None, headers: Mapping[str, str] | None = None) -> Any:
        """`wait`: seconds of `Prefer: wait`."""

    async def put(self, path: str, body: Any) -> Any: ...

    async def delete(self, path: str) -> Any: ...

    async def run(self, operation: str, parameters: Mapping[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
        """Submit a task and wait for its end: the `TaskResponse`, whatever it ended with. `fields` are those of `TaskRequest`."""

    async def send(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, content: Sequence[Buffer] = ()
    ) -> tuple[int, Mapping[str, str], Buffer]:
        """Bytes as they are: status, headers by lower-case name, body."""


class Writer(Protocol):
    """The run's model, for a role that asks it while it works."""

    name: str

    async def write(self, prompt: str, *, system: str = "", schema: Mapping[str, Any] | None = None, max_tokens: int | None = None) -> str:
        """What it says; JSON of `schema` where that is given. Counted; raises what models raise, and `BudgetSpent`."""


class Context(Protocol):
    """One run of a role."""

    @property
    def id(self) -> str: ...

    @property
    def request(self) -> "AIRequest":
        """What was asked. Its `parameters` are the role's own: without model, session, budget and seed, and never None."""

    @property
    def principal(self) -> Principal:
        """Who the run acts as: in its user's tenant, with its role's scopes, until its budget's time is over."""

    @property
    def client(self) -> Client: ...

    @property
    def model(self) -> Writer | None:
        """None where there is no model: what is computed must be complete without."""

    @property
    def budget(self) -> Budget: ...

    @property
    def spent(self) -> Spent: ...

    @property
    def report(self) -> Report:
        """To be filled while working, so that a run that is cut off still hands over what it has."""

    async def call(self, tool: "Tool", /, **arguments: Any) -> Any:
        """Use a tool as a model would: recorded and shown with arguments, outcome and seconds."""

    async def approve(self, what: str, method: str, path: str, body: Any = None) -> Any:
        """Ask a person to let this one request through, wait for the word, send it: its answer. `Forbidden` when it was refused.

        `client` does the same by itself for what is in `Role.asks`; this says `what` it is for."""

    def progress(self, fraction: float | None, message: str) -> None:
        """Shown to whoever watches."""


Tool = Callable[..., Awaitable[Any]]


@dataclass(frozen=True, kw_only=True)
class Role:
    """What an agent is. `scopes`: what it may do by itself, as the server's table has them; `asks`: what a person has to approve each time.

    `work` computes what can be known without a model and fills `context.report`; the model then gets that report, the tools and the
    request. `words` is asked what of a model's text may be shown, and gives it back: a figure that nothing computed may not.
    """

    name: str
    summary: str
    workflows: tuple["WorkflowType", ...]
    prompt: str
    scopes: frozenset[str]
    asks: frozenset[str] = frozenset()
    tools: tuple[Tool, ...] = ()
    budget: Budget = field(default_factory=Budget)
    work: Callable[[Context], Awaitable[None]] | None = None
    words: Callable[[Context, str], str] | None = None
