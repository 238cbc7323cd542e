"""The registry: specs, options, cards read without imports, and methods from other packages."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from tokloom import registry
from tokloom.attention.selection.selecting import Selecting
from tokloom.card import read_card
from tokloom.decode.prediction import Predictor
from tokloom.errors import ArgumentError, SpecError, UnknownNameError
from tokloom.registry import build, card, make, method, names, spec_of
from tokloom.spec import format_spec, parse_spec, split_specs

SOURCE = Path(registry.__file__).parent.parent


SAMPLES = Path(__file__).parent / "registry_samples"


def load_sample(name: str) -> Any:
    """Imports a method file of the tests, as an installed package's would be."""
    spec = importlib.util.spec_from_file_location(name, SAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


Gadget: Any = load_sample("sample_gadget").Gadget
Sample: Any = sys.modules["sample_gadget"].Sample


class OtherKind:
    """An interface that the samples don't implement."""


@pytest.fixture(autouse=True)
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists the sample beside the bundled methods."""
    found = read_card(SAMPLES / "sample_gadget.py", "sample_gadget")
    assert found is not None
    everything = {**registry.cards(), found.name: found}
    monkeypatch.setattr(registry, "cards", lambda: everything)


# --- specs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("dense", ("dense", {})),
        ("dense:", ("dense", {})),
        (" h2o : budget = 64 , recent=0.5 ", ("h2o", {"budget": "64", "recent": "0.5"})),
        ('a:words=["x, y", "z=1"],n=2', ("a", {"words": ["x, y", "z=1"], "n": "2"})),
        ('a:o={"k": [1, 2]}', ("a", {"o": {"k": [1, 2]}})),
        ('a:t="1,2=[3"', ("a", {"t": "1,2=[3"})),
        (r'a:t="say \"no\", now",n=1', ("a", {"t": 'say "no", now', "n": "1"})),
        ("a:t=x=y", ("a", {"t": "x=y"})),
        ("a:t=", ("a", {"t": ""})),
        ("a:t=null", ("a", {"t": None})),
    ],
)
def test_parse_spec(spec: str, expected: tuple[str, dict[str, Any]]) -> None:
    assert parse_spec(spec) == expected


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("", 'a text like "name"'),
        (":budget=1", 'a text like "name"'),
        ("a:budget", "not 'budget'"),
        ("a:budget=1,", "not ''"),
        ("a:=1", "not '=1'"),
        ("a:b=1,b=2", "'b' is given twice"),
        ('a:b=["x"', "brackets and quotes that close"),
        ("a:b=x],c=1", "brackets and quotes that close"),
        ('a:b="x', "brackets and quotes that close"),
        ("a:b=[x]", "JSON"),
    ],
)
def test_unreadable_specs_are_refused_with_what_is_valid(spec: str, complaint: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(spec)
    assert complaint in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(
    budget=st.integers(2, 10**12),
    share=st.floats(allow_nan=False),
    title=st.text(),
    limit=st.none() | st.integers(),
    exact=st.booleans(),
    widths=st.lists(st.integers(), max_size=4).map(tuple),
)
def test_spec_of_builds_the_same_component_again(**options: Any) -> None:
    component = Sample(**options)
    again = build(spec_of(component), Gadget, "gadget")
    assert again == component
    assert spec_of(again) == spec_of(component)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.from_regex(r"[a-z_]{1,8}", fullmatch=True),
        st.none() | st.text() | st.lists(st.integers() | st.text() | st.none(), max_size=3),
        max_size=4,
    )
)
def test_format_spec_and_parse_spec_are_inverse(options: dict[str, Any]) -> None:
    assert parse_spec(format_spec("name", options)) == ("name", options)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='ab:=,[]{}()"\\ 1', max_size=24))
def test_any_text_is_a_spec_or_a_spec_error(text: str) -> None:
    try:
        name, options = parse_spec(text)
    except SpecError as error:
        complaint = str(error)
    else:
        assert name.strip() == name != ""
        assert parse_spec(format_spec(name, options)) == (name, options)
        return
    assert "is not valid: expected" in complaint


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", ["a"]),
        ("a, b ,c", ["a", "b", "c"]),
        ("a:x=1,y=2,b,c:z=3", ["a:x=1,y=2", "b", "c:z=3"]),
        ('a:x=[1,2],y="b,c",d', ['a:x=[1,2],y="b,c"', "d"]),
        ("a:x=1:2,b:y=3", ["a:x=1:2", "b:y=3"]),
    ],
)
def test_split_specs(text: str, expected: list[str]) -> None:
    assert split_specs(text) == expected


@pytest.mark.parametrize("text", ["", "a,,b", "a,", "a:x=[1"])
def test_split_specs_refuses_empty_and_unclosed(text: str) -> None:
    with pytest.raises(SpecError, match="specs="):
        split_specs(text)


@given(st.lists(st.integers(0, 99), min_size=1, max_size=4), st.text(max_size=8))
def test_split_specs_takes_apart_what_was_joined(budgets: list[int], title: str) -> None:
    specs = [format_spec("m", {"budget": str(budget), "title": title}) for budget in budgets]
    assert split_specs(",".join(specs)) == specs


def test_defaults_are_left_out_of_the_spec() -> None:
    assert spec_of(Sample()) == "sample_gadget"
    assert spec_of(Sample(budget=64, exact=True)) == "sample_gadget:budget=64,exact=true"


# --- building --------------------------------------------------------------------------------------------------------


def test_build_coerces_texts_to_the_types_of_the_options() -> None:
    built = build('sample_gadget:budget=64,share=1,exact=yes,limit=null,widths=[3],title="a,b"', Gadget, "gadget")
    assert built == Sample(budget=64, share=1.0, exact=True, limit=None, widths=(3,), title="a,b")


def test_build_returns_an_instance_as_it_is() -> None:
    component = Sample()
    assert build(component, Gadget, "gadget") is component


def test_build_refuses_what_is_neither_spec_nor_component() -> None:
    with pytest.raises(ArgumentError, match="gadget=7 is not valid: expected a Gadget or a spec"):
        build(7, Gadget, "gadget")


def test_unknown_method_suggests_the_nearest_of_its_kind() -> None:
    with pytest.raises(UnknownNameError, match=r"no Gadget named 'sample_gadgt'\. Did you mean 'sample_gadget'\?"):
        build("sample_gadgt", Gadget, "gadget")


def test_method_of_another_kind_is_refused_with_those_of_the_right_kind() -> None:
    with pytest.raises(SpecError, match="other='sample_gadget' is not valid: expected a OtherKind"):
        build("sample_gadget", OtherKind, "other")


def test_unknown_option_is_refused_with_the_valid_ones_and_the_nearest() -> None:
    with pytest.raises(SpecError) as caught:
        build("sample_gadget:bugdet=64", Gadget, "gadget")
    message = str(caught.value)
    assert "sample_gadget:bugdet='64' is not valid" in message
    assert "budget (int)" in message
    assert "share (float)" in message
    assert "Did you mean 'budget'?" in message


@pytest.mark.parametrize(
    ("option", "value"),
    [("budget", "many"), ("budget", "1"), ("budget", "2.5"), ("share", "x"), ("exact", "maybe"), ("widths", "[1.5]")],
)
def test_ill_typed_option_is_refused_with_type_value_and_next_step(option: str, value: str) -> None:
    with pytest.raises(SpecError) as caught:
        build(f"sample_gadget:{option}={value}", Gadget, "gadget")
    message = str(caught.value)
    assert f"sample_gadget:{option}=" in message
    assert "See: tokloom methods sample_gadget." in message
    kind = {"budget": "int", "share": "float", "exact": "bool", "widths": "tuple"}[option]
    assert kind in message


def test_an_option_that_is_missing_is_named() -> None:
    with pytest.raises(SpecError, match=r"^knn_lm:datastore=None is not valid: expected str \(Field required\)"):
        build("knn_lm", Predictor, "predictor")


def test_a_base_class_of_some_methods_has_their_names() -> None:
    with pytest.raises(SpecError, match=r"a Selecting \(.*fasa, .*quest.*\); h2o is a AttentionPolicy"):
        build("h2o", Selecting, "select:scorer")
    with pytest.raises(UnknownNameError, match=r"no Selecting named 'fassa'. Did you mean 'fasa'"):
        build("fassa", Selecting, "select:scorer")


def test_method_without_options_says_so() -> None:
    bare = load_sample("bare_gadget").Bare
    with pytest.raises(SpecError, match="expected an option of bare_gadget: it has none"):
        bare(budget=1)


def test_options_are_immutable_and_comparable() -> None:
    component = Sample()
    with pytest.raises(AttributeError):
        component.budget = 3
    assert Sample(budget=9) == Sample(budget=9) != Sample(budget=8)


def test_a_stage_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ArgumentError, match="stage='decoding' is not valid: expected one of tokenize, context"):
        method(stage="decoding")
    with pytest.raises(UnknownNameError, match="Did you mean 'decode'"):
        names("decod")


def test_make_takes_options_of_any_type() -> None:
    assert make("sample_gadget", {"widths": [4, 5]}, Gadget, "gadget") == Sample(widths=(4, 5))


# --- cards -----------------------------------------------------------------------------------------------------------

CARD = '''
"""Keeps what matters.

Paper: P76. A Title: With a Colon. arXiv:2306.14048
Formula: score(j) = sum_i a_ij
    and a second line.
Effect: Fewer bytes
    are held.
Differs: nothing.
"""
from tokloom.attention import policy as y

@method(stage="attention")
class Keeper(y.AttentionPolicy):
    needs: ClassVar[tuple[str, ...]] = ("keys",)
    budget: int = Field(512, ge=2)
    """Slots kept
    per head."""
    names: list[str] = Field(default_factory=list)
    must: str
    pair: tuple[int, int] = (1, 2)
    def run(self) -> None: ...
'''


IMPORTS = "from tokloom.decode.drafter import Drafter\nfrom tokloom.attention.eviction import Evicting\n"


def test_card_is_read_from_the_source(tmp_path: Path) -> None:
    path = tmp_path / "keeper.py"
    path.write_text(CARD)
    found = read_card(path, "pkg.keeper")
    assert found is not None
    assert (found.name, found.stage, found.kind) == ("keeper", "attention", "AttentionPolicy")
    assert (found.paper, found.arxiv, found.title) == (76, "2306.14048", "A Title: With a Colon")
    assert found.summary == "Keeps what matters."
    assert found.effect == "Fewer bytes are held."
    assert list(found.sections) == ["Paper", "Formula", "Effect", "Differs"]
    assert [(o.name, o.type, o.default, o.doc) for o in found.options] == [
        ("budget", "int", "512", "Slots kept per head."),
        ("names", "list[str]", "list()", ""),
        ("must", "str", None, ""),
        ("pair", "tuple[int, int]", "(1, 2)", ""),
    ]
    assert json.loads(json.dumps(found.as_json()))["paper"] == "P76"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("none (baseline)", (None, None, "none (baseline)")),
        ("Outside. arXiv:2401.00001", (None, "2401.00001", "Outside")),
        ("P3. Long title\n    on two lines. arXiv:2401.00001", (3, "2401.00001", "Long title on two lines")),
    ],
)
def test_papers_of_baselines_and_outside_the_catalogue(
    tmp_path: Path, line: str, expected: tuple[int | None, str | None, str]
) -> None:
    path = tmp_path / "m.py"
    path.write_text(f'"""S.\n\nPaper: {line}\n"""\n{IMPORTS}@method(stage="decode")\nclass M(Drafter): ...\n')
    found = read_card(path, "m")
    assert found is not None
    assert (found.paper, found.arxiv, found.title) == expected


def test_files_without_a_method_have_no_card(tmp_path: Path) -> None:
    path = tmp_path / "helper.py"
    path.write_text("class Helper:\n    @classmethod\n    def method(cls): ...\n")
    assert read_card(path, "helper") is None


def test_card_agrees_with_the_class() -> None:
    """What `ast` reads from a bundled source is what the imported class says."""
    from dataclasses import fields

    for name in names("attention"):
        cls = registry.get(name)
        shown = card(name)
        assert [o.name for o in shown.options] == [f.name for f in fields(cls)]
        assert shown.kind in [base.__name__ for base in cls.__mro__]


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        (IMPORTS + "@method(stage='attention')\nclass M(Evicting): ...\n", "AttentionPolicy"),
        (IMPORTS + "class Part(Evicting): ...\n@method(stage='attention')\nclass M(Part): ...\n", "AttentionPolicy"),
        (IMPORTS + "@method(stage='decode')\nclass M(Drafter, Unknown): ...\n", "Drafter"),
        ("import tokloom.decode.drafter as d\n@method(stage='decode')\nclass M(d.Drafter): ...\n", "Drafter"),
        ("from .other import Part\n@method(stage='attention')\nclass M(Part): ...\n", "AttentionPolicy"),
        ("from pkg.other import Part\n@method(stage='attention')\nclass M(Part): ...\n", "AttentionPolicy"),
    ],
)
def test_a_kind_is_found_through_the_bases(tmp_path: Path, source: str, kind: str) -> None:
    (tmp_path / "other.py").write_text(IMPORTS + "class Part(Evicting): ...\n")
    path = tmp_path / "m.py"
    path.write_text(source)
    found = read_card(path, "pkg.m")
    assert found is not None
    assert found.kind == kind


@pytest.mark.parametrize("base", ["", "(Unknown)", "(Part)"])
def test_a_method_without_an_interface_is_refused_with_its_file(tmp_path: Path, base: str) -> None:
    path = tmp_path / "m.py"
    path.write_text(f"class Part: ...\n@method(stage='decode')\nclass M{base}: ...\n")
    with pytest.raises(SpecError, match=r"m\.py=.*is not valid: expected a class whose bases lead to an interface"):
        read_card(path, "pkg.m")


def test_kinds_are_those_of_the_classes() -> None:
    for name in names():
        if name != "sample_gadget":
            bases = [base for base in registry.get(name).__mro__[1:] if "stage" in vars(base)]
            assert card(name).kind in [base.__name__ for base in bases], name


def test_unknown_card_suggests() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'sample_gadget'"):
        card("sample_gagdet")


# --- in a fresh process ----------------------------------------------------------------------------------------------


def python(code: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (SOURCE, *paths)))}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, timeout=60
    )


def package(root: Path, name: str, source: str, value: str | None = None) -> None:
    """An installed package with one module `name` and an entry point to it."""
    (root / f"{name}.py").write_text(source)
    info = root / f"{name}_dist-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[tokloom.methods]\n{name} = {value or name}\n")


OUTSIDE = '''
"""Drops everything.

Paper: An Outside Paper. arXiv:2501.00001
Formula: keep = {}
Shapes: none.
Effect: Nothing is left.
"""
import sys
from tokloom.attention.policy import AttentionPolicy
from tokloom.registry import method

sys.outside_was_imported = True

@method(stage="attention")
class DropAll(AttentionPolicy):
    budget: int = 3
    """Slots."""
'''


def test_cards_are_read_without_importing_torch_or_any_method(tmp_path: Path) -> None:
    package(tmp_path, "drop_all", OUTSIDE)
    done = python(
        """
        import sys
        from tokloom import registry
        assert {"dense", "h2o"} <= set(registry.names("attention"))
        assert "drop_all" in registry.names("attention")
        heavy = {"torch", "transformers", "numpy", "drop_all"} & set(sys.modules)
        bundled = [c.module for c in registry.cards().values() if c.module in sys.modules]
        assert not heavy and not bundled, (heavy, bundled)
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr


def test_a_method_of_another_package_is_listed_and_built_like_a_bundled_one(tmp_path: Path) -> None:
    package(tmp_path, "drop_all", OUTSIDE)
    done = python(
        """
        from tokloom import registry
        from tokloom.attention.policy import AttentionPolicy
        card = registry.card("drop_all")
        assert (card.stage, card.arxiv, card.paper) == ("attention", "2501.00001", None)
        policy = registry.build("drop_all:budget=9", AttentionPolicy, "attention")
        print(registry.spec_of(policy))
        try:
            registry.build("drop_all:bugdet=9", AttentionPolicy, "attention")
        except registry.SpecError as error:
            print(error)
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    spec, refusal = done.stdout.splitlines()
    assert spec == "drop_all:budget=9"
    assert "Did you mean 'budget'?" in refusal


@pytest.mark.parametrize(
    ("name", "source", "value", "complaint"),
    [
        ("dense", OUTSIDE, None, "a name that tokloom.methods.attention.dense has not taken"),
        ("drop_all", OUTSIDE, "no_such_package.module", "a module that can be imported"),
        ("drop_all", "x = 1\n", None, "a module with a class under @method(stage=...)"),
    ],
)
def test_broken_packages_are_named(tmp_path: Path, name: str, source: str, value: str | None, complaint: str) -> None:
    package(tmp_path, name, source, value)
    done = python(
        """
        from tokloom import registry
        try:
            registry.cards()
        except registry.SpecError as error:
            print(error)
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert complaint in done.stdout
