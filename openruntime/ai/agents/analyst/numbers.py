"""Reads the figures out of what somebody wrote: digits of any script, number words, units, percentages, rates. What it cannot read is no figure
that anybody gave, and says so."""

import re
import unicodedata
from collections.abc import Iterator
from html import unescape

import msgspec

TIME, SIZE, SHARE, FACTOR, SPEED, COUNT, UNREADABLE = "time", "size", "share", "factor", "speed", "count", "unreadable"
FORMS: dict[str, tuple[str, float]] = {}
for _names, _kind, _scale in (
    ("ns nanosecond nanoseconds", TIME, 1e-9), ("us µs μs microsecond microseconds", TIME, 1e-6), ("ms msec millisecond milliseconds", TIME, 1e-3),
    ("s sec secs second seconds", TIME, 1.0), ("min mins minute minutes", TIME, 60.0), ("h hr hrs hour hours", TIME, 3600.0),
    ("d day days", TIME, 86400.0), ("week weeks", TIME, 604800.0), ("b byte bytes", SIZE, 1.0),
    ("kib kibibyte kibibytes", SIZE, 2.0**10), ("mib mebibyte mebibytes", SIZE, 2.0**20), ("gib gibibyte gibibytes", SIZE, 2.0**30),
    ("tib tebibyte tebibytes", SIZE, 2.0**40), ("kb kilobyte kilobytes", SIZE, 1e3), ("mb megabyte megabytes", SIZE, 1e6),
    ("gb gigabyte gigabytes", SIZE, 1e9), ("tb terabyte terabytes", SIZE, 1e12), ("% percent pct", SHARE, 0.01),
    ("x × times fold", FACTOR, 1.0),
):  # fmt: skip
    FORMS |= dict.fromkeys(_names.split(), (_kind, _scale))
_TIMES_MORE = {"k": 1e3, "thousand": 1e3, "million": 1e6, "m": 1e6, "bn": 1e9, "billion": 1e9, "trillion": 1e12, "hundred": 1e2, "dozen": 12.0}
_UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen",
    "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
WORDS = {word: float(i) for i, word in enumerate(_UNITS)} | {word: 10.0 * i for i, word in enumerate(_TENS, 2)}
_FACTORS = {"half": 0.5, "twice": 2.0, "thrice": 3.0, "quarter": 0.25}
_MULTIPLES = {
    "halv": 0.5, "doubl": 2.0, "tripl": 3.0, "trebl": 3.0, "quadrupl": 4.0, "quintupl": 5.0, "sextupl": 6.0, "septupl": 7.0, "octupl": 8.0,
    "nonupl": 9.0, "decupl": 10.0, "centupl": 100.0,
}  # fmt: skip
_MULTIPLE = re.compile(rf"({'|'.join(_MULTIPLES)})(?:e|es|ed|ing|y)")
_ORDINALS = ("third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth")
_PARTS = {word: float(i) for i, word in enumerate(_ORDINALS, 3)} | {
    "half": 2.0, "halve": 2.0, "quarter": 4.0, "twentieth": 20.0, "hundredth": 100.0, "thousandth": 1e3, "millionth": 1e6,
}  # fmt: skip
_COUNTS = {"couple": 2.0, "pair": 2.0, "duo": 2.0, "both": 2.0, "trio": 3.0}
_VAGUE = {"tens", "dozens", "scores", "hundreds", "thousands", "millions", "billions", "magnitude", "manyfold", "multifold", "couples"}
_NO_FIGURE = re.compile(
    r"\b(?:no|any|every|some|each|this|that|which|the|another)[- ]one\b|\bone (?:of|another|by|or|can|should|may)\b"
    r"|\bboth\b(?=\s+(?:[^\W\d_]+\s+)?and\b)",  # both this and that
    re.IGNORECASE,
)
_ABOUT = re.compile(r"(?:\b(?:about|around|roughly|approximately|approx\.?|circa|ca\.?|nearly|almost|some)\s*|[~≈]\s*)$", re.IGNORECASE)
_NUMBER = re.compile(
    r"(?P<sign>(?<![\w.)\]])[-−])?(?P<digits>\d{1,3}(?:[, '\u2009\u202f]\d{3})+(?!\d)(?:\.\d+)?|\d+,\d{1,2}(?!\d)|\d*\.\d+|\d+)"
    r"(?P<exponent>e[+-]?\d+|\s?[x×·*]\s?10\s?\^?\s?[-−+]?\d+)?"
    r"(?P<tail>[\s-]?(?P<unit>%|×|[^\W\d_]+))?(?:\s*(?P<second>(?!and\b|or\b|of\b|in\b|on\b|at\b|to\b|with\b|is\b)[^\W\d_]+))?",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W\d_]+")
_PER = re.compile(r"\s*(?:[^\W\d_]+\s*)?(?:/\s*|\bper\s+|\b(?:an?|each|every)\s+)(s|sec|second|min|minute|h|hour)\b", re.IGNORECASE)
_PER_SCALE = {"s": 1.0, "m": 1 / 60, "h": 1 / 3600}


class Number(msgspec.Struct, frozen=True):
    """As written: `value` in the kind's base unit (seconds, bytes, 1), `step`: what half of it may be rounded away; `noun` of a count.

    `start` is where it stands. `about`: the writer says that it is not exact.
    """

    value: float
    kind: str
    step: float
    start: int
    noun: str = ""
    about: bool = False
    binary: float = 0.0  # the other value it may be, where kB and the like mean powers of 1,024


def plain(text: str) -> str:
    """As a reader sees it: characters in their common form, nothing invisible, no markup of HTML, no pictures."""
    text = unescape(re.sub(r"<!--.*?-->|<[^<>\n]{0,300}>", "", unescape(text), flags=re.DOTALL))
    text = re.sub(r"!\[[^\]\n]*\]\([^)\n]*\)", "", text)
    return "".join(_common(character) for character in text)


def _common(character: str) -> str:
    if character in "\n\tµ" or " " <= character <= "~":
        return character
    kind = unicodedata.category(character)
    if kind in ("Cf", "Mn", "Me", "Cc", "Co"):
        return ""
    if kind == "Nd":
        return str(unicodedata.digit(character))
    return character if kind in ("No", "Nl") else unicodedata.normalize("NFKC", character)


def numbers(text: str) -> Iterator[Number]:
    """Of one sentence, its names already taken out and its markup too."""
    taken: list[tuple[int, int]] = []
    for found in _NUMBER.finditer(text):
        taken.append((found.start(), found.end("digits")))
        yield _digits(text, found)
    for i, character in enumerate(text):
        if not character.isascii() and unicodedata.numeric(character, None) is not None:
            yield Number(0.0, UNREADABLE, 0.0, i)  # ², Ⅳ, 五
    yield from _words(_NO_FIGURE.sub(lambda hit: " " * len(hit[0]), text))


def _digits(text: str, found: "re.Match[str]") -> Number:
    start, digits = found.start(), found["digits"]
    if start and (text[start - 1].isalpha() or text[start - 1] == "_"):
        return Number(0.0, UNREADABLE, 0.0, start)  # glued to letters, and no known name
    digits = re.sub(r"[ '\u2009\u202f]", "", digits)
    digits = digits.replace(",", ".") if re.fullmatch(r"\d+,\d{1,2}", digits) else digits.replace(",", "")
    value, decimals = float(digits), len(digits.partition(".")[2])
    step = 10.0**-decimals
    about = _ABOUT.search(text[:start]) is not None
    if about and "." not in digits and value:
        step = 10.0 ** (len(digits) - len(digits.rstrip("0")))
    if found["exponent"]:
        power = int(re.sub(r"^\s?[x×·*]\s?10\s?\^?\s?|^e", "", found["exponent"].lower().replace("−", "-")).strip() or "0")
        value, step = value * 10.0**power, step * 10.0**power
    if found["sign"]:
        value = -value
    unit, end = (found["unit"] or "").lower(), found.end("unit") if found["unit"] else found.end("digits")
    return _with_unit(text, value, step, start, end, about, unit, found["unit"] or "", (found["second"] or "").lower())


def _with_unit(text: str, value: float, step: float, start: int, end: int, about: bool, unit: str, written: str, second: str) -> Number:
    if unit in _TIMES_MORE and not (unit == "m" and written == "m"):
        scale = _TIMES_MORE[unit]
        value, step = value * scale, step * scale
        following = _WORD.match(text, end + 1 if text[end : end + 1] in " -" else end)
        unit, written = (following[0].lower(), following[0]) if following else ("", "")
        end = following.end() if following else end
    if unit == "per" and second == "cent":
        return Number(value * 0.01, SHARE, step * 0.01, start, "", about)
    per = _PER.match(text, end - len(written) if unit not in FORMS or unit in ("b",) else end)
    kind, scale = FORMS.get(unit, (COUNT, 1.0))
    if per is not None and kind in (COUNT, SIZE):
        by = _PER_SCALE[per[1][0].lower()] * (scale if kind == SIZE else 1.0)
        return Number(value * by, SPEED, step * by, start, "", about)
    if kind == COUNT:
        return Number(value, COUNT, step, start, unit, about)
    binary = value * 2.0 ** (10 * round(len(f"{scale:.0f}") / 3.4)) if kind == SIZE and scale >= 1e3 and unit in ("kb", "mb", "gb", "tb") else 0.0
    return Number(value * scale, kind, step * scale, start, "", about, binary)


def _part(word: str) -> float | None:
    """Of how many equal parts it is one: a third, quarters."""
    return _PARTS.get(word, _PARTS.get(word.removesuffix("s")))


def _factor(word: str) -> float | None:
    """What a word multiplies by: a share such as a third, doubling, sevenfold."""
    if word in _FACTORS:
        return _FACTORS[word]
    if (multiple := _MULTIPLE.fullmatch(word)) is not None:
        return _MULTIPLES[multiple[1]]
    if (times := word.removesuffix("fold")) != word and (times in WORDS or times in _TIMES_MORE):
        return WORDS.get(times) or _TIMES_MORE[times]
    part = _part(word)
    return None if part is None else 1 / part


def _words(text: str) -> Iterator[Number]:
    tokens = [(hit[0].lower(), hit.start(), hit.end()) for hit in _WORD.finditer(text)]
    i = 0
    while i < len(tokens):
        word, start, end = tokens[i]
        if word in _VAGUE:
            yield Number(0.0, UNREADABLE, 0.0, start)
        elif (factor := _factor(word)) is not None:
            yield Number(factor, FACTOR, 0.0, start)
        elif word in _COUNTS:
            noun = next((token for token, _, _ in tokens[i + 1 : i + 4] if token not in ("of", "the", "these", "those")), "")
            yield Number(_COUNTS[word], COUNT, 0.0, start, noun)
        elif word in WORDS:
            value = WORDS[word]
            while i + 1 < len(tokens) and (tokens[i + 1][0] in WORDS or tokens[i + 1][0] in ("hundred", "thousand", "million", "dozen")):
                i += 1
                more = tokens[i][0]
                value = value + WORDS[more] if more in WORDS else value * _TIMES_MORE[more]
                end = tokens[i][2]
            following = tokens[i + 1][0] if i + 1 < len(tokens) else ""
            second = tokens[i + 2][0] if i + 2 < len(tokens) else ""
            written = text[tokens[i + 1][1] : tokens[i + 1][2]] if following else ""
            if (part := _part(following)) is not None:
                i += 2
                yield Number(value / part, FACTOR, 0.0, start)
                continue
            yield _with_unit(text, value, 0.0, start, tokens[i + 1][2] if following else end, False, following, written, second)
        elif word in ("hundred", "thousand", "million", "billion", "dozen") and not re.search(r"\d[\s-]?$", text[:start]):
            yield Number(_TIMES_MORE[word], COUNT, 0.0, start, tokens[i + 1][0] if i + 1 < len(tokens) else "")
        i += 1
