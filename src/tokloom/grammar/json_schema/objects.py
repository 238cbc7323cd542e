"""The texts of objects: every property once, in any order or in that of the schema."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tokloom.grammar.expression import (
    EMPTY,
    NOTHING,
    AnyOrder,
    Concat,
    Either,
    Expression,
    Literal,
    Member,
    Ref,
    Repeat,
)
from tokloom.grammar.json_schema.languages import Format, Language, Pattern, Strings, Within
from tokloom.grammar.json_schema.layout import quoted
from tokloom.grammar.json_schema.shapes import (
    ANYTHING,
    IMPOSSIBLE,
    Clause,
    Node,
    ObjectShape,
    both,
    has_name,
    has_region,
    known_names,
    languages,
)
from tokloom.grammar.json_schema.spelling import is_plain, spell_text

if TYPE_CHECKING:
    from tokloom.grammar.json_schema.compiler import Compiler

REGIONS = 64
"""How many classes of names, by the patterns that they match, an object may have."""

STATES = 5000
"""How many states of counting an object in the schema's order may need."""


def object_body(shape: ObjectShape, depth: int, compiler: Compiler) -> Expression:
    """The texts of the objects of a shape, brackets included."""
    if not shape.demands:
        return _Object(shape, compiler, depth).body([])
    ways: list[Expression] = []
    _demanded(shape, shape.demands, [], depth, compiler, ways)
    kept = tuple(dict.fromkeys(way for way in ways if way != NOTHING))
    return kept[0] if len(kept) == 1 else Either(kept)


def _demanded(
    shape: ObjectShape, spoken: tuple[Clause, ...], needed: list[int], depth: int, compiler: Compiler,
    ways: list[Expression],
) -> None:  # fmt: skip
    """Objects in which some property must be of a kind: a known one, or one out of a region of names.

    spoken: all demands that there were, so that names and regions stay told apart in the same way.
    """
    body = _Object(replace(shape, demands=()), compiler, depth, spoken)
    if not shape.demands:
        ways.append(body.body(needed))
        return
    demand, others = shape.demands[0], shape.demands[1:]
    for name, known in body.known.items():
        if has_name(demand.names, name) and both(known, demand.node) is not IMPOSSIBLE:
            node = both(shape.properties.get(name, ANYTHING), demand.node)
            left = tuple(each for each in others if not (has_name(each.names, name) and each.node <= node))
            with_name = {**shape.properties, name: node}
            narrower = replace(shape, properties=with_name, required=shape.required | {name}, demands=left)
            _demanded(narrower, spoken, needed, depth, compiler, ways)
    # Where all values of a region will do, one more of its names is enough. Otherwise a name might come twice,
    # and the value that counts, the last, be the other one.
    for index, (region, node) in enumerate(body.regions):
        if has_region(demand.names, region):
            if demand.node <= node:
                left = tuple(each for each in others if not (has_region(each.names, region) and each.node <= node))
                _demanded(replace(shape, demands=left), spoken, [*needed, index], depth, compiler, ways)
            elif not compiler.forms.is_empty(both(node, demand.node)):
                where = demand.origin or compiler.forms.document.root
                problem = (
                    "that some property has a certain value can only be enforced for properties named in the schema"
                )
                compiler.forms.refuse(where.error(problem), "not")
                _demanded(replace(shape, demands=others), spoken, needed, depth, compiler, ways)


class _Object:
    """One shape's properties: those with names, and regions of names without."""

    def __init__(self, shape: ObjectShape, compiler: Compiler, depth: int, demands: tuple[Clause, ...] = ()) -> None:
        self.shape, self.compiler, self.depth = shape, compiler, depth
        self.clauses = shape.clauses + demands  # demands have a say in which names are told apart
        self.known: dict[str, Node] = {}
        if not self.clauses:
            self.known = shape.properties
            if not shape.required <= shape.properties.keys():
                self.known = {**self.known, **dict.fromkeys(sorted(shape.required - self.known.keys()), ANYTHING)}
            self.regions: list[tuple[frozenset[Language], Node]] = [(frozenset(), ANYTHING)]
        else:
            names = dict.fromkeys(shape.properties) | dict.fromkeys(sorted(shape.required))
            for clause in self.clauses:
                names |= dict.fromkeys(sorted(known_names(clause.names)))
            for name in names:
                self.known[name] = compiler.forms.property_node(shape, name)
            self.regions = list(self._regions())

    def _regions(self) -> list[tuple[frozenset[Language], Node]]:
        """The classes of names that are not known ones, and what their values must be; not those without any."""
        spoken = list(dict.fromkeys(language for clause in self.clauses for language in languages(clause.names)))
        inside: list[frozenset[Language]] = [frozenset()]
        for language in spoken:
            inside += [region | {language} for region in inside if all(_may_meet(language, other) for other in region)]
            if len(inside) > REGIONS:
                origin = self.shape.clauses[0].origin or self.compiler.forms.document.root
                raise origin.error(
                    f"patternProperties whose patterns overlap in more than {REGIONS} ways are too many",
                    "patternProperties",
                )
        found = []
        for region in inside:
            node = ANYTHING
            for clause in self.shape.clauses:
                if has_region(clause.names, region):
                    node = both(node, clause.node)
            if node is not IMPOSSIBLE:
                found.append((region, node))
        return found

    def body(self, needed: list[int]) -> Expression:
        """The texts, brackets included. needed: regions of which one property at least must be there."""
        shape, compiler = self.shape, self.compiler
        members: list[Member] = []
        for name, node in self.known.items():
            value = NOTHING if node is IMPOSSIBLE else compiler.value(node, self.depth + 1)
            required = name in shape.required
            if value == NOTHING:
                if required:
                    return NOTHING
                continue
            members.append(Member(self._pair(_key(name), value), int(required), 1))
        declared = len(members)
        for index, (region, node) in enumerate(self.regions):
            value = compiler.value(node, self.depth + 1)
            if value != NOTHING:
                members.append(Member(self._pair(self._open_key(region), value), int(index in needed), None))
            elif index in needed:
                return NOTHING
        sure = sum(member.minimum for member in members)
        minimum, maximum = max(shape.minimum, sure), shape.maximum
        is_open = len(members) > declared
        if is_open and minimum > sure + 1:
            # A name that the schema doesn't give could come twice, and count as two.
            origin = shape.origin or compiler.forms.document.root
            problem = "properties without given names can't be told apart, so that no more than one can be asked for"
            hint = "Name the properties, or check their number afterwards."
            compiler.forms.refuse(origin.error(f"minProperties: {problem}", "minProperties", hint), "minProperties")
        if not is_open:
            maximum = declared if maximum is None else min(maximum, declared)
        if maximum is not None and minimum > maximum:
            return NOTHING
        if maximum == 0 or not members:
            return compiler.layout.bracket(b"{", b"}", None, True, self.depth)
        some = self._order(members, max(minimum, 1), maximum)
        return compiler.layout.bracket(b"{", b"}", some, minimum == 0, self.depth)

    def _pair(self, key: Expression, value: Expression) -> Expression:
        return Concat((key, self.compiler.layout.colon, value))

    def _open_key(self, region: frozenset[Language]) -> Expression:
        """The names of a region: in its languages, in no others, and none of the known ones."""
        spoken = dict.fromkeys(language for clause in self.clauses for language in languages(clause.names))
        outside: list[Language] = [language for language in spoken if language not in region]
        inside = tuple(language for language in spoken if language in region)
        known = frozenset(name for name in self.known if all(language.contains(name) for language in inside))
        if known:
            outside.append(Strings(known))
        if not inside and not outside:
            return Ref("string")
        return quoted(Within(0, None, inside, tuple(outside)).spelled())

    def _order(self, members: list[Member], minimum: int, maximum: int | None) -> Expression:
        separator = self.compiler.layout.separator(self.depth)
        if len(members) == 1:
            only = members[0]
            if only.maximum is None:
                top = None if maximum is None else maximum - 1
                return Concat((only.item, Repeat(Concat((separator, only.item)), minimum - 1, top)))
            return only.item
        if self.compiler.order == "any":
            sure = sum(member.minimum for member in members)
            return AnyOrder(tuple(members), separator, 0 if minimum <= sure else minimum, maximum)
        return _Sequence(members, separator, minimum, maximum, self).start()


class _Sequence:
    """Rules for the rest of an object whose properties come in order; counts only as far as bounds ask for it."""

    def __init__(
        self, members: list[Member], separator: Expression, minimum: int, maximum: int | None, owner: _Object
    ) -> None:
        self.members, self.separator, self.owner = members, separator, owner
        sure = sum(member.minimum for member in members)
        free = all(member.maximum is not None for member in members)
        self.minimum = minimum if minimum > max(sure, 1) else 0
        self.maximum = None if maximum is None or (free and maximum >= len(members)) else maximum
        self.cap = max(self.minimum, self.maximum or 0, 1)
        self.rules = owner.compiler.rules
        self.prefix = f"{owner.shape.origin.pointer if owner.shape.origin else '#'} order {len(self.rules)}"
        self.known: dict[tuple[int, int], Expression] = {}

    def start(self) -> Expression:
        if (self.cap + 1) * len(self.members) > STATES:
            where = self.owner.shape.origin or self.owner.compiler.forms.document.root
            raise where.error(f"to count properties in order needs more than {STATES} states", "minProperties")
        for index in range(len(self.members), -1, -1):
            for count in range(min(index, self.cap), -1, -1):
                self.known[index, count] = self._rest(index, count)
        # Regions come last and may repeat, so that any count is possible there.
        return self.known[0, 0]

    def _after(self, index: int, count: int) -> Expression:
        if (index, count) not in self.known:
            self.known[index, count] = self._rest(index, count)
        return self.known[index, count]

    def _rest(self, index: int, count: int) -> Expression:
        """What may follow when `count` properties have come and the next is `index`."""
        if index == len(self.members):
            return EMPTY if count >= max(self.minimum, 1) else NOTHING
        member = self.members[index]
        own = member.item if count == 0 else Concat((self.separator, member.item))
        more = count if count == self.cap and self.maximum is None else count + 1
        fits = self.maximum is None or count < self.maximum
        if member.maximum is None:
            rest = self._repeated(index, count, own)
        else:
            taken = self._after(index + 1, min(more, self.cap)) if fits else NOTHING
            rest = [] if taken == NOTHING else [own if taken == EMPTY else Concat((own, taken))]
            if member.minimum == 0:
                skipped = self._after(index + 1, count)
                rest += [] if skipped == NOTHING else [skipped]
        found = rest[0] if len(rest) == 1 else Either(tuple(rest))
        if isinstance(found, Ref) or found in (EMPTY, NOTHING):
            return found
        name = f"{self.prefix} {index} {count}"
        self.rules[name] = found
        return Ref(name)

    def _repeated(self, index: int, count: int, own: Expression) -> list[Expression]:
        """A region's properties, as many as there is room for, then what comes next."""
        member = self.members[index]
        ways: list[Expression] = []
        if member.minimum == 0:
            skipped = self._after(index + 1, count)
            ways += [] if skipped == NOTHING else [skipped]
        if self.maximum is None and self.minimum <= count + 1:
            again = Concat((own, Repeat(Concat((self.separator, member.item)))))
            rest = self._after(index + 1, min(count + 1, self.cap))
            ways += [] if rest == NOTHING else [again if rest == EMPTY else Concat((again, rest))]
            return ways
        top = self.maximum if self.maximum is not None else self.minimum
        taken = own
        for number in range(count + 1, top + 1):
            rest = self._after(index + 1, min(number, self.cap))
            if number == top and self.maximum is None:
                taken = Concat((taken, Repeat(Concat((self.separator, member.item)))))
            if rest != NOTHING:
                ways.append(taken if rest == EMPTY else Concat((taken, rest)))
            taken = Concat((taken, self.separator, member.item))
        return ways


def _key(name: str) -> Expression:
    if is_plain(name):
        return Literal(f'"{name}"'.encode())
    return quoted(spell_text(name))


def _may_meet(left: Language, right: Language) -> bool:
    """Whether two languages may have a string in common, by how their strings must begin."""
    first, second = _beginning(left), _beginning(right)
    return first.startswith(second) or second.startswith(first)


def _beginning(language: Language) -> str:
    """What all strings of a language begin with, as far as it is plain to see."""
    if isinstance(language, (Format, Strings, Within)):
        return ""
    assert isinstance(language, Pattern)
    source = language.source
    if not source.startswith("^") or "|" in source:
        return ""
    plain = ""
    for index, character in enumerate(source[1:], start=1):
        if not (character.isalnum() or character in "-_/ @:,;"):
            if character in "*?{":
                plain = plain[:-1]
            break
        plain += source[index]
    return plain
