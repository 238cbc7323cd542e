from __future__ import annotations

import unicodedata

import pytest

from tokloom.context.words import terms


def test_stop_words_and_case_go_and_repeats_stay() -> None:
    assert terms("What is the Key of the key?") == ["key", "key"]


@pytest.mark.parametrize(
    "forms",
    [
        ["make", "makes", "making"],
        ["table", "tables", "table's", "table’s"],
        ["story", "stories"],
        ["stop", "stopped", "stopping", "stops"],
        ["glass", "glasses"],
        ["fall", "falls", "falling"],
        ["box", "boxes"],
    ],
)
def test_forms_of_a_word_meet(forms: list[str]) -> None:
    assert len({tuple(terms(form)) for form in forms}) == 1


@pytest.mark.parametrize(("one", "other"), [("king", "kin"), ("bed", "be"), ("this", "thi"), ("news", "new york")])
def test_short_words_are_not_cut_to_nothing(one: str, other: str) -> None:
    assert terms(one) != terms(other)


def test_emphasis_numbers_and_accents() -> None:
    assert terms("_Emma_ 1805 café-bar x2") == ["emma", "1805", "café", "bar", "x2"]


def test_text_without_spaces_is_cut_into_pairs() -> None:
    assert terms("这是书 and tea") == ["这是", "是书", "tea"]
    assert terms("茶") == ["茶"]


def test_a_text_without_words_has_no_terms() -> None:
    assert terms("... — !? the of") == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Übernachtung im Café", unicodedata.normalize("NFD", "Übernachtung im Café")),
        ("office flow", "o\ufb03ce \ufb02ow"),
        ("harbour 73", "ｈａｒｂｏｕｒ ７３"),
        ("ガード", "ｶﾞｰﾄﾞ"),
        ("Straße", "STRASSE"),
        ("ΟΔΟΣ", "οδος"),
        ("istanbul", "İstanbul"),
        ("lighthouse", "light\u00adhouse"),
        ("lighthouse", "light\u200bhouse\ufeff"),
        ("한국어", unicodedata.normalize("NFD", "한국어")),
        ("keeper's", "keeper\u02bcs"),
    ],
)
def test_unicode_forms_of_a_word_meet(one: str, other: str) -> None:
    assert one != other
    assert terms(one) == terms(other) != []
