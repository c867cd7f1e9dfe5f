"""JSON schemas as grammars of llguidance, which llama.cpp holds an answer to.

Of one that llguidance cannot hold to llama.cpp says so in its log, and lets the model write what it likes: so each is tried first.
Source of their form: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md and json_schema.md there.
"""

import json
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from openruntime.contracts.errors import InvalidParameter

HEAD = "%llguidance {}\n"
KEPT = 512  # grammars whose verdict is remembered
# as models write it; where any space may stand, small ones write spaces for ever
_LOOK = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "coerce_one_of": True}
_NEVER = "Z"  # no JSON begins with it
_REASON = re.compile(r"llg error: (?:at \d+\(\d+\): )?(?:failed to compile JSON schema: )?(.+?)(?=\n +1 \| |\n\S+ E |\Z)", re.DOTALL)


def held(schema: Any) -> dict[str, Any]:
    return {**(schema if isinstance(schema, dict) else {}), "x-guidance": _LOOK}


def shape_of(response_format: dict[str, Any] | None) -> Any | None:
    """The schema that it asks for; None where it asks for none."""
    told = response_format or {}
    if told.get("type") == "json_schema":
        return told["json_schema"]["schema"]
    return {"type": "object"} if told.get("type") == "json_object" else None


def json_grammar(schema: Any) -> str:
    """Of JSON by `schema`, and nothing before or after it."""
    return f"{HEAD}start: %json {json.dumps(held(schema))}"


def trial(grammar: str) -> dict[str, Any]:
    """A request whose answer is what no JSON begins with, unless the grammar holds."""
    return {"prompt": "x", "n_predict": 1, "temperature": 0, "logit_bias": [[_NEVER, 100]], "grammar": grammar, "cache_prompt": False}


def is_json(text: str, *, whole: bool) -> bool:
    """Whether it is some, or else may be the beginning of some."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return not whole and (error.pos >= len(text) - 6 or error.msg.startswith("Unterminated"))  # 6: of a literal, or of an escape
    except RecursionError:
        return not whole
    return True


class Verdicts:
    """Which schemas an engine can hold to. `ask` sends it a request and gives its answer's text; `log` is what it wrote of late."""

    def __init__(self) -> None:
        self._reasons: OrderedDict[str, str] = OrderedDict()

    async def check(self, schema: Any, field: str, ask: Callable[[dict[str, Any]], Awaitable[str]], log: Callable[[], Awaitable[str]]) -> None:
        """Raises `InvalidParameter` naming `field`."""
        grammar = json_grammar(schema)
        reason = self._reasons.get(grammar)
        if reason is None:
            said = await ask(trial(grammar))
            reason = "" if _NEVER not in said else _reason(await log())
            self._reasons[grammar] = reason
            if len(self._reasons) > KEPT:
                self._reasons.popitem(last=False)
        else:
            self._reasons.move_to_end(grammar)
        if reason:
            raise InvalidParameter(f"an answer cannot be held to this schema: {reason}", field=field)


def _reason(log: str) -> str:
    found = _REASON.findall(log)
    return " ".join(found[-1].split())[:300] if found else "it cannot be met, or has keywords that the engine does not know"
