"""What of a model's wording is shown: sentences whose every figure a tool gave. The others are left out, and that is said."""

import re
from collections.abc import Iterable, Iterator

import msgspec

from openruntime.ai.agents.analyst.facts import BYTES, RATE, RATIO, SECONDS
from openruntime.ai.agents.analyst.numbers import COUNT, FACTOR, SHARE, SIZE, SPEED, TIME, UNREADABLE, Number, numbers, plain
from openruntime.contracts.agents import Context, Report

LEFT_OUT = "*Left out: sentences with figures that no tool gave.*"
_SLACK = {TIME: 0.16, SIZE: 0.16, SHARE: 0.16, SPEED: 0.16, FACTOR: 0.16, COUNT: 0.16}  # most that rounding may change, of the value
_ABOUT_SLACK = 0.1
_UNITS = {TIME: (SECONDS,), SIZE: (BYTES,), SHARE: (RATIO,), FACTOR: ("times", RATIO), SPEED: (RATE,)}
_MEASURED = (SECONDS, BYTES, RATIO, RATE)
_CITE = re.compile(r"\[(m\d+(?:\s*,\s*m\d+)*)\]")
_SENTENCE = re.compile(r".+?(?:[.!?]+(?=\s|$|\[)(?:\s*\[m\d+(?:\s*,\s*m\d+)*\])*|$)", re.DOTALL)
_ORDER = re.compile(r"^\s*(\d{1,2})[.)]\s")
_NAMES = re.compile(
    r"\bp(?:50|75|90|95|99)\b|\b(?:50|75|90|95|99)th[- ]percentiles?\b|\b(?:float|int|uint|bfloat|complex)(?:8|16|32|64|128)\b",
    re.IGNORECASE,
)
_NAME = re.compile(r"[^\W\d_]|\d{4}-\d\d-\d\dT|[0-9a-f]{8}-")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT")
_MARKUP = re.compile(r"[*_~`\\]")
_CLAUSE = re.compile(r"[,;:](?!\d)|\b(?:and|but|while|whereas|than|versus|vs)\b")
_STATISTICS = {
    "p50": r"p50|median|50th", "p90": r"p90|90th", "p99": r"p99|99th", "longest": r"longest|max(?:imum)?|slowest|worst",
    "mean": r"mean|average[sd]?|avg",
}  # fmt: skip
_TOPICS = {
    "wait": r"wait\w*|queued", "run": r"run[- ]?times?|comput\w+|execution", "fail": r"fail\w*|errors?", "cache": r"cach\w+|hits?|misses",
    "baseline": r"baseline|original", "winner": r"winner|fastest",
}  # fmt: skip
_NO_NOUN = frozenset({
    "of", "is", "are", "was", "were", "be", "been", "and", "or", "but", "in", "on", "at", "to", "for", "from", "by", "with", "per", "as", "than",
    "then", "the", "a", "an", "has", "have", "had", "now", "more", "less", "most", "least", "it", "they", "here", "there", "all", "that", "this",
    "these", "those", "will", "would", "can",
})  # fmt: skip
_LAST = re.compile(r"\b(?:last|past|previous)\s*$", re.IGNORECASE)


class Figure(msgspec.Struct, frozen=True):
    """What a tool gave: `about` are the known names in its name, `subject` the words that say of what it is."""

    id: str
    name: str
    value: float
    unit: str
    about: frozenset[str]
    subject: frozenset[str]


def words(context: Context, text: str) -> str:
    """A role's `words`: see `checked`."""
    return checked(context.report, text)


def under_verdict(context: Context, text: str) -> str:
    """The `words` of a role that computes a verdict (`verdict` in its report's data): that first, then the text as `checked` leaves it."""
    return "\n\n".join(filter(None, (context.report.data.get("verdict"), checked(context.report, text))))


def checked(report: Report, text: str) -> str:
    """The text without sentences whose figures no tool gave; what is left has the ids of those that did."""
    names = _vocabulary(report)
    figures = list(_figures(report, names))
    kept: list[str] = []
    left_out = items = 0
    for line in plain(text).split("\n"):
        order = _ORDER.match(line)
        head = ""
        if order is not None and int(order[1]) == items + 1:
            head, line, items = line[: order.end()], line[order.end() :], items + 1
        parts = [line] if line.lstrip().startswith("|") else [part[0] for part in _SENTENCE.finditer(line)]
        judged = [_judged(part, figures, names, report) for part in parts]
        left_out += sum(part is None for part in judged)
        good = "".join(part for part in judged if part is not None)
        if good.strip() or not parts:
            kept.append(head + good)
    report.data["left_out"] = left_out
    found = "\n".join(kept).strip()
    return f"{found}\n\n{LEFT_OUT}".strip() if left_out else found


def _vocabulary(report: Report) -> "re.Pattern[str] | None":
    """Names that may hold digits. One that could be read as a figure is none."""
    given = {str(name) for name in report.data.get("names", []) if _NAME.match(str(name))}
    given = {name for name in given if " " not in name and len(name) > 1}
    if not given:
        return None
    listed = "|".join(re.escape(plain(name)) for name in sorted(given, key=len, reverse=True))
    return re.compile(rf"(?<![\w.:/-])(?:{listed})(?![\w])(?!\.\d)")


def _figures(report: Report, names: "re.Pattern[str] | None") -> Iterator[Figure]:
    for fact in report.facts:
        if isinstance(fact.value, int | float) and not isinstance(fact.value, bool):
            yield Figure(
                fact.source.partition(" ")[0],
                fact.name,
                float(fact.value),
                fact.unit,
                _mentions(fact.name, names),
                _nouns(f"{fact.name} {fact.unit}"),
            )
    for call, entry in report.data.get("calls", {}).items():
        for name, value, unit in entry.get("figures", ()):
            yield Figure(call, name, float(value), unit, _mentions(name, names), _nouns(name.rpartition(" ")[2]))


def _nouns(text: str) -> frozenset[str]:
    """Its words that can name a thing, in their singular."""
    return frozenset(word.rstrip("s") for word in re.findall(r"[^\W\d_]+", text.lower()) if word not in _NO_NOUN)


def _mentions(text: str, names: "re.Pattern[str] | None") -> frozenset[str]:
    """The things that it names; when is no thing."""
    if names is None:
        return frozenset()
    found = {hit[0] for hit in names.finditer(text) if not _MOMENT.match(hit[0])}
    return frozenset(found | {part for name in found if "/" in name for part in name.split("/")})


def _judged(part: str, figures: list[Figure], names: "re.Pattern[str] | None", report: Report) -> str | None:
    """The sentence, with the ids of what it cites, or None."""
    cited = [name.strip() for hit in _CITE.findall(part) for name in hit.split(",")]
    calls = report.data.get("calls", {})
    if any(name not in calls for name in cited):
        return None
    bare = _CITE.sub(lambda hit: " " * len(hit[0]), part)
    masked = names.sub(lambda hit: "\0" * len(hit[0]), bare) if names is not None else bare
    masked = _NAMES.sub(lambda hit: "\0" * len(hit[0]), masked)
    stripped, positions = _strip(masked)
    used: list[str] = []
    candidates = [figure for figure in figures if figure.id in cited] if cited else figures
    for number in numbers(stripped.replace("\0", " ")):
        if number.kind is TIME and _LAST.search(stripped[: number.start]) and _near(number, float(report.data.get("period") or -1.0)):
            continue
        at = positions[number.start] if number.start < len(positions) else len(bare)
        giver = next((figure for figure in candidates if _given(number, figure) and _fits(figure, bare, at, names)), None)
        if giver is None:
            return None
        used.append(giver.id)
    fresh = [name for name in dict.fromkeys(used) if name and name not in cited]
    return _cite(part, fresh) if fresh else part


def _strip(text: str) -> tuple[str, list[int]]:
    """Without the signs of Markdown, which a reader does not see; where each character left stood."""
    kept = [(i, character) for i, character in enumerate(text) if not _MARKUP.match(character)]
    return "".join(character for _, character in kept), [i for i, _ in kept]


def _given(number: Number, figure: Figure) -> bool:
    """Whether it is this figure, in another unit or rounded."""
    if number.kind == UNREADABLE:
        return False
    if number.kind == COUNT:
        return _counted(number, figure)
    if figure.unit not in _UNITS[number.kind]:
        return False
    return _near(number, figure.value) or (number.binary > 0 and abs(number.binary - figure.value) <= 0.005 * abs(figure.value))


def _counted(number: Number, figure: Figure) -> bool:
    """A number without a unit of measure: a count, whose noun must be its own; or a bare value as it is."""
    if figure.unit in _MEASURED:
        return number.noun == "" and number.step < 1 and _near(number, figure.value)
    noun, unit = number.noun.rstrip("s"), figure.unit.rstrip("s")
    if noun not in figure.subject | {unit} and number.noun not in _NO_NOUN | {""}:
        return False
    if figure.value.is_integer() and not number.about:
        return number.value == figure.value
    return _near(number, figure.value)


def _near(number: Number, actual: float) -> bool:
    off = abs(number.value - actual)
    slack = _ABOUT_SLACK if number.about else _SLACK[number.kind]
    return (off <= 0.5 * number.step * (1 + 1e-9) and off <= slack * abs(actual)) or off <= 1e-9 * abs(actual)


def _fits(figure: Figure, text: str, at: int, names: "re.Pattern[str] | None") -> bool:
    """Whether what the clause speaks of is what the figure is of: the things named, the statistic, the subject."""
    clause = _clause(text, at)
    if figure.unit not in _MEASURED and figure.unit != "times" and not figure.subject & (_nouns(clause) or _nouns(text[:at])):
        return False
    mentioned = _mentions(clause, names) or _last_mentioned(text[:at], names)
    if not mentioned <= figure.about or (figure.unit == "times" and figure.about and not mentioned):
        return False
    said, meant = _kinds(_STATISTICS, clause), _kinds(_STATISTICS, figure.name)
    if said and not said & meant:
        return False
    said, meant = _kinds(_TOPICS, clause), _kinds(_TOPICS, figure.name)
    return not said or not meant or bool(said & meant)


def _clause(text: str, at: int) -> str:
    if "|" in text:
        return text
    ends = [hit.end() for hit in _CLAUSE.finditer(text)]
    before = max((end for end in ends if end <= at), default=0)
    after = min((hit.start() for hit in _CLAUSE.finditer(text) if hit.start() > at), default=len(text))
    return text[before:after]


def _last_mentioned(text: str, names: "re.Pattern[str] | None") -> frozenset[str]:
    """What the nearest clause before that names anything names."""
    for clause in reversed(_CLAUSE.split(text)):
        if found := _mentions(clause, names):
            return found
    return frozenset()


def _kinds(kinds: dict[str, str], text: str) -> set[str]:
    return {kind for kind, pattern in kinds.items() if re.search(rf"\b(?:{pattern})\b", text, re.IGNORECASE)}


def _cite(part: str, ids: Iterable[str]) -> str:
    """With ids before the end of the sentence, or in a table's last cell."""
    links = " ".join(f"[{name}]" for name in ids)
    if part.lstrip().startswith("|"):
        return f"{part.rstrip().rstrip('|').rstrip()} {links} |"
    body = part.rstrip()
    end = body[len(body.rstrip(".!?")) :]
    return f"{body[: len(body) - len(end)]} {links}{end}{part[len(body) :]}"
