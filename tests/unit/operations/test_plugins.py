"""Operations of installed packages, sound and broken: one that is broken harms nobody else."""

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from openruntime.contracts.errors import BrokenPlugin, UnknownOperation
from openruntime.contracts.payload import Array
from openruntime.contracts.registry import Registry
from openruntime.operations.catalogue import OperationCatalogue

X = Array("float32", (1000,), bytes(4000))

SOUND = """
    from openruntime.operations import Array, Namespace, operation

    @operation
    def {name}(x: Array, *, xp: Namespace) -> Array:
        \"\"\"{doc}.\"\"\"
        return 3 * x
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Puts a package on the path: its module's source, and what it registers."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def put(package: str, source: str, *entries: str, group: str = "openruntime.operations") -> None:
        (tmp_path / f"{package}.py").write_text(textwrap.dedent(source))
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *entries]) + "\n")

    yield put
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


def sound(name: str, doc: str = "Three times `x`") -> str:
    return SOUND.format(name=name, doc=doc)


def test_a_plugin_brings_operations_through_entry_points(install: Callable[..., None]) -> None:
    install("plug", sound("triple"), "triple = plug:triple")
    catalogue = OperationCatalogue()
    assert {"triple", "matmul"} <= set(catalogue.names())
    assert catalogue.describe("triple")["family"] == "plug"
    assert catalogue.bind("triple", {"x": X}).outputs["output"].shape == (1000,)
    assert catalogue.broken() == {}


BROKEN = {
    "ImportError": ("from math import cube", "ImportError: cannot import name 'cube' from 'math'"),
    "missing library": ("import nonesuch", "ModuleNotFoundError: No module named 'nonesuch'"),
    "missing part of OpenRuntime": ("import openruntime.nonesuch", "ModuleNotFoundError: No module named 'openruntime.nonesuch'"),
    "SyntaxError": ("def cube(:", "SyntaxError: invalid syntax"),
    "any error": ("1 / 0", "ZeroDivisionError: division by zero"),
    "exit": ("import sys; sys.exit('goodbye')", "SystemExit: goodbye"),
    "no such attribute": ("", "AttributeError: module 'broken' has no attribute 'cube'"),
    "no operation": ("def cube(x): ...", "lacks @operation"),
    "another name": (sound("sphere").replace("\n    ", "\n") + "\ncube = sphere", "the function is called sphere"),
    "no annotation": (sound("cube").replace("\n    ", "\n").replace("x: Array", "x"), "needs a name and an annotation"),
    "odd annotation": (sound("cube").replace("\n    ", "\n").replace("x: Array", "x: type(sys)").replace("from", "import sys\nfrom", 1), "TypeError"),
}


@pytest.mark.parametrize(("source", "words"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plugin_is_left_out_with_one_line(install: Callable[..., None], source: str, words: str, caplog: pytest.LogCaptureFixture) -> None:
    install("broken", source, "cube = broken:cube")
    install("plug", sound("triple"), "triple = plug:triple")
    catalogue = OperationCatalogue()
    assert "triple" in catalogue.names()
    assert "cube" not in catalogue.names()
    assert [catalogue.describe(name)["name"] for name in catalogue.names()] == list(catalogue.names())
    for use in (catalogue.get, catalogue.describe, catalogue.first_array, lambda name: catalogue.bind(name, {"x": X})):
        with pytest.raises(BrokenPlugin) as caught:
            use("cube")
        assert (caught.value.code, caught.value.status, caught.value.retryable) == ("unavailable", 503, False)
        assert caught.value.message.startswith("operation cube of package broken cannot be loaded: ")
        assert words in caught.value.message
    assert catalogue.broken() == {"cube": caught.value.message}
    with pytest.raises(UnknownOperation):
        catalogue.get("matmull")
    assert [record.message for record in caplog.records] == [caught.value.message]
    assert "\n" not in caught.value.message


def test_the_reason_is_given_at_the_first_use_too(install: Callable[..., None]) -> None:
    install("broken", "1 / 0", "cube = broken:cube")
    with pytest.raises(BrokenPlugin, match="package broken cannot be loaded: ZeroDivisionError"):
        OperationCatalogue().bind("cube", {"x": X})


def test_a_built_in_name_stays_built_in(install: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    install("plug", sound("softmax"), "softmax = plug:softmax")
    catalogue = OperationCatalogue()
    assert catalogue.names().count("softmax") == 1
    assert catalogue.describe("softmax")["family"] == "neural"
    assert [record.message for record in caplog.records] == ["operation softmax of package plug is left out: the built-in one has that name"]


def test_of_two_plugins_of_one_name_the_first_by_package_is_taken(install: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    install("second", sound("triple", "The second's"), "triple = second:triple")
    install("first", sound("triple", "The first's"), "triple = first:triple")
    catalogue = OperationCatalogue()
    assert catalogue.names().count("triple") == 1
    assert catalogue.describe("triple")["summary"] == "The first's."
    assert [record.message for record in caplog.records] == ["operation triple of package second is left out: package first has that name"]


def test_a_broken_backend_of_a_package_is_translated(install: Callable[..., None]) -> None:
    install("chip", "import nonesuch", "chip = chip:Backend", group="openruntime.backends")
    registry = Registry("openruntime.backends", {"numpy": ("openruntime.backends.cpu:NumpyBackend", "")})
    assert registry.names() == ["numpy", "chip"]
    with pytest.raises(BrokenPlugin, match=r"^backend chip of package chip cannot be loaded: ModuleNotFoundError: No module named 'nonesuch'$"):
        registry.load("chip")
    assert list(registry.broken()) == ["chip"]
    assert registry.load("numpy").name == "numpy"


def test_what_an_author_needs_comes_from_one_place_and_is_light() -> None:
    program = """
        import sys
        import openruntime.operations as author
        assert "openruntime.operations.definition" not in sys.modules
        from openruntime.operations import Array, Estimate, InvalidParameter, Namespace, Number, OperationFailed, Spec, Steps, operation
        import openruntime.operations.catalogue
        assert all(hasattr(author, name) for name in author.__all__)
        assert not hasattr(author, "nothing")
        assert isinstance(operation(lambda: 0), author.Operation)
        assert not {"numpy", "scipy", "fastapi"} & sys.modules.keys()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)
