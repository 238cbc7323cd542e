"""The classes of the dialects: digits, words, white space, lines."""

from __future__ import annotations

import re
import sys
from functools import cache

import numpy as np

from tokloom.grammar.characters import Ranges, ranges, union

DIGITS = ranges("0123456789")
WORD = ranges((48, 57), (65, 90), (95, 95), (97, 122))
ASCII_SPACE = ranges(" \t\n\r\f\v")
ECMA_SPACE = union(ASCII_SPACE, ranges("\xa0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff", (0x2000, 0x200A)))
ECMA_LINE = ranges("\n\r\u2028\u2029")


@cache
def python_class(escape: str) -> Ranges:
    r"""The characters of \d, \w or \s in this interpreter's `re`, whose Unicode need not be the table's."""
    everything = np.arange(sys.maxunicode + 1, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")
    return tuple((run.start(), run.end() - 1) for run in re.finditer(escape + "+", everything))
