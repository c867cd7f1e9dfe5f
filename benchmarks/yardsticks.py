"""What OpenRuntime is measured against: a raw ASGI echo (the HTTP server's own ceiling), and FastAPI computing inline.

Neither has a queue, a worker, a record or durability. Start: `uvicorn benchmarks.yardsticks:echo` (or `inline`).
"""

from collections.abc import Awaitable, Callable
from typing import Any

import safetensors.numpy
from fastapi import FastAPI, Request, Response

MEDIA = "application/x-safetensors"


async def echo(scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    """The body back, as it came."""
    chunks = []
    while True:
        message = await receive()
        chunks.append(message.get("body", b""))
        if not message.get("more_body"):
            break
    body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    headers = [(b"content-type", MEDIA.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


inline = FastAPI(openapi_url=None)


@inline.get("/health/ready")
async def ready() -> dict[str, str]:
    return {"status": "ready"}


@inline.post("/tasks")
async def run(request: Request) -> Response:
    """Works A and B the way most people would write them: in the handler."""
    arrays = safetensors.numpy.load(await request.body())
    output = arrays["a"] @ arrays["b"] if "a" in arrays else 2 * arrays["x"] + 1
    return Response(safetensors.numpy.save({"output": output}), media_type=MEDIA)
