"""Methods that make something of the user's own text before they are used."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokloom.models.language_model import LanguageModel


class Prepared(ABC):
    """A method that first makes something of the user's own text: a base class before the interface.

    `tokloom prepare SPEC FILE ...` calls it."""

    @abstractmethod
    def prepare(
        self, model: LanguageModel, texts: Sequence[str], progress: Callable[[str, int, int], None] | None = None
    ) -> dict[str, Any]:
        """Makes it, where the method's options say; returns figures to show by name.

        progress: called as (stage, done, total)."""
