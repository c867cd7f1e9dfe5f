"""`/docs`: Swagger UI from the package `fastapi_offline`, so that it works without internet."""

from importlib.resources import files

from fastapi import FastAPI, Response

from openruntime.contracts.errors import NotFound

_TYPES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "favicon.png": "image/png"}
_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>OpenRuntime API</title>
<link rel="stylesheet" href="docs/swagger-ui.css"><link rel="icon" href="docs/favicon.png"></head>
<body><div id="swagger-ui"></div><script src="docs/swagger-ui-bundle.js"></script><script src="docs/start.js"></script></body></html>
"""
_START = 'SwaggerUIBundle({ url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null });'
_POLICY = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'"


def add(app: FastAPI) -> None:
    """Adds `/docs`; `/openapi.json` is FastAPI's own."""

    @app.get("/docs", include_in_schema=False)
    async def page() -> Response:
        return Response(_PAGE, media_type="text/html", headers={"Content-Security-Policy": _POLICY})

    @app.get("/docs/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        if name == "start.js":
            return Response(_START, media_type="text/javascript")
        if name not in _TYPES:
            raise NotFound("there is no such file; the documentation is at /docs")
        body = (files("fastapi_offline") / "static" / name).read_bytes()
        return Response(body, media_type=_TYPES[name], headers={"Cache-Control": "max-age=86400"})
