"""Does nothing, with an option of each type.

Paper: none (baseline)
Formula: none.
Shapes: none.
Effect: None; it is a sample for tests/test_registry.py.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from tokloom.registry import method


class Gadget:
    """An interface of the tests' own."""

    stage: ClassVar[str] = "decode"


@method(stage="decode")
class Sample(Gadget):
    """A sample."""

    needs: ClassVar[tuple[str, ...]] = ("logits",)

    budget: int = Field(512, ge=2)
    """Tokens kept."""
    share: float = 0.5
    """A share."""
    title: str = "plain"
    """A text."""
    limit: int | None = 7
    """A limit, or none."""
    exact: bool = False
    """A switch."""
    widths: tuple[int, ...] = (1, 2)
    """Some numbers."""
