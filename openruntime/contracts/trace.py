"""W3C trace contexts: how a task says to which distributed trace it belongs.

Source: https://www.w3.org/TR/trace-context/#traceparent-header
"""

import re
from typing import Final

# versions after 00 may append fields
_FORM: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-[!-~]{0,200})?").fullmatch
_KNOWN = 55  # characters that every version has


def checked(traceparent: str) -> str | None:
    """The header's fields that are known here; None where it is not valid, which counts as not sent."""
    found = _FORM(traceparent)
    if found is None:
        return None
    version, trace, parent, more = found.groups()
    if version == "ff" or (version == "00" and more) or not trace.strip("0") or not parent.strip("0"):
        return None
    return traceparent[:_KNOWN]


def ids(traceparent: str | None) -> dict[str, str]:
    """`trace_id` and `parent_id` (the span that asked) of a checked header; nothing where there was none."""
    return {"trace_id": traceparent[3:35], "parent_id": traceparent[36:52]} if traceparent is not None else {}
