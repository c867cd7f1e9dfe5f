"""`/kernels`: kernels of the user's own, registered once and then called by name like any operation."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, Field

from openruntime.contracts.errors import UnsupportedMediaType
from openruntime.gateway import examples
from openruntime.gateway.body import BodyReader
from openruntime.gateway.dependencies import Services, headers, principal
from openruntime.gateway.openapi import body, example, plain, problems
from openruntime.gateway.requests import parse_json
from openruntime.gateway.results import to_json
from openruntime.gateway.tasks import json_response
from openruntime.gateway.wire import JSON, Receive, Scope, Send, media_type, respond

LARGEST = 4 << 20  # bytes of a request: the largest source, escaped in every character, and more
SHAPE = "Whole numbers, or formulas over symbols that the inputs' shapes bind: `n`, `2*n + 1`, `ceildiv(n, 64)`; + - * // %, min, max, ceildiv."


class ArrayArgument(BaseModel, extra="forbid"):
    """An array that the kernel reads or writes."""

    name: str
    dtype: str = Field(examples=["float32"])
    shape: list[int | str] = Field(description=SHAPE, examples=[["n", "m"]])


class ScalarArgument(BaseModel, extra="forbid"):
    """A number passed by value. Called like a symbol of the shapes it is that symbol's value, and need not be given in a call."""

    name: str
    dtype: str = Field(examples=["float32"])


class Domain(BaseModel, extra="forbid"):
    """From `low` to `high`; with `finite` neither NaN nor infinities."""

    low: float | None = None
    high: float | None = None
    finite: bool = False


class ReferenceOperation(BaseModel, extra="forbid"):
    """What the kernel should compute. It gets the kernel's inputs and scalars by their names, and `parameters` besides."""

    operation: str = Field(examples=["expression"])
    parameters: dict[str, Any] = Field({}, examples=[{"formula": "a*x + y"}])
    outputs: dict[str, str] = Field({}, description="The operation's names of outputs that the kernel calls otherwise.")
    domain: dict[str, Domain] = Field({}, description="By input or scalar, the numbers that the kernel takes where it does not take all.")


class KernelRequest(BaseModel, extra="forbid"):
    """A kernel. Its entry point is called `name` and takes inputs, outputs and scalars, in that order."""

    name: str = Field(description="As the source has it, and as tasks call it: no operation's name.", examples=["saxpy"])
    language: str = Field(description="What the source is written in.", json_schema_extra={"enum": ["opencl", "cuda", "metal", "wgsl"]})
    source: str = Field(description="At most 262,144 bytes. A line `// tune: TILE = 8, 16, 32` leaves a constant open for tuning.")
    inputs: list[ArrayArgument]
    outputs: list[ArrayArgument]
    scalars: list[ScalarArgument] = []
    grid: list[int | str] = Field(description="Work-items along one to three dimensions. " + SHAPE, examples=[["n"]])
    local: list[int | str] = Field(
        [], description="Work-items of a work-group along each, where it is not left to the runtime; the grid is rounded up to whole groups."
    )
    options: list[str] | str = Field([], description="For the compiler.", examples=[["-DTILE=16"]])
    reference: ReferenceOperation | str | None = None


class Compilation(BaseModel):
    """How compiling went: `cache` is `hit` where the disk had it already, else `miss`; `seconds` it took; the task that did it."""

    cache: str
    seconds: float
    device: str | None = None
    backend: str | None = None
    log: str = ""
    task_id: str | None = None


class KernelSummary(BaseModel):
    """A registered kernel; `version` counts its changes."""

    name: str
    language: str
    inputs: list[ArrayArgument]
    outputs: list[ArrayArgument]
    scalars: list[ScalarArgument]
    grid: list[int | str]
    local: list[int | str]
    options: list[str]
    reference: ReferenceOperation | None
    version: int
    signature: str
    created_at: str
    compiled: Compilation
    verified: dict[str, Any] | None = Field(None, description="How this version's last verification went; null where it was not verified.")
    tuning: dict[str, Any] | None = Field(None, description="What its last tuning found.")


class KernelInfo(KernelSummary):
    """A registered kernel with its source; `tuned` are the values that tuning found best, by sizes."""

    source: str
    tuned: list[dict[str, Any]] = []


class KernelList(BaseModel):
    kernels: list[KernelSummary]


def router(services: Services, bodies: BodyReader) -> APIRouter:
    routes = APIRouter(tags=["kernels"])
    kernels = services.kernels

    async def add(scope: Scope, receive: Receive, send: Send) -> None:
        if media_type(headers(scope).get(b"content-type")) != JSON:
            raise UnsupportedMediaType(f"the Content-Type must be {JSON}", field="Content-Type")
        document = parse_json(await bodies.read(scope, receive, LARGEST))
        who, name = principal(scope), str(document.get("name")) if isinstance(document, dict) else ""
        there = any(kernel["name"] == name for kernel in kernels.list(principal=who))
        if there:
            services.access.kernel(who, name, f"to replace the kernel {name[:100]}")
        made = await kernels.add(document, principal=who, replace=services.access.may_replace(who, name))
        services.access.registered(who, name, anew=not there)
        await respond(send, 201, JSON.encode(), [to_json(made)], [(b"location", f"/kernels/{made['name']}".encode())])

    failed = (422, "compile_error", "It does not compile (`log`, `lines`), or a field is not right, or no device here runs its language.",
              "saxpy does not compile: line 2: use of undeclared identifier 'b'")  # fmt: skip
    plain(
        routes, "POST", "/kernels", add, "add_kernel",
        summary="Register a kernel",
        description="It is compiled at once, in a kernel worker; what was compiled once for a device and driver is kept on disk. Then tasks call it "
        "by its name, with the inputs and scalars as parameters. A kernel of that name that is there already is replaced: `version` counts the "
        "changes. "
        "A kernel is native code that runs with the server's rights, in processes of its own.",
        status_code=201, response_model=KernelInfo,
        responses={201: example(examples.KERNEL), **problems(400, 408, 413, 415, failed, 429, 503, 507)},
        openapi_extra=body({"$ref": "#/components/schemas/KernelRequest"}, examples=examples.KERNEL_REQUESTS),
    )  # fmt: skip

    @routes.get("/kernels", response_model=KernelList, responses={200: example(examples.KERNELS), **problems(503)})
    async def list_kernels(request: Request) -> Response:
        """List the kernels, without their sources."""
        return json_response({"kernels": list(kernels.list(principal=principal(request.scope)))})

    @routes.get("/kernels/{name}", response_model=KernelInfo, responses={200: example(examples.KERNEL), **problems(404, 503)})
    async def get_kernel(request: Request, name: Annotated[str, Path(description="The kernel's name.")]) -> Response:
        """A kernel with its source, and how compiling it went."""
        return json_response(kernels.get(name, principal=principal(request.scope)))

    @routes.delete("/kernels/{name}", status_code=204, response_class=Response, responses=problems(404, 503, 507))
    async def delete_kernel(request: Request, name: Annotated[str, Path(description="The kernel's name.")]) -> Response:
        """Give a kernel up. Tasks that were submitted before still run."""
        who = principal(request.scope)
        services.access.kernel(who, name, f"to delete the kernel {name[:100]}")
        await kernels.remove(name, principal=who)
        services.access.removed(who, name)
        return Response(status_code=204)

    return routes
