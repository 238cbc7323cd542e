"""Free text in which a trigger opens a region that a grammar constrains.

The text between regions holds no trigger, exactly: what precedes a region is the text up to the first place where
any trigger is complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokloom.errors import ArgumentError
from tokloom.grammar.expression import (
    ANY_TEXT,
    EMPTY,
    Concat,
    Except,
    Expression,
    Grammar,
    Special,
    text,
)
from tokloom.grammar.merge import apart
from tokloom.grammar.simplify import concat, either, repeat


@dataclass(frozen=True)
class Tag:
    """A constrained region.

    begin: what opens it; it starts with one of the triggers.
    content: the grammar of what is inside.
    end: what closes it; may be "".
    special: `begin` is a special token of the tokenizer rather than text (then it is its own trigger).
    """

    begin: str
    content: Grammar
    end: str = ""
    special: bool = False


def structural_tag(
    tags: Sequence[Tag],
    *,
    triggers: Sequence[str] | None = None,
    at_least: int = 0,
    at_most: int | None = None,
    before: bool = True,
    after: bool = True,
    separator: Expression | None = None,
) -> Grammar:
    """The grammar of texts with regions.

    Args:
        tags: the regions; any of them each time.
        triggers: what opens regions; once one is complete in the text, a tag that starts with it follows. Each
            tag's whole `begin` if not given.
        at_least, at_most: how many regions there are; None is without bound.
        before, after: free text before each region, and after the last one.
        separator: what stands between two regions if there is no free text before them; nothing if not given.

    Raises:
        ArgumentError: no tags, bad bounds, a tag without its trigger, or triggers one inside the other.
    """
    if not tags:
        raise ArgumentError("tags", tags, "at least one tag")
    if at_least < 0 or (at_most is not None and at_most < max(at_least, 1)):
        raise ArgumentError("at_least and at_most", (at_least, at_most), "0 <= at_least <= at_most, and at_most >= 1")
    texts = [tag.begin for tag in tags if not tag.special]
    opening = _checked_triggers(dict.fromkeys(texts) if triggers is None else triggers, texts)
    rules: dict[str, Expression] = {}
    regions = []
    for i, tag in enumerate(tags):
        content = apart(tag.content, f"tag {i}")
        rules.update(content.rules)
        begin = Special(tag.begin) if tag.special else text(tag.begin)
        regions.append((tag, concat(begin, content.start, text(tag.end))))
    call = either(*(_free_before(regions, opening) if before else [region for _, region in regions]))
    last = outside(opening) if after else EMPTY
    if separator is None or before:
        return Grammar(concat(repeat(call, at_least, at_most), last), rules)
    more = repeat(concat(separator, call), max(at_least - 1, 0), None if at_most is None else at_most - 1)
    start = concat(call, more, last)
    return Grammar(start if at_least else either(start, last), rules)


def _free_before(regions: list[tuple[Tag, Expression]], triggers: Sequence[str]) -> list[Expression]:
    """The regions with the free text before them; those of one trigger share it."""
    found = []
    for trigger in triggers:
        mine = [region for tag, region in regions if not tag.special and tag.begin.startswith(trigger)]
        if mine:
            found.append(concat(until(trigger, triggers), either(*mine)))
    special = [region for tag, region in regions if tag.special]
    if special:
        found.append(concat(outside(triggers), either(*special)))
    return found


def _checked_triggers(triggers: Sequence[str] | dict[str, None], begins: list[str]) -> list[str]:
    opening = list(triggers)
    for trigger in opening:
        if not trigger:
            raise ArgumentError("triggers", opening, "texts that are not empty")
        for other in opening:
            if other != trigger and trigger in other:
                raise ArgumentError("triggers", opening, f"none inside another; {trigger!r} is in {other!r}")
    for begin in begins:
        if not any(begin.startswith(trigger) for trigger in opening):
            raise ArgumentError("triggers", opening, f"one that the tag {begin!r} starts with")
    return opening


def outside(triggers: Sequence[str]) -> Expression:
    """All text without any of the triggers in it."""
    if not triggers:
        return ANY_TEXT
    return Except(ANY_TEXT, Concat((ANY_TEXT, either(*map(text, triggers)), ANY_TEXT)))


def until(trigger: str, triggers: Sequence[str]) -> Expression:
    """All text that `trigger` may follow so that no trigger is complete any earlier."""
    endings = []
    for other in triggers:
        for length in range(1, len(other)):
            rest = other[length:]
            if len(rest) < len(trigger) and trigger.startswith(rest):
                endings.append(text(other[:length]))
    if not endings:
        return outside(triggers)
    inside = Concat((ANY_TEXT, either(*map(text, triggers)), ANY_TEXT))
    return Except(ANY_TEXT, either(inside, Concat((ANY_TEXT, either(*endings)))))
