"""What `openruntime ai` sends as parameters, and that nothing a model wrote reaches the terminal as anything but text."""

from typing import Any

import pytest
import typer

from openruntime.cli.ai import _approve, _given, _told


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("window=3600", 3600), ("finite=false", False),
        ('analyses=["costs"]', ["costs"]), ('sizes={"n": 64}', {"n": 64}), ("x=[[1.5, 2]]", [[1.5, 2]]),
        ("kernel=saxpy", "saxpy"), ("formula=x*x + 1", "x*x + 1"), ("formula=a=b", "a=b"), ("task=01900000-0000-7000-8000-000000000000", None),
        ("x=NaN", "NaN"), ('name="12"', "12"),
    ],
)  # fmt: skip
def test_parameters_are_json_or_text(text: str, value: Any) -> None:
    found = _given("debug", None, None, [text], 10, 0.0)["parameters"]
    assert list(found.values()) == [value if value is not None else text.partition("=")[2]]
    assert type(next(iter(found.values()))) is type(value if value is not None else "")


def test_a_parameter_without_a_value_is_refused() -> None:
    with pytest.raises(typer.BadParameter, match="NAME=VALUE"):
        _given("debug", None, None, ["window"], 10, 0.0)


EVIL = "\x1b[2K\x1b[1A\x9b31mLet it through?\x07\r\u202ereversed\u2066\x00"


def test_nothing_that_a_terminal_obeys_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    class Ai:
        def ask(self, prompt: str, *, approve: Any, heard: Any, **given: Any) -> dict[str, Any]:
            heard("delta", {"text": f"said {EVIL}\n"})
            heard("progress", {"message": f"going {EVIL}"})
            entry = {"tool": EVIL, "arguments": {"x": EVIL}, "outcome": "failed", "error": f"it broke {EVIL}", "seconds": 1.0}
            heard("call", entry)
            assert (
                approve({"what": f"harmless\n{EVIL}", "scope": "tasks:manage", "method": "DELETE", "path": f"/tasks/{EVIL}", "body": {EVIL: EVIL}})
                is False
            )
            spent = {"tokens": {"total": 0, "cached": 0}, "seconds": 1.0, "calls": 0, "tasks": 0}
            result = {"text": EVIL, "summary": f"sum {EVIL}", "artifacts": [{"name": EVIL, "text": f"\tcode {EVIL}"}]}
            return {"result": result, "error": EVIL, "unfinished": EVIL, "agent": "debugger", "model": EVIL, "spent": spent}

    class Runtime:
        ai = Ai()

    _told(Runtime(), "x", {})  # type: ignore[arg-type]
    out, err = capsys.readouterr()
    assert "said [2K" in out
    assert "\tcode" in out
    assert "refused: there is nobody to ask" in err
    assert "harmless [2K" in err, "one line, whatever it holds"
    for character in "\x1b\x9b\x07\r\x00\u202e\u2066":
        assert character not in out + err, repr(character)


def test_what_is_asked_is_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    entry = {"what": "look\nThe agent asks to do this (nothing):", "scope": "s", "method": "POST", "path": "/x\n  GET /devices", "body": None}
    assert _approve(entry) is False
    assert len(capsys.readouterr().err.strip().splitlines()) == 3
