"""JSON numbers within bounds, exactly: bounds and multiples are fractions, and numerals are compared digit by digit.

A number without bounds may have an exponent. A bounded one has none, but for the form d.ddde+XX that JSON
writers choose for very large and very small numbers, in which the exponent alone tells the size.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from math import ceil, floor, gcd

from tokloom.grammar.expression import (
    EMPTY,
    NOTHING,
    Automaton,
    Both,
    Bytes,
    Concat,
    Either,
    Except,
    Expression,
    Literal,
    Repeat,
)
from tokloom.grammar.json_schema.shapes import Bound, NumberShape

STATES = 20_000
"""How many states an automaton of multiples may have."""

_ZEROS = 15
"""How many zeros that add nothing may stand at the end of a fraction. They are allowed, but a model shall not loop."""

_DIGIT = Bytes(((48, 57),))
_DIGITS = Repeat(_DIGIT)
_NONZERO = Bytes(((49, 57),))
_MINUS = Literal(b"-")
_POINT = Literal(b".")
_SOME_ZEROS = Repeat(Literal(b"0"), 0, _ZEROS)
_WHOLE = Either((Literal(b"0"), Concat((_NONZERO, _DIGITS))))
_ANY_FRACTION = Repeat(Concat((_POINT, Repeat(_DIGIT, 1))), 0, 1)
_ZERO_FRACTION = Repeat(Literal(b".0"), 0, 1)
_SIGN = Repeat(_MINUS, 0, 1)
_EXPONENT = Concat((Bytes(((69, 69), (101, 101))), Repeat(Bytes(((43, 43), (45, 45))), 0, 1), Repeat(_DIGIT, 1)))

NUMBER = Concat((_SIGN, _WHOLE, _ANY_FRACTION, Repeat(_EXPONENT, 0, 1)))
INTEGER = Concat((_SIGN, _WHOLE, _ZERO_FRACTION))
PLAIN_INTEGER = Concat((_SIGN, _WHOLE))


def exact(value: int | float | Decimal) -> Fraction:
    """The number that was written in the schema: a float stands for its shortest decimal form."""
    return Fraction(value) if isinstance(value, (int, Decimal)) else Fraction(repr(value))


def numeral(shape: NumberShape) -> Expression:
    """The numerals of a shape. Raises OverflowError if its multiples need too large an automaton."""
    if shape.low is None and shape.high is None and shape.multiple is None and not shape.not_multiples:
        if shape.integer is None:
            return NUMBER
        if shape.integer:
            return PLAIN_INTEGER if shape.plain else INTEGER
    return _numeral(shape.integer, shape.plain, shape.low, shape.high, shape.multiple, shape.not_multiples)


@lru_cache(maxsize=2000)
def _numeral(
    integer: bool | None, plain: bool, low: Bound | None, high: Bound | None, multiple: Fraction | None,
    not_multiples: tuple[Fraction, ...],
) -> Expression:  # fmt: skip
    ways: list[Expression] = []
    zero = (Fraction(0), True)
    if high is None or high >= zero:
        above = low if low is not None and low[0] >= 0 else zero
        ways.append(_unsigned(integer, plain, above, high, multiple, not_multiples))
    if low is None or low[0] < 0:
        below = (-high[0], high[1]) if high is not None and high[0] <= 0 else zero
        limit = None if low is None else (-low[0], low[1])
        ways.append(_concat(_MINUS, _unsigned(integer, plain, below, limit, multiple, not_multiples)))
    return _either(ways)


def _unsigned(
    integer: bool | None, plain: bool, low: Bound, high: Bound | None, multiple: Fraction | None,
    not_multiples: tuple[Fraction, ...],
) -> Expression:  # fmt: skip
    if integer:
        first = ceil(low[0]) if low[1] else floor(low[0]) + 1
        last = None if high is None else floor(high[0]) if high[1] else ceil(high[0]) - 1
        found = _concat(_between_integers(first, last), EMPTY if plain else _ZERO_FRACTION)
    else:
        found = _decimals(low, high)
        if integer is False:
            found = Both((found, Concat((_WHOLE, _POINT, _DIGITS, _NONZERO, _DIGITS))))
        elif multiple is None and not not_multiples:
            found = _either([found, _scientific(low, high)])
    if found == NOTHING:
        return found
    if multiple is not None:
        found = Both((found, _multiples(multiple)))
    for each in not_multiples:
        found = Except(found, _multiples(each))
    return found


def _decimals(low: Bound, high: Bound | None) -> Expression:
    """Numerals without sign and exponent, of numbers from `low`, which is not negative, to `high`."""
    first = floor(low[0])
    after = _digits(low[0] - first)
    above = _fraction_from(after, low[1])
    if high is None:
        rest = _concat(_between_integers(first + 1, None), _ANY_FRACTION)
        return _either([_concat(_integer(first), above), rest])
    last = floor(high[0])
    below = _fraction_to(_digits(high[0] - last), high[1])
    if low[0] > high[0] or (low[0] == high[0] and not (low[1] and high[1])):
        return NOTHING
    if first == last:
        if NOTHING in (above, below):
            return NOTHING
        return _concat(_integer(first), _equal_fraction(after) if low == high else Both((above, below)))
    middle = _concat(_between_integers(first + 1, last - 1), _ANY_FRACTION)
    return _either([_concat(_integer(first), above), middle, _concat(_integer(last), below)])


def _digits(fraction: Fraction) -> str:
    """The digits after the point of a decimal fraction below one; none for zero."""
    digits = ""
    while fraction:
        fraction *= 10
        digit = floor(fraction)
        digits += str(digit)
        fraction -= digit
    return digits


def _equal_fraction(digits: str) -> Expression:
    if not digits:
        return Repeat(Concat((_POINT, Repeat(Literal(b"0"), 1, _ZEROS))), 0, 1)
    return Concat((Literal(b"." + digits.encode()), _SOME_ZEROS))


def _fraction_from(digits: str, inclusive: bool) -> Expression:
    """The point and digits of fractions that are at least .digits (or above); nothing at all stands for zero."""
    if not digits:
        return _ANY_FRACTION if inclusive else Concat((_POINT, _DIGITS, _NONZERO, _DIGITS))
    tail: Expression = _DIGITS if inclusive else Concat((_DIGITS, _NONZERO, _DIGITS))
    for digit in reversed(digits):
        tail = _either([_concat(_range(int(digit) + 1, 9), _DIGITS), Concat((Literal(digit.encode()), tail))])
    return Concat((_POINT, tail))


def _fraction_to(digits: str, inclusive: bool) -> Expression:
    """The point and digits of fractions that are at most .digits (or below); nothing at all stands for zero."""
    if not digits:
        return _equal_fraction("") if inclusive else NOTHING
    tail: Expression = _SOME_ZEROS if inclusive else NOTHING
    for place, digit in enumerate(reversed(digits)):
        if place:
            tail = _either([EMPTY, tail])  # to stop early is to be below, as the last digit isn't zero
        tail = _either([_concat(_range(0, int(digit) - 1), _DIGITS), _concat(Literal(digit.encode()), tail)])
    return Repeat(_concat(_POINT, tail), 0, 1)


def _between_integers(first: int, last: int | None) -> Expression:
    """Integers from `first`, which is not negative, to `last`."""
    if last is None:
        if first == 0:
            return _WHOLE
        text = str(first)
        longer = Concat((_NONZERO, Repeat(_DIGIT, len(text))))
        return _either([_same_length(text, "9" * len(text)), longer])
    if last < first:
        return NOTHING
    ways = []
    low = first
    while low <= last:
        high = min(last, 10 ** len(str(low)) - 1)
        ways.append(_same_length(str(low), str(high)))
        low = high + 1
    return _either(ways)


def _same_length(low: str, high: str) -> Expression:
    """Digits between two runs of as many digits each."""
    if not low:
        return EMPTY
    size = len(low) - 1
    if low == "0" * len(low) and high == "9" * len(high):
        return _DIGIT if size == 0 else Repeat(_DIGIT, size + 1, size + 1)
    if low[0] == high[0]:
        return _concat(Literal(low[0].encode()), _same_length(low[1:], high[1:]))
    first, last = int(low[0]), int(high[0])
    ways = []
    if low[1:] != "0" * size:
        ways.append(_concat(Literal(low[0].encode()), _same_length(low[1:], "9" * size)))
        first += 1
    if high[1:] != "9" * size:
        ways.append(_concat(Literal(high[0].encode()), _same_length("0" * size, high[1:])))
        last -= 1
    free = EMPTY if size == 0 else Repeat(_DIGIT, size, size)
    ways.append(_concat(_range(first, last), free))
    return _either(ways)


def _scientific(low: Bound, high: Bound | None) -> Expression:
    """Numerals d.ddde+XX of very large and very small numbers within bounds, none of them negative."""
    large = _exponents(low, high, 16, None)
    small = _exponents(low, high, None, -5)
    return _either([large, small])


def _exponents(low: Bound, high: Bound | None, first: int | None, last: int | None) -> Expression:
    """Numerals with exponents from `first` to `last`; a number with exponent x is from 10^x to below 10^(x+1)."""
    if high is not None and high[0] <= 0:
        return NOTHING
    ways: list[Expression] = []
    lowest = _magnitude(low[0]) if low[0] > 0 else None
    highest = None if high is None else _magnitude(high[0])
    partial = {exponent for exponent in (lowest, highest) if exponent is not None}
    for exponent in sorted(partial):
        if (first is None or exponent >= first) and (last is None or exponent <= last):
            scale = Fraction(10) ** exponent
            start = max((Fraction(1), True), (low[0] / scale, low[1]), key=lambda bound: (bound[0], not bound[1]))
            end = (Fraction(10), False)
            if high is not None:
                end = min(end, (high[0] / scale, high[1]), key=lambda bound: (bound[0], bound[1]))
            ways.append(_concat(_decimals(start, end), _exponent(exponent, exponent)))
    if lowest is not None and (first is None or lowest >= first):
        first = lowest + 1
    if highest is not None and (last is None or highest <= last):
        last = highest - 1
    if first is None or last is None or first <= last:
        mantissa = _concat(_NONZERO, _ANY_FRACTION)
        ways.append(_concat(mantissa, _exponent(first, last)))
    return _either(ways)


def _exponent(first: int | None, last: int | None) -> Expression:
    """The letter and exponents from `first` to `last`, all of one sign; written with two digits at least, as Python
    does, or with no zero in front, as JavaScript does."""
    negative = last is not None and last < 0
    low, high = (-last, None if first is None else -first) if negative and last is not None else (first or 0, last)
    sign: Expression = _MINUS if negative else Repeat(Literal(b"+"), 0, 1)
    zero = Concat((Literal(b"0"), _between_integers(low, min(9, 9 if high is None else high)))) if low <= 9 else NOTHING
    return _concat(Bytes(((69, 69), (101, 101))), sign, _either([_between_integers(low, high), zero]))


def _magnitude(number: Fraction) -> int:
    """The exponent x with 10^x <= number < 10^(x+1)."""
    guess = len(str(number.numerator)) - len(str(number.denominator))
    while Fraction(10) ** guess > number:
        guess -= 1
    while Fraction(10) ** (guess + 1) <= number:
        guess += 1
    return guess


@lru_cache(maxsize=200)
def _multiples(multiple: Fraction) -> Automaton:
    """Numerals without sign and exponent of multiples: the state is the remainder and the number of decimals read.

    Remainders that the same digits complete to a multiple are one state: 86400 needs some 300, not 172,800.
    """
    places = 0
    while (multiple * 10**places).denominator != 1:
        places += 1
    modulus = int(multiple * 10**places)
    odd, tens = modulus, 0  # the part of the modulus that no power of ten has, and the least power that has the rest
    for prime in (2, 5):
        power = 0
        while odd % prime == 0:
            odd, power = odd // prime, power + 1
        tens = max(tens, power)

    def future(rest: int) -> tuple[int, ...]:
        """Equal for remainders with the same future. After `tens` or more further digits only the remainder by `odd`
        counts; before, the digits that complete it: the least number of them, -1 if none does."""
        completing = [-rest * 10**digits % modulus for digits in range(tens)]
        return rest % odd, *(fewest if fewest < 10**digits else -1 for digits, fewest in enumerate(completing))

    futures = odd + sum(min(10**digits, modulus) // gcd(10**digits, modulus) + 1 for digits in range(tens))
    if futures * (places + 2) > STATES:
        raise OverflowError(f"multiples of {float(multiple):g} need an automaton of more than {STATES} states")
    # Read so far: nothing; (0, r) an integer; (1, r) an integer and the point; (j + 1, r) j decimals.
    numbers: dict[tuple[int, tuple[int, ...]], int] = {}
    edges: list[dict[int, int]] = [{}]
    accepting = set()
    todo: list[tuple[int, int, int]] = []

    def state(place: int, rest: int) -> int:
        key = place, future(rest)
        if key not in numbers:
            numbers[key] = len(edges)
            todo.append((len(edges), place, rest))
            edges.append({})
        return numbers[key]

    for digit in range(10):
        edges[0][48 + digit] = state(0, digit % modulus)
    while todo:
        number, place, rest = todo.pop()
        decimals = min(max(place - 1, 0), places)
        if place != 1 and rest * 10 ** (places - decimals) % modulus == 0:
            accepting.add(number)
        if place == 0:
            edges[number][46] = state(1, rest)
        for digit in range(10):
            if place == 0:
                edges[number][48 + digit] = state(0, (rest * 10 + digit) % modulus)
            elif decimals < places:
                edges[number][48 + digit] = state(place + 1, (rest * 10 + digit) % modulus)
            elif digit == 0 and rest == 0:
                edges[number][48] = state(place + 1 if place == 1 else place, rest)
    return _pruned(edges, accepting)


def _pruned(edges: list[dict[int, int]], accepting: set[int]) -> Automaton:
    """Without edges into states from which nothing is accepted."""
    sources: dict[int, set[int]] = {}
    for number, steps in enumerate(edges):
        for to in steps.values():
            sources.setdefault(to, set()).add(number)
    live, todo = set(accepting), list(accepting)
    while todo:
        for source in sources.get(todo.pop(), ()):
            if source not in live:
                live.add(source)
                todo.append(source)
    return Automaton(
        tuple(tuple((byte, byte, to) for byte, to in sorted(steps.items()) if to in live) for steps in edges),
        frozenset(accepting),
    )


def common_multiple(left: Fraction, right: Fraction) -> Fraction:
    """The least number that both divide."""
    numerator = left.numerator * right.denominator
    other = right.numerator * left.denominator
    return Fraction(numerator * other // gcd(numerator, other), left.denominator * right.denominator)


def _integer(number: int) -> Expression:
    return Literal(str(number).encode())


def _range(first: int, last: int) -> Expression:
    return NOTHING if last < first else Bytes(((48 + first, 48 + last),))


def _concat(*items: Expression) -> Expression:
    if NOTHING in items:
        return NOTHING
    kept = tuple(item for item in items if item is not EMPTY)
    return EMPTY if not kept else kept[0] if len(kept) == 1 else Concat(kept)


def _either(items: list[Expression]) -> Expression:
    kept = tuple(item for item in items if item != NOTHING)
    return kept[0] if len(kept) == 1 else Either(kept)
