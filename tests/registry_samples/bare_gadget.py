"""Has no options.

Paper: none (baseline)
"""

from __future__ import annotations

from typing import ClassVar

from tokloom.registry import method


class Gadget:
    """An interface of the tests' own."""

    stage: ClassVar[str] = "decode"


@method(stage="decode")
class Bare(Gadget):
    """A method without options."""
