"""Agents over a real server: the SDK, the command line, tokens at the door, and a restart."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

import openruntime
from benchmarks.servers import Server
from openruntime.contracts.records import Principal
from openruntime.security.tokens import TokenIssuer, secret
from tests.models.upstream import upstream

Start = Callable[..., AbstractContextManager[Server]]
ENVIRONMENT = {"OPENRUNTIME_BACKENDS": "numpy"}


@pytest.fixture(scope="module")
def agents_server(start_server: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start_server(data_dir=tmp_path_factory.mktemp("agents"), environment=ENVIRONMENT) as server:
        yield server


def command(server: Server, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "openruntime.cli.main", "ai", *arguments], input=given, capture_output=True, text=True, timeout=100, check=False,
        env={**os.environ, "OPENRUNTIME_SERVER": server.url},
    )  # fmt: skip


def test_the_sdk_lists_asks_and_follows(agents_server: Server) -> None:
    heard: list[str] = []
    with openruntime.connect(agents_server.url) as rt:
        names = [agent["name"] for agent in rt.ai.agents()]
        assert {"analyst", "debugger", "developer", "optimizer"} <= set(names)
        run = rt.ai.ask("Say hello.", workflow="model_inference", max_tokens=8, temperature=0, heard=lambda kind, data: heard.append(kind))
        assert run["status"] == "completed", run
        assert run["result"]["text"]
        assert heard[0] == "started"
        assert heard[-1] == "finished"
        assert rt.ai.get(run["task_id"])["result"] == run["result"]
        assert run["task_id"] in [entry["task_id"] for entry in rt.ai.all()]
        session = rt.ai.new_session("Talk")
        rt.ai.ask("I am Ada.", workflow="model_inference", max_tokens=4, session=session["id"])
        assert rt.ai.session(session["id"])["messages"][0]["content"] == "I am Ada."
        rt.ai.forget(session["id"])
        with pytest.raises(openruntime.errors.NotFound):
            rt.ai.session(session["id"])
        with pytest.raises(openruntime.errors.NotFound):
            rt.ai.ask("x", workflow="model_inference", model="none-such")


def test_the_sdk_works_embedded() -> None:
    pieces: list[str] = []

    def heard(kind: str, data: Any) -> None:
        if kind == "delta":
            pieces.append(data["text"])

    with openruntime.connect() as rt:
        run = rt.ai.ask("Say hello.", workflow="model_inference", max_tokens=8, temperature=0, heard=heard)
    assert run["status"] == "completed", run
    assert "".join(pieces) == run["result"]["text"]


def test_the_command_line_asks_and_shows_what_it_cost(agents_server: Server) -> None:
    done = command(agents_server, "ask", "Say hello.", "-w", "model", "--max-tokens", "8", "--temperature", "0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "tokens" in done.stderr
    assert "smollm2-135m-instruct:1" in done.stderr
    as_json = command(agents_server, "ask", "Say hello.", "-w", "model", "--max-tokens", "8", "--temperature", "0", "--json")
    run = json.loads(as_json.stdout)
    assert run["result"]["text"].strip() == done.stdout.strip()
    assert run["spent"]["tokens"]["cached"] > 0, "the same deterministic question was answered from the cache"
    listed = command(agents_server, "agents")
    assert "debugger" in listed.stdout
    assert "devices:write" in listed.stdout


def test_the_command_line_talks_in_a_session(agents_server: Server) -> None:
    done = command(agents_server, "chat", "-w", "model", "--max-tokens", "4", given="My name is Ada.\nWho am I?\n\n")
    assert done.returncode == 0, done.stderr
    assert "session " in done.stderr
    listed = json.loads(command(agents_server, "sessions", "--json").stdout)
    assert listed[0]["turns"] == 4


@pytest.mark.parametrize("arguments", [("-b", "tokens=many"), ("-b", "tokens"), ("-b", "money=1"), ("-w", "poetry"), ("-m", "none-such")])
def test_the_command_line_refuses_what_makes_no_sense(agents_server: Server, arguments: tuple[str, ...]) -> None:
    done = command(agents_server, "ask", "x", *arguments)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr


def test_tokens_at_the_door(agents_server: Server) -> None:
    """One that this server issued counts; one that it did not is ignored while authentication is off; one that was changed is 401."""
    assert agents_server.data_dir is not None
    issuer = TokenIssuer(lambda: secret(agents_server.data_dir))
    looking = issuer.issue(Principal("local/analyst:0", "local", frozenset({"tasks:read"})), seconds=60)
    kept = agents_server.data_dir / "token-secret"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600

    def ask(method: str, path: str, token: str, body: Any = None) -> int:
        reply = httpx.request(method, f"{agents_server.url}{path}", json=body, headers={"Authorization": f"Bearer {token}"}, trust_env=False)
        assert reply.status_code < 400 or reply.headers["content-type"] == "application/problem+json"
        return reply.status_code

    task = {"operation": "sum", "parameters": {"x": [1, 2]}}
    assert ask("GET", "/devices", looking) == 200
    assert ask("POST", "/tasks", looking, task) == 403
    assert ask("POST", "/tasks", "sk-of-somebody-else", task) == 202
    assert ask("GET", "/devices", f"{looking[:-2]}xx") == 401
    assert ask("GET", "/devices", issuer.issue(Principal(), seconds=-1)) == 401
    assert ask("GET", "/devices", TokenIssuer(lambda: b"guessed").issue(Principal(), seconds=60)) == 401


def test_a_run_that_a_kill_cut_off_says_so(start_server: Start, tmp_path: Path) -> None:
    answers = {"/v1/models": {"data": [{"id": "never"}]}, "/v1/chat/completions": b"slow"}
    with upstream(answers) as slow, start_server(data_dir=tmp_path, environment=ENVIRONMENT) as server, openruntime.connect(server.url) as rt:
        ended = rt.ai.ask("Say hello.", workflow="model_inference", max_tokens=4, temperature=0)
        never = {"url": f"{slow.url}/v1", "upstream": "never", "name": "never"}
        httpx.post(f"{server.url}/ai/models", json=never, trust_env=False).raise_for_status()
        begun = rt.ai.start("Say hello.", workflow="model_inference", model="never")
        deadline = time.monotonic() + 20
        while slow.keys[-1][0] != "/v1/chat/completions":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait(10)
    with start_server(data_dir=tmp_path, environment=ENVIRONMENT) as server, openruntime.connect(server.url) as rt:
        assert rt.ai.get(ended["task_id"])["result"] == ended["result"]
        cut = rt.ai.get(begun["task_id"])
        assert (cut["status"], cut["error"]) == ("failed", "the server stopped while this ran; ask again")
        assert [kind for kind, _ in rt.ai.follow(begun["task_id"])] == ["finished"]


def test_the_servers_process_stays_light() -> None:
    """Neither NumPy nor pydantic-ai, nor the HTTP client that agents use, before an agent is asked."""
    code = """
import sys
from openruntime.core.api import create_app
from openruntime.core.config import Settings
create_app(Settings.load({"store": "memory"}))
print(sorted({"numpy", "pydantic_ai", "httpx", "openai"} & set(sys.modules)))
import openruntime.ai.agents.run
print("numpy" in sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30).stdout.split("\n")
    assert found[:2] == ["[]", "False"]
