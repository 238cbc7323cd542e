"""Has no options.

Paper: none (baseline)
"""

from __future__ import annotations

from tokloom.registry import method


class Gadget:
    """An interface of the tests' own."""


@method(stage="decode")
class Bare(Gadget):
    """A method without options."""
