"""Whether a text is in a regular expression of characters: for the few texts that a schema names itself."""

from __future__ import annotations

from tokloom.grammar.expression import Both, Bytes, Chars, Concat, Either, Except, Expression, Literal, Repeat


def matches(expression: Expression, text: str) -> bool:
    """Whether the whole text is in the expression's language."""
    return len(text) in _Ends(text).at(expression, 0)


class _Ends:
    """The places where an expression that starts at a place may end."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.known: dict[tuple[int, int], frozenset[int]] = {}

    def at(self, expression: Expression, start: int) -> frozenset[int]:
        key = (id(expression), start)
        found = self.known.get(key)
        if found is None:
            found = self.known[key] = self.compute(expression, start)
        return found

    def compute(self, expression: Expression, start: int) -> frozenset[int]:
        match expression:
            case Literal(data):
                literal = data.decode()
                return frozenset({start + len(literal)} if self.text.startswith(literal, start) else ())
            case Chars(ranges) | Bytes(ranges):
                if start == len(self.text):
                    return frozenset()
                point = ord(self.text[start])
                return frozenset({start + 1} if any(low <= point <= high for low, high in ranges) else ())
            case Concat(items):
                ends = frozenset({start})
                for item in items:
                    ends = frozenset().union(*(self.at(item, end) for end in ends))
                return ends
            case Either(items):
                return frozenset().union(*(self.at(item, start) for item in items))
            case Both(items):
                return frozenset.intersection(*(self.at(item, start) for item in items))
            case Except(item, removed):
                return self.at(item, start) - self.at(removed, start)
            case Repeat(item, minimum, maximum):
                return self.repeat(item, minimum, maximum, start)
        raise TypeError(f"{type(expression).__name__} is not about text")

    def repeat(self, item: Expression, minimum: int, maximum: int | None, start: int) -> frozenset[int]:
        ends = {start} if minimum == 0 else set()
        current, count = {start}, 0
        while current and (maximum is None or count < maximum):
            # A round that gains nothing ends it: with an item that may be empty, or beyond the least count.
            following = set().union(*(self.at(item, place) for place in current))
            count += 1
            if count >= minimum:
                if following <= ends:
                    break
                ends |= following
            elif following == current:
                count = minimum - 1
            current = following
        return frozenset(ends)
