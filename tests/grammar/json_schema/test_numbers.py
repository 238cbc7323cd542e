"""Numbers: bounds and multiples, exactly, and the spellings that are in the grammar."""

from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.grammar import naive
from tests.grammar.json_schema.texts import accepts
from tokloom.grammar.expression import Grammar
from tokloom.grammar.json_schema import numerals
from tokloom.grammar.json_schema.numerals import numeral
from tokloom.grammar.json_schema.shapes import NumberShape

TENTHS = st.integers(-2000, 2000).map(lambda n: Fraction(n, 100))
BOUNDS = st.none() | st.tuples(TENTHS, st.booleans())
NUMERALS = st.from_regex(r"-?(0|[1-9][0-9]{0,2})(\.[0-9]{1,3})?", fullmatch=True) | st.from_regex(
    r"-?[1-9](\.[0-9]{1,2})?e(-0[5-9]|-1[0-9]|\+1[6-9])", fullmatch=True
)


def within(number, low, high):
    return (low is None or number > low[0] or (low[1] and number == low[0])) and (
        high is None or number < high[0] or (high[1] and number == high[0])
    )


@settings(max_examples=150, deadline=None)
@given(BOUNDS, BOUNDS, st.lists(NUMERALS, min_size=5, max_size=30))
def test_numerals_are_those_within_the_bounds(low, high, texts):
    grammar = Grammar(numeral(NumberShape(low=low, high=high)), {})
    exact = [str(float(bound[0])) for bound in (low, high) if bound]
    for text in [*texts, *exact]:
        number = Fraction(text)
        if text.startswith("-") and number == 0 and low is not None and low[0] >= 0:
            continue  # minus zero is only written where negative numbers are
        assert naive.matches(grammar, text.encode()) == within(number, low, high), text


@settings(max_examples=100, deadline=None)
@given(BOUNDS, BOUNDS, st.lists(st.integers(-30, 2500), min_size=5, max_size=30))
def test_integers_are_those_within_the_bounds(low, high, numbers):
    grammar = Grammar(numeral(NumberShape(integer=True, low=low, high=high)), {})
    for number in numbers:
        assert naive.matches(grammar, str(number).encode()) == within(number, low, high)
        assert naive.matches(grammar, f"{number}.0".encode()) == within(number, low, high)
        assert not naive.matches(grammar, f"{number}.5".encode())


@pytest.mark.parametrize("multiple", ["1", "2", "3", "7", "10", "48", "0.5", "0.01", "0.25", "1.5", "0.3", "125"])
def test_multiples(multiple):
    step = Fraction(multiple)
    grammar = Grammar(numeral(NumberShape(multiple=step)), {})
    without = Grammar(numeral(NumberShape(not_multiples=(step,))), {})
    texts = [f"{whole}{rest}" for whole in range(0, 110, 3) for rest in ("", ".0", ".5", ".25", ".30", ".01", ".005")]
    for text in (*texts, "-3", "-1.50", "144", "1000", "12345", "1500.000"):
        is_multiple = (Fraction(text) / step).denominator == 1
        assert naive.matches(grammar, text.encode()) == is_multiple, text
        assert naive.matches(without, text.encode()) == (not is_multiple), text


@settings(max_examples=60, deadline=None)
@given(
    st.builds(
        lambda odd, two, five: odd * 2**two * 5**five, st.integers(1, 300), st.integers(0, 12), st.integers(0, 6)
    ),
    st.integers(0, 3),
    st.lists(st.integers(0, 10**12), min_size=5, max_size=15),
)
def test_large_multiples_are_counted_by_what_no_power_of_ten_has(modulus, decimals, numbers):
    step = Fraction(modulus, 10**decimals)
    try:
        automaton = numerals._multiples(step)
    except OverflowError:
        assume(False)
    assert len(automaton.edges) <= numerals.STATES + 1

    def taken(text):
        state = 0
        for byte in text.encode():
            state = next((to for first, last, to in automaton.edges[state] if first <= byte <= last), None)
            if state is None:
                return False
        return state in automaton.accepting

    offsets = (0, 1, modulus // 2, modulus // 10)
    near = [number // modulus * modulus + offset for number in numbers for offset in offsets]
    for number in near:
        whole, rest = divmod(number, 10**decimals)
        text = f"{whole}.{rest:0{decimals}d}" if decimals else str(whole)
        assert taken(text) == ((Fraction(number, 10**decimals) / step).denominator == 1), text


@pytest.mark.parametrize("multiple", [86_400, 604_800, 31_536_000, 10**9, 3600, 1024, 0.0000001])
def test_round_multiples_compile(multiple):
    numeral(NumberShape(multiple=Fraction(str(multiple))))
    if multiple >= 1:
        schema = {"type": "integer", "multipleOf": multiple}
        assert accepts(schema, str(3 * multiple))
        assert not accepts(schema, str(3 * multiple + 1))
        assert not accepts(schema, str(multiple // 2))


def test_multiples_that_need_too_many_states_are_refused():
    with pytest.raises(OverflowError, match="20000 states"):
        numeral(NumberShape(multiple=Fraction("0.123457")))


def test_bounds_are_the_decimals_that_were_written():
    assert accepts({"type": "number", "minimum": 0.1}, "0.1")
    assert not accepts({"type": "number", "minimum": 0.1}, "0.09999999999999999999999999")
    exact = '{"type": "number", "exclusiveMinimum": 0.1000000000000000000000001}'
    assert accepts(exact, "0.1000000000000000000000002")
    assert not accepts(exact, "0.1000000000000000000000001")
    assert accepts({"type": "integer", "maximum": 10**30}, "1" + "0" * 30)
    assert not accepts({"type": "integer", "maximum": 10**30}, "1" + "0" * 29 + "1")
    assert accepts({"type": "number", "multipleOf": 0.01}, "4.02")


def test_json_syntax_only():
    for text in ("01", "+1", ".5", "1.", "1e", "--1", "0x1", "NaN", "Infinity", "1e5.0", ""):
        assert not accepts({"type": "number"}, text), text
    for text in ("0", "-0", "10", "1.5", "-1.50", "1e5", "1E+5", "2.5e-10", "0.0"):
        assert accepts({"type": "number"}, text), text


def test_integers_may_have_a_zero_fraction_since_draft_6():
    assert accepts({"type": "integer"}, "1.0")
    assert not accepts({"type": "integer"}, "1.00")
    assert not accepts({"type": "integer"}, "1.0", draft=4)
    assert accepts({"type": "integer"}, "1", draft=4)


def test_draft_4_flags():
    schema = {"minimum": 3, "exclusiveMinimum": True, "maximum": 5, "exclusiveMaximum": False, "type": "integer"}
    assert [n for n in range(10) if accepts(schema, str(n), draft=4)] == [4, 5]
