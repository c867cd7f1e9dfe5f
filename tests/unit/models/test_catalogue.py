"""Models and operations under one name space, and what a request to a model must look like."""

from typing import Any

import msgspec
import pytest

from openruntime.contracts.ai import ModelSpec
from openruntime.contracts.errors import InvalidParameter, ModelNotFound, UnknownOperation
from openruntime.contracts.payload import Array
from openruntime.contracts.records import Call
from openruntime.models.catalogue import ModelCatalogue
from openruntime.operations.catalogue import OperationCatalogue
from tests.models.few import Few, few


@pytest.fixture
def models() -> Few:
    return few()


@pytest.fixture
def catalogue(models: Few) -> ModelCatalogue:
    return ModelCatalogue(OperationCatalogue(), models)


@pytest.mark.parametrize(
    ("model", "parameters", "field", "said"),
    [
        ("echo", {}, "messages", "neither"),
        ("echo", {"prompt": "a", "messages": []}, "messages", "not both"),
        ("echo", {"messages": []}, "messages", "empty"),
        ("echo", {"messages": "hello"}, "messages", "array"),
        ("echo", {"messages": [{"role": "king", "content": "a"}]}, "messages", r"messages\[0\].role"),
        ("echo", {"messages": [{"role": "user"}]}, "messages", r"messages\[0\].content"),
        ("echo", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages", "image_url"),
        ("echo", {"prompt": "a", "temprature": 1}, "temprature", "temperature"),
        ("echo", {"prompt": "a", "temperature": 3}, "temperature", "from 0 to 2"),
        ("echo", {"prompt": "a", "temperature": float("nan")}, "temperature", "nan"),
        ("echo", {"prompt": "a", "max_tokens": 0}, "max_tokens", "from 1"),
        ("echo", {"prompt": "a", "seed": -1}, "seed", "from 0"),
        ("echo", {"prompt": "a", "max_tokens": "many"}, "max_tokens", "int"),
        ("echo", {"prompt": "a", "stop": [""]}, "stop", "not empty"),
        ("echo", {"prompt": "a", "tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools", "letters"),
        ("echo", {"prompt": "a", "tools": [{"name": "f"}]}, "tools", r"tools\[0\]"),
        ("echo", {"prompt": "a", "tool_choice": "required"}, "tool_choice", "none"),
        ("echo", {"prompt": "a", "response_format": {"type": "xml"}}, "response_format", "json_schema"),
        ("echo", {"prompt": "a", "response_format": {"type": "json_schema"}}, "response_format", "schema"),
        ("echo", {"input": "a"}, "input", "embed"),
        ("numbers", {"prompt": "a"}, "prompt", "input"),
        ("numbers", {"input": []}, "input", "1 to 2048"),
        ("numbers", {"input": ["a", 1]}, "input", "list"),
    ],
)
def test_what_is_wrong_is_named(catalogue: ModelCatalogue, model: str, parameters: dict[str, Any], field: str, said: str) -> None:
    with pytest.raises(InvalidParameter, match=said) as caught:
        catalogue.bind(model, parameters)
    assert caught.value.field == field


def test_images_go_to_models_elsewhere_unless_they_are_said_to_be_blind() -> None:
    def ask(url: str, **options: Any) -> Call:
        spec = ModelSpec(name="eyes", adapter="openai", source="http://127.0.0.1:9/v1", options=options)
        parts = [{"type": "image_url", "image_url": {"url": url}}]
        return ModelCatalogue(OperationCatalogue(), Few(spec)).bind("eyes", {"messages": [{"role": "user", "content": parts}]})

    assert ask("https://example.com/a.png").parameters["messages"][0]["content"][0]["image_url"] == {"url": "https://example.com/a.png"}
    with pytest.raises(InvalidParameter, match="https://"):
        ask("ftp://example.com/a.png")
    with pytest.raises(InvalidParameter, match="`text` only"):
        ask("https://example.com/a.png", images=False)


def test_arrays_are_refused(catalogue: ModelCatalogue) -> None:
    with pytest.raises(InvalidParameter, match="no array") as caught:
        catalogue.bind("echo", {"prompt": Array("uint8", (1,), b"a")})
    assert caught.value.field == "prompt"
    with pytest.raises(InvalidParameter, match="send JSON"):
        catalogue.first_array("echo")
    assert catalogue.first_array("sum") == "x"


@pytest.mark.parametrize("parameters", [
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]},
    {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}, {"role": "tool", "tool_call_id": "1", "content": "a"}]},
    {"prompt": "", "max_tokens": None, "stop": ["a"], "temperature": 0},
    {"prompt": "a", "tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": {"type": "function", "function": {"name": "f"}}},
    {"prompt": "a", "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}},
])  # fmt: skip
def test_what_is_right_is_taken_as_it_is(catalogue: ModelCatalogue, parameters: dict[str, Any]) -> None:
    call = catalogue.bind("echo", parameters)
    assert call.parameters == {name: value for name, value in parameters.items() if value is not None}
    assert (call.operation, call.requires, call.cacheable) == ("echo", "model:echo:1", parameters.get("temperature") == 0)


def test_names_and_descriptions(catalogue: ModelCatalogue) -> None:
    assert {"matmul", "echo", "numbers"} <= set(catalogue.names())
    assert catalogue.names().count("sum") == 1
    echo, numbers = catalogue.describe("echo"), catalogue.describe("numbers:1")
    assert (echo["family"], echo["backends"], echo["devices"], echo["outputs"]) == ("models", ["vocal"], ["cpu:0"], ["answer"])
    assert {"messages", "prompt", "temperature", "tools"} <= set(echo["parameters"]["properties"])
    assert echo["model"]["license"] == "MIT"
    assert list(numbers["parameters"]["properties"]) == ["input"]
    assert catalogue.describe("mute")["devices"] == ["io"]
    assert catalogue.describe("sum")["family"] != "models"
    msgspec.json.encode([catalogue.describe(name) for name in catalogue.names()])


def test_an_operation_goes_before_a_model_of_its_name(catalogue: ModelCatalogue, models: Few) -> None:
    assert catalogue.bind("sum:1", {"prompt": "a"}).requires == "model:sum:1"
    assert not catalogue.bind("sum", {"x": Array("float64", (1,), bytes(8))}).requires
    with pytest.raises(UnknownOperation, match="did you mean echo"):
        catalogue.bind("ecco", {"prompt": "a"})
    del models.specs["echo:1"]
    with pytest.raises(UnknownOperation):
        catalogue.bind("echo", {"prompt": "a"})


def test_what_a_name_meant_once_it_means_again(catalogue: ModelCatalogue, models: Few) -> None:
    before = catalogue.bind("echo", {"prompt": "a"})
    models.specs = {"echo:2": msgspec.structs.replace(models.specs["echo:1"], version="2"), **models.specs}
    models.now = {"echo": "echo:2"}
    assert catalogue.bind("echo", {"prompt": "a"}).requires == "model:echo:2"
    assert catalogue.bind("echo", {"prompt": "a"}, before).requires == "model:echo:1"
    del models.specs["echo:1"]
    with pytest.raises(ModelNotFound):
        catalogue.bind("echo", {"prompt": "a"}, before)


def test_every_tenant_has_the_models(catalogue: ModelCatalogue) -> None:
    other = catalogue.of("other")
    assert other is catalogue.of("other")
    assert other.bind("echo", {"prompt": "a"}).requires == "model:echo:1"
