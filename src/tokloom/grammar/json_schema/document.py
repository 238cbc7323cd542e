"""A schema document: its draft, the schemas in it by place, and what its references lead to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from tokloom.errors import GrammarError

DRAFTS = {
    "json-schema.org/draft-04/schema": 4,
    "json-schema.org/draft-06/schema": 6,
    "json-schema.org/draft-07/schema": 7,
    "json-schema.org/draft/2019-09/schema": 2019,
    "json-schema.org/draft/2020-12/schema": 2020,
}
LATEST = 2020

_ONE = ("additionalItems additionalProperties contains contentSchema else if items not propertyNames then"
        " unevaluatedItems unevaluatedProperties").split()  # fmt: skip
_LISTS = ["allOf", "anyOf", "oneOf", "prefixItems", "items"]
_MAPS = ["$defs", "definitions", "dependentSchemas", "dependencies", "patternProperties", "properties"]


class Resource:
    """A schema with a URI of its own, that relative references in it start from."""

    __slots__ = ("anchors", "base", "draft", "dynamic", "root")

    def __init__(self, base: str, draft: int) -> None:
        self.base, self.draft = base, draft
        self.root: Schema
        self.anchors: dict[str, Schema] = {}
        self.dynamic: dict[str, Schema] = {}


class Schema:
    """A schema at its place in the document. There is one object for each place and dynamic scope."""

    __slots__ = ("document", "parent", "resource", "scope", "token", "value")

    def __init__(
        self, document: Document, value: Any, resource: Resource, scope: tuple[Resource, ...],
        parent: Schema | None, token: tuple[str | int, ...],
    ) -> None:  # fmt: skip
        self.document, self.value, self.resource, self.scope = document, value, resource, scope
        self.parent, self.token = parent, token

    @property
    def draft(self) -> int:
        return self.resource.draft

    @property
    def pointer(self) -> str:
        """Its JSON pointer, as a URI fragment without percent signs."""
        tokens: list[str] = []
        schema: Schema | None = self
        while schema is not None:
            tokens[:0] = [str(token).replace("~", "~0").replace("/", "~1") for token in schema.token]
            schema = schema.parent
        return "/".join(["#", *tokens])

    def child(self, *token: str | int) -> Schema:
        """The schema that is found when going down by these keys and indices."""
        value = self.value
        for each in token:
            value = value[each]
        return self.document.schema(value, self.resource, self.scope, self, token)

    def made(self, value: Any, *token: str | int) -> Schema:
        """A schema that stands for something at this place, but isn't written so in the document."""
        return self.document.schema(value, self.resource, self.scope, self, token)

    def error(self, problem: str, keyword: str = "", hint: str = "") -> GrammarError:
        """The error to raise for this schema or one of its keywords."""
        where = self.pointer + ("/" + keyword if keyword else "")
        return GrammarError(where, problem, hint)


class Document:
    """A schema document and the documents that it may refer to.

    schema: the root, as Python data or as JSON text.
    resources: other documents, by the URI under which references name them.
    draft: what to take the document for if it has no `$schema`.
    """

    def __init__(self, schema: object, resources: Mapping[str, Any] | None = None, draft: int = LATEST) -> None:
        self.text, value = _read(schema)
        self.default, self.declared = draft, "$schema" in self.text
        self.tracks = '"unevaluated' in self.text
        self.dynamic = '"$dynamicRef"' in self.text or '"$recursiveRef"' in self.text
        self.resources = dict(resources or {})
        if self.resources:
            others = json.dumps(list(self.resources.values()))
            self.tracks |= '"unevaluated' in others
            self.dynamic |= '"$dynamicRef"' in others or '"$recursiveRef"' in others
        self._schemas: dict[tuple[int, int, tuple[int, ...]], Schema] = {}
        self._resources: dict[int, Resource] = {}
        self._by_uri: dict[str, Resource] | None = None
        self._kept: list[Any] = []  # ids stay taken while their objects live
        self.root = self._open(value, "")

    def _open(self, value: Any, uri: str) -> Schema:
        draft = self.default
        if isinstance(value, dict):
            draft = _draft(value.get("$schema"), draft)
        resource = Resource(uri, draft)
        own = _own_id(value, draft)
        if own is not None:
            resource.base = urldefrag(urljoin(uri, own)).url
        self._resources[id(value)] = resource
        root = Schema(self, value, resource, (resource,), None, ())
        self._schemas[id(value), id(resource), ()] = root
        resource.root = root
        self._kept.append(value)
        return root

    def schema(
        self, value: Any, resource: Resource, scope: tuple[Resource, ...], parent: Schema | None,
        token: tuple[str | int, ...],
    ) -> Schema:  # fmt: skip
        """The one object for a schema; enters a resource of its own if it has an id."""
        if isinstance(value, dict) and ("$id" in value or "id" in value):
            resource = self._resource(value, resource, parent, token)
        if self.dynamic and resource not in scope:
            scope = (*scope, resource)
        if isinstance(value, bool):  # one object stands for all of them, and has no place
            return Schema(self, value, resource, scope, parent, token)
        key = (id(value), id(resource), tuple(map(id, scope)) if self.dynamic else ())
        known = self._schemas.get(key)
        if known is None:
            known = self._schemas[key] = Schema(self, value, resource, scope, parent, token)
            self._kept.append(value)
        return known

    def _resource(
        self, value: dict[str, Any], outer: Resource, parent: Schema | None, token: tuple[str | int, ...]
    ) -> Resource:
        known = self._resources.get(id(value))
        if known is not None:
            return known
        own = _own_id(value, outer.draft)
        if own is None:
            return outer
        resource = Resource(urldefrag(urljoin(outer.base, own)).url, _draft(value.get("$schema"), outer.draft))
        self._resources[id(value)] = resource
        self._kept.append(value)
        resource.root = Schema(self, value, resource, (resource,), parent, token)
        return resource

    def resolve(self, schema: Schema, reference: object, keyword: str) -> Schema:
        """What a `$ref`, `$dynamicRef` or `$recursiveRef` in `schema` leads to. Raises GrammarError."""
        if not isinstance(reference, str):
            raise schema.error(f"{keyword} must be a string", keyword)
        target = self._static(schema, reference, keyword)
        if keyword == "$recursiveRef" and _flag(target, "$recursiveAnchor"):
            for resource in schema.scope:
                if _flag(resource.root, "$recursiveAnchor"):
                    target = resource.root
                    break
        elif keyword == "$dynamicRef":
            name = unquote(urldefrag(reference).fragment)
            if isinstance(target.value, dict) and target.value.get("$dynamicAnchor") == name:
                self._index()
                for resource in schema.scope:
                    if name in resource.dynamic:
                        target = resource.dynamic[name]
                        break
        # A reference is a step in the dynamic scope of whoever follows it.
        return self.schema(target.value, target.resource, schema.scope, target.parent, target.token)

    def _static(self, schema: Schema, reference: str, keyword: str) -> Schema:
        resource = schema.resource
        if reference in ("#", ""):
            return resource.root
        if not reference.startswith("#/"):
            index = self._index()
            if not reference.startswith("#"):
                uri = urldefrag(urljoin(resource.base, reference)).url
                if uri not in index:
                    opened = self._remote(uri)
                    if opened is None:
                        raise schema.error(
                            f"{keyword} {reference!r} leads out of the document", keyword,
                            "Nothing is fetched; hand other documents over as resources={uri: schema}.",
                        )  # fmt: skip
                    self._by_uri = None
                    index = self._index()
                    index.setdefault(uri, opened.resource)
                resource = index[uri]
            fragment = unquote(urldefrag(reference).fragment)
            if not fragment:
                return resource.root
            if not fragment.startswith("/"):
                if fragment in resource.anchors:
                    return resource.anchors[fragment]
                raise schema.error(f"{keyword} {reference!r}: there is no anchor of that name", keyword)
            reference = "#" + fragment
        place = resource.root
        tokens: list[str | int] = []
        value = place.value
        for token in unquote(reference[2:]).split("/"):
            key: str | int = token.replace("~1", "/").replace("~0", "~")
            if isinstance(value, list) and isinstance(key, str) and key.isdigit():
                key = int(key)
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                raise schema.error(f"{keyword} {reference!r}: there is nothing at {token!r}", keyword) from None
            tokens.append(key)
            if isinstance(value, dict) and ("$id" in value or "id" in value):
                place, tokens = self.schema(value, place.resource, place.scope, place, tuple(tokens)), []
        if tokens:
            place = self.schema(value, place.resource, place.scope, place, tuple(tokens))
        return place

    def _remote(self, uri: str) -> Schema | None:
        for each in (uri, uri + "#"):
            if each in self.resources:
                return self._open(self.resources.pop(each), uri)
        return None

    def _index(self) -> dict[str, Resource]:
        """All resources by URI, with their anchors; made when a reference needs it first."""
        if self._by_uri is None:
            self._by_uri = {}
            for opened in [r.root for r in list(self._resources.values()) if r.root.parent is None]:
                self._by_uri.setdefault(opened.resource.base, opened.resource)
                for schema in _walk(opened):
                    self._enter(schema, self._by_uri)
        return self._by_uri

    def _enter(self, schema: Schema, index: dict[str, Resource]) -> None:
        value, resource = schema.value, schema.resource
        index.setdefault(resource.base, resource)
        if resource.draft <= 7:
            own = value.get("id" if resource.draft == 4 else "$id")
            if isinstance(own, str) and own.startswith("#"):
                resource.anchors.setdefault(own[1:], schema)
        for keyword in ("$anchor", "$dynamicAnchor"):
            name = value.get(keyword)
            if isinstance(name, str):
                resource.anchors.setdefault(name, schema)
                if keyword == "$dynamicAnchor":
                    resource.dynamic.setdefault(name, schema)


def _walk(schema: Schema) -> Iterator[Schema]:
    """The schema and all below it, where a keyword says that there are schemas; not in enum or const."""
    todo = [schema]
    while todo:
        schema = todo.pop()
        value = schema.value
        if not isinstance(value, dict):
            continue
        yield schema
        for keyword in _ONE:
            if isinstance(value.get(keyword), dict):
                todo.append(schema.child(keyword))
        for keyword in _LISTS:
            if isinstance(value.get(keyword), list):
                todo.extend(schema.child(keyword, index) for index in range(len(value[keyword])))
        for keyword in _MAPS:
            if isinstance(value.get(keyword), dict):
                todo.extend(schema.child(keyword, name) for name in value[keyword])


def _read(schema: object) -> tuple[str, Any]:
    try:
        if isinstance(schema, str):
            return schema, json.loads(schema, parse_float=_decimal, parse_constant=_no_constant)
        return json.dumps(schema, allow_nan=False, default=_plain_number), schema
    except RecursionError:
        raise GrammarError(
            "#", "the schema is nested too deeply to be read", "Give the inner parts names in $defs and refer to them."
        ) from None
    except (ValueError, TypeError) as error:
        raise GrammarError("#", f"the schema is not JSON: {error}") from error


def _decimal(text: str) -> Decimal:
    number = Decimal(text)
    if abs(number.adjusted()) > 2000:
        raise ValueError(f"{text} is out of bounds")
    return number


def _plain_number(value: object) -> float:
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"{type(value).__name__} is no JSON value")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _draft(uri: object, default: int) -> int:
    if not isinstance(uri, str):
        return default
    name = uri.split("://", 1)[-1].rstrip("#")
    if name.startswith("json-schema.org/draft-03"):
        raise GrammarError("#/$schema", "draft 3 is not supported", "Drafts 4, 6, 7, 2019-09 and 2020-12 are.")
    return DRAFTS.get(name, default)


def _own_id(value: Any, draft: int) -> str | None:
    """The id by which a schema becomes a resource; a lone fragment is an anchor only."""
    if not isinstance(value, dict) or (draft <= 7 and "$ref" in value):
        return None
    own = value.get("id" if draft == 4 else "$id")
    return own if isinstance(own, str) and not own.startswith("#") else None


def _flag(schema: Schema, keyword: str) -> bool:
    return isinstance(schema.value, dict) and schema.value.get(keyword) is True
