"""One battery over every method that the registry knows: a new method gets all of this for free."""

from __future__ import annotations

import re
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.methods.decode.test_token_recycling import always_draft
from tokloom import Document, Engine, Sampling, registry
from tokloom.decode.prediction import gives
from tokloom.errors import CompositionError, SpecError
from tokloom.models.language_model import LanguageModel
from tokloom.prepared import Prepared
from tokloom.spec import parse_spec

NAMES = registry.names()
POLICIES = [name for name in NAMES if registry.card(name).kind == "AttentionPolicy"]
DRAFTERS = [name for name in NAMES if registry.card(name).kind == "Drafter"]
SELECTORS = [name for name in NAMES if registry.card(name).kind == "ContextSelector"]

TEXT = "The baker lives in house 7. It is a quiet street, and the miller sings. one two three four five six seven " * 12
PROMPT = "one two three four five six seven one two three four five six seven one two three"


def example(name: str) -> dict[str, Any]:
    options: dict[str, Any] = registry.get(name).example  # type: ignore[attr-defined]
    return options


@pytest.mark.parametrize("name", NAMES)
def test_the_card_is_complete(name: str) -> None:
    card = registry.card(name)
    assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
    assert card.path.split("/")[-2] == card.stage
    assert card.summary.endswith("."), "the docstring begins with one sentence"
    assert "Paper" in card.sections
    assert card.arxiv is not None or card.sections["Paper"] == "none (baseline)"
    assert "Effect" in card.sections
    assert "Formula" in card.sections or card.arxiv is None
    assert all(option.doc for option in card.options), "every option is documented under its field"


@pytest.mark.parametrize("name", NAMES)
def test_options_round_trip(name: str) -> None:
    cls = registry.get(name)
    built = cls(**example(name))
    again_name, options = parse_spec(registry.spec_of(built))
    assert again_name == name
    assert cls(**options) == built
    assert [f.name for f in fields(cls)] == [o.name for o in registry.card(name).options]
    assert set(example(name)) <= {f.name for f in fields(cls)}
    assert "example" not in {f.name for f in fields(cls)}


@pytest.mark.parametrize("name", NAMES)
def test_bad_options_are_refused_by_name(name: str) -> None:
    cls = registry.get(name)
    with pytest.raises(SpecError, match=f"{name}:no_such_option"):
        cls(**example(name), no_such_option=1)
    for option in registry.card(name).options:
        if option.type in ("int", "float"):
            with pytest.raises(SpecError, match=f"{name}:{option.name}='wrong'"):
                cls(**{**example(name), option.name: "wrong"})


@pytest.mark.parametrize("name", NAMES)
def test_options_are_immutable(name: str) -> None:
    built = registry.get(name)(**example(name))
    for field in fields(built):
        with pytest.raises(AttributeError):
            setattr(built, field.name, None)


def prepared(name: str, model: LanguageModel):  # type: ignore[no-untyped-def]
    """A method, with what it needs made of `TEXT` in the working directory."""
    built = registry.get(name)(**example(name))
    if isinstance(built, Prepared):
        built.prepare(model, [TEXT])
    return built


def policy(name: str):  # type: ignore[no-untyped-def]
    return registry.get(name)(**example(name))


# The model with sliding windows meets every policy and every drafter too, but not all pairs of them.
PAIRS = [("tiny_llama", policy, drafter) for policy, drafter in product(POLICIES, [None, *DRAFTERS])]
PAIRS += [("tiny_gemma3", policy, "token_recycling") for policy in POLICIES]
PAIRS += [("tiny_gemma3", "dense", drafter) for drafter in DRAFTERS if drafter != "token_recycling"]


@pytest.mark.parametrize(("family", "attention", "drafter"), PAIRS)
def test_every_policy_composes_with_every_drafter(
    attention: str,
    drafter: str | None,
    family: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """With a constraint and seeded sampling too: the drafter changes no token, a second run repeats the first."""
    model: LanguageModel = request.getfixturevalue(family)
    monkeypatch.chdir(tmp_path)
    built = prepared(drafter, model) if drafter is not None else None
    if built is not None and not set(built.needs) <= gives(policy(attention)):
        with pytest.raises(CompositionError, match=drafter):
            Engine(model, attention=policy(attention), drafter=built)
        return
    for sampling, constraint in (
        (Sampling(max_new_tokens=24), None),
        (Sampling(max_new_tokens=24, temperature=1.2, top_p=0.9, seed=5), None),
        (Sampling(max_new_tokens=24), 'choices:options=["three three seven","four"]'),
        (Sampling(max_new_tokens=24, temperature=1.2, seed=6), 'regex:pattern="(one |two three ){2,6}[a-z]*!"'),
    ):
        plain = Engine(model, attention=policy(attention)).generate(PROMPT, sampling=sampling, constraint=constraint)
        engine = Engine(model, attention=policy(attention), drafter=built)
        if drafter is not None:
            always_draft(engine)
        for _ in range(2):
            result = engine.generate(PROMPT, sampling=sampling, constraint=constraint)
            assert result.tokens == plain.tokens


@pytest.mark.parametrize("attention", POLICIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtype_is_honoured(attention: str, dtype: torch.dtype, tiny_llama: LanguageModel) -> None:
    import copy

    model = copy.copy(tiny_llama)
    object.__setattr__(model, "model", copy.deepcopy(tiny_llama.model).to(dtype))
    object.__setattr__(model, "dtype", dtype)
    result = Engine(model, attention=policy(attention)).generate(PROMPT, sampling=Sampling(max_new_tokens=8))
    assert len(result.tokens) == 8 or result.stop_reason == "end"


BOOK = Document("town.txt", "\n\n".join(f"The {who} lives in house {i}. It is a quiet street." for i, who in enumerate(
    ["baker", "miller", "tailor", "doctor", "sailor", "farmer", "singer", "painter", "lawyer",
     "carpenter"])))  # fmt: skip


@pytest.mark.model
@pytest.mark.parametrize("selector", SELECTORS)
@pytest.mark.parametrize("budget", [120, 200])
def test_every_selector_keeps_the_budget(selector: str, budget: int, smollm2: LanguageModel) -> None:
    engine = Engine(smollm2, context=f"{selector}:budget={budget}")
    result = engine.generate("Where does the sailor live?", documents=[BOOK], sampling=Sampling(max_new_tokens=4))
    assert result.prompt_tokens <= budget
    assert result.citations
    for span in result.citations:
        assert BOOK.text[span.start : span.end] == span.text
    again = engine.generate("Where does the sailor live?", documents=[BOOK], sampling=Sampling(max_new_tokens=4))
    assert again.selection == result.selection


def test_no_stage_knows_a_concrete_method() -> None:
    """The engine asks for interfaces only: no module outside a method's own file names its class."""
    from pathlib import Path

    root = Path(registry.__file__).parent
    allowed = {("cost_curve.py", "Dense")}  # times the model itself
    for name in NAMES:
        cls = registry.get(name).__name__
        for path in root.rglob("*.py"):
            if path == Path(registry.card(name).path) or (path.name, cls) in allowed:
                continue
            found = re.search(rf"isinstance\([^)]*\b{cls}\b", path.read_text(encoding="utf-8"))
            assert found is None, f"{path} asks for {cls}"
