"""Einstein's notation, matched with shapes."""

from openruntime.contracts.payload import Spec
from openruntime.operations.definition import InvalidParameter
from openruntime.operations.shapes import Shape, broadcast


class Subscripts:
    """`text` such as `ij,jk->ik` over named operands. Raises `InvalidParameter` naming the operand, or `subscripts`.

    `sizes` by letter, `stack` the shape that `...` stands for, `shape` the output's.
    """

    def __init__(self, text: str, operands: dict[str, Spec]) -> None:
        text = text.replace(" ", "")
        terms, arrow, output = text.partition("->")
        parts = terms.split(",")
        if len(text) > 200 or not all(c.isascii() and (c.isalpha() or c in ".,->") for c in text):
            raise _wrong("must be letters such as 'ij,jk->ik' (200 characters at most)")
        if len(parts) != len(operands):
            raise _wrong(f"names {len(parts)} operands, and {len(operands)} were given")
        self.sizes: dict[str, int] = {}
        stacks = [(name, self._match(part, name, spec.shape)) for part, (name, spec) in zip(parts, operands.items(), strict=True)]
        self.stack = broadcast("einsum", stacks)
        letters = terms.replace(",", "").replace(".", "")
        if not arrow:
            output = "..." * ("." in terms) + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
        before, dots, after = output.partition("...")
        rest = before + after
        if "-" in letters or not set(rest) <= set(letters) or len(set(rest)) < len(rest) or (dots and "." not in terms):
            raise _wrong(f"has the output {output!r}, which must use letters of the operands, each once")
        if self.stack and not dots:
            raise _wrong("must have '...' in its output where an operand has it")
        self.shape: Shape = (*(self.sizes[c] for c in before), *self.stack, *(self.sizes[c] for c in after))

    def _match(self, part: str, name: str, shape: Shape) -> Shape:
        """The dimensions of one operand that `...` stands for."""
        before, dots, after = part.partition("...")
        rank, named = len(shape), len(before) + len(after)
        if "." in before + after or "-" in part or ">" in part:
            raise _wrong(f"has the term {part!r}; a term is letters and at most one '...'")
        if named > rank or (not dots and named < rank):
            raise InvalidParameter(f"`{name}` of einsum has shape {list(shape)}, which {part!r} does not describe", field=name)
        for letter, size in [*zip(before, shape, strict=False), *zip(after, shape[rank - len(after) :], strict=True)]:
            known = self.sizes.setdefault(letter, size)
            if known != size:
                raise InvalidParameter(f"{letter!r} in einsum's subscripts is {known}, and {size} in `{name}` of shape {list(shape)}", field=name)
        return shape[len(before) : rank - len(after)]


def _wrong(sentence: str) -> InvalidParameter:
    return InvalidParameter(f"`subscripts` of einsum {sentence}", field="subscripts")
