"""The MCP server itself, on FastMCP: tools, resources, and their errors in the protocol's form. Over HTTP or stdio.

Source: https://modelcontextprotocol.io/specification/2026-07-28
"""

import logging
import warnings
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar
from urllib.parse import quote

import msgspec
from fastmcp import FastMCP
from fastmcp.exceptions import ResourceError
from fastmcp.resources import ResourceContent, ResourceResult
from fastmcp.server.context import Context
from fastmcp.server.dependencies import get_context, get_http_request
from fastmcp.tools import Tool as FastMCPTool
from fastmcp.tools import ToolResult
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp_types import ResourceLink, TextContent, ToolAnnotations
from pydantic import PrivateAttr, ValidationError
from sse_starlette.sse import AppStatus

from openruntime.client.connection import Connection
from openruntime.contracts.errors import CompileError, Internal, OpenRuntimeError, PayloadTooLarge
from openruntime.gateway.dependencies import principal
from openruntime.gateway.errors import invalid
from openruntime.gateway.mcp import PATHS
from openruntime.gateway.mcp_inside import Inside
from openruntime.gateway.mcp_tasks import Told
from openruntime.gateway.mcp_tools import TOOLS, Tool
from openruntime.gateway.wire import NPY, Application, Receive, Scope, Send

log = logging.getLogger(__name__)
LARGEST = 8 << 20  # bytes of an array that is read as a resource

INSTRUCTIONS = """OpenRuntime runs operations on arrays (linear algebra, FFTs, statistics, images, simulation, kernels of your own) on the devices of
one machine or many, and chooses the device and library that finish soonest. `list_operations` and `describe_operation` tell what there is;
`run_operation` runs one. Arrays in `parameters` are nested lists; what a task gave is passed on as {"task": task_id} without travelling.
Random arrays come from `uniform`, `normal` and `integers` (shape, seed); elementwise formulas from `expression`, as {"formula": "2*x + 1", "x": ...}.
Errors carry a stable `code` and the `field` that was wrong."""
GUIDE = f"""# OpenRuntime for assistants

{INSTRUCTIONS}

- A result over 1,000 elements is told by shape, dtype and statistics; `openruntime://tensors/{{tensor_id}}` has it as npy, up to {LARGEST >> 20} MiB.
- `openruntime://tasks/{{task_id}}/result` has all outputs as JSON; `openruntime://operations/{{name}}` an operation's whole documentation.
- Work that takes long: `submit_task`, then `get_task` with `wait`; or `run_operation`, which tells its progress, and after `wait` seconds its id.
- `device_preference` binds a task to a device (`cuda:0`), a kind (`gpu`), a library (`torch`) or both (`cpu:0/torch`); leave it out otherwise.
- Codes: `unknown_operation`, `invalid_parameter`, `no_such_device`, `unsupported_on_device`, `compile_error`, `not_found`, `queue_full`,
  `operation_failed`, `timeout`, `worker_crashed`, `out_of_memory`, `cancelled`, and others that say in their sentence what would be right.
"""


def _never() -> bool:
    return False


class McpServer:
    """`front` answers requests in the name of whoever called over HTTP. `connection` is the way to a server where there is one caller only.
    `leaving` tells that the server is about to stop; `drained`, that it will be told in time."""

    def __init__(
        self,
        front: Application | None,
        version: str,
        *,
        connection: Connection | None = None,
        leaving: Callable[[], bool] = _never,
        drained: bool = False,
    ) -> None:
        self._front = front
        self._only = connection
        self.leaving = leaving
        _log_with_us()
        if drained:
            AppStatus.enable_automatic_graceful_drain = False  # it cuts off every stream that is open when a signal comes, those with answers too
        self.server: FastMCP[Any] = FastMCP(
            "openruntime", INSTRUCTIONS, version=version, website_url=None, mask_error_details=True, tools=[_Served.of(tool, self) for tool in TOOLS]
        )
        _Resources(self)

    def connection(self) -> Connection:
        """The way to the server in the name of whoever is being answered."""
        if self._only is not None:
            return self._only
        assert self._front is not None, "one of the two is given"
        return Connection(Inside(self._front, get_http_request().scope), patience=0.0)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Application]:
        """The ASGI application while it is alive. A session belongs to who began it."""
        app = self.server.http_app(PATHS[0], json_response=False, stateless_http=False, host_origin_protection=False)

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            who = principal(scope)
            owner = AccessToken(token="", client_id=f"{who.tenant}/{who.id}", scopes=[])
            await app({**scope, "user": AuthenticatedUser(owner)}, receive, send)

        async with app.lifespan(app):
            yield answer

    async def stdio(self) -> None:
        """Until the input ends."""
        await self.server.run_stdio_async(show_banner=False)


class _Caller:
    """See `mcp_tasks.Caller`."""

    def __init__(self, server: McpServer, context: Context) -> None:
        self.connection = server.connection()
        self.leaving = server.leaving
        self._context = context

    async def progress(self, fraction: float, message: str) -> None:
        await self._context.report_progress(fraction, 1.0, message)

    async def log(self, message: str) -> None:
        await self._context.info(message, logger_name="openruntime")


class _Served(FastMCPTool):
    """A tool of ours: FastMCP's own would judge the arguments in words of its own."""

    _tool: Tool = PrivateAttr()
    _server: McpServer = PrivateAttr()

    @classmethod
    def of(cls, tool: Tool, server: McpServer) -> "_Served":
        hints = ToolAnnotations(read_only_hint=tool.reads, destructive_hint=tool.ends, idempotent_hint=tool.reads or tool.ends, open_world_hint=False)
        schema = tool.arguments.model_json_schema()
        made = cls(name=tool.name, description=tool.description, parameters={**schema, "title": tool.name}, annotations=hints)
        made._tool, made._server = tool, server
        return made

    async def run(self, arguments: dict[str, Any]) -> ToolResult:
        model = self._tool.arguments
        try:
            given = model.model_validate(arguments, strict=True)
            return _result(await self._tool.call(_Caller(self._server, get_context()), given))
        except ValidationError as error:
            return _refusal(invalid(error, model.model_fields))
        except OpenRuntimeError as error:
            return _refusal(error)
        except Exception:
            log.exception("the tool %s failed", self.name)
            return _refusal(Internal("the server could not answer; its log has the cause"))


def _result(told: Told) -> ToolResult:
    links = [
        ResourceLink(type="resource_link", uri=link.uri, name=link.name, description=link.description, mime_type=link.media) for link in told.links
    ]
    return ToolResult([_text(told.content), *links], told.content)


def _refusal(error: OpenRuntimeError) -> ToolResult:
    """Our code and sentence, and the field; of a compile error what the compiler said."""
    found: dict[str, Any] = {"code": error.code, "detail": error.message}
    if error.field is not None:
        found["field"] = error.field
    if isinstance(error, CompileError):
        found |= {"log": error.log, "lines": [dict(line) for line in error.lines]}
    return ToolResult([_text(found)], found, is_error=True)


def _text(content: Mapping[str, Any]) -> TextContent:
    return TextContent(type="text", text=msgspec.json.encode(content).decode())


class _Resources:
    """What can be read: a guide, the operations, results, arrays."""

    listed: ClassVar[dict[str, tuple[str, str, str]]] = {
        "guide": ("openruntime://guide", "How to use OpenRuntime from an assistant.", "text/markdown"),
        "operations": ("openruntime://operations", "Every operation with the schema of its parameters.", "application/json"),
        "operation": ("openruntime://operations/{name}", "An operation's documentation.", "application/json"),
        "result": ("openruntime://tasks/{task_id}/result", "A task with all its outputs; those over 1,000 elements as tensors.", "application/json"),
        "tensor": ("openruntime://tensors/{tensor_id}", f"An array in NumPy's npy format, up to {LARGEST >> 20} MiB.", NPY),
    }

    def __init__(self, server: McpServer) -> None:
        self._server = server
        for name, (uri, description, media) in self.listed.items():
            server.server.resource(uri, name=name, description=description, mime_type=media)(getattr(self, f"_{name}"))

    async def _guide(self) -> str:
        return GUIDE

    async def _operations(self) -> ResourceResult:
        return await self._read("/operations")

    async def _operation(self, name: str) -> ResourceResult:
        return await self._read(f"/operations/{quote(name, safe='')}")

    async def _result(self, task_id: str) -> ResourceResult:
        return await self._read(f"/tasks/{quote(task_id, safe='')}/result")

    async def _tensor(self, tensor_id: str) -> ResourceResult:
        return await self._read(f"/tensors/{quote(tensor_id, safe='')}", NPY)

    async def _read(self, path: str, media: str = "application/json") -> ResourceResult:
        connection, accept = self._server.connection(), {"Accept": media}
        try:
            head = await connection.transport.send("HEAD", path, accept, (), wait=0.0)
            size = int(head.headers.get("content-length", 0))
            if head.status == 200 and size > LARGEST:
                raise PayloadTooLarge(f"it has {size:,} bytes, and a resource at most {LARGEST:,}; GET {path} has it over HTTP")
            body = bytes((await connection.call("GET", path, headers=accept)).body)
        except OpenRuntimeError as error:
            raise ResourceError(f"{error.code}: {error.message}") from None
        return ResourceResult([ResourceContent(body if media == NPY else body.decode(), media)])


def _log_with_us() -> None:
    """Their libraries' records go where ours go, without the news of each session."""
    own = logging.getLogger("fastmcp")
    for handler in own.handlers[:]:
        own.removeHandler(handler)
    own.propagate = True
    for name in ("fastmcp", "mcp"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", "The logging capability is deprecated")  # who speaks the revision before has nothing else
