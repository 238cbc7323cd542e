"""The kinds of components that an engine is made of, in one table.

The engine, the command line and comparisons read it. Interfaces are named, not imported, so that reading the table
costs no import of torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kind:
    """One kind of component.

    name: the argument of `Engine`, or of `Engine.generate` if `per_request`, that takes one.
    interface: what its methods derive from, as "module:name".
    help: what it decides, in words, for the command line.
    default: the spec if none is given; None for no such component.
    gives: what its stage gives, as "module:name": a set, or a function of the attention policy. None checks nothing.
    documents: it is used for requests with documents only.
    per_request: each request may have another one.
    compared: its methods can be rows of a comparison; else they are a part of other methods.
    fixed: a comparison may have the same one in all its rows.
    """

    name: str
    interface: str
    help: str
    default: str | None = None
    gives: str | None = None
    documents: bool = False
    per_request: bool = False
    compared: bool = True
    fixed: bool = False

    def cls(self) -> type:
        """The interface; imports its module."""
        found: type = _imported(self.interface)
        return found

    def check(self, component: Any, attention: Any) -> None:
        """Raises CompositionError if the component needs what its stage does not give under this attention policy."""
        from tokloom.registry import check_needs

        if self.gives is not None:
            given = _imported(self.gives)
            check_needs(component, given(attention) if callable(given) else given)


KINDS = (
    Kind(
        "attention", "tokloom.attention.policy:AttentionPolicy", "Which keys and values are kept and attended to.",
        default="dense", gives="tokloom.attention.policy:GIVES", fixed=True,
    ),
    Kind(
        "predictor", "tokloom.decode.prediction:Predictor",
        "Changes what the next-token distribution is; the model's own if not given.",
        gives="tokloom.decode.prediction:gives", fixed=True,
    ),
    Kind(
        "rope", "tokloom.models.rotary_scaling:RotaryScaling",
        "How rotary positions are stretched beyond the trained window.", fixed=True,
    ),
    Kind(
        "drafter", "tokloom.decode.drafter:Drafter", "Drafts tokens for one pass to verify; changes speed, not text.",
        gives="tokloom.decode.prediction:gives", fixed=True,
    ),
    Kind(
        "denoiser", "tokloom.decode.denoiser:Denoiser", "Which masked tokens a diffusion model fills in in a pass."
    ),
    Kind("search", "tokloom.decode.search:Search", "The output is chosen among several, found by a search."),
    Kind("verifier", "tokloom.decode.search:Verifier", "What the search chooses by.", compared=False),
    Kind(
        "denoising_cache", "tokloom.decode.denoiser:DenoisingCache",
        "What a diffusion model need not read again in a pass.",
    ),
    Kind(
        "context", "tokloom.context.selector:ContextSelector", "How passages are chosen from the documents.",
        default="context_bubble", gives="tokloom.context.selector:GIVES", documents=True, fixed=True,
    ),
    Kind(
        "constraint", "tokloom.decode.constraint:Constraint", "Which tokens may come next.",
        gives="tokloom.decode.prediction:GIVES", per_request=True,
    ),
)  # fmt: skip

BY_NAME = {kind.name: kind for kind in KINDS}


def build(name: str, given: Any) -> Any:
    """The component of this kind from a spec or as it is; None if none is given. Raises as `registry.build` does."""
    from tokloom import registry

    return None if given is None else registry.build(given, BY_NAME[name].cls(), name)


def check(components: Mapping[str, Any]) -> None:
    """Raises CompositionError if one of these components, by the names of their kinds, needs what nothing gives."""
    for name, component in components.items():
        if component is not None:
            BY_NAME[name].check(component, components.get("attention"))


def _imported(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
