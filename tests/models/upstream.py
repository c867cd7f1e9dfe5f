"""A real HTTP server that lists models as Ollama and OpenAI's API do, or lies."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Upstream:
    """`answers`: path -> a JSON value, bytes, or (status, bytes). `keys`: what came as `Authorization`, by path."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.keys: list[tuple[str, str | None]] = []
        self.url = ""

    @property
    def host(self) -> str:
        return self.url.removeprefix("http://")


@contextlib.contextmanager
def upstream(answers: dict[str, Any]) -> Iterator[Upstream]:
    told = Upstream(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.keys.append((self.path, self.headers.get("Authorization")))
            found = told.answers.get(self.path, (404, b"{}"))
            status, body = found if isinstance(found, tuple) else (200, found if isinstance(found, bytes) else json.dumps(found).encode())
            self.send_response(status)
            if status == 302:
                self.send_header("Location", body.decode())
                body = b""
            self.end_headers()
            with contextlib.suppress(OSError):
                if body == b"slow":
                    for _ in range(200):
                        self.wfile.write(b" ")
                        time.sleep(0.05)
                self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    told.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


OLLAMA = {
    "models": [
        {"name": "llama3.2:1b", "size": 1321098329, "digest": "ab" * 32, "details": {"family": "llama"}},
        {"name": "llama3.2:latest", "size": 2019393189, "digest": "cd" * 32, "details": {"family": "llama"}},
        {"name": "nomic-embed-text:latest", "size": 274302450, "digest": "ef" * 32, "details": {"family": "nomic-bert"}},
        {"name": "hf.co/who/Some-Model-GGUF:Q4_K_M", "size": 1, "details": None},
        {"name": 3}, "rubbish", {"name": "<b>:x y"},
    ]
}  # fmt: skip
