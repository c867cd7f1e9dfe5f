"""What a kernel's author leaves open for tuning: a line `// tune: TILE = 8, 16, 32` in the source names a constant and its values.

The first value holds until tuning finds a better one. `TILE` is a constant of the source from that line on, and may stand in the formulas of
`grid` and `local`. Shapes do not depend on it: a tuned kernel computes the same.
"""

import re
from collections.abc import Mapping, Sequence
from math import prod

import msgspec

from openruntime.contracts.errors import InvalidParameter
from openruntime.contracts.kernels import KernelSpec, Tuned

MOST_NAMES = 8
MOST_VALUES = 32
LARGEST = 1 << 20
NEAR = 2  # doublings of each size that a winner is still used for

_LINE = re.compile(r"^([ \t]*)//[ \t]*tune:(.*)$", re.MULTILINE)
_SETTING = re.compile(r"\s*([A-Za-z_]\w*)\s*=\s*(\d+(?:\s*,\s*\d+)*)\s*")

Values = Mapping[str, int]


def tunables(spec: KernelSpec) -> dict[str, tuple[int, ...]]:
    """Each constant and its values, the default first. Raises `InvalidParameter` for a line that cannot be read."""
    found: dict[str, tuple[int, ...]] = {}
    taken = {argument.name for argument in (*spec.inputs, *spec.outputs, *spec.scalars)} | spec.symbols
    for line in _LINE.finditer(spec.source):
        setting = _SETTING.fullmatch(line[2])
        number = spec.source.count("\n", 0, line.start()) + 1
        if setting is None:
            raise _refused(number, f"{line[0].strip()!r:.100} is not like '// tune: TILE = 8, 16, 32'")
        name, values = setting[1], tuple(int(value) for value in setting[2].split(","))
        if name in found:
            raise _refused(number, f"{name!r} is declared twice")
        if name in taken:
            raise _refused(number, f"{name!r} is an argument of the kernel or a size of its arrays; call one of them another")
        if len(values) > MOST_VALUES or len(set(values)) < len(values) or max(values) > LARGEST:
            raise _refused(number, f"{name!r} must have 1 to {MOST_VALUES} different values of at most {LARGEST}")
        found[name] = values
        if len(found) > MOST_NAMES:
            raise _refused(number, f"more than {MOST_NAMES} constants are left open")
    return found


def _refused(line: int, what: str) -> InvalidParameter:
    return InvalidParameter(f"`source`, line {line}: {what}", field="source")


def settled(spec: KernelSpec, values: Values | None = None) -> KernelSpec:
    """The kernel with nothing left open: `values`, and for what they do not name the defaults. The same object for the same values."""
    memo: dict[tuple[tuple[str, int], ...], KernelSpec] = spec.__dict__.setdefault("_settled", {})
    key = tuple(sorted((values or {}).items()))
    if key not in memo:
        memo[key] = _settled(spec, values or {})
    return memo[key]


def _settled(spec: KernelSpec, values: Values) -> KernelSpec:
    chosen = {name: values.get(name, known[0]) for name, known in tunables(spec).items()}
    if not chosen:
        return spec

    def written(line: re.Match[str]) -> str:
        name = line[2].partition("=")[0].strip()
        constant = f"const {name} = {chosen[name]};" if spec.language == "wgsl" else f"#define {name} {chosen[name]}"
        return line[1] + constant

    def filled(side: int | str) -> int | str:
        return side if isinstance(side, int) else re.sub(r"[A-Za-z_]\w*", lambda word: str(chosen.get(word[0], word[0])), side)

    return msgspec.structs.replace(
        spec, source=_LINE.sub(written, spec.source), grid=tuple(map(filled, spec.grid)), local=tuple(map(filled, spec.local)), tuned=()
    )


def winner(spec: KernelSpec, identity: str, symbols: Mapping[str, int]) -> Tuned | None:
    """What tuning found best on this silicon for sizes nearest to `symbols`; None where nothing near was tried."""
    best: tuple[int, Tuned] | None = None
    for entry in spec.tuned:
        if entry.identity != identity or entry.sizes.keys() != symbols.keys():
            continue
        apart = [abs(entry.sizes[name].bit_length() - size.bit_length()) for name, size in symbols.items()]
        if max(apart, default=0) <= NEAR and (best is None or sum(apart) < best[0]):
            best = (sum(apart), entry)
    return best[1] if best else None


def with_winner(spec: KernelSpec, entry: Tuned) -> KernelSpec:
    """The kernel with another winner, in place of the one for the same silicon and sizes of the same class."""
    others = tuple(known for known in spec.tuned if known.identity != entry.identity or size_class(known.sizes) != size_class(entry.sizes))
    return msgspec.structs.replace(spec, tuned=(*others, entry)[-64:])


def size_class(sizes: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """Sizes between two powers of two are of one class."""
    return tuple((name, size.bit_length()) for name, size in sorted(sizes.items()))


def combinations(space: Mapping[str, Sequence[int]]) -> int:
    return prod(len(values) for values in space.values())
