"""Words of a text as lexical retrieval sees them: one Unicode form, case folded, no stop words, lightly stemmed."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

# English stop words; question words are in it because they stand in nearly every question and say nothing of the topic.
STOP_WORDS = frozenset(
    """a about above after again against all also am an and any are as at be because been before being below between
    both but by can cannot could did do does doing don down during each few for from further had has have having he her
    here hers herself him himself his how i if in into is it its itself just ll me more most my myself no nor not now
    of off on once only or other our ours ourselves out over own re same shall she should so some such than that the
    their theirs them themselves then there these they this those through to too under until up upon us ve very was we
    were what when where which while who whom whose why will with would you your yours yourself yourselves
    tell give explain describe please say says said""".split()
)

# Chinese and Japanese are written without spaces: pairs of characters stand for their words.
_IDEOGRAPHS = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_IDEOGRAPHS}]+|[^\W_{_IDEOGRAPHS}]+(?:['’][^\W_{_IDEOGRAPHS}]+)*")
# Soft hyphens, zero-width characters, marks of direction, variation selectors: they are in a word, not of it.
_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufe00-\ufe0f\ufeff]"
)
_VOWEL = re.compile(r"[aeiouy]")


def plain(text: str) -> str:
    """A text in one Unicode form (NFKC), without characters that nobody sees. Its offsets are not the text's."""
    return text if text.isascii() else unicodedata.normalize("NFKC", _UNSEEN.sub("", text))


def fold(text: str) -> str:
    """A text so that forms of the same words are equal: one Unicode form, upper and lower case alike."""
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFKC", plain(text).casefold())
    return folded.replace("i\u0307", "i").replace("\u02bc", "'")  # the Turkish capital; an apostrophe that is a letter


def terms(text: str) -> list[str]:
    """The content words of a text in order, with repeats."""
    found: list[str] = []
    for word in _WORD.findall(fold(text)):
        if "\u3040" <= word[0] <= "\ufaff" and re.match(f"[{_IDEOGRAPHS}]", word):
            found += [word[i : i + 2] for i in range(max(1, len(word) - 1))]
        elif word not in STOP_WORDS and (stem := _stem(word)) not in STOP_WORDS:
            found.append(stem)
    return found


@lru_cache(maxsize=1 << 16)
def _stem(word: str) -> str:
    """A light stem: possessive, plural, -ed, -ing and final e go, so that "making", "makes" and "make" meet."""
    word = re.split(r"['’]", word)[0]
    if not word.isascii() or not word.isalpha() or len(word) <= 3:
        return word
    if word.endswith("ies") and len(word) > 4:
        word = word[:-3] + "y"
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-2] if word.endswith(("sses", "shes", "ches", "xes", "zes")) else word[:-1]
    for ending in ("ing", "ed"):
        stem = word[: -len(ending)]
        if word.endswith(ending) and len(stem) >= 3 and _VOWEL.search(stem):
            word = stem[:-1] if stem[-1] == stem[-2] and stem[-1] not in "lsz" else stem
            break
    return word[:-1] if word.endswith("e") and len(word) > 3 else word
