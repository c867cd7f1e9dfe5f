"""`/docs`: Swagger UI from the package `swagger_ui_bundle`, so that it works without internet."""

from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import FastAPI, Request, Response

from openruntime.contracts.errors import NotFound

_TYPES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "favicon-32x32.png": "image/png"}
_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>OpenRuntime API</title>
<link rel="stylesheet" href="docs/swagger-ui.css"><link rel="icon" href="docs/favicon-32x32.png"></head>
<body><div id="swagger-ui"></div><script src="docs/swagger-ui-bundle.js"></script><script src="docs/start.js"></script></body></html>
"""
# version 4 of Swagger UI shows what we use of OpenAPI 3.1, but refuses documents that say so
_START = """fetch("openapi.json").then((answer) => answer.json()).then((spec) => {
  spec.openapi = "3.0.3";
  SwaggerUIBundle({ spec, dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null });
});
"""
_POLICY = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'"


@cache
def _assets() -> Traversable:
    """The folder with Swagger UI's files."""
    vendor = files("swagger_ui_bundle") / "vendor"
    return next(folder for folder in vendor.iterdir() if (folder / "swagger-ui-bundle.js").is_file())


def add(app: FastAPI) -> None:
    """Adds `/docs`; `/openapi.json` is FastAPI's own."""

    @app.get("/docs", include_in_schema=False)
    async def page() -> Response:
        return Response(_PAGE, media_type="text/html", headers={"Content-Security-Policy": _POLICY})

    @app.get("/docs/{name}", include_in_schema=False)
    async def asset(name: str, request: Request) -> Response:
        if name == "start.js":
            return Response(_START, media_type="text/javascript")
        if name not in _TYPES:
            raise NotFound("there is no such file; the documentation is at /docs")
        return Response((_assets() / name).read_bytes(), media_type=_TYPES[name], headers={"Cache-Control": "max-age=86400"})
